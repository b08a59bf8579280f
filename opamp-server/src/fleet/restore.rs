//! The registry as a store has it: after a restart it knows its Agents as before, disconnected.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use opamp_proto::{Message as _, WireUid};

use super::entry::{FORMAT, Hex, Kind, is_beside};
use super::inbox::Inbox;
use super::route::RouteShared;
use super::shard::{News, PendingRename, Slot};
use super::{AgentKey, Fleet, Now};
use crate::core::{
    Agent, Anchor, Dealings, Part, Transport, Value, ValueKey, Values, Vitals, WantedRecord,
};

/// An entry of a store cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the stored entry {key} cannot be read: {what}. To start without what is stored, move it away: \
     Agents then report anew, and what was set for them has to be set again, and what was revoked revoked"
)]
pub struct InvalidEntry {
    key: String,
    what: String,
}

/// What was found in a store.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Agents that are known again.
    pub agents: usize,
    /// Agents that had been silent for longer than
    /// [`retain_disconnected`](crate::ServerConfig::retain_disconnected) when the Server went down,
    /// and are forgotten.
    pub forgotten: usize,
}

/// Takes over the entries of a store, in the order of their keys.
#[must_use = "nothing is restored before `finish`"]
pub struct Restore<'a, I> {
    fleet: &'a Fleet<I>,
    now: Now,
    anchor: Anchor,
    versioned: bool,
    values: Values,
    useless: Vec<Vec<u8>>,
    restored: Restored,
    /// When any Agent was seen last, in milliseconds since 1970.
    latest: u64,
    /// In place of the connection of the Agents that come now.
    route: Option<Arc<RouteShared<I>>>,
}

impl<I> std::fmt::Debug for Restore<'_, I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Restore").field("restored", &self.restored).finish_non_exhaustive()
    }
}

impl<I> Fleet<I> {
    /// Begins to take over what a store has: to be called after
    /// [`begin_saving`](Self::begin_saving) and before the first Agent arrives.
    ///
    /// Agents are restored whatever [`max_agents`](crate::ServerConfig::max_agents) and
    /// [`max_fleet_bytes`](crate::ServerConfig::max_fleet_bytes) say; should there be more than
    /// that, there is no room for others until there are less.
    pub fn restore(&self, now: Now) -> Restore<'_, I> {
        Restore {
            fleet: self,
            now,
            anchor: Anchor::new(now.instant, now.system),
            versioned: false,
            values: Values::new(),
            useless: Vec::new(),
            restored: Restored::default(),
            latest: 0,
            route: None,
        }
    }
}

