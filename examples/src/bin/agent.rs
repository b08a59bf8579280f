//! An agent whose configuration is a YAML file, managed over OpAMP.

use std::process::ExitCode;

use clap::Parser as _;
use opamp_examples::agent::{Agent, AgentArgs};
use opamp_examples::program::{self, Failure};

#[tokio::main]
async fn main() -> ExitCode {
    let args = AgentArgs::parse();
    program::log_to_stderr("info");
    program::exit(run(args).await)
}

async fn run(args: AgentArgs) -> Result<(), Failure> {
    let stop = program::told_to_stop()?;
    let reload = program::told_to_reload()?;
    Agent::start(args).await?.reloading(reload).run(stop, |news| program::print(news)).await
}
