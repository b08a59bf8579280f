//! The service for both transports, and a listener for those who have no HTTP server of their own.
//!
//! [`OpampService`] is a [`tower_service::Service`] and a [`hyper::service::Service`]: one value to
//! mount at a path of an existing hyper or axum application, which answers plain HTTP and upgrades
//! to WebSocket alike (NET-01). [`Server`] listens by itself.
//!
//! [`Server`] speaks HTTP/2 as well (feature `http2`), by ALPN or with prior knowledge, for plain
//! requests: WebSockets over HTTP/2 are not offered, so a client opens them over HTTP/1.1. In a
//! mounted service it is the host's choice.
//!
//! # What a peer at fault is told
//!
//! | fault | over WebSocket | over HTTP |
//! | --- | --- | --- |
//! | not admitted | the handshake is answered with the [`Rejection`]'s status | that status |
//! | not a valid handshake, method not `POST` | 400, 405 or 426, never 404 | 405 with `Allow: POST` |
//! | header not zero, or missing | BAD_REQUEST | |
//! | not a valid `AgentToServer`, no or odd `instance_uid` | BAD_REQUEST | 200 with BAD_REQUEST |
//! | may not speak for the Agent | BAD_REQUEST | 403 |
//! | more malformed or denied messages in a row than allowed | Close 1008 | |
//! | message above the limit, unpacked or not | Close 1009 | 413 |
//! | text message | Close 1003 | |
//! | not the WebSocket protocol | Close 1002 | |
//! | a close reason that is not UTF-8 | Close 1007 | |
//! | gzip that cannot be unpacked, body that breaks off | | 400 |
//! | unknown `Content-Encoding` | | 415 with `Accept-Encoding: gzip` |
//! | body that pauses for too long, or comes too slowly | | 408 |
//! | does not speak, answer pings or read | Close 1008 | |
//! | another Agent with its uid is connected, and it may have no other | BAD_REQUEST | 403 |
//! | too many Agents on the connection, too much state | BAD_REQUEST | 200 with BAD_REQUEST |
//! | *what changed cannot be stored* | UNAVAILABLE | 200 with UNAVAILABLE |
//! | *too many arrive, the Server is overloaded* | UNAVAILABLE; 503 to the handshake | 503 with `Retry-After` |
//! | *the Server is full* | UNAVAILABLE | 200 with UNAVAILABLE |
//! | *the reply is above the limit of what is sent* | UNKNOWN | 200 with UNKNOWN |
//! | *the Server shuts down* | Close 1001 | served until the WebSockets are closed, then 503 |
//!
//! A connection goes on after BAD_REQUEST, UNAVAILABLE and UNKNOWN.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::{Request, Response, StatusCode, request};
use bytes::Buf;
use futures_util::FutureExt as _;
use tracing::Instrument as _;

use crate::core::{Changes, ServerConfig};
use crate::fleet::{AgentKey, Fleet, Now};

mod admission;
mod at_once;
mod auth;
mod authorize;
mod body;
mod buffers;
#[cfg(feature = "ca")]
pub mod certificates;
mod config;
mod connection;
mod dispatch;
mod error;
mod handler;
mod http;
mod in_progress;
mod incoming;
mod large;
mod listen;
mod network;
mod overload;
mod package_files;
mod probes;
mod proxies;
mod proxy_protocol;
mod quota;
mod saver;
mod signal;
mod spare;
pub mod store;
mod stream;
mod timekeeper;
#[cfg(feature = "tls")]
pub mod tls;
mod upgrade;
mod upload;
mod websocket;

