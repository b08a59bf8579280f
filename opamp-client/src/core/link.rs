//! The connection, or its absence, as the core sees it.
//!
//! ```text
//!                    poll_connection            handle_connected
//!      ┌──────► Idle ───────────────► Connecting ──────────────► Open ─────┐
//!      │         ▲                        │                       │        │ goodbye sent
//!      │ Retry   │ handle_connect_failed  │                       │        ▼
//!      │ fires   ├────────────────────────┘                       │     Closing
//!      │         │ handle_connection_lost, Pong fires             │        │
//!      └── (paused) ◄─────────────────────────────────────────────┘        │
//!                ▲    handle_connection_lost, Close fires                  │
//!                └─────────────────────────────────────────────────────────┘
//! ```
//!
//! Over HTTP there is no connection: the link stays `Idle`, and what may be outstanding is one
//! request. A pause then holds back requests instead of connection attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use opamp_proto::v1;

use super::event::{Failure, FailureKind};
use super::timer::Timer;
use super::{ClientCore, Event, PeerMisbehaved, Transport};

/// Which connection something belongs to. Inputs of an old connection are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    pub(super) const FIRST: Self = Self(0);
}

/// An HTTP request that is to be made, and answered once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a request has to be answered, with handle_response, handle_request_failed or handle_request_unsent"]
pub struct Ticket(pub(super) u64);

/// What the driver has to do with the connection.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum ConnectionAction {
    /// Open a WebSocket; answer with `handle_connected` or `handle_connect_failed`.
    ///
    /// Later versions may say more.
    #[non_exhaustive]
    Connect {
        /// To be given back in the answer.
        epoch: Epoch,
        /// Where and how to connect; `None` stands for what the agent is started with.
        settings: Option<Arc<v1::OpAmpConnectionSettings>>,
    },
    /// Send a Close frame, complete the closing handshake, then call `handle_connection_lost`.
    /// The core bounds the wait: [`Abort`](Self::Abort) follows when it takes too long.
    Close {
        /// The connection.
        epoch: Epoch,
        /// The status code for the Close frame.
        code: u16,
        /// The reason for the Close frame.
        reason: &'static str,
    },
    /// Drop the connection, or the attempt to make it, now. No answer is expected.
    Abort {
        /// The connection.
        epoch: Epoch,
    },
}

/// How an established WebSocket ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// A Close frame came, or the closing handshake is complete.
    Closed {
        /// Its status code, where it had one.
        code: Option<u16>,
        /// Its reason.
        reason: String,
    },
    /// The connection broke.
    Broken(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Idle { paused: bool },
    Connecting,
    Open,
    Closing { closing: Closing, then: After },
    Stopped,
}

/// How far an orderly close has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// The goodbye is still to be sent.
    Goodbye,
    /// The driver is to be told.
    Tell { code: u16, reason: &'static str },
    /// The driver is at it.
    Told,
}

/// What comes after an orderly close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Stop,
    Retry {
        delay: Duration,
    },
    /// Connect with other settings.
    Switch,
}

impl ClientCore {
    /// What to do with the connection, if anything. Over HTTP there is nothing but an
    /// [`Abort`](ConnectionAction::Abort) of the request that is outstanding, when stopping takes
    /// too long.
    pub fn poll_connection(&mut self, now: Instant) -> Option<ConnectionAction> {
        if let Some(epoch) = self.abort.take() {
            return Some(ConnectionAction::Abort { epoch });
        }
        let epoch = self.epoch;
        match &mut self.link {
            Link::Idle { paused: false }
                if self.transport == Transport::WebSocket && !self.settings.hold_connecting() =>
            {
                self.epoch = Epoch(self.epoch.0 + 1);
                self.link = Link::Connecting;
                self.timers.set(Timer::Connect, now.checked_add(self.config.connect_timeout));
                let settings = self.settings.present();
                Some(ConnectionAction::Connect { epoch: self.epoch, settings })
            }
            Link::Closing { closing: closing @ Closing::Tell { .. }, .. } => {
                let Closing::Tell { code, reason } = *closing else {
                    return None;
                };
                *closing = Closing::Told;
                Some(ConnectionAction::Close { epoch, code, reason })
            }
            _ => None,
        }
    }

