//! The handler as the registry's authorizer, and a handler with a policy of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use http::request;

use super::handler::{AgentChange, Handler, Rejection};
use crate::fleet::{Authorizer, Claim, Denied, Tenant};

/// Asks a handler.
pub(super) struct ByHandler<H>(pub(super) Arc<H>);

impl<H: Handler> Authorizer<H::Identity> for ByHandler<H> {
    fn tenant(&self, identity: &H::Identity) -> Tenant {
        self.0.tenant(identity)
    }

    fn authorize(&self, claim: Claim<'_, H::Identity>) -> Result<(), Denied> {
        // Other Agents may share the connection, and are not to lose it.
        catch_unwind(AssertUnwindSafe(|| self.0.authorize(claim))).unwrap_or_else(|_panic| {
            tracing::error!(agent = %claim.agent(), "the handler panicked at an authorization");
            Err(Denied::panicked())
        })
    }

    fn store_identity(&self, identity: &H::Identity) -> Option<Vec<u8>> {
        self.without_panic(|| self.0.store_identity(identity))
    }

    fn stored_identity(&self, stored: &[u8]) -> Option<H::Identity> {
        self.without_panic(|| self.0.stored_identity(stored))
    }
}

impl<H: Handler> ByHandler<H> {
    fn without_panic<T>(&self, ask: impl FnOnce() -> Option<T>) -> Option<T> {
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_panic| {
            tracing::error!("the handler panicked over an identity that is stored");
            None
        })
    }
}

/// A handler with a policy who may speak for which Agent, beside the handler's own.
///
/// ```
/// use http::request;
/// use opamp_server::{Authorizing, Handler, Rejection, Server};
///
/// /// Knows hosts by a header that a proxy in front of this server has set.
/// struct ByHost;
///
/// impl Handler for ByHost {
///     type Identity = String;
///
///     async fn admit(&self, request: &request::Parts) -> Result<String, Rejection> {
///         let host = request.headers.get("x-host").and_then(|value| value.to_str().ok());
///         host.map(str::to_owned).ok_or_else(Rejection::forbidden)
///     }
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// // An Agent belongs to the host that spoke for it first.
/// let handler = Authorizing::new(ByHost, |claim| claim.bind());
/// let server = Server::bind("127.0.0.1:0").listen(handler).await?;
/// # drop(server);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Authorizing<H, P> {
    handler: H,
    policy: P,
}

impl<H, P> Authorizing<H, P>
where
    H: Handler,
    P: Fn(Claim<'_, H::Identity>) -> Result<(), Denied> + Send + Sync + 'static,
{
    /// Adds a policy to a handler. It is asked as [`Handler::authorize`] is, after the handler
    /// itself.
    pub const fn new(handler: H, policy: P) -> Self {
        Self { handler, policy }
    }
}

impl<H, P> Handler for Authorizing<H, P>
where
    H: Handler,
    P: Fn(Claim<'_, H::Identity>) -> Result<(), Denied> + Send + Sync + 'static,
{
    type Identity = H::Identity;

    fn admit(
        &self,
        request: &request::Parts,
    ) -> impl Future<Output = Result<Self::Identity, Rejection>> + Send {
        self.handler.admit(request)
    }

    fn tenant(&self, identity: &Self::Identity) -> Tenant {
        self.handler.tenant(identity)
    }

    fn authorize(&self, claim: Claim<'_, Self::Identity>) -> Result<(), Denied> {
        self.handler.authorize(claim)?;
        (self.policy)(claim)
    }

    fn store_identity(&self, identity: &Self::Identity) -> Option<Vec<u8>> {
        self.handler.store_identity(identity)
    }

    fn stored_identity(&self, stored: &[u8]) -> Option<Self::Identity> {
        self.handler.stored_identity(stored)
    }

    fn account(&self, identity: &Self::Identity) -> Option<u128> {
        self.handler.account(identity)
    }

    fn agent_changed(
        &self,
        change: AgentChange<Self::Identity>,
    ) -> impl Future<Output = ()> + Send {
        self.handler.agent_changed(change)
    }

    #[cfg(feature = "ca")]
    fn approve_certificate(
        &self,
        request: &super::CertificateRequest,
        identity: &Self::Identity,
        policy: super::CsrApproval,
    ) -> impl Future<Output = super::CsrApproval> + Send {
        self.handler.approve_certificate(request, identity, policy)
    }
}
