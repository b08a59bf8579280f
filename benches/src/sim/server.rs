//! The Server: the real registry, and a processor that takes its time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opamp_client::core::Epoch;
use opamp_proto::{AgentCapabilities, InstanceUid, frame, v1};
use opamp_server::core::{Arrivals, Part, Rate};
use opamp_server::fleet::{AgentKey, Fleet, Now, Route, RouteWaker, SaveWaker};
use opamp_server::{RemoteConfig, ServerConfig, Transport};

use super::agent::{place_of, uid_of};
use super::{Happening, Micros, Options, Simulation, micros};

/// Nobody is told to stay away for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// How often what lags is written to the store.
const SAVE_EVERY: Micros = 10_000_000;

/// How often the registry is swept, and how often while Agents wait for their turn, as the service does.
const SWEEP_EVERY: Micros = 5_000_000;
const SWEEP_PACED: Micros = 1_000_000;

/// How often the Server looks up.
const TICK: Micros = 1_000_000;

/// What is written at a time.
const BATCH: usize = 1024 * 1024;

pub(super) struct Server {
    pub(super) fleet: Fleet<()>,
    config: ServerConfig,
    pub(super) is_up: bool,
    /// When the processor is free.
    free: Micros,
    /// When the processor has come to each of the connections that wait for it.
    waiting: VecDeque<Micros>,
    arrivals: Option<Arrivals>,
    routes: HashMap<u32, (u32, Route<()>)>,
    connections: u32,
    woken: Arc<Woken>,
    pub(super) next_tick: Micros,
    next_sweep: Micros,
    /// Agents waited for their turn when it was swept last.
    pacing: bool,
    next_save: Micros,
    /// What survives.
    store: Option<BTreeMap<Vec<u8>, Bytes>>,
    default_config: Option<RemoteConfig>,
}

#[derive(Default)]
struct Woken(Mutex<Vec<AgentKey>>);

impl RouteWaker for Woken {
    fn wake(&self, key: &AgentKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(*key);
    }
}

/// What is to be written is looked for often enough.
struct Unneeded;

impl SaveWaker for Unneeded {
    fn wake(&self) {}
}

impl Server {
    pub(super) fn new(options: &Options) -> Self {
        let mut config = ServerConfig::default();
        config.max_agents = options.agents as usize;
        config.max_fleet_bytes = usize::MAX;
        config.full_state_rate = options.full_state_rate;
        config.http_offline_after = options.heartbeat_interval * 3;
        Self {
            fleet: Fleet::new(config.clone()),
            config,
            is_up: true,
            free: 0,
            waiting: VecDeque::new(),
            arrivals: { options.admission_rate }
                .map(|rate| Arrivals::new(Rate::per_second(rate), LONGEST_WAIT)),
            routes: HashMap::new(),
            connections: 0,
            woken: Arc::default(),
            next_tick: TICK,
            next_sweep: 0,
            pacing: false,
            next_save: SAVE_EVERY,
            store: None,
            default_config: None,
        }
    }

    /// Whether a connection is open.
    pub(super) fn has(&self, connection: u32) -> bool {
        self.routes.contains_key(&connection)
    }

    /// From now on what is known survives.
    pub(super) fn keep_state(&mut self) {
        self.store = Some(BTreeMap::new());
        self.fleet.begin_saving(Arc::new(Unneeded));
    }

    fn save(&mut self, now: Now, lagging: bool) {
        let Some(store) = &mut self.store else { return };
        // With what lags there always is a batch, so once around is enough.
        let mut batch = self.fleet.take_unsaved(now, lagging, BATCH);
        while let Some(taken) = batch {
            for change in taken.changes().iter() {
                match change.value() {
                    Some(value) => store.insert(change.key().to_vec(), value.clone()),
                    None => store.remove(change.key()),
                };
            }
            self.fleet.saved(taken);
            batch = self.fleet.take_unsaved(now, false, BATCH);
        }
    }

    fn start_anew(&mut self, now: Now) {
        self.fleet = Fleet::new(self.config.clone());
        if let Some(store) = &self.store {
            self.fleet.begin_saving(Arc::new(Unneeded));
            let mut restore = self.fleet.restore(now);
            for (key, value) in store {
                restore.add(key, value).expect("it was written by this very version");
            }
            let _ = restore.finish();
        } else if let Some(config) = self.default_config.clone() {
            self.fleet.set_default_remote_config(config).expect("it was set before");
        }
    }
}

impl Simulation {
    fn fleet_now(&self) -> Now {
        let system = SystemTime::UNIX_EPOCH + Duration::from_micros(self.now);
        Now { instant: self.instant(), system }
    }

    /// Offers a configuration of this size to everyone.
    pub(super) fn offer(&mut self, size: usize) -> Bytes {
        let body = "receivers: {}\n".repeat(size / 14 + 1).into();
        let file = v1::AgentConfigFile { body, content_type: "text/yaml".to_owned() };
        let map = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
        let config = RemoteConfig::new(map);
        let hash = Bytes::copy_from_slice(config.hash().as_bytes());
        self.server.default_config = Some(config.clone());
        self.server.fleet.set_default_remote_config(config).expect("it is small");
        self.push();
        hash
    }

