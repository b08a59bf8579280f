//! The components that Agents have, remembered by the hash they tell (COMP-08, COMP-10).
//!
//! Agents with the same components tell the same hash, so the components of a fleet of one kind are
//! sent once. The hash is the Agents' own and opaque (COMP-05): nobody can check that it belongs to
//! the components, so what one Agent said of a hash is used for showing what others of its tenant
//! have, and for nothing else.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use opamp_proto::{Message as _, v1};

use super::{AgentSnapshot, Fleet, Tenant};
use crate::core::{Agent, Part};

/// The largest set that is remembered, encoded.
const MAX_SET: usize = 1024 * 1024;

/// The most bytes of all sets. They are bounded by the number of sets as well.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The longest hash that is remembered.
const MAX_HASH: usize = 64;

/// Encoded `AvailableComponents` by their hash, the oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Components {
    by_hash: HashMap<(Tenant, Bytes), Bytes>,
    oldest_first: VecDeque<(Tenant, Bytes)>,
    bytes: usize,
}

impl Components {
    fn get(&self, tenant: Tenant, hash: &Bytes) -> Option<&Bytes> {
        self.by_hash.get(&(tenant, hash.clone()))
    }

    fn remember(&mut self, tenant: Tenant, hash: &Bytes, encoded: Bytes, max: usize) {
        if max == 0
            || hash.is_empty()
            || hash.len() > MAX_HASH
            || encoded.len() > MAX_SET
            || self.get(tenant, hash).is_some()
        {
            return;
        }
        self.bytes += encoded.len();
        // A hash of its own, which does not keep the message it came in.
        let key = (tenant, Bytes::copy_from_slice(hash));
        self.oldest_first.push_back(key.clone());
        self.by_hash.insert(key, encoded);
        while self.by_hash.len() > max || self.bytes > MAX_BYTES {
            let Some(forgotten) =
                self.oldest_first.pop_front().and_then(|key| self.by_hash.remove(&key))
            else {
                break;
            };
            self.bytes -= forgotten.len();
        }
    }
}

impl<I> Fleet<I> {
    /// An Agent has told something new of its components: they are remembered, or if it has told
    /// their hash only, it is looked up.
    pub(super) fn note_components(&self, tenant: Tenant, agent: &mut Agent) {
        let Some(encoded) = agent.state().encoded(Part::AvailableComponents) else { return };
        let Some(told) = agent.state().components_told() else { return };
        let hash = Bytes::copy_from_slice(told.hash);
        let mut components = super::lock(&self.inner.components);
        if told.whole {
            let max = self.config().max_remembered_components;
            components.remember(tenant, &hash, encoded.clone(), max);
        } else if components.get(tenant, &hash).is_some() {
            drop(components);
            agent.handle_components_known();
        }
    }

    /// An Agent is back that may have told the hash of its components alone. Somebody may have told
    /// the components since; and whoever told them may be forgotten, or have told them to an
    /// earlier process.
    pub(super) fn recall_components(&self, tenant: Tenant, agent: &mut Agent) {
        let told = agent.state().components_told().filter(|told| told.is_hash_alone());
        let Some(hash) = told.map(|told| Bytes::copy_from_slice(told.hash)) else { return };
        match super::lock(&self.inner.components).get(tenant, &hash) {
            Some(_) => agent.handle_components_known(),
            None => agent.handle_components_forgotten(),
        }
    }

    /// The components an Agent has: those it told, or if it told their hash only, those that an
    /// Agent of its tenant with the same hash told. `None` if they are not known, or the Agent told
    /// neither (COMP-10).
    #[must_use]
    pub fn available_components(&self, agent: &AgentSnapshot) -> Option<v1::AvailableComponents> {
        let told = agent.state().available_components()?;
        if !told.components.is_empty() {
            return Some(told);
        }
        let components = super::lock(&self.inner.components);
        let encoded = components.get(agent.tenant(), &told.hash).cloned()?;
        drop(components);
        v1::AvailableComponents::decode(encoded).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut components = Components::default();
        let tenant = Tenant::new(1);
        let set = |size: usize| Bytes::from(vec![0; size]);
        for hash in 0..5_u8 {
            components.remember(tenant, &vec![hash].into(), set(10), 3);
        }
        assert_eq!(components.bytes, 30);
        let knows = |components: &Components, tenant, hash: u8| {
            components.get(tenant, &vec![hash].into()).is_some()
        };
        assert!(!knows(&components, tenant, 1) && knows(&components, tenant, 2));
        assert!(!knows(&components, Tenant::new(2), 2), "another tenant's is not told");
        components.remember(tenant, &vec![9].into(), set(MAX_SET + 1), 3);
        components.remember(tenant, &vec![8; MAX_HASH + 1].into(), set(1), 3);
        components.remember(tenant, &Bytes::new(), set(1), 3);
        assert_eq!((components.by_hash.len(), components.oldest_first.len()), (3, 3));
        for hash in 100..200_u8 {
            components.remember(tenant, &vec![hash].into(), set(MAX_SET), 1000);
        }
        assert!(components.bytes <= MAX_BYTES && components.by_hash.len() == 64);
    }

    #[test]
    fn what_is_just_not_too_much_is_remembered() {
        let tenant = Tenant::new(1);
        for (hash, size, max, kept) in [
            (MAX_HASH, 1, 1, true),
            (MAX_HASH + 1, 1, 1, false),
            (MAX_HASH + 2, 1, 1, false),
            (1, MAX_SET, 1, true),
            (1, MAX_SET + 1, 1, false),
            (1, MAX_SET + 2, 1, false),
            (1, 1, 0, false),
            (0, 1, 1, false),
        ] {
            let mut components = Components::default();
            let hash = Bytes::from(vec![7; hash]);
            components.remember(tenant, &hash, vec![0; size].into(), max);
            assert_eq!(components.get(tenant, &hash).is_some(), kept, "{}, {size}", hash.len());
            assert_eq!(components.bytes, if kept { size } else { 0 });
        }
    }
}
