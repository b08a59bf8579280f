//! The registry of Agents.
//!
//! Here the Agent is the unit, not the connection: whichever [`Route`] its messages come on, they
//! meet the same machine in the same slot. The registry is divided into shards with a lock each,
//! held for the time of one message and never while anything waits; no lock is common to all
//! Agents. It does no I/O and knows no runtime, so it serves the service of this crate, a gateway
//! and a simulation of a million Agents alike.
//!
//! ```text
//!   connection ──open_route──▶ Route ──receive(bytes)──▶ Received (reply, changes)
//!                                │  ◀── RouteWaker::wake ── operations: set_remote_config, restart …
//!                                ├──poll_push──▶ a message to push
//!                                └──close_route
//! ```

use std::collections::hash_map::RandomState;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use crate::core::{FullStatePace, Push, ServerConfig, Transport};
use crate::counters::{Counters, Counting};

mod accept;
mod authorize;
mod budget;
mod certificates;
mod components;
mod desired;
mod duplicates;
mod entry;
mod handling;
mod inbox;
mod key;
mod load;
mod lookup;
mod operations;
mod received;
mod rename;
mod restore;
mod route;
mod saving;
mod settings_hold;
mod shard;
mod slots;
mod snapshot;
mod tally;
mod watch;

pub use self::authorize::{Authorizer, Claim, Denied};
pub use self::entry::Change;
#[cfg(feature = "service")]
pub(crate) use self::entry::is_beside;
pub use self::handling::{AgentChanges, ChangesToken};
pub use self::key::{AgentKey, Tenant};
pub use self::load::Load;
pub use self::operations::Connected;
pub use self::received::{Accepted, Received};
pub use self::restore::{InvalidEntry, Restore, Restored};
pub use self::route::{Route, RouteWaker};
pub use self::saving::{Batch, SaveWaker};
pub use self::snapshot::AgentSnapshot;
pub use self::watch::{FleetChanges, Watch};

