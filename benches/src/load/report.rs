//! What a run came to, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::histogram::Histogram;
use super::options::Options;
use super::stats::{Stats, Trouble};
use super::template::Kind;
use crate::process::Memory;

/// The results of a run. Times are in seconds or, where the name says so, in microseconds.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The version of the load generator.
    pub version: &'static str,
    /// When the run began, in milliseconds since 1970.
    pub started: u64,
    /// `websocket` or `http`.
    pub transport: &'static str,
    /// Whether TLS was used.
    pub tls: bool,
    /// How many agents there were.
    pub agents: usize,
    /// How many connections carried them.
    pub connections: usize,
    /// Threads of the load generator.
    pub threads: usize,
    /// Messages sent in all steps, the warm-up included.
    pub sent: u64,
    /// Connecting and reporting: `server.cpu_us` is for each agent.
    pub connect: Option<StepReport>,
    /// The measured traffic: `server.cpu_us` is for each answered message.
    pub traffic: Option<StepReport>,
    /// The rest after it.
    pub rest: Option<StepReport>,
    /// The large reports.
    pub large: Option<StepReport>,
    /// All pushes together: `server.cpu_us` is for each agent and push.
    pub push: Option<StepReport>,
    /// From trigger to arrival, for each push.
    pub pushes: Vec<Latency>,
    /// Leaving.
    pub leave: Option<StepReport>,
    /// The server's memory in the course of the run.
    pub memory: Vec<MemoryAt>,
    /// The server's memory for each agent, in bytes: what became resident from the first to the last
    /// of the marks at which it was noted.
    pub memory_per_agent: Option<f64>,
    /// How often what went wrong, in all steps.
    #[serde(serialize_with = "by_name")]
    pub troubles: BTreeMap<Trouble, u64>,
}

/// The server's memory with so many agents.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryAt {
    /// In the course of the run.
    pub when: &'static str,
    /// Agents that were connected.
    pub agents: usize,
    /// What it was.
    #[serde(flatten)]
    pub memory: Memory,
}

/// What a step came to.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// How long it took.
    pub seconds: f64,
    /// Messages sent.
    pub sent: u64,
    /// Messages answered.
    pub answered: u64,
    /// Messages answered per second.
    pub answered_per_second: f64,
    /// Messages of the server that answered nothing.
    pub unprompted: u64,
    /// Full reports the server asked for.
    pub full_demanded: u64,
    /// Configurations offered.
    pub offers: u64,
    /// Connections made.
    pub connections: u64,
    /// Connections dropped on purpose.
    pub dropped: u64,
    /// Bytes sent and received, without TLS.
    pub bytes_out: u64,
    /// Bytes received, without TLS.
    pub bytes_in: u64,
    /// From beginning a connection to the end of the handshakes.
    pub connect: Latency,
    /// From sending a message, or the time it was due, to its answer.
    pub latency: Latency,
    /// The same for each kind of message.
    pub latency_by_kind: BTreeMap<&'static str, Latency>,
    /// From the trigger of a push to its arrival.
    pub push: Latency,
    /// What the server used.
    pub server: Option<Cost>,
    /// What the load generator used itself: near 100 % for each thread it may be what is slow.
    pub generator: Option<Cost>,
    /// How often what went wrong.
    #[serde(serialize_with = "by_name")]
    pub troubles: BTreeMap<Trouble, u64>,
    #[serde(skip)]
    stats: Stats,
    /// What costs are divided by, if not by messages.
    #[serde(skip)]
    agents: Option<u64>,
}

/// CPU time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Cost {
    /// In total.
    pub cpu_seconds: f64,
    /// Of one core.
    pub cpu_percent: f64,
    /// For each message or agent, in microseconds.
    pub cpu_us: Option<f64>,
}

