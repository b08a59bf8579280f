//! What a server can cause is rationed: a burst, then one per interval. Nothing is lost by it, as a
//! report that has to wait tells what is true when it goes out.
//!
//! Full reports asked for by flag come three at once, then one per heartbeat interval: some servers
//! set the flag in every reply, and each full report causes a reply. Reports of any kind come fifty
//! at once, then ten a second: a server that renames, restarts or configures an agent in every
//! reply must not make it spin. Connection settings are tried three times at once, then once a
//! minute: two servers that send an agent to each other, or one that gives each connection another
//! token, must not make it reconnect for ever.

use std::time::{Duration, Instant};

/// Full reports that may be sent at once.
pub(super) const FULL_REPORTS: u32 = 3;

/// Reports that may be sent at once.
pub(super) const REPORTS: u32 = 50;

/// Time between reports after that.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Connection settings that may be tried at once.
pub(super) const TRIALS: u32 = 3;

/// Time between them after that.
pub(super) const TRIAL_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) struct Ration {
    burst: u32,
    left: u32,
    /// Since when the next one has been accruing; only meaningful while some are missing.
    accruing_since: Instant,
    interval: Duration,
}

impl Ration {
    pub(super) fn new(burst: u32, interval: Duration, now: Instant) -> Self {
        Self { burst, left: burst, accruing_since: now, interval }
    }

    /// Takes one, or says when the next will be there.
    ///
    /// `Err(None)` is beyond the end of time.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        while self.left < self.burst
            && now.saturating_duration_since(self.accruing_since) >= self.interval
        {
            self.accruing_since += self.interval;
            self.left += 1;
        }
        if self.left == self.burst {
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
        let mut ration = Ration::new(3, interval, start);
        for _ in 0..3 {
            assert_eq!(ration.take(start), Ok(()));
        }
        assert_eq!(ration.take(start), Err(Some(start + interval)));
        let later = start + interval;
        assert_eq!(ration.take(later), Ok(()));
        assert_eq!(ration.take(later), Err(Some(later + interval)));
        let much_later = start + interval * 100;
        for _ in 0..3 {
            assert_eq!(ration.take(much_later), Ok(()));
        }
        assert!(ration.take(much_later).is_err());
    }
}
