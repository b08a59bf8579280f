//! Brings about in the example server what the conformance tester asks for: one action as JSON on
//! standard input. The exit status is 0 when it was done, 77 when the server cannot do it, and 1
//! when it failed. The example agent serves its hooks itself, with `--hooks`.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use opamp_examples::program::{self, Failure};
use serde_json::{Value, json};

mod authority;
mod server;

/// The exit status for what is not supported.
const UNSUPPORTED: u8 = 77;

/// Does to the example server what the conformance tester asks for on standard input.
#[derive(Debug, Parser)]
#[command(name = "conformance-hook", version)]
enum Args {
    /// To a server, by its admin API
    Server {
        /// Where its admin API is
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4321")]
        admin: SocketAddr,
    },
    /// Makes an authority to start the server with, ca.pem and ca-key.pem; reads no action
    Authority {
        /// Where the files go
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// What became of an action.
enum Done {
    /// It was done, with this answer.
    Answer(Value),
    /// The server cannot do it.
    Unsupported,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(Done::Answer(answer)) => {
            program::print(answer);
            ExitCode::SUCCESS
        }
        Ok(Done::Unsupported) => ExitCode::from(UNSUPPORTED),
        Err(failure) => program::exit(Err(failure)),
    }
}

fn run(args: &Args) -> Result<Done, Failure> {
    if let Args::Authority { dir } = args {
        authority::make(dir)?;
        return Ok(Done::Answer(json!({})));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::caused_by("the action cannot be read", error))?;
    let action: Value = serde_json::from_str(&text)
        .map_err(|error| Failure::caused_by("the action is not JSON", error))?;
    match args {
        Args::Server { admin } => server::act(*admin, &action),
        // It has no action.
        Args::Authority { .. } => Ok(Done::Unsupported),
    }
}

/// A member of the action that has to be text.
fn text<'a>(action: &'a Value, name: &str) -> Result<&'a str, Failure> {
    action[name].as_str().ok_or_else(|| Failure::new(format!("the action has no {name}")))
}
