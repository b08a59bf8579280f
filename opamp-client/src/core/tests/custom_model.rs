//! Custom messages whatever happens: the core and a server that keeps to the rules, over a network
//! that loses connections, against what the server really got.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use opamp_proto::{Message, frame, v1};
use proptest::collection::vec;
use proptest::prelude::*;

use super::custom::{capabilities, list, message};
use super::model::check;
use super::pair::{self, origin, unreachable};
use super::values::{acknowledgement, error, health, seconds, unavailable};
use crate::core::{
    ClientConfig, ClientCore, ConnectionAction, CustomMessageId, CustomOutcome, Epoch, Event, Loss,
    NotSent, Received, Response, Ticket, Transmit, Transport,
};

const NAMES: [&str; 2] = ["com.example.one", "com.example.two"];
const MAX_MESSAGES: usize = 5;

#[derive(Debug, Clone)]
enum Op {
    Send {
        name: usize,
    },
    Own(u8),
    /// The server announces these, by itself where the transport lets it, or else in the next
    /// reply.
    Announce(u8),
    Health(u8),
    /// A message reaches the server.
    Arrive(Reply),
    /// A message of the server reaches the client.
    Return,
    /// The server pushes a custom message.
    Push,
    Lose,
    Close(u16),
    Status(u16, bool),
    Wait(u64),
    TakeEvents,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reply {
    Acknowledge,
    Custom,
    Refuse,
    Unavailable,
}

fn ops() -> impl Strategy<Value = Op> + Clone {
    let reply = prop_oneof![
        6 => Just(Reply::Acknowledge),
        2 => Just(Reply::Custom),
        2 => Just(Reply::Refuse),
        1 => Just(Reply::Unavailable),
    ];
    let status = prop::sample::select(vec![400, 401, 404, 413, 429, 500, 503]);
    prop_oneof![
        8 => (0..2_usize).prop_map(|name| Op::Send { name }),
        2 => (0..4_u8).prop_map(Op::Own),
        3 => (0..4_u8).prop_map(Op::Announce),
        2 => any::<u8>().prop_map(Op::Health),
        10 => reply.prop_map(Op::Arrive),
        10 => Just(Op::Return),
        2 => Just(Op::Push),
        2 => Just(Op::Lose),
        1 => prop::sample::select(vec![1000, 1009, 1012]).prop_map(Op::Close),
        2 => (status, any::<bool>()).prop_map(|(status, wait)| Op::Status(status, wait)),
        4 => (0..40_u64).prop_map(Op::Wait),
        2 => Just(Op::TakeEvents),
    ]
}

/// What is known of one message.
#[derive(Debug, Default)]
struct Fate {
    /// It is on the wire, or was.
    sent: bool,
    /// The server read it and did not turn it away.
    arrived: bool,
    /// The server refused it, or the connection ended for its size.
    refused: bool,
    /// It was surely turned away: it may go on the wire once more.
    turned_away: bool,
    outcome: Option<CustomOutcome>,
}

struct World {
    core: ClientCore,
    now: Instant,
    transport: Transport,
    epoch: Option<Epoch>,
    ticket: Option<Ticket>,
    to_server: VecDeque<v1::AgentToServer>,
    to_client: VecDeque<v1::ServerToAgent>,
    fates: BTreeMap<CustomMessageId, (String, Fate)>,
    /// What the client told of itself; what the server told that arrived.
    own_told: Vec<String>,
    announced: Option<u8>,
    announcing: Option<u8>,
    /// The server's first reply on this connection, with what it announces (A31), is under way.
    has_replied: bool,
    received: usize,
    pushed: usize,
    next: u32,
}

fn names(bits: u8) -> Vec<&'static str> {
    (0..2).filter(|bit| bits & (1 << bit) != 0).map(|bit| NAMES[bit]).collect()
}

