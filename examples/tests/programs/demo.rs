//! The demo, run as a user runs it.

use crate::support::{Program, agent, run, run_in};
use serde_json::Value;

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

#[tokio::test]
async fn it_shows_every_step_in_plain_text_when_piped_and_leaves_nothing_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let (status, stdout, stderr) = run_in(temporary.path(), DEMO, &[]).await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("8/8 ") && stdout.contains("All 8 steps"), "{stdout}");
    assert!(!stdout.contains('\x1b'), "no colours in a pipe");
    assert_eq!(stderr, "");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn it_says_what_went_wrong() {
    let gone = tempfile::tempdir().unwrap().path().join("gone");
    let (status, _, stderr) = run_in(&gone, DEMO, &[]).await;
    assert_eq!(status, Some(1));
    assert!(stderr.starts_with("error: a temporary directory cannot be made"), "{stderr}");
}

#[tokio::test]
async fn it_gives_machines_one_object_for_each_step() {
    let (status, stdout, stderr) = run(DEMO, &["--json"]).await;
    assert_eq!(status, Some(0), "{stdout}{stderr}");
    let steps: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(steps.len(), 8);
    for (index, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], index + 1);
        assert_eq!(step["ok"], true, "{step}");
        assert!(!step["facts"].as_array().unwrap().is_empty());
    }
    let agents = steps[1]["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 3);
    assert!(agents.iter().all(|agent| agent["connected"] == true));
    let left = steps[7]["agents"].as_array().unwrap();
    assert_eq!(left.iter().filter(|agent| agent["connected"] == true).count(), 2);
}
#[tokio::test]
async fn it_leaves_the_server_up_when_asked_to() {
    let mut demo = Program::start(DEMO, &["--json", "--keep-running"]);
    let line = demo.line("{\"listening\"").await;
    let line: Value = serde_json::from_str(&line).unwrap();
    let opamp = line["listening"]["opamp"].as_str().unwrap();
    let mut agent = agent(&["--server", &format!("ws://{opamp}")]);
    agent.line("connected").await;
    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(demo.terminate().await, Some(0));
}
