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

    pub(super) fn is_empty(&self) -> bool {
        self.agents().is_empty()
    }
}

impl RouteWaker for Outbox {
    fn wake(&self, key: &AgentKey) {
        self.agents().insert(*key);
        self.signal.wake();
    }

    fn probe(&self, key: &AgentKey, probe: u64) {
        self.probes().ask(*key, probe);
        self.signal.wake();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.signal.wake();
    }
}
