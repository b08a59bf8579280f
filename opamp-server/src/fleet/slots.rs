//! The table of a shard, which is searched with hashes that are known already.
//!
//! Agents choose their instance uids, so the hash has a secret key and no other weakness, and takes
//! its time. It is computed once for each message, for the choice of the shard and for every look
//! into its table; a route remembers that of its Agent and so needs none.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

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

    /// The one of so many shards that the Agent belongs to. Tables go by the other bits of the
    /// hash.
    pub(super) const fn place(&self, shards: usize) -> usize {
        // The remainder is less than the number of shards, which is a usize.
        ((self.hash >> 32) % shards as u64) as usize
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
    table: HashTable<Placed<I>>,
    /// That of the registry.
    hasher: RandomState,
}

/// A slot, with the hash of its Agent's key, which is in the slot itself: it is large, and tables
/// have room to spare.
struct Placed<I> {
    hash: u64,
    /// Boxed, so that the table grows without moving the slots.
    slot: Box<Slot<I>>,
}

impl<I> Placed<I> {
    fn is_of(&self, key: &Hashed) -> bool {
        self.hash == key.hash && self.slot.is_of(&key.key)
    }
}

impl<I> Slots<I> {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self { table: HashTable::new(), hasher }
    }

    pub(super) fn get(&self, key: &impl Find) -> Option<&Slot<I>> {
        let key = key.hashed(&self.hasher);
        self.table.find(key.hash, |placed| placed.is_of(&key)).map(|placed| &*placed.slot)
    }

    pub(super) fn get_mut(&mut self, key: &impl Find) -> Option<&mut Slot<I>> {
        let key = key.hashed(&self.hasher);
        self.table.find_mut(key.hash, |placed| placed.is_of(&key)).map(|placed| &mut *placed.slot)
    }

    pub(super) fn contains_key(&self, key: &impl Find) -> bool {
        self.get(key).is_some()
    }

    /// Adds the slot of an Agent, which goes by this key. The one it had before comes back.
    pub(super) fn insert(&mut self, key: &impl Find, slot: Box<Slot<I>>) -> Option<Box<Slot<I>>> {
        let key = key.hashed(&self.hasher);
        let placed = Placed { hash: key.hash, slot };
        match self.table.entry(key.hash, |placed| placed.is_of(&key), |placed| placed.hash) {
            Entry::Occupied(mut before) => Some(std::mem::replace(before.get_mut(), placed).slot),
            Entry::Vacant(vacant) => {
                vacant.insert(placed);
                None
            }
        }
    }

    /// Takes out the slot of an Agent, if this is said of it.
    pub(super) fn remove_if(
        &mut self,
        key: &impl Find,
        takes: impl FnOnce(&Slot<I>) -> bool,
    ) -> Option<Box<Slot<I>>> {
        let key = key.hashed(&self.hasher);
        let found = self.table.find_entry(key.hash, |placed| placed.is_of(&key)).ok()?;
        takes(&found.get().slot).then(|| found.remove().0.slot)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Slot<I>> {
        self.table.iter().map(|placed| &*placed.slot)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Slot<I>> {
        self.table.iter_mut().map(|placed| &mut *placed.slot)
    }

    /// Takes out those of which this is said.
    pub(super) fn extract_if(
        &mut self,
        mut takes: impl FnMut(&mut Slot<I>) -> bool,
    ) -> impl Iterator<Item = Box<Slot<I>>> {
        self.table.extract_if(move |placed| takes(&mut placed.slot)).map(|placed| placed.slot)
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
