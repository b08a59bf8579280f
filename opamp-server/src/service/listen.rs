//! A listener for those who have no HTTP server of their own: one path, both transports, with or
//! without TLS.

use std::error::Error as _;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::http::header::{CONNECTION, HeaderValue};
use ::http::{Request, StatusCode};
use bytes::Buf;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, watch};

use super::error::{Error, ErrorKind};
#[cfg(feature = "tls")]
use super::handler::PeerCertificates;
use super::handler::{AcceptAll, Handler, PeerAddr};
use super::package_files::PackageFiles;
use super::signal::{Signal, coarse};
use super::store::{AnyStore, StateStore};
use super::stream::Socket;
#[cfg(feature = "tls")]
use super::tls::{ListenerTls, keep_current};
use super::{BoxError, Network, OpampService, ResponseFuture, ServiceConfig, http, spare, upload};
use crate::core::ServerConfig;
use crate::fleet::Fleet;

mod arrival;
mod head;
#[cfg(feature = "http2")]
mod http2;

#[cfg(feature = "http2")]
pub(super) use self::http2::Exchange;

use self::arrival::{Arrival, Standing};
use self::head::{HeadTimer, HeadWatch, Heads, Requests};

/// The path that is served unless another is configured (NET-03).
pub const DEFAULT_PATH: &str = "/v1/opamp";

/// The port to listen on where none is configured (NET-06).
pub const DEFAULT_PORT: u16 = 4320;

/// Longer times are cut to this, so that a deadline can be computed.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Connections beyond those that are served that are told so at a time; more are just closed.
const TURNING_AWAY: usize = 256;

/// The head of a request: its first line and its fields. Read into memory before anybody is asked
/// who sends it.
const MAX_HEAD: usize = 16 * 1024;

/// The longest pause after a failure to accept a connection.
const MAX_ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A Server that listens by itself.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use opamp_server::{AcceptAll, Server};
///
/// let server = Server::bind("127.0.0.1:0").listen(AcceptAll).await?;
/// println!("ws://{}/v1/opamp", server.local_addr());
/// let shutdown = server.shutdown_handle();
/// # shutdown.shutdown();
/// server.run().await;
/// # Ok(())
/// # }
/// ```
pub struct Server<H: Handler> {
    service: OpampService<H>,
    listener: TcpListener,
    local_addr: SocketAddr,
    options: Options,
    shutdown: watch::Sender<Stop>,
}

/// Configures a [`Server`].
#[must_use = "nothing listens until `listen` is called"]
pub struct ServerBuilder<A> {
    addr: A,
    server: ServerConfig,
    service: ServiceConfig,
    max_connections: usize,
    store: Option<Arc<dyn AnyStore>>,
    options: Options,
}

struct Options {
    path: Arc<str>,
    /// The files of packages, and the path they are below.
    packages: Option<(Box<str>, PackageFiles)>,
    #[cfg(feature = "tls")]
    tls: Option<ListenerTls>,
    #[cfg(feature = "tls")]
    tls_reload_interval: Duration,
    #[cfg(feature = "tls")]
    handshake_timeout: Duration,
    header_timeout: Duration,
    idle_timeout: Duration,
    shutdown_deadline: Duration,
    drain: Duration,
    connections: Arc<Semaphore>,
    /// Places for connections beyond them, to tell them so.
    turning_away: Arc<Semaphore>,
    /// Load balancers that speak the PROXY protocol.
    balancers: Vec<Network>,
}

impl Server<AcceptAll> {
    /// Begins the configuration of a Server that listens on this address; see [`DEFAULT_PORT`].
    pub fn bind<A: ToSocketAddrs>(addr: A) -> ServerBuilder<A> {
        ServerBuilder {
            addr,
            server: ServerConfig::default(),
            service: ServiceConfig::default(),
            max_connections: 20_000,
            store: None,
            options: Options {
                path: DEFAULT_PATH.into(),
                packages: None,
                #[cfg(feature = "tls")]
                tls: None,
                #[cfg(feature = "tls")]
                tls_reload_interval: Duration::from_secs(30),
                #[cfg(feature = "tls")]
                handshake_timeout: Duration::from_secs(10),
                header_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(120),
                shutdown_deadline: Duration::from_secs(10),
                drain: Duration::ZERO,
                connections: Arc::new(Semaphore::new(0)),
                turning_away: Arc::new(Semaphore::new(TURNING_AWAY)),
                balancers: Vec::new(),
            },
        }
    }
}

impl<A: ToSocketAddrs> ServerBuilder<A> {
    /// Serves this path; any other is answered with 404. Default: [`DEFAULT_PATH`] (NET-05).
    pub fn path(mut self, path: &str) -> Self {
        self.options.path = path.into();
        self
    }