use self::authorize::Everyone;
use self::budget::Budget;
use self::components::Components;
use self::load::Availability;
use self::route::RouteShared;
use self::saving::Saving;
use self::shard::Shard;
use self::slots::{Find, Hashed};
use self::watch::Watching;

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
    /// Looked at only when an Agent tells something new of its components, or comes back with a
    /// hash of them.
    components: Mutex<Components>,
    saving: Saving,
    watching: Watching,
    /// The number of the next route.
    routes: AtomicU64,
    /// The number of the next slot.
    serials: AtomicU64,
    availability: Availability,
    counting: Arc<Counting>,
}

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
    /// An empty registry, of one tenant, in which every peer may speak for every Agent.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self::with_authorizer(config, Everyone)
    }

    /// An empty registry whose peers may do what this authorizer says.
    #[must_use]
    pub fn with_authorizer(config: ServerConfig, authorizer: impl Authorizer<I> + 'static) -> Self {
        let pace = Arc::new(FullStatePace::new(config.full_state_rate));
        let hasher = RandomState::new();
        let shard = |_| Mutex::new(Shard::new(Arc::clone(&pace), hasher.clone()));
        let shards = (0..config.shards.max(1)).map(shard).collect();
        let budget = Budget::new(config.max_fleet_bytes);
        let watching = Watching::new(config.shards.max(1));
        let availability = Availability::new(&config);
        Self {
            inner: Arc::new(Inner {
                config,
                authorizer: Box::new(authorizer),
                pace,
                shards,
                hasher,
                agents: AtomicUsize::new(0),
                budget,
                components: Mutex::default(),
                saving: Saving::default(),
                watching,
                routes: AtomicU64::new(0),
                serials: AtomicU64::new(0),
                availability,
                counting: Arc::default(),
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

    #[cfg(feature = "service")]
    pub(crate) fn counting_handle(&self) -> Arc<Counting> {
        Arc::clone(&self.inner.counting)
    }

    fn shard(&self, key: &impl Find) -> MutexGuard<'_, Shard<I>> {
        lock(&self.inner.shards[self.place(key)])
    }

    /// Which shard an Agent belongs to.
    fn place(&self, key: &impl Find) -> usize {
        key.hashed(&self.inner.hasher).place(self.inner.shards.len())
    }

    /// The key with its hash, to be looked up more than once.
    fn hashed(&self, key: &AgentKey) -> Hashed {
        key.hashed(&self.inner.hasher)
    }

    fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Shard<I>>> {
        self.inner.shards.iter().map(lock)
    }
}

/// A panic while the lock was held leaves the maps whole, and at worst one Agent's report half
/// taken over; to refuse all its neighbours for ever would be worse.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What drivers call.
impl<I> Fleet<I> {
    /// Opens a route: once for each WebSocket, once for each HTTP request.
    ///
    /// `waker` is told of what there is to push; an HTTP request has none. All Agents on the route
    /// are of one tenant, which is asked of the [`Authorizer`] here.
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
        let shared = Arc::new(RouteShared {
            id,
            tenant,
            transport,
            remote_addr,
            identity: Some(identity),
            waker,
        });
        Route { shared, agents: Vec::new(), first_hash: None, offered: Vec::new(), arrived: false }
    }

    /// Composes the next message to push to an Agent of this route, if there is one: appends its
    /// head to `out`. To be called when the connection can send, until it returns `None` or says
    /// that there is no [more](Push::more).
    pub fn poll_push(
        &self,
        route: &Route<I>,
        key: impl Into<AgentKey>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> Option<Push> {
        let key = self.hashed(&key.into());
        let mut shard = self.shard(&key);
        let (slot, terms) = shard.slot(&key, &self.inner.config)?;
        if slot.route.id != route.shared.id {
            let told = self.poll_rename(slot, route, now.instant, out);
            return told.then_some(Push { tail: None, more: true });
        }
        let terms = terms.holding_settings(slot.holds_settings(&self.inner.saving));
        let push = slot.agent.poll_push(terms, now.instant, out);
        if push.as_ref().is_some_and(|push| push.tail.is_some()) {
            slot.note_offers();
        }
        self.count(&mut slot.agent, true);
        push
    }

    /// The connection is gone, and with it the sessions of the Agents on it (CLOSE-11).
    ///
    /// Returns the Agents that have to be queued for handling. An HTTP request ends without this:
    /// its Agent's session outlives it (reading A06).
    #[must_use = "the Agents have to be queued for handling"]
    pub fn close_route(&self, route: Route<I>) -> Vec<AgentKey> {
        let mut queue = Vec::new();
        for key in &route.agents {
            let mut shard = self.shard(key);
            let Some(slot) = shard.slots.get_mut(key) else { continue };
            if self.route_lost(slot, &route) {
                queue.push(*key);
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

    /// Marks Agents as disconnected that are silent for too long
    /// ([`ServerConfig::missed_heartbeats`](crate::ServerConfig::missed_heartbeats),
    /// [`ServerConfig::http_offline_after`](crate::ServerConfig::http_offline_after)) and offers as
    /// timed out, asks Agents again that owe their full state, [settles](Self::settle_duplicates)
    /// what is open about duplicates, and forgets what is long gone: to be called every few
    /// seconds. Returns the Agents that have to be queued for handling.
    #[must_use = "the Agents have to be queued for handling"]
    pub fn sweep(&self, now: Now) -> Vec<AgentKey> {
        let config = &self.inner.config;
        let mut queue = Vec::new();
        for (place, mut shard) in self.shards().enumerate() {
            let (mut forgotten, mut retained, mut expired) = (Vec::new(), 0, 0);
            shard.renames.retain(|_, rename| now.instant < rename.expires);
            shard.retain(config, |slot, terms| {
                let timed_out = slot.agent.handle_time(now.instant);
                self.count(&mut slot.agent, false);
                if !timed_out.is_empty() {
                    slot.note_offers();
                }
                if slot.agent.handle_turn(terms, now.instant) {
                    slot.wake();
                }
                let asking = slot.agent.retained_bytes();
                slot.agent.expire_certificate_request(config, now.instant);
                if asking > slot.agent.retained_bytes() {
                    expired += asking - slot.agent.retained_bytes();
                    slot.note_offers();
                }
                let silent = now.instant.saturating_duration_since(slot.last_seen.instant);
                let transport = slot.agent.transport();
                let gone = slot.agent.handle_silence(silent, config);
                if !gone.is_empty() {
                    match transport {
                        Some(Transport::WebSocket) => self.inner.counting.silent_websockets.add(),
                        _ => self.inner.counting.silent_http.add(),
                    }
                }
                if self.note_changes(slot, timed_out | gone) {
                    queue.push(slot.key());
                }
                let keep = slot.is_connected() || silent < config.retain_disconnected;
                if !keep {
                    forgotten.push(slot.key());
                    retained += slot.retained_bytes();
                }
                keep
            });
            self.inner.agents.fetch_sub(forgotten.len(), Ordering::Relaxed);
            for key in forgotten {
                self.inner.watching.note_departed(place, &mut shard.departed, key);
            }
            self.inner.budget.release(retained + expired);
        }
        queue.extend(self.settle_duplicates(now));
        queue
    }
}
