//! One WebSocket connection, from its first message to its end: the task that owns its socket.
//!
//! ```text
//!            message ──▶ registry ──▶ reply ─┐
//!   socket ◀──────────── flush ◀─────────────┤   when nothing more is readable, or 16 KiB wait
//!            outbox (woken by operations) ───┘
//! ```
//!
//! Reading and writing are polled together, so that neither end waits for the other with both
//! directions full. While too much waits to be sent, at most one more message is read, and held
//! together with what came along with it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use opamp_proto::InstanceUid;
use opamp_proto::frame::{self, HeaderPolicy};

use super::buffers::{Buffers, Writing};
use super::handler::Handler;
use super::in_progress::Exhausted;
use super::incoming::Incoming;
use super::signal::{Coarse, Signal, coarse};
use super::websocket::{Fault, Socket};
use super::{Inner, now};
use crate::core::{Changes, Refusal, RefusalKind, Transport};
use crate::fleet::{AgentKey, Now, Route, RouteWaker};
use crate::websocket::{CloseCode, Event, Violation};

mod awaiting;
mod end;
mod outbox;

use self::awaiting::Awaiting;
use self::end::{Cause, End, Open};
use self::outbox::Outbox;

/// So many replies are written before more is read.
const FLUSH_AT: usize = 16 * 1024;

/// Times that a connection reads before others have their turn.
const READS: usize = 4;

/// What was read while too much waited to be sent.
struct Held {
    message: Option<Vec<u8>>,
    /// Not decoded yet.
    rest: Vec<u8>,
}

struct Connection<H: Handler> {
    inner: Arc<Inner<H>>,
    signal: Arc<Signal>,
    outbox: Arc<Outbox>,
    route: Sessions<H>,
    socket: Socket,
    incoming: Incoming,
    held: Option<Box<Held>>,
    awaiting: Awaiting,
    malformed_in_a_row: u32,
    denied_in_a_row: u32,
    /// The peer was seen to leave out the header.
    headerless: bool,
    /// The peer was seen to send a message that is about no Agent.
    unaddressed: bool,
    peer: Option<SocketAddr>,
    times: Times,
}

impl Held {
    /// The bytes of memory it holds.
    fn size(&self) -> usize {
        self.message.as_ref().map_or(0, Vec::capacity) + self.rest.capacity()
    }

    /// What came along with the handshake; `None` if that is nothing, and the buffer it was read
    /// into goes.
    fn from_upgrade(read: Bytes) -> Option<Box<Self>> {
        (!read.is_empty()).then(|| Box::new(Self { message: None, rest: read.into() }))
    }
}

/// The route; when it is dropped, however that comes about, the sessions on it end.
struct Sessions<H: Handler> {
    inner: Arc<Inner<H>>,
    route: Option<Route<H::Identity>>,
}

