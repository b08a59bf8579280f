//! What a message of the server means.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::elements::{self, DEFAULT_MAX_ELEMENTS, MessageKind};
use opamp_proto::{
    AgentCapabilities, InstanceUid, Message, ServerCapabilities, config_hash, frame, v1,
};

use super::event::{Failure, FailureKind};
use super::link::{After, Closing, Epoch, Link, Ticket};
use super::offer::{OfferId, RemoteConfigOffer};
use super::timer::Timer;
use super::{ClientCore, Event, Parts, PeerMisbehaved, Transport};

/// What came in over a WebSocket.
///
/// `Debug` shows sizes, never what is in the messages.
#[derive(Clone, PartialEq, Eq)]
pub enum Received {
    /// A binary message, whole, with its header.
    Binary(Bytes),
    /// A text message; its content is of no interest (WS-01).
    Text,
    /// A message above the receive limit, of which no more than the limit was read.
    TooLarge,
    /// A ping or pong: nothing but a sign of life.
    Control,
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Binary(message) => write!(f, "Binary({} bytes)", message.len()),
            Self::Text => f.write_str("Text"),
            Self::TooLarge => f.write_str("TooLarge"),
            Self::Control => f.write_str("Control"),
        }
    }
}

/// An HTTP response, whole and decompressed.
///
/// `Debug` shows the size of the body, never what is in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// What `Retry-After` said, as a wait from now.
    pub retry_after: Option<Duration>,
    /// The body of a 200; empty for other statuses.
    pub body: Bytes,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// Replaced uids under which the server may still answer. More than one only where the server gives
/// another uid before it has seen the last one used.
const MAX_PREVIOUS_UIDS: usize = 4;

/// Whether a message says nothing but that ours arrived (see the module `report`).
fn is_acknowledgement(message: &v1::ServerToAgent) -> bool {
    message.flags == 0
        && message.remote_config.is_none()
        && message.connection_settings.is_none()
        && message.packages_available.is_none()
        && message.agent_identification.is_none()
        && message.command.is_none()
        && message.custom_message.is_none()
}

/// Whether a failed request was surely turned away before anyone acted on its content. Proxies
/// answer 503 also when they lost what they had passed on, but know no time to come back then.
fn is_unread(kind: FailureKind, retry_after: Option<Duration>) -> bool {
    match kind {
        FailureKind::Unauthorized | FailureKind::NotFound => true,
        FailureKind::Throttled => retry_after.is_some(),
        _ => false,
    }
}

/// A message within the limit of the wire can still be far too much once it is decoded.
fn decode(body: Bytes) -> Result<v1::ServerToAgent, String> {
    elements::check(MessageKind::ServerToAgent, &body, DEFAULT_MAX_ELEMENTS)
        .map_err(|error| error.to_string())?;
    v1::ServerToAgent::decode(body).map_err(|error| error.to_string())
}

impl ClientCore {
    /// Something came in over the WebSocket.
    pub fn handle_received(&mut self, epoch: Epoch, received: Received, now: Instant) {
        if epoch != self.epoch || !matches!(self.link, Link::Open | Link::Closing { .. }) {
            return;
        }
        if self.link == Link::Open {
            self.touch(now);
        }
        match received {
            Received::Control => {}
            Received::Text => self.misbehaved(PeerMisbehaved::TextMessage),
            Received::TooLarge => self.received_too_large(now),
            Received::Binary(bytes) if !self.config.limits.allows_receive(bytes.len()) => {
                self.received_too_large(now);
            }
            Received::Binary(bytes) => match self.unframe(bytes) {
                Ok(message) => {
                    self.process(message, now);
                }
                Err(what) => self.misbehaved(PeerMisbehaved::Malformed(what)),
            },
        }
    }

    fn unframe(&self, bytes: Bytes) -> Result<v1::ServerToAgent, String> {
        let frame =
            frame::decode(bytes, self.config.header_policy).map_err(|error| error.to_string())?;
        decode(frame.body)
    }

