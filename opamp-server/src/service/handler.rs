//! What an application supplies: who may connect, and what to do when an Agent changes.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, UPGRADE, WWW_AUTHENTICATE};
use http::{Response, StatusCode, request};
use opamp_proto::v1;

use super::body::Body;
use super::http::status;
use crate::core::Changes;
use crate::fleet::{AgentSnapshot, Claim, Denied, Fleet, Tenant};

/// The application's side of the service.
///
/// ```
/// use opamp_server::{AgentChange, Handler, Rejection};
///
/// struct Tenants;
///
/// impl Handler for Tenants {
///     /// The tenant, from a header that a proxy in front of this server has set.
///     type Identity = String;
///
///     async fn admit(&self, request: &http::request::Parts) -> Result<String, Rejection> {
///         let tenant = request.headers.get("x-tenant").and_then(|value| value.to_str().ok());
///         tenant.map(str::to_owned).ok_or_else(Rejection::forbidden)
///     }
///
///     async fn agent_changed(&self, change: AgentChange<String>) {
///         println!("{} of {}: {:?}", change.agent.uid(), change.identity, change.changes);
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Who a peer is, as far as the application is concerned.
    type Identity: Clone + Send + Sync + 'static;

    /// Decides about a peer from its request: before a WebSocket is opened, and at each HTTP
    /// request (AUTH-02). The peer's address and certificates are in the request's extensions as
    /// [`PeerAddr`] and `PeerCertificates`, if whoever accepted the connection put them there.
    ///
    /// Dropped at [`ServiceConfig::admission_deadline`](crate::ServiceConfig::admission_deadline).
    ///
    /// # Errors
    ///
    /// The [`Rejection`] is the answer to the request.
    fn admit(
        &self,
        request: &request::Parts,
    ) -> impl Future<Output = Result<Self::Identity, Rejection>> + Send;

    /// Whose Agents a peer speaks for, asked once for each WebSocket and each HTTP request. The
    /// uids of different tenants have nothing to do with each other: who is admitted for one tenant
    /// can not see, rename or replace an Agent of another, whatever uid it sends. Default: all are
    /// of one tenant.
    ///
    /// It must return at once: what has to be looked up is looked up in [`admit`](Self::admit) and
    /// carried by the identity. A panic is answered with 500, and ends a WebSocket.
    fn tenant(&self, identity: &Self::Identity) -> Tenant {
        let _ = identity;
        Tenant::default()
    }

    /// Whether a peer may speak for an Agent: asked at each Agent's first message on a WebSocket
    /// and at each HTTP request, and about the uid an Agent is to be given or comes back with.
    /// Default: yes, for every Agent of its [tenant](Self::tenant). Ready answers are
    /// [`Claim::bind`] and [`Claim::only`].
    ///
    /// It must return at once, like [`tenant`](Self::tenant). A panic denies.
    ///
    /// # Errors
    ///
    /// [`Denied`]: over HTTP the answer is 403, over a WebSocket BAD_REQUEST with the text; after
    /// [`ServiceConfig::max_denied`](crate::ServiceConfig::max_denied) in a row the WebSocket is
    /// closed. Nothing is known or changed of the Agent by such a message.
    fn authorize(&self, claim: Claim<'_, Self::Identity>) -> Result<(), Denied> {
        let _ = claim;
        Ok(())
    }

    /// The identity that holds an Agent, as it is to be [stored](crate::service::store), so that
    /// [`Claim::bind`] binds over a restart: short, such as a name, and without secrets. Default:
    /// `None`, it is not stored.
    ///
    /// It must return at once and must not call the registry.
    fn store_identity(&self, identity: &Self::Identity) -> Option<Vec<u8>> {
        let _ = identity;
        None
    }

    /// What a peer's connections and requests count for, beside its address, such as a number of
    /// the customer it belongs to: see
    /// [`ServiceConfig::max_connections_per_account`](crate::ServiceConfig::max_connections_per_account).
    /// Asked once for each WebSocket and each HTTP request; it must return at once. A panic is
    /// answered with 500. Default: nothing.
    fn account(&self, identity: &Self::Identity) -> Option<u128> {
        let _ = identity;
        None
    }

    /// The identity that was stored like this. Default: `None`, the Agent belongs to whoever speaks
    /// for it first.
    fn stored_identity(&self, stored: &[u8]) -> Option<Self::Identity> {
        let _ = stored;
        None
    }

    /// Called after an Agent's changes: one call at a time for each Agent, with whatever has come
    /// together since the last. Heartbeats and reports without news call nothing.
    ///
    /// Connections never wait for it. An HTTP response does, up to
    /// [`ServiceConfig::reply_deadline`](crate::ServiceConfig::reply_deadline), so that what it
    /// sets goes out in that response. It is dropped at
    /// [`ServiceConfig::handler_deadline`](crate::ServiceConfig::handler_deadline); a panic ends
    /// this call and nothing else.
    fn agent_changed(
        &self,
        change: AgentChange<Self::Identity>,
    ) -> impl Future<Output = ()> + Send {
        let _ = change;
        std::future::ready(())
    }

    /// Decides what happens with an Agent's certificate request, which was verified (CSR-10,
    /// TOFU-03). Called by the same workers as [`agent_changed`](Self::agent_changed) and after it,
    /// unless that has decided already; the same deadline holds, and a panic refuses the request.
    /// Default: the `policy` of
    /// [`CertificateIssuing::approval`](crate::CertificateIssuing::approval).
    #[cfg(feature = "ca")]
    fn approve_certificate(
        &self,
        request: &super::CertificateRequest,
        identity: &Self::Identity,
        policy: super::CsrApproval,
    ) -> impl Future<Output = super::CsrApproval> + Send {
        let _ = (request, identity);
        std::future::ready(policy)
    }
}

