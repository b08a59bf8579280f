//! The Server: the real registry, and a processor that takes its time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use opamp_client::core::{Epoch, Ticket};
use opamp_proto::{AgentCapabilities, InstanceUid, frame, v1};
use opamp_server::core::{Part, Rate};
use opamp_server::fleet::{AgentKey, Fleet, Now, Received, Route, RouteWaker, SaveWaker};
use opamp_server::{RemoteConfig, ServerConfig, Transport};

use super::agent::{place_of, uid_of};
use super::{Happening, Micros, Options, Simulation, micros};

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
    is_up: bool,
    /// Whether Agents reach it.
    is_reachable: bool,
    /// What waits for the processor.
    jobs: VecDeque<Job>,
    /// How many of them are connections.
    knocking: usize,
    is_busy: bool,
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

/// Something for the processor to do, and since when it waits for that.
struct Job {
    agent: u32,
    since: Micros,
    task: Task,
}

enum Task {
    Connect(Epoch),
    Message { connection: u32, message: Bytes },
    Request { ticket: Ticket, body: Bytes },
    Push,
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
        let rate = options.admission_rate;
        config.arrivals = Rate::per_second(rate).with_burst(rate.saturating_mul(10));
        Self {
            fleet: Fleet::new(config.clone()),
            config,
            is_up: true,
            is_reachable: true,
            jobs: VecDeque::new(),
            knocking: 0,
            is_busy: false,
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

type Store = Option<BTreeMap<Vec<u8>, Bytes>>;

fn save(fleet: &Fleet<()>, store: &mut Store, now: Now, lagging: bool) {
    let Some(store) = store else { return };
    // With what lags there always is a batch, so once around is enough.
    let mut batch = fleet.take_unsaved(now, lagging, BATCH);
    while let Some(taken) = batch {
        for change in taken.changes().iter() {
            match change.value() {
                Some(value) => store.insert(change.key().to_vec(), value.clone()),
                None => store.remove(change.key()),
            };
        }
        fleet.saved(taken);
        batch = fleet.take_unsaved(now, false, BATCH);
    }
}

/// Takes in a message, stores what has to be before it is answered, and appends the reply to `out`.
fn receive(
    fleet: &Fleet<()>,
    store: &mut Store,
    route: &mut Route<()>,
    body: &[u8],
    now: Now,
    out: &mut Vec<u8>,
) -> Received {
    // Nobody asks for a uid here, and none is given out.
    let mut fresh = || InstanceUid::from_parts(0, [0; 10]);
    let mut received = fleet.receive(route, body, now, &mut fresh, out);
    if let Some(accepted) = received.unsaved.take() {
        save(fleet, store, now, false);
        received.tail = fleet.reply(*accepted, now, out);
        received.push = true;
    }
    out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
    received
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
        let now = self.fleet_now();
        let Server { fleet, store, .. } = &mut self.server;
        if orderly {
            save(fleet, store, now, true);
        }
        self.server.is_up = false;
        drop(self.lose_connections());
    }

    /// It is there again, with what it kept.
    pub(super) fn start_server(&mut self) {
        let now = self.fleet_now();
        self.server.start_anew(now);
        self.server.is_up = true;
    }

    /// Nobody reaches the Server any more, which goes on.
    pub(super) fn cut_off(&mut self) {
        self.server.is_reachable = false;
        for route in self.lose_connections() {
            let _ = self.server.fleet.close_route(route);
        }
    }

    /// It can be reached again.
    pub(super) fn reconnect(&mut self) {
        self.server.is_reachable = true;
    }

    fn lose_connections(&mut self) -> Vec<Route<()>> {
        self.server.knocking = 0;
        for Job { agent, task, .. } in std::mem::take(&mut self.server.jobs) {
            match task {
                Task::Connect(epoch) => self.turn_away(agent, epoch, self.now, None),
                Task::Request { ticket, .. } => {
                    self.schedule(self.now, agent, Happening::Unanswered { ticket });
                }
                Task::Message { .. } | Task::Push => {}
            }
        }
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

    pub(super) fn tick(&mut self) {
        self.server.next_tick = self.now + TICK;
        if !self.server.is_up {
            return;
        }
        let now = self.fleet_now();
        // Nothing handles changes here, so nobody has to be queued.
        let _ = self.server.fleet.settle_duplicates(now);
        if self.now >= self.server.next_sweep {
            // The last turn may come just after a sweep, so there is one more.
            self.server.pacing = self.server.fleet.is_pacing(now.instant);
            let _ = self.server.fleet.sweep(now);
            self.server.next_sweep =
                self.now + if self.server.pacing { SWEEP_PACED } else { SWEEP_EVERY };
        }
        let lagging = self.now >= self.server.next_save;
        if lagging {
            self.server.next_save = self.now + SAVE_EVERY;
        }
        let Server { fleet, store, .. } = &mut self.server;
        save(fleet, store, now, lagging);
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
        let is_there = self.server.is_up && self.server.is_reachable;
        match what {
            Happening::Knock(epoch) => {
                if !is_there || self.server.knocking >= self.options.max_waiting {
                    self.stats.failed += 1;
                    return self.turn_away(agent, epoch, self.now, None);
                }
                self.server.knocking += 1;
                self.work(agent, Task::Connect(epoch));
            }
            Happening::Arrive { connection, message } if self.server.has(connection) => {
                self.stats.message(self.now, message.len());
                self.work(agent, Task::Message { connection, message });
            }
            Happening::Request { ticket, .. } if !is_there => {
                let due = self.now + self.latency();
                self.schedule(due, agent, Happening::Unsent { ticket });
            }
            Happening::Request { ticket, body } => {
                self.stats.message(self.now, body.len());
                self.work(agent, Task::Request { ticket, body });
            }
            Happening::LostAtServer { connection } => {
                if let Some((_, route)) = self.server.routes.remove(&connection) {
                    let _ = self.server.fleet.close_route(route);
                }
            }
            Happening::Free => self.work_on(),
            // To a connection that is gone.
            _ => {}
        }
    }

    /// Gives the processor something to do.
    fn work(&mut self, agent: u32, task: Task) {
        self.server.jobs.push_back(Job { agent, since: self.now, task });
        if !self.server.is_busy {
            self.work_on();
        }
    }

    /// The processor does what is next, until something takes time: what comes of it is there then.
    fn work_on(&mut self) {
        self.server.is_busy = true;
        while let Some(Job { agent, since, task }) = self.server.jobs.pop_front() {
            self.stats.longest_wait = self.stats.longest_wait.max(self.now - since);
            let cost = match task {
                Task::Connect(epoch) => self.connect_at_server(agent, epoch),
                Task::Message { connection, message } => self.serve(agent, connection, &message),
                Task::Request { ticket, body } => self.serve_request(agent, ticket, &body),
                Task::Push => self.push_to(agent),
            };
            if cost > 0 {
                return self.schedule(self.now + cost, agent, Happening::Free);
            }
        }
        self.server.is_busy = false;
    }

    fn turn_away(&mut self, agent: u32, epoch: Epoch, at: Micros, retry_after: Option<Duration>) {
        let due = at + self.latency();
        self.schedule(due, agent, Happening::TurnedAway { epoch, retry_after });
    }

    fn connect_at_server(&mut self, agent: u32, epoch: Epoch) -> Micros {
        self.server.knocking -= 1;
        if !self.agents[agent as usize].waits_for(epoch) {
            // It has closed the connection meanwhile, which is seen at the first look at it.
            return micros(self.options.message_cost);
        }
        let cost = micros(self.options.connection_cost);
        let done = self.now + cost;
        if let Err(wait) = self.server.fleet.admit_connection(self.instant()) {
            self.stats.turned_away += 1;
            self.turn_away(agent, epoch, done, Some(wait));
            return cost;
        }
        self.server.connections += 1;
        let connection = self.server.connections;
        let waker = Arc::clone(&self.server.woken) as Arc<dyn RouteWaker>;
        let route = self.server.fleet.open_route(Transport::WebSocket, None, (), Some(waker));
        self.server.routes.insert(connection, (agent, route));
        let due = done + self.latency();
        self.schedule(due, agent, Happening::Opened { epoch, connection });
        cost
    }

    fn serve(&mut self, agent: u32, connection: u32, message: &[u8]) -> Micros {
        let now = self.fleet_now();
        let Server { fleet, store, routes, .. } = &mut self.server;
        let Some((_, route)) = routes.get_mut(&connection) else { return 0 };
        let body = frame::decode_slice(message, frame::HeaderPolicy::Required);
        let body = body.expect("a client frames its messages").body;
        let mut reply = vec![frame::HEADER];
        let received = receive(fleet, store, route, body, now, &mut reply);
        self.heard.push(agent);
        let cost = micros(self.options.message_cost);
        self.send_to(agent, connection, self.now + cost, reply.into());
        if received.push {
            self.work_later(agent);
        }
        self.push();
        cost
    }

    fn serve_request(&mut self, agent: u32, ticket: Ticket, body: &[u8]) -> Micros {
        let now = self.fleet_now();
        // Who was not there comes on a new connection.
        let known = self.server.fleet.agent(uid_of(agent)).is_some_and(|it| it.is_connected());
        let mut cost = micros(self.options.message_cost);
        if !known {
            self.stats.attempts += 1;
            cost += micros(self.options.connection_cost);
        }
        let Server { fleet, store, .. } = &mut self.server;
        let mut route = fleet.open_route(Transport::Http, None, (), None);
        let mut reply = Vec::new();
        let received = receive(fleet, store, &mut route, body, now, &mut reply);
        let retry_after = received.refusal.and_then(|refusal| refusal.retry_after());
        let (status, body) = match retry_after {
            Some(_) => (503, Bytes::new()),
            None => (200, reply.into()),
        };
        self.stats.turned_away += u64::from(retry_after.is_some());
        self.stats.sent_bytes += body.len() as u64;
        self.heard.push(agent);
        let due = self.now + cost + self.latency();
        self.schedule(due, agent, Happening::Answer { ticket, status, retry_after, body });
        cost
    }

    /// Has the processor look whether there is something to push to the Agents that were woken.
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
            self.work_later(agent);
        }
        if !self.server.is_busy {
            self.work_on();
        }
    }

    fn work_later(&mut self, agent: u32) {
        self.server.jobs.push_back(Job { agent, since: self.now, task: Task::Push });
    }

    fn push_to(&mut self, agent: u32) -> Micros {
        let mut cost = 0;
        let Some(connection) = self.agents[agent as usize].connection else { return 0 };
        loop {
            let now = self.fleet_now();
            let Some((_, route)) = self.server.routes.get(&connection) else { return cost };
            let mut message = vec![frame::HEADER];
            let key = AgentKey::from(uid_of(agent));
            let Some(push) = self.server.fleet.poll_push(route, key, now, &mut message) else {
                return cost;
            };
            message.extend_from_slice(push.tail.as_deref().unwrap_or_default());
            cost += micros(self.options.message_cost);
            self.send_to(agent, connection, self.now + cost, message.into());
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
