//! HTTP/2 in the listener, for plain requests: by ALPN where there is TLS, with prior knowledge
//! where there is none (HTTP-04). WebSockets over HTTP/2 (RFC 8441) are not offered: a client that
//! wants one opens a connection with HTTP/1.1 for it, and finds no setting that says otherwise.
//!
//! What a connection of HTTP/1 is bounded by, hyper does not bound here: idle connections, and
//! responses that the client gives no window for. So each request is watched until all of its
//! response is taken, and a connection is ended on which nothing moves, by the coarse clock that
//! WebSockets have as well.
//!
//! ```text
//!                 a request                     all are answered
//!   no request ─────────────▶ busy ◀──────────────────────────▶ idle
//!       │                      │ nothing moves                    │ idle_timeout
//!       │ header_timeout       ▼                                  ▼
//!       └───────────────────▶ ended ◀──── close_timeout ──── told to go away
//! ```

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::header::{CONNECTION, UPGRADE};
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::super::body::Body;
use super::super::handler::Handler;
use super::super::signal::{Coarse, Signal, coarse};
use super::super::{ResponseFuture, ServiceConfig};
use super::{Connection, LONGEST_TIMEOUT, MAX_HEAD, is_stalled};

/// Requests of one connection at a time: a proxy may carry those of many Agents.
const MAX_STREAMS: u32 = 100;

/// What a client may send of one request before it is read, and of all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What is held of one response for a client that takes none of it.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Streams that a client resets before they are answered, and streams that are reset for its
/// faults, before the connection is ended for it.
const MAX_PENDING_RESETS: usize = 20;
const MAX_FAULTY_RESETS: usize = 100;

/// How a client begins that knows that this is HTTP/2. As many bytes as a method of HTTP/1 could
/// have in common with it tell nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const TELLING: usize = 3;

/// How long a client that has sent almost nothing is given before it is looked at again: at first,
/// as what is missing should be on its way, and the double each time, as there may be many of them.
const PEEK_PAUSE: Duration = Duration::from_millis(10);

/// Whether what arrives first is the preface of HTTP/2. Nothing of it is taken.
pub(super) async fn is_spoken(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; TELLING];
    let mut pause = PEEK_PAUSE;
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 || first[..len] != PREFACE[..len] {
            return Ok(false);
        }
        if len == TELLING {
            return Ok(true);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The requests of a connection that are being answered.
#[derive(Debug, Default)]
struct Exchanges {
    active: AtomicUsize,
    /// Grows with whatever moves.
    moved: AtomicU64,
}

/// A request that is being answered, until all of its response is taken.
#[derive(Debug)]
pub(in crate::service) struct Exchange(Arc<Exchanges>);

impl Exchange {
    fn begin(exchanges: &Arc<Exchanges>) -> Self {
        exchanges.active.fetch_add(1, Ordering::Relaxed);
        exchanges.moved.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(exchanges))
    }

    /// A piece of the request or of the response was taken.
    pub(in crate::service) fn moved(&self) {
        self.0.moved.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.moved();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// Nothing before this time.
    Keep(Coarse),
    /// The client is told to go away, and has until this time.
    Retire(Coarse),
    /// It is ended: it was told, or is stalled.
    End { stalled: bool },
}

/// The times of a connection.
#[derive(Debug, Clone, Copy)]
struct Times {
    first: Coarse,
    idle: Coarse,
    stall: Coarse,
    close: Coarse,
}

impl Times {
    fn new(config: &ServiceConfig, first: Duration, idle: Duration) -> Self {
        // The service ends every wait of its own within these, so what is left is the client's.
        let stall = [
            config.body_deadline,
            config.admission_deadline,
            config.reply_deadline,
            config.close_timeout,
            config.write_timeout,
        ];
        let stall = stall.into_iter().map(coarse).fold(0, Coarse::saturating_add);
        Self {
            first: coarse(first),
            idle: coarse(idle),
            stall,
            close: coarse(config.close_timeout),
        }
    }
}

/// What was seen at the last look at the clock.
struct Watch {
    exchanges: Arc<Exchanges>,
    times: Times,
    moved: u64,
    /// Since when nothing has moved.
    since: Coarse,
    retired: bool,
}

impl Watch {
    fn look(&mut self, now: Coarse) -> Look {
        let moved = self.exchanges.moved.load(Ordering::Relaxed);
        let active = self.exchanges.active.load(Ordering::Relaxed) > 0;
        if moved != self.moved {
            self.moved = moved;
            self.since = now;
        }
        let patience = match (active, self.retired) {
            (true, _) => self.times.stall,
            (false, true) => self.times.close,
            (false, false) if moved == 0 => self.times.first,
            (false, false) => self.times.idle,
        };
        let due = self.since.saturating_add(patience);
        if now < due {
            // What moves meanwhile is noticed at the next look, so that one comes before long.
            return Look::Keep(due.min(now.saturating_add((patience / 4).max(1))));
        }
        if active || self.retired {
            return Look::End { stalled: active };
        }
        self.retired = true;
        self.since = now;
        Look::Retire(now.saturating_add(self.times.close))
    }
}

/// The service of a connection's requests, each of them watched.
struct Watched<H: Handler> {
    connection: Connection<H>,
    exchanges: Arc<Exchanges>,
}

impl<H: Handler> hyper::service::Service<Request<Incoming>> for Watched<H> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        let exchange = Exchange::begin(&self.exchanges);
        let exchanges = Arc::clone(&self.exchanges);
        let answered = self.connection.answer(request.map(|body| Upload { body, exchanges }));
        Box::pin(async move {
            let mut response = answered.await?;
            // They are about a connection of HTTP/1.
            for name in [CONNECTION, UPGRADE] {
                response.headers_mut().remove(name);
            }
            Ok(response.map(|body| body.of(exchange)))
        })
    }
}