impl World {
    fn new(transport: Transport, seed: u64) -> Self {
        let config = ClientConfig {
            custom_capabilities: capabilities(&NAMES),
            max_custom_messages: MAX_MESSAGES,
            seed,
            ..pair::config(transport)
        };
        let now = origin();
        let mut world = Self {
            core: ClientCore::new(config, now).expect("valid"),
            now,
            transport,
            epoch: None,
            ticket: None,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            fates: BTreeMap::new(),
            own_told: Vec::new(),
            announced: None,
            announcing: Some(3),
            has_replied: false,
            received: 0,
            pushed: 0,
            next: 0,
        };
        world.drive();
        world
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Send { name } => self.send(name),
            Op::Own(bits) => self.core.set_custom_capabilities(capabilities(&names(bits))),
            Op::Announce(bits) => {
                self.announcing = Some(bits);
                if self.epoch.is_some() && self.has_replied {
                    let push = self.decorated(acknowledgement());
                    self.to_client.push_back(push);
                }
            }
            Op::Health(n) => self.core.set_health(Some(health(&n.to_string()))),
            Op::Arrive(reply) => self.arrive(reply),
            Op::Return => self.give_back(),
            Op::Push => {
                if self.epoch.is_some() {
                    self.pushed += 1;
                    let custom_message = Some(message(NAMES[0], "push"));
                    let push = v1::ServerToAgent { custom_message, ..acknowledgement() };
                    self.to_client.push_back(push);
                }
            }
            Op::Lose => self.lose(None),
            Op::Close(code) => self.lose(Some(code)),
            Op::Status(status, wait) => self.status(status, wait),
            Op::Wait(duration) => self.wait(seconds(duration)),
            Op::TakeEvents => {
                while let Some(event) = self.core.poll_event() {
                    self.received += usize::from(matches!(event, Event::CustomMessage(_)));
                    if let Event::CustomMessagesLost { count } = event {
                        self.received += usize::try_from(count).expect("few");
                    }
                }
            }
        }
        self.drive();
        self.check();
    }

    fn send(&mut self, name: usize) {
        self.next += 1;
        let data = self.next.to_string();
        let before = self.waiting();
        match self.core.send_custom_message(message(NAMES[name], &data), self.now) {
            Ok(id) => {
                assert!(before < MAX_MESSAGES);
                assert!(self.fates.insert(id, (data, Fate::default())).is_none());
            }
            Err(NotSent::Full) => assert_eq!(before, MAX_MESSAGES),
            Err(why) => assert!(matches!(why, NotSent::NotAnnounced | NotSent::NotSupported)),
        }
    }

    fn waiting(&self) -> usize {
        self.fates.values().filter(|(_, fate)| fate.outcome.is_none()).count()
    }

    /// The server says what it announces along with whatever it says next.
    fn decorated(&mut self, reply: v1::ServerToAgent) -> v1::ServerToAgent {
        let custom_capabilities = self.announcing.take().map(|bits| list(&names(bits)));
        v1::ServerToAgent { custom_capabilities, ..reply }
    }

    fn fate_of(&mut self, data: &[u8]) -> &mut Fate {
        let fate = self.fates.values_mut().find(|(own, _)| own.as_bytes() == data);
        &mut fate.expect("it was accepted").1
    }

    fn arrive(&mut self, reply: Reply) {
        let Some(arrived) = self.to_server.pop_front() else { return };
        if let Some(custom) = &arrived.custom_message {
            let fate = self.fate_of(&custom.data);
            match reply {
                Reply::Unavailable => fate.turned_away = true,
                Reply::Refuse => fate.refused = true,
                Reply::Acknowledge | Reply::Custom => fate.arrived = true,
            }
        }
        self.has_replied |= reply == Reply::Acknowledge;
        let reply = match reply {
            Reply::Acknowledge => self.decorated(acknowledgement()),
            Reply::Custom => {
                self.pushed += 1;
                let custom_message = Some(message(NAMES[0], "reply"));
                v1::ServerToAgent { custom_message, ..acknowledgement() }
            }
            Reply::Refuse => error(v1::ServerErrorResponseType::BadRequest, "no"),
            Reply::Unavailable => unavailable(Some(seconds(1))),
        };
        self.to_client.push_back(reply);
    }

    fn give_back(&mut self) {
        let Some(message) = self.to_client.pop_front() else { return };
        if let Some(announced) = &message.custom_capabilities {
            let bits =
                |name: &String| NAMES.iter().position(|own| own == name).map_or(0, |at| 1 << at);
            self.announced = Some(announced.capabilities.iter().map(bits).sum());
        }
        match (self.epoch, self.ticket.take()) {
            (Some(epoch), _) => {
                let received = Received::Binary(frame::encode(&message));
                self.core.handle_received(epoch, received, self.now);
            }
            (None, Some(ticket)) => {
                let body = message.encode_to_vec().into();
                let response = Response { status: 200, retry_after: None, body };
                self.core.handle_response(ticket, response, self.now);
            }
            (None, None) => panic!("nobody waits for a message"),
        }
    }

    fn cut(&mut self, announce: bool) {
        self.to_server.clear();
        self.to_client.clear();
        self.has_replied = false;
        if announce && self.transport == Transport::WebSocket {
            // In its first reply on each connection (A31).
            self.announcing = self.announcing.or(self.announced).or(Some(0));
        }
    }

    fn lose(&mut self, code: Option<u16>) {
        if let Some(epoch) = self.epoch.take() {
            if code == Some(1009) {
                for (_, fate) in self.fates.values_mut() {
                    fate.refused |= fate.sent && fate.outcome.is_none();
                }
            }
            let loss = match code {
                Some(_) => Loss::Closed { code, reason: String::new() },
                None => Loss::Broken("reset".to_owned()),
            };
            self.core.handle_connection_lost(epoch, loss, self.now);
            self.cut(true);
        }
        if let Some(ticket) = self.ticket.take() {
            self.core.handle_request_failed(ticket, unreachable(), self.now);
            self.cut(true);
        }
    }

    fn status(&mut self, status: u16, wait: bool) {
        if self.to_server.is_empty() {
            // The server has answered already; that answer can be lost, not become another.
            return self.lose(None);
        }
        let Some(ticket) = self.ticket.take() else { return };
        for request in std::mem::take(&mut self.to_server) {
            if let Some(custom) = &request.custom_message {
                let fate = self.fate_of(&custom.data);
                fate.refused |= matches!(status, 400 | 413);
                fate.turned_away |= matches!(status, 401 | 404) || wait && status != 500;
            }
        }
        let retry_after = wait.then(|| seconds(1));
        let response = Response { status, retry_after, body: bytes::Bytes::new() };
        self.core.handle_response(ticket, response, self.now);
        self.cut(true);
    }

    fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.core.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.core.handle_timeout(self.now);
            self.drive();
        }
        self.now = end;
    }

    fn drive(&mut self) {
        loop {
            if let Some(action) = self.core.poll_connection(self.now) {
                match action {
                    ConnectionAction::Connect { epoch, .. } => {
                        self.epoch = Some(epoch);
                        self.core.handle_connected(epoch, self.now);
                    }
                    ConnectionAction::Close { .. } => self.lose(Some(1000)),
                    ConnectionAction::Abort { .. } => {
                        self.epoch = None;
                        self.ticket = None;
                        self.cut(true);
                    }
                }
            } else if let Some(transmit) = self.core.poll_transmit(self.now) {
                self.transmit(transmit);
            } else {
                return;
            }
        }
    }

    fn transmit(&mut self, transmit: Transmit) {
        let body = match transmit {
            Transmit::Message { message, .. } => message.slice(1..),
            Transmit::Request { ticket, body, .. } => {
                assert!(self.ticket.replace(ticket).is_none());
                body
            }
            Transmit::Ping { .. } => return,
        };
        let message = v1::AgentToServer::decode(body).expect("well formed");
        if let Some(own) = &message.custom_capabilities {
            self.own_told.clone_from(&own.capabilities);
        }
        if let Some(custom) = &message.custom_message {
            assert!(self.own_told.contains(&custom.capability), "CUST-09");
            let bit = NAMES.iter().position(|name| *name == custom.capability).expect("known");
            let announced = self.announced.expect("CUST-04");
            assert!(announced & (1 << bit) != 0, "CUST-03");
            let fate = self.fate_of(&custom.data);
            assert_eq!(fate.outcome, None, "nothing is sent that has an outcome");
            assert!(!fate.sent || fate.turned_away, "nothing is sent twice");
            fate.sent = true;
            fate.turned_away = false;
            let order = |data: &[u8]| std::str::from_utf8(data).ok()?.parse::<u32>().ok();
            let later = self.fates.values().filter(|(data, fate)| {
                fate.sent && fate.outcome.is_none() && order(data.as_bytes()) > order(&custom.data)
            });
            assert_eq!(later.count(), 0, "first in, first out");
        }
        self.to_server.push_back(message);
    }

    /// Outcomes are taken as they come, and have to be true.
    fn check(&mut self) {
        while let Some((id, outcome)) = self.core.poll_custom_outcome() {
            let (data, fate) = self.fates.get_mut(&id).expect("it was accepted");
            assert_eq!(fate.outcome, None, "one outcome");
            match &outcome {
                CustomOutcome::Delivered => assert!(fate.arrived, "{data} is not there"),
                CustomOutcome::Refused(_) => assert!(fate.refused, "{data} was not refused"),
                CustomOutcome::Unconfirmed => assert!(fate.sent),
                CustomOutcome::Dropped(_) => assert!(!fate.arrived, "{data} is there"),
            }
            fate.outcome = Some(outcome);
        }
        assert!(self.waiting() <= MAX_MESSAGES);
        assert!(self.received <= self.pushed);
    }
}

