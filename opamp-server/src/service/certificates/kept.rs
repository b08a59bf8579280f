//! What a store has of a list of revoked certificates.
//!
//! ```text
//!   50 name     name: the SHA-256 of tag and what is revoked
//!               value: since when, in milliseconds of Unix time (8 bytes), tag, what is revoked
//! ```

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use opamp_proto::{InstanceUid, content_hash};

use super::peer::CertificateSerial;
use super::revocation::{Revocations, Revoked};
use crate::fleet::{Change, SaveWaker};
use crate::service::saver::Beside;

const SERIAL: u8 = 1;
const INSTANCE_UID: u8 = 2;

/// One store's share in a list: what it does not have yet.
pub(super) struct Kept {
    revocations: Revocations,
    unsaved: Mutex<BTreeSet<Revoked>>,
    waker: Arc<dyn SaveWaker>,
}

impl Kept {
    pub(super) fn new(
        revocations: Revocations,
        unsaved: BTreeSet<Revoked>,
        waker: Arc<dyn SaveWaker>,
    ) -> Self {
        Self { revocations, unsaved: Mutex::new(unsaved), waker }
    }

    fn unsaved(&self) -> MutexGuard<'_, BTreeSet<Revoked>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the lock of the list: something was added to it or taken from it.
    pub(super) fn note(&self, what: &Revoked) {
        self.unsaved().insert(what.clone());
        self.waker.wake();
    }

    /// How far the store is behind.
    pub(super) fn len(&self) -> usize {
        self.unsaved().len()
    }
}

impl Beside for Kept {
    fn restore(&self, value: &[u8]) -> Result<(), &'static str> {
        let (what, since) = decode(value).ok_or("no revoked certificate")?;
        self.revocations.restore(what, since);
        Ok(())
    }

    fn has_unsaved(&self) -> bool {
        self.len() > 0
    }

    fn take_unsaved(&self) -> Vec<Change> {
        let unsaved = std::mem::take(&mut *self.unsaved());
        // What changes from here on is noted anew.
        let changes = unsaved.into_iter().map(|what| {
            let since = self.revocations.since(&what);
            encode(&what, since)
        });
        changes.collect()
    }
}

fn encode(what: &Revoked, since: Option<SystemTime>) -> Change {
    let (tag, bytes) = match what {
        Revoked::Serial(serial) => (SERIAL, serial.as_bytes()),
        Revoked::InstanceUid(uid) => (INSTANCE_UID, &uid.as_bytes()[..]),
    };
    let tagged = [&[tag], bytes].concat();
    let mut name = [0; 32];
    name.copy_from_slice(&content_hash(&tagged));
    let value = since.map(|since| {
        let millis = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        [&millis.to_be_bytes()[..], &tagged].concat().into()
    });
    Change::beside(&name, value)
}

fn decode(value: &[u8]) -> Option<(Revoked, SystemTime)> {
    let (millis, tagged) = value.split_first_chunk()?;
    let (tag, bytes) = tagged.split_first()?;
    let what = match *tag {
        SERIAL => Revoked::Serial(CertificateSerial::from_bytes(bytes)),
        INSTANCE_UID => Revoked::InstanceUid(InstanceUid::from_bytes(bytes.try_into().ok()?)),
        _ => return None,
    };
    let since = Duration::from_millis(u64::from_be_bytes(*millis));
    Some((what, SystemTime::UNIX_EPOCH.checked_add(since)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let serials = [&[][..], &[1], &[0xff; 20], &[7; 100]];
        let mut revoked: Vec<_> =
            serials.map(|bytes| Revoked::Serial(CertificateSerial::from_bytes(bytes))).into();
        revoked.push(Revoked::InstanceUid(InstanceUid::from_parts(1, [1; 10])));
        let mut keys = BTreeSet::new();
        for what in revoked {
            let (put, removed) = (encode(&what, Some(since)), encode(&what, None));
            assert_eq!(put.key(), removed.key());
            assert!(removed.value().is_none() && put.key().len() <= 64);
            assert!(keys.insert(put.key().to_vec()));
            let value = put.value().unwrap();
            assert_eq!(decode(value), Some((what, since)));
        }
        let uid = InstanceUid::from_parts(1, [1; 10]);
        let value = encode(&Revoked::InstanceUid(uid), Some(since)).value().unwrap().clone();
        for len in 0..value.len() {
            assert_eq!(decode(&value[..len]), None, "{len}");
        }
        // Of a later version.
        assert_eq!(decode(&[&value[..8], &[9]].concat()), None);
    }
}