#[cfg(feature = "tls")]
pub use self::auth::ClientCertificates;
pub use self::auth::{Authenticate, BearerTokens, Both, Either, Mapped};
pub use self::authorize::Authorizing;
pub use self::body::Body;
#[cfg(feature = "ca")]
pub use self::certificates::{
    ApprovalError, CertificateAuthority, CertificateIssuing, CertificateRequest, CertificateSerial,
    CsrApproval, InvalidCertificateRequest, InvalidSerial, IssuedCertificate, KeyAlgorithm,
    LocalCa, NotIssued, Revocations, RevocationsFull, Revoked,
};
pub use self::config::ServiceConfig;
pub use self::error::{Error, ErrorKind};
#[cfg(feature = "tls")]
pub use self::handler::PeerCertificates;
pub use self::handler::{AcceptAll, AgentChange, Handler, PeerAddr, Rejection};
pub use self::listen::{DEFAULT_PATH, DEFAULT_PORT, Server, ServerBuilder, ShutdownHandle};
pub use self::network::{InvalidNetwork, Network};
pub use self::overload::OverloadLimits;
pub use self::package_files::{FilesFull, PackageFile, PackageFiles};
pub use self::proxies::TrustedProxies;
pub use self::saver::StoreHandle;

use self::admission::{Permit, Shares};
use self::at_once::in_time;
use self::authorize::ByHandler;
use self::dispatch::Queue;
use self::http::Reply;
use self::large::LargeWork;
use self::saver::{Saver, Saving, Verdict};
use self::signal::Signals;
use self::store::{AnyStore, StateStore};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a panic was about.
type Panic = Box<dyn std::any::Any + Send>;

/// The moment, on the clocks that tokio and the system have.
fn now() -> Now {
    Now {
        instant: tokio::time::Instant::now().into_std(),
        #[expect(
            clippy::disallowed_methods,
            reason = "the service is the driver: it has the clocks"
        )]
        system: std::time::SystemTime::now(),
    }
}

/// Says once for each session that a tolerance is in use.
fn note_odd_uid(key: &AgentKey, changes: Changes) {
    if changes.contains(Changes::CONNECTED) && key.uid().instance_uid().is_none() {
        tracing::info!(agent = %key, "an instance uid in a legacy form is tolerated");
    }
}

/// The Server's end of OpAMP as a service: both transports at whatever path it is mounted.
///
/// Clones serve the same [`Fleet`]. The service spawns a task for each WebSocket, a bounded number
/// of tasks for calls of the [`Handler`], and with its first request one task that keeps the time;
/// so it has to be called within a tokio runtime. The last clone to be dropped leaves open
/// WebSockets to themselves; [`shutdown`](Self::shutdown) closes them.
///
/// ```
/// use opamp_server::{AcceptAll, OpampService, ServerConfig, ServiceConfig};
///
/// # fn main() {
/// let service = OpampService::new(AcceptAll, ServerConfig::default(), ServiceConfig::default());
/// let fleet = service.fleet().clone();
/// let app: axum::Router = axum::Router::new()
///     .route("/", axum::routing::get(|| async move { format!("{} Agents", fleet.len()) }))
///     .route_service("/v1/opamp", service);
/// # let _ = app;
/// # }
/// ```
pub struct OpampService<H: Handler> {
    inner: Arc<Inner<H>>,
}

struct Inner<H: Handler> {
    handler: Arc<H>,
    fleet: Fleet<H::Identity>,
    config: ServiceConfig,
    /// Open connections.
    signals: Arc<Signals>,
    /// Running calls of the handler.
    workers: Arc<Signals>,
    queue: Queue,
    large: LargeWork,
    shares: Shares,
    keeps_time: AtomicBool,
    /// `None` without a store.
    saving: Option<Saving>,
}

impl<H: Handler> Clone for OpampService<H> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<H: Handler> std::fmt::Debug for OpampService<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpampService").field("fleet", &self.inner.fleet).finish_non_exhaustive()
    }
}

impl<H: Handler> OpampService<H> {
    /// A service with a registry of its own.
    #[must_use]
    pub fn new(handler: H, server: ServerConfig, service: ServiceConfig) -> Self {
        #[cfg(feature = "ca")]
        let server = certificates::announced(server, &service);
        let handler = Arc::new(handler);
        let fleet = Fleet::with_authorizer(server, ByHandler(Arc::clone(&handler)));
        Self::assemble(handler, fleet, service, None)
    }

