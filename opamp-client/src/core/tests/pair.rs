//! A client core and its peer, scripted by hand, in virtual time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, InstanceUid, Message, frame, v1};

use super::values::{self, acknowledgement, description, effective, health, seconds, uid};
use crate::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Failure, FailureKind,
    Loss, Parts, Received, RemoteConfigOffer, Response, Ticket, Transmit, Transport,
};

pub(super) use Transport::{Http, WebSocket};

/// Either transport, for what holds over both.
pub(super) const TRANSPORTS: [Transport; 2] = [WebSocket, Http];

/// An instant to start from. Nothing here depends on which.
#[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
pub(super) fn origin() -> Instant {
    Instant::now()
}

/// A client core, the connection or request it has, and the time.
///
/// Every message that goes out is checked for what has to be true of all messages.
pub(super) struct Pair {
    pub(super) core: ClientCore,
    pub(super) now: Instant,
    max_send: usize,
    epoch: Option<Epoch>,
    ticket: Option<Ticket>,
    last_number: u64,
    pub(super) said_goodbye: bool,
    /// What the last request was to be made with.
    pub(super) requested_with: Option<Arc<v1::OpAmpConnectionSettings>>,
}

/// What an agent of the scenarios is, unless they say otherwise: all parts, no pings.
pub(super) fn config(transport: Transport) -> ClientConfig {
    ClientConfig {
        transport,
        health: Some(health("starting")),
        effective_config: Some(effective("receivers: {}")),
        accepts_remote_config: true,
        ping_interval: None,
        ..ClientConfig::new(ClientState::new(uid()), description("1.0"))
    }
}

impl Pair {
    /// An agent that has not connected.
    pub(super) fn new(transport: Transport, adapt: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut config = config(transport);
        adapt(&mut config);
        let now = origin();
        Self {
            max_send: config.limits.max_send(),
            core: ClientCore::new(config, now).expect("the configuration is valid"),
            now,
            epoch: None,
            ticket: None,
            last_number: 0,
            said_goodbye: false,
            requested_with: None,
        }
    }

    /// An agent whose first report is answered, and that has nothing to tell.
    pub(super) fn settled(transport: Transport) -> Self {
        Self::settled_with(transport, |_| {})
    }

    pub(super) fn settled_with(
        transport: Transport,
        adapt: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let mut pair = Self::new(transport, adapt);
        pair.connect();
        pair.expect();
        pair.acknowledge();
        pair.expect_silence();
        pair.events();
        pair
    }

    /// Opens the WebSocket the core asks for. Over HTTP there is nothing to do.
    pub(super) fn connect(&mut self) {
        if self.core.transport() == WebSocket {
            let epoch = self.expect_connect();
            self.core.handle_connected(epoch, self.now);
        }
    }

    /// The core wants to connect; the attempt is under way now.
    pub(super) fn expect_connect(&mut self) -> Epoch {
        self.expect_connect_with().0
    }

    /// As [`expect_connect`](Self::expect_connect), and with which settings.
    pub(super) fn expect_connect_with(
        &mut self,
    ) -> (Epoch, Option<Arc<v1::OpAmpConnectionSettings>>) {
        let action = self.core.poll_connection(self.now);
        let Some(ConnectionAction::Connect { epoch, settings, .. }) = action else {
            panic!("the core is to connect, not {action:?}");
        };
        assert!(self.epoch < Some(epoch), "epochs are not used twice");
        self.epoch = Some(epoch);
        self.said_goodbye = false;
        assert_eq!(self.core.poll_connection(self.now), None);
        (epoch, settings)
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch.expect("a connection was made")
    }

    /// The next message, if the core has one to send.
    pub(super) fn poll(&mut self) -> Option<v1::AgentToServer> {
        let transmit = self.core.poll_transmit(self.now)?;
        Some(self.open(transmit))
    }

    /// A message has to go out now.
    pub(super) fn expect(&mut self) -> v1::AgentToServer {
        self.poll().expect("a message is due")
    }

