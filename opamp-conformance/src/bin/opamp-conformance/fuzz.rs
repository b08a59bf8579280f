//! `opamp-conformance fuzz`.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opamp_conformance::client::exec::ExecClient;
use opamp_conformance::fuzz::{self, Finding, Options, Replay};
use opamp_conformance::pace::Pace;
use opamp_conformance::run::Subject;

use crate::args::{FuzzArgs, FuzzCommand, transports};
use crate::server;

/// After how many rounds progress is told.
const PROGRESS: u64 = 100;

pub(crate) async fn run(command: FuzzCommand) -> Result<u8, String> {
    let (subject, args) = match command {
        FuzzCommand::Server { at, fuzz } => (Subject::Server(server::target(&at)?), fuzz),
        FuzzCommand::Client { exec, heartbeat, fuzz } => {
            let client = ExecClient::new(&exec)?.heartbeat(Duration::from_secs(heartbeat));
            (Subject::Client(Arc::new(client)), fuzz)
        }
    };
    let options = Options {
        seed: args.seed.unwrap_or_else(rand::random),
        duration: Duration::from_secs(args.seconds),
        rounds: args.rounds,
        transports: transports(&args.transports),
        pid: args.pid,
        pace: Pace::new(args.timeout_scale),
    };
    match &args.replay {
        Some(file) => replay(&subject, &options, file).await,
        None => fuzz(&subject, &options, &args).await,
    }
}

async fn fuzz(subject: &Subject, options: &Options, args: &FuzzArgs) -> Result<u8, String> {
    say(&format!("seed {}", options.seed));
    let told = |round: u64, finding: Option<&Finding>| {
        if let Some(finding) = finding {
            say(&format!("round {round}: {:?}: {}", finding.trouble, finding.replay.found));
        } else if round > 0 && round.is_multiple_of(PROGRESS) {
            say(&format!("round {round}"));
        }
    };
    let outcome = fuzz::fuzz(subject, options, told).await.map_err(|stop| stop.to_string())?;
    for (index, finding) in outcome.findings.iter().enumerate() {
        let name = format!("{}-{}-{index}.json", options.seed, finding.replay.side.name());
        let path = args.out.join(name);
        let json = serde_json::to_string_pretty(&finding.replay).map_err(|e| e.to_string())?;
        std::fs::write(&path, json)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        say(&format!(
            "{:?}: play it again with --replay {}, or with what came before it: --seed {} --rounds {}",
            finding.trouble,
            path.display(),
            options.seed,
            finding.replay.round + 1,
        ));
    }
    say(&format!("{} conversations, {} findings", outcome.rounds, outcome.findings.len()));
    Ok(u8::from(!outcome.findings.is_empty()))
}

async fn replay(subject: &Subject, options: &Options, file: &Path) -> Result<u8, String> {
    let bad = |why: String| format!("{}: {why}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| bad(error.to_string()))?;
    let replay: Replay = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    match fuzz::replay(subject, options, &replay).await.map_err(|stop| stop.to_string())? {
        Some((trouble, found)) => {
            say(&format!("{trouble:?}: {found}"));
            Ok(1)
        }
        None => {
            say("nothing found");
            Ok(0)
        }
    }
}

fn say(line: &str) {
    // A reader that has gone away is no reason to stop.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
