//! What has changed since it was last written to a store, and which replies have to wait for that.
//!
//! The registry writes nothing itself: it hands out [batches](Batch) of changes. Whoever writes
//! them takes one at a time, writes it whole, again and again if it fails, and says when it is
//! [saved](Fleet::saved). Meanwhile Agents that change are marked, each once whatever changes about
//! it, so what is kept to be written is bounded by the number of Agents.
//!
//! Changes are counted in generations. A message that changes what is known of an Agent belongs to
//! the generation under way, and its reply is not to be sent before that is saved: an Agent that
//! was answered need not tell again. A message without news changes the Agent's number and when it
//! was last seen; these may lag, and are taken now and then for all Agents together.
//!
//! ```text
//!   message ──▶ mark, wait for generation n          take_unsaved      write       saved
//!   operator ──▶ mark                        ───▶ n+1 begins ──▶ batches … ──▶ last one: n is saved
//!                                                                                   │
//!                       replies of generation n are sent, settings of it are offered ◀┘
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use opamp_proto::Message as _;

use super::entry::{Change, FORMAT, Kind};
use super::shard::Slot;
use super::{AgentKey, Fleet, Now, lock};
use crate::core::{Anchor, Changes, Dealings, Part, Value, ValueKey, WantedRecord};

/// Agents that are looked at while the lock of their shard is held.
const CHUNK: usize = 64;

/// How the registry tells who writes that there is something urgent.
///
/// Called under a lock of the registry: it has to return at once and must not call the registry.
pub trait SaveWaker: Send + Sync {
    /// Somebody waits for what [`Fleet::take_unsaved`] has to hand out.
    fn wake(&self);
}

/// Changes to be written together: all of them or none, in their order.
#[derive(Debug)]
#[must_use = "changes that are not written are lost to the store"]
pub struct Batch {
    changes: Arc<[Change]>,
    /// The generation that is saved with this batch.
    completes: Option<u64>,
}

impl Batch {
    /// The changes, in the order they are to be written in. None are there if a generation brought
    /// nothing new: then there is nothing to be written.
    #[must_use]
    pub const fn changes(&self) -> &Arc<[Change]> {
        &self.changes
    }
}

/// The registry's part.
pub(super) struct Saving {
    /// There is a store if there is a waker.
    waker: OnceLock<Arc<dyn SaveWaker>>,
    /// The generation that changes belong to now; the first is 1.
    generation: AtomicU64,
    pub(super) saved: AtomicU64,
    /// The latest generation that somebody waits for.
    wanted: AtomicU64,
    /// What all Agents should have was changed.
    defaults: AtomicBool,
    /// The generation that connection settings for all belong to.
    pub(super) default_settings: AtomicU64,
    collector: Mutex<Collector>,
}

/// What was handed out so far.
#[derive(Default)]
pub(super) struct Collector {
    versioned: bool,
    pass: Option<Pass>,
    /// How many Agents, or defaults, refer to a value in the store.
    pub(super) references: HashMap<ValueKey, usize>,
    /// The values that the defaults in the store refer to.
    pub(super) defaults: Vec<ValueKey>,
    /// Entries found in the store that are of no use.
    pub(super) useless: Vec<Vec<u8>>,
    /// Agents of which settings may be held back until the generation being handed out is saved.
    pub(super) held: Vec<AgentKey>,
}

/// A walk through all shards.
struct Pass {
    generation: u64,
    /// Agents of which only number and time have changed are taken, too.
    lagging: bool,
    shard: usize,
    /// The shard's Agents that are still to be looked at; `None` before it was entered.
    agents: Option<Vec<AgentKey>>,
}

/// What one Agent has to be written of, and what the store has of it.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Parts to be written, by the bits of their index.
    parts: u16,
    dealings: bool,
    vitals: bool,
    /// The Agent is in its shard's list.
    queued: bool,
    /// Replies have to wait for this generation.
    due: u64,
    /// What the operator wants belongs to this generation.
    pub(super) wanted: u64,
    stored: Stored,
    /// Where the store has the Agent that has another instance uid now.
    was: Option<Box<(AgentKey, Stored)>>,
}

