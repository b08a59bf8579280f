//! Certificates of Agents: requests that are read and verified, the authority that signs, the
//! approval before that, and what was revoked (CSR, TOFU rows; readings A19, A20).
//!
//! ```text
//!   message with a request ─▶ verified? ─no─▶ BAD_REQUEST
//!                                │
//!                                ▼            Refuse ──▶ BAD_REQUEST
//!             Handler::approve_certificate ──▶ Manual ──▶ waits for CertificateIssuing::approve
//!                                │                        or Fleet::refuse_certificate
//!                                ▼ Auto
//!              CertificateAuthority::issue ──▶ an offer of connection settings
//! ```
//!
//! Deciding is work for the same bounded number of workers that call the handler, after it was told
//! of the change; so a handler can decide by itself with the operations of the [`Fleet`], and no
//! connection waits. The response to a plain HTTP request does, up to
//! [`ServiceConfig::reply_deadline`](crate::ServiceConfig::reply_deadline).

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::request::Parts;
use opamp_proto::{ServerCapabilities, v1};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::handler::{Handler, PeerCertificates, Rejection};
use super::signal::Signal;
use super::{Inner, ServiceConfig, now};
use crate::core::{
    CertificateOffer, CertificateRequestId, InvalidOffer, OperationError, ServerConfig, Transport,
};
use crate::fleet::{AgentKey, Fleet};

mod kept;
mod local_ca;
mod peer;
mod request;
mod revocation;

pub use self::local_ca::LocalCa;
pub(super) use self::peer::Named;
pub use self::peer::{CertificateSerial, InvalidSerial};
pub use self::request::{CertificateRequest, InvalidCertificateRequest, KeyAlgorithm};
pub use self::revocation::{Revocations, RevocationsFull, Revoked};

/// What happens with a certificate request that is in order (CSR-10, TOFU-03).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CsrApproval {
    /// It is granted at once.
    Auto,
    /// It waits for somebody: see [`CertificateIssuing::approve`] and
    /// [`Fleet::refuse_certificate`](crate::Fleet::refuse_certificate). It is forgotten after
    /// [`ServerConfig::certificate_request_expiry`](crate::ServerConfig::certificate_request_expiry).
    Manual,
    /// It is refused.
    Refuse,
}

/// Who signs certificates for Agents (CSR-11). [`LocalCa`] is one that does so by itself.
///
/// ```
/// use opamp_server::{CertificateAuthority, CertificateRequest, IssuedCertificate, NotIssued};
///
/// /// Has the certificates from elsewhere.
/// struct Pki;
///
/// impl CertificateAuthority for Pki {
///     async fn issue(&self, request: &CertificateRequest) -> Result<IssuedCertificate, NotIssued> {
///         let uid = request.agent().uid().to_string();
///         # async fn sign(_uid: &str, _der: &[u8]) -> Result<(String, String), std::io::Error> {
///         #     Err(std::io::ErrorKind::NotFound.into())
///         # }
///         let signed = sign(&uid, request.der()).await;
///         let (certificate, authority) = signed.map_err(|_| NotIssued::new("ask again later"))?;
///         Ok(IssuedCertificate { certificate, authority: Some(authority) })
///     }
/// }
/// ```
pub trait CertificateAuthority: Send + Sync + 'static {
    /// Makes a certificate for the key in a request, which was verified. What else is in the
    /// request only the Agent has said; the certificate should name the Agent,
    /// [`request.agent()`](CertificateRequest::agent), and no other.
    ///
    /// It is dropped at the [deadline](CertificateIssuing::deadline), and a panic ends this call
    /// and nothing else; the request is refused then.
    ///
    /// # Errors
    ///
    /// [`NotIssued`] has what the Agent is told; it will not repeat the request, but may make
    /// another.
    fn issue(
        &self,
        request: &CertificateRequest,
    ) -> impl Future<Output = Result<IssuedCertificate, NotIssued>> + Send;
}

/// A certificate that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate, PEM; what is between it and its root follows (CERT-11).
    pub certificate: String,
    /// The certificate of the authority, PEM, unless the certificate is self-signed (CERT-13).
    pub authority: Option<String>,
}

/// There is no certificate, and this is what the Agent is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotIssued {
    reason: String,
}

impl NotIssued {
    /// The reason is sent to the Agent, so it should hold nothing it must not know.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }

    fn failed() -> Self {
        Self::new("the Server cannot issue certificates at the moment: ask again later")
    }
}

