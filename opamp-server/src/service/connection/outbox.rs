//! What others want of a connection, until its task looks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::buffers::Writing;
use super::super::handler::Handler;
use super::super::probes::Probes;
use super::super::signal::Signal;
use super::{Connection, now};
use crate::core::Push;
use crate::fleet::{AgentKey, RouteWaker};

/// What a connection's task is to look at.
pub(super) struct Outbox {
    pub(super) signal: Arc<Signal>,
    pub(super) agents: Mutex<Waiting>,
    /// Boxed, as there are mostly none.
    pub(super) probes: Mutex<Option<Box<Probes>>>,
    /// There may be something in one of both, so that neither is locked for each message.
    pub(super) filled: AtomicBool,
    /// The operator wants the connection closed.
    pub(super) closing: AtomicBool,
}

/// The Agents of a connection there may be something to push to. Bounded by the number of Agents on
/// the connection.
#[derive(Default)]
pub(super) struct Waiting {
    /// Beside the others, as most connections have one Agent: it needs no memory of its own.
    first: Option<AgentKey>,
    others: BTreeSet<AgentKey>,
}

impl Waiting {
    fn add(&mut self, key: &AgentKey) {
        if self.is_empty() {
            self.first = Some(*key);
        } else if self.first != Some(*key) {
            self.others.insert(*key);
        }
    }

    pub(super) fn pop(&mut self) -> Option<AgentKey> {
        self.first.take().or_else(|| self.others.pop_first())
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_empty()
    }
}

impl Outbox {
    pub(super) fn agents(&self) -> MutexGuard<'_, Waiting> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn probes(&self) -> MutexGuard<'_, Option<Box<Probes>>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Whether there may be something, which is to be looked at now: what comes in afterwards says
    /// so anew.
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
        self.agents().add(key);
        self.fill();
        self.signal.wake();
    }

    fn probe(&self, key: &AgentKey, probe: u64) {
        self.probes().get_or_insert_default().ask(*key, probe);
        self.fill();
        self.signal.wake();
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.signal.wake();
    }
}

impl<H: Handler> Connection<H> {
    /// Pushes what there is for one Agent.
    pub(super) fn push(&mut self, key: &AgentKey, writing: &mut Writing) {
        while let Some(route) = &self.route.route
            && let Some(Push { tail, more }) =
                self.inner.fleet.poll_push(route, key, now(), writing.begin())
        {
            self.send(Some(key), writing, tail);
            if !more {
                return;
            }
        }
    }

    /// Pushes to the Agents in the outbox as long as there is room.
    pub(super) fn push_waiting(&mut self, writing: &mut Writing) {
        while self.socket.has_room() && self.awaiting.is_empty() {
            let Some(key) = self.outbox.agents().pop() else { return };
            self.push(&key, writing);
        }
        // There may be more.
        self.outbox.fill();
    }

    /// Pings the peer if the registry wants to know whether it is alive.
    pub(super) fn probe(&mut self, writing: &mut Writing) {
        let ping = self.outbox.probes().as_mut().and_then(|probes| probes.send());
        if let Some(payload) = ping {
            self.socket.ping(writing, &payload);
        }
    }

    /// The peer has answered a ping.
    pub(super) fn ponged(&self, payload: &[u8]) {
        let answered = self.outbox.probes().as_mut().map(|probes| probes.answered(payload));
        let Some(route) = &self.route.route else { return };
        for (key, probe) in answered.into_iter().flatten() {
            if let Some(key) = self.inner.fleet.probe_answered(route, key, probe) {
                self.inner.dispatch(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opamp_proto::InstanceUid;

    #[test]
    fn an_agent_waits_once_whoever_else_does() {
        let key = |number| AgentKey::from(InstanceUid::from_bytes([number; 16]));
        let mut waiting = Waiting::default();
        assert!(waiting.is_empty());
        for number in [2, 2, 1, 3, 1, 2] {
            waiting.add(&key(number));
        }
        let mut popped: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
        popped.sort_unstable();
        assert_eq!(popped, [key(1), key(2), key(3)]);
        // Nor is one of the others the first one, too.
        waiting.add(&key(1));
        waiting.add(&key(2));
        assert_eq!(waiting.pop(), Some(key(1)));
        waiting.add(&key(2));
        assert_eq!((waiting.pop(), waiting.pop()), (Some(key(2)), None));
    }
}