/// What a store has of one Agent.
#[derive(Debug, Default)]
pub(super) struct Stored {
    vitals: bool,
    dealings: bool,
    /// By the bits of their index.
    parts: u16,
    values: Vec<ValueKey>,
}

/// What noting a change came to.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Noted {
    /// The generation a reply has to wait for; 0 for none.
    pub(super) due: u64,
    /// The Agent has to be put into its shard's list.
    pub(super) queue: bool,
}

fn bit(part: Part) -> u16 {
    1 << part.index()
}

impl Default for Saving {
    fn default() -> Self {
        Self {
            waker: OnceLock::new(),
            generation: AtomicU64::new(1),
            saved: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            defaults: AtomicBool::new(false),
            default_settings: AtomicU64::new(0),
            collector: Mutex::default(),
        }
    }
}

impl Saving {
    pub(super) fn is_on(&self) -> bool {
        self.waker.get().is_some()
    }

    pub(super) fn collector(&self) -> MutexGuard<'_, Collector> {
        lock(&self.collector)
    }

    /// The generation under way, which somebody waits for from now on. To be called under the lock
    /// of what has changed: whoever begins the next generation then looks at it afterwards.
    fn want(&self) -> u64 {
        let generation = self.generation.load(Ordering::Acquire);
        if self.wanted.fetch_max(generation, Ordering::AcqRel) < generation
            && let Some(waker) = self.waker.get()
        {
            waker.wake();
        }
        generation
    }

    /// Whether everything is saved that anybody waits for.
    pub(super) fn is_settled(&self) -> bool {
        self.wanted.load(Ordering::Acquire) <= self.saved.load(Ordering::Acquire)
    }

    fn due(&self, written: &Written) -> u64 {
        match written.due > self.saved.load(Ordering::Acquire) {
            true => written.due,
            false => 0,
        }
    }

    /// The operator is about to want something else for all. No generation begins before what this
    /// returns is dropped, so the change belongs to the one under way.
    pub(super) fn change_defaults(&self, settings: bool) -> Option<MutexGuard<'_, Collector>> {
        if !self.is_on() {
            return None;
        }
        let collector = self.collector();
        self.defaults.store(true, Ordering::Release);
        let generation = self.want();
        if settings {
            self.default_settings.store(generation, Ordering::Release);
        }
        Some(collector)
    }
}

/// Changes that ask for an Agent to be written before it is answered.
fn news() -> Changes {
    let parts = Part::STATE.into_iter().map(Part::change);
    let others = [Changes::CAPABILITIES, Changes::INSTANCE_UID, Changes::CERTIFICATE_REQUEST];
    parts.chain(others).collect()
}

/// What is noted of an Agent, under the lock of its shard.
impl<I> Slot<I> {
    /// A message was taken over. `renamed`: a new instance uid was made for the Agent.
    pub(super) fn note_message(
        &mut self,
        changes: Changes,
        renamed: bool,
        saving: &Saving,
    ) -> Noted {
        if !saving.is_on() {
            return Noted::default();
        }
        let written = self.written.get_or_insert_default();
        written.vitals = true;
        written.dealings |= renamed;
        let urgent = renamed || changes.intersects(news());
        if !urgent {
            return Noted { due: saving.due(written), queue: false };
        }
        for part in Part::STATE {
            if changes.contains(part.change()) {
                written.parts |= bit(part);
            }
        }
        let dealings = Changes::REMOTE_CONFIG_STATUS
            | Changes::CONNECTION_SETTINGS_STATUS
            | Changes::PACKAGE_STATUSES
            | Changes::CERTIFICATE_REQUEST;
        written.dealings |= changes.intersects(dealings);
        written.due = saving.want();
        Noted { due: written.due, queue: !std::mem::replace(&mut written.queued, true) }
    }

