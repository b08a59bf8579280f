//! Real client cores and a real fleet, joined by a virtual network in virtual time.
//!
//! Each agent has one client core and a small model of what an agent does with offers. A WebSocket
//! is a pair of ordered byte-message queues with a delay; when it is cut, each end learns of it in
//! its own time, and what was under way may still arrive, so that a message of an old connection can
//! come after one of its successor. An HTTP exchange can fail before or after the server saw it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use opamp_client::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Failure, FailureKind,
    Loss, PeerMisbehaved, Received, Resolution, Response, Ticket, Transmit, Transport,
};
use opamp_proto::{InstanceUid, Message as _, WireUid, frame, v1};
use opamp_server::fleet::{Fleet, Now, Route, RouteWaker};
use opamp_server::{RemoteConfig, ServerConfig};

use crate::random::Random;
use crate::tap::Tap;

/// How bad the network is.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Longest delay of a message, in milliseconds.
    pub max_delay: u64,
    /// Connections that cannot be made, and exchanges that fail, in percent.
    pub failures: u64,
}

impl Weather {
    /// Quick and safe.
    pub const CALM: Self = Self { max_delay: 20, failures: 0 };
    /// Slow and unsafe.
    pub const STORM: Self = Self { max_delay: 900, failures: 25 };
}

/// One agent: its core, and what it does with what it is told.
pub struct SimulatedAgent {
    /// The core of the present process.
    pub core: ClientCore,
    /// Grows with each restart of the agent.
    pub process: usize,
    /// How often it was told to restart.
    pub restarts: u64,
    /// The offers it was handed, in order.
    pub offers: Vec<Bytes>,
    /// Answers it has still to give, with the time at which it gives them.
    answers: Vec<(Instant, Resolution)>,
    connection: Option<u64>,
    uid: InstanceUid,
}

struct Connection {
    agent: usize,
    process: usize,
    epoch: Epoch,
    route: Option<Route<()>>,
    /// Which life of the server it leads to.
    server: u64,
    /// Whether bytes still get from one end to the other.
    up: bool,
    /// Earliest arrival of the next message, so that order is kept.
    to_server: Instant,
    to_agent: Instant,
}

#[derive(Debug)]
enum Arrival {
    Handshake { connection: u64 },
    Refused { agent: usize, process: usize, epoch: Epoch },
    AtServer { connection: u64, message: Bytes },
    AtAgent { connection: u64, message: Bytes },
    LostAtServer { connection: u64 },
    LostAtAgent { connection: u64, loss: Loss },
    Request { agent: usize, process: usize, ticket: Ticket, body: Bytes, lose_response: bool },
    Response { agent: usize, process: usize, ticket: Ticket, body: Option<Bytes> },
}

struct Scheduled {
    due: Instant,
    order: u64,
    arrival: Arrival,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

#[derive(Default)]
struct Wakes(Mutex<Vec<WireUid>>);

impl RouteWaker for Wakes {
    fn wake(&self, uid: &WireUid) {
        self.0.lock().expect("nothing panics under this lock").push(*uid);
    }
}

/// The virtual network with everything on it.
pub struct World {
    /// The present moment.
    pub now: Instant,
    /// The server's registry, in its present life.
    pub fleet: Fleet<()>,
    /// The agents.
    pub agents: Vec<SimulatedAgent>,
    /// What watches the wire.
    pub tap: Tap,
    /// The state of the network.
    pub weather: Weather,
    /// Whether the server answers at all.
    pub server_up: bool,
    origin: Instant,
    server: u64,
    server_config: ServerConfig,
    default_config: Option<RemoteConfig>,
    arrivals: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    next_process: usize,
    next_uid: u64,
    wakes: Arc<Wakes>,
    random: Random,
}

/// A configuration of one file that holds this number; one that is odd is refused by the agents.
#[must_use]
pub fn config_file(number: u8) -> v1::AgentConfigMap {
    let body = format!("number: {number}\n").into();
    let file = v1::AgentConfigFile { body, content_type: "text/yaml".into() };
    v1::AgentConfigMap { config_map: [(String::new(), file)].into() }
}

fn is_refused(config: &v1::AgentConfigMap) -> bool {
    let body = config.config_map.values().next().map(|file| file.body.clone()).unwrap_or_default();
    // The last digit before the line end.
    body.iter().rev().nth(1).is_some_and(|digit| (digit - b'0') % 2 == 1)
}

impl World {
    /// A world without agents.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    pub fn new(seed: u64, server_config: ServerConfig) -> Self {
        let now = Instant::now();
        Self {
            now,
            fleet: Fleet::new(server_config.clone()),
            agents: Vec::new(),
            tap: Tap::default(),
            weather: Weather::CALM,
            server_up: true,
            origin: now,
            server: 0,
            server_config,
            default_config: None,
            arrivals: BinaryHeap::new(),
            order: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            next_process: 0,
            next_uid: 1,
            wakes: Arc::default(),
            random: Random::new(seed),
        }
    }