    /// Serves files of packages below this path, such as `/packages`, to whoever knows their hash
    /// (PKG-69). Default: none.
    pub fn package_files(mut self, path: &str, files: PackageFiles) -> Self {
        self.options.packages = Some((path.trim_end_matches('/').into(), files));
        self
    }

    /// What Agents are granted.
    pub fn config(mut self, config: ServerConfig) -> Self {
        self.server = config;
        self
    }

    /// The times and bounds of the service.
    pub fn service_config(mut self, config: ServiceConfig) -> Self {
        self.service = config;
        self
    }

    /// Keeps in this [store](super::store) what has to survive a restart, and knows what is there.
    /// Default: none, so that after a restart every Agent is new.
    pub fn state_store(mut self, store: impl StateStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Serves TLS only: with a configuration such as
    /// [`tls::server_config`](super::tls::server_config) makes, or with one that can be replaced,
    /// such as from files ([`tls::ListenerTls`](super::tls::ListenerTls)).
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: impl Into<ListenerTls>) -> Self {
        self.options.tls = Some(config.into());
        self
    }

    /// How often the files of the TLS configuration are looked at, if it is from files. Default: 30
    /// s.
    #[cfg(feature = "tls")]
    pub fn tls_reload_interval(mut self, interval: Duration) -> Self {
        self.options.tls_reload_interval =
            interval.clamp(Duration::from_millis(1), LONGEST_TIMEOUT);
        self
    }

    /// How long a TLS handshake may take. Default: 10 s.
    #[cfg(feature = "tls")]
    pub fn tls_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.options.handshake_timeout = timeout;
        self
    }

    /// Connections served at a time. Of more, 256 at a time are told 503 with `Retry-After`, and
    /// others closed at once. Default: 20,000.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How long the head of a connection's first request may take to arrive. Kept by a coarse
    /// clock, so that it may be exceeded by two seconds. Default: 10 s.
    pub fn header_timeout(mut self, timeout: Duration) -> Self {
        self.options.header_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// How long a connection is kept for a further request, its head included. Kept by a coarse
    /// clock, so that it may be exceeded by two seconds. Default: 120 s, so that an Agent that
    /// polls every 30 s keeps its connection.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.options.idle_timeout = timeout.min(LONGEST_TIMEOUT);
        self
    }

    /// Load balancers that begin each connection with the PROXY protocol, version 1 or 2, which
    /// says whom it comes from: connections from these addresses that do not are closed, and from
    /// others it is not taken. The header has the time of a request's head. Default: none.
    pub fn proxy_protocol(mut self, balancers: impl IntoIterator<Item = Network>) -> Self {
        self.options.balancers = balancers.into_iter().collect();
        self
    }

    /// The time over which a shutdown spreads the ends of connections, in no particular order, so
    /// that their Agents do not all arrive elsewhere at once: choose it by what is left to take
    /// them. Default: 0 s, all at once.
    pub fn drain(mut self, over: Duration) -> Self {
        self.options.drain = over.min(LONGEST_TIMEOUT);
        self
    }

    /// How long a shutdown waits for connections to close after that. Default: 10 s.
    pub const fn shutdown_deadline(mut self, deadline: Duration) -> Self {
        self.options.shutdown_deadline = deadline;
        self
    }

    /// Loads what is stored, if there is a store, and then listens. Connections are accepted from
    /// [`Server::run`] on.
    ///
    /// # Errors
    ///
    /// An [`Error`] of kind [`Bind`](ErrorKind::Bind) if the address cannot be listened on, and of
    /// kind [`Store`](ErrorKind::Store) if what is stored cannot be read.
    pub async fn listen<H: Handler>(mut self, handler: H) -> Result<Server<H>, Error> {
        let service = OpampService::with_any_store(handler, self.server, self.service, self.store);
        // Boxed, as its state is large where there is a store, and soon done with.
        let service = Box::pin(service).await?;
        let unusable = |error| Error::new(ErrorKind::Bind, error);
        let listener = TcpListener::bind(self.addr).await.map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        let max = self.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        self.options.connections = Arc::new(Semaphore::new(max));
        Ok(Server {
            service,
            listener,
            local_addr,
            options: self.options,
            shutdown: watch::Sender::new(Stop::No),
        })
    }
}

/// Asks a [`Server`] to shut down.
#[derive(Debug, Clone)]
pub struct ShutdownHandle(watch::Sender<Stop>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    InGoodOrder,
    AtOnce,
}

impl ShutdownHandle {
    /// Has [`Server::run`] stop accepting, close connections over the time for it
    /// ([`ServerBuilder::drain`]), finish what is in progress, and return. Returns at once, and may
    /// be called more than once.
    pub fn shutdown(&self) {
        self.raise(Stop::InGoodOrder);
    }

