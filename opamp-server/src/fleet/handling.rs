//! Changes of Agents on their way to a handler. Whoever is told by `queue` keeps the Agent in a
//! queue, takes its changes when it comes to that, and says when it is done; so no Agent is handled
//! by two at a time.

use std::task::{Context, Poll};

use opamp_proto::v1;

use super::slots::Hashed;
use super::{AgentKey, AgentSnapshot, Fleet};
use crate::core::Changes;

/// An Agent's changes, handed out to be handled. Pass [`token`](Self::token) to
/// [`Fleet::finish_changes`] afterwards, whatever happened.
#[derive(Debug)]
#[non_exhaustive]
pub struct AgentChanges<I> {
    /// The Agent after the changes.
    pub agent: AgentSnapshot,
    /// What is new.
    pub changes: Changes,
    /// The custom messages the Agent has sent, in their order.
    pub custom_messages: Vec<v1::CustomMessage>,
    /// The identity of the peer that spoke for the Agent last.
    pub identity: I,
    /// The right to say that the changes are handled.
    pub token: ChangesToken,
}

/// Says for which handing out of changes [`Fleet::finish_changes`] is called.
#[derive(Debug)]
pub struct ChangesToken {
    key: Hashed,
    serial: u64,
}

impl<I> Fleet<I> {
    /// Takes what is new about an Agent. `None` if that is nothing by now.
    #[must_use = "the changes are gone from the registry"]
    pub fn take_changes(&self, key: impl Into<AgentKey>) -> Option<AgentChanges<I>>
    where
        I: Clone,
    {
        let key = self.hashed(&key.into());
        let mut shard = self.shard(&key);
        let (slot, terms) = shard.slot(&key, self.config())?;
        let Some(identity) = slot.route.identity.clone() else {
            // Of a restored Agent everything is told when it is back.
            slot.news.forget_queue();
            return None;
        };
        let changes = slot.news.take()?;
        Some(AgentChanges {
            agent: slot.snapshot(terms),
            changes,
            custom_messages: self.empty(&mut slot.inbox),
            identity,
            token: ChangesToken { key, serial: slot.serial },
        })
    }

    /// The changes were handled, or the handling failed. Returns the Agent if there are more by now
    /// and it has to be queued again, under the instance uid it has now.
    #[must_use = "the Agent has to be queued for handling"]
    pub fn finish_changes(&self, token: ChangesToken) -> Option<AgentKey> {
        let ChangesToken { mut key, serial } = token;
        loop {
            let mut shard = self.shard(&key);
            if let Some(slot) = shard.slots.get_mut(&key).filter(|slot| slot.serial == serial) {
                return slot.news.finish().then_some(*key.key());
            }
            key = self.hashed(&shard.moved.remove(&serial)?);
        }
    }

    /// Ready when the changes with this [ticket](super::Accepted::ticket) were handled, or their
    /// Agent is gone.
    pub fn poll_handled(
        &self,
        key: impl Into<AgentKey>,
        ticket: u64,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let key = self.hashed(&key.into());
        match self.shard(&key).slots.get_mut(&key) {
            Some(slot) => slot.news.poll_handled(ticket, cx),
            None => Poll::Ready(()),
        }
    }
}
