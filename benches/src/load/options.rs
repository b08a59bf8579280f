//! What a run can be told.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::target::Target;
use super::template::Kind;

/// Drives an OpAMP server with simulated agents and measures it.
///
/// The agents connect and report, send messages as told, answer what the server offers and asks for
/// (a configuration with APPLIED, ReportFullState with a full report, a new instance uid by taking
/// it), and leave. Steps of a run, in this order: connect, warm-up, traffic, rest, large, push,
/// leave. Results, with what went wrong, go to stdout, progress goes to stderr.
///
/// Exit status: 0 if all agents connected and reported; with --strict, if nothing went wrong at all;
/// 1 otherwise; 2 on bad usage.
///
/// On a WebSocket nothing says what a message answers: the oldest message of the agent is taken for
/// answered, by a push that comes meanwhile, too. Measure pushes to agents that are at rest.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "opamp-load", version)]
pub struct Options {
    /// The server: ws://, wss://, http:// or https://
    #[arg(long, value_name = "URL")]
    pub server: Target,

    /// How many agents there are
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = at_least_one)]
    pub agents: usize,

    /// How many of them share a connection. On plain HTTP they take turns on it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub agents_per_connection: usize,

    /// Threads; agents are divided among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_least_one)]
    pub threads: usize,

    /// Connections begun per second. Default: as fast as the server takes them
    #[arg(long, value_name = "N", value_parser = positive)]
    pub connect_rate: Option<f64>,

    /// Connections whose handshake is under way at a time, for each thread
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    pub connecting: usize,

    /// Source addresses for connections, in turns, such as 127.0.0.2,127.0.0.3. An address has about
    /// 28,000 ports, and a kernel needs long to find a free one when half of them are taken. Default:
    /// the system's choice
    #[arg(long = "source", value_name = "IP,…", value_delimiter = ',')]
    pub sources: Vec<IpAddr>,

    /// What is sent, with weights: heartbeat, full (a full report, the same each time), config (an
    /// effective configuration that changes each time), ack (the status of a configuration: APPLYING,
    /// APPLIED and so on in turns, of the one that was offered last if there was an offer), health
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value = "heartbeat=1")]
    pub mix: Mix,

    /// Messages per second of all agents together, evenly spread; latencies count from the time a
    /// message was due, and to keep it a thread waits busily if there are more than 1,000 per second.
    /// Default: each agent sends when its last message was answered
    #[arg(long, value_name = "N", value_parser = positive, conflicts_with = "interval")]
    pub rate: Option<f64>,

    /// The same as a time between two messages of an agent, such as 30s
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub interval: Option<Duration>,

    /// Messages of an agent that may be unanswered at a time. On plain HTTP a connection still has
    /// one request at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = depth)]
    pub depth: usize,

    /// Sends so many messages at once, and again when all of them are answered, instead of one for
    /// each answer
    #[arg(long, conflicts_with_all = ["rate", "interval"])]
    pub burst: bool,

    /// The size of the effective configuration in reports, in bytes; 0: there is none
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = size)]
    pub config_size: usize,

    /// How long traffic runs before it is measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,

    /// How long traffic is measured; 0s: there is none
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,

    /// Connections per second that are dropped and opened again during traffic; every second of them
    /// after a goodbye
    #[arg(long, value_name = "N", value_parser = positive)]
    pub churn: Option<f64>,

    /// How long agents stay connected after that without sending anything
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub rest: Duration,

    /// Each agent then reports an effective configuration of so many bytes, and its usual state
    /// again: memory must come back
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = size)]
    pub large: usize,

    /// Configurations are then pushed: each is sent with PUT to this http:// URL as the body, and the
    /// server is to offer it to all agents
    #[arg(long, value_name = "URL")]
    pub push_url: Option<Target>,

    /// The size of such a configuration, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8192, value_parser = size)]
    pub push_size: usize,

    /// How many of them, one after the other
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = at_least_one)]
    pub pushes: usize,

    /// Agents do not answer offered configurations
    #[arg(long)]
    pub no_ack: bool,

    /// The server's process id: its CPU time and memory are measured (Linux)
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,

    /// Stops connecting at so many agents, has each of them send a heartbeat, notes the server's
    /// memory, and goes on; the memory per agent is then counted from the first to the last of them
    #[arg(long = "memory-at", value_name = "N,…", value_delimiter = ',')]
    pub memory_at: Vec<usize>,

    /// How long the server gets to settle before its memory is noted
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub settle: Duration,

    /// Sent with each request and handshake; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<Header>,

    /// Trusts the certificates in this PEM file. Default: what the system trusts
    #[arg(long, value_name = "PEM")]
    pub ca: Option<PathBuf>,

    /// Trusts any certificate
    #[arg(long, conflicts_with = "ca")]
    pub insecure: bool,

    /// A client certificate with its chain
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,

    /// The private key of the client certificate
    #[arg(long, value_name = "PEM", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Resumes TLS sessions. Default: each handshake is a full one
    #[arg(long)]
    pub resume: bool,

    /// How agents leave
    #[arg(long, value_enum, default_value_t = Leave::Goodbye)]
    pub leave: Leave,

    /// How long a step may go on without progress before it is given up
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub patience: Duration,

    /// Makes another order of the messages in a mix
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Writes the results as JSON to this file; - is stdout, instead of the text
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Exit status 1 if anything at all went wrong
    #[arg(long)]
    pub strict: bool,

    /// Tells no progress
    #[arg(long)]
    pub quiet: bool,
}