/// Why [`CertificateIssuing::approve`] did not lead to a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApprovalError {
    /// The registry does not allow it: there is no such Agent, or it waits for no such certificate.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The request cannot be granted; it is refused by that.
    #[error("the request is refused: {0}")]
    Invalid(#[from] InvalidCertificateRequest),
    /// The authority issued none; the request is refused by that.
    #[error("no certificate was issued: {0}")]
    NotIssued(#[from] NotIssued),
}

/// Has certificates issued to Agents that ask for them. Clones are the same.
///
/// Put it into [`ServiceConfig::certificates`](crate::ServiceConfig::certificates): the Server then
/// announces that it takes requests (CSR-24). Keep a clone to [approve](Self::approve) what waits.
#[derive(Clone)]
pub struct CertificateIssuing {
    authority: Arc<dyn Authority>,
    endpoint: Arc<RwLock<String>>,
    /// The lists of the services that it issues for.
    revocations: Arc<RwLock<Vec<Revocations>>>,
    heartbeat_interval_seconds: u64,
    approval: CsrApproval,
    deadline: Duration,
}

impl CertificateIssuing {
    /// Has an authority sign. `endpoint` is where Agents reach this Server, a `ws`, `wss`, `http`
    /// or `https` URL: an offer of a certificate has to repeat it (CONN-29). An Agent on the other
    /// transport is told the same with the scheme it uses.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if the endpoint cannot be offered.
    pub fn new(
        authority: impl CertificateAuthority,
        endpoint: impl Into<String>,
    ) -> Result<Self, InvalidOffer> {
        let issuing = Self {
            authority: Arc::new(authority),
            endpoint: Arc::default(),
            revocations: Arc::default(),
            heartbeat_interval_seconds: 30,
            approval: CsrApproval::Manual,
            deadline: Duration::from_secs(30),
        };
        issuing.set_endpoint(endpoint)?;
        Ok(issuing)
    }

    /// Offers another endpoint from now on, also with the clones: for a Server that learns its port
    /// when it listens.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if the endpoint cannot be offered; it stays as it was then.
    pub fn set_endpoint(&self, endpoint: impl Into<String>) -> Result<(), InvalidOffer> {
        let endpoint = endpoint.into();
        let some = v1::TlsCertificate { cert: Bytes::from_static(b"PEM"), ..Default::default() };
        self.offer_at(endpoint.clone(), some)?;
        *self.endpoint.write().unwrap_or_else(PoisonError::into_inner) = endpoint;
        Ok(())
    }

    fn endpoint(&self) -> String {
        self.endpoint.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A service with this list issues by it.
    fn heed(&self, list: &Revocations) {
        let mut lists = self.revocations.write().unwrap_or_else(PoisonError::into_inner);
        if !lists.iter().any(|known| known.is_same(list)) {
            lists.push(list.clone());
        }
    }

    /// Whoever asks for it, an Agent whose certificates are revoked gets no other.
    fn check_revoked(&self, agent: AgentKey) -> Result<(), NotIssued> {
        let lists = self.revocations.read().unwrap_or_else(PoisonError::into_inner);
        let uid = agent.uid().instance_uid().map(Revoked::InstanceUid);
        match uid.is_some_and(|uid| lists.iter().any(|list| list.contains(&uid))) {
            true => Err(NotIssued::new("the certificates of this Agent are revoked")),
            false => Ok(()),
        }
    }

    /// What happens with requests unless the handler says otherwise
    /// ([`Handler::approve_certificate`]). Default: somebody has to
    /// approve them.
    #[must_use]
    pub fn approval(self, approval: CsrApproval) -> Self {
        Self { approval, ..self }
    }

    /// How long the authority may take. Default: 30 s.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The interval that goes along with a certificate where no other settings are wanted, rounded
    /// to seconds. Default: 30 s (reading A01).
    #[must_use]
    pub fn heartbeat_interval(self, interval: Duration) -> Self {
        Self { heartbeat_interval_seconds: interval.as_secs().max(1), ..self }
    }

    /// Grants a request that waits: has the authority sign, and offers the certificate to the
    /// Agent. `request` is the one that was looked at; should the Agent have sent another one
    /// since, nothing happens.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the request waits on; the authority may have signed in vain.
    ///
    /// # Errors
    ///
    /// [`ApprovalError`] says why there is no certificate, and whether the request is refused by
    /// that.
    pub async fn approve<I>(
        &self,
        fleet: &Fleet<I>,
        agent: impl Into<AgentKey>,
        request: CertificateRequestId,
    ) -> Result<(), ApprovalError> {
        let agent = agent.into();
        let pending = fleet.pending_certificate(agent).filter(|pending| pending.id == request);
        let Some(pending) = pending else {
            let known = fleet.agent(agent).is_some();
            return Err(if known {
                OperationError::NoCertificateRequest.into()
            } else {
                OperationError::UnknownAgent.into()
            });
        };
        match CertificateRequest::parse(agent, &pending.csr) {
            Ok(request) => self.issue(fleet, &request).await,
            Err(invalid) => {
                fleet.refuse_certificate(agent, request, &invalid.to_string())?;
                Err(invalid.into())
            }
        }
    }

    async fn issue<I>(
        &self,
        fleet: &Fleet<I>,
        request: &CertificateRequest,
    ) -> Result<(), ApprovalError> {
        let (agent, id) = (request.agent(), request.id());
        let call = async {
            self.check_revoked(agent)?;
            self.authority.issue(request).await
        };
        let call = AssertUnwindSafe(call).catch_unwind();
        let issued = match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(issued)) => issued,
            Ok(Err(_panic)) => {
                tracing::error!(%agent, "the certificate authority panicked");
                Err(NotIssued::failed())
            }
            Err(_elapsed) => {
                tracing::error!(%agent, "the certificate authority took too long");
                Err(NotIssued::failed())
            }
        };
        // The authority may have taken long.
        let issued = issued.and_then(|issued| self.check_revoked(agent).map(|()| issued));
        let issued = issued.and_then(|issued| checked(issued, request));
        let certificate = match issued {
            Ok(certificate) => certificate,
            Err(not_issued) => {
                fleet.refuse_certificate(agent, id, &not_issued.reason)?;
                return Err(not_issued.into());
            }
        };
        let transport = fleet.agent(agent).ok_or(OperationError::UnknownAgent)?.transport();
        let offer = self.offer(certificate, transport).map_err(|_| NotIssued::failed())?;
        if let Err(error) = fleet.issue_certificate(agent, id, offer, now().instant) {
            // The Agent must not wait for ever; if it does not wait any more, this does nothing.
            let _ = fleet.refuse_certificate(agent, id, &error.to_string());
            return Err(error.into());
        }
        tracing::info!(%agent, request = %id, "a certificate was issued");
        Ok(())
    }

    /// The settings that go along with a certificate where no others are wanted.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if the certificate is empty.
    pub fn offer(
        &self,
        certificate: v1::TlsCertificate,
        transport: Transport,
    ) -> Result<CertificateOffer, InvalidOffer> {
        self.offer_at(endpoint_for(transport, &self.endpoint()), certificate)
    }

    fn offer_at(
        &self,
        destination_endpoint: String,
        certificate: v1::TlsCertificate,
    ) -> Result<CertificateOffer, InvalidOffer> {
        CertificateOffer::new(v1::OpAmpConnectionSettings {
            destination_endpoint,
            heartbeat_interval_seconds: self.heartbeat_interval_seconds,
            certificate: Some(certificate),
            ..Default::default()
        })
    }
}

