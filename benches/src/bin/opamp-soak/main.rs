//! A server under churn for minutes: connects, disconnects, reports, large reports, offers to all and
//! to some, on both transports. What is left when everyone has gone must be the same in the end as in
//! the beginning.

mod server;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use clap::Parser;
use opamp_benches::load::{Options, Report, run};
use opamp_benches::process;

use self::server::State;

/// Keeps a server busy with agents that come, report, take configurations and go, and looks between the
/// cycles, when everyone has gone, whether its memory, file descriptors and tasks have grown.
///
/// Exit status: 0 if they have not and nothing went wrong, 1 otherwise, 2 on bad usage. Linux only.
#[derive(Debug, Parser)]
#[command(name = "opamp-soak", version)]
struct Args {
    /// How many cycles; the first three are for warming up
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(5..))]
    cycles: u32,

    /// How long the traffic of a cycle runs, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    seconds: u32,

    /// Agents on WebSockets; a quarter as many use HTTP beside them
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(8..))]
    agents: u32,

    /// Over TLS
    #[arg(long)]
    tls: bool,

    /// Is the server: the program starts itself so
    #[arg(long, hide = true)]
    serve: bool,

    /// The directory of the server's certificate
    #[arg(long, hide = true)]
    certificate: Option<PathBuf>,
}

/// Cycles that do not count.
const WARM_UP: usize = 3;
/// How long the last agents may take to be forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// How much more memory may be there in the end: what an allocator keeps varies.
const TOLERATED: u64 = 4 << 20;

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match args.serve {
        true => server::serve(args.certificate.as_deref()).map(|()| true),
        false => soak(&args),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // When stderr is gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    // As above.
    let _ = writeln!(io::stdout(), "{line}");
}

/// The server's process; it ends with the value.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(certificate: Option<&Path>) -> Result<Self, String> {
        let wrong = |error: io::Error| format!("the server cannot be started: {error}");
        let mut command = Command::new(env::current_exe().map_err(wrong)?);
        command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(directory) = certificate {
            command.arg("--certificate").arg(directory);
        }
        let mut child = command.spawn().map_err(wrong)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the server has no pipes".to_owned());
        };
        let mut server =
            Self { child, input, output: BufReader::new(output), address: String::new() };
        server.address = server.line()?;
        Ok(server)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(len) if len > 0 => Ok(line.trim().to_owned()),
            _ => Err("the server has ended".to_owned()),
        }
    }

    fn tell(&mut self, line: &str) -> Result<(), String> {
        writeln!(self.input, "{line}").map_err(|_| "the server has ended".to_owned())
    }

    fn state(&mut self) -> Result<State, String> {
        self.tell("state")?;
        serde_json::from_str(&self.line()?).map_err(|error| format!("not a state: {error}"))
    }

    /// Waits until everyone is forgotten.
    fn alone(&mut self) -> Result<State, String> {
        let until = Instant::now() + FORGOTTEN;
        loop {
            let state = self.state()?;
            if state.agents == 0 {
                // Connections that were dropped end within a moment.
                thread::sleep(Duration::from_secs(1));
                return self.state();
            }
            if Instant::now() > until {
                return Err(format!("{} agents are not forgotten", state.agents));
            }
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What is left after a cycle.
#[derive(Debug, Clone, Copy)]
struct Left {
    resident: u64,
    descriptors: usize,
    tasks: usize,
}

fn soak(args: &Args) -> Result<bool, String> {
    let scratch = tempfile::tempdir().map_err(|error| format!("no temporary files: {error}"))?;
    let certificate = args.tls.then(|| scratch.path());
    if let Some(directory) = certificate {
        opamp_benches::certificate::write(directory)?;
    }
    let mut server = Server::start(certificate)?;
    let pid = server.child.id();
    let (mut all, mut good) = (Vec::new(), true);
    for cycle in 1..=args.cycles {
        let reports = one_cycle(args, &mut server, certificate, cycle)?;
        let state = server.alone()?;
        let memory = process::memory(pid).ok_or("the memory of a process is not known here")?;
        let descriptors = process::descriptors(pid).ok_or("the server has ended")?;
        let left = Left { resident: memory.resident, descriptors, tasks: state.tasks };
        let answered = |report: &Report| report.traffic.as_ref().map_or(0, |step| step.answered);
        let connected = |report: &Report| {
            let steps = [&report.connect, &report.traffic];
            steps.into_iter().flatten().map(|step| step.connections).sum::<u64>()
        };
        let offers = |report: &Report| report.traffic.as_ref().map_or(0, |step| step.offers);
        say(&format!(
            "cycle {cycle:>3}: {} connections, {} messages, {} offers; left: {} kB resident, {} \
             descriptors, {} tasks, {} bytes of state",
            reports.iter().map(connected).sum::<u64>(),
            reports.iter().map(answered).sum::<u64>(),
            reports.iter().map(offers).sum::<u64>(),
            left.resident / 1024,
            left.descriptors,
            left.tasks,
            state.retained,
        ));
        if let Some(wrong) = what_went_wrong(&reports) {
            say(&format!("           {wrong}"));
            good = false;
        }
        if state.retained > 0 {
            say("           there is state of agents that are forgotten");
            good = false;
        }
        all.push(left);
    }
    let flat = judge(&all[WARM_UP.min(all.len() - 2)..]);
    Ok(good && flat)
}

/// Agents come, work and go, while the server is told to offer them this and that.
fn one_cycle(
    args: &Args,
    server: &mut Server,
    certificate: Option<&Path>,
    cycle: u32,
) -> Result<Vec<Report>, String> {
    let over = |scheme: &str, tls: &str, more: String| {
        let scheme = if args.tls { tls } else { scheme };
        let mut line = format!(
            "opamp-load --server {scheme}://{}/v1/opamp --duration {}s --warmup 0s --config-size \
             4096 --mix heartbeat=6,full=2,config=2,health=1 --leave {} {more}",
            server.address,
            args.seconds,
            if cycle.is_multiple_of(2) { "goodbye" } else { "drop" },
        );
        if let Some(directory) = certificate {
            line.push_str(&format!(" --ca {}", directory.join("cert.pem").display()));
        }
        Options::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    };
    let (many, few) = (args.agents, args.agents / 4);
    let each = 1 + (cycle - 1) % 3;
    let websocket = over(
        "ws",
        "wss",
        format!(
            "--agents {many} --agents-per-connection {each} --rate {} --churn {} --large 200000",
            many * 8,
            many / 4
        ),
    )?;
    let http = over(
        "http",
        "https",
        format!("--agents {few} --rate {} --churn {} --large 200000", few * 4, few.div_ceil(8)),
    )?;

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let run = |options: Options| move || run(&options, &mut |_| {});
        let agents = [scope.spawn(run(websocket)), scope.spawn(run(http))];
        let operator = scope.spawn(|| {
            // Sizes below and above what is compressed, what a buffer holds, what a socket takes.
            let sizes = [100, 5000, 70_000, 900_000];
            for (round, size) in sizes.iter().cycle().enumerate() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let kind = if round % 3 == 0 { "offer" } else { "single" };
                server.tell(&format!("{kind} {size}"))?;
                thread::sleep(Duration::from_millis(300));
            }
            // The next cycle begins with a small one.
            server.tell("offer 100")
        });
        let reports = agents.map(thread::ScopedJoinHandle::join);
        ended.store(true, Ordering::Relaxed);
        operator.join().map_err(|_| "the operator panicked".to_owned())??;
        let reports = reports.into_iter();
        reports.map(|of| of.map_err(|_| "the load generator panicked".to_owned())?).collect()
    })
}

