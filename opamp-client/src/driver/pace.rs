//! The least rate of a download: a server that sends a byte now and then is never silent, and would
//! hold a slot for ever.
//!
//! ```text
//!   patience ──► runs out as time passes; what comes fills it up, at the least rate, to the brim
//! ```
//!
//! So neither a fast start nor a pause for breath counts for long: what is slower than that for the
//! whole of the patience is left.

use std::time::Duration;

use tokio::time::Instant;

pub(super) struct Pace {
    /// Bytes per second; 0 is none.
    least: u32,
    patience: Duration,
    until: Instant,
}

impl Pace {
    pub(super) fn new(least: u32, patience: Duration) -> Self {
        Self { least, patience, until: end(patience) }
    }

    /// When the download has been too slow for too long.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// So many bytes came.
    pub(super) fn came(&mut self, bytes: usize) {
        match Duration::try_from_secs_f64(bytes as f64 / f64::from(self.least)) {
            Ok(worth) => self.more(worth),
            Err(_) => self.until = end(self.patience),
        }
    }

    /// The server was not asked for more since then.
    pub(super) fn paused(&mut self, since: Instant) {
        self.more(since.elapsed());
    }

    fn more(&mut self, time: Duration) {
        let brim = end(self.patience);
        self.until = self.until.checked_add(time).map_or(brim, |until| until.min(brim));
    }
}

/// No wait is meant to be longer than a year, and the clock need not reach further.
fn end(patience: Duration) -> Instant {
    Instant::now() + patience.min(Duration::from_secs(365 * 86_400))
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout_at};

    use super::*;

    /// How long a server is heard that sends so many bytes every second.
    async fn heard(pace: &mut Pace, bytes: usize, at_most: u64) -> u64 {
        for second in 0..at_most {
            if Instant::now() >= pace.until() {
                return second;
            }
            pace.came(bytes);
            advance(Duration::from_secs(1)).await;
        }
        at_most
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_the_pace_goes_on_and_what_does_not_is_left() {
        let mut pace = Pace::new(1000, Duration::from_secs(60));
        assert_eq!(heard(&mut pace, 1000, 10_000).await, 10_000);
        // A fast start is not stored up.
        pace.came(1_000_000_000);
        assert_eq!(heard(&mut pace, 1, 10_000).await, 61);
        let mut pace = Pace::new(1000, Duration::from_secs(60));
        assert_eq!(heard(&mut pace, 500, 10_000).await, 119);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_disk_is_not_the_servers_fault() {
        let mut pace = Pace::new(1000, Duration::from_secs(60));
        let began = Instant::now();
        advance(Duration::from_secs(500)).await;
        pace.paused(began);
        assert_eq!(pace.until() - Instant::now(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_least_rate_every_byte_will_do() {
        let mut pace = Pace::new(0, Duration::MAX);
        assert_eq!(heard(&mut pace, 1, 100_000).await, 100_000);
        let over = timeout_at(pace.until(), std::future::pending::<()>());
        assert!(over.await.is_err());
    }
}
