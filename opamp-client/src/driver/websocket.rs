//! A WebSocket to the server: dialling it, and driving it once it is open.
//!
//! This is the only file that knows the WebSocket library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use http::{Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::base::Target;
use super::connector::{Credentials, retry_after};
use super::dial::{Io, broken, dial};
use super::now;
use super::redirect::Hops;
use crate::core::{Failure, FailureKind, Loss, Received};
use crate::error::Error;

/// Buffers of a connection that mostly idles.
const BUFFER: usize = 4 * 1024;

/// How long a Close frame of ours or theirs may take to be answered or delivered.
const CLOSE_LINGER: Duration = Duration::from_secs(1);

/// Pings that are answered before the answers have to be taken.
const MAX_PINGS: u32 = 64;

/// Counts what is written, so that a slow peer can be told from one that takes nothing.
struct Counted {
    io: Box<dyn Io>,
    written: u64,
}

impl Counted {
    fn new(io: Box<dyn Io>) -> Self {
        Self { io, written: 0 }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Why dialling failed, and what `Retry-After` said.
pub(super) type DialError = (Failure, Option<Duration>);

/// Dials one server with one set of settings. Cheap to clone.
#[derive(Clone)]
pub(super) struct Dialer {
    inner: Arc<Inner>,
}

struct Inner {
    target: Target,
    credentials: Credentials,
    config: WebSocketConfig,
}

impl Dialer {
    pub(super) fn new(target: Target) -> Result<Self, Error> {
        let limits = target.limits;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER)
            .write_buffer_size(BUFFER)
            .max_write_buffer_size(limits.max_send().saturating_add(4 * BUFFER))
            .max_message_size(Some(limits.max_receive()))
            .max_frame_size(Some(limits.max_receive()));
        let credentials = Credentials::of(&target)?;
        Ok(Self { inner: Arc::new(Inner { target, credentials, config }) })
    }

    pub(super) fn is_stale(&self) -> bool {
        self.inner.credentials.are_stale()
    }

    /// Opens a WebSocket, wherever redirects lead.
    pub(super) async fn dial(self) -> Result<Socket, DialError> {
        let Inner { target, credentials, config } = &*self.inner;
        let headers = target.headers.get(target.times.connect).await.map_err(for_good)?;
        let mut hops = Hops::new(Method::GET, &target.endpoint, target.max_redirects);
        loop {
            let endpoint = hops.here();
            let route = target.proxy.route_to(endpoint);
            let tls = credentials.for_server(endpoint, hops.is_abroad()).map_err(for_good)?;
            let proxy_tls = credentials.for_proxy(route.as_ref()).map_err(for_good)?;
            let route = route.as_ref().map(|route| (route, proxy_tls.as_ref()));
            let io = dial(endpoint, tls.as_ref(), route).await.map_err(for_good)?;
            // Made anew each time: no two handshakes have the same key.
            let request = endpoint.websocket_url().into_client_request();
            let mut request = request.map_err(refusal)?;
            for (name, value) in &hops.admit(headers.clone()) {
                request.headers_mut().append(name, value.clone());
            }
            let handshake = tokio_tungstenite::client_async_with_config(
                request,
                Counted::new(io),
                Some(*config),
            );
            match handshake.await {
                Ok((stream, response)) => {
                    let extensions = http::header::SEC_WEBSOCKET_EXTENSIONS;
                    if response.headers().contains_key(extensions) {
                        let message = "the server uses a WebSocket extension that was not offered";
                        return Err(for_good(Failure {
                            kind: FailureKind::BadResponse,
                            message: message.to_owned(),
                        }));
                    }
                    return Ok(Socket::new(stream, target.times.write));
                }
                Err(WsError::Http(response)) if hops.is_redirect(response.status()) => {
                    hops.follow(response.status(), response.headers()).map_err(for_good)?;
                }
                Err(error) => return Err(refusal(error)),
            }
        }
    }
}

/// A failure that says nothing of when to come back.
fn for_good(failure: Failure) -> DialError {
    (failure, None)
}

/// What a failed handshake means.
fn refusal(error: WsError) -> DialError {
    match error {
        WsError::Http(response) => {
            let status = response.status();
            let kind = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => FailureKind::Unauthorized,
                StatusCode::NOT_FOUND => FailureKind::NotFound,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    FailureKind::Throttled
                }
                status => FailureKind::UnexpectedStatus(status.as_u16()),
            };
            let message = format!("the server answered the handshake with status {status}");
            (Failure { kind, message }, retry_after(response.headers()))
        }
        WsError::Io(error) => {
            let Failure { kind, message } = broken(&error);
            let message = format!("the connection broke in the handshake: {message}");
            (Failure { kind, message }, None)
        }
        error => {
            let message = format!("the handshake failed: {error}");
            (Failure { kind: FailureKind::BadResponse, message }, None)
        }
    }
}