/// The server drops some connections because it is told to, and what was under way is lost then.
fn what_went_wrong(reports: &[Report]) -> Option<String> {
    use opamp_benches::load::Trouble;

    let meant = |trouble: &Trouble| {
        matches!(trouble, Trouble::Closed(_) | Trouble::Unanswered | Trouble::Broken(_))
    };
    let wrong: Vec<_> = reports
        .iter()
        .flat_map(|report| &report.troubles)
        .filter(|(trouble, _)| !meant(trouble))
        .map(|(trouble, times)| format!("{times} × {trouble}"))
        .collect();
    (!wrong.is_empty()).then(|| wrong.join(", "))
}

/// Compares the first and the last third of the cycles.
fn judge(all: &[Left]) -> bool {
    let third = all.len().div_ceil(3);
    let median = |of: &[Left], figure: fn(&Left) -> u64| {
        let mut figures: Vec<_> = of.iter().map(figure).collect();
        figures.sort_unstable();
        figures[figures.len() / 2]
    };
    let mut flat = true;
    let mut compare = |name, figure: fn(&Left) -> u64, tolerated| {
        let (first, last) =
            (median(&all[..third], figure), median(&all[all.len() - third..], figure));
        let grown = last > first + tolerated;
        flat &= !grown;
        say(&format!(
            "{}: {name}, {first} in the first third and {last} in the last",
            if grown { "GREW" } else { "flat" }
        ));
    };
    compare("resident bytes", |left| left.resident, TOLERATED);
    compare("descriptors", |left| left.descriptors as u64, 0);
    compare("tasks", |left| left.tasks as u64, 0);
    flat
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn growth_is_seen_and_noise_is_not() {
        let left = |resident, descriptors, tasks| Left { resident, descriptors, tasks };
        let noise: Vec<_> = [0, 900_000, 100_000, 2_000_000, 800_000, 0]
            .map(|more| left(30_000_000 + more, 11, 5))
            .into();
        assert!(judge(&noise));
        let leak: Vec<_> = (0..6).map(|n| left(30_000_000 + n * 2_000_000, 11, 5)).collect();
        assert!(!judge(&leak));
        let sockets: Vec<_> = (0..6).map(|n| left(30_000_000, 11 + n, 5)).collect();
        assert!(!judge(&sockets));
        let tasks: Vec<_> = (0..6).map(|n| left(30_000_000, 11, 5 + n)).collect();
        assert!(!judge(&tasks));
    }
}