    /// The WebSocket asked for is established (NET-08).
    pub fn handle_connected(&mut self, epoch: Epoch, now: Instant) {
        if epoch != self.epoch || self.link != Link::Connecting {
            return;
        }
        self.link = Link::Open;
        self.good = false;
        self.heartbeat_unanswered = false;
        self.answers_heartbeats = false;
        self.answer_awaited = false;
        self.report.open();
        self.timers.stop(Timer::Connect);
        self.timers.stop(Timer::Heartbeat);
        self.touch(now);
        self.events.push(Event::Connected);
    }

    /// The WebSocket asked for could not be established. `retry_after` is what a 429 or 503 said in
    /// `Retry-After` (THR-09, THR-11).
    pub fn handle_connect_failed(
        &mut self,
        epoch: Epoch,
        failure: Failure,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        if epoch != self.epoch || self.link != Link::Connecting {
            return;
        }
        self.timers.stop(Timer::Connect);
        self.link = Link::Idle { paused: false };
        if self.settings_disproved(&failure, now) {
            let retry_in = Duration::ZERO;
            return self.events.push(Event::ConnectFailed { failure, retry_in });
        }
        let delay = self.delay_after(&failure, retry_after);
        self.pause(delay, now);
        self.events.push(Event::ConnectFailed { failure, retry_in: delay });
    }

    /// An established WebSocket is over, whoever ended it.
    pub fn handle_connection_lost(&mut self, epoch: Epoch, loss: Loss, now: Instant) {
        if epoch != self.epoch {
            return;
        }
        match self.link {
            Link::Open => self.oversized = 0,
            Link::Closing { then, .. } => return self.closed(then, now),
            _ => return,
        }
        let delay = match &loss {
            Loss::Closed { code: Some(1009), .. } => {
                let reason = "the server takes no message of that size (close 1009)";
                if !self.custom_too_large(reason) {
                    let parts = self.report.too_large();
                    if !parts.is_empty() {
                        let reason = reason.to_owned();
                        self.events.push(Event::Refused { parts, reason });
                    }
                }
                self.backoff.next_delay()
            }
            Loss::Closed { .. } => self.backoff.next_delay(),
            Loss::Broken(_) => self.delay_after_loss(now),
        };
        self.custom_lost();
        self.report.lost();
        self.pause(delay, now);
        let reason = match loss {
            Loss::Closed { code, reason } => match code {
                Some(code) => format!("closed by the server: {code} {reason}"),
                None => format!("closed by the server {reason}"),
            },
            Loss::Broken(reason) => reason,
        };
        if !self.good {
            self.settings_connection_lost(&reason);
        }
        self.events.push(Event::Disconnected { reason: reason.trim_end().to_owned() });
    }

    /// At once after a connection that had worked, with backoff otherwise, so that a server that
    /// accepts and drops does not make a hot loop (EST-06, EST-07).
    fn delay_after_loss(&mut self, now: Instant) -> Duration {
        let interval = self.config.immediate_reconnect_interval;
        let rested = self
            .immediate_reconnect
            .is_none_or(|last| now.saturating_duration_since(last) >= interval);
        if self.good && rested {
            self.immediate_reconnect = Some(now);
            return Duration::ZERO;
        }
        self.backoff.next_delay()
    }

    pub(super) fn delay_after(
        &mut self,
        failure: &Failure,
        retry_after: Option<Duration>,
    ) -> Duration {
        match failure.kind {
            FailureKind::Throttled => self.backoff.throttled_delay(retry_after),
            _ => self.backoff.next_delay(),
        }
    }

    /// Nothing is open, and nothing is tried for `delay`.
    pub(super) fn pause(&mut self, delay: Duration, now: Instant) {
        for timer in
            [Timer::Ping, Timer::Pong, Timer::Reply, Timer::Answer, Timer::Close, Timer::Heartbeat]
        {
            self.timers.stop(timer);
        }
        self.ping_due = false;
        self.link = Link::Idle { paused: !delay.is_zero() };
        if !delay.is_zero() {
            self.timers.set(Timer::Retry, now.checked_add(delay));
        }
    }