    /// The operator wants something of the Agent.
    pub(super) fn note_operation(&mut self, saving: &Saving) -> Noted {
        if !saving.is_on() {
            return Noted::default();
        }
        let written = self.written.get_or_insert_default();
        written.dealings = true;
        written.wanted = saving.want();
        Noted { due: 0, queue: !std::mem::replace(&mut written.queued, true) }
    }

    /// Something was offered, or an offer has timed out, which may be written later.
    pub(super) fn note_offers(&mut self) {
        if let Some(written) = &mut self.written {
            written.dealings = true;
        }
    }

    /// The Agent is known by another key from now on, under which the store has nothing of it.
    pub(super) fn note_moved(&mut self, old: AgentKey) {
        let Some(written) = &mut self.written else { return };
        let stored = std::mem::take(&mut written.stored);
        if stored.vitals {
            written.was = Some(Box::new((old, stored)));
        }
        written.parts = Part::STATE.into_iter().fold(0, |all, part| all | bit(part));
        written.dealings = true;
        written.vitals = true;
        // It is in the list of another shard, under its old key.
        written.queued = false;
    }

    /// The Agent is forgotten here: what the store has of it, by where it has it.
    pub(super) fn into_stored(self) -> impl Iterator<Item = (AgentKey, Stored)> {
        let key = self.key();
        let Written { stored, was, .. } = self.written.map(|it| *it).unwrap_or_default();
        let was = was.map(|was| *was);
        stored.vitals.then_some((key, stored)).into_iter().chain(was)
    }

    /// The slot was made from what a store has.
    pub(super) fn restored(&mut self) -> &mut Stored {
        &mut self.written.get_or_insert_default().stored
    }

    fn write(&mut self, holder: Option<Vec<u8>>, out: &mut Out<'_>) -> Option<(AgentKey, Stored)> {
        let key = self.key();
        let Some(written) = &mut self.written else { return None };
        let (due, wanted) = (written.due, written.wanted);
        let Written { parts, dealings, mut stored, was, .. } = std::mem::take(&mut **written);
        // As long as that is not saved, a repetition of what is being written has to wait as well.
        (written.due, written.wanted) = (due, wanted);
        for part in Part::STATE {
            match self.agent.state().encoded(part) {
                Some(content) if parts & bit(part) != 0 => {
                    out.put(Kind::Part(key, part), content.clone());
                    stored.parts |= bit(part);
                }
                None if stored.parts & bit(part) != 0 => {
                    out.remove(Kind::Part(key, part));
                    stored.parts &= !bit(part);
                }
                _ => {}
            }
        }
        if dealings {
            let mut record = self.agent.dealings(out.now);
            if let Some(rename) = &mut record.rename {
                let given = self.given.iter().map(|given| given.uid().as_bytes().to_vec());
                rename.given = given.collect();
            }
            if record != Dealings::default() {
                out.put(Kind::Dealings(key), record.encode_to_vec());
                stored.dealings = true;
            } else if std::mem::take(&mut stored.dealings) {
                out.remove(Kind::Dealings(key));
            }
            out.refer(&mut stored.values, self.agent.values());
        }
        let mut vitals = self.agent.vitals();
        vitals.last_seen = out.now.millis(self.last_seen.instant);
        vitals.http = self.route.transport == crate::core::Transport::Http;
        vitals.holder = holder;
        out.put(Kind::Vitals(key), vitals.encode_to_vec());
        stored.vitals = true;
        written.stored = stored;
        was.map(|was| *was)
    }
}

impl Stored {
    pub(super) const fn note_vitals(&mut self) {
        self.vitals = true;
    }

    pub(super) fn note_part(&mut self, part: Part) {
        self.parts |= bit(part);
    }

    pub(super) fn note_dealings(&mut self, values: Vec<ValueKey>) {
        self.dealings = true;
        self.values = values;
    }

