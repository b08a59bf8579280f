//! The server and the agent, run as a user runs them.

use crate::support::{Server, agent, certificates, run};
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_agent");

/// Runs an agent on this transport through everything a server can ask of it.
async fn is_managed(transport: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, "a: 1\n").unwrap();
    let server = Server::start(&[]).await;
    let url = format!("http://{}", server.opamp);
    let args = [
        ["--server", &url],
        ["--transport", transport],
        ["--config", file.to_str().unwrap()],
        ["--heartbeat-interval", "0.1"],
        ["--attribute", "zone=north"],
    ];
    let mut agent = agent(args.as_flattened());
    agent.line("connected").await;

    let reported = server.until("reported", |agent| agent["health"]["healthy"] == true).await;
    let uid = reported["instance_uid"].as_str().unwrap().to_owned();
    assert_eq!(reported["connected"], true);
    assert_eq!(reported["transport"], transport);
    let description = &reported["agent_description"];
    let name = &description["identifying_attributes"]["service.name"];
    assert_eq!(name, "opamp-example-agent");
    assert_eq!(description["non_identifying_attributes"]["zone"], "north");
    assert_eq!(reported["effective_config"][""]["body"], "a: 1\n");
    assert!(reported.get("package_statuses").is_none(), "never reported");
    let capabilities = reported["capabilities"].as_array().unwrap();
    assert!(capabilities.contains(&json!("AcceptsRemoteConfig")), "{capabilities:?}");

    // A configuration is applied and read back.
    let status_is = |hash: &Value, status: &'static str| {
        let hash = hash.clone();
        move |agent: &Value| {
            let reported = &agent["remote_config_status"];
            reported["last_remote_config_hash"] == hash && reported["status"] == status
        }
    };
    let good = server.json("PUT", "/v1/config?name=n&content_type=text/yaml", "b: 2\n").await;
    let good = &good["config_hash"];
    let applied = server.until("APPLIED", status_is(good, "APPLIED")).await;
    let expected = json!({"n": {"content_type": "text/yaml", "body": "b: 2\n"}});
    assert_eq!(applied["effective_config"], expected);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "b: 2\n");

    // What is no YAML is refused with its position, and the old file stays.
    let own = format!("/v1/agents/{uid}/config");
    let bad = server.json("PUT", &own, "a: 1\nb: [2\nc: 3\n").await;
    let failed = server.until("FAILED", status_is(&bad["config_hash"], "FAILED")).await;
    let why = failed["remote_config_status"]["error_message"].as_str().unwrap();
    assert!(why.contains("line 3"), "{why}");
    assert_eq!(failed["effective_config"], expected);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "b: 2\n");
    assert_eq!(server.request("DELETE", &own, "").await.0, 204);
    server.until("back on the default", status_is(good, "APPLIED")).await;

    // It restarts, reports in full, and takes another instance uid.
    let start_time = |agent: &Value| agent["health"]["start_time_unix_nano"].as_u64().unwrap();
    assert_eq!(server.request("POST", &format!("/v1/agents/{uid}/restart"), "").await.0, 202);
    agent.line("restarted").await;
    server.until("restarted", |agent| start_time(agent) > start_time(&reported)).await;
    let path = format!("/v1/agents/{uid}/report-full-state");
    assert_eq!(server.request("POST", &path, "").await.0, 202);
    let path = format!("/v1/agents/{uid}/new-instance-uid");
    let renamed = server.json("POST", &path, "").await;
    let renamed = &renamed["new_instance_uid"];
    agent.line("instance-uid-changed").await;
    server.until("renamed", |agent| &agent["instance_uid"] == renamed).await;
    assert_eq!(server.request("GET", &format!("/v1/agents/{uid}"), "").await.0, 404);

    // It says goodbye.
    assert_eq!(agent.terminate().await, Some(0));
    server.until("disconnected", |agent| agent["connected"] == false).await;
    assert_eq!(server.program.terminate().await, Some(0));
}

#[tokio::test]
async fn an_agent_on_a_websocket_is_managed() {
    let _judged = opamp_spec::judges(&[
        "NET-01", "CFG-04", "CFG-19", "CFG-21", "CFG-22", "CMD-03", "ID-12", "DESC-04",
    ]);
    is_managed("websocket").await;
}

#[tokio::test]
async fn an_agent_on_http_is_managed() {
    let _judged = opamp_spec::judges(&[
        "NET-01", "CFG-04", "CFG-19", "CFG-21", "CFG-22", "CMD-03", "ID-12", "DESC-04", "HTTP-10",
        "CLOSE-01", "CLOSE-07",
    ]);
    is_managed("http").await;
}

