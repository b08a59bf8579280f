//! A gateway between the agents and the server, with an unreliable network on either side of it.
//!
//! Agents' connections and requests end at the gateway; its own few connections lead on to the server. On
//! either side every message carries a field that nobody knows, and what arrives is compared with
//! what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_client::core::{Loss, Response, Ticket};
use opamp_proto::{Message as _, v1};
use opamp_server::fleet::{Route, RouteWaker};
use opamp_server::gateway::{
    DownstreamId, FromAgent, Gateway, GatewayConfig, Ready, ReplyScan, ToAgent,
};

use super::World;
use super::network::Arrival;

/// A field that no version of the protocol has.
const UNKNOWN: &[u8] = b"\xfa\x7f\x03new";

/// The gateway with what is on either side of it.
pub struct Middle {
    /// The gateway in its present life.
    pub gateway: Gateway,
    /// Messages of agents that reached the server as they were sent.
    pub passed: u64,
    config: GatewayConfig,
    sockets: BTreeMap<DownstreamId, u64>,
    requests: BTreeMap<DownstreamId, Request>,
    links: BTreeMap<u64, Link>,
    /// The present link of each upstream connection.
    slots: Vec<Option<u64>>,
    next_link: u64,
    sent_by_agents: BTreeSet<Bytes>,
    sent_by_server: BTreeSet<Bytes>,
}

struct Request {
    agent: usize,
    process: usize,
    ticket: Ticket,
    lose_response: bool,
}

/// One life of an upstream connection.
struct Link {
    slot: usize,
    route: Option<Route<()>>,
    server: u64,
    up: bool,
    to_server: Instant,
    to_gateway: Instant,
}

/// What arrives on the way between gateway and server.
#[derive(Debug)]
pub(super) enum Upstream {
    Connect { slot: usize },
    Opened { link: u64 },
    AtServer { link: u64, message: Bytes },
    AtGateway { link: u64, message: Bytes },
    LostAtServer { link: u64 },
    LostAtGateway { link: u64 },
}

fn with_unknown_field(message: &[u8]) -> Bytes {
    [UNKNOWN, message].concat().into()
}

impl World {
    /// Puts a gateway before the server. To be called before there are agents.
    pub fn put_gateway(&mut self, config: GatewayConfig) {
        let slots = config.connections;
        self.middle = Some(Middle {
            gateway: Gateway::new(config.clone(), self.now),
            passed: 0,
            config,
            sockets: BTreeMap::new(),
            requests: BTreeMap::new(),
            links: BTreeMap::new(),
            slots: vec![None; slots],
            next_link: 0,
            sent_by_agents: BTreeSet::new(),
            sent_by_server: BTreeSet::new(),
        });
        for slot in 0..slots {
            self.schedule(self.now, Arrival::Upstream(Upstream::Connect { slot }));
        }
    }

