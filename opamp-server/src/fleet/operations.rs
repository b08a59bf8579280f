//! What the operator asks of the registry. Operations take effect at once; where that means to push
//! something, the Agent's connection is woken, and nothing waits.

use std::time::Instant;

use super::shard::Slot;
use super::tally::Kind;
use super::{AgentKey, AgentSnapshot, Fleet};
use crate::core::{OperationError, Transport, later};

/// Numbers of Agents with a session.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// On a WebSocket.
    pub websocket: usize,
    /// Over HTTP.
    pub http: usize,
}

impl<I> Fleet<I> {
    /// Every Agent known, in no particular order. Each is a snapshot of its own moment.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentSnapshot> {
        let mut agents = Vec::with_capacity(self.len());
        for shard in self.shards() {
            let terms = shard.terms(self.config());
            agents.extend(shard.slots.values().map(|slot| slot.snapshot(terms)));
        }
        agents
    }

    /// How many Agents have a session, by its transport. It looks at each Agent.
    #[must_use]
    pub fn connected(&self) -> Connected {
        let mut connected = Connected::default();
        for shard in self.shards() {
            for slot in shard.slots.values() {
                match slot.agent.transport() {
                    Some(Transport::WebSocket) => connected.websocket += 1,
                    Some(Transport::Http) => connected.http += 1,
                    None => {}
                }
            }
        }
        connected
    }

    /// One Agent.
    #[must_use]
    pub fn agent(&self, key: impl Into<AgentKey>) -> Option<AgentSnapshot> {
        let key = key.into();
        let shard = self.shard(&key);
        Some(shard.slots.get(&key)?.snapshot(shard.terms(self.config())))
    }

    /// Asks an Agent to restart, once. The command waits for the Agent's next session or request at
    /// most as long as [`ServerConfig::command_expiry`](crate::ServerConfig::command_expiry).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`], and [`OperationError::NotAccepted`] if the Agent lacks
    /// `AcceptsRestartCommand` (CMD-05).
    pub fn restart(&self, key: impl Into<AgentKey>, now: Instant) -> Result<(), OperationError> {
        let expires = later(now, self.config().command_expiry);
        let asked = self.with_slot(key, |slot| slot.agent.restart(expires));
        self.count_refused(Kind::Command, asked)
    }

    /// Asks an Agent for a full report (SEQ-05, SEQ-06).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`].
    pub fn request_full_state(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            slot.agent.request_full_state();
            Ok(())
        })
    }

    /// Closes the WebSocket an Agent is on, in good order: Agents that share it are disconnected
    /// with it, and all of them may come back unless admission refuses them (CONN-36, CLOSE-04).
    ///
    /// # Errors
    ///
    /// [`OperationError::UnknownAgent`], and [`OperationError::NotConnected`] if the Agent is on no
    /// WebSocket: one on plain HTTP has no connection of its own.
    pub fn disconnect(&self, key: impl Into<AgentKey>) -> Result<(), OperationError> {
        self.with_slot(key, |slot| {
            let connected = slot.agent.transport() == Some(Transport::WebSocket);
            let waker = slot.route.waker.as_ref().filter(|_| connected);
            waker.map(|waker| waker.close()).ok_or(OperationError::NotConnected)
        })
    }

    pub(super) fn with_slot<T>(
        &self,
        key: impl Into<AgentKey>,
        change: impl FnOnce(&mut Slot<I>) -> Result<T, OperationError>,
    ) -> Result<T, OperationError> {
        let key = key.into();
        let mut shard = self.shard(&key);
        let slot = shard.slots.get_mut(&key).ok_or(OperationError::UnknownAgent)?;
        let changed = change(slot)?;
        slot.wake();
        self.inner.watching.note(self.place(&key), &mut slot.changed_at);
        let noted = slot.note_operation(&self.inner.saving);
        shard.queue(key, noted);
        Ok(changed)
    }
}