    /// Starts an agent and returns its place in [`agents`](Self::agents).
    pub fn start(&mut self, transport: Transport, adjust: impl FnOnce(&mut ClientConfig)) -> usize {
        let mut config = ClientConfig::new(
            ClientState::new(self.fresh_uid()),
            v1::AgentDescription {
                identifying_attributes: vec![v1::KeyValue::new("service.name", "simulated")],
                ..Default::default()
            },
        );
        config.transport = transport;
        config.health = Some(v1::ComponentHealth { healthy: true, ..Default::default() });
        config.effective_config = Some(v1::EffectiveConfig { config_map: Some(config_file(0)) });
        config.accepts_remote_config = true;
        config.accepts_restart = true;
        config.seed = self.random.below(u64::MAX);
        adjust(&mut config);
        let agent = self.new_process(config);
        self.agents.push(agent);
        let place = self.agents.len() - 1;
        self.settle_agent(place);
        place
    }

    fn new_process(&mut self, config: ClientConfig) -> SimulatedAgent {
        self.next_process += 1;
        let core = ClientCore::new(config, self.now).expect("the configuration works");
        let uid = core.instance_uid();
        SimulatedAgent {
            core,
            process: self.next_process,
            restarts: 0,
            offers: Vec::new(),
            answers: Vec::new(),
            connection: None,
            uid,
        }
    }

    /// The process of an agent dies without a goodbye and another takes its place, with what was
    /// saved and with the status it had.
    pub fn crash_and_restart(&mut self, agent: usize, transport: Transport) {
        let old = &self.agents[agent];
        let status = old.core.status().clone();
        let mut config = ClientConfig::new(
            old.core.state().clone(),
            status.agent_description.unwrap_or_default(),
        );
        config.transport = transport;
        config.health = status.health;
        config.effective_config = status.effective_config;
        config.accepts_remote_config = status.remote_config_status.is_some();
        config.accepts_restart = true;
        config.seed = self.random.below(u64::MAX);
        if let Some(connection) = self.agents[agent].connection {
            self.cut(connection);
        }
        let fresh = self.new_process(config);
        let old = std::mem::replace(&mut self.agents[agent], fresh);
        self.agents[agent].restarts = old.restarts;
        self.agents[agent].offers = old.offers;
        self.settle_agent(agent);
    }