#[tokio::test]
async fn identity_and_configuration_survive_a_crash_of_the_agent() {
    let _judged = opamp_spec::judges(&["STATUS-01"]);
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let server = Server::start(&[]).await;
    let url = format!("ws://{}", server.opamp);
    let args = ["--server", &url, "--state", state.to_str().unwrap()];
    let mut first = agent(&args);
    first.line("connected").await;
    let hash = server.json("PUT", "/v1/config?name=kept", "b: 2\n").await["config_hash"].clone();
    first.line("config-applied").await;
    let applied = server
        .until("APPLIED", |agent| agent["remote_config_status"]["last_remote_config_hash"] == hash)
        .await;
    first.kill().await;
    server.until("disconnected", |agent| agent["connected"] == false).await;

    let mut second = agent(&args);
    let started = second.line("started").await;
    let uid = applied["instance_uid"].as_str().unwrap();
    assert!(started.contains(uid), "{started}");
    // The crash may have come before the status was saved; the offer is then applied once more.
    let same = |agent: &Value, part: &str| agent[part] == applied[part];
    let again = |agent: &Value| {
        agent["connected"] == true
            && same(agent, "effective_config")
            && same(agent, "remote_config_status")
    };
    server.until("connected again as it was", again).await;
    let in_use = run(AGENT, &args).await;
    assert_eq!(in_use.0, Some(1));
    assert!(in_use.2.contains("in use by another agent"), "{}", in_use.2);
}

#[tokio::test]
async fn a_server_with_tokens_refuses_agents_without() {
    let _judged = opamp_spec::judges(&["AUTH-02", "AUTH-03", "AUTH-05"]);
    let server = Server::start(&["--token", "one", "--token", "two"]).await;
    for scheme in ["ws", "http"] {
        let url = format!("{scheme}://{}", server.opamp);
        let mut refused = agent(&["--server", &url, "--header", "Authorization=Bearer three"]);
        let line = refused.line("connect-failed").await;
        assert!(line.contains("401"), "{line}");
    }
    let agents = server.json("GET", "/v1/agents", "").await;
    assert_eq!(agents, json!({"agents": []}));
    let url = format!("ws://{}", server.opamp);
    let mut admitted = agent(&["--server", &url, "--header", "Authorization=Bearer two"]);
    admitted.line("connected").await;
    server.until("connected", |agent| agent["connected"] == true).await;
}

#[tokio::test]
async fn tls_asks_for_certificates_on_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let path = certificates(dir.path(), &["localhost", "agent"]);
    let (ca, cert, key) = (path("ca.pem"), path("localhost.pem"), path("localhost-key.pem"));
    let server = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    let server = Server::start(&server).await;
    let port = server.opamp.rsplit(':').next().unwrap();
    for scheme in ["wss", "https"] {
        let url = format!("{scheme}://localhost:{port}");
        let mut unknown = agent(&["--server", &url, "--ca", &ca]);
        unknown.line("connect-failed").await;
        let (cert, key) = (path("agent.pem"), path("agent-key.pem"));
        let known = ["--server", &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        let mut known = agent(&known);
        known.line("connected").await;
    }
}

#[tokio::test]
async fn a_certificate_of_one_agent_does_not_speak_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let uids = ["01890a5d-ac96-774b-bcce-b302099a8057", "01890a5d-ac96-774b-bcce-b302099a8058"];
    let path = certificates(dir.path(), &["localhost", uids[0], uids[1]]);
    let (ca, cert, key) = (path("ca.pem"), path("localhost.pem"), path("localhost-key.pem"));
    let server = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    let server = Server::start(&server).await;
    let port = server.opamp.rsplit(':').next().unwrap();
    let url = |scheme: &str| format!("{scheme}://localhost:{port}");
    let start = |scheme: &str, uid: &str, of: &str| {
        let (cert, key) = (path(&format!("{of}.pem")), path(&format!("{of}-key.pem")));
        let url = url(scheme);
        let own = ["--instance-uid", uid, "--cert", &cert, "--key", &key];
        agent(&[&["--server", &url, "--ca", &ca], &own[..]].concat())
    };
    let mut known = start("wss", uids[0], uids[0]);
    known.line("connected").await;
    let reported = server.until("reported", |agent| agent["health"]["healthy"] == true).await;
    for (scheme, line) in [("wss", "refused"), ("https", "connect-failed")] {
        let mut other = start(scheme, uids[0], uids[1]);
        let line = other.line(line).await;
        assert!(line.contains("403") || line.contains("another instance uid"), "{line}");
    }
    let after = server.until("as before", |agent| agent["connected"] == true).await;
    assert_eq!(after["remote_addr"], reported["remote_addr"]);

    // One that is given another uid goes on with its certificate.
    let renamed =
        server.json("POST", &format!("/v1/agents/{}/new-instance-uid", uids[0]), "").await;
    known.line("instance-uid-changed").await;
    let is_renamed = |agent: &Value| agent["instance_uid"] == renamed["new_instance_uid"];
    server.until("renamed", is_renamed).await;
    let path = format!("/v1/agents/{}/restart", renamed["new_instance_uid"].as_str().unwrap());
    assert_eq!(server.request("POST", &path, "").await.0, 202);
    known.line("restarted").await;
}

