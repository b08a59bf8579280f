//! What the peer of a WebSocket sends, against what it may: the bytes of a message that has arrived
//! in part, the time until it is there as a whole, and the number of frames.
//!
//! The time is that of the bodies of HTTP requests, kept by the coarse clock: what every message is
//! granted, and beyond it as long as the message comes at a least rate. Who sends more frames than
//! it may is not read from until the clock goes on, so that its own sends wait.

use std::sync::Arc;
use std::time::Duration;

use super::ServiceConfig;
use super::in_progress::{Exhausted, InProgress, Share};
use super::signal::{Coarse, coarse};

/// A message may take this many times the deadline at most, however fast it comes.
const LONGEST: u32 = 20;

pub(super) struct Incoming {
    share: Share,
    /// Since when a message is on its way, and the bytes that were read before.
    begun: Option<(Coarse, u64)>,
    /// Frames, less what may have come since.
    frames: u32,
    counted: Coarse,
}

impl Incoming {
    pub(super) fn new(budget: &Arc<InProgress>) -> Self {
        Self { share: budget.share(), begun: None, frames: 0, counted: 0 }
    }

    /// So many frames have begun.
    pub(super) const fn frames(&mut self, frames: u32) {
        self.frames = self.frames.saturating_add(frames);
    }

    /// What is left of a message has arrived.
    pub(super) const fn complete(&mut self) {
        self.begun = None;
    }

    /// All that was read is decoded, and so many bytes are kept of what is not complete. True if
    /// that has a deadline now that it did not have before.
    pub(super) fn settle(
        &mut self,
        kept: usize,
        read: u64,
        now: Coarse,
    ) -> Result<bool, Exhausted> {
        self.share.set(kept)?;
        if kept == 0 {
            self.begun = None;
            return Ok(false);
        }
        let begins = self.begun.is_none();
        self.begun.get_or_insert((now, read));
        Ok(begins)
    }

    /// When the message that is on its way has to be there, as far as it is now.
    pub(super) fn due(&self, read: u64, config: &ServiceConfig) -> Option<Coarse> {
        let (begun, before) = self.begun?;
        let rate = u64::from(config.min_body_rate.max(1));
        let earned = Duration::from_millis((read - before).saturating_mul(1000) / rate);
        let granted = config.body_deadline.saturating_add(earned);
        let granted = granted.min(config.body_deadline.saturating_mul(LONGEST));
        Some(begun.saturating_add(coarse(granted)))
    }

    /// Whether more may be read before the clock goes on.
    pub(super) fn may_read(&mut self, now: Coarse, config: &ServiceConfig) -> bool {
        let rate = config.max_frames_per_second;
        if self.counted != now {
            let since = now.saturating_sub(self.counted);
            let come = u64::from(rate).saturating_mul(since) / 1000;
            self.frames = self.frames.saturating_sub(u32::try_from(come).unwrap_or(u32::MAX));
            self.counted = now;
        }
        rate == 0 || self.frames <= rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming() -> Incoming {
        Incoming::new(&Arc::new(InProgress::new(1 << 20)))
    }

    #[test]
    fn a_message_has_its_time_from_its_beginning() {
        let config = ServiceConfig::default();
        let mut incoming = incoming();
        assert_eq!(incoming.settle(10, 100, 5_000), Ok(true));
        assert_eq!(incoming.settle(10, 110, 9_000), Ok(false));
        assert_eq!(incoming.due(100, &config), Some(35_000));
        // What has arrived earns more, up to a limit.
        assert_eq!(incoming.due(100 + 10 * 1024, &config), Some(45_000));
        assert_eq!(incoming.due(u64::MAX, &config), Some(605_000));
        // The next one begins anew, even if it came along.
        incoming.frames(1);
        assert_eq!(incoming.settle(10, 200, 10_000), Ok(false));
        incoming.complete();
        assert_eq!(incoming.settle(10, 300, 11_000), Ok(true));
        assert_eq!(incoming.due(300, &config), Some(41_000));
        assert_eq!(incoming.settle(0, 300, 12_000), Ok(false));
        assert_eq!(incoming.due(300, &config), None);
    }

    #[test]
    fn frames_above_the_rate_wait_for_the_clock() {
        let mut config = ServiceConfig { max_frames_per_second: 100, ..ServiceConfig::default() };
        let mut incoming = incoming();
        for _ in 0..=100 {
            assert!(incoming.may_read(1_000, &config));
            incoming.frames(1);
        }
        assert!(!incoming.may_read(1_000, &config));
        incoming.frames(99);
        assert!(!incoming.may_read(1_900, &config));
        assert!(incoming.may_read(2_900, &config));
        config.max_frames_per_second = 0;
        incoming.frames(1_000_000);
        assert!(incoming.may_read(2_000, &config));
    }
}