    /// The response to a request came.
    pub fn handle_response(&mut self, ticket: Ticket, response: Response, now: Instant) {
        if self.outstanding_request.as_ref() != Some(&ticket) {
            return;
        }
        let kind = match response.status {
            200 => match decode(response.body) {
                Ok(message) => {
                    self.outstanding_request = None;
                    return self.process_response(message, now);
                }
                Err(what) => {
                    self.misbehaved(PeerMisbehaved::Malformed(what));
                    FailureKind::BadResponse
                }
            },
            400 | 413 => return self.request_refused(response.status, now),
            401 | 403 => FailureKind::Unauthorized,
            404 => FailureKind::NotFound,
            429 | 503 => FailureKind::Throttled,
            status => FailureKind::UnexpectedStatus(status),
        };
        let message = match kind {
            FailureKind::BadResponse => "the response is not a ServerToAgent message".to_owned(),
            _ => format!("the server answered with status {}", response.status),
        };
        self.request_failed(Failure { kind, message }, response.retry_after, now);
    }

    /// The request was made at least in part, and there is no response to it, or none that can be
    /// read.
    pub fn handle_request_failed(&mut self, ticket: Ticket, failure: Failure, now: Instant) {
        if self.outstanding_request.as_ref() != Some(&ticket) {
            return;
        }
        self.request_failed(failure, None, now);
    }

    /// The request could not be made: no byte of it has left. Its number is not used up, so
    /// attempts while the server is away look like no gap to it (SEQ-01, SEQ-03, reading A10).
    pub fn handle_request_unsent(&mut self, ticket: Ticket, failure: Failure, now: Instant) {
        if self.outstanding_request.as_ref() != Some(&ticket) {
            return;
        }
        self.report.unsent();
        self.custom_turned_away();
        self.request_failed(failure, None, now);
    }

    fn request_failed(&mut self, failure: Failure, retry_after: Option<Duration>, now: Instant) {
        self.outstanding_request = None;
        if is_unread(failure.kind, retry_after) {
            self.custom_turned_away();
        }
        self.custom_lost();
        self.report.lost();
        self.good = false;
        if !matches!(self.link, Link::Closing { .. }) && self.settings_disproved(&failure, now) {
            let retry_in = Duration::ZERO;
            return self.events.push(Event::ConnectFailed { failure, retry_in });
        }
        let delay = self.delay_after(&failure, retry_after);
        self.events.push(Event::ConnectFailed { failure, retry_in: delay });
        self.after_failed_exchange(delay, now);
    }

    fn after_failed_exchange(&mut self, delay: Duration, now: Instant) {
        match self.link {
            Link::Closing { then, .. } => self.closed(then, now),
            _ => self.pause(delay, now),
        }
    }

    /// 400 or 413: the same request must not be made again (SIZE-24, ERR-14).
    fn request_refused(&mut self, status: u16, now: Instant) {
        self.outstanding_request = None;
        let reason = if status == 413 {
            "the server takes no message of that size (status 413)"
        } else {
            "the server calls the message malformed (status 400)"
        };
        if self.custom_refused(reason) {
            return;
        }
        let parts = if status == 413 { self.report.too_large() } else { self.report.refused() };
        self.events.push(Event::Refused { parts, reason: reason.to_owned() });
        if status == 400 {
            self.certificate_refused(parts, reason, now);
            if self.settings_refused(reason, now) {
                return;
            }
        }
        if parts.is_empty() {
            // Not even a poll is taken: asking again at once would be a hot loop.
            let delay = self.backoff.next_delay();
            return self.after_failed_exchange(delay, now);
        }
        if self.link == (Link::Idle { paused: false }) {
            self.schedule_heartbeat(now);
        }
    }

    fn process_response(&mut self, message: v1::ServerToAgent, now: Instant) {
        let told_goodbye = matches!(self.link, Link::Closing { closing: Closing::Told, .. });
        let addressed = self.process(message, now);
        if let Link::Closing { then, .. } = self.link
            && told_goodbye
        {
            return self.closed(then, now);
        }
        if !addressed {
            let message = "the response is for another agent".to_owned();
            let failure = Failure { kind: FailureKind::BadResponse, message };
            self.request_failed(failure, None, now);
        }
    }