    fn fresh_uid(&mut self) -> InstanceUid {
        self.next_uid += 1;
        let elapsed = self.now.duration_since(self.origin).as_millis() as u64;
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next_uid.to_le_bytes());
        InstanceUid::from_parts(1_700_000_000_000 + elapsed, random)
    }

    fn fleet_now(&self) -> Now {
        let elapsed = self.now.duration_since(self.origin);
        Now { instant: self.now, system: SystemTime::UNIX_EPOCH + elapsed }
    }

    fn schedule(&mut self, due: Instant, arrival: Arrival) {
        self.order += 1;
        self.arrivals.push(Reverse(Scheduled { due, order: self.order, arrival }));
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(1 + self.random.below(self.weather.max_delay))
    }

    /// The connection of an agent breaks, if it has one.
    pub fn cut_agent(&mut self, agent: usize) {
        if let Some(connection) = self.agents[agent].connection {
            self.cut(connection);
        }
    }

    fn cut(&mut self, id: u64) {
        let (at_agent, at_server) = (self.delay(), self.delay() * 3);
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.up)
        else {
            return;
        };
        connection.up = false;
        self.schedule(
            now + at_agent,
            Arrival::LostAtAgent { connection: id, loss: Loss::Broken("cut".into()) },
        );
        self.schedule(now + at_server, Arrival::LostAtServer { connection: id });
    }

    /// The server dies and comes back knowing nothing but the default configuration.
    pub fn restart_server(&mut self) {
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.cut(id);
        }
        self.server += 1;
        self.fleet = Fleet::new(self.server_config.clone());
        if let Some(config) = self.default_config.clone() {
            self.fleet.set_default_remote_config(config).expect("it is small");
        }
    }

    /// Offers a configuration to every agent.
    pub fn offer_to_all(&mut self, number: u8) {
        let config = RemoteConfig::new(config_file(number));
        self.default_config = Some(config.clone());
        self.fleet.set_default_remote_config(config).expect("it is small");
        self.settle_server();
    }

    /// The operator does something to one agent, known to the server or not.
    pub fn operate(&mut self, agent: usize, operation: impl FnOnce(&Fleet<()>, &WireUid, Instant)) {
        let uid = WireUid::from(self.agents[agent].core.instance_uid());
        operation(&self.fleet, &uid, self.now);
        self.settle_server();
    }

    /// Gives one agent another instance uid.
    pub fn rename(&mut self, agent: usize) {
        let new = self.fresh_uid();
        self.operate(agent, |fleet, uid, now| {
            // An agent the server does not know cannot be renamed.
            let _ = fleet.rename(uid, new, now);
        });
    }

    /// Lets time pass, doing everything that becomes due.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut same_moment = 0_u32;
        while let Some(next) = self.next_due().filter(|next| *next <= end) {
            same_moment = if next <= self.now { same_moment + 1 } else { 0 };
            assert!(same_moment < 10_000, "time does not move: a hot loop");
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
        self.step();
    }

    fn next_due(&self) -> Option<Instant> {
        let arrival = self.arrivals.peek().map(|Reverse(scheduled)| scheduled.due);
        let timeouts = self.agents.iter().filter_map(|agent| agent.core.poll_timeout());
        let answers =
            self.agents.iter().flat_map(|agent| agent.answers.iter().map(|(due, _)| *due));
        arrival.into_iter().chain(timeouts).chain(answers).min()
    }

    fn step(&mut self) {
        while let Some(Reverse(next)) = self.arrivals.peek() {
            if next.due > self.now {
                break;
            }
            let Some(Reverse(next)) = self.arrivals.pop() else { break };
            self.arrive(next.arrival);
        }
        let now = self.fleet_now();
        // Nothing handles changes here, so nobody has to be queued.
        let _ = self.fleet.sweep(now);
        for agent in 0..self.agents.len() {
            self.agents[agent].core.handle_timeout(self.now);
            self.answer_offers(agent);
            self.settle_agent(agent);
        }
    }

    fn answer_offers(&mut self, agent: usize) {
        let now = self.now;
        let agent = &mut self.agents[agent];
        let (due, later) = agent.answers.drain(..).partition(|(due, _)| *due <= now);
        agent.answers = later;
        let due: Vec<(Instant, Resolution)> = due;
        for (_, resolution) in due {
            // A newer offer may have taken its place.
            let _ = agent.core.resolve(resolution);
        }
    }

    /// Does what an agent's core says until it says nothing more.
    fn settle_agent(&mut self, agent: usize) {
        loop {
            let mut busy = false;
            while let Some(action) = self.agents[agent].core.poll_connection(self.now) {
                busy = true;
                self.connection_action(agent, action);
            }
            while let Some(transmit) = self.agents[agent].core.poll_transmit(self.now) {
                busy = true;
                self.transmit(agent, transmit);
            }
            while let Some(event) = self.agents[agent].core.poll_event() {
                busy = true;
                self.event(agent, event);
            }
            if !busy {
                break;
            }
        }
    }

    fn event(&mut self, agent: usize, event: Event) {
        match event {
            Event::RemoteConfig(offer) => {
                let (first, second) = (self.delay(), self.delay());
                let now = self.now;
                let agent = &mut self.agents[agent];
                agent.offers.push(offer.hash().clone());
                agent.answers.push((now + first, offer.applying()));
                let answer = if is_refused(offer.config()) {
                    offer.failed("odd")
                } else {
                    let config_map = Some(offer.config().clone());
                    offer.applied_with(v1::EffectiveConfig { config_map })
                };
                agent.answers.push((now + first + second, answer));
            }
            Event::Restart => self.agents[agent].restarts += 1,
            Event::InstanceUidChanged { old, new } => {
                assert_eq!(self.agents[agent].uid, old);
                self.agents[agent].uid = new;
            }
            // An offer that was under way when the agent withdrew the capability.
            Event::PeerMisbehaved(PeerMisbehaved::NotAnnounced("remote_config")) => {}
            Event::PeerMisbehaved(what) => panic!("our own server misbehaves: {what:?}"),
            Event::Refused { parts, reason } => panic!("refused {parts:?}: {reason}"),
            Event::Missed { .. } => panic!("the events are taken, none can be missed"),
            _ => {}
        }
    }

    fn connection_action(&mut self, agent: usize, action: ConnectionAction) {
        match action {
            ConnectionAction::Connect { epoch } => {
                assert!(self.agents[agent].connection.is_none(), "DUP-01: one connection at most");
                let process = self.agents[agent].process;
                let due = self.now + self.delay();
                if !self.server_up || self.random.chance(self.weather.failures) {
                    return self.schedule(due, Arrival::Refused { agent, process, epoch });
                }
                let id = self.next_connection;
                self.next_connection += 1;
                let connection = Connection {
                    agent,
                    process,
                    epoch,
                    route: None,
                    server: self.server,
                    up: true,
                    to_server: self.now,
                    to_agent: self.now,
                };
                self.connections.insert(id, connection);
                self.agents[agent].connection = Some(id);
                self.schedule(due, Arrival::Handshake { connection: id });
            }
            ConnectionAction::Close { code, reason, .. } => {
                let Some(id) = self.agents[agent].connection else { return };
                let (at_agent, at_server) = (self.delay(), self.delay());
                let Some(connection) = self.connections.get_mut(&id) else { return };
                connection.up = false;
                let loss = Loss::Closed { code: Some(code), reason: reason.to_owned() };
                let flushed = connection.to_server;
                let now = self.now;
                self.schedule(now + at_agent, Arrival::LostAtAgent { connection: id, loss });
                let due = flushed.max(now + at_server);
                self.schedule(due, Arrival::LostAtServer { connection: id });
            }
            ConnectionAction::Abort { .. } => {
                if let Some(id) = self.agents[agent].connection.take() {
                    let due = self.now + self.delay();
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.up = false;
                    }
                    self.schedule(due, Arrival::LostAtServer { connection: id });
                }
            }
        }
    }

    fn transmit(&mut self, agent: usize, transmit: Transmit) {
        let process = self.agents[agent].process;
        match transmit {
            Transmit::Message { message, .. } => {
                let Some(id) = self.agents[agent].connection else { return };
                self.tap.sent_by_agent(process, id, &message[1..]);
                let delay = self.delay();
                let now = self.now;
                let lost_when_cut = self.random.chance(50);
                let Some(connection) = self.connections.get_mut(&id) else { return };
                if !connection.up && lost_when_cut {
                    // Once one is lost, everything after it is.
                    connection.to_server = now + Duration::from_secs(1_000_000);
                    return;
                }
                let due = connection.to_server.max(now + delay);
                if due > now + Duration::from_secs(100_000) {
                    return;
                }
                connection.to_server = due;
                self.schedule(due, Arrival::AtServer { connection: id, message });
            }
            Transmit::Ping { .. } => {
                let Some(id) = self.agents[agent].connection else { return };
                let Some(connection) = self.connections.get(&id) else { return };
                if connection.up {
                    let (epoch, now) = (connection.epoch, self.now);
                    self.agents[agent].core.handle_received(epoch, Received::Control, now);
                }
            }
            Transmit::Request { ticket, body, .. } => {
                self.next_connection += 1;
                self.tap.sent_by_agent(process, self.next_connection, &body);
                let due = self.now + self.delay();
                let fails = !self.server_up || self.random.chance(self.weather.failures);
                let lose_response = fails && self.server_up && self.random.chance(50);
                if fails && !lose_response {
                    let response = Arrival::Response { agent, process, ticket, body: None };
                    return self.schedule(due, response);
                }
                let request = Arrival::Request { agent, process, ticket, body, lose_response };
                self.schedule(due, request);
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Handshake { connection: id } => self.handshake(id),
            Arrival::Refused { agent, process, epoch } => {
                if self.agents[agent].process == process {
                    let failure = Failure {
                        kind: FailureKind::Unreachable,
                        message: "nobody listens".to_owned(),
                    };
                    let core = &mut self.agents[agent].core;
                    core.handle_connect_failed(epoch, failure, None, self.now);
                    self.settle_agent(agent);
                }
            }
            Arrival::AtServer { connection, message } => self.at_server(connection, message),
            Arrival::AtAgent { connection, message } => self.at_agent(connection, message),
            Arrival::LostAtServer { connection } => {
                let Some(connection) = self.connections.get_mut(&connection) else { return };
                if let Some(route) = connection.route.take() {
                    if connection.server == self.server {
                        let _ = self.fleet.close_route(route);
                    }
                }
            }
            Arrival::LostAtAgent { connection: id, loss } => {
                let Some(connection) = self.connections.get(&id) else { return };
                let (agent, process, epoch) =
                    (connection.agent, connection.process, connection.epoch);
                if self.agents[agent].process == process
                    && self.agents[agent].connection == Some(id)
                {
                    self.agents[agent].connection = None;
                    self.agents[agent].core.handle_connection_lost(epoch, loss, self.now);
                    self.settle_agent(agent);
                }
            }
            Arrival::Request { agent, process, ticket, body, lose_response } => {
                let response = self.serve_request(&body);
                let body = response.filter(|_| !lose_response);
                let due = self.now + self.delay();
                self.schedule(due, Arrival::Response { agent, process, ticket, body });
            }
            Arrival::Response { agent, process, ticket, body } => {
                if self.agents[agent].process != process {
                    return;
                }
                let core = &mut self.agents[agent].core;
                match body {
                    Some(body) => {
                        let response = Response { status: 200, retry_after: None, body };
                        core.handle_response(ticket, response, self.now);
                    }
                    None => {
                        let failure = Failure {
                            kind: FailureKind::Unreachable,
                            message: "lost on the way".to_owned(),
                        };
                        core.handle_request_failed(ticket, failure, self.now);
                    }
                }
                self.settle_agent(agent);
            }
        }
    }

    fn handshake(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (agent, process, epoch) = (connection.agent, connection.process, connection.epoch);
        if self.agents[agent].process != process || self.agents[agent].connection != Some(id) {
            return;
        }
        if connection.server == self.server {
            let waker = Arc::clone(&self.wakes) as Arc<dyn RouteWaker>;
            let transport = opamp_server::Transport::WebSocket;
            connection.route = Some(self.fleet.open_route(transport, None, (), Some(waker)));
        }
        self.agents[agent].core.handle_connected(epoch, self.now);
        self.settle_agent(agent);
    }

    fn serve_request(&mut self, body: &Bytes) -> Option<Bytes> {
        if !self.server_up {
            return None;
        }
        let mut route = self.fleet.open_route(opamp_server::Transport::Http, None, (), None);
        let reply = self.receive(&mut route, body);
        let uid = v1::AgentToServer::decode(body.clone()).ok()?.instance_uid;
        self.next_connection += 1;
        self.tap.sent_by_server(Transport::Http, self.next_connection, &uid, &reply);
        Some(reply)
    }

    fn receive(&mut self, route: &mut Route<()>, body: &[u8]) -> Bytes {
        let now = self.fleet_now();
        let fresh = self.fresh_uid();
        let mut head = Vec::new();
        let received = self.fleet.receive(route, body, now, &mut || fresh, &mut head);
        if let Some(tail) = received.tail {
            head.extend_from_slice(&tail);
        }
        head.into()
    }

    fn at_server(&mut self, id: u64, message: Bytes) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.server != self.server {
            return;
        }
        let Some(mut route) = connection.route.take() else { return };
        let body = frame::decode(message, frame::HeaderPolicy::Required)
            .expect("the client frames its messages")
            .body;
        let uid = v1::AgentToServer::decode(body.clone()).expect("decodes").instance_uid;
        let reply = self.receive(&mut route, &body);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.route = Some(route);
        }
        self.send_to_agent(id, &uid, &reply);
        self.push(id);
    }

    fn send_to_agent(&mut self, id: u64, uid: &[u8], body: &[u8]) {
        self.tap.sent_by_server(Transport::WebSocket, id, uid, body);
        let delay = self.delay();
        let now = self.now;
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.up)
        else {
            return;
        };
        let due = connection.to_agent.max(now + delay);
        connection.to_agent = due;
        let mut message = vec![frame::HEADER];
        message.extend_from_slice(body);
        self.schedule(due, Arrival::AtAgent { connection: id, message: message.into() });
    }

    fn at_agent(&mut self, id: u64, message: Bytes) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (agent, process, epoch) = (connection.agent, connection.process, connection.epoch);
        if self.agents[agent].process == process {
            let received = Received::Binary(message);
            self.agents[agent].core.handle_received(epoch, received, self.now);
            self.settle_agent(agent);
        }
    }

    /// Pushes what there is for the agents that the fleet woke the server for.
    fn settle_server(&mut self) {
        let woken = std::mem::take(&mut *self.wakes.0.lock().expect("nothing panics under it"));
        if woken.is_empty() {
            return;
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.push(id);
        }
    }

    fn push(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.server != self.server {
            return;
        }
        let Some(route) = connection.route.take() else { return };
        let now = self.fleet_now();
        for uid in route.agents().to_vec() {
            loop {
                let mut head = Vec::new();
                let Some(push) = self.fleet.poll_push(&route, &uid, now, &mut head) else { break };
                if let Some(tail) = push.tail {
                    head.extend_from_slice(&tail);
                }
                self.send_to_agent(id, uid.as_bytes(), &head);
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.route = Some(route);
        }
    }

    /// What the server knows of an agent differs from what the agent would report: says how.
    #[must_use]
    pub fn disagreement(&self, agent: usize) -> Option<String> {
        let core = &self.agents[agent].core;
        let uid = WireUid::from(core.instance_uid());
        let Some(known) = self.fleet.agent(&uid) else {
            return Some(format!("the server does not know {uid}"));
        };
        if !known.is_connected() {
            return Some("the server takes the agent for disconnected".to_owned());
        }
        let status = core.status();
        let state = known.state();
        if state.capabilities().bits() != status.capabilities {
            return Some("capabilities differ".to_owned());
        }
        // What an agent no longer reports stays as it was last known: absence is not deletion.
        fn differs<T: PartialEq>(known: Option<T>, is: &Option<T>) -> bool {
            is.is_some() && known != *is
        }
        if differs(state.agent_description(), &status.agent_description) {
            return Some("the description differs".to_owned());
        }
        if differs(state.health(), &status.health) {
            return Some(format!("health {:?} is not {:?}", state.health(), status.health));
        }
        if differs(state.effective_config(), &status.effective_config) {
            return Some("the effective configuration differs".to_owned());
        }
        if differs(state.remote_config_status(), &status.remote_config_status) {
            let (known, is) = (state.remote_config_status(), &status.remote_config_status);
            return Some(format!("the remote config status {known:?} is not {is:?}"));
        }
        if status.remote_config_status.is_none() {
            return None;
        }
        let desired = known.desired_config_hash();
        let reported = state.remote_config_status().map(|status| status.last_remote_config_hash);
        if let (Some(desired), Some(reported)) = (desired, reported)
            && reported != desired.to_bytes()
        {
            return Some("the desired configuration was not taken up".to_owned());
        }
        None
    }
}