/// The close code for what the peer did wrong; `None` when the connection broke without anyone's
/// doing, and nobody is left to tell.
fn fault(error: &WsError) -> Option<(u16, &'static str)> {
    match error {
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Protocol(_) => Some((1002, "protocol error")),
        WsError::Utf8(_) => Some((1007, "text that is not UTF-8")),
        _ => None,
    }
}

/// What happened on a socket.
#[derive(Debug)]
pub(super) enum Happening {
    Received(Received),
    /// What was given to send is with the kernel: there is room for more.
    Sent,
    /// The connection is over; the socket is of no use any more.
    Lost(Loss),
}

/// An open WebSocket that takes one message at a time.
pub(super) struct Socket {
    stream: WebSocketStream<Counted>,
    state: State,
    /// A message above the limit came: its bytes cannot be told from the next message, so only
    /// writing still makes sense.
    deaf: bool,
    /// Until when the kernel has to take some of what was given to send; `None` when it has all.
    flush_by: Option<Instant>,
    /// How much it had taken when `flush_by` was set.
    written: u64,
    write_timeout: Duration,
    /// Pings that came since everything was last with the kernel; each is answered.
    pings: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Open,
    /// A Close frame came or went; the rest of the handshake may take until `by`.
    Closing {
        by: Instant,
        loss: Loss,
    },
}

impl Socket {
    fn new(stream: WebSocketStream<Counted>, write_timeout: Duration) -> Self {
        Self {
            stream,
            state: State::Open,
            deaf: false,
            flush_by: None,
            written: 0,
            write_timeout,
            pings: 0,
        }
    }

    /// Whether a message may be given to send.
    pub(super) fn can_send(&self) -> bool {
        self.flush_by.is_none() && !matches!(self.state, State::Closing { .. })
    }

    pub(super) fn send(&mut self, message: Bytes) {
        self.start(Message::Binary(message));
    }

    pub(super) fn ping(&mut self) {
        self.start(Message::Ping(Bytes::new()));
    }

    /// Sends a Close frame; [`Happening::Lost`] follows, in bounded time.
    pub(super) fn close(&mut self, code: u16, reason: &'static str) {
        let frame =
            CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
        self.start(Message::Close(Some(frame)));
        let loss = Loss::Closed { code: Some(code), reason: reason.to_owned() };
        self.state = State::Closing { by: now() + CLOSE_LINGER, loss };
    }

    fn start(&mut self, message: Message) {
        // An error here comes again from flushing, where it is dealt with.
        let _ = Pin::new(&mut self.stream).start_send(message);
        self.await_progress();
    }

    fn await_progress(&mut self) {
        self.written = self.stream.get_ref().written;
        // Masking a large message takes time, which is not the server's.
        self.flush_by = Some(now() + self.write_timeout);
    }