#[test]
fn every_custom_message_has_one_true_outcome() {
    let _judged =
        opamp_spec::judges(&["CUST-03", "CUST-04", "CUST-09", "CUST-13", "THR-02", "THR-13"]);
    let strategy = (any::<bool>(), any::<u64>(), any::<bool>(), vec(ops(), 0..150));
    check(strategy, |(websocket, seed, stops, ops)| {
        let transport = if websocket { Transport::WebSocket } else { Transport::Http };
        let mut world = World::new(transport, seed);
        for op in ops {
            world.apply(op);
        }
        if stops {
            let now = world.now;
            world.core.stop(now);
        }
        // No answer comes any more: time has to do.
        world.wait(seconds(120));
        world.check();
        assert_eq!(world.waiting(), 0, "a message without an outcome");
    });
}

#[test]
fn with_a_server_that_answers_everything_is_delivered_in_order() {
    let _judged = opamp_spec::judges(&["CUST-12", "CUST-13"]);
    let strategy = (any::<bool>(), any::<u64>(), vec(0..4_usize, 0..60));
    check(strategy, |(websocket, seed, steps)| {
        let transport = if websocket { Transport::WebSocket } else { Transport::Http };
        let mut world = World::new(transport, seed);
        let mut accepted = 0;
        for step in steps {
            match step {
                0 | 1 => {
                    let before = world.fates.len();
                    world.apply(Op::Send { name: step });
                    accepted += world.fates.len() - before;
                }
                2 => world.apply(Op::Arrive(Reply::Acknowledge)),
                _ => world.apply(Op::Return),
            }
        }
        for _ in 0..accepted + 2 {
            world.apply(Op::Arrive(Reply::Acknowledge));
            world.apply(Op::Return);
        }
        assert_eq!(world.fates.len(), accepted);
        for (_, fate) in world.fates.values() {
            assert_eq!(fate.outcome, Some(CustomOutcome::Delivered));
        }
    });
}