/// How long something took, in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Latency {
    /// How often it was measured.
    pub count: u64,
    /// The mean.
    pub mean_us: f64,
    /// The median.
    pub p50_us: f64,
    /// What 90 % did not exceed.
    pub p90_us: f64,
    /// What 99 % did not exceed.
    pub p99_us: f64,
    /// What 99.9 % did not exceed.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let us = |nanos: u64| nanos as f64 / 1000.0;
        Self {
            count: histogram.len(),
            mean_us: us(histogram.mean()),
            p50_us: us(histogram.percentile(0.5)),
            p90_us: us(histogram.percentile(0.9)),
            p99_us: us(histogram.percentile(0.99)),
            p999_us: us(histogram.percentile(0.999)),
            max_us: us(histogram.max()),
        }
    }
}

fn by_name<S: Serializer>(
    troubles: &BTreeMap<Trouble, u64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(troubles.iter().map(|(trouble, times)| (trouble.to_string(), times)))
}

impl StepReport {
    pub(crate) fn new(
        elapsed: Duration,
        stats: Stats,
        server: Option<Duration>,
        own: Option<Duration>,
    ) -> Self {
        let cost =
            |cpu: Duration| Cost { cpu_seconds: cpu.as_secs_f64(), cpu_percent: 0.0, cpu_us: None };
        let mut report = Self {
            seconds: elapsed.as_secs_f64(),
            sent: 0,
            answered: 0,
            answered_per_second: 0.0,
            unprompted: 0,
            full_demanded: 0,
            offers: 0,
            connections: 0,
            dropped: 0,
            bytes_out: 0,
            bytes_in: 0,
            connect: Latency::default(),
            latency: Latency::default(),
            latency_by_kind: BTreeMap::new(),
            push: Latency::default(),
            server: server.map(cost),
            generator: own.map(cost),
            troubles: BTreeMap::new(),
            stats,
            agents: None,
        };
        report.derive();
        report
    }

    /// Counts costs for each of so many agents, not for each message.
    pub(crate) fn count_agents(&mut self, agents: u64) {
        self.agents = Some(agents);
        self.derive();
    }

    pub(crate) fn push_latency(&self) -> Latency {
        self.push
    }

    /// Adds another part of the same step.
    pub(crate) fn add(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.stats.add(&other.stats);
        for (mine, theirs) in
            [(&mut self.server, other.server), (&mut self.generator, other.generator)]
        {
            if let (Some(mine), Some(theirs)) = (mine, theirs) {
                mine.cpu_seconds += theirs.cpu_seconds;
            }
        }
        if let (Some(mine), Some(theirs)) = (&mut self.agents, other.agents) {
            *mine += theirs;
        }
        self.derive();
    }

