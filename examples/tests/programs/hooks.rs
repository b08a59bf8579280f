//! What the conformance tester asks for is done to the server, and by the agent.

use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::{PATIENCE, Server, agent};

/// Runs the hook and gives its exit status and its answer.
async fn hook(args: &[&str], action: Value) -> (Option<i32>, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_conformance-hook"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(action.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("it ends").unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[tokio::test]
async fn hooks_act_on_the_server_and_on_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().to_str().unwrap();
    let server = Server::start(&[]).await;
    let admin = ["server", "--admin", &server.admin];
    let url = format!("ws://{}", server.opamp);
    let mut agent = agent(&["--server", &url, "--state", state]);
    agent.line("connected").await;
    let reported = server.until("reported", |agent| agent["health"]["healthy"] == true).await;
    let uid = &reported["instance_uid"];

    let files = json!({"a": {"body": "eDogMQo=", "content_type": "text/yaml"}, "b": {"body": ""}});
    let offer = json!({"hook": "offer_config", "instance_uid": uid, "files": files});
    assert_eq!(hook(&admin, offer).await, (Some(0), json!({})));
    let expected = json!({
        "a": {"content_type": "text/yaml", "body": "x: 1\n"},
        "b": {"content_type": "", "body": ""},
    });
    server.until("offered", |agent| agent["effective_config"] == expected).await;
    let shown = hook(&admin, json!({"hook": "show_agent", "instance_uid": uid})).await;
    assert_eq!((shown.0, &shown.1["agent"]["instance_uid"]), (Some(0), uid));
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057";
    let shown = hook(&admin, json!({"hook": "show_agent", "instance_uid": nobody})).await;
    assert_eq!(shown, (Some(0), json!({"agent": null})));
    let restart = json!({"hook": "restart_agent", "instance_uid": nobody});
    assert_eq!(hook(&admin, restart).await.0, Some(1));
    assert_eq!(hook(&admin, json!({"hook": "restart_server"})).await.0, Some(77));
    for on in [true, false] {
        assert_eq!(hook(&admin, json!({"hook": "overload", "on": on})).await.0, Some(0));
    }
}

#[tokio::test]
async fn the_agent_does_what_is_posted_to_its_hooks() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let server = Server::start(&[]).await;
    let url = format!("ws://{}", server.opamp);
    let mut agent = agent(&["--server", &url, "--hooks", &address]);
    agent.line("connected").await;
    let post = async |action: Value| {
        let request = reqwest::Client::new().post(format!("http://{address}"));
        let request = request.header("content-type", "application/json").body(action.to_string());
        request.send().await.unwrap().status().as_u16()
    };
    let ill = json!({"hook": "set_health", "healthy": false, "last_error": "no \"disk\""});
    assert_eq!(post(ill).await, 200);
    server.until("ill", |agent| agent["health"]["last_error"] == "no \"disk\"").await;
    let config = json!({"hook": "set_effective_config", "body": "b: 2\n"});
    assert_eq!(post(config).await, 200);
    let changed = |agent: &Value| agent["effective_config"][""]["body"] == "b: 2\n";
    let shown = server.until("changed", changed).await;
    assert_eq!(shown["health"]["healthy"], true);
    let zone = json!({"hook": "set_description", "attributes": {"zone": "north"}});
    assert_eq!(post(zone).await, 200);
    let told =
        |agent: &Value| agent["agent_description"]["non_identifying_attributes"]["zone"] == "north";
    server.until("described", told).await;
    // What cannot be sent is refused.
    let message = json!({"hook": "send_custom_message", "capability": "org.example.chat",
                         "type": "hello", "data": "aGk="});
    assert_eq!(post(message).await, 400);
    assert_eq!(post(json!({"hook": "make_coffee"})).await, 501);
}

#[tokio::test]
async fn hooks_have_the_server_offer_settings_and_packages_and_close_connections() {
    let dir = tempfile::tempdir().unwrap();
    let [state, packages] = ["state", "packages"].map(|name| dir.path().join(name));
    let (state, packages) = (state.to_str().unwrap(), packages.to_str().unwrap());
    let capability = "org.example.chat";
    let server = Server::start(&["--custom-capability", capability]).await;
    let admin = ["server", "--admin", &server.admin];
    let url = format!("ws://{}", server.opamp);
    let mut agent = agent(&[
        "--server",
        &url,
        "--state",
        state,
        "--packages",
        packages,
        "--custom-capability",
        capability,
    ]);
    agent.line("connected").await;
    let able = |agent: &Value| agent["custom_capabilities"] == json!([capability]);
    let uid = server.until("able", able).await["instance_uid"].clone();

    let main = json!({"type": "TopLevel", "version": "1.0", "content": "YTogMQo="});
    let offer = json!({"hook": "offer_packages", "instance_uid": uid,
                       "packages": {"packages": {"main": main}}});
    assert_eq!(hook(&admin, offer).await, (Some(0), json!({})));
    let told = |agent: &Value| agent["package_statuses"]["packages"]["main"].is_object();
    server.until("told of the package", told).await;

    let sent = json!({"hook": "send_custom_message", "instance_uid": uid, "capability": capability,
                      "type": "hello", "data": "/wA="});
    assert_eq!(hook(&admin, sent).await, (Some(0), json!({})));
    let path = format!("/v1/agents/{}/custom-messages", uid.as_str().unwrap());
    let echoed = json!({"capability": capability, "type": "hello", "data_base64": "/wA="});
    let began = tokio::time::Instant::now();
    while server.json("GET", &path, "").await["custom_messages"] != json!([echoed]) {
        assert!(began.elapsed() < PATIENCE, "the agent sends it back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    let settings = json!({"opamp": {"heartbeat_interval_seconds": 7}});
    let offer = json!({"hook": "offer_connection_settings", "instance_uid": uid,
                       "settings": settings});
    assert_eq!(hook(&admin, offer).await, (Some(0), json!({})));
    let applied = |agent: &Value| agent["connection_settings_status"]["status"] == "APPLIED";
    server.until("moved to the same place with another interval", applied).await;
    let path = format!("/v1/agents/{}/connection-settings", uid.as_str().unwrap());
    for (body, why) in [
        (json!({"own_logs": {"destination_endpoint": "logs"}}), "own_logs.destination_endpoint"),
        (json!({"opamp": {"heartbeat_interval_seconds": 0}}), "opamp.heartbeat_interval_seconds"),
        (json!({"own_log": {}}), "own_log"),
    ] {
        let (status, error) = server.request("PUT", &path, &body.to_string()).await;
        assert!(status == 400 && error.contains(why), "{status} {error}");
    }

    let closed = json!({"hook": "disconnect", "instance_uid": uid});
    assert_eq!(hook(&admin, closed).await, (Some(0), json!({})));
}
