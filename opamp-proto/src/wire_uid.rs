//! The identifier of an Agent exactly as it was received.
//!
//! A Server has to answer with the very bytes it was sent (ID-10), also when it tolerates an Agent
//! that does not send 16 of them. [`WireUid`] holds any such identifier inline, so that it can be a
//! map key and be copied without allocating.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::InstanceUid;

/// An `instance_uid` field as received: 1 to 36 bytes.
///
/// It compares and hashes like its bytes, so a map with such keys can be searched by `&[u8]`.
///
/// ```
/// use opamp_proto::{InstanceUid, WireUid};
///
/// let uid = WireUid::new(&[0xab; 16])?;
/// assert_eq!(uid.instance_uid(), Some(InstanceUid::from([0xab; 16])));
/// assert_eq!(uid.to_string(), "abababab-abab-abab-abab-abababababab");
/// assert_eq!(WireUid::new(b"agent")?.to_string(), "6167656e74");
/// # Ok::<(), opamp_proto::WireUidError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WireUid {
    /// Zeros beyond the length, so that it compares as a whole.
    bytes: [u8; Self::MAX_LEN],
    len: u8,
}

impl WireUid {
    /// The most bytes an identifier can have: the length of a UUID's text form.
    pub const MAX_LEN: usize = 36;

    /// Copies the bytes of a received field.
    ///
    /// # Errors
    ///
    /// [`WireUidError::Empty`] if there are none, [`WireUidError::TooLong`] if there are more than
    /// [`MAX_LEN`](Self::MAX_LEN).
    pub fn new(bytes: &[u8]) -> Result<Self, WireUidError> {
        if bytes.is_empty() {
            return Err(WireUidError::Empty);
        }
        let mut inline = [0; Self::MAX_LEN];
        match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(head), Ok(len)) => {
                head.copy_from_slice(bytes);
                Ok(Self { bytes: inline, len })
            }
            _ => Err(WireUidError::TooLong(bytes.len())),
        }
    }

    /// The bytes as received.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The bytes as a message field holds them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }

    /// The identifier in its proper form, if there are 16 bytes (ID-05).
    #[must_use]
    pub fn instance_uid(&self) -> Option<InstanceUid> {
        self.as_bytes().try_into().ok()
    }
}

impl From<InstanceUid> for WireUid {
    fn from(uid: InstanceUid) -> Self {
        let mut bytes = [0; Self::MAX_LEN];
        bytes[..16].copy_from_slice(uid.as_bytes());
        Self { bytes, len: 16 }
    }
}

impl TryFrom<&[u8]> for WireUid {
    type Error = WireUidError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl AsRef<[u8]> for WireUid {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Borrow<[u8]> for WireUid {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl PartialOrd for WireUid {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WireUid {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for WireUid {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// Writes 16 bytes as a UUID and any other number of bytes in lower-case hexadecimal, so that the
/// text is safe in a log whatever was received.
impl fmt::Display for WireUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instance_uid() {
            Some(uid) => fmt::Display::fmt(&uid, f),
            None => self.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl fmt::Debug for WireUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes cannot be a [`WireUid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireUidError {
    /// There are no bytes.
    #[error("the instance uid is missing")]
    Empty,
    /// There are this many bytes, more than [`WireUid::MAX_LEN`].
    #[error("an instance uid of {0} bytes is longer than any known form")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_bytes_are_kept_as_they_are() {
        let bytes: Vec<u8> = (0..36).collect();
        for len in 1..=WireUid::MAX_LEN {
            let uid = WireUid::new(&bytes[..len]).expect("a length within the limit");
            assert_eq!(uid.as_bytes(), &bytes[..len]);
            assert_eq!(uid.to_bytes(), bytes[..len]);
            assert_eq!(uid.instance_uid().is_some(), len == 16);
        }
        assert_eq!(WireUid::new(&[]), Err(WireUidError::Empty));
        assert_eq!(WireUid::new(&[0; 37]), Err(WireUidError::TooLong(37)));
        assert_eq!(WireUid::new(&[0; 300]), Err(WireUidError::TooLong(300)));
    }

    #[test]
    fn it_compares_and_hashes_like_its_bytes() {
        let all: [&[u8]; 5] = [&[1], &[1, 0], &[1, 0, 0], &[1, 1], &[2]];
        let uids = all.map(|bytes| WireUid::new(bytes).expect("a length within the limit"));
        for (index, uid) in uids.iter().enumerate() {
            for (other_index, other) in uids.iter().enumerate() {
                assert_eq!(uid.cmp(other), index.cmp(&other_index));
            }
        }
        let map: HashMap<_, _> = uids.into_iter().zip(0..).collect();
        assert_eq!(map.get(&[1_u8, 0][..]), Some(&1));
        assert_eq!(map.get(&[0_u8][..]), None);
    }

    #[test]
    fn an_instance_uid_is_one_of_16_bytes() {
        let uid = InstanceUid::from_bytes([9; 16]);
        assert_eq!(WireUid::from(uid).instance_uid(), Some(uid));
        assert_eq!(WireUid::from(uid), WireUid::new(&[9; 16]).expect("16 bytes"));
        assert_eq!(format!("{:?}", WireUid::from(uid)), uid.to_string());
    }
}