    fn take_over(&mut self, other: Self) {
        self.vitals |= other.vitals;
        self.dealings |= other.dealings;
        self.parts |= other.parts;
        self.values.extend(other.values);
    }
}

/// A batch that is being put together.
struct Out<'a> {
    now: Anchor,
    changes: Vec<Change>,
    size: usize,
    references: &'a mut HashMap<ValueKey, usize>,
    held: &'a mut Vec<AgentKey>,
}

impl Out<'_> {
    fn add(&mut self, change: Change) {
        self.size += change.size();
        self.changes.push(change);
    }

    fn put(&mut self, kind: Kind, value: impl Into<bytes::Bytes>) {
        self.add(Change::put(kind.encode(), value));
    }

    fn remove(&mut self, kind: Kind) {
        self.add(Change::remove(kind.encode()));
    }

    /// Whoever referred to the values of these keys refers to these values now.
    fn refer(&mut self, keys: &mut Vec<ValueKey>, values: impl Iterator<Item = Value>) {
        let before = std::mem::take(keys);
        for value in values {
            let key = value.key();
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            let references = self.references.entry(key).or_insert(0);
            *references += 1;
            if *references == 1 {
                self.put(Kind::Value(key), value.encode());
            }
        }
        before.into_iter().for_each(|key| self.let_go(key));
    }

    fn let_go(&mut self, key: ValueKey) {
        let Entry::Occupied(mut references) = self.references.entry(key) else { return };
        *references.get_mut() -= 1;
        if *references.get() == 0 {
            references.remove();
            self.remove(Kind::Value(key));
        }
    }

    /// What the store has of an Agent is of no use any more.
    fn forget(&mut self, key: AgentKey, stored: Stored) {
        for part in Part::STATE {
            if stored.parts & bit(part) != 0 {
                self.remove(Kind::Part(key, part));
            }
        }
        if stored.dealings {
            self.remove(Kind::Dealings(key));
        }
        if stored.vitals {
            self.remove(Kind::Vitals(key));
        }
        stored.values.into_iter().for_each(|value| self.let_go(value));
    }
}

/// What a writer calls.
impl<I> Fleet<I> {
    /// From now on changes are kept track of, to be handed out by
    /// [`take_unsaved`](Self::take_unsaved), and [`Accepted::unsaved`](super::Accepted::unsaved)
    /// and [`Received::unsaved`](super::Received::unsaved) say which replies have to wait. To be
    /// called once, before the first Agent arrives; what a store has is to be
    /// [restored](Self::restore) then.
    pub fn begin_saving(&self, waker: Arc<dyn SaveWaker>) {
        // A second writer would take what the first one waits for.
        let _ = self.inner.saving.waker.set(waker);
    }