    /// Has [`Server::run`] end every connection as it is, and return: for who does not want to
    /// wait.
    pub fn shutdown_at_once(&self) {
        self.raise(Stop::AtOnce);
    }

    fn raise(&self, stop: Stop) {
        self.0.send_if_modified(|now| std::mem::replace(now, stop.max(*now)) < stop);
    }
}

impl<H: Handler> Server<H> {
    /// The address it listens on, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The registry of its Agents.
    #[must_use]
    pub fn fleet(&self) -> &Fleet<H::Identity> {
        self.service.fleet()
    }

    /// Takes note when what an operator has changed is stored.
    #[must_use]
    pub fn store_handle(&self) -> super::StoreHandle<H::Identity> {
        self.service.store_handle()
    }

    /// A handle to shut it down with.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle(self.shutdown.clone())
    }

    /// Serves until a [`ShutdownHandle`] says to stop. WebSockets are then closed with code 1001
    /// and HTTP responses in progress are finished, spread over the time and within the deadline
    /// for it.
    ///
    /// Dropping the future stops accepting at once; connections that are open are served on.
    pub async fn run(self) {
        let Self { service, listener, options, shutdown, .. } = self;
        let (drain, deadline) = (options.drain, options.shutdown_deadline);
        let mut stop = shutdown.subscribe();
        #[cfg(feature = "tls")]
        let renewing = keep_current(options.tls.clone(), options.tls_reload_interval);
        #[cfg(not(feature = "tls"))]
        let renewing = std::future::pending::<std::convert::Infallible>();
        tokio::select! {
            never = renewing => match never {},
            _ = stop.wait_for(|stop| *stop > Stop::No) => {}
            never = accept(&service, &listener, Arc::new(options)) => match never {},
        }
        drop(listener);
        let in_good_order = async {
            service.drain(drain).await;
            service.shutdown(deadline).await;
        };
        let at_once = async {
            let handles_are_gone = stop.wait_for(|stop| *stop == Stop::AtOnce).await.is_err();
            if handles_are_gone {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = in_good_order => {}
            () = at_once => service.shutdown(Duration::ZERO).await,
        }
    }
}

/// Accepts connections for ever.
async fn accept<H: Handler>(
    service: &OpampService<H>,
    listener: &TcpListener,
    options: Arc<Options>,
) -> std::convert::Infallible {
    let mut pause = Duration::ZERO;
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_the_connection(&error) => continue,
            Err(error) => {
                // Most likely there are no file descriptors left; that passes when some are freed.
                pause = (pause * 2).clamp(Duration::from_millis(10), MAX_ACCEPT_PAUSE);
                tracing::error!(%error, ?pause, "cannot accept connections");
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        pause = Duration::ZERO;
        // A small reply must not wait for the acknowledgement of an earlier one.
        let _ = stream.set_nodelay(true);
        let place = Arc::clone(&options.connections).try_acquire_owned().ok();
        let (service, options) = (service.clone(), Arc::clone(&options));
        let socket = Socket::new(stream, service.inner.config.write_timeout);
        let arrival = Arrival { service: service.clone(), options, peer, place };
        service.inner.signals.spawn(|signal| arrival.serve(signal, socket));
    }
}

/// The connection that was to be accepted is gone, which says nothing about the next.
fn is_of_the_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// The connection ended as its peer took nothing of a response in time.
fn is_stalled(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
}

/// A connection, and the service of the requests on it.
struct Connection<H: Handler> {
    service: OpampService<H>,
    options: Arc<Options>,
    peer: PeerAddr,
    standing: Standing,
    #[cfg(feature = "tls")]
    certificates: Option<PeerCertificates>,
}

impl<H: Handler> Connection<H> {
    #[cfg(not(feature = "tls"))]
    async fn open(self, signal: Arc<Signal>, socket: Socket<TcpStream>) {
        self.serve_plain(&signal, socket).await;
    }

