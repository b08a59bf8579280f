//! A server that is ended, in order or by SIGKILL, and goes on with what it has kept.

use serde_json::Value;

use crate::support::{Server, agent};

/// A count of the server's metrics, over all labels.
async fn metric(server: &Server, name: &str) -> u64 {
    let (status, text) = server.request("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    let samples: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
    assert!(!samples.is_empty(), "no {name} in {text}");
    samples.into_iter().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn is_own_config_applied(agent: &Value) -> bool {
    agent["remote_config_status"]["status"] == "APPLIED"
        && agent["effective_config"][""]["body"] == "b: 2\n"
}

async fn survives(transport: &str, orderly: bool) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, "a: 1\n").unwrap();
    let state = dir.path().join("state");
    let state = ["--state", state.to_str().unwrap()];
    let server = Server::start(&state).await;
    let addr = server.opamp.clone();
    let url = format!("http://{addr}");
    let args = [
        ["--server", &url],
        ["--transport", transport],
        ["--config", file.to_str().unwrap()],
        ["--heartbeat-interval", "1"],
    ];
    let mut agent = agent(args.as_flattened());
    agent.line("connected").await;
    let reported = server.until("reported", |agent| agent["health"]["healthy"] == true).await;
    let uid = reported["instance_uid"].as_str().unwrap().to_owned();
    server.json("PUT", "/v1/config", "all: true\n").await;
    server.json("PUT", &format!("/v1/agents/{uid}/config"), "b: 2\n").await;
    let before = server.until("applied", is_own_config_applied).await;
    // What is shown may not be stored yet. This answers when it is.
    server.json("PUT", &format!("/v1/agents/{uid}/config"), "b: 2\n").await;
    match orderly {
        true => assert_eq!(server.program.terminate().await, Some(0)),
        false => server.program.kill().await,
    }

    let server = Server::start_at(&addr, &state).await;
    // At once, be the agent back already or not.
    let agents = server.json("GET", "/v1/agents", "").await;
    let [after] = agents["agents"].as_array().unwrap().as_slice() else { panic!("{agents}") };
    assert_eq!(after["instance_uid"], before["instance_uid"]);
    for what in ["agent_description", "capabilities", "effective_config", "remote_config_status"] {
        assert_eq!(after[what], before[what], "{what}");
    }
    let connected = server.until("back", |agent| agent["connected"] == true).await;
    assert!(is_own_config_applied(&connected));
    // It keeps its own configuration: nothing else is offered to it, and it has nothing to apply.
    let served =
        |agent: &Value| agent["sequence_num"].as_u64() > connected["sequence_num"].as_u64();
    let later = server.until("served", served).await;
    assert!(is_own_config_applied(&later));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "b: 2\n");
    assert_eq!(metric(&server, "opamp_remote_config_offers_total").await, 0);
    assert_eq!(metric(&server, "opamp_store_writes_total{outcome=\"failed\"}").await, 0);
    if orderly {
        assert_eq!(metric(&server, "opamp_full_state_requests_total").await, 0);
    }
    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(server.program.terminate().await, Some(0));
}

#[tokio::test]
async fn a_server_that_is_stopped_goes_on_with_its_fleet() {
    survives("websocket", true).await;
    survives("http", true).await;
}

#[tokio::test]
async fn a_server_that_is_killed_goes_on_with_its_fleet() {
    survives("websocket", false).await;
    survives("http", false).await;
}

#[tokio::test]
async fn one_state_directory_is_one_server_s() {
    let dir = tempfile::tempdir().unwrap();
    let state = ["--state", dir.path().to_str().unwrap()];
    let server = Server::start(&state).await;
    let args = [&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], &state[..]].concat();
    let (status, _, stderr) = crate::support::run(env!("CARGO_BIN_EXE_server"), &args).await;
    assert_ne!(status, Some(0));
    assert!(stderr.contains("another process has the state file"), "{stderr}");
    assert_eq!(server.program.terminate().await, Some(0));
}

#[tokio::test]
async fn what_was_revoked_is_so_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = crate::support::certificates(dir.path(), &["localhost"]);
    let (ca, key) = (path("ca.pem"), path("ca-key.pem"));
    let state = dir.path().join("state");
    let args = ["--state", state.to_str().unwrap(), "--ca", &ca, "--ca-key", &key];
    let server = Server::start(&args).await;
    let uid = "01890a5d-ac96-774b-bcce-b302099a8057";
    for path in [format!("/v1/agents/{uid}/revocation"), "/v1/revocations/4f2a".to_owned()] {
        let (status, body) = server.request("PUT", &path, "").await;
        assert_eq!((status, body.as_str()), (204, ""));
    }
    let before = server.json("GET", "/v1/revocations", "").await;
    server.program.kill().await;

    let server = Server::start(&args).await;
    assert_eq!(before["revocations"].as_array().unwrap().len(), 2);
    assert_eq!(server.json("GET", "/v1/revocations", "").await, before);
    assert_eq!(server.request("DELETE", "/v1/revocations/4f2a", "").await.0, 204);
    server.program.kill().await;

    // Also where the server issues none any more.
    let (cert, key) = (path("localhost.pem"), path("localhost-key.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    let server = Server::start(&[&args[..2], &tls].concat()).await;
    let after = server.json("GET", "/v1/revocations", "").await;
    let [left] = after["revocations"].as_array().unwrap().as_slice() else { panic!("{after}") };
    assert_eq!(left["instance_uid"], uid);
    assert_eq!(server.program.terminate().await, Some(0));
}
