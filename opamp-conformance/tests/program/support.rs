//! Running the program.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use opamp_conformance::net::Network;
use opamp_conformance::reference::Faults;
use opamp_conformance::reference::server::ReferenceServer;

/// No run of these tests may take longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a run of the program came to.
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// The program's words must be these, and its status 3.
    #[track_caller]
    pub(crate) fn is_unable(&self, words: &[&str]) {
        assert_eq!(self.status, 3, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is missing from\n{}", self.err);
        }
        let lines = self.err.lines().count();
        assert!(lines < 30, "one clear message, not {lines} lines:\n{}", self.err);
    }
}

/// The program with these arguments.
pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_opamp-conformance"));
    command.args(args).env("NO_COLOR", "1");
    command
}

/// Runs the program.
pub(crate) fn run(args: &[&str]) -> Ran {
    let began = Instant::now();
    let Output { status, stdout, stderr } = program(args).output().expect("it starts");
    assert!(began.elapsed() < LIMIT, "{args:?} took {:?}", began.elapsed());
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    Ran { status: status.code().expect("it exits"), out: text(stdout), err: text(stderr) }
}

/// Runs the program against a reference server with this fault, with `{url}` in its arguments
/// replaced.
pub(crate) fn run_against(fault: Option<&'static str>, args: &[&str]) -> Ran {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let faults = fault.map_or_else(Faults::none, Faults::only);
        let server = ReferenceServer::start(&Network::Sockets, faults).await.expect("a server");
        let target = server.target();
        let url = target.url.to_string();
        let mut args: Vec<String> = args.iter().map(|arg| arg.replace("{url}", &url)).collect();
        for (name, value) in &target.headers {
            args.push(format!("--header={name}={}", value.to_str().expect("text")));
        }
        let run = tokio::task::spawn_blocking(move || {
            run(&args.iter().map(String::as_str).collect::<Vec<_>>())
        });
        run.await.expect("it runs")
    })
}
