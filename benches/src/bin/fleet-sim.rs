//! Simulates a fleet: see `--help`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for a terminal")]

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum as _};
use opamp_benches::sim::{self, Options, Progress, Report, Scenario};
use opamp_client::core::Transport;

/// How often a long phase says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Simulates a fleet of agents and a server in virtual time.
///
/// The agents are real client cores and the server is the real registry; the network and the time of
/// the server's processor are simulated. The same seed gives the same result, to within the second.
/// It tells how long a fleet takes to be whole again after a restart, an outage or a rollout, what the
/// server has to stand meanwhile, and what admission control changes about it. A million agents need
/// about 12 GB of memory.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What happens to the fleet; more than one may be given. Default: everything.
    scenarios: Vec<Scenario>,
    /// Agents.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    agents: u32,
    /// The same seed gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How agents connect.
    #[arg(long, default_value = "websocket", value_parser = ["websocket", "http"])]
    transport: String,
    /// Seconds between heartbeats, and polls.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    heartbeat_interval: u64,
    /// Microseconds the server needs for a message: what `benches/run` measures of a real one.
    #[arg(long, default_value_t = 10)]
    message_cost: u64,
    /// Microseconds the server needs for a connection; about 100 without TLS, 1000 with.
    #[arg(long, default_value_t = 100)]
    connection_cost: u64,
    /// Connections that may wait for the server's processor; it refuses further ones, at no cost.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_waiting: u32,
    /// Agents the server asks for their full state in a second; 0 asks all at once.
    #[arg(long, default_value_t = 500)]
    full_state_rate: u32,
    /// Seconds of an agent's longest first delay before it tries again.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    backoff_initial: u64,
    /// Seconds of its longest delay of all.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    backoff_max: u64,
    /// Connections and agents the server admits in a second, and ten times as many at once; the others
    /// are told when to come back. 0 admits all.
    #[arg(long, default_value_t = 1_000)]
    admission_rate: u32,
    /// Longest way of a message, in milliseconds.
    #[arg(long, default_value_t = 80)]
    max_latency: u64,
    /// Percent of attempts that fail, and of connections that break in a minute, in `flaky-rollout`.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=90))]
    flaky: u32,
    /// Print one JSON object for each scenario.
    #[arg(long)]
    json: bool,
    /// Play, instead of scenarios, the cases of `benches/SCALE.md` and print the tables in it.
    #[arg(long, conflicts_with_all = ["json", "scenarios"])]
    tables: bool,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mut options = Options::default();
    options.agents = args.agents;
    options.seed = args.seed;
    options.transport =
        if args.transport == "http" { Transport::Http } else { Transport::WebSocket };
    options.heartbeat_interval = Duration::from_secs(args.heartbeat_interval);
    options.message_cost = Duration::from_micros(args.message_cost);
    options.connection_cost = Duration::from_micros(args.connection_cost);
    options.max_waiting = args.max_waiting as usize;
    options.full_state_rate = args.full_state_rate;
    options.backoff.initial = Duration::from_secs(args.backoff_initial);
    options.backoff.max = Duration::from_secs(args.backoff_max);
    options.admission_rate = args.admission_rate;
    options.max_latency = Duration::from_millis(args.max_latency);
    options.flaky_percent = args.flaky;

    if args.tables {
        let mut progress = Saying::default();
        let mut out = std::io::stdout().lock();
        return sim::write_tables(&options, &mut out, &mut |title, it| progress.say(title, it));
    }
    let all = Scenario::value_variants();
    let scenarios = if args.scenarios.is_empty() { all } else { &args.scenarios };
    for scenario in scenarios {
        let mut progress = Saying::default();
        let name = format!("{scenario:?}");
        let report = sim::run(*scenario, &options, &mut |it| progress.say(&name, it));
        match args.json {
            true => println!("{}", serde_json::to_string(&report)?),
            false => show(&report),
        }
    }
    Ok(())
}

/// Says how far it is.
struct Saying {
    began: Instant,
    said: Instant,
}

impl Default for Saying {
    fn default() -> Self {
        let began = Instant::now();
        Self { began, said: began }
    }
}

impl Saying {
    fn say(&mut self, title: &str, progress: Progress) {
        let Progress { phase, seconds, missing, is_over, .. } = progress;
        let elapsed = self.began.elapsed().as_secs_f64();
        if is_over {
            eprintln!("{elapsed:7.1} s  {title}: {phase} is over after {seconds} s");
        } else if self.said.elapsed() >= SAY_EVERY {
            self.said = Instant::now();
            eprintln!("{elapsed:7.1} s  {title}: {phase}, {seconds} s, {missing} missing");
        }
    }
}

fn show(report: &Report) {
    println!(
        "\n{}: {} agents, seed {}, {:.0} bytes kept for each",
        report.scenario, report.agents, report.seed, report.retained_bytes_per_agent
    );
    println!(
        "{:<18} {:>7} {:>7} {:>7} {:>8} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>8}",
        "phase",
        "50 %",
        "99 %",
        "all",
        "missing",
        "msg/agent",
        "peak msg/s",
        "attempts",
        "away",
        "failed",
        "B/agent",
        "wait"
    );
    for phase in &report.phases {
        let time = |seconds: Option<f64>| {
            seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s"))
        };
        println!(
            "{:<18} {:>7} {:>7} {:>7} {:>8} {:>10.2} {:>10} {:>9.2} {:>9} {:>9} {:>9.0} {:>6.1} s",
            phase.name,
            time(phase.half_seconds),
            time(phase.most_seconds),
            time(phase.all_seconds),
            phase.missing,
            phase.messages_per_agent,
            phase.peak_messages_per_second,
            phase.attempts_per_agent,
            phase.turned_away,
            phase.failed,
            phase.received_bytes_per_agent + phase.sent_bytes_per_agent,
            phase.longest_wait_seconds,
        );
    }
}
