//! How long to wait before the next attempt: exponential, jittered, seeded, bounded.

use std::time::Duration;

/// How the time between attempts grows (EST-04, EST-07, THR-05).
///
/// The n-th delay is drawn evenly from `[(1 − jitter) · d, d]` with
/// `d = min(initial · 2ⁿ, max)`, so that agents that lost the same server come back spread out. No
/// delay is shorter than a millisecond.
#[derive(Debug, Clone, PartialEq)]
pub struct BackoffConfig {
    /// Longest first delay. Default: 1 s.
    pub initial: Duration,
    /// Longest delay of all. Default: 60 s.
    pub max: Duration,
    /// Share of each delay that is random, from 0 to 1. Default: 0.5.
    pub jitter: f64,
    /// Least delay after the server said that it is overloaded without saying for how long
    /// (THR-12). It doubles with each such answer in a row, up to eight times this (THR-05), and up
    /// to half of it is added at random. Default: 30 s.
    pub throttled: Duration,
    /// Longest wait that a server can impose with `Retry-After` or `retry_info`; a longer one is
    /// cut, so that no server can send an agent away for good. Default: 24 h.
    pub max_retry_after: Duration,
}

/// Least delay of all, so that an attempt never follows another at once.
const SHORTEST: Duration = Duration::from_millis(1);

impl Default for BackoffConfig {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(60),
            jitter: 0.5,
            throttled: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(24 * 60 * 60),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Backoff {
    config: BackoffConfig,
    attempt: u32,
    /// How often in a row the server was overloaded without saying for how long.
    overloaded: u32,
    random: SplitMix64,
}

impl Backoff {
    pub(super) fn new(config: BackoffConfig, seed: u64) -> Self {
        Self { config, attempt: 0, overloaded: 0, random: SplitMix64(seed) }
    }

    /// Forgets the failures so far: the peer has proved to be well.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
        self.overloaded = 0;
    }

    /// The delay before the next attempt; each call counts as one more failure.
    pub(super) fn next_delay(&mut self) -> Duration {
        let attempt = self.attempt;
        self.attempt = self.attempt.saturating_add(1);
        self.delay_of(attempt)
    }

    /// The delay after this many failures that were counted elsewhere.
    pub(super) fn delay_of(&mut self, attempt: u32) -> Duration {
        let grown = self.config.initial.saturating_mul(1 << attempt.min(31));
        let longest = grown.min(self.config.max);
        let random_share = self.config.jitter.clamp(0.0, 1.0) * self.random.unit();
        // Only a jitter that is no number, or a delay of ages, makes no duration.
        Duration::try_from_secs_f64(longest.as_secs_f64() * (1.0 - random_share))
            .unwrap_or(longest)
            .max(SHORTEST)
    }

    /// The delay after the server said it is overloaded: at least what it asked for, up to a tenth
    /// more so that not everyone returns at once (THR-04, THR-05, THR-09, A11). Less than a second
    /// is more likely a wrong unit than a wish: then the backoff holds, if it is longer.
    pub(super) fn throttled_delay(&mut self, asked: Option<Duration>) -> Duration {
        let backoff = self.next_delay();
        match asked.filter(|asked| !asked.is_zero()) {
            Some(asked) => {
                let asked = asked.min(self.config.max_retry_after);
                let delay = asked.saturating_add(asked.mul_f64(0.1 * self.random.unit()));
                if asked < SHORTEST_WISH { delay.max(backoff) } else { delay }
            }
            None => {
                let doublings = self.overloaded.min(MAX_THROTTLED_DOUBLINGS);
                self.overloaded = self.overloaded.saturating_add(1);
                let least = self.config.throttled.saturating_mul(1 << doublings);
                least.saturating_add(least.mul_f64(0.5 * self.random.unit())).max(backoff)
            }
        }
    }
}

/// How often the delay after an overload doubles.
const MAX_THROTTLED_DOUBLINGS: u32 = 3;

/// The shortest pause that a server is taken to mean.
const SHORTEST_WISH: Duration = Duration::from_secs(1);

/// Sebastiano Vigna's SplitMix64. Jitter needs spread, not secrecy, and the core must stay
/// reproducible from its seed.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// A number in `[0, 1)`.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The 53 high bits fill a double's mantissa exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let unit = (z >> 11) as f64 / (1_u64 << 53) as f64;
        unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_with_jitter() {
        let _judged = opamp_spec::judges(&["EST-04", "EST-07"]);
        let config = BackoffConfig::default();
        let mut backoff = Backoff::new(config.clone(), 7);
        let mut longest = config.initial;
        for _ in 0..40 {
            let delay = backoff.next_delay();
            assert!(delay <= longest && delay >= longest.mul_f64(0.5), "{delay:?} of {longest:?}");
            longest = (longest * 2).min(config.max);
        }
        backoff.reset();
        assert!(backoff.next_delay() <= config.initial);
    }

    /// W-4 of the reference: a policy that had nothing more to say made a million attempts a
    /// second.
    #[test]
    fn no_configuration_makes_attempts_without_a_pause() {
        for jitter in [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
                let config = BackoffConfig {
                    initial: time,
                    max: time,
                    jitter,
                    throttled: time,
                    max_retry_after: time,
                };
                let mut backoff = Backoff::new(config, 3);
                for _ in 0..100 {
                    assert!(backoff.next_delay() >= SHORTEST);
                    assert!(backoff.throttled_delay(None) >= SHORTEST);
                    assert!(backoff.throttled_delay(Some(time)) >= SHORTEST);
                }
            }
        }
    }

    #[test]
    fn two_seeds_spread_and_one_seed_repeats() {
        let delays = |seed| {
            let mut backoff = Backoff::new(BackoffConfig::default(), seed);
            (0..8).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn a_stated_wait_is_kept_and_bounded() {
        let _judged = opamp_spec::judges(&["THR-04", "THR-05", "THR-09", "THR-12"]);
        let mut backoff = Backoff::new(BackoffConfig::default(), 3);
        let five = Duration::from_secs(5);
        let delay = backoff.throttled_delay(Some(five));
        assert!(delay >= five && delay <= five.mul_f64(1.1), "{delay:?}");
        let day = Duration::from_secs(86_400);
        assert!(backoff.throttled_delay(Some(Duration::MAX)) <= day.mul_f64(1.1));
        let thirty = Duration::from_secs(30);
        assert!(backoff.throttled_delay(None) >= thirty);
        assert!(backoff.throttled_delay(Some(Duration::ZERO)) >= thirty, "0 counts as absent");
        let nanosecond = Duration::from_nanos(1);
        assert!(backoff.throttled_delay(Some(nanosecond)) >= Duration::from_secs(4), "no hot loop");
        for wish in [five, Duration::from_secs(1)] {
            assert!(backoff.throttled_delay(Some(wish)) <= wish.mul_f64(1.1), "a real wish wins");
        }
    }

    #[test]
    fn pauses_for_an_overload_without_a_stated_time_grow() {
        let _judged = opamp_spec::judges(&["THR-05", "THR-12"]);
        let mut backoff = Backoff::new(BackoffConfig::default(), 5);
        for least in [30, 60, 120, 240, 240, 240].map(Duration::from_secs) {
            let delay = backoff.throttled_delay(None);
            assert!(delay >= least && delay <= least.mul_f64(1.5), "{delay:?} of {least:?}");
        }
        backoff.reset();
        assert!(backoff.throttled_delay(None) <= Duration::from_secs(45));
    }
}