    /// The Server goes, in good order or not, and all connections with it.
    pub(super) fn stop_server(&mut self, orderly: bool) {
        if orderly {
            let now = self.fleet_now();
            self.server.save(now, true);
        }
        self.server.is_up = false;
        self.server.waiting.clear();
        drop(self.lose_connections());
    }

    /// Nobody reaches the Server any more, which goes on.
    pub(super) fn cut_off(&mut self) {
        self.server.is_up = false;
        for route in self.lose_connections() {
            let _ = self.server.fleet.close_route(route);
        }
    }

    fn lose_connections(&mut self) -> Vec<Route<()>> {
        let mut gone: Vec<_> = self.server.routes.drain().collect();
        gone.sort_unstable_by_key(|(connection, _)| *connection);
        let mut routes = Vec::with_capacity(gone.len());
        for (connection, (agent, route)) in gone {
            let due = self.now + self.latency();
            self.schedule(due, agent, Happening::LostAtAgent { connection });
            routes.push(route);
        }
        routes
    }

    /// It is there again, with what it kept.
    pub(super) fn start_server(&mut self) {
        let now = self.fleet_now();
        self.server.start_anew(now);
        self.server.is_up = true;
        self.server.free = self.now;
    }

    pub(super) fn tick(&mut self) {
        self.server.next_tick = self.now + TICK;
        if !self.server.is_up {
            return;
        }
        let now = self.fleet_now();
        if self.now >= self.server.next_sweep {
            // The last turn may come just after a sweep, so there is one more.
            self.server.pacing = self.server.fleet.is_pacing(now.instant);
            // Nothing handles changes here, so nobody has to be queued.
            let _ = self.server.fleet.sweep(now);
            self.server.next_sweep =
                self.now + if self.server.pacing { SWEEP_PACED } else { SWEEP_EVERY };
        }
        let lagging = self.now >= self.server.next_save;
        if lagging {
            self.server.next_save = self.now + SAVE_EVERY;
        }
        self.server.save(now, lagging);
        self.push();
        if self.flaky {
            self.break_some();
        }
    }

    /// Connections break, so many of a hundred in a minute.
    fn break_some(&mut self) {
        let share = f64::from(self.options.flaky_percent) / 100.0 / 60.0;
        let mut open: Vec<_> = self
            .server
            .routes
            .iter()
            .map(|(connection, (agent, _))| (*connection, *agent))
            .collect();
        open.sort_unstable();
        for (connection, agent) in open {
            if rand::RngExt::random_bool(&mut self.random, share) {
                // The Server notices later: nobody tells it.
                let due = self.now + self.latency();
                self.schedule(due, agent, Happening::LostAtAgent { connection });
                self.schedule(due + 20_000_000, agent, Happening::LostAtServer { connection });
            }
        }
    }

    pub(super) fn at_server(&mut self, agent: u32, what: Happening) {
        match what {
            Happening::Knock(epoch) => self.knock(agent, epoch),
            Happening::Arrive { connection, message } if self.server.has(connection) => {
                let due = self.work(self.options.message_cost);
                self.stats.message(self.now, message.len());
                self.schedule(due, agent, Happening::Serve { connection, message });
            }
            Happening::Serve { connection, message } => self.serve(agent, connection, &message),
            Happening::Request { ticket, body } => {
                if !self.server.is_up {
                    let due = self.now + self.latency();
                    return self.schedule(due, agent, Happening::Unsent { ticket });
                }
                // Over HTTP it is new Agents that are counted as arrivals.
                let key = AgentKey::from(uid_of(agent));
                let known = self.server.fleet.agent(key).is_some_and(|it| it.is_connected());
                if !known {
                    self.stats.attempts += 1;
                    if let Err(wait) = self.admit() {
                        let due = self.work(self.options.connection_cost) + self.latency();
                        let (status, retry_after, body) = (503, Some(wait), Bytes::new());
                        let answer = Happening::Answer { ticket, status, retry_after, body };
                        return self.schedule(due, agent, answer);
                    }
                }
                let due = self.work(self.options.message_cost);
                self.stats.message(self.now, body.len());
                self.schedule(due, agent, Happening::ServeRequest { ticket, body });
            }
            Happening::ServeRequest { ticket, body } => {
                if !self.server.is_up {
                    return self.schedule(self.now, agent, Happening::Unanswered { ticket });
                }
                let mut route = self.server.fleet.open_route(Transport::Http, None, (), None);
                let now = self.fleet_now();
                let body = receive(&self.server.fleet, &mut route, &body, now, Vec::new());
                self.heard.push(agent);
                self.stats.sent_bytes += body.len() as u64;
                let due = self.now + self.latency();
                let answer = Happening::Answer { ticket, status: 200, retry_after: None, body };
                self.schedule(due, agent, answer);
            }
            Happening::LostAtServer { connection } => {
                if let Some((_, route)) = self.server.routes.remove(&connection) {
                    let _ = self.server.fleet.close_route(route);
                }
            }
            // To a connection that is gone.
            _ => {}
        }
    }

