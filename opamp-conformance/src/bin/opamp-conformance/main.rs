//! The conformance tester's command line.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

mod args;
mod client;
mod compare;
mod explain;
mod fuzz;
mod html;
mod list;
mod run;
mod selftest;
mod server;

use args::{Args, Command};

/// The exit status when the tester itself could not do its work.
const UNABLE: u8 = 3;
/// How long what is under way at the end may take to be let go.
const GRACE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let status = if error.use_stderr() { UNABLE } else { 0 };
            // Where nobody can read it, the status has to do.
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return unable(&format!("cannot start: {error}")),
    };
    let status = runtime.block_on(async {
        tokio::select! {
            // Signals have to be listened for before anything is started that they should end.
            biased;
            signal = interrupted() => Err(format!("stopped by {signal}")),
            status = done(args.command) => status,
        }
    });
    runtime.shutdown_timeout(GRACE);
    match status {
        Ok(status) => ExitCode::from(status),
        Err(why) => unable(&why),
    }
}

async fn done(command: Command) -> Result<u8, String> {
    match command {
        Command::Server(args) => server::run(*args).await,
        Command::Client(args) => client::run(*args).await,
        Command::Fuzz(command) => fuzz::run(command).await,
        Command::List(args) => list::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Selftest(args) => selftest::run(args).await,
        Command::Compare(args) => compare::run(&args),
        Command::Html(args) => html::run(&args),
    }
}

/// Waits for the signal that ends the tester, and names it. What is under test is killed as the run
/// is dropped.
async fn interrupted() -> &'static str {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "SIGINT"
    };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            Err(_) => std::future::pending().await,
        };
        "SIGTERM"
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending();
    tokio::select! {
        name = interrupt => name,
        name = terminate => name,
    }
}

#[allow(clippy::print_stderr, reason = "where errors go")]
fn unable(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(UNABLE)
}

/// Writes text to standard output, or to a file where `to` is not `-`.
fn write(to: &std::path::Path, text: &str) -> Result<(), String> {
    use std::io::Write as _;
    if to.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        return match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader that has seen enough, such as head, is no error.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(|error| format!("cannot write: {error}")),
        };
    }
    std::fs::write(to, text).map_err(|error| format!("cannot write {}: {error}", to.display()))
}
