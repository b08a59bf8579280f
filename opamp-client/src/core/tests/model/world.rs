//! The client core and the server, and a network between them that does what it is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::frame::{self, HeaderPolicy};
use opamp_proto::{Message, v1};

use super::super::pair::{origin, unreachable};
use super::super::values::{description, effective, health, seconds};
use super::op::{Dial, Op, Outcome, Push, capabilities, components, custom_message};
use super::server::Server;
use super::witness::Witness;
use crate::core::event::MAX_EVENTS;
use crate::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Failure, FailureKind,
    Loss, Received, RemoteConfigOffer, Response, Ticket, Transmit,
};

/// How often a client and a server can answer each other before they chatter.
const ROUNDS: usize = 50;

pub(super) struct World {
    config: ClientConfig,
    pub(super) core: ClientCore,
    pub(super) now: Instant,
    pub(super) server: Server,
    witness: Witness,
    socket: Option<Socket>,
    request: Option<(Ticket, v1::AgentToServer)>,
    dialling: Option<Epoch>,
    next_dial: Option<Dial>,
    blocked: bool,
    offers: Vec<RemoteConfigOffer>,
    custom_messages: u64,
    pub(super) events: Vec<Event>,
    /// The server refused something, which the client therefore keeps to itself.
    pub(super) refused: bool,
}

/// An open WebSocket. What is under way arrives in order, or not at all.
struct Socket {
    epoch: Epoch,
    to_server: VecDeque<v1::AgentToServer>,
    to_client: VecDeque<Frame>,
    /// The server has heard who is at the other end.
    heard: bool,
}

enum Frame {
    Message {
        bytes: Bytes,
        /// Which of the client's messages it answers, if any.
        answers: Option<u64>,
    },
    Other(Received),
}

impl World {
    pub(super) fn new(config: ClientConfig, server: Server) -> Self {
        let now = origin();
        let core = ClientCore::new(config.clone(), now).expect("the configuration is valid");
        let witness = Witness::new(&config, &core, now);
        let mut world = Self {
            config,
            core,
            now,
            server,
            witness,
            socket: None,
            request: None,
            dialling: None,
            next_dial: None,
            blocked: false,
            offers: Vec::new(),
            custom_messages: 0,
            events: Vec::new(),
            refused: false,
        };
        world.drive();
        world
    }

    pub(super) fn apply(&mut self, op: Op) {
        match op {
            Op::Describe(n) => self.core.set_description(description(&n.to_string())),
            Op::Health(n) => self.core.set_health(n.map(|n| health(&n.to_string()))),
            Op::Effective(n) => {
                self.core.set_effective_config(n.map(|n| effective(format!("running: {n}"))));
            }
            Op::Components(n) => self.core.set_available_components(n.map(components)),
            Op::Custom(has) => self.core.set_custom_capabilities(capabilities(has)),
            Op::Send => {
                self.custom_messages += 1;
                let message = custom_message(self.custom_messages);
                if self.core.send_custom_message(message.clone(), self.now).is_ok() {
                    self.witness.may_send(message);
                }
            }
            Op::AcceptConfig(accepts) => self.core.set_accepts_remote_config(accepts),
            Op::AcceptRestart(accepts) => self.core.set_accepts_restart(accepts),
            Op::TakeEvents => self.take_events(),
            Op::Resolve(which, outcome) => self.resolve(which, outcome),
            Op::Crash => self.crash(),
            Op::Wait(duration) => self.wait(duration),
            Op::ToServer => self.server_receives(),
            Op::ToClient => self.client_receives(),
            Op::Deliver => self.deliver(),
            Op::Break(after) => self.break_connection(after),
            Op::Close(code) => self.close(code),
            Op::Dial(dial) => self.next_dial = Some(dial),
            Op::Block(blocked) => self.blocked = blocked,
            Op::Status(status, retry_after) => self.status(status, retry_after),
            Op::Push(push) => self.push(push),
            Op::Junk(received) => {
                if let Some(socket) = &mut self.socket {
                    socket.to_client.push_back(Frame::Other(received));
                }
            }
            Op::Behave { silent, always_full } => {
                self.server.silent = silent;
                self.server.always_full = always_full;
            }
            Op::Forget => self.server.forget(),
        }
        self.drive();
    }

