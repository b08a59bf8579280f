//! A store in memory, for tests and for Servers that are restarted within a process.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{StateStore, StoreError};
use crate::fleet::Change;

/// A [`StateStore`] in memory. Clones are handles to the same store, so that what one Server has
/// written another one can load.
#[derive(Clone, Default)]
pub struct MemoryStore {
    entries: Arc<Mutex<BTreeMap<Vec<u8>, Bytes>>>,
}

impl MemoryStore {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Bytes>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }
}

/// Values may hold credentials.
impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl StateStore for MemoryStore {
    async fn load(
        &self,
        after: Option<&[u8]>,
        max_bytes: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let entries = self.entries();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut loaded = Vec::new();
        let mut bytes = 0;
        for (key, value) in entries.range::<[u8], _>((from, Bound::Unbounded)) {
            if bytes >= max_bytes && !loaded.is_empty() {
                break;
            }
            bytes += key.len() + value.len();
            loaded.push((Bytes::copy_from_slice(key), value.clone()));
        }
        Ok(loaded)
    }

    async fn save(&self, changes: Arc<[Change]>) -> Result<(), StoreError> {
        let mut entries = self.entries();
        for change in changes.iter() {
            match change.value() {
                Some(value) => entries.insert(change.key().to_vec(), value.clone()),
                None => entries.remove(change.key()),
            };
        }
        Ok(())
    }
}
