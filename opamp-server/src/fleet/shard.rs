//! A part of the registry, behind one lock, and the slot of one Agent in it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;

use super::duplicates::Others;
use super::inbox::Inbox;
use super::route::{Route, RouteShared};
use super::saving::{Noted, Stored, Written};
use super::slots::{Find, Slots};
use super::snapshot::AgentSnapshot;
use super::watch::Departed;
use super::{AgentKey, Now, Tenant};
use crate::core::{Agent, Changes, Desired, Due, FullStatePace, ServerConfig, Terms, Transport};

pub(super) struct Shard<I> {
    pub(super) slots: Slots<I>,
    /// New instance uids that were given out, by the new uid; a few for each Agent.
    pub(super) renames: HashMap<AgentKey, PendingRename>,
    /// Where a slot went whose handler was running when it moved away, by the slot's serial number.
    /// At most one for each running handler.
    pub(super) moved: HashMap<u64, AgentKey>,
    /// Agents under whose uid others have come; some may be over by now.
    pub(super) contested: Vec<AgentKey>,
    /// What is wanted for all, repeated in each shard so that reading it takes no other lock.
    pub(super) desired: Desired,
    /// Agents that are to be written, each once.
    pub(super) unsaved: Vec<AgentKey>,
    /// What a store has of Agents that were forgotten since it was last written.
    pub(super) forgotten: Vec<(AgentKey, Stored)>,
    /// What watches are told of Agents that are known no more.
    pub(super) departed: Departed,
    /// The turns of all shards' Agents.
    pace: Arc<FullStatePace>,
}

/// An instance uid that was given to an Agent and that it may take.
#[derive(Clone, Copy)]
pub(super) struct PendingRename {
    /// Where the Agent's slot is.
    pub(super) old: AgentKey,
    /// The serial number of the Agent's slot: another Agent may have the old uid by now.
    pub(super) serial: u64,
    pub(super) expires: Instant,
}

impl<I> Shard<I> {
    pub(super) fn new(pace: Arc<FullStatePace>, hasher: RandomState) -> Self {
        Self {
            slots: Slots::new(hasher),
            renames: HashMap::new(),
            moved: HashMap::new(),
            contested: Vec::new(),
            desired: Desired::default(),
            unsaved: Vec::new(),
            forgotten: Vec::new(),
            departed: Departed::default(),
            pace,
        }
    }

    /// The slot of an Agent, with the terms it is served on.
    pub(super) fn slot<'a>(
        &'a mut self,
        key: &impl Find,
        config: &'a ServerConfig,
    ) -> Option<(&'a mut Slot<I>, Terms<'a>)> {
        let slot = self.slots.get_mut(key)?;
        Some((slot, Terms::new(config, &self.desired).paced(&self.pace)))
    }

    /// Goes through the slots, each with the terms it is served on, and keeps those it is told to.
    pub(super) fn retain(
        &mut self,
        config: &ServerConfig,
        mut keep: impl FnMut(&mut Slot<I>, Terms<'_>) -> bool,
    ) {
        let Self { slots, desired, pace, forgotten, .. } = self;
        let terms = Terms::new(config, desired).paced(pace);
        let gone = slots.extract_if(|slot| !keep(slot, terms));
        forgotten.extend(gone.flat_map(|slot| slot.into_stored()));
    }

    /// Puts an Agent into the list of those that are to be written.
    pub(super) fn queue(&mut self, key: AgentKey, noted: Noted) {
        if noted.queue {
            self.unsaved.push(key);
        }
    }

    /// The terms Agents are served on.
    pub(super) const fn terms<'a>(&'a self, config: &'a ServerConfig) -> Terms<'a> {
        Terms::new(config, &self.desired)
    }
}

/// What the registry keeps of one Agent.
pub(super) struct Slot<I> {
    /// Stays the Agent's own when its instance uid changes.
    pub(super) serial: u64,
    pub(super) tenant: Tenant,
    pub(super) agent: Agent,
    /// The newest route the Agent spoke on, open or not.
    pub(super) route: Arc<RouteShared<I>>,
    pub(super) last_seen: Now,
    pub(super) news: News,
    /// The revision of the shard at which something changed last, for watches.
    pub(super) changed_at: u64,
    pub(super) inbox: Inbox,
    /// Others who speak under the same uid.
    pub(super) others: Option<Box<Others<I>>>,
    /// The instance uids the Agent was given and has not taken, the newest last.
    pub(super) given: Vec<AgentKey>,
    /// What is to be written to a store; `None` if there is none. Boxed for that.
    pub(super) written: Option<Box<Written>>,
    /// Whoever is next may speak for the Agent.
    pub(super) released: bool,
}

