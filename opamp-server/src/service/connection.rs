//! One WebSocket connection, from its first message to its end: the task that owns its socket.
//!
//! ```text
//!            message ──▶ registry ──▶ reply ─┐
//!   socket ◀──────────── flush ◀─────────────┤   when no more messages are readable, or 4 KiB wait
//!            outbox (woken by operations) ───┘
//! ```
//!
//! Reading and writing are polled together, so that neither end waits for the other with both
//! directions full. While too much waits to be sent, at most one more message is read, and held.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::Upgraded;
use opamp_proto::frame::{self, HeaderPolicy};
use opamp_proto::{InstanceUid, WireUid};

use super::handler::Handler;
use super::signal::{Coarse, Signal, coarse};
use super::websocket::{Close, Fault, Incoming, Socket};
use super::{Inner, now};
use crate::core::{Push, Refusal, RefusalKind, Transport};
use crate::fleet::{Route, RouteWaker};

/// Messages up to this size are composed in a buffer that is used again.
const SMALL: usize = 1024;

/// The Agents of a connection there may be something to push to. Bounded by the number of Agents on
/// the connection.
struct Outbox {
    signal: Arc<Signal>,
    agents: Mutex<BTreeSet<WireUid>>,
}

impl Outbox {
    fn agents(&self) -> std::sync::MutexGuard<'_, BTreeSet<WireUid>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.agents().is_empty()
    }
}

impl RouteWaker for Outbox {
    fn wake(&self, uid: &WireUid) {
        self.agents().insert(*uid);
        self.signal.wake();
    }
}

/// Why a connection ends.
enum End {
    /// The peer closed, and was answered.
    Closed,
    /// The connection is gone.
    Lost(String),
    /// The server closes. `broken`: the peer is in the middle of something that was refused.
    Close { code: Close, reason: &'static str, broken: bool },
}

impl End {
    const fn close(code: Close, reason: &'static str) -> Self {
        Self::Close { code, reason, broken: false }
    }

    const fn broken(code: Close, reason: &'static str) -> Self {
        Self::Close { code, reason, broken: true }
    }
}

impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::broken(Close::TooLarge, "message above the size limit"),
            Fault::Protocol(_) => Self::broken(Close::Protocol, "WebSocket protocol error"),
            Fault::Lost(why) => Self::Lost(why),
        }
    }
}

/// What the connection has to do next.
enum Wake {
    Message(Bytes),
    Push,
    Tick,
}

struct Connection<H: Handler> {
    inner: Arc<Inner<H>>,
    signal: Arc<Signal>,
    outbox: Arc<Outbox>,
    route: Sessions<H>,
    socket: Socket,
    /// A message that was read while too much waits to be sent.
    held: Option<Bytes>,
    /// Replies are composed here.
    buffer: Vec<u8>,
    malformed_in_a_row: u32,
    /// The peer was seen to leave out the header.
    headerless: bool,
    peer: Option<SocketAddr>,
    times: Times,
}

/// The route; when it is dropped, however that comes about, the sessions on it end.
struct Sessions<H: Handler> {
    inner: Arc<Inner<H>>,
    route: Option<Route<H::Identity>>,
}

impl<H: Handler> Drop for Sessions<H> {
    fn drop(&mut self) {
        if let Some(route) = self.route.take() {
            for uid in self.inner.fleet.close_route(route) {
                self.inner.dispatch(uid);
            }
        }
    }
}

/// What was seen at the last looks at the clock.
struct Times {
    opened: Coarse,
    spoke: bool,
    read: u64,
    last_read: Coarse,
    /// When the peer was pinged that has been silent since.
    pinged: Option<Coarse>,
    written: u64,
    /// Since when nothing is taken of what waits to be sent.
    stalled: Option<Coarse>,
}

/// Serves a connection to its end.
pub(super) async fn serve<H: Handler>(
    inner: Arc<Inner<H>>,
    signal: Arc<Signal>,
    upgraded: Upgraded,
    peer: Option<SocketAddr>,
    identity: H::Identity,
) {
    let outbox = Arc::new(Outbox { signal: Arc::clone(&signal), agents: Mutex::default() });
    let waker: Arc<dyn RouteWaker> = Arc::clone(&outbox) as _;
    let route = inner.fleet.open_route(Transport::WebSocket, peer, identity, Some(waker));
    let limits = inner.fleet.config().limits;
    let socket = Socket::new(upgraded, limits.max_receive(), limits.max_send()).await;
    let opened = inner.signals.now();
    let times = Times {
        opened,
        spoke: false,
        read: 0,
        last_read: opened,
        pinged: None,
        written: 0,
        stalled: None,
    };
    let mut connection = Connection {
        route: Sessions { inner: Arc::clone(&inner), route: Some(route) },
        inner: Arc::clone(&inner),
        signal,
        outbox,
        socket,
        held: None,
        buffer: Vec::new(),
        malformed_in_a_row: 0,
        headerless: false,
        peer,
        times,
    };
    tracing::debug!(?peer, "connected");
    let end = connection.run().await;
    let Connection { socket, route, .. } = connection;
    // The sessions are over; the closing handshake is the connection's own business.
    drop(route);
    let within = inner.config.close_timeout;
    match end {
        End::Closed => {
            tracing::debug!(?peer, "closed by the peer");
            Box::pin(socket.end(within)).await;
        }
        End::Lost(why) => tracing::debug!(?peer, why, "connection lost"),
        End::Close { code, reason, broken } => {
            if code == Close::GoingAway {
                tracing::debug!(?peer, reason, "closing");
            } else {
                tracing::info!(?peer, ?code, reason, "closing");
            }
            Box::pin(socket.close(code, reason, broken, within)).await;
        }
    }
}

