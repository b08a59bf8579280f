//! The handler as the registry's authorizer.

use std::sync::Arc;

use super::handler::Handler;
use crate::fleet::{Authorizer, Tenant};

/// Asks a handler.
pub(super) struct ByHandler<H>(pub(super) Arc<H>);

impl<H: Handler> Authorizer<H::Identity> for ByHandler<H> {
    fn tenant(&self, identity: &H::Identity) -> Tenant {
        self.0.tenant(identity)
    }
}