/// Instance uids an Agent may have been given without taking one.
const MAX_GIVEN: usize = 4;

impl<I> Slot<I> {
    pub(super) fn key(&self) -> AgentKey {
        AgentKey::new(self.tenant, *self.agent.uid())
    }

    pub(super) fn is_of(&self, key: &AgentKey) -> bool {
        self.agent.uid() == key.uid() && self.tenant == key.tenant()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.agent.transport().is_some()
    }

    /// Whether the Agent is at home on this route.
    pub(super) fn is_served_on(&self, route: &Route<I>) -> bool {
        self.route.id == route.shared.id && self.is_connected()
    }

    /// Remembers a uid that the Agent is given. Returns the one it cannot take any more for that.
    #[must_use]
    pub(super) fn give(&mut self, new: AgentKey) -> Option<AgentKey> {
        self.given.retain(|given| *given != new);
        self.given.push(new);
        (self.given.len() > MAX_GIVEN).then(|| self.given.remove(0))
    }

    /// Composes a reply; says as well whether there is more to push after it.
    pub(super) fn reply(
        &mut self,
        due: Due,
        terms: Terms<'_>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> (Option<Bytes>, bool) {
        let tail = self.agent.poll_reply(due, terms, now.instant, out);
        if tail.is_some() {
            self.note_offers();
        }
        let push = self.agent.transport() == Some(Transport::WebSocket) && self.agent.has_more();
        (tail, push)
    }

    /// Tells the Agent's connection that there may be something to push.
    pub(super) fn wake(&self) {
        if let Some(route) = self.pushable() {
            route.wake(&self.key());
        }
    }

    /// The Agent's connection, if messages can be pushed on it.
    pub(super) fn pushable(&self) -> Option<&Arc<RouteShared<I>>> {
        let is_websocket = self.agent.transport() == Some(Transport::WebSocket);
        is_websocket.then_some(&self.route)
    }

    /// What is kept of what the Agent sent.
    pub(super) fn retained_bytes(&self) -> usize {
        self.agent.retained_bytes() + self.inbox.bytes()
    }

    pub(super) fn snapshot(&self, terms: Terms<'_>) -> AgentSnapshot {
        AgentSnapshot {
            key: self.key(),
            connected: self.is_connected(),
            transport: self.route.transport,
            remote_addr: self.route.remote_addr,
            last_seen: self.last_seen.system,
            sequence_num: self.agent.sequence_num().unwrap_or(0),
            remote_config: self.agent.config_state(terms),
            connection_settings: self.agent.settings_state(terms),
            packages: self.agent.packages_state(terms),
            certificate_request: self.agent.certificate_request(),
            custom_messages: self.agent.custom_messages(),
            new_instance_uid: self.agent.pending_rename(self.last_seen.instant),
            state: self.agent.state().clone(),
        }
    }
}

/// Changes nobody has handled yet, and who handles them.
///
/// ```text
///          note                take                 finish, nothing new
///   idle ────────▶ queued ────────────▶ busy ─────────────────────────────▶ idle
///                    ▲                   │ finish, more was noted
///                    └───────────────────┘
/// ```
///
/// The Agent is handed out by `note` and `finish` only on the way to *queued*, so it is in the
/// caller's queue at most once, and handled by one at a time.
#[derive(Default)]
pub(super) struct News {
    changes: Changes,
    queued: bool,
    busy: bool,
    /// Counts the notes; `taken` and `handled` are its values at those moments.
    noted: u64,
    taken: u64,
    handled: u64,
    waiting: Vec<Waker>,
}

impl News {
    /// Adds changes. True if the Agent has to be queued for handling.
    #[must_use]
    pub(super) fn note(&mut self, changes: Changes) -> bool {
        if changes.is_empty() {
            return false;
        }
        self.changes |= changes;
        self.noted += 1;
        self.queue()
    }

    fn queue(&mut self) -> bool {
        let idle = !self.queued && !self.busy;
        self.queued |= idle;
        idle
    }