impl<H: Handler> Connection<H> {
    async fn run(&mut self) -> End {
        self.set_due();
        loop {
            let step = match poll_fn(|cx| self.poll_wake(cx)).await {
                Ok(Wake::Message(message)) => self.receive(message),
                Ok(Wake::Push) => self.push_waiting(),
                Ok(Wake::Tick) => self.tick(),
                Err(end) => Err(end),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, End>> {
        self.signal.register(cx);
        if self.signal.is_closing() {
            let end = End::close(Close::GoingAway, "the server shuts down");
            return Poll::Ready(Err(end));
        }
        if self.signal.take_tick() {
            return Poll::Ready(Ok(Wake::Tick));
        }
        loop {
            if self.socket.has_room() {
                if let Some(message) = self.held.take() {
                    return Poll::Ready(Ok(Wake::Message(message)));
                }
                if !self.outbox.is_empty() {
                    return Poll::Ready(Ok(Wake::Push));
                }
            }
            if self.held.is_none() {
                let polled = self.socket.poll_recv(cx);
                self.note_reading();
                if let Poll::Ready(incoming) = polled {
                    self.held = Some(self.incoming(incoming)?);
                    if self.socket.has_room() {
                        continue;
                    }
                }
            }
            let flushed = self.socket.poll_flush(cx)?;
            self.note_progress(flushed.is_ready());
            if flushed.is_pending() || (self.held.is_none() && self.outbox.is_empty()) {
                return Poll::Pending;
            }
        }
    }

    fn incoming(&self, incoming: Result<Incoming, Fault>) -> Result<Bytes, End> {
        match incoming {
            Ok(Incoming::Message(message)) => Ok(message),
            Ok(Incoming::Text) => Err(End::close(Close::Unsupported, "OpAMP messages are binary")),
            Ok(Incoming::End) => Err(End::Closed),
            Err(fault) => {
                match &fault {
                    Fault::TooLarge => self.inner.fleet.counting().oversized.add(),
                    Fault::Protocol(what) => tracing::debug!(what, "WebSocket protocol error"),
                    Fault::Lost(_) => {}
                }
                Err(fault.into())
            }
        }
    }

    /// Notes that the peer is alive.
    fn note_reading(&mut self) {
        let read = self.socket.read();
        if read != self.times.read {
            self.times.read = read;
            self.times.last_read = self.inner.signals.now();
            self.times.pinged = None;
        }
    }

    /// Notes whether what is to be sent is on its way, to notice a peer that does not read.
    fn note_progress(&mut self, flushed: bool) {
        if flushed {
            self.times.stalled = None;
        } else if self.times.stalled.is_none() {
            let now = self.inner.signals.now();
            self.times.stalled = Some(now);
            self.times.written = self.socket.written();
            self.signal.due_by(now.saturating_add(coarse(self.inner.config.write_timeout)));
        }
    }

    /// Takes in a message and queues the reply.
    fn receive(&mut self, message: Bytes) -> Result<(), End> {
        self.times.spoke = true;
        self.buffer.clear();
        self.buffer.push(frame::HEADER);
        let fleet = &self.inner.fleet;
        let policy = match fleet.config().tolerances.missing_header {
            true => HeaderPolicy::Optional,
            false => HeaderPolicy::Required,
        };
        let frame = match frame::decode(message, policy) {
            Ok(frame) => frame,
            Err(error) => {
                let refusal = Refusal::malformed(format!("WebSocket message header: {error}"));
                fleet.counting().messages.add();
                fleet.counting().malformed.add();
                refusal.encode(None, &mut self.buffer);
                self.send(None, None)?;
                return self.malformed(None, &refusal);
            }
        };
        if frame.headerless {
            fleet.counting().missing_headers.add();
            if !std::mem::replace(&mut self.headerless, true) {
                tracing::info!(peer = ?self.peer, "a peer leaves out the header, which is tolerated");
            }
        }
        let Some(route) = &mut self.route.route else { return Ok(()) };
        let received =
            fleet.receive(route, &frame.body, now(), &mut InstanceUid::generate, &mut self.buffer);
        let uid = received.uid;
        self.send(uid.as_ref(), received.tail)?;
        if let Some(uid) = uid {
            super::note_odd_uid(&uid, received.changes);
            if received.queue {
                self.inner.dispatch(uid);
            }
            if received.push {
                self.push(&uid)?;
            }
        }
        match received.refusal {
            Some(refusal) if refusal.kind() == RefusalKind::Malformed => {
                self.malformed(uid, &refusal)
            }
            refusal => {
                if let Some(refusal) = refusal {
                    tracing::debug!(agent = ?uid, refusal = refusal.text(), "refused");
                }
                self.malformed_in_a_row = 0;
                Ok(())
            }
        }
    }

    fn malformed(&mut self, uid: Option<WireUid>, refusal: &Refusal) -> Result<(), End> {
        tracing::debug!(agent = ?uid, refusal = refusal.text(), "refused");
        self.malformed_in_a_row += 1;
        // One bad Agent of many must not cost the others their connection.
        let agents = self.route.route.as_ref().map_or(0, |route| route.agents().len());
        let agents = u32::try_from(agents).unwrap_or(u32::MAX);
        if self.malformed_in_a_row > self.inner.config.max_malformed.saturating_add(agents) {
            return Err(End::close(Close::Policy, "too many malformed messages"));
        }
        Ok(())
    }

    /// Queues the message whose head is in the buffer.
    fn send(&mut self, uid: Option<&WireUid>, tail: Option<Bytes>) -> Result<(), End> {
        self.buffer.extend_from_slice(tail.as_deref().unwrap_or_default());
        if let Some(replacement) = self.inner.unsendable(uid, self.buffer.len()) {
            self.buffer.truncate(1);
            self.buffer.extend_from_slice(&replacement);
        }
        // A small message is copied, so that the buffer stays; a large one takes it along.
        let message = match self.buffer.len() {
            ..=SMALL => Bytes::copy_from_slice(&self.buffer),
            _ => std::mem::take(&mut self.buffer).into(),
        };
        self.socket.send(message).map_err(End::from)
    }

    /// Pushes what there is for one Agent.
    fn push(&mut self, uid: &WireUid) -> Result<(), End> {
        loop {
            self.buffer.clear();
            self.buffer.push(frame::HEADER);
            let Some(route) = &self.route.route else { return Ok(()) };
            let push = self.inner.fleet.poll_push(route, uid, now(), &mut self.buffer);
            let Some(Push { tail }) = push else { return Ok(()) };
            self.send(Some(uid), tail)?;
        }
    }

    /// Pushes to the Agents in the outbox as long as there is room.
    fn push_waiting(&mut self) -> Result<(), End> {
        while self.socket.has_room() {
            let Some(uid) = self.outbox.agents().pop_first() else { break };
            self.push(&uid)?;
        }
        Ok(())
    }

    /// Looks at the clock.
    fn tick(&mut self) -> Result<(), End> {
        let now = self.inner.signals.now();
        let config = &self.inner.config;
        let over = |since: Coarse, time| now.saturating_sub(since) >= coarse(time);
        let timed_out = |reason| {
            self.inner.fleet.counting().timed_out.add();
            Err(End::close(Close::Policy, reason))
        };
        let times = &mut self.times;

        let written = self.socket.written();
        if written != times.written {
            times.written = written;
            times.stalled = times.stalled.map(|_| now);
        }
        if times.stalled.is_some_and(|since| over(since, config.write_timeout)) {
            return timed_out("the peer does not read");
        }

        if !times.spoke && over(times.opened, config.first_message_timeout) {
            return timed_out("no message in time");
        }
        match times.pinged {
            Some(pinged) if over(pinged, config.pong_timeout) => {
                return timed_out("no answer to a ping");
            }
            None if over(times.last_read, config.ping_interval) => {
                times.pinged = Some(now);
                self.socket.ping()?;
            }
            _ => {}
        }
        self.set_due();
        Ok(())
    }

    /// Asks for the next look at the clock.
    fn set_due(&self) {
        let config = &self.inner.config;
        let times = &self.times;
        let silence = match times.pinged {
            Some(pinged) => pinged.saturating_add(coarse(config.pong_timeout)),
            None => times.last_read.saturating_add(coarse(config.ping_interval)),
        };
        let first = times.opened.saturating_add(coarse(config.first_message_timeout));
        let stalled = times.stalled.map(|since| since.saturating_add(coarse(config.write_timeout)));
        let due = silence.min(stalled.unwrap_or(Coarse::MAX));
        self.signal.set_due(if times.spoke { due } else { due.min(first) });
    }
}
