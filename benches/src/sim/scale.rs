//! The cases from which an operator sees what a fleet is like for one Server.

use std::io::{self, Write};
use std::time::Duration;

use opamp_client::core::Transport;

use super::{Options, Phase, Progress, Report, Scenario, run};

/// Cases that differ in one thing.
struct Group {
    title: &'static str,
    /// What to see in it.
    text: &'static str,
    cases: &'static [Case],
}

struct Case {
    title: &'static str,
    scenario: Scenario,
    adjust: fn(&mut Options),
}

const fn case(title: &'static str, scenario: Scenario, adjust: fn(&mut Options)) -> Case {
    Case { title, scenario, adjust }
}

const SLOW: Duration = Duration::from_millis(1);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const GROUPS: &[Group] = &[
    Group {
        title: "What happens to a fleet",
        text: "WebSockets, and a server without limits of its own but those it has by default. Before \
               each, all agents connect while machines boot within two heartbeat intervals, which is \
               the first line.",
        cases: &[
            case("all connect", Scenario::Boot, |_| {}),
            case("restart, state kept", Scenario::RestartKept, |_| {}),
            case("crash, durable state kept", Scenario::CrashKept, |_| {}),
            case("restart, state lost", Scenario::RestartLost, |_| {}),
            case("10 minutes without network", Scenario::Storm, |_| {}),
            case("8 KiB configuration to all", Scenario::Rollout, |_| {}),
            case("the same, 10 % flaky links", Scenario::FlakyRollout, |_| {}),
        ],
    },
    Group {
        title: "The same over HTTP",
        text: "Agents poll as often as they would send heartbeats.",
        cases: &[
            case("restart, state kept", Scenario::RestartKept, over_http),
            case("restart, state lost", Scenario::RestartLost, over_http),
            case("10 minutes without network", Scenario::Storm, over_http),
            case("8 KiB configuration to all", Scenario::Rollout, over_http),
            case("the same, 10 % flaky links", Scenario::FlakyRollout, over_http),
        ],
    },
    Group {
        title: "How fast a server admits agents, and asks for what it lost",
        text: "A server that lost its state, with other rates: `arrivals`, the connections and agents it \
               admits in a second, and `full_state_rate`, the full states it asks for in a second. What \
               it has to take grows with them, and the fleet is known again sooner.",
        cases: &[
            case("1,000 and 500, the defaults", Scenario::RestartLost, |_| {}),
            case("1,000 and 2,000", Scenario::RestartLost, |options| rates(options, 1_000, 2_000)),
            case("5,000 and 2,000", Scenario::RestartLost, |options| rates(options, 5_000, 2_000)),
            case("5,000 and 5,000", Scenario::RestartLost, |options| rates(options, 5_000, 5_000)),
            case("as they come", Scenario::RestartLost, |options| rates(options, 0, 0)),
        ],
    },
    Group {
        title: "A server that is slow to connect, and its limits",
        text: "A connection takes a millisecond of its processor, as handshakes with large RSA keys do. \
               The server is restarted with its state. `max_waiting` is how many connections wait for \
               the processor at a time, which `max_connections` of the server and the backlog of its \
               socket bound; `admission` is the rate at which the server admits, and tells the others \
               when to come back, which takes a connection, too.",
        cases: &[
            case("max_waiting 1,000", Scenario::RestartKept, |options| {
                slow(options);
                options.max_waiting = 1_000;
            }),
            case("max_waiting 20,000, the default", Scenario::RestartKept, slow),
            case("max_waiting 100,000", Scenario::RestartKept, |options| {
                slow(options);
                options.max_waiting = 100_000;
            }),
            case("admission 300 in a second", Scenario::RestartKept, |options| {
                slow(options);
                options.admission_rate = 300;
            }),
            case("admission 600 in a second", Scenario::RestartKept, |options| {
                slow(options);
                options.admission_rate = 600;
            }),
        ],
    },
    Group {
        title: "Backoff of the agents",
        text: "The same slow server, and how agents back off: the longest first delay, and the longest \
               of all. Half of each delay is random.",
        cases: &[
            case("1 s to 10 s", Scenario::RestartKept, |options| backoff(options, 1, 10)),
            case("1 s to 60 s, the default", Scenario::RestartKept, |options| {
                backoff(options, 1, 60);
            }),
            case("10 s to 60 s", Scenario::RestartKept, |options| backoff(options, 10, 60)),
            case("60 s to 300 s", Scenario::RestartKept, |options| backoff(options, 60, 300)),
        ],
    },
    Group {
        title: "Heartbeats",
        text: "How often agents say that they are there, in two intervals in which nothing else happens.",
        cases: &[
            case("every 10 s", Scenario::Rest, |options| options.heartbeat_interval = seconds(10)),
            case("every 30 s, the default", Scenario::Rest, |_| {}),
            case("every 120 s", Scenario::Rest, |options| {
                options.heartbeat_interval = seconds(120);
            }),
        ],
    },
];

fn over_http(options: &mut Options) {
    options.transport = Transport::Http;
}

fn slow(options: &mut Options) {
    options.connection_cost = SLOW;
}

fn rates(options: &mut Options, admission: u32, full_state: u32) {
    options.admission_rate = admission;
    options.full_state_rate = full_state;
}

fn backoff(options: &mut Options, initial: u64, max: u64) {
    slow(options);
    options.backoff.initial = seconds(initial);
    options.backoff.max = seconds(max);
}

/// Plays all cases, each as `options` say except in what it is about, and writes tables in Markdown.
/// `progress` is told of each second of virtual time, with the title of the case.
///
/// # Errors
///
/// Those of writing.
pub fn write_tables(
    options: &Options,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(&str, Progress),
) -> io::Result<()> {
    let Options { agents, seed, message_cost, connection_cost, .. } = options;
    writeln!(
        out,
        "\n{agents} agents, seed {seed}. Where nothing else is said, a message takes {message_cost:?} of \
         the server's processor, a connection {connection_cost:?}, and agents send heartbeats every \
         {:?}.",
        options.heartbeat_interval,
    )?;
    for group in GROUPS {
        write!(out, "\n## {}\n\n{}\n\n{}", group.title, group.text, HEAD)?;
        for case in group.cases {
            let mut options = options.clone();
            (case.adjust)(&mut options);
            let report = run(case.scenario, &options, &mut |it| progress(case.title, it));
            write_row(out, case.title, &report)?;
            out.flush()?;
        }
    }
    Ok(())
}

const HEAD: &str = "\
| | half, s | 99 %, s | all, s | messages of each | most in a second | bytes for each | attempts of each | turned away | failed | longest wait, s |
| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |
";

fn write_row(out: &mut dyn Write, title: &str, report: &Report) -> io::Result<()> {
    let Some(phase) = report.phases.last() else { return Ok(()) };
    let Phase { half_seconds, most_seconds, all_seconds, missing, .. } = *phase;
    let [half, most] = [half_seconds, most_seconds].map(|seconds| match seconds {
        Some(seconds) => format!("{seconds:.0}"),
        None => "never".to_owned(),
    });
    let all = match all_seconds {
        Some(seconds) => format!("{seconds:.0}"),
        None => format!("{missing} never"),
    };
    writeln!(
        out,
        "| {title} | {half} | {most} | {all} | {:.2} | {} | {:.0} | {:.2} | {} | {} | {:.2} |",
        phase.messages_per_agent,
        phase.peak_messages_per_second,
        phase.received_bytes_per_agent + phase.sent_bytes_per_agent,
        phase.attempts_per_agent,
        phase.turned_away,
        phase.failed,
        phase.longest_wait_seconds,
    )
}
