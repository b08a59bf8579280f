//! How many connections and requests one address, or one identity, may have: so that one that goes
//! wrong takes its own share and not the others'.
//!
//! The counts are kept in a map in several parts, each with a lock of its own that is held for a
//! look-up: once for each connection and each HTTP request, never for a message on a WebSocket. An
//! entry that says no more than a new one would is removed from time to time. When the map is full
//! all the same, as there are too many addresses, further ones are served uncounted: the limits for
//! all of them together hold.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::core::{Rate, Since};

const PARTS: usize = 16;

/// Entries of each part, some tens of bytes each.
const MAX_ENTRIES: usize = 8 * 1024;

/// What one may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quota {
    pub(super) connections: usize,
    pub(super) requests: Rate,
}

/// What each has at the moment.
pub(super) struct Quotas<K> {
    quota: Quota,
    since: Since,
    hasher: RandomState,
    parts: [Mutex<HashMap<K, Entry>>; PARTS],
}

#[derive(Default)]
struct Entry {
    connections: usize,
    /// When its bucket of requests is full again.
    full: u64,
}

/// One of the connections, until it is dropped.
pub(super) struct Counted<K: Hash + Eq> {
    quotas: Arc<Quotas<K>>,
    /// `None` if there was no room to count it.
    key: Option<K>,
}

impl<K: Copy + Hash + Eq> Quotas<K> {
    pub(super) fn new(quota: Quota) -> Self {
        let parts = std::array::from_fn(|_| Mutex::default());
        Self { quota, since: Since::default(), hasher: RandomState::new(), parts }
    }

    /// One more connection; `None` if it has as many as it may.
    pub(super) fn connect(self: &Arc<Self>, key: K) -> Option<Counted<K>> {
        let counted = |key| Some(Counted { quotas: Arc::clone(self), key });
        let mut part = self.part(&key);
        let Some(entry) = entry(&mut part, key) else { return counted(None) };
        if entry.connections >= self.quota.connections {
            return None;
        }
        entry.connections += 1;
        counted(Some(key))
    }

    /// One more request.
    ///
    /// # Errors
    ///
    /// How long it is until there can be one.
    pub(super) fn request(&self, key: K, now: impl FnOnce() -> Instant) -> Result<(), Duration> {
        if self.quota.requests == Rate::UNLIMITED {
            return Ok(());
        }
        let now = self.since.nanos(now());
        let mut part = self.part(&key);
        let Some(entry) = entry(&mut part, key) else { return Ok(()) };
        entry.full = self.quota.requests.take(entry.full, now)?;
        Ok(())
    }

    /// Removes the entries that say nothing: to be called every few seconds.
    pub(super) fn sweep(&self, now: Instant) {
        let now = self.since.nanos(now);
        for part in &self.parts {
            let mut part = lock(part);
            part.retain(|_, entry| entry.connections > 0 || entry.full > now);
            if part.len() < part.capacity() / 4 {
                part.shrink_to_fit();
            }
        }
    }
}

impl<K: Hash + Eq> Quotas<K> {
    fn part(&self, key: &K) -> MutexGuard<'_, HashMap<K, Entry>> {
        // The remainder is less than the number of parts.
        let index = (self.hasher.hash_one(key) % PARTS as u64) as usize;
        lock(&self.parts[index])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn entry<K: Hash + Eq>(part: &mut HashMap<K, Entry>, key: K) -> Option<&mut Entry> {
    if part.len() >= MAX_ENTRIES && !part.contains_key(&key) {
        return None;
    }
    Some(part.entry(key).or_default())
}

impl<K: Hash + Eq> Drop for Counted<K> {
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        let mut part = self.quotas.part(key);
        let entry = part.get_mut(key);
        // An entry with a connection is never removed.
        if let Some(entry) = entry {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the one look at the clock that time starts from")]
mod tests {
    use super::*;

    fn quotas(connections: usize, per_second: u32) -> Arc<Quotas<u32>> {
        let requests = Rate::per_second(per_second).with_burst(per_second);
        Arc::new(Quotas::new(Quota { connections, requests }))
    }

    fn entries(quotas: &Quotas<u32>) -> usize {
        quotas.parts.iter().map(|part| lock(part).len()).sum()
    }

    #[test]
    fn each_has_its_own_connections() {
        let quotas = quotas(2, 1);
        let first = quotas.connect(1).unwrap();
        let _second = quotas.connect(1).unwrap();
        assert!(quotas.connect(1).is_none());
        let _other = quotas.connect(2).unwrap();
        drop(first);
        assert!(quotas.connect(1).is_some());
    }

    #[test]
    fn each_has_its_own_requests() {
        let (quotas, now) = (quotas(1, 3), Instant::now());
        assert!((0..3).all(|_| quotas.request(1, || now).is_ok()));
        let wait = quotas.request(1, || now).unwrap_err();
        assert!((330..340).contains(&wait.as_millis()), "{wait:?}");
        assert!(quotas.request(2, || now).is_ok());
        assert!(quotas.request(1, || now + wait).is_ok());
    }

    #[test]
    fn what_says_nothing_is_removed() {
        let (quotas, now) = (quotas(1, 1), Instant::now());
        let connection = quotas.connect(1);
        for key in 0..1000 {
            quotas.request(key, || now).unwrap();
        }
        quotas.sweep(now);
        assert_eq!(entries(&quotas), 1000);
        quotas.sweep(now + Duration::from_secs(1));
        assert_eq!(entries(&quotas), 1);
        drop(connection);
        quotas.sweep(now + Duration::from_secs(1));
        assert_eq!(entries(&quotas), 0);
    }

    #[test]
    fn a_full_map_grows_no_further_and_keeps_nobody_out() {
        let (quotas, now) = (quotas(1, 1), Instant::now());
        for key in 0..400_000 {
            assert!(quotas.request(key, || now).is_ok());
        }
        assert_eq!(entries(&quotas), PARTS * MAX_ENTRIES);
        let uncounted: Vec<_> = (0..10).map(|_| quotas.connect(u32::MAX)).collect();
        assert!(uncounted.iter().all(Option::is_some));
    }
}
