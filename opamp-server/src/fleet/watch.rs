//! Watching the registry: who keeps a picture of the fleet elsewhere, such as a page or an index,
//! is told what to look at again.
//!
//! Nothing is queued for a [`Watch`]. Each Agent carries the revision of its shard at which it
//! changed last, and a watch remembers the revision of each shard it has seen; so whatever happens
//! between two looks comes together, a slow watch costs nothing, and shards without news are not
//! entered. Only of Agents that were forgotten a shard keeps a short list. A watch that is further
//! behind than that list begins anew. While nobody watches, nothing is counted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use super::{AgentKey, AgentSnapshot, Fleet, lock};

/// Agents that are handed out at a time; the last shard looked at may bring more.
const AT_A_TIME: usize = 1_024;

/// Forgotten Agents that a shard remembers for watches.
const MAX_DEPARTED: usize = 1_024;

/// What changed about a fleet since the last look.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct FleetChanges {
    /// The watch begins anew: forget every Agent, before looking at what is here. What is known
    /// follows in this and the next looks.
    pub anew: bool,
    /// Agents under keys that are known no more: forgotten, or known under another key since a
    /// change of their instance uid.
    pub forgotten: Vec<AgentKey>,
    /// Agents that are new, or about which something changed.
    pub agents: Vec<AgentSnapshot>,
}

/// The registry's part.
pub(super) struct Watching {
    watches: AtomicUsize,
    /// By shard. Written under the shard's lock only.
    revisions: Box<[AtomicU64]>,
    /// Watches that have seen everything and want to be woken.
    waiting: Mutex<Vec<(u64, Waker)>>,
    sleepers: AtomicUsize,
    ids: AtomicU64,
}

impl Watching {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            watches: AtomicUsize::new(0),
            revisions: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            waiting: Mutex::default(),
            sleepers: AtomicUsize::new(0),
            ids: AtomicU64::new(0),
        }
    }

    /// Something changed in a shard, whose lock is held: the revision at which it did, if anybody
    /// watches.
    fn next(&self, shard: usize) -> Option<u64> {
        // A watch that begins later than this takes the lock of the shard later, too.
        if self.watches.load(Ordering::Acquire) == 0 {
            return None;
        }
        let revision = self.revisions[shard].fetch_add(1, Ordering::SeqCst) + 1;
        // In one order with a watch that says it sleeps and looks again: one of both sees the
        // other.
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let mut waiting = lock(&self.waiting);
            self.sleepers.store(0, Ordering::SeqCst);
            waiting.drain(..).for_each(|(_, waker)| waker.wake());
        }
        Some(revision)
    }

    /// Notes that something changed about an Agent.
    pub(super) fn note(&self, shard: usize, changed_at: &mut u64) {
        if let Some(revision) = self.next(shard) {
            *changed_at = revision;
        }
    }

    /// Notes that a key is known no more.
    pub(super) fn note_departed(&self, shard: usize, departed: &mut Departed, key: AgentKey) {
        if let Some(revision) = self.next(shard) {
            departed.keys.push_back((revision, key));
            if departed.keys.len() > MAX_DEPARTED {
                departed.lost = departed.keys.pop_front().map_or(0, |(revision, _)| revision);
            }
        }
    }
}

/// A shard's list of keys that are known no more.
#[derive(Default)]
pub(super) struct Departed {
    keys: VecDeque<(u64, AgentKey)>,
    /// The revision of the last one that had to leave the list.
    lost: u64,
}

/// A view of a fleet's changes; see [`Fleet::watch`].
pub struct Watch<I> {
    fleet: Fleet<I>,
    id: u64,
    /// By shard.
    seen: Box<[Option<u64>]>,
    /// The shard to go on with.
    next: usize,
    anew: bool,
}

