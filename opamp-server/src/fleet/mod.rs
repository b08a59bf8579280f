//! The registry of Agents.
//!
//! Here the Agent is the unit, not the connection: whichever [`Route`] its messages come on, they meet
//! the same machine in the same slot. The registry is divided into shards with a lock each, held for
//! the time of one message and never while anything waits; no lock is common to all Agents. It
//! does no I/O and knows no runtime, so it serves the service of this crate, a gateway and a
//! simulation of a million Agents alike.
//!
//! ```text
//!   connection ──open_route──▶ Route ──receive(bytes)──▶ Received (reply, changes)
//!                                │  ◀── RouteWaker::wake ── operations: set_remote_config, restart …
//!                                ├──poll_push──▶ a message to push
//!                                └──close_route
//! ```

use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use opamp_proto::{InstanceUid, LegacyUid, WireUid};

use crate::core::{
    Agent, AgentState, Changes, FullStatePace, Handled, Push, Refusal, RefusalKind, Scan,
    ServerConfig, Transport, later,
};
use crate::counters::{Counters, Counting};

mod authorize;
mod budget;
mod components;
mod desired;
mod handling;
mod inbox;
mod key;
mod operations;
mod received;
mod rename;
mod route;
mod shard;
mod snapshot;

pub use self::authorize::Authorizer;
pub use self::handling::{AgentChanges, ChangesToken};
pub use self::key::{AgentKey, Tenant};
pub use self::received::{Accepted, Received};
pub use self::route::{Route, RouteWaker};
pub use self::snapshot::AgentSnapshot;

use self::authorize::OneTenant;
use self::budget::Budget;
use self::components::Components;
use self::inbox::Inbox;
use self::received::Answer;
use self::route::RouteShared;
use self::shard::{News, PendingRename, Shard, Slot};

/// Parts of a message above this size are validated before the lock is taken.
const LARGE_PART: usize = 16 * 1024;

/// The moment something happens, on both clocks. The registry reads neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For pauses and deadlines.
    pub instant: Instant,
    /// For people: [`AgentSnapshot::last_seen`].
    pub system: SystemTime,
}

/// The registry of a Server's Agents. Clones are handles to the same registry.
///
/// `I` is the identity that admission gives a peer.
pub struct Fleet<I = ()> {
    inner: Arc<Inner<I>>,
}

struct Inner<I> {
    config: ServerConfig,
    authorizer: Box<dyn Authorizer<I>>,
    pace: Arc<FullStatePace>,
    shards: Box<[Mutex<Shard<I>>]>,
    hasher: RandomState,
    /// Agents in all shards.
    agents: AtomicUsize,
    /// What is retained of their reports.
    budget: Budget,
    /// Looked at only when an Agent tells something new of its components.
    components: Mutex<Components>,
    /// The number of the next route.
    routes: AtomicU64,
    /// The number of the next slot.
    serials: AtomicU64,
    /// Nanoseconds an Agent is told to stay away; [`AVAILABLE`] if the Server serves.
    unavailable: AtomicU64,
    counting: Counting,
}

const AVAILABLE: u64 = u64::MAX;

impl<I> Clone for Fleet<I> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<I> std::fmt::Debug for Fleet<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("agents", &self.len()).finish_non_exhaustive()
    }
}

impl<I> Default for Fleet<I> {
    fn default() -> Self {
        Self::new(ServerConfig::default())
    }
}

