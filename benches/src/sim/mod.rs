//! A fleet in virtual time: real client cores and the real registry of a Server, joined by a simulated
//! network, so that what happens to a million Agents in an hour can be seen in minutes, on one machine.
//!
//! ```text
//!   Agent (ClientCore) ──▶ network: latency, losses ──▶ Server: admission, then one message at a time,
//!        ▲                                                      each of which costs some time
//!        └──────────────── network ◀──────────────────────────── replies, pushes
//! ```
//!
//! The Server's processor does one thing after the other: each message and each connection takes a
//! given time of it. So an overloaded Server is late here, too, and Agents lose patience. There are no
//! sockets and no TLS; what the kernel does is part of the given times. Of what protects a real Server
//! there is what the registry does, its admission of arrivals and its pace of asking for full states;
//! that it sheds load when it is late is not simulated.

use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_client::core::{BackoffConfig, Epoch, Resolution, Ticket, Transport};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

mod agent;
mod queue;
mod scale;
mod scenario;
mod server;
mod stats;

pub use self::scale::write_tables;
pub use self::scenario::{Progress, Scenario, run};
pub use self::stats::{Phase, Report};

use self::agent::Agent;
use self::queue::Queue;
use self::server::Server;
use self::stats::Stats;

/// What is simulated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// Agents.
    pub agents: u32,
    /// The same seed gives the same run.
    pub seed: u64,
    /// How Agents connect.
    pub transport: Transport,
    /// Between heartbeats, and polls.
    pub heartbeat_interval: Duration,
    /// The Server's time for a message.
    pub message_cost: Duration,
    /// The Server's time for a connection, also for one that is turned away.
    pub connection_cost: Duration,
    /// Connections that may wait for the Server's processor; it refuses further ones, at no cost.
    pub max_waiting: usize,
    /// Agents the Server asks for their full state in a second; 0 asks all at once.
    pub full_state_rate: u32,
    /// How Agents back off.
    pub backoff: BackoffConfig,
    /// Connections and Agents the Server admits in a second, and ten times as many at once; 0 admits
    /// all.
    pub admission_rate: u32,
    /// Longest way of a message, one way.
    pub max_latency: Duration,
    /// Of a hundred connection attempts, so many fail, and of a hundred connections so many break in
    /// each minute, where the network is flaky.
    pub flaky_percent: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            agents: 10_000,
            seed: 1,
            transport: Transport::WebSocket,
            heartbeat_interval: Duration::from_secs(30),
            message_cost: Duration::from_micros(10),
            connection_cost: Duration::from_micros(100),
            max_waiting: 20_000,
            full_state_rate: 500,
            backoff: BackoffConfig::default(),
            admission_rate: 1_000,
            max_latency: Duration::from_millis(80),
            flaky_percent: 10,
        }
    }
}

/// Microseconds since the beginning.
type Micros = u64;

fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Something that is going to happen to an Agent, or to what it sent.
#[derive(Debug)]
enum Happening {
    /// The Agent begins.
    Begin,
    /// The Agent's core wants to be woken.
    Timer,
    /// The Agent has applied what it was offered.
    Applied(Box<Resolution>),
    /// Its attempt to connect arrives.
    Knock(Epoch),
    /// The answer to that: admitted, or turned away for so long.
    Opened {
        epoch: Epoch,
        connection: u32,
    },
    TurnedAway {
        epoch: Epoch,
        retry_after: Option<Duration>,
    },
    /// A message of its connection arrives at the Server.
    Arrive {
        connection: u32,
        message: Bytes,
    },
    /// The Server's processor is done with what it did, and may go on.
    Free,
    /// A message arrives at the Agent.
    Receive {
        connection: u32,
        message: Bytes,
    },
    /// A request of it arrives at the Server, and is answered.
    Request {
        ticket: Ticket,
        body: Bytes,
    },
    Answer {
        ticket: Ticket,
        status: u16,
        retry_after: Option<Duration>,
        body: Bytes,
    },
    Unanswered {
        ticket: Ticket,
    },
    /// Nobody was there to take the request.
    Unsent {
        ticket: Ticket,
    },
    /// The connection is gone: as the Server sees it, as the Agent sees it.
    LostAtServer {
        connection: u32,
    },
    LostAtAgent {
        connection: u32,
    },
}

/// The world: see the [module](self).
struct Simulation {
    options: Options,
    /// The moment virtual time begins at.
    origin: Instant,
    now: Micros,
    queue: Queue,
    agents: Vec<Agent>,
    /// Those of which the Server took in a message, since somebody looked.
    heard: Vec<u32>,
    server: Server,
    flaky: bool,
    random: StdRng,
    stats: Stats,
}

impl Simulation {
    fn new(options: Options) -> Self {
        let random = StdRng::seed_from_u64(options.seed);
        let server = Server::new(&options);
        Self {
            origin: Instant::now(),
            now: 0,
            queue: Queue::default(),
            agents: Vec::with_capacity(options.agents as usize),
            heard: Vec::new(),
            server,
            flaky: false,
            random,
            stats: Stats::default(),
            options,
        }
    }

    fn instant(&self) -> Instant {
        self.origin + Duration::from_micros(self.now)
    }

    fn schedule(&mut self, due: Micros, agent: u32, what: Happening) {
        self.queue.push(due, agent, what);
    }

    /// The time a message needs for its way.
    fn latency(&mut self) -> Micros {
        self.random.random_range(1_000..=micros(self.options.max_latency).max(1_000))
    }

    /// Whether something goes wrong that does in so many of a hundred cases where the network is flaky.
    fn fails(&mut self) -> bool {
        self.flaky && self.random.random_range(0..100) < self.options.flaky_percent
    }

    /// Lets time pass.
    fn run_until(&mut self, end: Micros) {
        loop {
            let tick = self.server.next_tick;
            if let Some(next) = self.queue.pop(end.min(tick)) {
                self.now = next.due;
                self.happen(next.agent, next.what);
            } else if tick <= end {
                self.now = tick;
                self.tick();
            } else {
                break;
            }
        }
        self.now = end;
    }
}
