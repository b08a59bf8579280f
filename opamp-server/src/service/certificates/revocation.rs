//! Certificates that are not good any more, although their time is not over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::SystemTime;

use opamp_proto::InstanceUid;

use super::kept::Kept;
use super::peer::{CertificateSerial, Named};
use crate::fleet::SaveWaker;
use crate::service::PeerCertificates;
use crate::service::saver::Beside;

/// Entries unless another number is given: some MiB.
const DEFAULT_MAX: usize = 100_000;

/// Which certificates are revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Revoked {
    /// The one with this serial number, of whatever authority.
    Serial(CertificateSerial),
    /// All that name this Agent, those to come included: it is given no further one, whoever
    /// approves of its request. Who offers one that was not asked for
    /// ([`LocalCa::credentials`](super::LocalCa::credentials)) has to look by themselves.
    InstanceUid(InstanceUid),
}

/// The list is full: what was to be revoked is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list of revoked certificates is full")]
pub struct RevocationsFull;

/// The certificates that a Server does not take any more. Clones are handles to the same list.
///
/// A service that is given the list
/// ([`ServiceConfig::revocations`](crate::ServiceConfig::revocations)) answers requests of who
/// presents such a certificate with 403, and closes WebSockets that were opened with one, with code
/// 1008, within a second or two. It looks at the certificates that come with the request, so that
/// it holds for resumed TLS sessions, too.
///
/// A service with a [store](crate::service::store) keeps the list there: what was revoked before is
/// in it again before the first connection is taken. What is revoked counts at once, and survives
/// any restart from when [`StoreHandle::flush`](crate::StoreHandle::flush) has returned. Without a
/// store the list is in memory alone: then keep what [`entries`](Self::entries) returns, and give
/// it back with [`revoke`](Self::revoke). Entries of certificates whose time is over can be
/// [forgotten](Self::forget_older_than).
///
/// ```
/// use std::time::SystemTime;
///
/// use opamp_server::{Revocations, Revoked, ServiceConfig};
///
/// let revocations = Revocations::new();
/// let mut config = ServiceConfig::default();
/// config.revocations = Some(revocations.clone());
///
/// let serial = "4f:2a:91".parse()?;
/// revocations.revoke(Revoked::Serial(serial), SystemTime::now())?;
/// assert_eq!(revocations.entries().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Revocations {
    shared: Arc<Shared>,
}

struct Shared {
    max: usize,
    list: RwLock<List>,
    /// Counts the changes.
    version: AtomicU64,
}

#[derive(Default)]
struct List {
    revoked: BTreeMap<Revoked, SystemTime>,
    /// Those who write it to stores.
    kept: Vec<Weak<Kept>>,
}

impl List {
    fn note(&mut self, what: &Revoked) {
        self.kept.retain(|kept| match kept.upgrade() {
            Some(kept) => {
                kept.note(what);
                true
            }
            None => false,
        });
    }

    /// Entries come and go, and no store has taken notice for long.
    fn is_behind(&self, max: usize) -> bool {
        let behind = |kept: &Weak<Kept>| kept.upgrade().is_some_and(|kept| kept.len() >= max);
        self.kept.iter().any(behind)
    }
}

impl Default for Revocations {
    fn default() -> Self {
        Self::with_max(DEFAULT_MAX)
    }
}

