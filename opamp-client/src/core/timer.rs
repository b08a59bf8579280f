//! The core's timers: a small table, because each kind is armed at most once.

use std::time::Instant;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Timer {
    /// When a paused link may try again.
    Retry,
    /// When a connection attempt is given up.
    Connect,
    /// When the next heartbeat or poll is due.
    Heartbeat,
    /// When an unanswered report no longer holds back the next one.
    Reply,
    /// When a server that answers nothing is left.
    Answer,
    /// When another report may be sent after very many.
    Report,
    /// When another full report that was asked for may be sent.
    FullState,
    /// When a pending offer fails for want of an outcome.
    Offer,
    /// When pending connection settings fail for want of an outcome.
    ConnectionSettings,
    /// When something about packages is due.
    Packages,
    /// When a custom message ends without an answer.
    Custom,
    /// When a silent connection is pinged.
    Ping,
    /// When a connection that did not answer a ping is given up.
    Pong,
    /// When an orderly close is cut short.
    Close,
    /// When saving, which failed, is tried again.
    Save,
    /// When settings on trial have taken too long.
    Settings,
    /// When it is looked whether settings in force that could not be used can be again.
    Unusable,
    /// When a certificate is asked for again.
    Certificate,
}

impl Timer {
    const ALL: [Self; 18] = [
        Self::Retry,
        Self::Connect,
        Self::Heartbeat,
        Self::Reply,
        Self::Answer,
        Self::Report,
        Self::FullState,
        Self::Offer,
        Self::ConnectionSettings,
        Self::Packages,
        Self::Custom,
        Self::Ping,
        Self::Pong,
        Self::Close,
        Self::Save,
        Self::Settings,
        Self::Unusable,
        Self::Certificate,
    ];
}

#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    due: [Option<Instant>; Timer::ALL.len()],
}

impl Timers {
    /// Arms a timer; one that is due beyond the end of time, at `None`, never fires.
    pub(super) fn set(&mut self, timer: Timer, due: Option<Instant>) {
        self.due[timer as usize] = due;
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.due[timer as usize] = None;
    }

    pub(super) fn is_set(&self, timer: Timer) -> bool {
        self.due[timer as usize].is_some()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.iter().flatten().min().copied()
    }

    /// Disarms and returns one timer that is due at `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL
            .into_iter()
            .find(|timer| self.due[*timer as usize].is_some_and(|due| due <= now))?;
        self.stop(timer);
        Some(timer)
    }
}