impl<I> Fleet<I> {
    /// Begins to watch the fleet. The first looks bring every Agent that is known.
    ///
    /// What is watched is everything in an [`AgentSnapshot`] but the number and the time of the
    /// last message, and whether what is offered was delivered.
    ///
    /// ```
    /// # async fn show(fleet: opamp_server::Fleet) {
    /// let mut watch = fleet.watch();
    /// loop {
    ///     let changes = watch.changed().await;
    ///     for agent in &changes.agents {
    ///         println!("{}: {:?}", agent.uid(), agent.state().health());
    ///     }
    ///     // To look less often, wait here; nothing is missed by that.
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn watch(&self) -> Watch<I> {
        let watching = &self.inner.watching;
        watching.watches.fetch_add(1, Ordering::AcqRel);
        Watch {
            fleet: self.clone(),
            id: watching.ids.fetch_add(1, Ordering::Relaxed),
            seen: vec![None; self.inner.shards.len()].into(),
            next: 0,
            anew: true,
        }
    }
}

impl<I> Watch<I> {
    /// Waits until there is something to look at, and hands it out: about a thousand Agents at a
    /// time.
    ///
    /// Cancel safe: what was not handed out is there at the next call.
    pub async fn changed(&mut self) -> FleetChanges {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    /// As [`changed`](Self::changed); without news the task is woken when there are some.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<FleetChanges> {
        if let Some(changes) = self.look() {
            return Poll::Ready(changes);
        }
        let watching = &self.fleet.inner.watching;
        {
            let mut waiting = lock(&watching.waiting);
            waiting.retain(|(id, _)| *id != self.id);
            waiting.push((self.id, cx.waker().clone()));
            watching.sleepers.store(waiting.len(), Ordering::SeqCst);
        }
        // Something may have changed before the waker was there.
        self.look().map_or(Poll::Pending, Poll::Ready)
    }

    /// What changed, if anything did.
    pub fn look(&mut self) -> Option<FleetChanges> {
        let shards = self.seen.len();
        let mut changes = FleetChanges::default();
        for _ in 0..shards {
            if changes.agents.len() >= AT_A_TIME {
                break;
            }
            let shard = self.next;
            if !self.look_at(shard, &mut changes) {
                // It has forgotten what this watch was not told: everything is told again.
                self.seen.fill(None);
                self.anew = true;
                return self.look();
            }
            self.next = (shard + 1) % shards;
        }
        changes.anew = std::mem::take(&mut self.anew);
        let nothing = changes.agents.is_empty() && changes.forgotten.is_empty() && !changes.anew;
        (!nothing).then_some(changes)
    }

    /// Looks at one shard. False if the watch is too far behind.
    fn look_at(&mut self, place: usize, changes: &mut FleetChanges) -> bool {
        let inner = &self.fleet.inner;
        let seen = self.seen[place];
        if seen == Some(inner.watching.revisions[place].load(Ordering::SeqCst)) {
            return true;
        }
        let shard = lock(&inner.shards[place]);
        if seen.is_some_and(|seen| seen < shard.departed.lost) {
            return false;
        }
        // Under the lock it stays as it is.
        self.seen[place] = Some(inner.watching.revisions[place].load(Ordering::Acquire));
        let terms = shard.terms(&inner.config);
        let news =
            shard.slots.values().filter(|slot| seen.is_none_or(|seen| slot.changed_at > seen));
        changes.agents.extend(news.map(|slot| slot.snapshot(terms)));
        if let Some(seen) = seen {
            let keys = shard.departed.keys.iter().rev();
            let keys = keys.take_while(|(revision, _)| *revision > seen).map(|(_, key)| *key);
            // A key that is in use again is told as an Agent.
            changes.forgotten.extend(keys.filter(|key| !shard.slots.contains_key(key)));
        }
        true
    }
}

impl<I> Drop for Watch<I> {
    fn drop(&mut self) {
        let watching = &self.fleet.inner.watching;
        watching.watches.fetch_sub(1, Ordering::AcqRel);
        lock(&watching.waiting).retain(|(id, _)| *id != self.id);
    }
}

impl<I> std::fmt::Debug for Watch<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("fleet", &self.fleet).finish_non_exhaustive()
    }
}
