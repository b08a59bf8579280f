//! The entries of a store: what has to survive a restart, as keys and values.
//!
//! ```text
//!   00                           the version of the format
//!   10 kind hash                 a value the operator wants for some Agents, or for all
//!   20                           what all Agents should have that have nothing of their own
//!   30 tenant len uid            an Agent's vitals: number, mask, last seen; written most often
//!   40 tenant len uid 00         what the Server has to do with the Agent: wanted, offered, renamed
//!   40 tenant len uid tag        a part of its state, by the number of its field
//!   50 name                      what whoever drives the registry keeps beside it
//! ```
//!
//! In the order of their keys, what an entry refers to comes before it. Vitals stand together, so
//! that to write those of many Agents touches few pages of a store.

use bytes::Bytes;
use opamp_proto::WireUid;

use super::{AgentKey, Tenant};
use crate::core::{Part, ValueKey};

/// The version of the format that is written.
pub(super) const FORMAT: &[u8] = b"opamp-server 1";

const VERSION: u8 = 0x00;
const VALUE: u8 = 0x10;
const DEFAULTS: u8 = 0x20;
const VITALS: u8 = 0x30;
const STATE: u8 = 0x40;
const BESIDE: u8 = 0x50;

const DEALINGS: u8 = 0;

/// A change of one entry of a store: a new value, or that the entry is to be removed.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    key: Vec<u8>,
    value: Option<Bytes>,
}

impl Change {
    pub(super) fn put(key: Vec<u8>, value: impl Into<Bytes>) -> Self {
        Self { key, value: Some(value.into()) }
    }

    pub(super) const fn remove(key: Vec<u8>) -> Self {
        Self { key, value: None }
    }

    /// An entry that is not the registry's, with a name of its own.
    #[cfg(feature = "ca")]
    pub(crate) fn beside(name: &[u8; 32], value: Option<Bytes>) -> Self {
        Self { key: [&[BESIDE], &name[..]].concat(), value }
    }

    /// The key, at most 64 bytes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value, opaque and possibly empty; `None` if the entry is to be removed, which may not be
    /// there.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// The bytes of key and value.
    #[must_use]
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Values may hold credentials.
impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change")
            .field("key", &format_args!("{}", Hex(&self.key)))
            .field("value_len", &self.value.as_ref().map(Bytes::len))
            .finish()
    }
}

/// Writes hexadecimal digits.
pub(super) struct Hex<'a>(pub(super) &'a [u8]);

impl std::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whether an entry is not the registry's.
pub(crate) fn is_beside(key: &[u8]) -> bool {
    key.first() == Some(&BESIDE)
}

/// What an entry holds, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Version,
    Value(ValueKey),
    Defaults,
    Vitals(AgentKey),
    Dealings(AgentKey),
    Part(AgentKey, Part),
}

impl Kind {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(56);
        match self {
            Self::Version => key.push(VERSION),
            Self::Value(value) => {
                key.push(VALUE);
                value.encode(&mut key);
            }
            Self::Defaults => key.push(DEFAULTS),
            Self::Vitals(agent) => {
                key.push(VITALS);
                encode_agent(&agent, &mut key);
            }
            Self::Dealings(agent) => {
                key.push(STATE);
                encode_agent(&agent, &mut key);
                key.push(DEALINGS);
            }
            Self::Part(agent, part) => {
                key.push(STATE);
                encode_agent(&agent, &mut key);
                // The numbers of the fields of a message's parts are small.
                key.push(part.tag() as u8);
            }
        }
        key
    }

    pub(super) fn decode(key: &[u8]) -> Option<Self> {
        let (kind, rest) = key.split_first()?;
        Some(match *kind {
            VERSION if rest.is_empty() => Self::Version,
            VALUE => Self::Value(ValueKey::decode(rest)?),
            DEFAULTS if rest.is_empty() => Self::Defaults,
            VITALS => match decode_agent(rest)? {
                (agent, []) => Self::Vitals(agent),
                _ => return None,
            },
            STATE => match decode_agent(rest)? {
                (agent, [DEALINGS]) => Self::Dealings(agent),
                (agent, [tag]) => {
                    let part = Part::STATE.into_iter().find(|it| it.tag() == u32::from(*tag))?;
                    Self::Part(agent, part)
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}

fn encode_agent(agent: &AgentKey, out: &mut Vec<u8>) {
    let uid = agent.uid().as_bytes();
    out.extend_from_slice(&agent.tenant().number().to_be_bytes());
    // At most `WireUid::MAX_LEN`.
    out.push(uid.len() as u8);
    out.extend_from_slice(uid);
}

fn decode_agent(bytes: &[u8]) -> Option<(AgentKey, &[u8])> {
    let (tenant, rest) = bytes.split_first_chunk::<16>()?;
    let (len, rest) = rest.split_first()?;
    let (uid, rest) = rest.split_at_checked(usize::from(*len))?;
    let uid = WireUid::new(uid).ok()?;
    Some((AgentKey::new(Tenant::new(u128::from_be_bytes(*tenant)), uid), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_no_key_begins_another_agent_s() {
        let uids = [&[1; 16][..], &[1; 17], &[2; 36], &[1]];
        let tenants = [0, 1, u128::MAX];
        let agents = tenants.into_iter().flat_map(|tenant| {
            uids.map(|uid| AgentKey::new(Tenant::new(tenant), WireUid::new(uid).unwrap()))
        });
        let mut value = vec![1];
        value.extend([7; 32]);
        let mut kinds =
            vec![Kind::Version, Kind::Value(ValueKey::decode(&value).unwrap()), Kind::Defaults];
        for agent in agents {
            kinds.extend([Kind::Vitals(agent), Kind::Dealings(agent)]);
            kinds.extend(Part::STATE.map(|part| Kind::Part(agent, part)));
        }
        let keys: Vec<_> = kinds.iter().map(|kind| kind.encode()).collect();
        for (kind, key) in kinds.iter().zip(&keys) {
            assert_eq!(Kind::decode(key), Some(*kind));
            assert!(key.len() <= 64);
            let begins = keys.iter().filter(|other| other.starts_with(key));
            assert_eq!(begins.count(), 1, "{kind:?}");
            assert_eq!(Kind::decode(&key[..key.len() - 1]), None);
            assert_eq!(Kind::decode(&[&key[..], &[1]].concat()), None);
        }
    }
}
