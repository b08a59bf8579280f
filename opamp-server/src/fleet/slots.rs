//! The table of a shard, which is searched with hashes that are known already.
//!
//! Agents choose their instance uids, so the hash has a secret key and no other weakness, and takes its
//! time. It is computed once for each message, for the choice of the shard and for every look into its
//! table; a route remembers that of its Agent and so needs none.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher};

use super::AgentKey;
use super::shard::Slot;

/// An Agent's key and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    hash: u64,
    key: AgentKey,
}

impl Hashed {
    pub(super) fn new(key: AgentKey, hasher: &RandomState) -> Self {
        Self { hash: hasher.hash_one(key), key }
    }

    /// The key again whose hash was computed before.
    pub(super) const fn again(key: AgentKey, hash: u64) -> Self {
        Self { hash, key }
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) const fn key(&self) -> &AgentKey {
        &self.key
    }

    /// The one of so many shards that the Agent belongs to. Tables go by the other bits of the hash.
    pub(super) const fn place(&self, shards: usize) -> usize {
        // The remainder is less than the number of shards, which is a usize.
        ((self.hash >> 32) % shards as u64) as usize
    }
}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What was hashed before.
#[derive(Default)]
struct Known(u64);

impl Hasher for Known {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Of a `Hashed` there is nothing but a number.
        debug_assert!(bytes.is_empty());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A key that can be looked up.
pub(super) trait Find {
    fn hashed(&self, hasher: &RandomState) -> Hashed;
}

impl Find for Hashed {
    fn hashed(&self, _: &RandomState) -> Hashed {
        *self
    }
}

impl Find for AgentKey {
    fn hashed(&self, hasher: &RandomState) -> Hashed {
        Hashed::new(*self, hasher)
    }
}

/// The slots of a shard's Agents.
pub(super) struct Slots<I> {
    /// Boxed, so that the table stays small and grows without moving the slots.
    table: HashMap<Hashed, Box<Slot<I>>, BuildHasherDefault<Known>>,
    /// That of the registry.
    hasher: RandomState,
}

impl<I> Slots<I> {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self { table: HashMap::default(), hasher }
    }

    pub(super) fn get(&self, key: &impl Find) -> Option<&Slot<I>> {
        self.table.get(&key.hashed(&self.hasher)).map(|slot| &**slot)
    }

    pub(super) fn get_mut(&mut self, key: &impl Find) -> Option<&mut Slot<I>> {
        self.table.get_mut(&key.hashed(&self.hasher)).map(|slot| &mut **slot)
    }

    pub(super) fn contains_key(&self, key: &impl Find) -> bool {
        self.table.contains_key(&key.hashed(&self.hasher))
    }

    pub(super) fn entry(&mut self, key: &impl Find) -> Entry<'_, Hashed, Box<Slot<I>>> {
        self.table.entry(key.hashed(&self.hasher))
    }

    pub(super) fn insert(&mut self, key: &impl Find, slot: Box<Slot<I>>) -> Option<Box<Slot<I>>> {
        self.table.insert(key.hashed(&self.hasher), slot)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&AgentKey, &Slot<I>)> {
        self.table.iter().map(|(key, slot)| (key.key(), &**slot))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Slot<I>> {
        self.table.values().map(|slot| &**slot)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Slot<I>> {
        self.table.values_mut().map(|slot| &mut **slot)
    }

    /// Takes out those of which this is said.
    pub(super) fn extract_if(
        &mut self,
        mut takes: impl FnMut(&AgentKey, &mut Slot<I>) -> bool,
    ) -> impl Iterator<Item = (AgentKey, Box<Slot<I>>)> {
        let taken = self.table.extract_if(move |key, slot| takes(key.key(), slot));
        taken.map(|(key, slot)| (key.key, slot))
    }
}

#[cfg(test)]
mod tests {
    use opamp_proto::InstanceUid;

    use super::*;
    use crate::fleet::Tenant;

    #[test]
    fn equal_keys_have_equal_hashes_and_others_are_spread_over_shards() {
        let hasher = RandomState::new();
        let key = |tenant, uid| Tenant::new(tenant).agent(InstanceUid::from_bytes([uid; 16]));
        let hashed = key(1, 2).hashed(&hasher);
        assert_eq!(hashed.hash(), key(1, 2).hashed(&hasher).hash());
        assert_eq!(hashed.hash(), Hashed::again(key(1, 2), hashed.hash()).hashed(&hasher).hash());
        assert_ne!(hashed.hash(), key(2, 2).hashed(&hasher).hash());
        assert_ne!(hashed.hash(), key(1, 3).hashed(&hasher).hash());
        let mut shards = [0; 4];
        (0..=255).for_each(|uid| shards[key(0, uid).hashed(&hasher).place(4)] += 1);
        assert!(shards.iter().all(|agents| *agents > 16), "{shards:?}");
    }
}
