//! An OpAMP server that keeps the fleet in memory or in a directory, with an admin API.

use std::process::ExitCode;

use clap::Parser as _;
use opamp_examples::program::{self, Failure};
use opamp_examples::server::{Server, ServerArgs};

#[tokio::main]
async fn main() -> ExitCode {
    let args = ServerArgs::parse();
    program::log_to_stderr("info");
    program::exit(run(&args).await)
}

async fn run(args: &ServerArgs) -> Result<(), Failure> {
    let stop = program::told_to_stop()?;
    let mut reload = program::told_to_reload()?;
    let mut server = Server::start(args).await?;
    program::print(format_args!(
        "listening opamp={} admin={}",
        server.opamp_addr(),
        server.admin_addr()
    ));
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(()) = reload.recv() => server.reload(),
            failure = server.failed() => return Err(failure),
        }
    }
    // A second signal is for who does not want to wait.
    server.stop_until(program::told_to_stop()?).await
}
