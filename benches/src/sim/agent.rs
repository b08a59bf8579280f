//! An Agent: its core, and what a driver and an application would do around it.

use std::time::Duration;

use bytes::Bytes;
use opamp_client::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Failure, FailureKind,
    Loss, Received, Response, Transmit,
};
use opamp_proto::{InstanceUid, v1};
use rand::RngExt as _;

use super::{Happening, Micros, Simulation, micros};

/// When nothing is to be done.
const NEVER: Micros = Micros::MAX;

pub(super) struct Agent {
    pub(super) core: ClientCore,
    epoch: Option<Epoch>,
    pub(super) connection: Option<u32>,
    /// The earliest time for the next message, so that messages stay in order.
    to_server: Micros,
    to_agent: Micros,
    timer: Micros,
}

impl Agent {
    /// Whether it still wants this connection.
    pub(super) fn waits_for(&self, epoch: Epoch) -> bool {
        self.epoch == Some(epoch)
    }
}

/// The instance uid of an Agent; its place among the others is in it.
pub(super) fn uid_of(agent: u32) -> InstanceUid {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&agent.to_be_bytes());
    InstanceUid::from_parts(1_700_000_000_000, random)
}

/// Where among the others an Agent is.
pub(super) fn place_of(uid: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*uid.last_chunk()?))
}

fn description(agent: u32) -> v1::AgentDescription {
    let host = format!("host-{agent:07}.fleet.example");
    v1::AgentDescription {
        identifying_attributes: vec![
            v1::KeyValue::new("service.name", "io.opentelemetry.collector"),
            v1::KeyValue::new("service.version", "0.150.0"),
            v1::KeyValue::new("service.instance.id", host.as_str()),
        ],
        non_identifying_attributes: vec![
            v1::KeyValue::new("os.type", "linux"),
            v1::KeyValue::new("os.version", "6.12.0"),
            v1::KeyValue::new("host.arch", "amd64"),
            v1::KeyValue::new("host.name", host.as_str()),
        ],
    }
}

impl Simulation {
    /// Adds an Agent, which begins at this time.
    pub(super) fn add(&mut self, begins: Micros) {
        let place = u32::try_from(self.agents.len()).expect("there are at most so many");
        let mut config = ClientConfig::new(ClientState::new(uid_of(place)), description(place));
        config.transport = self.options.transport;
        config.heartbeat_interval = Some(self.options.heartbeat_interval);
        config.polling_interval = self.options.heartbeat_interval;
        config.health = Some(v1::ComponentHealth { healthy: true, ..Default::default() });
        config.effective_config = Some(v1::EffectiveConfig::default());
        config.accepts_remote_config = true;
        config.backoff = self.options.backoff.clone();
        config.seed = self.random.random();
        let core = ClientCore::new(config, self.instant()).expect("the configuration works");
        self.agents.push(Agent {
            core,
            epoch: None,
            connection: None,
            to_server: 0,
            to_agent: 0,
            timer: NEVER,
        });
        self.schedule(begins, place, Happening::Begin);
    }

    /// Something happens to an Agent, or at the Server to what it sent.
    pub(super) fn happen(&mut self, agent: u32, what: Happening) {
        let now = self.instant();
        let place = agent as usize;
        match what {
            Happening::Begin => {}
            Happening::Timer => {
                if self.agents[place].timer != self.now {
                    return;
                }
                self.agents[place].timer = NEVER;
            }
            Happening::Applied(resolution) => {
                // A newer offer may have taken its place.
                let _ = self.agents[place].core.resolve(*resolution);
            }
            Happening::Opened { epoch, connection } => {
                if self.agents[place].epoch != Some(epoch) {
                    return self.schedule(self.now, agent, Happening::LostAtServer { connection });
                }
                self.agents[place].connection = Some(connection);
                (self.agents[place].to_server, self.agents[place].to_agent) = (self.now, self.now);
                self.agents[place].core.handle_connected(epoch, now);
            }
            Happening::TurnedAway { epoch, retry_after } => {
                let kind = match retry_after {
                    Some(_) => FailureKind::Throttled,
                    None => FailureKind::Unreachable,
                };
                let failure = Failure { kind, message: String::new() };
                self.agents[place].core.handle_connect_failed(epoch, failure, retry_after, now);
            }
            Happening::Receive { connection, message } => {
                let agent = &mut self.agents[place];
                if agent.connection == Some(connection)
                    && let Some(epoch) = agent.epoch
                {
                    agent.core.handle_received(epoch, Received::Binary(message), now);
                }
            }
            Happening::Answer { ticket, status, retry_after, body } => {
                let response = Response { status, retry_after, body };
                self.agents[place].core.handle_response(ticket, response, now);
            }
            Happening::Unanswered { ticket } => {
                self.stats.failed += 1;
                let failure = Failure { kind: FailureKind::Unreachable, message: String::new() };
                self.agents[place].core.handle_request_failed(ticket, failure, now);
            }
            Happening::Unsent { ticket } => {
                self.stats.failed += 1;
                let failure = Failure { kind: FailureKind::Unreachable, message: String::new() };
                self.agents[place].core.handle_request_unsent(ticket, failure, now);
            }
            Happening::LostAtAgent { connection } => {
                let agent = &mut self.agents[place];
                if agent.connection == Some(connection)
                    && let Some(epoch) = agent.epoch
                {
                    agent.connection = None;
                    let loss = Loss::Broken(String::new());
                    agent.core.handle_connection_lost(epoch, loss, now);
                }
            }
            at_the_server => return self.at_server(agent, at_the_server),
        }
        self.settle(agent);
    }