/// How agents leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum Leave {
    /// With agent_disconnect, and a Close frame on a WebSocket.
    Goodbye,
    /// By dropping the connection.
    Drop,
}

/// A header; what it holds may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Header(pub(crate) HeaderName, pub(crate) HeaderValue);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("a header is given as NAME=VALUE")?;
        let name = name.trim().parse().map_err(|_| "not the name of a header")?;
        let value = value.trim().parse().map_err(|_| "not the value of a header")?;
        Ok(Self(name, value))
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=_", self.0)
    }
}

/// How often each kind of message is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// The kind for a random number.
    pub(crate) fn pick(&self, random: u64) -> Kind {
        let total: u64 = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = random % total.max(1);
        for (kind, weight) in &self.0 {
            match left.checked_sub(u64::from(*weight)) {
                Some(less) => left = less,
                None => return *kind,
            }
        }
        Kind::Heartbeat
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let choices = [Kind::Heartbeat, Kind::Full, Kind::Config, Kind::Ack, Kind::Health];
            let kind = choices.into_iter().find(|kind| kind.name() == name.trim());
            let kind = kind.ok_or_else(|| format!("{name:?} is not a kind of message"))?;
            let weight = weight.trim().parse().map_err(|_| format!("{weight:?} is no weight"))?;
            weights.push((kind, weight));
        }
        match weights.iter().any(|(_, weight)| *weight > 0) {
            true => Ok(Self(weights)),
            false => Err("all weights are 0".to_owned()),
        }
    }
}

impl Options {
    /// How many connections carry the agents.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.agents.div_ceil(self.agents_per_connection)
    }

    /// Messages per second, if they are paced.
    #[must_use]
    pub fn paced(&self) -> Option<f64> {
        let of = |interval: Duration| self.agents as f64 / interval.as_secs_f64();
        self.rate.or(self.interval.filter(|interval| !interval.is_zero()).map(of))
    }

    /// Checks what depends on more than one of them.
    ///
    /// # Errors
    ///
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), String> {
        if self.threads > self.connections() {
            return Err("there are more threads than connections".to_owned());
        }
        let pushed = self.push_url.as_ref();
        if pushed.is_some_and(|url| url.websocket || url.tls) {
            return Err("--push-url has to be an http:// URL".to_owned());
        }
        if pushed.is_some() && !self.server.websocket {
            let message = "nothing can be pushed over plain HTTP, where agents ask: use ws://";
            return Err(message.to_owned());
        }
        if self.config_size == 0 && self.mix.0.iter().any(|(kind, _)| *kind == Kind::Config) {
            return Err("for config in --mix give --config-size, too".to_owned());
        }
        if self.large > 0 && self.config_size == 0 {
            return Err("for --large give --config-size, too".to_owned());
        }
        if self.memory_at.iter().any(|mark| *mark > self.agents) {
            return Err("--memory-at names more agents than there are".to_owned());
        }
        Ok(())
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a number of at least 1".to_owned())
}

fn depth(text: &str) -> Result<usize, String> {
    let depth = text.parse().ok().filter(|n| (1..=4096).contains(n));
    depth.ok_or_else(|| "not a number between 1 and 4096".to_owned())
}

/// A message with that much has to fit into 64 MiB.
fn size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|n| *n == 0 || (16..=60 << 20).contains(n));
    size.ok_or_else(|| "neither 0 nor between 16 bytes and 60 MiB".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0);
    number.ok_or_else(|| "not a number above 0".to_owned())
}

/// The times that are taken: a number with the unit ms, s, m or h.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time has a unit: ms, s, m or h".to_owned()),
    };
    let seconds = digits.parse().ok().map(|n: f64| n * factor);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "not a time".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;

    fn options(more: &str) -> Result<Options, clap::Error> {
        let line = format!("opamp-load --server ws://127.0.0.1:1/ {more}");
        Options::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
        options("").unwrap().check().unwrap();
    }

    #[test]
    fn a_mix_is_as_its_weights_say() {
        let mix = options("--config-size 100 --mix heartbeat=3,config=1").unwrap().mix;
        let picked = |kind| (0..400).filter(|n| mix.pick(*n) == kind).count();
        assert_eq!((picked(Kind::Heartbeat), picked(Kind::Config)), (300, 100));
        for wrong in ["heartbeat=0", "goodbye", "full=x", ""] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interval_is_a_rate_of_all() {
        let paced = |more| options(more).unwrap().paced();
        assert_eq!(paced("--agents 300 --interval 30s"), Some(10.0));
        assert_eq!(paced("--rate 2.5"), Some(2.5));
        assert_eq!(paced(""), None);
        assert!(options("--rate 1 --interval 1s").is_err());
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2.5m"), Ok(Duration::from_secs(150)));
        for wrong in ["5", "s", "-1s", "1d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        for wrong in [
            "--threads 3 --agents 2",
            "--mix config",
            "--large 100",
            "--memory-at 101",
            "--push-url ws://127.0.0.1:1/",
        ] {
            assert!(options(wrong).unwrap().check().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_is_not_for_logs() {
        let options = options("--header Authorization=secret").unwrap();
        assert!(!format!("{options:?}").contains("secret"));
    }
}