impl<H: Handler> Drop for Sessions<H> {
    fn drop(&mut self) {
        if let Some(route) = self.route.take() {
            for key in self.inner.fleet.close_route(route) {
                self.inner.dispatch(key);
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

/// Waits for the upgrade of a connection, and gives what serves it. `None` if it fails.
pub(super) async fn open<H: Handler>(
    inner: Arc<Inner<H>>,
    signal: Arc<Signal>,
    upgrade: OnUpgrade,
    peer: Option<SocketAddr>,
    identity: H::Identity,
) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
    match tokio::time::timeout(inner.config.first_message_timeout, upgrade).await {
        Ok(Ok(upgraded)) => {
            let connection = Connection::new(inner, signal, upgraded, peer, identity);
            Some(Box::pin(connection.serve()))
        }
        Ok(Err(error)) => {
            tracing::debug!(?peer, %error, "the upgrade failed");
            None
        }
        Err(_elapsed) => {
            tracing::debug!(?peer, "the upgrade took too long");
            None
        }
    }
}

impl<H: Handler> Connection<H> {
    fn new(
        inner: Arc<Inner<H>>,
        signal: Arc<Signal>,
        upgraded: Upgraded,
        peer: Option<SocketAddr>,
        identity: H::Identity,
    ) -> Self {
        let outbox = Arc::new(Outbox {
            signal: Arc::clone(&signal),
            agents: Mutex::default(),
            probes: Mutex::default(),
            filled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let waker: Arc<dyn RouteWaker> = Arc::clone(&outbox) as _;
        let route = inner.fleet.open_route(Transport::WebSocket, peer, identity, Some(waker));
        let limits = inner.fleet.config().limits;
        let (socket, read) = Socket::new(upgraded, limits.max_receive());
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
        Self {
            route: Sessions { inner: Arc::clone(&inner), route: Some(route) },
            signal,
            outbox,
            socket,
            incoming: Incoming::new(&inner.shares.in_progress),
            held: Held::from_upgrade(read),
            awaiting: Awaiting::default(),
            malformed_in_a_row: 0,
            denied_in_a_row: 0,
            headerless: false,
            unaddressed: false,
            peer,
            times,
            inner,
        }
    }

    /// Serves the connection to its end.
    #[expect(clippy::manual_async_fn, reason = "that one would have room for the connection twice")]
    fn serve(mut self) -> impl Future<Output = ()> + Send + use<H> {
        async move {
            tracing::debug!(peer = ?self.peer, "connected");
            let inner = Arc::clone(&self.inner);
            let open = Open::new(&inner.fleet);
            let end = self.run().await;
            open.ended(&end);
            // Boxed, as it moves the connection.
            Box::pin(self.finish(end)).await;
        }
    }

    async fn run(&mut self) -> End {
        self.set_due();
        poll_fn(|cx| {
            match Buffers::lend(|Buffers { read, writing }| self.poll(read, writing, cx)) {
                Ok(()) => Poll::Pending,
                Err(end) => Poll::Ready(end),
            }
        })
        .await
    }

    /// Does all there is to do; afterwards the task is woken when there is more.
    fn poll(
        &mut self,
        read: &mut [u8],
        writing: &mut Writing,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        self.signal.register(cx);
        if self.signal.is_closing() {
            return Err(End::close(
                Cause::Shutdown,
                CloseCode::GOING_AWAY,
                "the server shuts down",
            ));
        }
        if self.outbox.closing.load(Ordering::Acquire) {
            return Err(End::close(
                Cause::Operator,
                CloseCode::NORMAL,
                "the operator ends the connection",
            ));
        }
        #[cfg(feature = "ca")]
        if self.signal.is_revoked() {
            return Err(End::close(
                Cause::Operator,
                CloseCode::POLICY,
                "the certificate is revoked",
            ));
        }
        if self.signal.take_tick() {
            self.tick(writing)?;
        }
        let mut reads = 0;
        loop {
            self.answer_waiting(writing);
            self.take_in_held(writing)?;
            if self.outbox.take_filled() {
                self.push_waiting(writing);
                self.probe(writing);
            }

            let clock = self.inner.signals.now();
            let paused = !self.incoming.may_read(clock, &self.inner.config);
            if paused {
                // As soon as the clock goes on.
                self.signal.due_by(clock.saturating_add(1));
            }
            let reading = self.held.is_none() && !self.socket.owes_pongs() && !paused;
            if !reading {
                // The silence of a peer that is not listened to says nothing.
                (self.times.last_read, self.times.pinged) = (clock, None);
            }
            let mut readable = false;
            if reading && let Poll::Ready(len) = self.socket.poll_read(read, cx)? {
                readable = true;
                reads += 1;
                self.note_reading();
                self.take_in(&mut read[..len], now(), writing)?;
                self.answer_waiting(writing);
                self.settle(clock)?;
                if reads < READS && self.socket.unsent() < FLUSH_AT {
                    continue;
                }
            }

            let flushed = self.socket.poll_flush(writing, cx)?.is_ready();
            self.note_progress(flushed);
            if reads == READS {
                cx.waker().wake_by_ref();
                return Ok(());
            }
            let again = readable || (flushed && self.can_go_on(reading || paused));
            if !again {
                return Ok(());
            }
        }
    }

    /// Whether there is something to do now that everything is written.
    fn can_go_on(&self, reading: bool) -> bool {
        let push = self.awaiting.is_empty() && self.outbox.is_filled();
        let read = !reading && !self.awaiting.is_full();
        push || read
    }

    /// Whether there is room for another reply.
    fn has_room(&self) -> bool {
        self.socket.has_room() && !self.awaiting.is_full()
    }

    /// Notes what is kept of what was read, all of which is decoded.
    fn settle(&mut self, now: Coarse) -> Result<(), End> {
        let held = self.held.as_ref().map_or(0, |held| held.size());
        let (kept, read) = (self.socket.kept(), self.socket.read());
        match self.incoming.settle(kept + held, read, now) {
            Ok(false) => {}
            Ok(true) => {
                if let Some(due) = self.incoming.due(read, &self.inner.config) {
                    self.signal.due_by(due);
                }
            }
            Err(Exhausted) => {
                let reason = "too many messages are on their way";
                return Err(End::close(Cause::Crowded, CloseCode::TRY_AGAIN_LATER, reason));
            }
        }
        Ok(())
    }

    /// Takes in what was held, as far as there is room for the replies.
    fn take_in_held(&mut self, writing: &mut Writing) -> Result<(), End> {
        while self.has_room()
            && let Some(mut held) = self.held.take()
        {
            let now = now();
            if let Some(message) = held.message {
                self.receive(&message, now, writing)?;
            }
            self.take_in(&mut held.rest, now, writing)?;
        }
        Ok(())
    }

    /// Takes in what was read at this time.
    fn take_in(
        &mut self,
        mut input: &mut [u8],
        now: Now,
        writing: &mut Writing,
    ) -> Result<(), End> {
        while !input.is_empty() {
            let decoded = self.socket.decode(&mut input);
            self.incoming.frames(self.socket.take_frames());
            match decoded {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Binary(message))) => {
                    self.incoming.complete();
                    if !self.has_room() {
                        let (message, rest) = (Some(message.into_owned()), input.to_vec());
                        self.held = Some(Box::new(Held { message, rest }));
                        return Ok(());
                    }
                    self.receive(&message, now, writing)?;
                }
                Ok(Some(Event::Ping(payload))) => self.socket.pong(writing, &payload),
                Ok(Some(Event::Close(close))) => {
                    self.socket.answer_close(writing, close.as_ref());
                    return Err(End::Closed);
                }
                Ok(Some(Event::Pong(payload))) => self.ponged(&payload),
                // Of text the decoder makes a violation.
                Ok(Some(Event::Text(_))) => {}
                Err(fault) => {
                    if let Fault::Violation(violation) = &fault {
                        tracing::debug!(%violation, "WebSocket protocol error");
                        if let Violation::TooLarge { .. } = violation {
                            self.inner.fleet.counting().oversized.add();
                        }
                    }
                    return Err(fault.into());
                }
            }
        }
        Ok(())
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
    fn receive(&mut self, message: &[u8], now: Now, writing: &mut Writing) -> Result<(), End> {
        self.times.spoke = true;
        let head = writing.begin();
        let fleet = &self.inner.fleet;
        let policy = match fleet.config().tolerances.missing_header {
            true => HeaderPolicy::Optional,
            false => HeaderPolicy::Required,
        };
        let frame = match frame::decode_slice(message, policy) {
            Ok(frame) => frame,
            Err(error) => {
                let refusal = Refusal::malformed(format!("WebSocket message header: {error}"));
                fleet.counting().websocket_messages.add();
                fleet.counting().websocket_bytes.add_all(message.len() as u64);
                fleet.counting().malformed.add();
                refusal.encode(None, head);
                self.send(None, writing, None);
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
        let size = frame.body.len();
        let in_turn = self.awaiting.is_empty();
        let received = self.inner.large.run_in_place(size, || {
            let mut fresh = InstanceUid::generate;
            match in_turn {
                true => fleet.receive(route, frame.body, now, &mut fresh, head),
                // It is answered in its turn.
                false => fleet.receive_later(route, frame.body, now, &mut fresh),
            }
        });
        if received.unanswered {
            self.malformed_in_a_row = 0;
            if !std::mem::replace(&mut self.unaddressed, true) {
                tracing::info!(peer = ?self.peer, "a message without an instance uid is tolerated");
            }
            return Ok(());
        }
        let key = received.key;
        match received.unsaved {
            Some(accepted) => self.hold_back(accepted),
            None => self.send(key.as_ref(), writing, received.tail),
        }
        if let Some(key) = key {
            super::note_odd_uid(&key, received.changes);
            if received.changes.contains(Changes::CONNECTED) {
                tracing::debug!(agent = %key, "a session began");
            }
            if received.queue {
                self.inner.dispatch(key);
            }
            if received.push {
                self.push(&key, writing);
            }
        }
        match received.refusal {
            Some(refusal) if refusal.kind() == RefusalKind::Malformed => {
                self.malformed(key, &refusal)
            }
            Some(refusal) if refusal.kind() == RefusalKind::Denied => self.denied(key, &refusal),
            refusal => {
                if let Some(refusal) = refusal {
                    tracing::debug!(agent = ?key, refusal = refusal.text(), "refused");
                }
                (self.malformed_in_a_row, self.denied_in_a_row) = (0, 0);
                Ok(())
            }
        }
    }

    fn malformed(&mut self, key: Option<AgentKey>, refusal: &Refusal) -> Result<(), End> {
        tracing::debug!(agent = ?key, refusal = refusal.text(), "refused");
        self.malformed_in_a_row += 1;
        if self.malformed_in_a_row > self.granted(self.inner.config.max_malformed) {
            return Err(End::close(
                Cause::Malformed,
                CloseCode::POLICY,
                "too many malformed messages",
            ));
        }
        Ok(())
    }

    fn denied(&mut self, key: Option<AgentKey>, refusal: &Refusal) -> Result<(), End> {
        tracing::info!(agent = ?key, peer = ?self.peer, refusal = refusal.text(), "denied");
        self.denied_in_a_row += 1;
        if self.denied_in_a_row > self.granted(self.inner.config.max_denied) {
            return Err(End::close(
                Cause::Denied,
                CloseCode::POLICY,
                "not authorized for the Agent",
            ));
        }
        Ok(())
    }

    /// How many refusals in a row a connection is granted: one bad Agent of many must not cost the
    /// others their connection.
    fn granted(&self, allowed: u32) -> u32 {
        let agents = self.route.route.as_ref().map_or(0, |route| route.agents().len());
        allowed.saturating_add(u32::try_from(agents).unwrap_or(u32::MAX))
    }

    /// Queues the message whose head is in the buffer for it.
    fn send(&mut self, key: Option<&AgentKey>, writing: &mut Writing, mut tail: Option<Bytes>) {
        let size = writing.head.len() + tail.as_ref().map_or(0, Bytes::len);
        if let Some(replacement) = self.inner.unsendable(key, size) {
            writing.begin().extend_from_slice(&replacement);
            tail = None;
        }
        let counting = &**self.inner.fleet.counting();
        counting.websocket_messages_sent.add();
        let size = writing.head.len() + tail.as_ref().map_or(0, Bytes::len);
        counting.websocket_bytes_sent.add_all(size as u64);
        self.socket.send(writing, tail);
    }

    /// Looks at the clock.
    fn tick(&mut self, writing: &mut Writing) -> Result<(), End> {
        let now = self.inner.signals.now();
        let config = &self.inner.config;
        let over = |since: Coarse, time| now.saturating_sub(since) >= coarse(time);
        let timed_out = |reason| {
            self.inner.fleet.counting().timed_out.add();
            Err(End::close(Cause::Timeout, CloseCode::POLICY, reason))
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

        let due = self.incoming.due(self.socket.read(), config);
        if due.is_some_and(|due| due <= now) {
            return timed_out("a message takes too long");
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
                self.socket.ping(writing, &[]);
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
        let message = self.incoming.due(self.socket.read(), config);
        let due = silence.min(stalled.unwrap_or(Coarse::MAX)).min(message.unwrap_or(Coarse::MAX));
        let due = due.min(self.awaiting.due());
        self.signal.set_due(if times.spoke { due } else { due.min(first) });
    }
}