    /// An orderly close is complete, or was cut short.
    pub(super) fn closed(&mut self, then: After, now: Instant) {
        self.custom_lost();
        self.report.lost();
        // The server was told goodbye: it may know nothing of this agent next time (A12).
        self.report.forget_delivered();
        match then {
            After::Stop => self.stopped(),
            After::Retry { delay } => {
                self.pause(delay, now);
                self.events.push(Event::Disconnected { reason: "closed by the client".to_owned() });
            }
            After::Switch => {
                let reason = "left for other connection settings".to_owned();
                self.events.push(Event::Disconnected { reason });
                self.change_server(now);
            }
        }
    }

    pub(super) fn stopped(&mut self) {
        self.link = Link::Stopped;
        self.timers = super::timer::Timers::default();
        self.retry_saving();
        self.custom_stopped();
        self.events.push(Event::Stopped);
    }

    /// Something came in: the connection is alive.
    pub(super) fn touch(&mut self, now: Instant) {
        self.timers.stop(Timer::Pong);
        self.ping_due = false;
        if let Some(interval) = self.config.ping_interval {
            self.timers.set(Timer::Ping, now.checked_add(interval));
        }
    }

    /// The peer answers nothing, not even a ping, or the attempt to connect takes too long.
    pub(super) fn give_up(&mut self, what: &str, now: Instant) {
        self.abort = Some(self.epoch);
        match self.link {
            Link::Connecting => {
                let failure = Failure { kind: FailureKind::Unreachable, message: what.to_owned() };
                self.handle_connect_failed(self.epoch, failure, None, now);
            }
            Link::Open => {
                self.handle_connection_lost(self.epoch, Loss::Broken(what.to_owned()), now);
            }
            _ => {}
        }
    }

    /// Leaves the connection in an orderly way. A connection whose own messages break the rules is
    /// left without a goodbye.
    pub(super) fn leave(&mut self, closing: Closing, then: After, now: Instant) {
        self.link = Link::Closing { closing, then };
        for timer in [Timer::Ping, Timer::Pong, Timer::Heartbeat, Timer::Reply, Timer::Answer] {
            self.timers.stop(timer);
        }
        self.timers.set(Timer::Close, now.checked_add(self.config.close_timeout));
    }

    /// A message was sent whose answer is waited for.
    pub(super) fn expect_answer(&mut self, now: Instant) {
        if self.transport == Transport::WebSocket {
            self.timers.set(Timer::Reply, now.checked_add(self.config.reply_timeout));
            self.await_any_answer();
        }
    }

    /// The wait begins when the transport takes messages again: what takes minutes to be sent is
    /// not answered sooner.
    pub(super) fn await_any_answer(&mut self) {
        self.answer_awaited = true;
    }

    /// The transport takes messages. From the first unanswered one on, a later one does not begin
    /// the wait anew.
    pub(super) fn begin_to_await(&mut self, now: Instant) {
        if std::mem::take(&mut self.answer_awaited)
            && let Some(timeout) = self.config.answer_timeout
            && !self.timers.is_set(Timer::Answer)
        {
            self.timers.set(Timer::Answer, now.checked_add(timeout));
        }
    }

    /// The connection is alive and nobody speaks OpAMP at its other end, any more or at all.
    pub(super) fn leave_unanswered(&mut self, now: Instant) {
        if let (Link::Open, Some(within)) = (&self.link, self.config.answer_timeout) {
            self.misbehaved(PeerMisbehaved::NoAnswer { within });
            let delay = self.delay_after_loss(now);
            self.leave(Closing::Goodbye, After::Retry { delay }, now);
        }
    }

    /// A WebSocket message above the receive limit came (SIZE-10, SIZE-11).
    pub(super) fn received_too_large(&mut self, now: Instant) {
        if self.link != Link::Open {
            return;
        }
        let limit = self.config.limits.max_receive();
        self.events.push(Event::PeerMisbehaved(PeerMisbehaved::TooLarge { limit }));
        // The good reply that may have come before does not count: the same message comes again.
        let delay = self.backoff.delay_of(self.oversized);
        self.oversized = self.oversized.saturating_add(1);
        let then = After::Retry { delay };
        self.leave(Closing::Tell { code: 1009, reason: "message too big" }, then, now);
    }
}