    /// Whether changes are kept track of.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.inner.saving.is_on()
    }

    /// The next batch to be written; `None` if nothing is urgent. With `lagging`, Agents of which
    /// only number and time have changed are taken as well, and there always is a batch. Once it is
    /// written, pass it to [`saved`](Self::saved), and only then take the next.
    ///
    /// A batch has about `max_bytes`, and at least what one Agent changed.
    pub fn take_unsaved(&self, now: Now, lagging: bool, max_bytes: usize) -> Option<Batch> {
        let saving = &self.inner.saving;
        let mut collector = saving.collector();
        let Collector { versioned, pass, references, defaults, useless, held } = &mut *collector;
        let now = Anchor::new(now.instant, now.system);
        let mut out = Out { now, changes: Vec::new(), size: 0, references, held };
        let current = match pass {
            Some(pass) => pass,
            None => {
                let wanted = saving.wanted.load(Ordering::Acquire);
                if !lagging && wanted < saving.generation.load(Ordering::Acquire) {
                    return None;
                }
                let generation = saving.generation.fetch_add(1, Ordering::AcqRel);
                if !std::mem::replace(versioned, true) {
                    out.put(Kind::Version, FORMAT);
                }
                useless.drain(..).for_each(|key| out.add(Change::remove(key)));
                if saving.defaults.swap(false, Ordering::AcqRel) {
                    self.write_defaults(&mut out, defaults);
                }
                pass.insert(Pass { generation, lagging, shard: 0, agents: None })
            }
        };
        while out.size < max_bytes {
            if !self.walk(current, max_bytes, &mut out) {
                let completes = Some(current.generation);
                *pass = None;
                return Some(Batch { changes: out.changes.into(), completes });
            }
        }
        Some(Batch { changes: out.changes.into(), completes: None })
    }

    /// A batch is written, and safe.
    pub fn saved(&self, batch: Batch) {
        if let Some(generation) = batch.completes {
            self.inner.saving.saved.fetch_max(generation, Ordering::AcqRel);
            self.release_settings(generation);
        }
    }

    /// Whether a generation is saved: [`Accepted::unsaved`](super::Accepted::unsaved) says which.
    #[must_use]
    pub fn is_saved(&self, generation: u64) -> bool {
        self.inner.saving.saved.load(Ordering::Acquire) >= generation
    }

    /// Asks for what was changed so far to be saved soon, lagging numbers and times not counted,
    /// and says which generation that is.
    #[must_use]
    pub fn request_save(&self) -> u64 {
        self.inner.saving.want()
    }

    fn write_defaults(&self, out: &mut Out<'_>, keys: &mut Vec<ValueKey>) {
        let desired = self.defaults();
        out.refer(keys, desired.values());
        let record = WantedRecord::new(&desired);
        match record == WantedRecord::default() {
            true => out.remove(Kind::Defaults),
            false => out.put(Kind::Defaults, record.encode_to_vec()),
        }
    }

    /// Goes on with a walk for a few Agents. False at its end.
    fn walk(&self, pass: &mut Pass, max_bytes: usize, out: &mut Out<'_>) -> bool {
        let Some(shard) = self.inner.shards.get(pass.shard) else { return false };
        let forgotten = std::mem::take(&mut lock(shard).forgotten);
        forgotten.into_iter().for_each(|(key, stored)| self.forget(key, stored, out));
        let mut shard = lock(shard);
        let agents = match &mut pass.agents {
            Some(agents) => agents,
            None => {
                let mut agents = std::mem::take(&mut shard.unsaved);
                if pass.lagging {
                    let lagging = shard.slots.values().filter(|slot| {
                        let written = slot.written.as_ref();
                        written.is_some_and(|it| !it.queued && (it.vitals || it.dealings))
                    });
                    agents.extend(lagging.map(Slot::key));
                }
                pass.agents.insert(agents)
            }
        };
        let mut moved = Vec::new();
        for _ in 0..CHUNK {
            if out.size >= max_bytes {
                break;
            }
            let Some(key) = agents.pop() else { break };
            if let Some(slot) = shard.slots.get_mut(&key) {
                let identity = slot.route.identity.as_ref().filter(|_| !slot.released);
                let holder = identity.and_then(|it| self.inner.authorizer.store_identity(it));
                if slot.holds_settings(&self.inner.saving) {
                    out.held.push(slot.key());
                }
                moved.extend(slot.write(holder, out));
            }
        }
        let done = agents.is_empty();
        drop(shard);
        for (key, stored) in moved {
            self.forget(key, stored, out);
        }
        if done {
            pass.agents = None;
            pass.shard += 1;
        }
        true
    }

    /// What the store has under this key is of no use, unless an Agent is back there by now. One
    /// whose uid has changed is written before, under its new key.
    fn forget(&self, key: AgentKey, stored: Stored, out: &mut Out<'_>) {
        let mut shard = self.shard(&key);
        match shard.slots.get_mut(&key) {
            Some(slot) => {
                let written = slot.written.get_or_insert_default();
                written.stored.take_over(stored);
                written.dealings = true;
                written.vitals = true;
            }
            None => out.forget(key, stored),
        }
    }
}
