//! What others want of a connection, until its task looks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::probes::Probes;
use super::super::signal::Signal;
use crate::fleet::{AgentKey, RouteWaker};

/// The Agents of a connection there may be something to push to. Bounded by the number of Agents on
/// the connection.
pub(super) struct Outbox {
    pub(super) signal: Arc<Signal>,
    pub(super) agents: Mutex<BTreeSet<AgentKey>>,
    pub(super) probes: Mutex<Probes>,
    /// There may be something in one of both, so that neither is locked for each message.
    pub(super) filled: AtomicBool,
    /// The operator wants the connection closed.
    pub(super) closing: AtomicBool,
}

impl Outbox {
    pub(super) fn agents(&self) -> MutexGuard<'_, BTreeSet<AgentKey>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn probes(&self) -> MutexGuard<'_, Probes> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Whether there may be something, which is to be looked at now: what comes in afterwards says so
    /// anew.
    pub(super) fn take_filled(&self) -> bool {
        self.is_filled() && self.filled.swap(false, Ordering::AcqRel)
    }

    /// There is something: to be called after it was put in.
    pub(super) fn fill(&self) {
        self.filled.store(true, Ordering::Release);
    }
}

impl RouteWaker for Outbox {
    fn wake(&self, key: &AgentKey) {
        self.agents().insert(*key);
        self.fill();
        self.signal.wake();
    }

    fn probe(&self, key: &AgentKey, probe: u64) {
        self.probes().ask(*key, probe);
        self.fill();
        self.signal.wake();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.signal.wake();
    }
}