#[tokio::test]
async fn the_admin_api_says_what_is_wrong() {
    let server = Server::start(&["--max-message-size", "2048"]).await;
    let unknown = "/v1/agents/01890a5d-ac96-774b-bcce-b302099a8057";
    let long = "#".repeat(2048);
    for (method, path, body, status) in [
        ("GET", unknown, "", 404),
        ("GET", "/v1/agents/nobody", "", 400),
        ("GET", "/v1/agents/%ff", "", 400),
        ("PUT", &format!("{unknown}/config"), "a: 1", 404),
        ("DELETE", &format!("{unknown}/config"), "", 404),
        ("POST", &format!("{unknown}/restart"), "", 404),
        ("POST", &format!("{unknown}/report-full-state"), "", 404),
        ("POST", &format!("{unknown}/new-instance-uid"), "", 404),
        ("PUT", &format!("{unknown}/packages"), "{}", 404),
        ("PUT", &format!("{unknown}/connection-settings"), "{}", 404),
        ("POST", &format!("{unknown}/custom-message"), "{}", 404),
        ("GET", &format!("{unknown}/custom-messages"), "", 404),
        ("POST", &format!("{unknown}/disconnect"), "", 404),
        ("PUT", "/v1/config", &long, 413),
        ("PUT", "/v1/config", &format!("{long}#"), 413),
        ("PUT", "/v1/config?name=a&name=b", "", 400),
        ("POST", "/v1/config", "", 405),
        ("GET", "/elsewhere", "", 404),
        ("PUT", "/v1/revocations/%ff", "", 400),
        ("PUT", "/v1/revocations/1f", "", 501),
        ("POST", &format!("{unknown}/certificate-request/approve?id=a&id=b"), "", 400),
        ("POST", &format!("{unknown}/certificate-request/refuse?id=a&id=b"), "", 400),
        ("POST", &format!("{unknown}/approve"), "", 501),
    ] {
        let (got, body) = server.request(method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(body["error"].as_str().is_some_and(|error| !error.is_empty()), "{path}: {body}");
    }
    assert_eq!(server.request("GET", "/healthz", "").await.0, 200);
    let (status, metrics) = server.request("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("\nopamp_agents 0\n"), "{metrics}");
}

#[tokio::test]
async fn an_agent_without_the_capability_is_not_restarted() {
    let _judged = opamp_spec::judges(&["CMD-05"]);
    let server = Server::start(&[]).await;
    let description = opamp_proto::v1::AgentDescription {
        identifying_attributes: vec![opamp_proto::v1::KeyValue::new("service.name", "plain")],
        ..Default::default()
    };
    let (client, _events, driver) = opamp_client::Client::builder(format!("ws://{}", server.opamp))
        .configure(|config| config.description = description)
        .build()
        .unwrap();
    tokio::spawn(driver.run());
    let agent = server.until("connected", |agent| agent["connected"] == true).await;
    let uid = agent["instance_uid"].as_str().unwrap();
    assert!(agent.get("health").is_none() && agent.get("effective_config").is_none(), "{agent}");
    let (status, body) = server.request("POST", &format!("/v1/agents/{uid}/restart"), "").await;
    assert_eq!(status, 409, "{body}");
    client.stop().await;
}

#[tokio::test]
async fn several_default_configurations_go_by_their_file_names() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a.yaml", "b.yaml"].map(|name| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("from: {name}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let server = Server::start(&["--config", &a, "--config", &b]).await;
    let mut agent = agent(&["--server", &format!("ws://{}", server.opamp)]);
    agent.line("config-applied").await;
    let expected = json!({
        "a.yaml": {"content_type": "text/yaml", "body": "from: a.yaml\n"},
        "b.yaml": {"content_type": "text/yaml", "body": "from: b.yaml\n"},
    });
    server.until("running both", |agent| agent["effective_config"] == expected).await;
}

#[tokio::test]
async fn a_heartbeat_interval_is_offered_and_agreed_to() {
    let _judged = opamp_spec::judges(&["HB-11"]);
    for scheme in ["ws", "http"] {
        let server = Server::start(&["--heartbeat-interval", "7"]).await;
        let url = format!("{scheme}://{}", server.opamp);
        let _agent = agent(&["--server", &url, "--heartbeat-interval", "0.5"]);
        server
            .until("agreed", |agent| agent["connection_settings_status"]["status"] == "APPLIED")
            .await;
    }
}
