//! One thread with its share of the agents: one poll, one buffer to read into and one to write from,
//! and no timer but a heap of the few things that have a time of their own.

mod messages;
mod wire;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use http::HeaderMap;
use mio::{Events, Interest, Poll, Token};

use super::agent::{Agent, Connection, State};
use super::http::PostHead;
use super::link::{Link, Tls};
use super::options::{Leave, Options};
use super::stage::{Progress, Stage, Step};
use super::stats::{Stats, Trouble};
use super::template::{Kind, Status, Templates, unset};
use super::websocket;
use crate::process;

/// The longest a thread does not look whether there is another step.
const LOOK: Duration = Duration::from_millis(5);
/// Waiting for less is not worth a system call with a resolution of a millisecond.
const SPIN: Duration = Duration::from_millis(1);
/// The time to another try where the Server names none.
const RETRY: Duration = Duration::from_secs(1);
/// Things done in a row before the sockets are looked at again.
const AT_A_TIME: usize = 256;
/// Agents that are waited for at a time where each sends one message.
const ROUND_AT_A_TIME: usize = 16;
/// Open files besides the connections.
const OTHER_FILES: usize = 16;
/// Unanswered messages of an agent beyond which paced ones are held back.
const HELD_BACK: usize = 64;

/// What is the same for all threads of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) templates: Templates,
    pub(crate) tls: Option<Tls>,
    /// The opening handshake of a WebSocket.
    handshake: Vec<u8>,
    post: PostHead,
    /// What the uids of all agents begin with.
    pub(crate) uid_prefix: [u8; 12],
}

impl Plan {
    pub(crate) fn new(options: Options) -> Result<Self, String> {
        options.check()?;
        let needed = options.connections() + OTHER_FILES;
        if let Some(allowed) = process::allowed_descriptors().filter(|allowed| *allowed < needed) {
            return Err(format!(
                "{needed} files have to be open and {allowed} are allowed: see ulimit -n, or put more \
                 agents on a connection"
            ));
        }
        let headers: HeaderMap =
            options.headers.iter().map(|header| (header.0.clone(), header.1.clone())).collect();
        let [.., a, b, c, d, e, f] = milliseconds().to_be_bytes();
        let random = std::process::id().to_be_bytes();
        let uid_prefix = [
            [a, b, c, d, e, f].as_slice(),
            &[0x70 | random[2] >> 4, random[2], 0x80 | random[3] >> 2, random[3], 0, 0],
        ]
        .concat();
        Ok(Self {
            templates: Templates::new(options.config_size, options.large),
            tls: Tls::new(&options)?,
            handshake: websocket::request(&options.server, &headers),
            post: PostHead::new(&options.server, &headers),
            uid_prefix: uid_prefix.try_into().expect("twelve bytes"),
            options,
        })
    }

    /// The numbers of a thread's connections.
    fn share(&self, thread: usize) -> impl Iterator<Item = usize> + use<> {
        (thread..self.options.connections()).step_by(self.options.threads)
    }
}

fn milliseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or_default())
}

/// Something that has a time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Wake {
    Connect(usize),
    Report(u32, Kind),
    Resume(u32),
}

/// A thread's share.
#[derive(Debug)]
pub(crate) struct Worker {
    plan: Arc<Plan>,
    thread: usize,
    stage: Arc<Stage>,
    progress: Arc<Progress>,
    finished: Sender<Stats>,
    poll: Poll,
    step: Step,
    step_began: u64,
    generation: u64,
    now: u64,
    connections: Vec<Connection>,
    agents: Vec<Agent>,
    /// The places of the agents that were given another uid.
    renamed: HashMap<[u8; 16], u32>,
    /// How many of the connections may be there so far.
    allowed: usize,
    to_connect: VecDeque<usize>,
    /// Connections whose handshake is under way.
    connecting: usize,
    next_connect: f64,
    next_message: f64,
    next_churn: f64,
    /// Whose turn it is: the agent in the pace, the connection to drop, the agent in a round.
    turn: usize,
    churned: usize,
    round: usize,
    wakes: BinaryHeap<Reverse<(u64, Wake)>>,
    read_buffer: Vec<u8>,
    /// Frames or requests for the connection that is dealt with.
    out: Vec<u8>,
    /// The status that was made last, and the hash it is for.
    applied: (Vec<u8>, Status),
    stats: Stats,
    random: u64,
}

