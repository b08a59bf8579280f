//! What an identity may do, as the application sees it.

use super::Tenant;

/// Says what peers may do, from the identity that admission gave them.
///
/// The registry asks it without holding a lock of its own, and waits for the answer: what takes time
/// belongs in admission, whose result the identity can carry.
pub trait Authorizer<I>: Send + Sync {
    /// Whose Agents this peer speaks for. Asked once, when a route opens.
    fn tenant(&self, identity: &I) -> Tenant {
        let _ = identity;
        Tenant::default()
    }
}

/// Everyone belongs to the default tenant.
pub(super) struct OneTenant;

impl<I> Authorizer<I> for OneTenant {}
