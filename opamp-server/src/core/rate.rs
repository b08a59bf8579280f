//! How often something may happen: token buckets whose whole state is one number.
//!
//! The number is when the bucket would be full again (the generic cell rate algorithm). So a bucket
//! is shared without a lock, needs no timer to be filled, and one that was not used for a while is
//! equal to a new one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SECOND: u64 = 1_000_000_000;

/// How often something may happen, on the long run and at once.
///
/// ```
/// use opamp_server::Rate;
///
/// let rate = Rate::per_second(100).with_burst(500);
/// assert_eq!((rate.events(), rate.burst()), (100, 500));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { per_second: 0, burst: 0 };

    /// So many each second, and twice as many at once. 0 is no limit.
    #[must_use]
    pub const fn per_second(events: u32) -> Self {
        Self { per_second: events, burst: events.saturating_mul(2) }
    }

    /// As many at once, after a time without any; at least one. `Retry-After` counts whole seconds,
    /// so below the events of a second some that come when they were asked to are sent away again.
    #[must_use]
    pub const fn with_burst(self, events: u32) -> Self {
        Self { burst: events, ..self }
    }

    /// Events each second on the long run; 0 if there is no limit.
    #[must_use]
    pub const fn events(self) -> u32 {
        self.per_second
    }

    /// Events at once.
    #[must_use]
    pub const fn burst(self) -> u32 {
        self.burst
    }

    /// Nanoseconds for one event; `None` if there is no limit.
    pub(crate) fn interval(self) -> Option<u64> {
        SECOND.checked_div(u64::from(self.per_second))
    }

    /// When a bucket is full again from which one is taken at `now`, in nanoseconds after any
    /// origin; else how long it takes until one can be.
    pub(crate) fn take(self, full: u64, now: u64) -> Result<u64, Duration> {
        let Some(interval) = self.interval() else { return Ok(full) };
        let ahead = interval.saturating_mul(u64::from(self.burst.max(1)));
        let after = full.max(now).saturating_add(interval);
        match after.saturating_sub(now).saturating_sub(ahead) {
            0 => Ok(after),
            wait => Err(Duration::from_nanos(wait)),
        }
    }
}

/// Nanoseconds since the first moment it was asked about.
#[derive(Debug, Default)]
pub(crate) struct Since(OnceLock<Instant>);

impl Since {
    pub(crate) fn nanos(&self, now: Instant) -> u64 {
        let origin = self.0.get_or_init(|| now);
        u64::try_from(now.saturating_duration_since(*origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Fractions of one that fill the interval evenly, however many are taken: multiples of the golden
/// ratio. Where many are to be told different times, this is better than chance, which has
/// clusters.
#[derive(Debug, Default)]
pub(crate) struct Spread(AtomicU64);

impl Spread {
    /// An even part of a span of time.
    pub(crate) fn part_of(&self, span: Duration) -> Duration {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let fraction = self.0.fetch_add(GOLDEN, Ordering::Relaxed);
        let span = u128::from(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        // Less than the span, which is a u64.
        Duration::from_nanos(((span * u128::from(fraction)) >> 64) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let rate = Rate::per_second(10).with_burst(3);
        let mut full = 0;
        for _ in 0..3 {
            full = rate.take(full, 5 * SECOND).unwrap();
        }
        assert_eq!(rate.take(full, 5 * SECOND), Err(Duration::from_millis(100)));
        assert!(rate.take(full, 5 * SECOND + SECOND / 10).is_ok());
    }

    #[test]
    fn no_limit_is_none() {
        let mut full = 0;
        for _ in 0..1000 {
            full = Rate::UNLIMITED.take(full, 0).unwrap();
        }
        assert_eq!(full, 0);
    }

    #[test]
    fn what_is_spread_is_spread_evenly() {
        let spread = Spread::default();
        let second = Duration::from_secs(1);
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            tenths[(spread.part_of(second).as_millis() / 100) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (98..=102).contains(count)), "{tenths:?}");
    }

    proptest! {
        /// As a bucket that is kept in tokens does it.
        #[test]
        fn a_number_is_a_bucket(
            per_second in 1..50_u32,
            burst in 1..20_u32,
            pauses in prop::collection::vec(0..400_u64, 1..100),
        ) {
            let rate = Rate::per_second(per_second).with_burst(burst);
            let interval = rate.interval().unwrap();
            let (mut full, mut now) = (0, SECOND);
            let capacity = interval * u64::from(burst);
            let (mut level, mut looked) = (capacity, now);
            for pause in pauses {
                now += pause * 1_000_000;
                level = (level + (now - looked)).min(capacity);
                looked = now;
                let taken = rate.take(full, now);
                prop_assert_eq!(taken.is_ok(), level >= interval);
                match taken {
                    Ok(after) => {
                        full = after;
                        level -= interval;
                    }
                    Err(wait) => {
                        prop_assert_eq!(wait, Duration::from_nanos(interval - level));
                        let then = now + (interval - level);
                        prop_assert!(rate.take(full, then).is_ok());
                    }
                }
            }
        }
    }
}
