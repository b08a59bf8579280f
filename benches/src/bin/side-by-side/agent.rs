//! What the client library costs an agent: the size of a program that holds nothing else, what it
//! stands on, and what it needs while it does nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use opamp_benches::process;

use super::subject::{Stage, Subject};
use super::table::number;

/// The builds that `benches/run` makes, and what they are.
const BUILDS: [(&str, &str, &str); 4] = [
    ("plain", "plain", "WebSocket"),
    ("tls", "tls", "WebSocket and TLS"),
    ("plain-small", "plain", "WebSocket, profile `small`"),
    ("tls-small", "tls", "WebSocket and TLS, profile `small`"),
];

/// Milliseconds between heartbeats while they are measured.
const INTERVAL: u64 = 20;

/// Measures what there is in the directory.
pub(crate) fn measure(stage: &Stage, builds: &Path, watch: Duration) -> Result<String, String> {
    let mut text =
        "| the smallest agent | bytes | crates besides the program |\n| --- | --- | --- |\n"
            .to_owned();
    let mut there = false;
    for (name, tree, title) in BUILDS {
        let Ok(file) = fs::metadata(builds.join(name)) else { continue };
        there = true;
        let tree = fs::read_to_string(builds.join(format!("{tree}.tree"))).unwrap_or_default();
        // The first line is the program itself.
        let crates: BTreeSet<_> = tree
            .lines()
            .skip(1)
            .filter_map(|line| line.strip_suffix(" (*)").or(Some(line)))
            .collect();
        // Writing to a text does not fail.
        let _ = writeln!(text, "| {title} | {} | {} |", file.len(), crates.len());
    }
    if !there {
        return Err(format!("there is no agent in {}", builds.display()));
    }

    let server = stage.start(Subject::Ours, false)?;
    let mut command = Stage::bound(stage.load_core, &builds.join("plain"));
    command.arg(server.url(true)).arg(INTERVAL.to_string());
    let agent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut agent = agent.map_err(|error| format!("the agent cannot be started: {error}"))?;
    std::thread::sleep(Duration::from_secs(1));
    let before = process::cpu(agent.id());
    std::thread::sleep(watch);
    let (after, memory) = (process::cpu(agent.id()), process::memory(agent.id()));
    let alive = matches!(agent.try_wait(), Ok(None));
    // It may have ended by itself.
    let _ = agent.kill();
    let _ = agent.wait();
    let (Some(before), Some(after), Some(memory), true) = (before, after, memory, alive) else {
        return Err("the agent did not stay".to_owned());
    };
    let heartbeats = watch.as_millis() as f64 / INTERVAL as f64;
    let each = after.since(&before).as_secs_f64() * 1e6 / heartbeats;
    let _ = write!(
        text,
        "\nConnected over WebSocket it has {} kB resident, {} kB of them its own (anonymous). A \
         heartbeat with its answer takes {} µs of CPU: {} ms per hour at the default interval of \
         30 s.\n",
        memory.resident / 1024,
        memory.anonymous / 1024,
        number(each),
        number(each * 120.0 / 1000.0),
    );
    Ok(text)
}