impl<I> Fleet<I> {
    /// An empty registry, of one tenant.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self::with_authorizer(config, OneTenant)
    }

    /// An empty registry whose peers may do what this authorizer says.
    #[must_use]
    pub fn with_authorizer(config: ServerConfig, authorizer: impl Authorizer<I> + 'static) -> Self {
        let pace = Arc::new(FullStatePace::new(config.full_state_rate));
        let shard = |_| Mutex::new(Shard::new(Arc::clone(&pace)));
        let shards = (0..config.shards.max(1)).map(shard).collect();
        let budget = Budget::new(config.max_fleet_bytes);
        Self {
            inner: Arc::new(Inner {
                config,
                authorizer: Box::new(authorizer),
                pace,
                shards,
                hasher: RandomState::new(),
                agents: AtomicUsize::new(0),
                budget,
                components: Mutex::default(),
                routes: AtomicU64::new(0),
                serials: AtomicU64::new(0),
                unavailable: AtomicU64::new(AVAILABLE),
                counting: Counting::default(),
            }),
        }
    }

    /// What the registry was made with.
    #[must_use]
    pub fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    /// Agents known, connected or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.agents.load(Ordering::Relaxed)
    }

    /// Whether no Agent is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes kept of what all Agents reported; see
    /// [`ServerConfig::max_fleet_bytes`](crate::ServerConfig::max_fleet_bytes). For the time of a
    /// message what it may add is counted as well.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.inner.budget.used()
    }

    /// Counts since the registry was made.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.counting.snapshot()
    }

    #[cfg(feature = "service")]
    pub(crate) fn counting(&self) -> &Counting {
        &self.inner.counting
    }

    fn shard(&self, key: &AgentKey) -> MutexGuard<'_, Shard<I>> {
        let shards = &self.inner.shards;
        // The remainder is less than the number of shards, which is a usize.
        let index = (self.inner.hasher.hash_one(key) % shards.len() as u64) as usize;
        lock(&shards[index])
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<I>>> {
        self.inner.shards.iter().map(lock)
    }
}

/// A panic while the lock was held leaves the maps whole, and at worst one Agent's report half taken
/// over; to refuse all its neighbours for ever would be worse.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What drivers call.
impl<I> Fleet<I> {
    /// Opens a route: once for each WebSocket, once for each HTTP request.
    ///
    /// `waker` is told of what there is to push; an HTTP request has none. All Agents on the route are
    /// of one tenant, which is asked of the [`Authorizer`] here.
    #[must_use]
    pub fn open_route(
        &self,
        transport: Transport,
        remote_addr: Option<SocketAddr>,
        identity: I,
        waker: Option<Arc<dyn RouteWaker>>,
    ) -> Route<I> {
        let id = self.inner.routes.fetch_add(1, Ordering::Relaxed);
        let tenant = self.inner.authorizer.tenant(&identity);
        let shared = Arc::new(RouteShared { id, tenant, transport, remote_addr, identity, waker });
        Route { shared, agents: Vec::new() }
    }

    /// Takes in a message and appends the head of its reply to `out`.
    ///
    /// `body` is the encoded `AgentToServer`, without the header of WebSocket messages. `fresh` makes
    /// an instance uid if the Agent asks for one: a new one each time, of version 7.
    ///
    /// There is always a reply, whatever the bytes are (STATUS-07, ERR-11).
    pub fn receive(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: &mut Vec<u8>,
    ) -> Received {
        let accepted = self.accept_into(route, body, now, fresh, Some(&mut *out));
        let Accepted { key, changes, queue, .. } = accepted;
        let refusal = accepted.refusal().cloned();
        let (tail, push) = self.compose(accepted, now, out);
        Received { key, changes, queue, tail, push, refusal }
    }