impl fmt::Debug for CertificateIssuing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateIssuing")
            .field("endpoint", &self.endpoint())
            .field("approval", &self.approval)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// The same place over a transport.
fn endpoint_for(transport: Transport, endpoint: &str) -> String {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return endpoint.to_owned() };
    let secure = matches!(&*scheme.to_ascii_lowercase(), "wss" | "https");
    let scheme = match (transport, secure) {
        (Transport::WebSocket, true) => "wss",
        (Transport::WebSocket, false) => "ws",
        (Transport::Http, true) => "https",
        (Transport::Http, false) => "http",
    };
    format!("{scheme}://{rest}")
}

/// What the authority made, if it is a certificate for the key in the request: an Agent can use no
/// other.
fn checked(
    issued: IssuedCertificate,
    request: &CertificateRequest,
) -> Result<v1::TlsCertificate, NotIssued> {
    let own = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).ok();
    let is_for_the_key = own
        .as_ref()
        .and_then(|own| X509Certificate::from_der(own).ok())
        .is_some_and(|(_, certificate)| certificate.public_key().raw == request.public_key());
    if !is_for_the_key {
        let agent = request.agent();
        tracing::error!(%agent, "what the certificate authority issued is not for the Agent's key");
        return Err(NotIssued::failed());
    }
    Ok(v1::TlsCertificate {
        cert: issued.certificate.into(),
        private_key: Bytes::new(),
        ca_cert: issued.authority.unwrap_or_default().into(),
    })
}

