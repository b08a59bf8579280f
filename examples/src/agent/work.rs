//! The agent's work: it runs, or fails because its configuration says so, which is how one can see
//! health change without breaking anything.

use std::time::{SystemTime, UNIX_EPOCH};

use opamp_proto::v1;

#[derive(Debug)]
pub(super) struct Work {
    started: SystemTime,
    /// When it last began to run or to fail.
    since: SystemTime,
    failing: Option<String>,
}

impl Work {
    pub(super) fn start(failing: Option<&str>, now: SystemTime) -> Self {
        Self { started: now, since: now, failing: failing.map(str::to_owned) }
    }

    /// Goes on with another configuration. Says whether the health is another one now.
    pub(super) fn reconfigure(&mut self, failing: Option<&str>, now: SystemTime) -> bool {
        let changed = self.failing.as_deref() != failing;
        if changed {
            self.failing = failing.map(str::to_owned);
            self.since = now;
        }
        changed
    }

    pub(super) fn start_time(&self) -> SystemTime {
        self.started
    }

    pub(super) fn failing(&self) -> Option<&str> {
        self.failing.as_deref()
    }

    pub(super) fn health(&self) -> v1::ComponentHealth {
        let status = if self.failing.is_some() { "failing" } else { "running" };
        v1::ComponentHealth {
            healthy: self.failing.is_none(),
            status: status.to_owned(),
            last_error: self.failing.clone().unwrap_or_default(),
            start_time_unix_nano: unix_nanos(self.started),
            status_time_unix_nano: unix_nanos(self.since),
            ..Default::default()
        }
    }
}

/// 0 for a time that does not fit, as for a time that is not known.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_nanos().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn health_follows_the_configuration_and_start_time_the_restart() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut work = Work::start(None, at(1));
        assert!(work.health().healthy);
        assert!(!work.reconfigure(None, at(2)));
        assert!(work.reconfigure(Some("disk is full"), at(3)));
        let health = work.health();
        assert!(!health.healthy);
        assert_eq!(health.last_error, "disk is full");
        assert_eq!(health.start_time_unix_nano, 1_000_000_000);
        assert_eq!(health.status_time_unix_nano, 3_000_000_000);
        let restarted = Work::start(work.failing(), at(4));
        assert_eq!(restarted.health().start_time_unix_nano, 4_000_000_000);
        assert!(!restarted.health().healthy);
    }
}