    /// Does what the core wants, like a driver.
    fn drive(&mut self) {
        self.witness.look(&self.core);
        while self.core.poll_custom_outcome().is_some() {}
        for _ in 0..ROUNDS {
            if let Some(action) = self.core.poll_connection(self.now) {
                self.connection_action(action);
            } else if !self.blocked
                && let Some(transmit) = self.core.poll_transmit(self.now)
            {
                self.transmit(transmit);
            } else {
                return;
            }
        }
        panic!("the core always has something to do");
    }

    fn connection_action(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::Connect { epoch, .. } => {
                assert!(self.socket.is_none(), "DUP-01");
                let (kind, retry_after) = match self.next_dial.take() {
                    None => return self.connected(epoch),
                    Some(Dial::Hang) => {
                        self.dialling = Some(epoch);
                        return;
                    }
                    Some(Dial::Refused) => (FailureKind::Unreachable, None),
                    Some(Dial::Throttled(after)) => (FailureKind::Throttled, after),
                };
                let failure = Failure { kind, message: String::new() };
                self.core.handle_connect_failed(epoch, failure, retry_after, self.now);
            }
            ConnectionAction::Close { epoch, code, .. } => {
                // A transport that takes nothing takes no Close frame either.
                if self.blocked {
                    return;
                }
                let Some(mut socket) = self.socket.take() else {
                    panic!("no connection to close");
                };
                assert_eq!(socket.epoch, epoch);
                while let Some(message) = socket.to_server.pop_front() {
                    let _answer = self.serve(&message);
                }
                self.witness.left();
                let loss = Loss::Closed { code: Some(code), reason: String::new() };
                self.core.handle_connection_lost(epoch, loss, self.now);
            }
            ConnectionAction::Abort { epoch } => {
                if let Some(socket) = self.socket.take() {
                    assert_eq!(socket.epoch, epoch);
                }
                // Whether it was left or lost: it may have been left.
                self.witness.left();
                self.dialling = None;
                self.request = None;
            }
        }
    }

    fn connected(&mut self, epoch: Epoch) {
        let (to_server, to_client) = <(VecDeque<_>, VecDeque<_>)>::default();
        self.socket = Some(Socket { epoch, to_server, to_client, heard: false });
        self.witness.connected();
        self.core.handle_connected(epoch, self.now);
    }

    fn transmit(&mut self, transmit: Transmit) {
        match transmit {
            Transmit::Message { epoch, message } => {
                let socket = self.socket.as_mut().expect("a message needs a connection");
                assert_eq!(socket.epoch, epoch);
                let message = v1::AgentToServer::decode(message.slice(1..)).expect("well formed");
                self.witness.sent(&message, &self.core, self.now);
                socket.to_server.push_back(message);
            }
            Transmit::Ping { epoch } => {
                let socket = self.socket.as_mut().expect("a ping needs a connection");
                assert_eq!(socket.epoch, epoch);
                socket.to_client.push_back(Frame::Other(Received::Control));
            }
            Transmit::Request { ticket, body, .. } => {
                assert!(self.request.is_none(), "HTTP-11");
                let message = v1::AgentToServer::decode(body).expect("well formed");
                self.witness.sent(&message, &self.core, self.now);
                self.request = Some((ticket, message));
            }
        }
    }

    fn serve(&mut self, message: &v1::AgentToServer) -> Option<v1::ServerToAgent> {
        let answer = self.server.receive(message);
        let error = answer.as_ref().and_then(|answer| answer.error_response.as_ref());
        self.refused |= error.is_some();
        answer
    }

    fn server_receives(&mut self) {
        if let Some(socket) = &mut self.socket
            && let Some(message) = socket.to_server.pop_front()
        {
            socket.heard = true;
            let answer = self.serve(&message);
            match (answer, &mut self.socket) {
                (Some(answer), Some(socket)) => socket.to_client.push_back(Frame::Message {
                    bytes: frame::encode(&answer),
                    answers: Some(message.sequence_num),
                }),
                _ => self.witness.disorder(),
            }
        }
        if let Some((ticket, message)) = self.request.take() {
            let Some(answer) = self.serve(&message) else {
                self.witness.lost();
                return self.core.handle_request_failed(ticket, unreachable(), self.now);
            };
            let response =
                Response { status: 200, retry_after: None, body: answer.encode_to_vec().into() };
            let foreign = answer.instance_uid != message.instance_uid;
            if foreign {
                self.witness.lost();
            }
            self.receive_with(&answer, !foreign, |core, now| {
                core.handle_response(ticket, response, now);
            });
            if message.agent_disconnect.is_some() {
                self.witness.left();
            }
        }
    }

    fn receive_with(
        &mut self,
        message: &v1::ServerToAgent,
        answers_all: bool,
        input: impl FnOnce(&mut ClientCore, Instant),
    ) {
        let before = self.core.server_capabilities();
        // An answer comes too late for a client that is leaving for want of one.
        let unanswered = self.witness.unanswered_since.filter(|_| self.is_leaving());
        input(&mut self.core, self.now);
        let after = self.core.server_capabilities();
        let transport = self.config.transport;
        self.witness.received(message, answers_all, transport, before, after);
        self.witness.unanswered_since = self.witness.unanswered_since.or(unanswered);
        self.witness.look(&self.core);
    }

    fn client_receives(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let Some(frame) = socket.to_client.pop_front() else { return };
        let epoch = socket.epoch;
        let (received, answers) = match frame {
            Frame::Message { bytes, answers } => (Received::Binary(bytes), answers),
            Frame::Other(received) => (received, None),
        };
        let message = match &received {
            Received::Binary(bytes) => frame::decode(bytes.clone(), HeaderPolicy::Required)
                .ok()
                .and_then(|frame| v1::ServerToAgent::decode(frame.body).ok()),
            _ => None,
        };
        let answers_all = answers == Some(self.core.sequence_num());
        if answers.is_none() {
            self.witness.disorder();
        }
        self.receive_with(&message.unwrap_or_default(), answers_all, |core, now| {
            core.handle_received(epoch, received, now);
        });
    }

    /// Delivers what is under way, and what that causes, until nothing is.
    fn deliver(&mut self) {
        let under_way = self
            .socket
            .as_ref()
            .map_or(0, |socket| 2 * socket.to_server.len() + socket.to_client.len());
        for _ in 0..under_way + ROUNDS {
            self.drive();
            let socket = self.socket.as_ref();
            if socket.is_some_and(|socket| !socket.to_server.is_empty()) || self.request.is_some() {
                self.server_receives();
            } else if socket.is_some_and(|socket| !socket.to_client.is_empty()) {
                self.client_receives();
            } else {
                return;
            }
        }
        panic!("the client and the server go on for ever");
    }

    fn break_connection(&mut self, after: usize) {
        if let Some(socket) = &mut self.socket {
            let arrived: Vec<_> = {
                let count = after.min(socket.to_server.len());
                socket.to_server.drain(..count).collect()
            };
            let epoch = socket.epoch;
            for message in arrived {
                let _answer = self.serve(&message);
            }
            self.socket = None;
            let leaving = self.is_leaving();
            let loss = Loss::Broken("reset".to_owned());
            self.core.handle_connection_lost(epoch, loss, self.now);
            self.witness_end(leaving);
        }
        if let Some((ticket, message)) = self.request.take() {
            if after > 0 {
                let _answer = self.serve(&message);
            }
            let leaving = self.is_leaving();
            self.core.handle_request_failed(ticket, unreachable(), self.now);
            self.witness_end(leaving);
        }
        if let Some(epoch) = self.dialling.take() {
            self.core.handle_connect_failed(epoch, unreachable(), None, self.now);
        }
    }

    fn is_leaving(&self) -> bool {
        matches!(self.core.link, crate::core::Link::Closing { .. })
    }

    fn witness_end(&mut self, leaving: bool) {
        if leaving {
            self.witness.left();
        } else {
            self.witness.lost();
        }
    }

    fn close(&mut self, code: u16) {
        let Some(socket) = self.socket.take() else { return };
        self.refused |= code == 1009;
        let leaving = self.is_leaving();
        let loss = Loss::Closed { code: Some(code), reason: String::new() };
        self.core.handle_connection_lost(socket.epoch, loss, self.now);
        self.witness_end(leaving);
    }

    fn status(&mut self, status: u16, retry_after: Option<Duration>) {
        let Some((ticket, _)) = self.request.take() else { return };
        self.refused |= matches!(status, 400 | 413);
        let leaving = self.is_leaving();
        let response = Response { status, retry_after, body: Bytes::new() };
        self.core.handle_response(ticket, response, self.now);
        self.witness_end(leaving && !self.is_leaving());
    }

    fn push(&mut self, push: Push) {
        // Before it has heard who it is a server acknowledges nothing, nor does it name its custom
        // capabilities, which belong to the first reply (A31).
        let unheard = self.socket.as_ref().is_some_and(|socket| !socket.heard);
        let acknowledges =
            matches!(push, Push::Nothing | Push::Flags(0) | Push::Mask(_) | Push::Announce(_));
        let first_reply = unheard && acknowledges;
        let answers_only = first_reply || matches!(push, Push::Error(..));
        match &mut self.socket {
            Some(socket) if !answers_only => {
                let uid = self.server.view().map(|view| view.instance_uid.clone());
                let message = self.server.say(&uid.unwrap_or_default(), &push);
                let bytes = frame::encode(&message);
                socket.to_client.push_back(Frame::Message { bytes, answers: None });
            }
            _ => self.server.extras.push_back(push),
        }
    }

    fn take_events(&mut self) {
        while self.core.has_events() {
            let Some(event) = self.core.poll_event() else {
                panic!("an event was announced");
            };
            if let Event::RemoteConfig(offer) = &event {
                self.offers.push(offer.clone());
            }
            self.events.push(event);
        }
        assert_eq!(self.core.poll_event(), None);
    }

    fn resolve(&mut self, which: proptest::sample::Index, outcome: Outcome) {
        if self.offers.is_empty() {
            return;
        }
        let offer = self.offers[which.index(self.offers.len())].clone();
        let pending = self.core.remote_config.pending.as_ref();
        let is_pending = pending.is_some_and(|pending| pending.id() == offer.id());
        let resolution = match outcome {
            Outcome::Applying => offer.applying(),
            Outcome::Applied => offer.applied(),
            Outcome::AppliedWith(n) => offer.applied_with(effective(format!("applied: {n}"))),
            Outcome::Failed => offer.failed("it does not parse"),
        };
        let before = self.core.status().remote_config_status.clone();
        let result = self.core.resolve(resolution);
        assert_eq!(result.is_ok(), is_pending);
        if !is_pending {
            assert_eq!(self.core.status().remote_config_status, before);
        }
        // What the agent runs is told whatever became of the offer.
        if let Outcome::AppliedWith(n) = outcome {
            let runs = effective(format!("applied: {n}"));
            assert_eq!(self.core.status().effective_config, Some(runs));
        }
    }

    fn crash(&mut self) {
        let saved = self.core.state().to_bytes();
        self.config.state = ClientState::from_bytes(&saved).expect("as it was saved");
        self.core = ClientCore::new(self.config.clone(), self.now).expect("valid as before");
        // Another process may have no custom capabilities, and then its full reports have none.
        self.server.forget_custom();
        self.witness = Witness::new(&self.config, &self.core, self.now);
        self.socket = None;
        self.request = None;
        self.dialling = None;
        self.offers.clear();
        self.events.clear();
    }

    pub(super) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drive();
            let next = self.core.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a timer that is due for ever");
        }
        self.now = end;
    }

    /// The network and the server are well from now on, and everybody has time.
    pub(super) fn recover(&mut self, duration: Duration) {
        self.blocked = false;
        self.next_dial = None;
        self.server.silent = false;
        self.server.always_full = false;
        self.server.extras.clear();
        let end = self.now + duration;
        self.break_connection(0);
        while self.now < end {
            self.deliver();
            let next = self.core.poll_timeout().unwrap_or(end).min(end);
            self.wait(next.saturating_duration_since(self.now).max(Duration::from_millis(1)));
        }
        self.deliver();
    }

    pub(super) fn stop(&mut self) {
        self.witness.look(&self.core);
        self.witness.stopping();
        self.core.stop(self.now);
        self.drive();
    }

    pub(super) fn messages(&self) -> u64 {
        self.witness.messages
    }

    /// Takes the events that are left, which are no more than may be. Returns how many there were.
    pub(super) fn last_events(&mut self) -> usize {
        let before = self.events.len();
        self.take_events();
        let count = self.events.len() - before;
        // The queue, how many were missed, and one offer.
        assert!(count <= MAX_EVENTS + 2);
        count
    }
}

/// How long it takes at most until everything is told: the longest pause that was imposed before,
/// and the deadline of an offer.
pub(super) const QUIET: Duration = seconds(900);