    /// A service that keeps in a [store] what has to survive a restart, and knows what
    /// is there. It has to be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// An [`Error`] of kind [`Store`](ErrorKind::Store) if what is stored cannot be read.
    pub async fn with_store(
        handler: H,
        server: ServerConfig,
        service: ServiceConfig,
        store: impl StateStore,
    ) -> Result<Self, Error> {
        Self::with_any_store(handler, server, service, Some(Arc::new(store))).await
    }

    async fn with_any_store(
        handler: H,
        server: ServerConfig,
        service: ServiceConfig,
        store: Option<Arc<dyn AnyStore>>,
    ) -> Result<Self, Error> {
        #[cfg(feature = "ca")]
        let server = certificates::announced(server, &service);
        let handler = Arc::new(handler);
        let fleet = Fleet::with_authorizer(server, ByHandler(Arc::clone(&handler)));
        let saving = match store {
            Some(store) => Some(Saving(Saver::start(&fleet, store, &service).await?)),
            None => None,
        };
        Ok(Self::assemble(handler, fleet, service, saving))
    }

    fn assemble(
        handler: Arc<H>,
        fleet: Fleet<H::Identity>,
        config: ServiceConfig,
        saving: Option<Saving>,
    ) -> Self {
        let shares = Shares::new(&config);
        Self {
            inner: Arc::new(Inner {
                handler,
                fleet,
                config,
                signals: Arc::default(),
                workers: Arc::default(),
                queue: Queue::default(),
                large: LargeWork::default(),
                shares,
                keeps_time: AtomicBool::new(false),
                saving,
            }),
        }
    }

    /// Takes note when what an operator has changed is stored.
    #[must_use]
    pub fn store_handle(&self) -> StoreHandle<H::Identity> {
        StoreHandle { fleet: self.inner.fleet.clone(), saver: self.inner.saver().map(Arc::clone) }
    }

    /// The registry of the Agents this service serves.
    #[must_use]
    pub fn fleet(&self) -> &Fleet<H::Identity> {
        &self.inner.fleet
    }

    /// Refuses new WebSockets with 503, and closes those that are open with code 1001, spread
    /// evenly over a time, so that their Agents do not all arrive elsewhere at once. Returns when
    /// the last was told to close: [`shutdown`](Self::shutdown) waits until they are closed.
    ///
    /// Dropped, it closes no more; they are served on.
    pub async fn drain(&self, over: Duration) {
        let signals = &self.inner.signals;
        signals.refuse();
        let started = tokio::time::Instant::now();
        let all = signals.close_all_but(usize::MAX);
        let mut told = started;
        let mut open = all;
        while open > 0 && !over.is_zero() {
            let left = over.saturating_sub(started.elapsed());
            // Both are spans that were configured, in parts of a million.
            let part = left.as_nanos().saturating_mul(1_000_000) / over.as_nanos();
            let keep = (all as u128).saturating_mul(part) / 1_000_000;
            open = signals.close_all_but(usize::try_from(keep).unwrap_or(usize::MAX));
            if told.elapsed() >= DRAIN_REPORT || open == 0 {
                told = tokio::time::Instant::now();
                tracing::info!(open, all, ?left, "connections are closed bit by bit");
            }
            tokio::time::sleep(DRAIN_STEP.min(left)).await;
        }
    }

    /// Closes every WebSocket with code 1001 and refuses new ones; waits until they are closed and
    /// the handler is done, at most this long, and then ends what is left. From then on plain
    /// requests are answered with 503. With a store, everything is then written, for which there is
    /// as much time again, and at least a second.
    pub async fn shutdown(&self, within: Duration) {
        let Inner { signals, workers, .. } = &*self.inner;
        signals.close();
        let closed = async {
            signals.closed().await;
            workers.closed().await;
        };
        if tokio::time::timeout(within, closed).await.is_err() {
            tracing::warn!("connections are ended that did not close in time");
            signals.abort();
            workers.abort();
        }
        signals.finish();
        if let Some(saver) = self.inner.saver() {
            saver.finish(within.max(MIN_FINISH)).await;
        }
    }