impl<I> Restore<'_, I> {
    /// Takes over an entry. It has to come after all those with lesser keys.
    ///
    /// # Errors
    ///
    /// [`InvalidEntry`]: the store is damaged, or was written by a later version. The registry is
    /// then incomplete, and the Server should not serve with it.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), InvalidEntry> {
        self.take_over(key, value).map_err(|what| InvalidEntry { key: Hex(key).to_string(), what })
    }

    fn take_over(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let kind = Kind::decode(key);
        if !self.versioned && kind != Some(Kind::Version) {
            return Err("what was written first is missing".to_owned());
        }
        if is_beside(key) {
            return Ok(());
        }
        let undecodable = |error: opamp_proto::DecodeError| error.to_string();
        match kind {
            Some(Kind::Version) if value == FORMAT => self.versioned = true,
            Some(Kind::Version) => {
                let [found, known] = [value, FORMAT].map(String::from_utf8_lossy);
                return Err(format!("it is of the format {found:?}, and this is {known:?}"));
            }
            Some(Kind::Value(key)) => {
                self.values.insert(key, Value::decode(key, value)?);
            }
            Some(Kind::Defaults) => {
                self.defaults(&WantedRecord::decode(value).map_err(undecodable)?)?;
            }
            Some(Kind::Vitals(agent)) => {
                self.vitals(agent, &Vitals::decode(value).map_err(undecodable)?);
            }
            Some(Kind::Dealings(agent)) => {
                self.dealings(agent, key, &Dealings::decode(value).map_err(undecodable)?)?;
            }
            Some(Kind::Part(agent, part)) => self.part(agent, key, part, value)?,
            None => return Err("there is no such key".to_owned()),
        }
        Ok(())
    }

    fn defaults(&mut self, record: &WantedRecord) -> Result<(), String> {
        let desired = record.resolve(&self.values).map_err(|_| MISSING)?;
        let mut collector = self.fleet.inner.saving.collector();
        collector.defaults = refer(&mut collector.references, desired.values());
        drop(collector);
        self.fleet.shards().for_each(|mut shard| shard.desired = desired.clone());
        Ok(())
    }

    fn vitals(&mut self, key: AgentKey, vitals: &Vitals) {
        let last_seen = self.anchor.instant(vitals.last_seen);
        self.latest = self.latest.max(vitals.last_seen);
        let since = Duration::from_millis(vitals.last_seen);
        let system = std::time::SystemTime::UNIX_EPOCH.checked_add(since);
        let transport = if vitals.http { Transport::Http } else { Transport::WebSocket };
        let holder = vitals.holder.as_ref();
        let holder = holder.and_then(|it| self.fleet.inner.authorizer.stored_identity(it));
        let route = self.route(key, transport, holder);
        let inner = &self.fleet.inner;
        let mut slot = Slot {
            serial: inner.serials.fetch_add(1, Ordering::Relaxed),
            tenant: key.tenant(),
            agent: Agent::restored(*key.uid(), vitals),
            route,
            last_seen: Now {
                // A clock that was set back must not make an Agent stay for longer.
                instant: last_seen.min(self.now.instant),
                system: system.unwrap_or(self.now.system),
            },
            news: News::default(),
            changed_at: 0,
            inbox: Inbox::default(),
            others: None,
            given: Vec::new(),
            released: false,
            written: None,
        };
        slot.restored().note_vitals();
        let place = self.fleet.place(&key);
        let replaced = {
            let mut shard = self.fleet.shard(&key);
            self.fleet.inner.watching.note(place, &mut slot.changed_at);
            shard.slots.insert(&key, Box::new(slot))
        };
        if replaced.is_none() {
            inner.agents.fetch_add(1, Ordering::Relaxed);
            self.restored.agents += 1;
        }
    }

    /// In place of the connection. Agents come in the order of their tenants, so that those of no
    /// known identity can share it with the one before.
    fn route(
        &mut self,
        key: AgentKey,
        transport: Transport,
        holder: Option<I>,
    ) -> Arc<RouteShared<I>> {
        if holder.is_some() {
            let id = self.fleet.inner.routes.fetch_add(1, Ordering::Relaxed);
            return Arc::new(RouteShared::restored(id, key.tenant(), transport, holder));
        }
        let shared = self
            .route
            .take()
            .filter(|route| route.tenant == key.tenant() && route.transport == transport);
        let shared = shared.unwrap_or_else(|| {
            let id = self.fleet.inner.routes.fetch_add(1, Ordering::Relaxed);
            Arc::new(RouteShared::restored(id, key.tenant(), transport, None))
        });
        Arc::clone(self.route.insert(shared))
    }

    fn dealings(
        &mut self,
        key: AgentKey,
        stored_as: &[u8],
        dealings: &Dealings,
    ) -> Result<(), String> {
        let mut shard = self.fleet.shard(&key);
        let Some(slot) = shard.slots.get_mut(&key) else {
            drop(shard);
            self.useless.push(stored_as.to_vec());
            return Ok(());
        };
        let before = slot.agent.retained_bytes();
        slot.agent.restore_dealings(dealings, &self.values, self.anchor).map_err(|_| MISSING)?;
        self.fleet.inner.budget.restore(slot.agent.retained_bytes() - before);
        let mut collector = self.fleet.inner.saving.collector();
        let values = refer(&mut collector.references, slot.agent.values());
        drop(collector);
        slot.restored().note_dealings(values);
        let serial = slot.serial;
        let mut given = Vec::new();
        if let Some(rename) = &dealings.rename {
            let uids = rename.given.iter().filter_map(|uid| WireUid::new(uid).ok());
            given.extend(uids.map(|uid| AgentKey::new(key.tenant(), uid)));
            slot.given.clone_from(&given);
        }
        drop(shard);
        let expires = dealings.rename.as_ref().map(|rename| self.anchor.instant(rename.expires));
        for new in given {
            let rename =
                PendingRename { old: key, serial, expires: expires.unwrap_or(self.now.instant) };
            self.fleet.shard(&new).renames.insert(new, rename);
        }
        Ok(())
    }

    fn part(
        &mut self,
        key: AgentKey,
        stored_as: &[u8],
        part: Part,
        content: &[u8],
    ) -> Result<(), String> {
        let mut shard = self.fleet.shard(&key);
        let Some(slot) = shard.slots.get_mut(&key) else {
            drop(shard);
            self.useless.push(stored_as.to_vec());
            return Ok(());
        };
        slot.agent.restore_part(part, content).map_err(|malformed| malformed.to_string())?;
        slot.restored().note_part(part);
        self.fleet.inner.budget.restore(content.len());
        if part == Part::AvailableComponents {
            self.fleet.note_components(key.tenant(), &mut slot.agent);
        }
        Ok(())
    }

    /// Forgets Agents that were silent for too long. Nobody could be heard while the Server was
    /// down, so what has passed since it heard anybody does not count: else a Server that was down
    /// for long, or whose clock has jumped, would forget what was set for its whole fleet.
    fn forget_silent(&mut self) {
        let Self { fleet, now, .. } = *self;
        let away = self.anchor.millis(now.instant).saturating_sub(self.latest);
        let away = Duration::from_millis(away);
        let config = fleet.config();
        for (place, mut shard) in fleet.shards().enumerate() {
            let (mut forgotten, mut retained) = (Vec::new(), 0);
            shard.retain(config, |slot, _| {
                let heard = slot.last_seen.instant;
                let silent = now.instant.saturating_duration_since(heard).saturating_sub(away);
                slot.last_seen.instant = now.instant.checked_sub(silent).unwrap_or(heard);
                let keep = silent < config.retain_disconnected;
                if !keep {
                    forgotten.push(slot.key());
                    retained += slot.retained_bytes();
                }
                keep
            });
            self.restored.forgotten += forgotten.len();
            self.restored.agents -= forgotten.len();
            fleet.inner.agents.fetch_sub(forgotten.len(), Ordering::Relaxed);
            fleet.inner.budget.release(retained);
            for key in forgotten {
                fleet.inner.watching.note_departed(place, &mut shard.departed, key);
            }
        }
    }

    /// The registry is as it was. What is stored and of no use any more is handed out to be removed
    /// with the next batch.
    pub fn finish(mut self) -> Restored {
        self.forget_silent();
        let Self { fleet, values, mut useless, restored, .. } = self;
        let mut collector = fleet.inner.saving.collector();
        let unused = values.keys().filter(|key| !collector.references.contains_key(key));
        useless.extend(unused.map(|key| Kind::Value(*key).encode()));
        collector.useless = useless;
        restored
    }
}

const MISSING: &str = "a value it refers to is missing";

fn refer(
    references: &mut std::collections::HashMap<ValueKey, usize>,
    values: impl Iterator<Item = Value>,
) -> Vec<ValueKey> {
    let mut keys = Vec::new();
    for key in values.map(|value| value.key()) {
        if !keys.contains(&key) {
            keys.push(key);
            *references.entry(key).or_insert(0) += 1;
        }
    }
    keys
}