    /// Processes a message, whichever way it came. Returns whether it is for this agent.
    fn process(&mut self, message: v1::ServerToAgent, now: Instant) -> bool {
        if !self.is_addressee(&message.instance_uid) {
            self.misbehaved(PeerMisbehaved::ForeignInstanceUid);
            return false;
        }
        self.heard_answer(&message);
        if let Some(error) = message.error_response {
            self.process_error(error, now);
            return true;
        }
        let http = self.transport == Transport::Http;
        if http {
            self.report.all_answered();
        } else if is_acknowledgement(&message)
            // They are in the first reply of a connection (A31), and later in a push of their own.
            && (message.custom_capabilities.is_none() || self.report.nothing_answered())
        {
            self.report.answered();
        } else {
            self.report.perhaps_answered();
        }
        // An answer to the goodbye says nothing of how the next connection will fare.
        if !matches!(self.link, Link::Closing { .. }) {
            self.backoff.reset();
        }
        if http && !self.good {
            self.events.push(Event::Connected);
        }
        self.good = true;
        self.certificate_request_told(now);
        self.settings_proven(now);
        if !self.report.waiting() {
            self.timers.stop(Timer::Reply);
        }
        self.custom_answered();
        self.process_capabilities(message.capabilities);
        if let Some(command) = message.command {
            if self.capabilities().contains(AgentCapabilities::ACCEPTS_RESTART_COMMAND) {
                // A command travels alone; what else is in its message is ignored (CMD-02).
                self.process_command(command.r#type);
                return true;
            }
            self.misbehaved(PeerMisbehaved::NotAnnounced("command"));
        }
        if let Some(list) = message.custom_capabilities {
            self.process_custom_capabilities(list);
        }
        if let Some(identification) = message.agent_identification {
            self.process_identification(&identification.new_instance_uid);
        }
        let flags = message.flags;
        if flags & v1::ServerToAgentFlags::ReportFullState as u64 != 0 {
            self.full_state_asked = true;
        }
        if flags & v1::ServerToAgentFlags::ReportAvailableComponents as u64 != 0 {
            self.components_asked = self.report.has_components();
        }
        self.grant_full_state(now);
        if let Some(offer) = message.remote_config {
            self.process_remote_config(offer, now);
        }
        if let Some(offer) = message.connection_settings
            && !self.settings.abandoned(&self.link)
        {
            self.process_connection_settings(offer, now);
        }
        if let Some(offer) = message.packages_available {
            self.process_packages(offer, now);
        }
        if let Some(custom) = message.custom_message {
            self.process_custom_message(custom);
        }
        true
    }

    /// Whatever the server says, it is not one that says nothing.
    fn heard_answer(&mut self, message: &v1::ServerToAgent) {
        self.timers.stop(Timer::Answer);
        self.answer_awaited = false;
        let heartbeat = std::mem::take(&mut self.heartbeat_unanswered);
        self.answers_heartbeats |=
            heartbeat && !self.report.waiting() && is_acknowledgement(message);
    }

    /// Its own id, one it just replaced, or none (A33).
    fn is_addressee(&self, uid: &[u8]) -> bool {
        uid.is_empty()
            || *uid == self.state.instance_uid.as_bytes()[..]
            || self.previous_uids.iter().any(|previous| *uid == previous.as_bytes()[..])
    }

    fn process_error(&mut self, error: v1::ServerErrorResponse, now: Instant) {
        if error.r#type == v1::ServerErrorResponseType::Unavailable as i32 {
            let asked = error.details.map(|v1::server_error_response::Details::RetryInfo(info)| {
                Duration::from_nanos(info.retry_after_nanoseconds)
            });
            return self.throttled(asked, now);
        }
        let reason = match error.error_message {
            message if message.is_empty() => "the server gave no reason".to_owned(),
            message => super::offer::cut(message),
        };
        let custom = self.custom_refused(&reason);
        let parts = if custom { Parts::empty() } else { self.report.refused() };
        if !self.report.waiting() {
            self.timers.stop(Timer::Reply);
        }
        if custom {
            return;
        }
        self.settings_refused(&reason, now);
        if error.r#type == v1::ServerErrorResponseType::BadRequest as i32 {
            self.certificate_refused(parts, &reason, now);
        }
        self.events.push(Event::Refused { parts, reason });
    }

    /// The report was not taken: leave, wait, come back, tell it again (THR-02, THR-13).
    fn throttled(&mut self, asked: Option<Duration>, now: Instant) {
        let delay = self.backoff.throttled_delay(asked);
        self.custom_turned_away();
        self.custom_lost();
        self.report.lost();
        self.events.push(Event::Throttled { retry_in: delay });
        match self.transport {
            Transport::WebSocket if self.link == Link::Open => {
                self.leave(Closing::Goodbye, After::Retry { delay }, now);
            }
            Transport::WebSocket => {}
            Transport::Http => {
                self.good = false;
                self.after_failed_exchange(delay, now);
            }
        }
    }

    /// 0 in a later message means unchanged, not incapable (CAP-11, CAP-12).
    fn process_capabilities(&mut self, bits: u64) {
        let capabilities = ServerCapabilities::from_bits_retain(bits);
        if capabilities.is_empty() || self.server_capabilities == Some(capabilities) {
            return;
        }
        self.server_capabilities = Some(capabilities);
        let mut lacking = Parts::empty();
        lacking.set(
            Parts::EFFECTIVE_CONFIG,
            !capabilities.contains(ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG),
        );
        lacking.set(
            Parts::PACKAGE_STATUSES,
            !capabilities.contains(ServerCapabilities::ACCEPTS_PACKAGES_STATUS),
        );
        lacking.set(
            Parts::CERTIFICATE_REQUEST,
            !capabilities.contains(ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST),
        );
        self.report.withhold(lacking);
        self.events.push(Event::ServerCapabilities(capabilities));
    }

    fn process_command(&mut self, command: i32) {
        if command == v1::CommandType::Restart as i32 {
            self.events.push(Event::Restart);
        } else {
            self.misbehaved(PeerMisbehaved::UnknownCommand(command));
        }
    }

    fn process_identification(&mut self, new: &[u8]) {
        let Ok(new) = InstanceUid::try_from(new) else {
            return self.misbehaved(PeerMisbehaved::BadNewInstanceUid);
        };
        self.report.set_flags(0);
        let old = self.state.instance_uid;
        if new == old {
            return;
        }
        if self.previous_uids.len() == MAX_PREVIOUS_UIDS {
            self.previous_uids.remove(0);
        }
        self.previous_uids.push(old);
        self.state.instance_uid = new;
        self.report.set_instance_uid(new.to_bytes());
        self.certificate_names_another();
        self.events.push(Event::InstanceUidChanged { old, new });
        self.state_changed();
    }

    fn process_remote_config(&mut self, offer: v1::AgentRemoteConfig, now: Instant) {
        if !self.config.accepts_remote_config {
            return self.misbehaved(PeerMisbehaved::NotAnnounced("remote_config"));
        }
        // A hash without a config is no offer (A32).
        let Some(config) = offer.config else { return };
        // A server that breaks CFG-25 gives no hash: the content then tells offers apart, or each
        // of its replies would be new work and a new status.
        let identity = match offer.config_hash.is_empty() {
            true => config_hash(&config).to_bytes(),
            false => Bytes::copy_from_slice(&offer.config_hash),
        };
        if self.remote_config.identity.as_ref() == Some(&identity) {
            return;
        }
        if self.remote_config.pending.is_some() {
            self.fail_pending("superseded by a newer offer");
        }
        self.last_offer += 1;
        // The message's slices would keep all of it in memory.
        let config = detach(config);
        let offer = RemoteConfigOffer {
            id: OfferId(self.last_offer),
            config,
            hash: Bytes::copy_from_slice(&offer.config_hash),
        };
        self.remote_config.identity = Some(identity);
        self.remote_config.announced = false;
        self.remote_config.pending = Some(offer);
        self.timers.set(Timer::Offer, now.checked_add(self.config.offer_timeout));
        self.save_pending();
    }

    pub(super) fn misbehaved(&mut self, what: PeerMisbehaved) {
        self.events.push(Event::PeerMisbehaved(what));
    }
}

/// A copy that shares no memory with the message it came in.
fn detach(mut config: v1::AgentConfigMap) -> v1::AgentConfigMap {
    for file in config.config_map.values_mut() {
        file.body = Bytes::copy_from_slice(&file.body);
    }
    config
}