/// The body of a request, watched.
struct Upload {
    body: Incoming,
    exchanges: Arc<Exchanges>,
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_ready() {
            this.exchanges.moved.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A time that hyper can add to another, and that passes.
fn bounded(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(10), LONGEST_TIMEOUT)
}

/// Serves a connection to its end.
pub(super) async fn serve<H, S>(connection: Connection<H>, signal: &Signal, stream: S)
where
    H: Handler,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let inner = Arc::clone(&connection.service.inner);
    let (peer, options) = (connection.peer.0, Arc::clone(&connection.options));
    inner.keep_time();
    let exchanges = Arc::<Exchanges>::default();
    let mut watch = Watch {
        exchanges: Arc::clone(&exchanges),
        times: Times::new(&inner.config, options.header_timeout, options.idle_timeout),
        moved: 0,
        since: inner.signals.now(),
        retired: false,
    };
    let serving = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_FAULTY_RESETS)
        .keep_alive_interval(bounded(inner.config.ping_interval))
        .keep_alive_timeout(bounded(inner.config.pong_timeout))
        .serve_connection(TokioIo::new(stream), Watched { connection, exchanges });
    let mut serving = pin!(serving);
    let mut told = false;
    signal.set_due(inner.signals.now());
    let ended = std::future::poll_fn(|cx| {
        signal.register(cx);
        if signal.is_closing() && !std::mem::replace(&mut told, true) {
            serving.as_mut().graceful_shutdown();
        }
        if signal.take_tick() {
            match watch.look(inner.signals.now()) {
                Look::Keep(due) => signal.set_due(due),
                Look::Retire(due) => {
                    signal.set_due(due);
                    serving.as_mut().graceful_shutdown();
                }
                Look::End { stalled } => return Poll::Ready(Ok(stalled)),
            }
        }
        serving.as_mut().poll(cx).map_ok(|()| false)
    });
    let ended = ended.await;
    if ended.as_ref().map_or_else(is_stalled, |stalled| *stalled) {
        inner.fleet.counting().timed_out.add();
    }
    match ended {
        Ok(stalled) => tracing::debug!(%peer, stalled, "HTTP/2 connection ended"),
        Err(error) => tracing::debug!(%peer, %error, "HTTP/2 connection ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { first: 10, idle: 100, stall: 40, close: 5 };

    fn watch() -> Watch {
        Watch { exchanges: Arc::default(), times: TIMES, moved: 0, since: 0, retired: false }
    }

    #[test]
    fn a_connection_without_a_request_is_retired_and_then_ended() {
        let mut watch = watch();
        assert_eq!(watch.look(0), Look::Keep(2));
        assert_eq!(watch.look(9), Look::Keep(10));
        assert_eq!(watch.look(10), Look::Retire(15));
        assert_eq!(watch.look(14), Look::Keep(15));
        assert_eq!(watch.look(15), Look::End { stalled: false });
    }

    #[test]
    fn an_idle_connection_has_more_time_and_a_request_renews_it() {
        let mut watch = watch();
        drop(Exchange::begin(&watch.exchanges));
        assert_eq!(watch.look(5), Look::Keep(30));
        assert_eq!(watch.look(104), Look::Keep(105));
        drop(Exchange::begin(&watch.exchanges));
        assert_eq!(watch.look(105), Look::Keep(130));
        assert_eq!(watch.look(205), Look::Retire(210));
    }

    #[test]
    fn a_response_nobody_takes_ends_the_connection() {
        let mut watch = watch();
        let exchange = Exchange::begin(&watch.exchanges);
        assert_eq!(watch.look(0), Look::Keep(10));
        assert_eq!(watch.look(39), Look::Keep(40));
        exchange.moved();
        assert_eq!(watch.look(40), Look::Keep(50));
        assert_eq!(watch.look(80), Look::End { stalled: true });
    }
}
