//! Certificates that are not good any more, although their time is not over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use opamp_proto::InstanceUid;

use super::peer::{CertificateSerial, Named};
use crate::service::PeerCertificates;

/// Entries unless another number is given: some MiB.
const DEFAULT_MAX: usize = 100_000;

/// Which certificates are revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Revoked {
    /// The one with this serial number, of whatever authority.
    Serial(CertificateSerial),
    /// All that name this Agent, those to come included: it is given no further one.
    InstanceUid(InstanceUid),
}

/// The list is full: what was to be revoked is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the list of revoked certificates is full")]
pub struct RevocationsFull;

/// The certificates that a Server does not take any more. Clones are handles to the same list.
///
/// A service that is given the list
/// ([`ServiceConfig::revocations`](crate::ServiceConfig::revocations)) answers requests of who presents
/// such a certificate with 403, and closes WebSockets that were opened with one, with code 1008, within
/// a second or two. It looks at the certificates that come with the request, so that it holds for
/// resumed TLS sessions, too.
///
/// The list is in memory: whoever revokes keeps what [`entries`](Self::entries) returns where it survives
/// a restart, and gives it back with [`revoke`](Self::revoke). Entries of certificates whose time is
/// over can be [forgotten](Self::forget_older_than).
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
    revoked: RwLock<BTreeMap<Revoked, SystemTime>>,
    /// Counts the changes.
    version: AtomicU64,
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
        let (revoked, version) = (RwLock::default(), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { max, revoked, version }) }
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Revoked, SystemTime>> {
        self.shared.revoked.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Revoked, SystemTime>> {
        self.shared.revoked.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Revokes certificates. `since` is when that was decided; an earlier time that is known stays.
    ///
    /// # Errors
    ///
    /// [`RevocationsFull`] if there is no room for it.
    pub fn revoke(&self, what: Revoked, since: SystemTime) -> Result<(), RevocationsFull> {
        let mut revoked = self.write();
        if !revoked.contains_key(&what) {
            if revoked.len() >= self.shared.max {
                return Err(RevocationsFull);
            }
            revoked.insert(what, since);
            self.shared.version.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Takes an entry from the list. True if it was there.
    pub fn reinstate(&self, what: &Revoked) -> bool {
        self.write().remove(what).is_some()
    }

    /// Forgets serial numbers that were revoked before this time: no certificate that was valid then
    /// still is, if the time is long enough ago for what the authority issues.
    pub fn forget_older_than(&self, time: SystemTime) {
        self.write()
            .retain(|what, since| matches!(what, Revoked::InstanceUid(_)) || *since >= time);
    }

    /// What is revoked, and since when, in the order of [`Revoked`].
    #[must_use]
    pub fn entries(&self) -> Vec<(Revoked, SystemTime)> {
        self.read().iter().map(|(what, since)| (what.clone(), *since)).collect()
    }

    /// Whether this is on the list.
    #[must_use]
    pub fn contains(&self, what: &Revoked) -> bool {
        self.read().contains_key(what)
    }

    /// Whether the peer's own certificate is revoked. One that cannot be read is, unless nothing is.
    #[must_use]
    pub fn is_revoked(&self, peer: &PeerCertificates) -> bool {
        self.version() > 0 && Named::of(peer).is_none_or(|named| self.covers(&named))
    }

    pub(in crate::service) fn covers(&self, named: &Named) -> bool {
        let revoked = self.read();
        revoked.contains_key(&Revoked::Serial(named.serial.clone()))
            || named
                .instance_uid
                .is_some_and(|uid| revoked.contains_key(&Revoked::InstanceUid(uid)))
    }

    /// Grows when something is revoked.
    pub(in crate::service) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").field("entries", &self.read().len()).finish_non_exhaustive()
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
