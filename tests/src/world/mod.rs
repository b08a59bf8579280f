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
    ClientConfig, ClientCore, ClientState, Event, Loss, PeerMisbehaved, Transport,
};
use opamp_proto::{InstanceUid, WireUid, v1};
use opamp_server::fleet::{AgentKey, Fleet, Now, RouteWaker};
use opamp_server::{ConnectionSettings, Packages, RemoteConfig, ServerConfig};

use self::network::{Arrival, Connection, Scheduled};
use self::work::Answer;
use crate::random::Random;
use crate::tap::Tap;

mod agreement;
mod gateway;
mod network;
mod work;

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
    answers: Vec<(Instant, Answer)>,
    /// What its store has of packages.
    packages: Option<Vec<u8>>,
    connection: Option<u64>,
    uid: InstanceUid,
}

#[derive(Default)]
struct Wakes(Mutex<Vec<AgentKey>>);

impl RouteWaker for Wakes {
    fn wake(&self, key: &AgentKey) {
        self.0.lock().expect("nothing panics under this lock").push(*key);
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
    default_settings: Option<ConnectionSettings>,
    default_packages: Option<Packages>,
    arrivals: BinaryHeap<Reverse<Scheduled>>,
    order: u64,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    next_process: usize,
    next_uid: u64,
    wakes: Arc<Wakes>,
    middle: Option<gateway::Middle>,
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
            default_settings: None,
            default_packages: None,
            arrivals: BinaryHeap::new(),
            order: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            next_process: 0,
            next_uid: 1,
            wakes: Arc::default(),
            middle: None,
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
        work::take_everything(&mut config);
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
            packages: None,
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
        work::take_everything(&mut config);
        if let Some(connection) = self.agents[agent].connection {
            self.cut(connection);
        }
        let fresh = self.new_process(config);
        let old = std::mem::replace(&mut self.agents[agent], fresh);
        self.agents[agent].restarts = old.restarts;
        self.agents[agent].offers = old.offers;
        self.agents[agent].packages = old.packages;
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
        if self.middle.is_some() {
            self.cut_links();
        } else {
            for id in self.connections.keys().copied().collect::<Vec<_>>() {
                self.cut(id);
            }
        }
        self.server += 1;
        self.fleet = Fleet::new(self.server_config.clone());
        if let Some(config) = self.default_config.clone() {
            self.fleet.set_default_remote_config(config).expect("it is small");
        }
        if let Some(settings) = self.default_settings.clone() {
            self.fleet.set_default_connection_settings(settings).expect("they are small");
        }
        if let Some(packages) = self.default_packages.clone() {
            self.fleet.set_default_packages(packages).expect("they are small");
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
        let gateway = self.middle.as_ref().and_then(|middle| middle.gateway.poll_timeout());
        arrival.into_iter().chain(timeouts).chain(answers).chain(gateway).min()
    }

    fn step(&mut self) {
        while let Some(Reverse(next)) = self.arrivals.peek() {
            if next.due > self.now {
                break;
            }
            let Some(Reverse(next)) = self.arrivals.pop() else { break };
            self.arrive(next.arrival);
            self.settle_gateway();
        }
        self.settle_gateway();
        let now = self.fleet_now();
        // Nothing handles changes here, so nobody has to be queued.
        let _ = self.fleet.sweep(now);
        for agent in 0..self.agents.len() {
            self.agents[agent].core.handle_timeout(self.now);
            self.answer_offers(agent);
            self.settle_agent(agent);
        }
    }

    /// Does what an agent's core says until it says nothing more.
    fn settle_agent(&mut self, agent: usize) {
        loop {
            let mut busy = self.package_action(agent);
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
                agent.answers.push((now + first, Answer::RemoteConfig(offer.applying())));
                let answer = if is_refused(offer.config()) {
                    offer.failed("odd")
                } else {
                    let config_map = Some(offer.config().clone());
                    offer.applied_with(v1::EffectiveConfig { config_map })
                };
                agent.answers.push((now + first + second, Answer::RemoteConfig(answer)));
            }
            Event::ConnectionSettings(offer) => self.decide_on_settings(agent, offer),
            Event::Package(offer) => self.decide_on_package(agent, offer),
            Event::PackageRemoval(removal) => self.remove_package(agent, removal),
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
}
