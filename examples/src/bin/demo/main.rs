//! Shows in a few seconds what the OpAMP crates do: a real server and real agents, on real sockets,
//! in one process. Each step is verified against what the server knows of its fleet.

mod show;
mod stage;
mod steps;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser as _;
use opamp_examples::program::{self, Failure};

use self::show::Show;
use self::stage::Stage;

/// Shows in a few seconds what the OpAMP crates do, on real sockets, and verifies it.
///
/// It needs nothing, uses free ports of this machine only, and leaves nothing behind. Exit status 0
/// when every step went as it should.
#[derive(Debug, clap::Parser)]
#[command(name = "demo", version)]
struct Args {
    /// One JSON object for each step, for machines. Default: text for people
    #[arg(long)]
    json: bool,

    /// Leaves the server up at the end, and says how to connect an agent of your own.
    /// Default: ends when all is shown
    #[arg(long)]
    keep_running: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // What the steps bring about, lost connections for example, is no news here.
    program::log_to_stderr("error");
    program::exit(run(&args).await)
}

async fn run(args: &Args) -> Result<(), Failure> {
    let mut told = std::pin::pin!(program::told_to_stop()?);
    let show = Show::new(args.json);
    show.begin();
    let began = Instant::now();
    let mut stage = Stage::new()?;
    let mut outcome = tokio::select! {
        outcome = play(&mut stage, &show) => outcome,
        () = &mut told => Err(Failure::new("stopped before all was shown")),
    };
    if outcome.is_ok() {
        show.end(steps::ALL.len(), began.elapsed());
        if args.keep_running {
            show.keep_running(&stage);
            outcome = tokio::select! {
                () = told => Ok(()),
                failure = stage.failed() => Err(failure),
            };
        }
    }
    stage.clear().await;
    outcome
}

async fn play(stage: &mut Stage, show: &Show) -> Result<(), Failure> {
    for (index, step) in steps::ALL.iter().enumerate() {
        let began = Instant::now();
        let outcome = step.play(stage).await;
        show.step(index + 1, step, &outcome, began.elapsed(), stage);
        if let Err(error) = outcome {
            return Err(Failure::new(format!("step {}: {error}", index + 1)));
        }
    }
    Ok(())
}