    /// Does what the Agent's core says until it says nothing more.
    fn settle(&mut self, agent: u32) {
        let place = agent as usize;
        let now = self.instant();
        self.agents[place].core.handle_timeout(now);
        loop {
            let mut busy = false;
            while let Some(action) = self.agents[place].core.poll_connection(now) {
                busy = true;
                self.connect(agent, action);
            }
            while let Some(transmit) = self.agents[place].core.poll_transmit(now) {
                busy = true;
                self.send(agent, transmit);
            }
            while let Some(event) = self.agents[place].core.poll_event() {
                busy = true;
                self.event(agent, event);
            }
            if !busy {
                break;
            }
        }
        if let Some(due) = self.agents[place].core.poll_timeout() {
            let due = micros(due.saturating_duration_since(self.origin));
            // Upwards, as a timer that is early finds nothing to do.
            let due = due.saturating_add(1).max(self.now + 1);
            if due != self.agents[place].timer {
                self.agents[place].timer = due;
                self.schedule(due, agent, Happening::Timer);
            }
        }
    }

    fn connect(&mut self, agent: u32, action: ConnectionAction) {
        let arrives = self.now + self.latency();
        match action {
            ConnectionAction::Connect { epoch, .. } => {
                self.agents[agent as usize].epoch = Some(epoch);
                self.stats.attempts += 1;
                if self.fails() {
                    self.stats.failed += 1;
                    let turned_away = Happening::TurnedAway { epoch, retry_after: None };
                    return self.schedule(arrives, agent, turned_away);
                }
                self.schedule(arrives, agent, Happening::Knock(epoch));
            }
            ConnectionAction::Close { .. } => {
                if let Some(connection) = self.agents[agent as usize].connection {
                    let arrives = arrives.max(self.agents[agent as usize].to_server);
                    self.schedule(arrives, agent, Happening::LostAtServer { connection });
                    self.schedule(arrives, agent, Happening::LostAtAgent { connection });
                }
            }
            ConnectionAction::Abort { .. } => {
                self.agents[agent as usize].epoch = None;
                if let Some(connection) = self.agents[agent as usize].connection.take() {
                    self.schedule(arrives, agent, Happening::LostAtServer { connection });
                }
            }
        }
    }

    fn send(&mut self, agent: u32, transmit: Transmit) {
        let latency = self.latency();
        let now = self.instant();
        let arrives = {
            let agent = &mut self.agents[agent as usize];
            agent.to_server = agent.to_server.max(self.now + latency);
            agent.to_server
        };
        match transmit {
            Transmit::Message { message, .. } => {
                if let Some(connection) = self.agents[agent as usize].connection {
                    self.schedule(arrives, agent, Happening::Arrive { connection, message });
                }
            }
            Transmit::Ping { .. } => {
                let agent = &mut self.agents[agent as usize];
                let there = agent.connection.is_some_and(|it| self.server.has(it));
                if let Some(epoch) = agent.epoch.filter(|_| there) {
                    agent.core.handle_received(epoch, Received::Control, now);
                }
            }
            Transmit::Request { ticket, body, .. } => {
                let what = match self.fails() {
                    true => Happening::Unsent { ticket },
                    false => Happening::Request { ticket, body },
                };
                self.schedule(arrives, agent, what);
            }
        }
    }

    fn event(&mut self, agent: u32, event: Event) {
        if let Event::RemoteConfig(offer) = event {
            // As if it were written, and a process told to load it.
            let takes = Duration::from_millis(self.random.random_range(500..3_000));
            let config_map = Some(offer.config().clone());
            let resolution = offer.applied_with(v1::EffectiveConfig { config_map });
            let due = self.now + micros(takes);
            self.schedule(due, agent, Happening::Applied(Box::new(resolution)));
        }
    }

    /// A message for an Agent sets out, at this time.
    pub(super) fn send_to(&mut self, agent: u32, connection: u32, at: Micros, message: Bytes) {
        self.stats.sent_bytes += message.len() as u64;
        let latency = self.latency();
        let it = &mut self.agents[agent as usize];
        it.to_agent = it.to_agent.max(at + latency);
        let arrives = it.to_agent;
        self.schedule(arrives, agent, Happening::Receive { connection, message });
    }
}