    #[cfg(feature = "tls")]
    async fn open(mut self, signal: Arc<Signal>, socket: Socket<TcpStream>) {
        let Some(tls) = &self.options.tls else { return self.serve_plain(&signal, socket).await };
        let acceptor = tokio_rustls::TlsAcceptor::from(tls.current());
        // Boxed, as its state is large and soon done with.
        let handshake = Box::pin(acceptor.accept(socket));
        let peer = self.peer.0;
        let done = tokio::select! {
            done = tokio::time::timeout(self.options.handshake_timeout, handshake) => done,
            () = signal.closed() => return,
        };
        match done {
            Ok(Ok(stream)) => {
                let presented = stream.get_ref().1.peer_certificates();
                self.certificates = presented.map(|presented| PeerCertificates(presented.into()));
                #[cfg(feature = "http2")]
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return Box::pin(http2::serve(self, &signal, stream)).await;
                }
                // Boxed, both, as the state of TLS is large, and moved on its way to where it
                // stays.
                Box::pin(self.serve(&signal, Box::new(stream))).await;
            }
            Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
            Err(_elapsed) => {
                self.service.fleet().counting().timed_out.add();
                tracing::info!(%peer, "TLS handshake took too long");
            }
        }
    }

    /// Serves a connection without TLS, on which the client may speak HTTP/2 without having asked.
    async fn serve_plain(self, signal: &Signal, socket: Socket<TcpStream>) {
        #[cfg(feature = "http2")]
        {
            let first = Box::pin(http2::is_spoken(socket.get_ref()));
            let spoken = tokio::select! {
                spoken = tokio::time::timeout(self.options.header_timeout, first) => spoken,
                () = signal.closed() => return,
            };
            match spoken {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => return Box::pin(http2::serve(self, signal, socket)).await,
                Ok(Err(error)) => {
                    tracing::debug!(peer = %self.peer.0, %error, "connection lost");
                    return;
                }
                Err(_elapsed) => {
                    self.service.fleet().counting().timed_out.add();
                    tracing::debug!(peer = %self.peer.0, "no request in time");
                    return;
                }
            }
        }
        self.serve(signal, socket).await;
    }

    async fn serve<S>(self, signal: &Signal, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, inner) = (self.peer.0, Arc::clone(&self.service.inner));
        inner.keep_time();
        let heads = Arc::<Heads>::default();
        let mut watch = {
            let Options { idle_timeout, header_timeout, .. } = *self.options;
            let further = idle_timeout.max(header_timeout);
            let tick = coarse(inner.config.tick());
            HeadWatch::new(Arc::clone(&heads), coarse(header_timeout), coarse(further), tick)
        };
        let mut connection = pin!(
            http1::Builder::new()
                .timer(HeadTimer::new(&heads))
                .header_read_timeout(Duration::ZERO)
                .max_buf_size(MAX_HEAD)
                // Or hyper looks at each request whether the client is still there, for which it
                // allocates a buffer. All that is waited for has a time.
                .half_close(true)
                .serve_connection(TokioIo::new(stream), Requests { connection: self, heads })
                .with_upgrades()
        );
        let mut told = false;
        let ended = std::future::poll_fn(|cx| {
            signal.register(cx);
            if signal.is_closing() && !std::mem::replace(&mut told, true) {
                connection.as_mut().graceful_shutdown();
            }
            if signal.take_tick() && watch.is_over(signal, inner.signals.now()) {
                return Poll::Ready(None);
            }
            let polled = connection.as_mut().poll(cx);
            watch.note(signal, inner.signals.now());
            polled.map(Some)
        });
        match ended.await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                if is_stalled(&error) {
                    inner.fleet.counting().timed_out.add();
                }
                tracing::debug!(%peer, %error, "HTTP connection ended");
            }
            None => tracing::debug!(%peer, "no further request in time"),
        }
    }
}

impl<H: Handler> Connection<H> {
    fn answer<B>(&self, mut request: Request<B>) -> ResponseFuture
    where
        B: http_body::Body<Data: Buf> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let permit = match &self.standing {
            Standing::Served(permit) => permit,
            Standing::TurnedAway(refusal, _) => {
                let mut response = refusal.clone().into_response();
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return self.decline(request, response);
            }
        };
        if request.uri().path() != &*self.options.path {
            if let Some((path, files)) = &self.options.packages
                && let Some(rest) = request.uri().path().strip_prefix(&**path)
                && rest.starts_with('/')
            {
                return Box::pin(std::future::ready(Ok(files.answer(&request))));
            }
            return self.decline(request, http::status(StatusCode::NOT_FOUND));
        }
        let extensions = request.extensions_mut();
        spare::provide(extensions);
        extensions.insert(self.peer);
        #[cfg(feature = "tls")]
        if let Some(certificates) = &self.certificates {
            extensions.insert(certificates.clone());
        }
        self.service.answer(request, Some(permit))
    }

    /// Answers without regard to the body, but not before the client has sent it, or it might lose
    /// the answer.
    fn decline<B>(
        &self,
        request: Request<B>,
        response: ::http::Response<super::Body>,
    ) -> ResponseFuture
    where
        B: http_body::Body<Data: Buf> + Send + 'static,
    {
        self.service.fleet().counting().responded(response.status().as_u16());
        let within = self.service.inner.config.close_timeout;
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            upload::discard(&parts.headers, pin!(body), response.status(), within).await;
            Ok(response)
        })
    }
}

impl<H: Handler> std::fmt::Debug for Server<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl<A> std::fmt::Debug for ServerBuilder<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder").field("path", &self.options.path).finish_non_exhaustive()
    }
}