/// An authority of whatever type.
trait Authority: Send + Sync {
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> Pin<Box<dyn Future<Output = Result<IssuedCertificate, NotIssued>> + Send + 'a>>;
}

impl<A: CertificateAuthority> Authority for A {
    fn issue<'a>(
        &'a self,
        request: &'a CertificateRequest,
    ) -> Pin<Box<dyn Future<Output = Result<IssuedCertificate, NotIssued>> + Send + 'a>> {
        Box::pin(CertificateAuthority::issue(self, request))
    }
}

impl<H: Handler> Inner<H> {
    /// Decides about an Agent's certificate request, if it waits for somebody to do so.
    pub(super) async fn decide_certificate(&self, agent: AgentKey, identity: &H::Identity) {
        let Some(issuing) = &self.config.certificates else { return };
        let Some(pending) = self.fleet.pending_certificate(agent) else { return };
        let refuse = |reason: &str| {
            tracing::info!(%agent, request = %pending.id, reason, "a certificate is refused");
            // If the Agent is gone or has asked for another one, there is nobody to tell.
            let _ = self.fleet.refuse_certificate(agent, pending.id, reason);
        };
        let request = match CertificateRequest::parse(agent, &pending.csr) {
            Ok(request) => request,
            Err(invalid) => return refuse(&invalid.to_string()),
        };
        if let Err(revoked) = issuing.check_revoked(agent) {
            return refuse(&revoked.reason);
        }
        let call =
            async { self.handler.approve_certificate(&request, identity, issuing.approval).await };
        let call = AssertUnwindSafe(call).catch_unwind();
        match tokio::time::timeout(self.config.handler_deadline, call).await {
            Ok(Ok(CsrApproval::Auto)) => {
                if let Err(error) = issuing.issue(&self.fleet, &request).await {
                    tracing::warn!(%agent, request = %pending.id, %error, "no certificate was issued");
                }
            }
            Ok(Ok(CsrApproval::Manual)) => {
                tracing::info!(%agent, request = %pending.id, "a certificate request waits for approval");
            }
            Ok(Ok(CsrApproval::Refuse)) => refuse("the Server does not approve of it"),
            Ok(Err(_panic)) => {
                self.fleet.counting().handler_panics.add();
                tracing::error!(%agent, "the handler panicked at the approval of a certificate");
                refuse(&NotIssued::failed().reason);
            }
            Err(_elapsed) => {
                tracing::warn!(%agent, "the handler took too long for the approval of a certificate");
                refuse(&NotIssued::failed().reason);
            }
        }
    }
}

/// What is announced where certificates are issued (CSR-24), none of them to those who are revoked.
pub(super) fn announced(mut server: ServerConfig, service: &ServiceConfig) -> ServerConfig {
    if let Some(issuing) = &service.certificates {
        if let Some(revocations) = &service.revocations {
            issuing.heed(revocations);
        }
        server.capabilities |= ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    }
    server
}

/// Revocation.
impl<H: Handler> Inner<H> {
    /// Refuses a request whose certificate is revoked.
    pub(super) fn check_certificate(&self, request: &Parts) -> Result<(), Rejection> {
        let presented = request.extensions.get::<PeerCertificates>();
        let revocations = self.config.revocations.as_ref();
        match presented.zip(revocations) {
            Some((peer, revocations)) if revocations.is_revoked(peer) => {
                tracing::info!(serial = ?peer.serial(), "the certificate is revoked");
                Err(Rejection::forbidden())
            }
            _ => Ok(()),
        }
    }

    /// Notes the certificate a WebSocket is opened with.
    pub(super) fn note_certificate(&self, request: &Parts, signal: &Signal) {
        let Some(revocations) = &self.config.revocations else { return };
        let Some(named) = request.extensions.get::<PeerCertificates>().and_then(Named::of) else {
            return;
        };
        signal.set_named(named.clone());
        // It may have been revoked since the request was admitted.
        if revocations.covers(&named) {
            signal.revoke();
        }
    }

    /// Closes the WebSockets whose certificate was revoked since the last look.
    pub(super) fn close_revoked(&self, seen: &mut u64) {
        let Some(revocations) = &self.config.revocations else { return };
        let version = revocations.version();
        if std::mem::replace(seen, version) != version {
            self.signals.revoke(|named| revocations.covers(named));
        }
    }
}
