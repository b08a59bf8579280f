//! What goes out, and when time alone makes something happen.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{InstanceUid, Message, frame, v1};

use super::link::{After, Closing, Epoch, Link, Ticket};
use super::report::Oversized;
use super::timer::Timer;
use super::{ClientCore, Event, Transport};

/// Something for the transport to send.
///
/// `Debug` shows sizes, never what is in the messages.
#[derive(PartialEq)]
#[must_use]
pub enum Transmit {
    /// A binary WebSocket message, whole, with its header.
    Message {
        /// The connection it is for.
        epoch: Epoch,
        /// The bytes.
        message: Bytes,
    },
    /// A WebSocket ping; any sign of life answers it.
    Ping {
        /// The connection it is for.
        epoch: Epoch,
    },
    /// A POST request. There is no other until this one is answered (HTTP-11).
    ///
    /// Later versions may say more.
    #[non_exhaustive]
    Request {
        /// Where and how to make it; `None` stands for what the agent is started with.
        settings: Option<Arc<v1::OpAmpConnectionSettings>>,
        /// To be given back with the answer.
        ticket: Ticket,
        /// For the header `OpAMP-Instance-UID` (HTTP-22).
        instance_uid: InstanceUid,
        /// The body.
        body: Bytes,
    },
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message { epoch, message } => f
                .debug_struct("Message")
                .field("epoch", epoch)
                .field("message", &format_args!("{} bytes", message.len()))
                .finish(),
            Self::Ping { epoch } => f.debug_struct("Ping").field("epoch", epoch).finish(),
            Self::Request { settings, ticket, instance_uid, body } => f
                .debug_struct("Request")
                .field("settings", settings)
                .field("ticket", ticket)
                .field("instance_uid", instance_uid)
                .field("body", &format_args!("{} bytes", body.len()))
                .finish(),
        }
    }
}