    /// Occupies the processor: the moment the work is done.
    fn work(&mut self, cost: Duration) -> Micros {
        let begins = self.server.free.max(self.now);
        self.stats.longest_wait = self.stats.longest_wait.max(begins - self.now);
        self.server.free = begins + micros(cost);
        self.server.free
    }

    fn admit(&mut self) -> Result<(), Duration> {
        let now = self.instant();
        let admitted = self.server.arrivals.as_ref().map_or(Ok(()), |arrivals| arrivals.admit(now));
        self.stats.turned_away += u64::from(admitted.is_err());
        admitted
    }

    fn knock(&mut self, agent: u32, epoch: Epoch) {
        let latency = self.latency();
        while self.server.waiting.front().is_some_and(|done| *done <= self.now) {
            self.server.waiting.pop_front();
        }
        if !self.server.is_up || self.server.waiting.len() >= self.options.max_waiting {
            self.stats.failed += 1;
            let turned_away = Happening::TurnedAway { epoch, retry_after: None };
            return self.schedule(self.now + latency, agent, turned_away);
        }
        let admitted = self.admit();
        let done = self.work(self.options.connection_cost);
        self.server.waiting.push_back(done);
        let due = done + latency;
        if let Err(wait) = admitted {
            let turned_away = Happening::TurnedAway { epoch, retry_after: Some(wait) };
            return self.schedule(due, agent, turned_away);
        }
        self.server.connections += 1;
        let connection = self.server.connections;
        let waker = Arc::clone(&self.server.woken) as Arc<dyn RouteWaker>;
        let route = self.server.fleet.open_route(Transport::WebSocket, None, (), Some(waker));
        self.server.routes.insert(connection, (agent, route));
        self.schedule(due, agent, Happening::Opened { epoch, connection });
    }

    fn serve(&mut self, agent: u32, connection: u32, message: &[u8]) {
        let now = self.fleet_now();
        let Some((_, route)) = self.server.routes.get_mut(&connection) else { return };
        let body = frame::decode_slice(message, frame::HeaderPolicy::Required);
        let body = body.expect("a client frames its messages").body;
        let reply = receive(&self.server.fleet, route, body, now, vec![frame::HEADER]);
        self.heard.push(agent);
        self.send_to(agent, connection, reply);
        self.push_to(agent, connection);
        self.push();
    }

    /// Pushes to whom there may be something to push.
    fn push(&mut self) {
        let woken = {
            let mut woken = self.server.woken.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *woken)
        };
        let places = woken.iter().filter_map(|key| place_of(key.uid().as_bytes()));
        let mut places: Vec<_> = places.collect();
        // The registry's order is not the same in each run.
        places.sort_unstable();
        places.dedup();
        for agent in places {
            if let Some(connection) = self.agents[agent as usize].connection {
                self.push_to(agent, connection);
            }
        }
    }

    fn push_to(&mut self, agent: u32, connection: u32) {
        loop {
            let now = self.fleet_now();
            let Some((_, route)) = self.server.routes.get(&connection) else { return };
            let mut head = vec![frame::HEADER];
            let key = AgentKey::from(uid_of(agent));
            let Some(push) = self.server.fleet.poll_push(route, key, now, &mut head) else {
                return;
            };
            head.extend_from_slice(push.tail.as_deref().unwrap_or_default());
            let _ = self.work(self.options.message_cost);
            self.send_to(agent, connection, head.into());
        }
    }

    /// Whether the Server knows an Agent as it is, and the Agent has what is wanted.
    pub(super) fn is_settled(&self, agent: u32, wanted: Option<&Bytes>) -> bool {
        let Some(known) = self.server.fleet.agent(uid_of(agent)) else { return false };
        let state = known.state();
        known.is_connected()
            && state.capabilities().contains(AgentCapabilities::REPORTS_STATUS)
            && state.encoded(Part::AgentDescription).is_some()
            && state.encoded(Part::Health).is_some()
            && wanted.is_none_or(|hash| {
                state.remote_config_status().is_some_and(|status| {
                    status.last_remote_config_hash == *hash
                        && status.status() == v1::RemoteConfigStatuses::Applied
                })
            })
    }
}

/// The reply to a message.
fn receive(
    fleet: &Fleet,
    route: &mut Route<()>,
    body: &[u8],
    now: Now,
    mut head: Vec<u8>,
) -> Bytes {
    // Nobody asks for a uid here, and none is given out.
    let mut fresh = || InstanceUid::from_parts(0, [0; 10]);
    let received = fleet.receive(route, body, now, &mut fresh, &mut head);
    head.extend_from_slice(received.tail.as_deref().unwrap_or_default());
    head.into()
}
