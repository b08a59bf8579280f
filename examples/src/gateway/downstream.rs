//! The agents' side: accepts their connections, and answers their requests or opens WebSockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use opamp_proto::MessageLimits;
use opamp_proto::gzip::{self, GzipError};
use opamp_server::gateway::{FromAgent, Gateway};
use opamp_server::service::tls::ListenerTls;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::addresses::Addresses;
use super::hub::{End, Hub, Next};
use super::patient::Patient;
use super::socket;

/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the head of a request may take to arrive, and a connection be kept for another.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the body of a request may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an agent may take nothing of what it is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 20_000;

/// A pause after a failure to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Responses of at least this many bytes are compressed.
const MIN_COMPRESSED: usize = 1024;

type Body = Full<Bytes>;

/// What agents' connections have in common.
pub(super) struct Downstream {
    pub(super) hub: Arc<Hub>,
    pub(super) path: String,
    pub(super) limits: MessageLimits,
    pub(super) addresses: Arc<Addresses>,
    pub(super) tls: Option<ListenerTls>,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Downstream {
    /// Accepts connections until the gateway stops.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut stopping = self.stopping.clone();
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(counted) = self.addresses.connect(peer.ip()) else {
                        // Whoever has so many must not keep places by waiting for an answer.
                        tracing::debug!(%peer, "too many connections from this address");
                        continue;
                    };
                    let downstream = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _places = (permit, counted);
                        tracing::debug!(%peer, "connected");
                        downstream.open(stream, peer).await;
                        tracing::debug!(%peer, "gone");
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn open(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // A small reply must not wait for the acknowledgement of an earlier one.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, WRITE_TIMEOUT);
        let Some(tls) = &self.tls else { return self.serve(stream).await };
        let mut config = ServerConfig::clone(&tls.current());
        // What is served here.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
        let mut stopping = self.stopping.clone();
        let secured = tokio::select! {
            secured = timeout(HANDSHAKE_TIMEOUT, handshake) => secured,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match secured {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::info!(%peer, %error, "TLS handshake failed"),
            Err(_elapsed) => tracing::info!(%peer, "TLS handshake took too long"),
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (upgraded, mut upgrade) = tokio::sync::mpsc::channel(1);
        let service = hyper::service::service_fn(|request| {
            let (this, upgraded) = (Arc::clone(&self), upgraded.clone());
            async move { Ok::<_, Infallible>(this.answer(request, &upgraded).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut stopping = self.stopping.clone();
        let stop = async { drop(stopping.wait_for(|stopping| *stopping).await) };
        let ended = match select(connection.as_mut(), pin!(stop)).await {
            Either::Left((ended, _)) => ended,
            Either::Right(((), mut connection)) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "the HTTP connection ended");
        }
        if let Ok(upgrade) = upgrade.try_recv() {
            self.websocket(upgrade).await;
        }
    }

    async fn answer(
        &self,
        mut request: Request<Incoming>,
        upgraded: &tokio::sync::mpsc::Sender<hyper::upgrade::OnUpgrade>,
    ) -> Response<Body> {
        if request.uri().path() != self.path {
            return status(StatusCode::NOT_FOUND);
        }
        if is_plain(request.headers()) {
            return self.exchange(request).await.unwrap_or_else(|refused| refused);
        }
        if request.method() != Method::GET {
            let mut response = status(StatusCode::METHOD_NOT_ALLOWED);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
            return response;
        }
        if let Err(retry_after) = self.hub.with(Gateway::admit) {
            return unavailable(retry_after);
        }
        let upgrade = hyper::upgrade::on(&mut request);
        match create_response(&request.map(|_| ())) {
            Ok(response) if upgraded.try_send(upgrade).is_ok() => {
                response.map(|()| Body::default())
            }
            _ => status(StatusCode::BAD_REQUEST),
        }
    }

    async fn websocket(&self, upgrade: hyper::upgrade::OnUpgrade) {
        let Ok(Ok(upgraded)) = timeout(BODY_TIMEOUT, upgrade).await else { return };
        let config = socket::config(self.limits);
        let io = TokioIo::new(upgraded);
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
        let (id, wakers) = self.hub.enter(Gateway::open_websocket);
        let why = socket::serve(&self.hub, End::Agent(id), &wakers, socket).await;
        tracing::debug!(why, "the WebSocket is over");
        self.hub.leave(id);
    }

    /// Answers a plain HTTP request with what the server has to say to its agent.
    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<Body>, Response<Body>> {
        if request.method() != Method::POST {
            let mut refused = status(StatusCode::METHOD_NOT_ALLOWED);
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return Err(refused);
        }
        let (head, body) = request.into_parts();
        let message = self.body(&head.headers, body).await?;
        let (id, wakers) = self.hub.enter(Gateway::open_request);
        // However this ends, the client's hanging up included.
        let entered = Entered { hub: &self.hub, id };
        let message = FromAgent::read(message);
        self.hub.with(|gateway, now| gateway.receive(id, message, now));
        let end = End::Agent(id);
        let next = loop {
            match self.hub.next(end) {
                Some(next) => break next,
                None => wakers.write.notified().await,
            }
        };
        drop(entered);
        Ok(match next {
            Next::Send(message) => respond(&head.headers, message),
            Next::Unavailable(retry_after) => unavailable(retry_after),
            Next::TooLarge => status(StatusCode::PAYLOAD_TOO_LARGE),
            // Said to WebSockets only.
            Next::Close(..) => status(StatusCode::SERVICE_UNAVAILABLE),
        })
    }

    /// The body of a request, whole and unpacked.
    async fn body(&self, headers: &HeaderMap, body: Incoming) -> Result<Bytes, Response<Body>> {
        let limit = self.limits.max_receive();
        let packed = match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => false,
            Some(b"gzip" | b"x-gzip") => true,
            Some(_) => {
                let mut refused = status(StatusCode::UNSUPPORTED_MEDIA_TYPE);
                refused.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
                return Err(refused);
            }
        };
        let body = match timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(status(StatusCode::PAYLOAD_TOO_LARGE));
            }
            Ok(Err(_broken)) => return Err(status(StatusCode::BAD_REQUEST)),
            Err(_elapsed) => return Err(status(StatusCode::REQUEST_TIMEOUT)),
        };
        if !packed {
            return Ok(body);
        }
        let unpacked = tokio::task::spawn_blocking(move || gzip::decompress(&body, limit)).await;
        unpacked.map_err(|_| status(StatusCode::SERVICE_UNAVAILABLE))?.map_err(|error| {
            status(match error {
                GzipError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            })
        })
    }
}

/// A request in the gateway.
struct Entered<'a> {
    hub: &'a Hub,
    id: opamp_server::gateway::DownstreamId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.hub.leave(self.id);
    }
}

/// Whether a request is plain HTTP: the media type says so, whatever its parameters.
fn is_plain(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/x-protobuf")
}

fn respond(headers: &HeaderMap, message: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let content_type = HeaderValue::from_static("application/x-protobuf");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    let gzip = accepted.is_some_and(|value| value.split(',').any(|it| it.trim() == "gzip"));
    let body = if gzip && message.len() >= MIN_COMPRESSED {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        gzip::compress(&message).into()
    } else {
        message
    };
    *response.body_mut() = Body::new(body);
    response
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = code;
    response
}

fn unavailable(retry_after: Duration) -> Response<Body> {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    // In whole seconds; 0 would be an invitation.
    let seconds = retry_after.as_secs_f64().ceil().max(1.0) as u64;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