/// What [`Handler::agent_changed`] is told.
#[derive(Debug)]
#[non_exhaustive]
pub struct AgentChange<I> {
    /// The Agent after the changes.
    pub agent: AgentSnapshot,
    /// What is new.
    pub changes: Changes,
    /// The custom messages the Agent has sent since the last call, in their order: of capabilities
    /// that the Server announces, and each once (CUST-06, CUST-13). More of them than
    /// [`ServerConfig::max_custom_messages`](crate::ServerConfig::max_custom_messages) at a time
    /// are dropped and counted.
    pub custom_messages: Vec<v1::CustomMessage>,
    /// Who spoke for the Agent last.
    pub identity: I,
    /// The registry, to act on the Agent.
    pub fleet: Fleet<I>,
}

/// The address of a request's peer, in the request's extensions. [`Server`](crate::Server) puts it
/// there; the host of a mounted [`OpampService`](crate::OpampService) has to, or there are no
/// limits by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The certificates a request's peer presented in the TLS handshake, its own first, in the
/// request's extensions. They were verified against the authorities the listener was given.
#[cfg(feature = "tls")]
#[derive(Debug, Clone)]
pub struct PeerCertificates(pub std::sync::Arc<[rustls::pki_types::CertificateDer<'static>]>);

/// A request is refused, with this status.
///
/// ```
/// use http::HeaderValue;
/// use http::header::{LINK, WWW_AUTHENTICATE};
/// use opamp_server::Rejection;
///
/// let rejection = Rejection::unauthorized(HeaderValue::from_static("Bearer"))
///     .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"))
///     .with_header(LINK, HeaderValue::from_static("</enrol>; rel=help"));
/// assert_eq!(rejection.status(), 401);
/// ```
#[derive(Debug, Clone)]
pub struct Rejection {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Rejection {
    /// 401: who the peer is could not be established (AUTH-03). The challenge says how to do it,
    /// for example `Bearer` (AUTH-04).
    #[must_use]
    pub fn unauthorized(challenge: HeaderValue) -> Self {
        Self::with_status(StatusCode::UNAUTHORIZED).with_header(WWW_AUTHENTICATE, challenge)
    }

    /// 403: the peer is known and may not.
    #[must_use]
    pub const fn forbidden() -> Self {
        Self::with_status(StatusCode::FORBIDDEN)
    }

    /// 429: the peer asks too often (THR-06 to THR-08).
    #[must_use]
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self::with_status(StatusCode::TOO_MANY_REQUESTS)
            .with_header(RETRY_AFTER, seconds(retry_after))
    }

    /// 503: the server has too much to do (THR-06 to THR-08).
    #[must_use]
    pub fn unavailable(retry_after: Duration) -> Self {
        Self::with_status(StatusCode::SERVICE_UNAVAILABLE)
            .with_header(RETRY_AFTER, seconds(retry_after))
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Any status.
    pub(super) const fn with_status(status: StatusCode) -> Self {
        Self { status, headers: Vec::new() }
    }

    /// Adds a header to the answer, beside those of the same name that it has.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What is said to a peer of whom two were asked: a challenge is what it can meet, so those of
    /// both.
    pub(super) fn or_challenge(mut self, other: Self) -> Self {
        let is_challenge = |(name, _): &(HeaderName, _)| name == WWW_AUTHENTICATE;
        match (self.headers.iter().any(is_challenge), other.headers.iter().any(is_challenge)) {
            (true, true) => {
                self.headers.extend(other.headers.into_iter().filter(is_challenge));
                self
            }
            (true, false) => self,
            (false, _) => other,
        }
    }

    /// The answer to the request.
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = status(self.status);
        let headers = response.headers_mut();
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected with status {}", self.status)
    }
}

impl std::error::Error for Rejection {}

fn seconds(time: Duration) -> HeaderValue {
    // The header counts whole seconds, and 0 would be an invitation.
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    HeaderValue::from(seconds.max(1))
}

/// Admits everyone, and has nothing to do when an Agent changes.
#[derive(Debug, Default, Clone, Copy)]
pub struct AcceptAll;

impl Handler for AcceptAll {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }
}