    /// Takes in a message whose reply is composed later by [`reply`](Self::reply), so that what a
    /// handler makes of its changes can go out in it.
    pub fn accept(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Accepted {
        self.accept_into(route, body, now, fresh, None)
    }

    /// Accepts a message. With `out` its reply is composed at once, under the same lock, where that is
    /// possible.
    fn accept_into(
        &self,
        route: &mut Route<I>,
        body: &[u8],
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: Option<&mut Vec<u8>>,
    ) -> Accepted {
        let counting = &self.inner.counting;
        counting.messages.add();
        let tenant = route.tenant();
        let (key, accepted) = match self.read(body) {
            Ok((uid, scan)) => {
                let key = AgentKey::new(tenant, uid);
                (Some(key), self.fold(route, key, &scan, now, fresh, out))
            }
            Err((uid, refusal)) => (uid.map(|uid| AgentKey::new(tenant, uid)), Err(refusal)),
        };
        let accepted = accepted.unwrap_or_else(|refusal| Accepted {
            key,
            changes: Changes::empty(),
            queue: false,
            ticket: 0,
            answer: Answer::Refuse(refusal),
        });
        match accepted.refusal().map(Refusal::kind) {
            Some(RefusalKind::Malformed) => counting.malformed.add(),
            Some(RefusalKind::OverLimit) => counting.over_limit.add(),
            Some(RefusalKind::Unavailable) => counting.unavailable.add(),
            Some(RefusalKind::Unknown) | None => {}
        }
        accepted
    }

    /// Composes the reply to an accepted message: appends its head to `out`, and returns the rest if
    /// there is one.
    #[must_use = "the tail is a part of the message"]
    pub fn reply(&self, accepted: Accepted, now: Now, out: &mut Vec<u8>) -> Option<Bytes> {
        self.compose(accepted, now, out).0
    }

    fn compose(&self, accepted: Accepted, now: Now, out: &mut Vec<u8>) -> (Option<Bytes>, bool) {
        let config = &self.inner.config;
        let (key, due) = match accepted.answer {
            Answer::Composed { tail, push, .. } => return (tail, push),
            Answer::Refuse(refusal) => {
                refusal.encode(accepted.key.as_ref().map(AgentKey::uid), out);
                return (None, false);
            }
            Answer::Acknowledge(due) => {
                due.acknowledge(config, out);
                return (None, false);
            }
            Answer::Reply(key, due) => (key, due),
        };
        let mut shard = self.shard(&key);
        match shard.slot(&key, config) {
            Some((slot, terms)) => slot.reply(due, terms, now, out),
            None => {
                due.acknowledge(config, out);
                (None, false)
            }
        }
    }

    /// Everything that can be decided without a lock.
    fn read<'a>(&self, body: &'a [u8]) -> Result<(WireUid, Scan<'a>), (Option<WireUid>, Refusal)> {
        let mut scan = Scan::new(body).map_err(|fault| (fault.uid().copied(), fault.into()))?;
        let uid = self.identify(scan.instance_uid())?;
        if let Some(pause) = self.unavailable() {
            let refusal = Refusal::unavailable("the Server is overloaded", Some(pause));
            return Err((Some(uid), refusal));
        }
        scan.validate_longer_than(LARGE_PART).map_err(|fault| (Some(uid), fault.into()))?;
        Ok((uid, scan))
    }

    /// ID-01, ID-05, reading A33.
    fn identify(&self, bytes: &[u8]) -> Result<WireUid, (Option<WireUid>, Refusal)> {
        let uid = WireUid::new(bytes).map_err(|error| {
            (None, Refusal::malformed(format!("AgentToServer.instance_uid: {error}")))
        })?;
        if uid.instance_uid().is_some() {
            return Ok(uid);
        }
        if self.inner.config.tolerances.legacy_instance_uid && LegacyUid::parse(bytes).is_some() {
            self.inner.counting.legacy_instance_uids.add();
            return Ok(uid);
        }
        let text =
            format!("AgentToServer.instance_uid: there are {} bytes instead of 16", bytes.len());
        Err((Some(uid), Refusal::malformed(text)))
    }