    /// The gateway in the middle.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn middle(&mut self) -> &mut Middle {
        self.middle.as_mut().expect("there is a gateway")
    }

    /// The gateway dies without a word, and another takes its place that knows nothing.
    pub fn restart_gateway(&mut self) {
        let now = self.now;
        let middle = self.middle();
        middle.gateway = Gateway::new(middle.config.clone(), now);
        let requests = std::mem::take(&mut middle.requests);
        let sockets = std::mem::take(&mut middle.sockets);
        for slot in 0..middle.slots.len() {
            self.cut_upstream(slot);
            self.middle().slots[slot] = None;
            let due = now + self.delay();
            self.schedule(due, Arrival::Upstream(Upstream::Connect { slot }));
        }
        for connection in sockets.into_values() {
            // What is still under way arrives nowhere.
            if let Some(connection) = self.connections.get_mut(&connection) {
                connection.downstream = None;
            }
            self.cut(connection);
        }
        for Request { agent, process, ticket, .. } in requests.into_values() {
            let response = Arrival::Response { agent, process, ticket, body: None };
            self.schedule(now, response);
        }
    }

    /// An upstream connection breaks, if it is there; each end learns of it in its own time.
    pub fn cut_upstream(&mut self, slot: usize) {
        let (at_gateway, at_server) = (self.delay(), self.delay() * 3);
        let now = self.now;
        let middle = self.middle();
        let Some(id) = middle.slots[slot] else { return };
        let Some(link) = middle.links.get_mut(&id).filter(|link| link.up) else { return };
        link.up = false;
        let lost = |lost| Arrival::Upstream(lost);
        self.schedule(now + at_gateway, lost(Upstream::LostAtGateway { link: id }));
        self.schedule(now + at_server, lost(Upstream::LostAtServer { link: id }));
    }

    pub(super) fn upstream_arrives(&mut self, arrival: Upstream) {
        match arrival {
            Upstream::Connect { slot } => self.connect_upstream(slot),
            Upstream::Opened { link: id } => {
                let now = self.now;
                let waker = Arc::clone(&self.wakes) as Arc<dyn RouteWaker>;
                let transport = opamp_server::Transport::WebSocket;
                let route = self.fleet.open_route(transport, None, (), Some(waker));
                let server = self.server;
                let middle = self.middle();
                let Some(link) = middle.links.get_mut(&id) else { return };
                if link.server == server {
                    link.route = Some(route);
                }
                if middle.slots[link.slot] == Some(id) {
                    middle.gateway.upstream_opened(link.slot, now);
                }
            }
            Upstream::AtServer { link, message } => self.gateway_at_server(link, &message),
            Upstream::AtGateway { link: id, message } => {
                let now = self.now;
                let middle = self.middle();
                let Some(link) = middle.links.get(&id) else { return };
                if middle.slots[link.slot] == Some(id) {
                    middle.gateway.receive_upstream(link.slot, message, now);
                }
            }
            Upstream::LostAtServer { link: id } => {
                let server = self.server;
                let Some(link) = self.middle().links.get_mut(&id) else { return };
                if let Some(route) = link.route.take()
                    && link.server == server
                {
                    let _ = self.fleet.close_route(route);
                }
            }
            Upstream::LostAtGateway { link: id } => {
                let now = self.now;
                let middle = self.middle();
                let Some(slot) = middle.links.get(&id).map(|link| link.slot) else { return };
                if middle.slots[slot] == Some(id) {
                    middle.slots[slot] = None;
                    middle.gateway.upstream_lost(slot, None, now);
                    let due = now + self.delay();
                    self.schedule(due, Arrival::Upstream(Upstream::Connect { slot }));
                }
            }
        }
    }

    fn connect_upstream(&mut self, slot: usize) {
        if self.middle().slots[slot].is_some() {
            return;
        }
        let now = self.now;
        if !self.server_up || self.random.chance(self.weather.failures) {
            self.middle().gateway.upstream_lost(slot, None, now);
            let due = now + Duration::from_secs(1 + self.random.below(4));
            return self.schedule(due, Arrival::Upstream(Upstream::Connect { slot }));
        }
        let due = now + self.delay();
        let server = self.server;
        let middle = self.middle();
        let id = middle.next_link;
        middle.next_link += 1;
        let link = Link { slot, route: None, server, up: true, to_server: due, to_gateway: due };
        middle.links.insert(id, link);
        middle.slots[slot] = Some(id);
        self.schedule(due, Arrival::Upstream(Upstream::Opened { link: id }));
    }

    /// A message of an agent arrives at the gateway.
    pub(super) fn socket_at_gateway(&mut self, id: DownstreamId, body: &[u8]) {
        let (message, now) = (with_unknown_field(body), self.now);
        let middle = self.middle();
        middle.sent_by_agents.insert(message.clone());
        middle.gateway.receive(id, FromAgent::read(message), now);
    }

    /// A handshake arrives at the gateway.
    pub(super) fn admit_at_gateway(&mut self, connection: u64) -> Result<(), Duration> {
        let now = self.now;
        let middle = self.middle();
        middle.gateway.admit(now)?;
        let id = middle.gateway.open_websocket();
        middle.sockets.insert(id, connection);
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.downstream = Some(id);
        }
        Ok(())
    }

    pub(super) fn close_socket(&mut self, id: DownstreamId) {
        let now = self.now;
        let middle = self.middle();
        if middle.sockets.remove(&id).is_some() {
            middle.gateway.close(id, now);
        }
    }

    pub(super) fn request_at_gateway(
        &mut self,
        (agent, process): (usize, usize),
        ticket: Ticket,
        body: &[u8],
        lose_response: bool,
    ) {
        let middle = self.middle();
        let id = middle.gateway.open_request();
        middle.requests.insert(id, Request { agent, process, ticket, lose_response });
        self.socket_at_gateway(id, body);
    }

    /// Takes from the gateway what it has for either side.
    pub(super) fn settle_gateway(&mut self) {
        let Some(middle) = &mut self.middle else { return };
        middle.gateway.handle_timeout(self.now);
        while let Some(ready) = self.middle().gateway.poll_ready() {
            match ready {
                Ready::Upstream(slot) => self.send_upstream(slot),
                Ready::Downstream(id) => {
                    while let Some(polled) = self.middle().gateway.poll_downstream(id) {
                        self.take_from_gateway(id, polled);
                    }
                }
                _ => {}
            }
        }
        let now = self.now;
        let middle = self.middle();
        assert!(middle.gateway.unread_bytes() <= middle.config.max_unread_bytes_in_all);
        assert!(middle.gateway.waiting_bytes() <= middle.config.max_waiting_bytes);
        assert!(middle.gateway.poll_timeout().is_none_or(|due| due > now), "a hot loop");
    }

    fn send_upstream(&mut self, slot: usize) {
        while let Some(message) = self.middle().gateway.poll_upstream(slot) {
            let due = self.now + self.delay();
            let middle = self.middle();
            let Some(id) = middle.slots[slot] else { continue };
            let Some(link) = middle.links.get_mut(&id).filter(|link| link.up) else { continue };
            link.to_server = link.to_server.max(due);
            let due = link.to_server;
            self.schedule(due, Arrival::Upstream(Upstream::AtServer { link: id, message }));
        }
    }

    fn take_from_gateway(&mut self, id: DownstreamId, polled: ToAgent) {
        let now = self.now;
        let socket = self.middle().sockets.get(&id).copied();
        let message = match polled {
            ToAgent::Message(message) => message,
            ToAgent::Unavailable { retry_after } => {
                let due = now + self.delay();
                let middle = self.middle();
                middle.gateway.close(id, now);
                let Some(Request { agent, process, ticket, .. }) = middle.requests.remove(&id)
                else {
                    return;
                };
                let response =
                    Response { status: 503, retry_after: Some(retry_after), body: Bytes::new() };
                let answer = Arrival::Answer { agent, process, ticket, response };
                return self.schedule(due, answer);
            }
            ToAgent::Close(closing) => {
                self.close_socket(id);
                let code = Some(closing.code().get());
                let loss = Loss::Closed { code, reason: closing.reason().to_owned() };
                let Some(connection) = socket else { return };
                return self.schedule(now, Arrival::LostAtAgent { connection, loss });
            }
            other => panic!("{other:?}"),
        };
        self.check_for_agent(&message);
        self.tap.replies += 1;
        match socket {
            Some(connection) => self.deliver_to_agent(connection, &message),
            None => {
                let due = now + self.delay();
                let middle = self.middle();
                middle.gateway.close(id, now);
                let Some(request) = middle.requests.remove(&id) else { return };
                let Request { agent, process, ticket, lose_response } = request;
                let body = (!lose_response).then_some(message);
                self.schedule(due, Arrival::Response { agent, process, ticket, body });
            }
        }
    }

    /// What an agent gets is what the server sent, or one of the two things a gateway says itself.
    fn check_for_agent(&mut self, message: &Bytes) {
        // A response has the server's mask in any case, behind what the server said.
        let mask = self.fleet.config().sent_capabilities().to_wire();
        let mask = v1::ServerToAgent { capabilities: mask, ..Default::default() }.encode_to_vec();
        let sent = &self.middle().sent_by_server;
        let without_mask = message.strip_suffix(&mask[..]).unwrap_or_default();
        if sent.contains(message) || sent.contains(without_mask) {
            return;
        }
        let decoded = v1::ServerToAgent::decode(message.clone()).expect("a ServerToAgent");
        let own = v1::ServerToAgent {
            instance_uid: decoded.instance_uid.clone(),
            flags: decoded.flags,
            error_response: decoded.error_response.clone(),
            ..Default::default()
        };
        assert_eq!(decoded, own, "not what the server sent");
        match &own.error_response {
            Some(error) => {
                assert_eq!(error.r#type(), v1::ServerErrorResponseType::Unavailable);
                assert_eq!(own.flags, 0, "ERR-03");
            }
            None => assert_eq!(own.flags, v1::ServerToAgentFlags::ReportFullState as u64),
        }
    }

    fn gateway_at_server(&mut self, id: u64, message: &Bytes) {
        let server = self.server;
        let middle = self.middle();
        let is_goodbye = || {
            let decoded = v1::AgentToServer::decode(message.clone()).expect("an AgentToServer");
            decoded.agent_disconnect.is_some()
        };
        match middle.sent_by_agents.contains(message) {
            true => middle.passed += 1,
            false => assert!(is_goodbye(), "not what an agent sent"),
        }
        let Some(link) = middle.links.get_mut(&id).filter(|link| link.server == server) else {
            return;
        };
        let Some(mut route) = link.route.take() else { return };
        let reply = self.receive(&mut route, message);
        if let Some(link) = self.middle().links.get_mut(&id) {
            link.route = Some(route);
        }
        self.send_to_gateway(id, &reply);
        self.push_to_gateway(id);
    }

    fn send_to_gateway(&mut self, id: u64, body: &[u8]) {
        // One that only acknowledges stays one: what it might say that is new could not be missed.
        let is_bare = ReplyScan::new(body).is_some_and(|scan| scan.is_bare());
        let message = if is_bare { Bytes::copy_from_slice(body) } else { with_unknown_field(body) };
        let due = self.now + self.delay();
        let middle = self.middle();
        middle.sent_by_server.insert(message.clone());
        let Some(link) = middle.links.get_mut(&id).filter(|link| link.up) else { return };
        link.to_gateway = link.to_gateway.max(due);
        let due = link.to_gateway;
        self.schedule(due, Arrival::Upstream(Upstream::AtGateway { link: id, message }));
    }

    fn push_to_gateway(&mut self, id: u64) {
        let (now, server) = (self.fleet_now(), self.server);
        let Some(link) = self.middle().links.get_mut(&id) else { return };
        if link.server != server {
            return;
        }
        let Some(route) = link.route.take() else { return };
        for message in self.pushes(&route, now) {
            self.send_to_gateway(id, &message);
        }
        if let Some(link) = self.middle().links.get_mut(&id) {
            link.route = Some(route);
        }
    }

    /// Pushes whatever there is on every link.
    pub(super) fn push_on_links(&mut self) {
        let links: Vec<_> = self.middle.iter().flat_map(|it| it.links.keys().copied()).collect();
        for link in links {
            self.push_to_gateway(link);
        }
    }

    /// The server of every link is gone.
    pub(super) fn cut_links(&mut self) {
        for slot in 0..self.middle.as_ref().map_or(0, |middle| middle.slots.len()) {
            self.cut_upstream(slot);
        }
    }
}
