//! A gateway that carries many agents over few connections to their server.

use std::process::ExitCode;

use clap::Parser as _;
use opamp_examples::gateway::{Gateway, GatewayArgs};
use opamp_examples::program::{self, Failure};

#[tokio::main]
async fn main() -> ExitCode {
    let args = GatewayArgs::parse();
    program::log_to_stderr("info");
    program::exit(run(&args).await)
}

async fn run(args: &GatewayArgs) -> Result<(), Failure> {
    let stop = program::told_to_stop()?;
    let mut reload = program::told_to_reload()?;
    let gateway = Gateway::start(args).await?;
    program::print(format_args!("listening opamp={}", gateway.addr()));
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(()) = reload.recv() => gateway.reload(),
        }
    }
    gateway.stop().await;
    Ok(())
}