    /// A message with exactly these parts has to go out now.
    pub(super) fn expect_parts(&mut self, parts: Parts) -> v1::AgentToServer {
        let message = self.expect();
        assert_eq!(values::parts(&message), parts);
        assert_eq!(message.agent_disconnect, None);
        message
    }

    /// A heartbeat or poll has to go out now: the three fields of every message and no others
    /// (A02).
    pub(super) fn expect_heartbeat(&mut self) -> v1::AgentToServer {
        let message = self.expect();
        let bare = v1::AgentToServer {
            instance_uid: message.instance_uid.clone(),
            sequence_num: message.sequence_num,
            capabilities: message.capabilities,
            ..Default::default()
        };
        assert_eq!(message, bare);
        message
    }

    /// The goodbye has to go out now: a heartbeat with `agent_disconnect`.
    pub(super) fn expect_goodbye(&mut self) -> v1::AgentToServer {
        let message = self.expect();
        assert!(message.agent_disconnect.is_some());
        assert_eq!(values::parts(&message), Parts::empty());
        message
    }

    /// Nothing may go out now.
    pub(super) fn expect_silence(&mut self) {
        let transmit = self.core.poll_transmit(self.now);
        assert_eq!(transmit, None, "nothing is to be sent");
    }

    pub(super) fn expect_ping(&mut self) {
        let transmit = self.core.poll_transmit(self.now);
        let epoch = self.epoch();
        assert_eq!(transmit, Some(Transmit::Ping { epoch }));
    }

    /// What goes out, checked for what holds for every message.
    pub(super) fn open(&mut self, transmit: Transmit) -> v1::AgentToServer {
        let (body, claimed_uid) = match transmit {
            Transmit::Message { epoch, message } => {
                assert_eq!(self.core.transport(), WebSocket);
                assert_eq!(Some(epoch), self.epoch);
                assert!(message.len() <= self.max_send, "SIZE-16");
                assert_eq!(message[0], 0, "WS-06");
                (message.slice(1..), None)
            }
            Transmit::Request { ticket, instance_uid, body, settings } => {
                self.requested_with = settings;
                assert_eq!(self.core.transport(), Http);
                assert!(body.len() <= self.max_send, "SIZE-34");
                assert_eq!(self.ticket, None, "HTTP-11");
                self.ticket = Some(ticket);
                (body, Some(instance_uid))
            }
            Transmit::Ping { .. } => panic!("a message is due, not a ping"),
        };
        let message = v1::AgentToServer::decode(body).expect("what is sent can be read");
        self.check(&message, claimed_uid);
        message
    }

    /// What holds for every message.
    fn check(&mut self, message: &v1::AgentToServer, claimed_uid: Option<InstanceUid>) {
        let uid = InstanceUid::try_from(&*message.instance_uid).expect("ID-05");
        assert_eq!(uid, self.core.instance_uid());
        assert!(
            claimed_uid.is_none_or(|claimed| claimed == uid),
            "HTTP-23: the header tells the uid of the body"
        );
        assert_eq!(message.sequence_num, self.last_number + 1, "SEQ-01");
        self.last_number = message.sequence_num;
        assert_eq!(self.core.sequence_num(), self.last_number);
        let capabilities = AgentCapabilities::from_bits(message.capabilities);
        let capabilities = capabilities.expect("CAP-01: defined bits only");
        assert!(capabilities.contains(AgentCapabilities::REPORTS_STATUS), "CAP-06");
        assert_eq!(capabilities, self.core.capabilities(), "CAP-02");
        assert!(!self.said_goodbye, "CLOSE-01: nothing follows a goodbye");
        self.said_goodbye = message.agent_disconnect.is_some();
    }

    /// A message arrives; over HTTP as the response to the request that is outstanding.
    pub(super) fn receive(&mut self, message: v1::ServerToAgent) {
        match self.core.transport() {
            WebSocket => self.receive_bytes(frame::encode(&message)),
            Http => self.respond(200, None, message.encode_to_vec()),
        }
    }

