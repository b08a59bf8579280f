//! The way to an Agent: a connection, or a request that is being answered.
//!
//! Routes are numbered in the order they were opened. An Agent is served on one route at a time;
//! what arrives on another under its uid is looked at first (see `duplicates`), so that neither the
//! remains of a dead connection nor a duplicate can undo what the Agent reported.

use std::collections::hash_map::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;

use opamp_proto::InstanceUid;

use super::slots::Hashed;
use super::{AgentKey, Tenant};
use crate::core::Transport;

/// How the registry tells a connection that there is something to push.
///
/// Called by whoever changed something, possibly under a lock of the registry: it has to return at
/// once and must not call the registry.
pub trait RouteWaker: Send + Sync {
    /// There may be something to push to this Agent: call
    /// [`Fleet::poll_push`](crate::Fleet::poll_push) soon, on another stack.
    fn wake(&self, key: &AgentKey);

    /// Another Agent may have come under this one's instance uid. To be found out is whether this
    /// connection is alive: it is to be pinged soon, and [`Fleet::probe_answered`] to be called
    /// with this number when that ping, or a later one, is answered. Does nothing unless it is
    /// implemented; whoever comes then takes over.
    ///
    /// [`Fleet::probe_answered`]: crate::Fleet::probe_answered
    fn probe(&self, key: &AgentKey, probe: u64) {
        let _ = (key, probe);
    }

    /// The connection is to be closed in good order, whatever Agents are on it
    /// ([`Fleet::disconnect`](crate::Fleet::disconnect)). Does nothing unless it is implemented.
    fn close(&self) {}
}

/// A connection with one or many Agents (ID-11), or an HTTP request.
pub struct Route<I> {
    pub(super) shared: Arc<RouteShared<I>>,
    /// The Agents that spoke on this WebSocket and have not said goodbye. Searched only when an
    /// Agent comes or goes.
    pub(super) agents: Vec<AgentKey>,
    /// The hash of the first of them, which is mostly the only one.
    pub(super) first_hash: Option<u64>,
    /// The new uids of those who came here under the uid of an Agent that is served elsewhere, at
    /// most one for each of the Agents above.
    pub(super) offered: Vec<(InstanceUid, AgentKey)>,
    /// An Agent has arrived on it.
    pub(super) arrived: bool,
}

pub(super) struct RouteShared<I> {
    pub(super) id: u64,
    pub(super) tenant: Tenant,
    pub(super) transport: Transport,
    pub(super) remote_addr: Option<SocketAddr>,
    /// Of a peer; Agents that were restored and have not come yet may have none.
    pub(super) identity: Option<I>,
    pub(super) waker: Option<Arc<dyn RouteWaker>>,
}

impl<I> RouteShared<I> {
    /// Tells the connection that there may be something to push to an Agent.
    pub(super) fn wake(&self, key: &AgentKey) {
        if let Some(waker) = &self.waker {
            waker.wake(key);
        }
    }

    /// In place of the connection that a restored Agent had.
    pub(super) const fn restored(
        id: u64,
        tenant: Tenant,
        transport: Transport,
        identity: Option<I>,
    ) -> Self {
        Self { id, tenant, transport, remote_addr: None, identity, waker: None }
    }
}

impl<I> Route<I> {
    /// The Agents on this route; of a request, none.
    #[must_use]
    pub fn agents(&self) -> &[AgentKey] {
        &self.agents
    }

    /// Whose Agents speak on this route.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        self.shared.tenant
    }

    /// The identity that admission gave the peer.
    #[must_use]
    pub fn identity(&self) -> &I {
        // A route is made by `Fleet::open_route` alone, which gives it one.
        self.shared.identity.as_ref().expect("a route with a peer")
    }

    /// The key of an Agent that speaks here, with its hash.
    pub(super) fn hashed(&mut self, key: AgentKey, hasher: &RandomState) -> Hashed {
        let is_first = self.agents.first() == Some(&key);
        if let Some(hash) = self.first_hash.filter(|_| is_first) {
            return Hashed::again(key, hash);
        }
        let hashed = Hashed::new(key, hasher);
        if is_first {
            self.first_hash = Some(hashed.hash());
        }
        hashed
    }

    pub(super) fn is_on(&self, key: &AgentKey) -> bool {
        self.agents.contains(key)
    }

    /// An Agent is served here from now on. A request ends with the reply, so nobody stays on one.
    pub(super) fn join(&mut self, key: AgentKey) {
        if self.shared.transport == Transport::WebSocket && !self.is_on(&key) {
            if self.agents.is_empty() {
                // Most connections never carry another.
                self.agents.reserve_exact(1);
            }
            self.agents.push(key);
        }
    }

    /// A uid is offered to whoever speaks here under the uid of another Agent.
    pub(super) fn offer(&mut self, new: InstanceUid, old: AgentKey) {
        self.offered.retain(|(_, offered)| *offered != old);
        self.offered.push((new, old));
    }

    /// Whether this uid was offered here.
    pub(super) fn was_offered(&self, new: &AgentKey) -> bool {
        self.offered.iter().any(|(offered, old)| old.tenant().agent(*offered) == *new)
    }

    /// Somebody takes the uid that was offered here: under which one he has spoken.
    pub(super) fn take_offer(&mut self, new: &AgentKey) -> Option<AgentKey> {
        let mut offers = self.offered.iter();
        let index = offers.position(|(offered, old)| old.tenant().agent(*offered) == *new)?;
        Some(self.offered.swap_remove(index).1)
    }

    pub(super) fn leave(&mut self, key: &AgentKey) {
        if let Some(index) = self.agents.iter().position(|agent| agent == key) {
            self.agents.swap_remove(index);
            if index == 0 {
                self.first_hash = None;
            }
        }
    }
}

impl<I> std::fmt::Debug for Route<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route")
            .field("id", &self.shared.id)
            .field("tenant", &self.shared.tenant)
            .field("transport", &self.shared.transport)
            .field("remote_addr", &self.shared.remote_addr)
            .field("agents", &self.agents.len())
            .finish_non_exhaustive()
    }
}