    fn fold(
        &self,
        route: &mut Route<I>,
        key: AgentKey,
        scan: &Scan<'_>,
        now: Now,
        fresh: &mut dyn FnMut() -> InstanceUid,
        out: Option<&mut Vec<u8>>,
    ) -> Result<Accepted, Refusal> {
        let config = &self.inner.config;
        let mut changes = Changes::empty();
        let mut reserved = None;
        let mut shard = self.shard(&key);
        if !shard.slots.contains_key(&key) {
            // It stays until the slot is there, so that nobody else is given the uid meanwhile.
            let rename = shard.renames.get(&key).copied();
            if let Some(rename) = rename.filter(|rename| now.instant < rename.expires) {
                drop(shard);
                // Nor must a message that is refused move it: the Agent would be on no route.
                self.admit(route, &rename.old)?;
                scan.validate()?;
                reserved = Some(self.reserve_for_moved(&rename, scan)?);
                changes |= self.move_slot(&rename, key);
                route.leave(&rename.old);
                shard = self.shard(&key);
            }
            if let Entry::Vacant(vacant) = shard.slots.entry(key) {
                // Nor does it make an Agent known.
                scan.validate()?;
                let nothing = AgentState::default();
                nothing.check_room(scan, config.max_retained_bytes)?;
                if reserved.is_none() {
                    reserved = Some(self.reserve(&nothing, scan)?);
                }
                vacant.insert(Box::new(self.new_slot(route, key, now)?));
            }
        }
        let Some((slot, terms)) = shard.slot(&key, config) else {
            // It was found or inserted under this very lock.
            return Err(Refusal::unavailable("the Agent is being removed", None));
        };

        if slot.is_remainder(route, scan, terms) {
            self.inner.counting.stale.add();
            scan.validate()?;
            slot.challenged = Some(route.shared.id);
            let due = slot.agent.challenge(route.shared.transport);
            return Ok(Accepted {
                key: Some(key),
                changes: Changes::empty(),
                queue: false,
                ticket: 0,
                answer: Answer::Acknowledge(due),
            });
        }
        let elsewhere = slot.route.id != route.shared.id;
        let arrives = elsewhere || !slot.is_connected() || changes.contains(Changes::INSTANCE_UID);
        if arrives {
            self.admit(route, &key)?;
            // A message that is refused must not take the Agent away from where it is served.
            scan.validate()?;
        }
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => self.reserve(slot.agent.state(), scan)?,
        };
        if arrives {
            route.join(key);
            slot.route = Arc::clone(&route.shared);
            slot.challenged = None;
        }
        if elsewhere && slot.is_connected() && route.shared.transport == Transport::WebSocket {
            changes |= slot.agent.handle_connected(Transport::WebSocket);
        }
        slot.last_seen = now;
        let before = slot.agent.state().retained_bytes();
        let handled =
            slot.agent.handle_message(scan, route.shared.transport, terms, now.instant, fresh);
        reserved.settle(before, slot.agent.state().retained_bytes());
        let Handled { changes: folded, due, new_instance_uid, custom_message } = handled;
        changes |= folded;
        if changes.contains(Changes::AVAILABLE_COMPONENTS) {
            self.note_components(key.tenant(), &mut slot.agent);
        }
        if let Some(message) = custom_message
            && self.keep(&mut slot.inbox, message)
        {
            changes |= Changes::CUSTOM_MESSAGES;
        }
        if due.is_goodbye() {
            route.leave(&key);
        }
        let queue = slot.news.note(changes);
        let ticket = slot.news.ticket();
        let answer = match (new_instance_uid, out) {
            (None, Some(out)) => {
                let refusal = due.refusal().cloned();
                let (tail, push) = slot.reply(due, terms, now, out);
                Answer::Composed { tail, push, refusal }
            }
            (new, _) => {
                let new = new.map(|new| key.tenant().agent(new));
                let outdated = new.and_then(|new| slot.give(new));
                let serial = slot.serial;
                drop(shard);
                // The Agent must not hear of its new uid before that is known here.
                if let Some(new) = new {
                    let expires = later(now.instant, config.rename_expiry);
                    let rename = PendingRename { old: key, serial, expires };
                    self.shard(&new).renames.insert(new, rename);
                }
                self.forget_rename(outdated, serial);
                Answer::Reply(key, due)
            }
        };
        Ok(Accepted { key: Some(key), changes, queue, ticket, answer })
    }

    /// Whether a connection may carry one more Agent.
    fn admit(&self, route: &Route<I>, key: &AgentKey) -> Result<(), Refusal> {
        let limit = self.inner.config.max_agents_per_connection;
        if route.agents.len() < limit || route.is_on(key) {
            return Ok(());
        }
        let text = format!("the connection already carries {limit} Agents");
        Err(Refusal::unavailable(text, None))
    }

    fn new_slot(&self, route: &Route<I>, key: AgentKey, now: Now) -> Result<Slot<I>, Refusal> {
        self.admit(route, &key)?;
        let limit = self.inner.config.max_agents;
        if self.inner.agents.fetch_add(1, Ordering::Relaxed) >= limit {
            self.inner.agents.fetch_sub(1, Ordering::Relaxed);
            let text = format!("the Server already serves {limit} Agents");
            return Err(Refusal::unavailable(text, None));
        }
        Ok(Slot {
            serial: self.inner.serials.fetch_add(1, Ordering::Relaxed),
            tenant: key.tenant(),
            agent: Agent::new(*key.uid()),
            route: Arc::clone(&route.shared),
            last_seen: now,
            news: News::default(),
            inbox: Inbox::default(),
            challenged: None,
            given: Vec::new(),
        })
    }

    /// Composes the next message to push to an Agent of this route, if there is one: appends its head
    /// to `out`. To be called until it returns `None`, when the connection can send.
    pub fn poll_push(
        &self,
        route: &Route<I>,
        key: impl Into<AgentKey>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<Push> {
        let key = key.into();
        let mut shard = self.shard(&key);
        let (slot, terms) = shard.slot(&key, &self.inner.config)?;
        if slot.route.id != route.shared.id {
            return None;
        }
        slot.agent.poll_push(terms, now.instant, out)
    }

    /// The connection is gone, and with it the sessions of the Agents on it (CLOSE-11).
    ///
    /// Returns the Agents that have to be queued for handling. An HTTP request ends without this: its
    /// Agent's session outlives it (reading A06).
    #[must_use = "the Agents have to be queued for handling"]
    pub fn close_route(&self, route: Route<I>) -> Vec<AgentKey> {
        let mut queue = Vec::new();
        for key in &route.agents {
            let mut shard = self.shard(key);
            let Some(slot) = shard.slots.get_mut(key) else { continue };
            if slot.route.id == route.shared.id {
                let changes = slot.agent.handle_lost();
                if slot.news.note(changes) {
                    queue.push(*key);
                }
            }
        }
        queue
    }

    /// Whether Agents wait for their turn to be asked for their full state, of which those on a
    /// WebSocket are told by [`sweep`](Self::sweep): it should then be called every second.
    #[must_use]
    pub fn is_pacing(&self, now: Instant) -> bool {
        self.inner.pace.has_waiting(now)
    }

    /// Marks silent HTTP Agents as disconnected and offers as timed out, and forgets what is long gone:
    /// to be called every few seconds. Returns the Agents that have to be queued for handling.
    #[must_use = "the Agents have to be queued for handling"]
    pub fn sweep(&self, now: Now) -> Vec<AgentKey> {
        let config = &self.inner.config;
        let mut queue = Vec::new();
        for mut shard in self.shards() {
            let (mut forgotten, mut retained) = (0, 0);
            shard.renames.retain(|_, rename| now.instant < rename.expires);
            shard.slots.retain(|key, slot| {
                let timed_out = slot.agent.handle_time(now.instant);
                if slot.news.note(timed_out) {
                    queue.push(*key);
                }
                if slot.agent.handle_turn(now.instant) {
                    slot.wake();
                }
                let silent = now.instant.saturating_duration_since(slot.last_seen.instant);
                if slot.agent.transport() == Some(Transport::Http)
                    && silent >= config.http_offline_after
                {
                    let changes = slot.agent.handle_lost();
                    if slot.news.note(changes) {
                        queue.push(*key);
                    }
                }
                let keep = slot.is_connected() || silent < config.retain_disconnected;
                if !keep {
                    forgotten += 1;
                    retained += slot.retained_bytes();
                }
                keep
            });
            self.inner.agents.fetch_sub(forgotten, Ordering::Relaxed);
            self.inner.budget.release(retained);
        }
        queue
    }
}