    /// A binary WebSocket message arrives.
    pub(super) fn receive_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.receive_frame(Received::Binary(bytes.into()));
    }

    pub(super) fn receive_frame(&mut self, received: Received) {
        self.core.handle_received(self.epoch(), received, self.now);
    }

    pub(super) fn respond(
        &mut self,
        status: u16,
        retry_after: Option<Duration>,
        body: impl Into<Bytes>,
    ) {
        let response = Response { status, retry_after, body: body.into() };
        let ticket = self.take_ticket();
        self.core.handle_response(ticket, response, self.now);
    }

    pub(super) fn take_ticket(&mut self) -> Ticket {
        self.ticket.take().expect("a request is outstanding")
    }

    /// The last message is answered, with nothing but that.
    pub(super) fn acknowledge(&mut self) {
        let uid = self.core.instance_uid();
        self.receive(v1::ServerToAgent { instance_uid: uid.to_bytes(), ..acknowledgement() });
    }

    /// The network fails: the WebSocket breaks, or the request gets no response.
    pub(super) fn lose(&mut self) {
        match self.core.transport() {
            WebSocket => self.lose_with(Loss::Broken("reset by peer".to_owned())),
            Http => {
                let ticket = self.take_ticket();
                self.core.handle_request_failed(ticket, unreachable(), self.now);
            }
        }
    }

    /// The request cannot be made.
    pub(super) fn fail_to_send(&mut self) {
        let ticket = self.take_ticket();
        self.core.handle_request_unsent(ticket, unreachable(), self.now);
        self.last_number -= 1;
    }

    pub(super) fn lose_with(&mut self, loss: Loss) {
        self.core.handle_connection_lost(self.epoch(), loss, self.now);
    }

    /// A Close frame of the server ends the WebSocket.
    pub(super) fn closed_by_server(&mut self, code: u16) {
        self.lose_with(Loss::Closed { code: Some(code), reason: String::new() });
    }

    /// The WebSocket breaks and the next one is open: at once, or when the core retries.
    pub(super) fn reconnect(&mut self) {
        self.lose_with(Loss::Broken("reset by peer".to_owned()));
        self.wait_for_retry();
        self.connect();
    }

    /// Lets the core wait as long as it wants to before it tries again. Returns how long that was.
    pub(super) fn wait_for_retry(&mut self) -> Duration {
        let start = self.now;
        while self.core.link == (crate::core::Link::Idle { paused: true }) {
            let next = self.core.poll_timeout().expect("a pause ends");
            self.advance(next - self.now);
        }
        self.now - start
    }

    /// Lets time pass. Timers fire when they are due, and nothing is polled meanwhile.
    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            assert!(
                self.core.poll_timeout().is_none_or(|next| next > self.now),
                "a timer that fired is not due again at once"
            );
        }
        self.now = end;
        self.core.handle_timeout(self.now);
    }

    /// Every event that waits.
    pub(super) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.core.has_events() {
            events.push(self.core.poll_event().expect("an event was announced"));
        }
        assert_eq!(self.core.poll_event(), None);
        events
    }

    /// The one offer among the events that wait; the others are dropped.
    pub(super) fn take_offer(&mut self) -> RemoteConfigOffer {
        let events = self.events();
        let mut offers = events.into_iter().filter_map(|event| match event {
            Event::RemoteConfig(offer) => Some(offer),
            _ => None,
        });
        let offer = offers.next().expect("an offer came");
        assert_eq!(offers.next(), None, "one offer");
        offer
    }

    /// One offer waits, whatever it says.
    pub(super) fn expect_offer(&mut self) {
        let _offer = self.take_offer();
    }

    /// No offer may wait.
    pub(super) fn expect_no_offer(&mut self) {
        let events = self.events();
        let offer = events.iter().find(|event| matches!(event, Event::RemoteConfig(_)));
        assert_eq!(offer, None);
    }

    /// How long until the core wants to be woken.
    pub(super) fn until_timeout(&self) -> Option<Duration> {
        let due = self.core.poll_timeout()?;
        Some(due.saturating_duration_since(self.now))
    }
}

/// A connection that could not be made.
pub(super) fn unreachable() -> Failure {
    Failure { kind: FailureKind::Unreachable, message: "connection refused".to_owned() }
}

/// Longer than any timer of the default configuration but that of an offer.
pub(super) const LONG: Duration = seconds(120);
