//! Drives peers built on other implementations against the example programs `server` and `agent`.
//!
//! A scenario starts its own processes, makes something happen through what they offer (the admin
//! API, JSON lines, signals) and judges what the other side says it saw. Scenarios share nothing, so
//! a few run at a time; they are reported in order.

mod agents_of_go;
mod check;
mod example_agent;
mod example_server;
mod go_agent;
mod go_server;
mod log;
mod other_agents;
mod process;
mod relay;
mod scenario;
mod servers_of_go;
mod stage;
mod tls;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser as _;
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::check::Failed;
use crate::scenario::Case;
use crate::stage::Equipment;

/// Runs the scenarios between the example programs and peers built on other implementations.
#[derive(Debug, clap::Parser)]
#[command(name = "opamp-interop", version)]
struct Args {
    /// Where the example programs `server` and `agent` are
    #[arg(long, value_name = "DIR")]
    examples: PathBuf,

    /// Whose peers take part
    #[arg(long, value_name = "PEER", required = true)]
    peer: Vec<Peer>,

    /// Runs only the scenarios whose line contains the text; may be repeated
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,

    /// Scenarios at a time
    #[arg(long, value_name = "N", default_value_t = 6)]
    jobs: usize,

    /// Prints the scenarios and runs none
    #[arg(long)]
    list: bool,
}

/// Other implementations. Their programs are found from the root of the checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    Go,
    Python,
    Node,
    Java,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let cases = scenario::cases(&args.peer, &args.only);
    if args.list {
        cases.iter().for_each(|case| print(format_args!("{case}")));
        return ExitCode::SUCCESS;
    }
    let equipment = match Equipment::new(&args.examples, &args.peer) {
        Ok(equipment) => Arc::new(equipment),
        Err(failed) => {
            print(format_args!("{failed}"));
            return ExitCode::FAILURE;
        }
    };
    // Whatever is dropped on the way out takes its processes with it.
    tokio::select! {
        code = run(cases, equipment, args.jobs.max(1)) => code,
        () = told_to_stop() => {
            print(format_args!("interrupted"));
            ExitCode::from(130)
        }
    }
}

async fn run(cases: Vec<Case>, equipment: Arc<Equipment>, jobs: usize) -> ExitCode {
    let started = Instant::now();
    if cases.is_empty() {
        print(format_args!("no scenario has that text in its line"));
        return ExitCode::FAILURE;
    }
    let mut verdicts = futures_util::stream::iter(cases)
        .map(|case| case.play(Arc::clone(&equipment)))
        .buffered(jobs);
    let (mut passed, mut failed) = (0, 0);
    while let Some(verdict) = verdicts.next().await {
        match verdict.outcome {
            Ok(_) => passed += 1,
            Err(_) => failed += 1,
        }
        print(format_args!("{verdict}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    print(format_args!("{passed} passed, {failed} failed in {seconds:.0} s"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn told_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn print(line: std::fmt::Arguments<'_>) {
    // A reader that has gone away is no reason to stop.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// What a scenario comes to: what was seen, in words, or what went wrong.
type Outcome = Result<String, Failed>;