    /// When [`poll`](Self::poll) is to be called again although nothing happened.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let closing = match &self.state {
            State::Closing { by, .. } => Some(*by),
            _ => None,
        };
        [closing, self.flush_by].into_iter().flatten().min()
    }

    /// Writes and reads, both at once, so that two peers that write to each other cannot block each
    /// other.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        // The wait may have been long.
        let now = now();
        if let State::Closing { by, loss } = &self.state
            && *by <= now
        {
            return Poll::Ready(Happening::Lost(loss.clone()));
        }
        if self.flush_by.is_some() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.flush_by = None;
                    self.pings = 0;
                    return Poll::Ready(Happening::Sent);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.over(Some(error))),
                // A large message over a slow network is under way as long as some of it moves.
                Poll::Pending if self.flush_by.is_some_and(|by| by <= now) => {
                    if self.stream.get_ref().written > self.written {
                        self.await_progress();
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    let why = "the server does not take what is sent".to_owned();
                    return Poll::Ready(Happening::Lost(Loss::Broken(why)));
                }
                Poll::Pending => {}
            }
        }
        if self.deaf {
            return self.poll_drain(cx);
        }
        if self.pings >= MAX_PINGS {
            // Whoever does not take the answers is not listened to: they would pile up.
            return Poll::Pending;
        }
        let message = match ready!(Pin::new(&mut self.stream).poll_next(cx)) {
            Some(Ok(message)) => message,
            Some(Err(WsError::Capacity(_))) => {
                self.deaf = true;
                return Poll::Ready(Happening::Received(Received::TooLarge));
            }
            Some(Err(error)) => {
                let Some((code, reason)) = fault(&error).filter(|_| self.state == State::Open)
                else {
                    return Poll::Ready(self.over(Some(error)));
                };
                // The server is told what it did wrong before it is left (RFC 6455, section 7.1.7).
                self.deaf = true;
                self.close(code, reason);
                let loss =
                    Loss::Broken(format!("the server breaks the WebSocket protocol: {error}"));
                self.state = State::Closing { by: now + CLOSE_LINGER, loss };
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => return Poll::Ready(self.over(None)),
        };
        Poll::Ready(Happening::Received(match message {
            Message::Binary(bytes) => Received::Binary(bytes),
            Message::Text(_) => Received::Text,
            Message::Ping(_) => {
                self.pings += 1;
                if self.pings == MAX_PINGS && self.flush_by.is_none() {
                    self.await_progress();
                }
                Received::Control
            }
            Message::Close(frame) => {
                if self.state == State::Open {
                    let (code, reason) = match frame {
                        Some(frame) => (Some(frame.code.into()), frame.reason.as_str().to_owned()),
                        None => (None, String::new()),
                    };
                    let loss = Loss::Closed { code, reason };
                    self.state = State::Closing { by: now + CLOSE_LINGER, loss };
                    // The library has queued the answering Close frame.
                    self.flush_by = Some(now + CLOSE_LINGER);
                }
                Received::Control
            }
            _ => Received::Control,
        }))
    }

    /// Reads and forgets, so that unread bytes do not make the kernel reset the connection before
    /// our Close frame is read.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Happening> {
        let mut scratch = [0; BUFFER];
        // Bounded work per poll; the rest of the flood waits for the next turn.
        for _ in 0..16 {
            let mut buffer = ReadBuf::new(&mut scratch);
            let io = Pin::new(self.stream.get_mut());
            match ready!(io.poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) => return Poll::Ready(self.over(None)),
                Err(error) => return Poll::Ready(self.over(Some(WsError::Io(error)))),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn over(&mut self, error: Option<WsError>) -> Happening {
        if let State::Closing { loss, .. } = &self.state {
            return Happening::Lost(loss.clone());
        }
        Happening::Lost(Loss::Broken(match error {
            None => "the server dropped the connection".to_owned(),
            Some(WsError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the server dropped the connection".to_owned()
            }
            Some(error) => error.to_string(),
        }))
    }
}