    /// Everything that follows from the counts.
    fn derive(&mut self) {
        let stats = &self.stats;
        self.sent = stats.sent;
        self.answered = stats.answered;
        self.answered_per_second = stats.answered as f64 / self.seconds.max(1e-9);
        self.unprompted = stats.unprompted;
        self.full_demanded = stats.full_demanded;
        self.offers = stats.offers;
        self.connections = stats.connections;
        self.dropped = stats.dropped;
        self.bytes_out = stats.bytes_out;
        self.bytes_in = stats.bytes_in;
        self.connect = Latency::of(&stats.connect);
        self.latency = Latency::of(&stats.all_answers());
        let kinds = Kind::ALL.iter().zip(&stats.answers).filter(|(_, answers)| !answers.is_empty());
        self.latency_by_kind =
            kinds.map(|(kind, answers)| (kind.name(), Latency::of(answers))).collect();
        self.push = Latency::of(&stats.push);
        self.troubles = stats.troubles.clone();
        let count = self.agents.unwrap_or(stats.answered);
        for cost in [&mut self.server, &mut self.generator].into_iter().flatten() {
            cost.cpu_percent = 100.0 * cost.cpu_seconds / self.seconds.max(1e-9);
            cost.cpu_us = (count > 0).then(|| cost.cpu_seconds * 1e6 / count as f64);
        }
    }
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or_default()),
            transport: if options.server.websocket { "websocket" } else { "http" },
            tls: options.server.tls,
            agents: options.agents,
            connections: options.connections(),
            threads: options.threads,
            sent: 0,
            connect: None,
            traffic: None,
            rest: None,
            large: None,
            push: None,
            pushes: Vec::new(),
            leave: None,
            memory: Vec::new(),
            memory_per_agent: None,
            troubles: BTreeMap::new(),
        }
    }

    pub(crate) fn add_troubles(&mut self, troubles: &BTreeMap<Trouble, u64>) {
        for (trouble, times) in troubles {
            *self.troubles.entry(trouble.clone()).or_default() += times;
        }
    }

    pub(crate) fn finish(&mut self) {
        let connected = || self.memory.iter().filter(|at| at.when == "connected");
        // With one mark only, the process before anyone came is the other.
        let first = match connected().count() {
            0 | 1 => self.memory.iter().find(|at| at.when == "before"),
            _ => connected().next(),
        };
        if let (Some(first), Some(last)) = (first, connected().next_back())
            && last.agents > first.agents
        {
            let grown = last.memory.resident as f64 - first.memory.resident as f64;
            self.memory_per_agent = Some(grown / (last.agents - first.agents) as f64);
        }
    }

    /// Whether all agents connected and reported.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.troubles.contains_key(&Trouble::NotReady)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = if self.tls { " over TLS" } else { "" };
        let (agents, connections, threads) = (self.agents, self.connections, self.threads);
        writeln!(
            f,
            "{agents} agents on {connections} connections, {}{tls}; threads: {threads}",
            self.transport
        )?;
        let steps = [
            ("connect", &self.connect, "agent"),
            ("traffic", &self.traffic, "message"),
            ("rest", &self.rest, "message"),
            ("large", &self.large, "message"),
            ("push", &self.push, "agent"),
            ("leave", &self.leave, "message"),
        ];
        for (name, step, each) in steps {
            let Some(step) = step else { continue };
            write_step(f, name, step, each)?;
        }
        for at in &self.memory {
            let Memory { resident, anonymous } = at.memory;
            writeln!(
                f,
                "memory   {:<20} {:>7} agents  {:>10} kB resident, {:>10} kB anonymous",
                at.when,
                at.agents,
                resident / 1024,
                anonymous / 1024
            )?;
        }
        if let Some(bytes) = self.memory_per_agent {
            writeln!(f, "memory   for each agent: {bytes:.0} bytes")?;
        }
        for (trouble, times) in &self.troubles {
            writeln!(f, "trouble  {times} × {trouble}")?;
        }
        Ok(())
    }
}

fn write_step(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    step: &StepReport,
    each: &str,
) -> fmt::Result {
    let mut line = format!("{:.2} s", step.seconds);
    let mut more = |count: u64, what: &str| match count {
        0 => Ok(()),
        count => write!(line, ", {count} {what}"),
    };
    more(step.connections, "connections made")?;
    more(step.dropped, "dropped")?;
    more(step.answered, "messages answered")?;
    more(step.unprompted, "unprompted")?;
    more(step.offers, "offers")?;
    more(step.full_demanded, "full reports asked for")?;
    if step.answered > 0 && step.seconds > 0.0 {
        write!(line, ", {:.0}/s", step.answered_per_second)?;
    }
    writeln!(f, "{name:<8} {line}")?;
    for (what, latency) in
        [("handshakes", step.connect), ("answers", step.latency), ("arrival of pushes", step.push)]
    {
        if latency.count > 0 {
            let Latency { p50_us, p90_us, p99_us, p999_us, max_us, .. } = latency;
            writeln!(
                f,
                "         {what}: p50 {} p90 {} p99 {} p99.9 {} max {}",
                time(p50_us),
                time(p90_us),
                time(p99_us),
                time(p999_us),
                time(max_us)
            )?;
        }
    }
    for (who, cost) in [("server", &step.server), ("generator", &step.generator)] {
        let Some(cost) = cost else { continue };
        write!(f, "         {who}: {:.2} s CPU, {:.0} %", cost.cpu_seconds, cost.cpu_percent)?;
        match cost.cpu_us {
            Some(us) => writeln!(f, ", {us:.2} µs for each {each}")?,
            None => writeln!(f)?,
        }
    }
    Ok(())
}

fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}
