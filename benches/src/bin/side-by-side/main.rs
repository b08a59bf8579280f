//! Measures servers side by side and writes the page of results; `benches/run` builds everything and
//! calls it.

mod agent;
mod case;
mod machine;
mod subject;
mod table;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};

use self::case::{Scale, cases};
use self::subject::{SOURCES, Stage, Subject};
use self::table::{Rounds, goals, medians, verdicts};

/// Measures OpAMP servers side by side. It is called by benches/run, which builds what it needs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where server, opamp-load and opamp-floor are
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,

    /// The bare server on opamp-go. Default: it is left out
    #[arg(long, value_name = "FILE")]
    go: Option<PathBuf>,

    /// The core the server runs on
    #[arg(long, value_name = "N", default_value_t = 0)]
    server_core: usize,

    /// The core the load generator runs on
    #[arg(long, value_name = "N", default_value_t = 1)]
    load_core: usize,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures every case in interleaved rounds and writes the page of results
    Table(Table),
    /// Measures what the client costs and prints it
    Client {
        /// Where the builds of the smallest agent are
        #[arg(long, value_name = "DIR")]
        agents: PathBuf,
        /// Shorter: for a look
        #[arg(long)]
        quick: bool,
    },
    /// Puts 100,000 agents, ten on each connection, on our server
    Crowd {
        /// How many agents
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        agents: usize,
        /// How many on each connection
        #[arg(long, value_name = "N", default_value_t = 10)]
        agents_per_connection: usize,
        /// How long heartbeats are served, one per agent every 30 s
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        seconds: u32,
    },
}

#[derive(Debug, Args)]
struct Table {
    /// Fewer agents, shorter, one round: for a look
    #[arg(long)]
    quick: bool,

    /// How many rounds. Default: 7, with --quick 1
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Only the cases whose name contains this, may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,

    /// Prints the names of the cases and measures nothing
    #[arg(long)]
    list: bool,

    /// Where the builds of the smallest agent are. Default: it is left out
    #[arg(long, value_name = "DIR")]
    agents: Option<PathBuf>,