impl Revocations {
    /// An empty list for up to 100,000 entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list for up to this many entries.
    #[must_use]
    pub fn with_max(max: usize) -> Self {
        let (list, version) = (RwLock::default(), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { max, list, version }) }
    }

    fn read(&self) -> RwLockReadGuard<'_, List> {
        self.shared.list.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, List> {
        self.shared.list.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Revokes certificates. `since` is when that was decided; an earlier time that is known stays.
    ///
    /// # Errors
    ///
    /// [`RevocationsFull`] if there is no room for it.
    pub fn revoke(&self, what: Revoked, since: SystemTime) -> Result<(), RevocationsFull> {
        let mut list = self.write();
        if !list.revoked.contains_key(&what) {
            let max = self.shared.max;
            if list.revoked.len() >= max || list.is_behind(max.saturating_mul(2)) {
                return Err(RevocationsFull);
            }
            list.note(&what);
            list.revoked.insert(what, since);
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Takes an entry from the list. True if it was there.
    pub fn reinstate(&self, what: &Revoked) -> bool {
        let mut list = self.write();
        let removed = list.revoked.remove(what).is_some();
        if removed {
            list.note(what);
        }
        removed
    }

    /// Forgets serial numbers that were revoked before this time: no certificate that was valid
    /// then still is, if the time is long enough ago for what the authority issues.
    pub fn forget_older_than(&self, time: SystemTime) {
        let mut list = self.write();
        let is_over = |what: &Revoked, since: &SystemTime| {
            matches!(what, Revoked::Serial(_)) && *since < time
        };
        let over = list.revoked.iter().filter(|(what, since)| is_over(what, since));
        let over: Vec<_> = over.map(|(what, _)| what.clone()).collect();
        for what in over {
            list.note(&what);
            list.revoked.remove(&what);
        }
    }

    /// What is revoked, and since when, in the order of [`Revoked`].
    #[must_use]
    pub fn entries(&self) -> Vec<(Revoked, SystemTime)> {
        self.read().revoked.iter().map(|(what, since)| (what.clone(), *since)).collect()
    }

    /// Whether this is on the list.
    #[must_use]
    pub fn contains(&self, what: &Revoked) -> bool {
        self.read().revoked.contains_key(what)
    }

    /// Whether the peer's own certificate is revoked. One that cannot be read is, unless nothing
    /// is.
    #[must_use]
    pub fn is_revoked(&self, peer: &PeerCertificates) -> bool {
        self.version() > 0 && Named::of(peer).is_none_or(|named| self.covers(&named))
    }

    pub(in crate::service) fn covers(&self, named: &Named) -> bool {
        let revoked = &self.read().revoked;
        revoked.contains_key(&Revoked::Serial(named.serial.clone()))
            || named
                .instance_uid
                .is_some_and(|uid| revoked.contains_key(&Revoked::InstanceUid(uid)))
    }

    /// What is on the list, and will be, is to be written to a store.
    pub(in crate::service) fn keep(&self, waker: Arc<dyn SaveWaker>) -> Arc<impl Beside + use<>> {
        let mut list = self.write();
        let unsaved: BTreeSet<_> = list.revoked.keys().cloned().collect();
        let kept = Arc::new(Kept::new(self.clone(), unsaved, waker));
        list.kept.push(Arc::downgrade(&kept));
        kept
    }

    /// Takes an entry from a store, even if there is no room for it.
    pub(super) fn restore(&self, what: Revoked, since: SystemTime) {
        let mut list = self.write();
        let known = list.revoked.entry(what).or_insert(since);
        *known = since.min(*known);
        self.shared.version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn since(&self, what: &Revoked) -> Option<SystemTime> {
        self.read().revoked.get(what).copied()
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Grows when something is revoked.
    pub(in crate::service) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations")
            .field("entries", &self.read().revoked.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn serial(number: u8) -> Revoked {
        Revoked::Serial(CertificateSerial::from_bytes(&[number]))
    }

    #[test]
    fn the_list_is_bounded_and_says_so() {
        let list = Revocations::with_max(2);
        let epoch = SystemTime::UNIX_EPOCH;
        list.revoke(serial(1), epoch).unwrap();
        list.revoke(serial(2), epoch).unwrap();
        assert_eq!(list.revoke(serial(3), epoch), Err(RevocationsFull));
        list.revoke(serial(1), epoch + Duration::from_secs(9)).unwrap();
        assert_eq!(list.entries(), [(serial(1), epoch), (serial(2), epoch)]);
        assert!(list.reinstate(&serial(1)) && !list.reinstate(&serial(1)));
        list.revoke(serial(3), epoch).unwrap();
        assert!(list.clone().contains(&serial(3)));
    }

    #[test]
    fn what_is_over_is_forgotten_and_an_agent_never() {
        let list = Revocations::new();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let uid = Revoked::InstanceUid(InstanceUid::from_parts(1, [1; 10]));
        list.revoke(serial(1), at(1)).unwrap();
        list.revoke(serial(2), at(2)).unwrap();
        list.revoke(uid.clone(), at(1)).unwrap();
        list.forget_older_than(at(2));
        assert_eq!(list.entries(), [(serial(2), at(2)), (uid, at(1))]);
    }
}