impl ClientCore {
    /// What to send now, if anything. Call it only when the transport can take a message: what is
    /// composed is composed from the state of this moment.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        match self.link {
            Link::Open => self.poll_open(now),
            Link::Idle { paused: false } if self.transport == Transport::Http => {
                self.poll_http(now)
            }
            Link::Closing { closing: Closing::Goodbye, then } => self.poll_goodbye(then, now),
            _ => None,
        }
    }

    fn poll_open(&mut self, now: Instant) -> Option<Transmit> {
        self.begin_to_await(now);
        if let Some(report) = self.compose_in_turn(now) {
            return Some(self.send(&report, now));
        }
        if let Some(message) = self.compose_custom(now, false) {
            return Some(self.send(&message, now));
        }
        if self.heartbeat_due {
            let heartbeat = self.report.heartbeat();
            self.heartbeat_unanswered = true;
            if self.answers_heartbeats {
                self.await_any_answer();
            }
            return Some(self.send(&heartbeat, now));
        }
        if std::mem::take(&mut self.ping_due) {
            self.timers.set(Timer::Pong, now.checked_add(self.config.ping_timeout));
            return Some(Transmit::Ping { epoch: self.epoch });
        }
        None
    }

    fn poll_http(&mut self, now: Instant) -> Option<Transmit> {
        if self.outstanding_request.is_some() || self.settings.hold_requests() {
            return None;
        }
        if let Some(report) = self.compose_in_turn(now) {
            return Some(self.request(&report, now));
        }
        if let Some(message) = self.compose_custom(now, false) {
            return Some(self.request(&message, now));
        }
        if self.heartbeat_due {
            let poll = self.report.heartbeat();
            return Some(self.request(&poll, now));
        }
        None
    }

    /// What is untold first, then the goodbye (CLOSE-01, CLOSE-02, CLOSE-05).
    fn poll_goodbye(&mut self, then: After, now: Instant) -> Option<Transmit> {
        if self.outstanding_request.is_some() {
            return None;
        }
        if then == After::Stop || self.settings.leaving() {
            self.report.stop_waiting();
            if let Some(report) = self.compose(now) {
                return Some(self.deliver(&report, now));
            }
            if let Some(message) = self.compose_custom(now, true) {
                return Some(self.deliver(&message, now));
            }
        }
        let goodbye = self.report.goodbye();
        let closing = match self.transport {
            Transport::WebSocket => Closing::Tell { code: 1000, reason: "" },
            Transport::Http => Closing::Told,
        };
        self.link = Link::Closing { closing, then };
        Some(self.deliver(&goodbye, now))
    }

    /// The first message of a connection never waits; reconnecting has its own pace.
    fn compose_in_turn(&mut self, now: Instant) -> Option<v1::AgentToServer> {
        if !self.report.due() {
            return None;
        }
        if let Err(later) = self.report_ration.take(now)
            && !self.report.opening()
        {
            self.timers.set(Timer::Report, later);
            return None;
        }
        self.compose(now)
    }

    fn compose(&mut self, now: Instant) -> Option<v1::AgentToServer> {
        let framing = match self.transport {
            // The limit counts the header too (SIZE-01).
            Transport::WebSocket => frame::encoded_len(&v1::AgentToServer::default()),
            Transport::Http => 0,
        };
        let limit = self.config.limits.max_send();
        let events = &mut self.events;
        let message = self.report.compose(limit - framing, |oversized| {
            let Oversized { part, size } = oversized;
            events.push(Event::TooLargeToSend { part, size, limit });
        })?;
        self.expect_answer(now);
        Some(message)
    }

    fn deliver(&mut self, message: &v1::AgentToServer, now: Instant) -> Transmit {
        match self.transport {
            Transport::WebSocket => self.send(message, now),
            Transport::Http => self.request(message, now),
        }
    }

    fn send(&mut self, message: &v1::AgentToServer, now: Instant) -> Transmit {
        self.schedule_heartbeat(now);
        Transmit::Message { epoch: self.epoch, message: frame::encode(message) }
    }

    fn request(&mut self, message: &v1::AgentToServer, now: Instant) -> Transmit {
        self.schedule_heartbeat(now);
        self.last_request += 1;
        self.outstanding_request = Some(Ticket(self.last_request));
        Transmit::Request {
            settings: self.settings.present(),
            ticket: Ticket(self.last_request),
            instance_uid: self.state.instance_uid,
            body: message.encode_to_vec().into(),
        }
    }

    /// The interval counts from the last message of any kind (HB-09).
    pub(super) fn schedule_heartbeat(&mut self, now: Instant) {
        self.heartbeat_due = false;
        match self.transport {
            Transport::Http => {
                self.timers.set(Timer::Heartbeat, now.checked_add(self.polling_interval()));
            }
            Transport::WebSocket => match self.heartbeat_interval() {
                Some(interval) => self.timers.set(Timer::Heartbeat, now.checked_add(interval)),
                None => self.timers.stop(Timer::Heartbeat),
            },
        }
    }

    /// What was asked for by flags, a full report or the components, may go out, or has to wait its
    /// turn.
    pub(super) fn grant_full_state(&mut self, now: Instant) {
        // What is owed already answers who asks once more.
        self.full_state_asked &= !self.report.full_owed();
        self.components_asked &= !self.report.components_owed();
        if !self.full_state_asked && !self.components_asked {
            return;
        }
        match self.full_state_ration.take(now) {
            Ok(()) => {
                if std::mem::take(&mut self.full_state_asked) {
                    self.report.request_full();
                }
                if std::mem::take(&mut self.components_asked) {
                    self.report.request_components();
                }
            }
            Err(later) => self.timers.set(Timer::FullState, later),
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) next, unless something happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Time has passed. Calling it too early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Retry => {
                    if self.link == (Link::Idle { paused: true }) {
                        self.link = Link::Idle { paused: false };
                        // Over HTTP the retry is a request, with or without something to tell.
                        self.heartbeat_due = self.transport == Transport::Http;
                    }
                }
                Timer::Connect => self.give_up("the connection was not established in time", now),
                Timer::Heartbeat => self.heartbeat_due = true,
                Timer::Reply => self.report.stop_waiting(),
                Timer::Answer => self.leave_unanswered(now),
                // The report is due, and polled for next.
                Timer::Report => {}
                Timer::FullState => self.grant_full_state(now),
                Timer::Offer => {
                    let seconds = self.config.offer_timeout.as_secs();
                    self.fail_pending(&format!("no outcome within {seconds} s"));
                }
                Timer::ConnectionSettings => self.connection_settings_overdue(),
                Timer::Packages => self.packages_timeout(now),
                Timer::Custom => self.custom_overdue(now),
                Timer::Ping => self.ping_due = true,
                Timer::Pong => self.give_up("the server does not answer, not even a ping", now),
                Timer::Close => self.cut_close_short(now),
                Timer::Save => self.retry_saving(),
                Timer::Settings => self.settings_overdue(now),
                Timer::Unusable => self.look_at_unusable_settings(),
                Timer::Certificate => self.certificate_request_overdue(),
            }
        }
    }

    fn cut_close_short(&mut self, now: Instant) {
        if let Link::Closing { then, .. } = self.link {
            self.abort = Some(self.epoch);
            self.outstanding_request = None;
            self.closed(then, now);
        }
    }
}