impl Worker {
    pub(crate) fn new(
        plan: Arc<Plan>,
        thread: usize,
        stage: Arc<Stage>,
        progress: Arc<Progress>,
        finished: Sender<Stats>,
    ) -> io::Result<Self> {
        let (mut connections, mut agents) = (Vec::new(), Vec::new());
        let each = plan.options.agents_per_connection;
        for number in plan.share(thread) {
            let (start, first) = (agents.len(), number * each);
            for index in first..plan.options.agents.min(first + each) {
                let mut uid = [0; 16];
                uid[..12].copy_from_slice(&plan.uid_prefix);
                uid[12..].copy_from_slice(&(index as u32).to_be_bytes());
                agents.push(Agent {
                    uid,
                    sequence_num: 0,
                    unanswered: VecDeque::new(),
                    status: unset(),
                    round: 0,
                    ready: false,
                    full_at: None,
                });
            }
            connections.push(Connection::new(start as u32..agents.len() as u32));
        }
        let seed = plan.options.seed.wrapping_add(thread as u64);
        Ok(Self {
            thread,
            stage,
            progress,
            finished,
            poll: Poll::new()?,
            step: Step::Rest,
            step_began: 0,
            generation: 0,
            now: 0,
            connections,
            agents,
            renamed: HashMap::new(),
            allowed: 0,
            to_connect: VecDeque::new(),
            connecting: 0,
            next_connect: 0.0,
            next_message: 0.0,
            next_churn: 0.0,
            turn: 0,
            churned: 0,
            round: 0,
            wakes: BinaryHeap::new(),
            read_buffer: vec![0; 64 * 1024],
            out: Vec::with_capacity(64 * 1024),
            applied: (Vec::new(), unset()),
            stats: Stats::default(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            plan,
        })
    }

    /// Works until the run is over.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            if let Some(step) = self.stage.changed(&mut self.generation) {
                self.change(step);
                if step == Step::Stop {
                    return Ok(());
                }
            }
            let wait = self.tend();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                self.now = self.stage.now();
                self.handle(event.token().0, event.is_read_closed() || event.is_error());
            }
        }
    }

    /// Ends a step and begins another one.
    fn change(&mut self, step: Step) {
        self.now = self.stage.now();
        if self.step == Step::Drain {
            let (mut left, since) = (0, self.step_began);
            for agent in &mut self.agents {
                // What a connection began with that came back meanwhile is not late.
                let before = agent.unanswered.len();
                agent.unanswered.retain(|sent| sent.at >= since);
                left += before - agent.unanswered.len();
            }
            self.progress.unanswered.subtract(left);
            self.trouble(Trouble::Unanswered, left);
        }
        self.step = step;
        self.step_began = self.now;
        // The conductor is gone only when the run has failed already.
        let _ = self.finished.send(std::mem::take(&mut self.stats));
        self.progress.done.clear();
        match step {
            Step::Connect { upto } => {
                let threads = self.plan.options.threads;
                let upto = (upto + threads - 1 - self.thread) / threads;
                let upto = upto.min(self.connections.len());
                self.to_connect.extend(self.allowed..upto);
                self.allowed = self.allowed.max(upto);
            }
            Step::Traffic => self.begin_traffic(),
            Step::Beat => self.begin_round(Kind::Heartbeat),
            Step::Large => self.begin_round(Kind::Large),
            Step::Leave => {
                self.to_connect.clear();
                self.wakes.clear();
                for connection in 0..self.connections.len() {
                    self.leave(connection);
                }
            }
            Step::Rest | Step::Drain | Step::Push { .. } | Step::Stop => {}
        }
    }

    fn begin_traffic(&mut self) {
        let now = self.now as f64;
        // Coming from traffic, as the end of the warm-up, everything is under way.
        if self.next_message < now {
            self.next_message = now;
        }
        if self.next_churn < now {
            self.next_churn = now;
        }
        if self.plan.options.paced().is_some() {
            return;
        }
        for connection in 0..self.connections.len() {
            for agent in self.connections[connection].agents.clone() {
                self.refill(connection, agent);
            }
            self.write_out(connection);
        }
    }

    /// Does what has become due, and says how long the sockets may be waited for.
    fn tend(&mut self) -> Duration {
        self.now = self.stage.now();
        let now = self.now as f64;
        let mut next = now + LOOK.as_nanos() as f64;
        let mut busy = false;

        for _ in 0..AT_A_TIME {
            match self.wakes.peek() {
                Some(Reverse((at, wake))) if *at <= self.now => {
                    let wake = *wake;
                    self.wakes.pop();
                    self.wake(wake);
                }
                Some(Reverse((at, _))) => {
                    next = next.min(*at as f64);
                    break;
                }
                None => break,
            }
        }

        let per_second = self.plan.options.connect_rate.map(|rate| self.own_part(rate));
        for _ in 0..AT_A_TIME {
            if self.to_connect.is_empty() || self.connecting >= self.plan.options.connecting {
                break;
            }
            if let Some(rate) = per_second {
                if self.next_connect > now {
                    next = next.min(self.next_connect);
                    break;
                }
                self.next_connect = self.next_connect.max(now - 1e7) + 1e9 / rate;
            }
            let Some(connection) = self.to_connect.pop_front() else { break };
            self.connect(connection);
        }

        if self.step == Step::Traffic {
            if let Some(rate) = self.plan.options.paced() {
                let period = 1e9 / self.own_part(rate);
                let mut left = AT_A_TIME;
                while self.next_message <= now && left > 0 {
                    self.paced(self.next_message as u64);
                    self.next_message += period;
                    left -= 1;
                }
                busy |= left == 0;
                next = next.min(self.next_message);
            }
            if let Some(rate) = self.plan.options.churn {
                let period = 1e9 / self.own_part(rate);
                let mut left = AT_A_TIME;
                while self.next_churn <= now && left > 0 {
                    self.churn();
                    self.next_churn += period;
                    left -= 1;
                }
                busy |= left == 0;
                next = next.min(self.next_churn);
            }
        }

        let wait = Duration::from_nanos((next - self.stage.now() as f64).max(0.0) as u64);
        match busy || wait < SPIN {
            true => Duration::ZERO,
            // The system rounds up.
            false => Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(1)),
        }
    }

    /// This thread's part of a rate of all agents.
    fn own_part(&self, rate: f64) -> f64 {
        rate * self.agents.len() as f64 / self.plan.options.agents as f64
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::Connect(connection) => {
                if self.connections[connection].state == State::Down {
                    self.to_connect.push_back(connection);
                }
            }
            Wake::Report(agent, kind) => {
                let connection = self.connection_of(agent);
                self.send(connection, agent, kind, self.now);
                self.write_out(connection);
            }
            Wake::Resume(agent) => {
                let connection = self.connection_of(agent);
                self.refill(connection, agent);
                self.write_out(connection);
            }
        }
    }

    fn connection_of(&self, agent: u32) -> usize {
        agent as usize / self.plan.options.agents_per_connection
    }

    fn wake_after(&mut self, seconds: Option<u64>, wake: Wake) {
        let time = seconds.map_or(RETRY, |seconds| Duration::from_secs(seconds.min(3600)));
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Up to a tenth more, so that not everyone comes back at once.
        let later = self.random() % (time / 10 + 1);
        self.wakes.push(Reverse((self.now + time + later, wake)));
    }

    fn connect(&mut self, index: usize) {
        let (options, now) = (&self.plan.options, self.now);
        if self.connections[index].state != State::Down {
            return;
        }
        let source = match options.sources.len() {
            0 => None,
            count => Some(options.sources[index % count]),
        };
        let begun = Link::begin(options.server.addr, source, self.plan.tls.as_ref());
        let mut link = match begun {
            Ok(link) => link,
            Err(error) => {
                self.trouble(Trouble::Connect(error.kind()), 1);
                return self.wake_after(None, Wake::Connect(index));
            }
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut link.socket, Token(index), interest)
        {
            self.trouble(Trouble::Connect(error.kind()), 1);
            return self.wake_after(None, Wake::Connect(index));
        }
        let connection = &mut self.connections[index];
        connection.clear();
        connection.begun = now;
        connection.link = Some(link);
        connection.state = State::Connecting;
        self.connecting += 1;
    }

    /// Drops a connection and opens it again.
    fn churn(&mut self) {
        let index = self.churned % self.connections.len();
        self.churned += 1;
        if !self.connections[index].is_open() {
            return;
        }
        let goodbye = !self.connections[index].said_goodbye && self.plan.options.server.websocket;
        if goodbye {
            self.say_goodbye(index);
            self.write_out(index);
        }
        self.connections[index].said_goodbye = goodbye;
        self.stats.dropped += 1;
        self.shut(index, false);
        self.to_connect.push_back(index);
    }

    fn leave(&mut self, index: usize) {
        let drop = self.plan.options.leave == Leave::Drop;
        if drop || !(self.connections[index].is_open() || self.connections[index].renewed) {
            return self.shut(index, false);
        }
        self.say_goodbye(index);
        if self.connections[index].is_open() {
            self.connections[index].state = State::Leaving;
        }
        self.write_out(index);
    }

    fn trouble(&mut self, trouble: Trouble, times: usize) {
        self.stats.troubles(trouble, times as u64);
        self.progress.troubles.add(times);
    }

    /// Not for secrets: the next number of a short sequence (xorshift).
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