    /// The Agent is known by another uid from now on: who has the old one in a queue finds nothing.
    pub(super) fn forget_queue(&mut self) {
        self.queued = false;
    }

    /// What a caller has to wait for to see its last note handled.
    pub(super) const fn ticket(&self) -> u64 {
        self.noted
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// Takes what is to be handled, and makes the taker the only one. `None` if there is none.
    pub(super) fn take(&mut self) -> Option<Changes> {
        if !std::mem::take(&mut self.queued) || self.busy {
            return None;
        }
        self.busy = true;
        self.taken = self.noted;
        Some(std::mem::take(&mut self.changes))
    }

    /// The taker is done. True if the Agent has to be queued again.
    #[must_use]
    pub(super) fn finish(&mut self) -> bool {
        self.busy = false;
        self.handled = self.taken;
        self.waiting.drain(..).for_each(Waker::wake);
        !self.changes.is_empty() && self.queue()
    }

    /// Ready when the note with this ticket was handled.
    pub(super) fn poll_handled(&mut self, ticket: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.handled >= ticket {
            return Poll::Ready(());
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for News {
    fn drop(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use opamp_proto::{InstanceUid, Message as _, v1};

    use super::*;
    use crate::fleet::{Fleet, lock};

    /// A Server with one shard, at a moment.
    struct Bench {
        fleet: Fleet<()>,
        now: Now,
    }

    impl Bench {
        #[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
        fn new() -> Self {
            let config = ServerConfig { shards: 1, ..ServerConfig::default() };
            let now = Now { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
            Self { fleet: Fleet::new(config), now }
        }

        fn websocket(&self) -> Route<()> {
            self.fleet.open_route(Transport::WebSocket, None, (), None)
        }

        fn send(&self, route: &mut Route<()>, uid: InstanceUid, sequence_num: u64) {
            let message = v1::AgentToServer {
                instance_uid: uid.to_bytes(),
                sequence_num,
                ..Default::default()
            };
            let body = message.encode_to_vec();
            let mut fresh = || InstanceUid::from_bytes([9; 16]);
            let _ = self.fleet.receive(route, &body, self.now, &mut fresh, &mut Vec::new());
        }

        fn shard<T>(&self, look: impl FnOnce(&Shard<()>) -> T) -> T {
            look(&lock(&self.fleet.inner.shards[0]))
        }
    }

    const UID: InstanceUid = InstanceUid::from_bytes([7; 16]);

    #[test]
    fn an_agent_with_others_under_its_uid_is_listed_once_and_until_they_are_gone() {
        let mut bench = Bench::new();
        let (mut first, mut second) = (bench.websocket(), bench.websocket());
        bench.send(&mut first, UID, 1);
        for number in 100..110 {
            bench.send(&mut second, UID, number);
            assert_eq!(bench.shard(|shard| shard.contested.len()), 1);
        }
        for _ in 0..3 {
            bench.now.instant += std::time::Duration::from_secs(1);
            let _ = bench.fleet.settle_duplicates(bench.now);
            bench.send(&mut second, UID, 110);
            assert_eq!(bench.shard(|shard| shard.contested.len()), 1);
        }
        let _ = bench.fleet.close_route(second);
        let _ = bench.fleet.settle_duplicates(bench.now);
        assert!(bench.shard(|shard| shard.contested.is_empty()));
        bench.send(&mut first, UID, 2);
        assert!(bench.shard(|shard| shard.contested.is_empty()));
    }

    #[test]
    fn where_an_agent_went_is_kept_for_who_handles_it_alone() {
        for handled in [false, true] {
            let bench = Bench::new();
            let mut route = bench.websocket();
            bench.send(&mut route, UID, 1);
            let taken = handled.then(|| bench.fleet.take_changes(UID)).flatten();
            assert_eq!(taken.is_some(), handled);
            let new = InstanceUid::from_bytes([8; 16]);
            bench.fleet.rename(UID, new, bench.now.instant).expect("it is free");
            bench.send(&mut route, new, 2);
            assert!(bench.fleet.agent(new).is_some());
            assert_eq!(bench.shard(|shard| shard.moved.len()), usize::from(handled));
            if let Some(taken) = taken {
                assert_eq!(bench.fleet.finish_changes(taken.token), Some(new.into()));
            }
            assert!(bench.shard(|shard| shard.moved.is_empty()));
        }
    }
}
