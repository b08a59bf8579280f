//! By what the registry knows an Agent: the tenant it belongs to, and its instance uid.
//!
//! Agents make their instance uids themselves, so a uid proves nothing. What a peer may touch is
//! decided by who it is: the [tenant](Tenant) is found from its identity when a route opens, and
//! whatever the messages on that route say is about Agents of that tenant. A uid that two tenants
//! use names two Agents, which do not see, rename or replace each other.

use std::fmt;
use std::hash::{Hash, Hasher};

use opamp_proto::{InstanceUid, WireUid};

/// Those whose Agents share a space of instance uids: a customer, a project, an environment.
///
/// A number, so that the key of an Agent can be copied; a UUID fits. The default is 0, which is the
/// only tenant of an application that knows no tenants.
///
/// ```
/// use opamp_server::Tenant;
///
/// assert_eq!(Tenant::default(), Tenant::new(0));
/// assert_eq!(Tenant::new(7).to_string(), "7");
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tenant(
    /// Big-endian, so that it compares like the number, without its alignment.
    [u8; 16],
);

impl Tenant {
    /// A tenant by its number, which the application chooses.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        Self(number.to_be_bytes())
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// The key of an Agent of this tenant.
    #[must_use]
    pub fn agent(self, uid: impl Into<WireUid>) -> AgentKey {
        AgentKey { tenant: self, uid: uid.into() }
    }
}

impl From<u128> for Tenant {
    fn from(number: u128) -> Self {
        Self::new(number)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({self})")
    }
}

/// The key of an Agent in the registry.
///
/// Operations take whatever converts into it: of a uid alone that is the key in the default tenant.
/// The text is the uid alone in the default tenant, else the tenant's number, a slash and the uid.
///
/// ```
/// use opamp_server::{AgentKey, Tenant};
/// use opamp_proto::InstanceUid;
///
/// let uid = InstanceUid::from_bytes([0xab; 16]);
/// let text = "abababab-abab-abab-abab-abababababab";
/// assert_eq!(AgentKey::from(uid).to_string(), text);
/// assert_eq!(Tenant::new(7).agent(uid).to_string(), format!("7/{text}"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AgentKey {
    tenant: Tenant,
    uid: WireUid,
}

impl AgentKey {
    /// The key of an Agent of a tenant.
    #[must_use]
    pub const fn new(tenant: Tenant, uid: WireUid) -> Self {
        Self { tenant, uid }
    }

    /// Whose Agent it is.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The identifier as the Agent sends it.
    #[must_use]
    pub const fn uid(&self) -> &WireUid {
        &self.uid
    }
}

impl Hash for AgentKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // At once, as each piece would cost as much. Tenants are all of one length.
        let mut bytes = [0; 16 + WireUid::MAX_LEN];
        let uid = self.uid.as_bytes();
        bytes[..16].copy_from_slice(&self.tenant.0);
        bytes[16..16 + uid.len()].copy_from_slice(uid);
        state.write(&bytes[..16 + uid.len()]);
    }
}

impl From<WireUid> for AgentKey {
    fn from(uid: WireUid) -> Self {
        Tenant::default().agent(uid)
    }
}

impl From<&WireUid> for AgentKey {
    fn from(uid: &WireUid) -> Self {
        (*uid).into()
    }
}

impl From<InstanceUid> for AgentKey {
    fn from(uid: InstanceUid) -> Self {
        WireUid::from(uid).into()
    }
}

impl From<&Self> for AgentKey {
    fn from(key: &Self) -> Self {
        *key
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tenant != Tenant::default() {
            write!(f, "{}/", self.tenant)?;
        }
        self.uid.fmt(f)
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_compare_like_their_numbers() {
        let numbers = [0, 1, 255, 256, u128::from(u64::MAX), u128::MAX];
        for pair in numbers.windows(2) {
            assert!(Tenant::new(pair[0]) < Tenant::new(pair[1]));
        }
        assert!(numbers.into_iter().all(|number| Tenant::new(number).number() == number));
    }

    #[test]
    fn a_key_has_no_padding_worth_mentioning() {
        assert!(size_of::<AgentKey>() <= size_of::<WireUid>() + 16);
    }
}