    /// Answers a request, at whatever path. On a connection of the listener it has a permit.
    fn answer<B>(&self, request: Request<B>, permit: Option<&Permit>) -> ResponseFuture
    where
        B: http_body::Body<Data: Buf> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        match http::is_plain(request.headers()) {
            true => Box::pin(self.answer_plain(request)),
            false => Box::pin(self.answer_upgrade(request, permit.cloned())),
        }
    }

    // What follows is what each plain request costs. Futures are pinned where they are made, as
    // what wraps one would move it, and what is rare is boxed.

    fn answer_plain<B>(
        &self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<H, B>
    where
        B: http_body::Body<Data: Buf> + Send + 'static,
    {
        let (mut parts, body) = request.into_parts();
        let client = self.inner.learn_client(&mut parts);
        let inner = Arc::clone(&self.inner);
        async move {
            inner.keep_time();
            let span =
                tracing::debug_span!("request", peer = ?client, agent = tracing::field::Empty);
            let response = {
                let answered = pin!(inner.plain(&parts, body, client, &span));
                let answered = AssertUnwindSafe(answered.instrument(span.clone())).catch_unwind();
                let reply = answered.await.map(|reply| reply.map(Reply::into_response));
                inner.conclude(reply)
            };
            spare::take_back(std::mem::take(&mut parts.extensions));
            Ok(response)
        }
    }

    fn answer_upgrade<B>(
        &self,
        mut request: Request<B>,
        permit: Option<Permit>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<H, B>
    where
        B: Send + 'static,
    {
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let client = self.inner.learn_client(&mut parts);
        let service = self.clone();
        async move {
            let _body = body;
            let inner = &service.inner;
            inner.keep_time();
            let answered = pin!(async {
                inner.check_client(client)?;
                service.websocket(&parts, upgrade, permit).await
            });
            Ok(inner.conclude(AssertUnwindSafe(answered).catch_unwind().await))
        }
    }

    async fn websocket(
        &self,
        request: &request::Parts,
        upgrade: hyper::upgrade::OnUpgrade,
        permit: Option<Permit>,
    ) -> Result<Response<Body>, Rejection> {
        let response = upgrade::handshake(request)?;
        self.inner.check_available()?;
        let identity = self.inner.admit(request).await;
        let admitted = identity.and_then(|identity| {
            self.inner.check_account(&identity)?;
            Ok((self.inner.places(request, permit.as_ref(), &identity)?, identity))
        });
        // A stranger takes no place of those who arrive.
        let admitted = admitted.inspect_err(|_| self.inner.fleet.forget_connection());
        let (places, identity) = admitted?;
        let peer = request.extensions.get::<PeerAddr>().map(|peer| peer.0);
        let inner = Arc::clone(&self.inner);
        self.inner.signals.spawn(|signal| {
            #[cfg(feature = "ca")]
            inner.note_certificate(request, &signal);
            // Boxed, as its state is large and soon done with.
            let opening = Box::pin(connection::open(inner, signal, upgrade, peer, identity));
            async move {
                if let Some(serving) = opening.await {
                    serving.instrument(tracing::debug_span!("websocket", ?peer)).await;
                }
                // Here, so that there is room for them only once.
                drop((permit, places));
            }
        });
        Ok(response)
    }
}

impl<H: Handler> Inner<H> {
    async fn plain<B>(
        self: &Arc<Self>,
        request: &request::Parts,
        body: B,
        peer: Option<SocketAddr>,
        span: &tracing::Span,
    ) -> Result<Reply, Rejection>
    where
        B: http_body::Body<Data: Buf> + Send + 'static,
    {
        let mut body = pin!(body);
        let answered: Result<_, Rejection> = async {
            self.check_client(peer)?;
            http::check_method(&request.method)?;
            // What it brings might not be stored any more. Until then it is served: who is refused
            // has used up a number, and would be asked for its full state afterwards.
            if self.signals.is_finished() {
                return Err(Rejection::unavailable(Duration::ZERO));
            }
            let identity = self.admit(request).await?;
            self.check_account(&identity)?;
            self.exchange(request, body.as_mut(), peer, identity, span).await
        }
        .await;
        if let Err(refusal) = &answered {
            let within = self.config.close_timeout;
            Box::pin(upload::discard(&request.headers, body, refusal.status(), within)).await;
        }
        answered
    }

    /// The response to a request. What the handler says of an identity is asked in several places,
    /// and may have been a panic in any.
    fn conclude(
        &self,
        answered: Result<Result<Response<Body>, Rejection>, Panic>,
    ) -> Response<Body> {
        let counting = self.fleet.counting();
        let answered = answered.unwrap_or_else(|_panic| {
            counting.handler_panics.add();
            tracing::error!("the handler panicked over an identity");
            Err(Rejection::with_status(StatusCode::INTERNAL_SERVER_ERROR))
        });
        let response = answered.unwrap_or_else(|refusal| {
            tracing::debug!(status = refusal.status().as_u16(), "request refused");
            refusal.into_response()
        });
        counting.responded(response.status().as_u16());
        response
    }

    fn saver(&self) -> Option<&Arc<Saver>> {
        self.saving.as_ref().map(|saving| &saving.0)
    }

    /// Asks the handler about a peer.
    async fn admit(&self, request: &request::Parts) -> Result<H::Identity, Rejection> {
        let admission = async {
            #[cfg(feature = "ca")]
            self.check_certificate(request)?;
            self.handler.admit(request).await
        };
        let admission = pin!(AssertUnwindSafe(admission).catch_unwind());
        let deadline = self.config.admission_deadline;
        let rejection = match in_time(deadline, admission).await {
            Ok(Ok(Ok(identity))) => return Ok(identity),
            Ok(Ok(Err(rejection))) => rejection,
            Ok(Err(_panic)) => {
                self.fleet.counting().handler_panics.add();
                tracing::error!("the handler panicked at an admission");
                Rejection::with_status(StatusCode::INTERNAL_SERVER_ERROR)
            }
            Err(_elapsed) => {
                self.fleet.counting().handler_timeouts.add();
                tracing::warn!("the handler took too long for an admission");
                Rejection::unavailable(Duration::from_secs(1))
            }
        };
        self.fleet.counting().rejected(rejection.status().as_u16());
        let peer = request.extensions.get::<PeerAddr>().map(|peer| peer.0);
        tracing::info!(?peer, status = rejection.status().as_u16(), "rejected");
        Err(rejection)
    }

    /// No WebSocket is opened, and nobody asked about it, for an Agent that would only be sent away
    /// (THR-07, THR-08).
    fn check_available(&self) -> Result<(), Rejection> {
        if self.signals.is_refusing() {
            return Err(Rejection::unavailable(Duration::ZERO));
        }
        self.fleet.admit_connection(now().instant).map_err(Rejection::unavailable)
    }
}

/// The least time to write what has changed at last.
const MIN_FINISH: Duration = Duration::from_secs(1);
/// The time between two steps of a drain, and between two reports of how far it is.
const DRAIN_STEP: Duration = Duration::from_millis(100);
const DRAIN_REPORT: Duration = Duration::from_secs(2);

/// The answer of [`OpampService`], a boxed future.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<H, B> tower_service::Service<Request<B>> for OpampService<H>
where
    H: Handler,
    B: http_body::Body<Data: Buf> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.answer(request, None)
    }
}

impl<H, B> hyper::service::Service<Request<B>> for OpampService<H>
where
    H: Handler,
    B: http_body::Body<Data: Buf> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<B>) -> ResponseFuture {
        self.answer(request, None)
    }
}