    /// Where the page goes; - is stdout. Default: benches/RESULTS.md, and stdout if something is left
    /// out or measured only once
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Who does not listen any more need not be told.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let scratch = tempfile::tempdir().map_err(|error| format!("no temporary files: {error}"))?;
    opamp_benches::certificate::write(scratch.path())?;
    let stage = Stage {
        programs: arguments.programs,
        go: arguments.go,
        server_core: arguments.server_core,
        load_core: arguments.load_core,
        cert: scratch.path().join("cert.pem"),
        key: scratch.path().join("key.pem"),
    };
    match arguments.command {
        Command::Table(options) => table(&stage, &options),
        Command::Client { agents, quick } => {
            let text = client(&stage, &agents, quick)?;
            // As above.
            let _ = io::stdout().write_all(text.as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        Command::Crowd { agents, agents_per_connection, seconds } => {
            crowd(&stage, agents, agents_per_connection, seconds)
        }
    }
}

fn table(stage: &Stage, options: &Table) -> Result<ExitCode, String> {
    let scale = if options.quick { Scale::quick() } else { Scale::full() };
    let rounds = options.rounds.unwrap_or(if options.quick { 1 } else { 7 }).max(1);
    let wanted = |name: &str| {
        options.only.is_empty() || options.only.iter().any(|text| name.contains(text.as_str()))
    };
    let cases: Vec<_> = cases(&scale).into_iter().filter(|case| wanted(case.name)).collect();
    if options.list {
        let names: String = cases.iter().map(|case| format!("{}\n", case.name)).collect();
        // As above.
        let _ = io::stdout().write_all(names.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }

    let machine = machine::description();
    let began = Instant::now();
    let mut measured: Vec<_> = cases.iter().map(|_| Rounds::default()).collect();
    for round in 0..rounds {
        for (case, of_case) in cases.iter().zip(&mut measured) {
            if case.once && round > 0 {
                continue;
            }
            let passed = began.elapsed().as_secs();
            say(&format!("{passed:>5} s  round {} of {rounds}: {}", round + 1, case.title));
            let failed = of_case.failures.len();
            of_case.measure(stage, case);
            of_case.failures[failed..].iter().for_each(|failure| say(failure));
        }
    }
    let mut judged = Vec::new();
    let (mut details, mut failures) = (String::new(), Vec::new());
    for (case, of_case) in cases.iter().zip(&measured) {
        judged.extend(verdicts(case, of_case));
        details.push_str(&medians(case, of_case));
        failures.extend(of_case.failures.iter().cloned());
    }
    let made_by = if options.quick {
        "`benches/run --quick`: for a look only, no figure here counts. It took"
    } else {
        "`benches/run` in"
    };
    let mut page = format!(
        "# Results\n\nMade by {made_by} {} s. What the figures mean stands in \
         [README.md](README.md).\n\n{machine}\n",
        began.elapsed().as_secs(),
    );
    // Writing to a text does not fail.
    let _ = write!(
        page,
        "Up to {} interleaved rounds; a goal is reached if the median and six of seven rounds reach \
         it.\n\n## Goals\n\n{}\n## Medians\n\n{details}",
        measured.iter().map(Rounds::len).max().unwrap_or_default(),
        goals(&judged),
    );
    if let Some(builds) = &options.agents {
        // Whatever goes wrong with it, the rest was measured.
        match client(stage, builds, options.quick) {
            Ok(text) => page.push_str(&text),
            Err(failure) => failures.push(format!("the client: {failure}")),
        }
    }
    if !failures.is_empty() {
        let _ = write!(page, "## What went wrong\n\n");
        failures.iter().for_each(|failure| {
            let _ = writeln!(page, "- {failure}");
        });
    }
    let page = page.trim_end().to_owned() + "\n";
    let is_whole = rounds >= 7 && !options.quick && options.only.is_empty();
    let out = match &options.out {
        Some(out) => out.as_path(),
        None if is_whole => Path::new("benches/RESULTS.md"),
        None => Path::new("-"),
    };
    if out.as_os_str() == "-" {
        let _ = io::stdout().write_all(page.as_bytes());
    } else {
        std::fs::write(out, page).map_err(|error| format!("{}: {error}", out.display()))?;
        say(&format!("the results are in {}", out.display()));
    }
    let missed =
        judged.iter().filter(|verdict| verdict.reached == Some(false) && !verdict.stretch).count();
    say(&format!("{missed} goals missed, {} measurements failed", failures.len()));
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the client costs, as a part of the page.
fn client(stage: &Stage, builds: &Path, quick: bool) -> Result<String, String> {
    say("measuring the smallest agent");
    let (idle, busy) = if quick { (5, 2) } else { (60, 10) };
    let (idle, busy) = (Duration::from_secs(idle), Duration::from_secs(busy));
    let text = agent::Measurement { stage, builds, idle, busy }.run()?;
    Ok(format!("## The client\n\n{text}\n"))
}

fn crowd(stage: &Stage, agents: usize, each: usize, seconds: u32) -> Result<ExitCode, String> {
    let server = stage.start(Subject::Ours, false)?;
    let mut command = Stage::bound(stage.load_core, &stage.programs.join("opamp-load"));
    let status = command
        .args(["--server", &server.url(true), "--pid", &server.pid().to_string(), "--strict"])
        .args(["--agents", &agents.to_string(), "--agents-per-connection", &each.to_string()])
        .args(["--warmup", "0s", "--duration", &format!("{seconds}s"), "--interval", "30s"])
        .args(["--config-size", "256", "--push-url", &server.push_url(), "--pushes", "1"])
        .args(["--push-size", "8192", "--patience", "60s", "--source", SOURCES])
        .status();
    let status = status.map_err(|error| format!("opamp-load cannot be started: {error}"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
