//! Full reports asked for by flag are rationed: a burst, then one per interval. Some servers set
//! the flag in every reply, and each full report causes a reply.

use std::time::{Duration, Instant};

/// Full reports that may be sent at once.
const BURST: u32 = 3;

#[derive(Debug, Clone)]
pub(super) struct Ration {
    left: u32,
    /// Since when the next one has been accruing; only meaningful while some are missing.
    accruing_since: Instant,
    interval: Duration,
}

impl Ration {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self { left: BURST, accruing_since: now, interval }
    }

    /// Takes one, or says when the next will be there.
    ///
    /// `Err(None)` is beyond the end of time.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        while self.left < BURST
            && now.saturating_duration_since(self.accruing_since) >= self.interval
        {
            self.accruing_since += self.interval;
            self.left += 1;
        }
        if self.left == BURST {
            self.accruing_since = now;
        }
        if self.left == 0 {
            return Err(self.accruing_since.checked_add(self.interval));
        }
        self.left -= 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn a_burst_then_one_per_interval() {
        let interval = Duration::from_secs(30);
        let start = Instant::now();
        let mut ration = Ration::new(interval, start);
        for _ in 0..BURST {
            assert_eq!(ration.take(start), Ok(()));
        }
        assert_eq!(ration.take(start), Err(Some(start + interval)));
        let later = start + interval;
        assert_eq!(ration.take(later), Ok(()));
        assert_eq!(ration.take(later), Err(Some(later + interval)));
        let much_later = start + interval * 100;
        for _ in 0..BURST {
            assert_eq!(ration.take(much_later), Ok(()));
        }
        assert!(ration.take(much_later).is_err());
    }
}
