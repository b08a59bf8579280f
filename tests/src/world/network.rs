//! The network: what is under way, and how it arrives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_client::core::{
    ConnectionAction, Epoch, Failure, FailureKind, Loss, Received, Response, Ticket, Transmit,
    Transport,
};
use opamp_proto::{Message as _, frame, v1};
use opamp_server::fleet::{Now, Route, RouteWaker};
use opamp_server::gateway::DownstreamId;

use super::World;
use super::gateway::Upstream;

pub(super) struct Connection {
    pub(super) agent: usize,
    pub(super) process: usize,
    pub(super) epoch: Epoch,
    pub(super) route: Option<Route<()>>,
    /// Where it ends if there is a gateway.
    pub(super) downstream: Option<DownstreamId>,
    /// Which life of the server it leads to.
    pub(super) server: u64,
    /// Whether bytes still get from one end to the other.
    pub(super) up: bool,
    /// Earliest arrival of the next message, so that order is kept.
    pub(super) to_server: Instant,
    pub(super) to_agent: Instant,
}

#[derive(Debug)]
pub(super) enum Arrival {
    Handshake { connection: u64 },
    Refused { agent: usize, process: usize, epoch: Epoch },
    AtServer { connection: u64, message: Bytes },
    AtAgent { connection: u64, message: Bytes },
    LostAtServer { connection: u64 },
    LostAtAgent { connection: u64, loss: Loss },
    Request { agent: usize, process: usize, ticket: Ticket, body: Bytes, lose_response: bool },
    Response { agent: usize, process: usize, ticket: Ticket, body: Option<Bytes> },
    Answer { agent: usize, process: usize, ticket: Ticket, response: Response },
    Upstream(Upstream),
}

pub(super) struct Scheduled {
    pub(super) due: Instant,
    pub(super) order: u64,
    pub(super) arrival: Arrival,
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

impl World {
    pub(super) fn connection_action(&mut self, agent: usize, action: ConnectionAction) {
        match action {
            ConnectionAction::Connect { epoch, .. } => {
                assert!(self.agents[agent].connection.is_none(), "DUP-01: one connection at most");
                let process = self.agents[agent].process;
                let due = self.now + self.delay();
                let served = self.server_up || self.middle.is_some();
                if !served || self.random.chance(self.weather.failures) {
                    return self.schedule(due, Arrival::Refused { agent, process, epoch });
                }
                let id = self.next_connection;
                self.next_connection += 1;
                let connection = Connection {
                    agent,
                    process,
                    epoch,
                    route: None,
                    downstream: None,
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

    pub(super) fn transmit(&mut self, agent: usize, transmit: Transmit) {
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
                let served = self.server_up || self.middle.is_some();
                let fails = !served || self.random.chance(self.weather.failures);
                let lose_response = fails && served && self.random.chance(50);
                if fails && !lose_response {
                    let response = Arrival::Response { agent, process, ticket, body: None };
                    return self.schedule(due, response);
                }
                let request = Arrival::Request { agent, process, ticket, body, lose_response };
                self.schedule(due, request);
            }
        }
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
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
                if let Some(id) = connection.downstream.take() {
                    return self.close_socket(id);
                }
                if let Some(route) = connection.route.take()
                    && connection.server == self.server
                {
                    let _ = self.fleet.close_route(route);
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
            Arrival::Request { agent, process, ticket, body, lose_response }
                if self.middle.is_some() =>
            {
                self.request_at_gateway((agent, process), ticket, &body, lose_response);
            }
            Arrival::Upstream(arrival) => self.upstream_arrives(arrival),
            Arrival::Answer { agent, process, ticket, response } => {
                if self.agents[agent].process == process {
                    self.agents[agent].core.handle_response(ticket, response, self.now);
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
        if self.middle.is_some() {
            let admitted = self.admit_at_gateway(id);
            if let Err(retry_after) = admitted {
                self.agents[agent].connection = None;
                let failure = Failure {
                    kind: FailureKind::Throttled,
                    message: "the gateway has no server".to_owned(),
                };
                let core = &mut self.agents[agent].core;
                core.handle_connect_failed(epoch, failure, Some(retry_after), self.now);
                return self.settle_agent(agent);
            }
        } else if connection.server == self.server {
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

    pub(super) fn receive(&mut self, route: &mut Route<()>, body: &[u8]) -> Bytes {
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
        if self.middle.is_some() {
            if let Some(downstream) = connection.downstream {
                self.socket_at_gateway(downstream, &message[1..]);
            }
            return;
        }
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
        self.deliver_to_agent(id, body);
    }

    pub(super) fn deliver_to_agent(&mut self, id: u64, body: &[u8]) {
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
    pub(super) fn settle_server(&mut self) {
        let woken = std::mem::take(&mut *self.wakes.0.lock().expect("nothing panics under it"));
        if woken.is_empty() {
            return;
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.push(id);
        }
        self.push_on_links();
        self.settle_gateway();
    }

    /// What there is to push to the agents of a route.
    pub(super) fn pushes(&self, route: &Route<()>, now: Now) -> Vec<Vec<u8>> {
        let mut pushes = Vec::new();
        for key in route.agents().to_vec() {
            loop {
                let mut head = Vec::new();
                let Some(push) = self.fleet.poll_push(route, key, now, &mut head) else { break };
                if let Some(tail) = push.tail {
                    head.extend_from_slice(&tail);
                }
                pushes.push(head);
            }
        }
        pushes
    }

    fn push(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.server != self.server {
            return;
        }
        let Some(route) = connection.route.take() else { return };
        let now = self.fleet_now();
        for key in route.agents().to_vec() {
            loop {
                let mut head = Vec::new();
                let Some(push) = self.fleet.poll_push(&route, key, now, &mut head) else { break };
                if let Some(tail) = push.tail {
                    head.extend_from_slice(&tail);
                }
                self.send_to_agent(id, key.uid().as_bytes(), &head);
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.route = Some(route);
        }
    }
}
