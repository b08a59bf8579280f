//! The gateway between agents and their server, run as a user runs them.

use std::time::Duration;

use crate::support::{PATIENCE, Program, Server, agent, certificates};
use opamp_proto::{InstanceUid, Message as _, v1};
use opamp_spec::judges;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The gateway program, and where agents connect to it.
struct Gateway {
    program: Program,
    opamp: String,
}

impl Gateway {
    async fn start(server: &Server, listen: &str) -> Self {
        let upstream = format!("ws://{}", server.opamp);
        Self::start_with(&["--listen", listen, "--upstream", &upstream, "--connections", "2"]).await
    }

    async fn start_with(args: &[&str]) -> Self {
        let mut program = Program::start(env!("CARGO_BIN_EXE_gateway"), args);
        let line = program.line("listening ").await;
        let opamp = line.strip_prefix("listening opamp=").unwrap().to_owned();
        Self { program, opamp }
    }
}

/// All agents, as soon as they are as expected.
async fn until(server: &Server, expected: &str, check: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let began = tokio::time::Instant::now();
    loop {
        let agents = server.json("GET", "/v1/agents", "").await;
        let agents = agents["agents"].as_array().unwrap().clone();
        if check(&agents) {
            return agents;
        }
        assert!(began.elapsed() < PATIENCE, "never {expected}: {agents:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn connected(agents: &[Value]) -> usize {
    agents.iter().filter(|agent| agent["connected"] == true).count()
}

#[tokio::test]
async fn agents_of_both_transports_are_managed_through_it() {
    let _judged = judges(&["ID-11", "CLOSE-11"]);
    let capability = "org.example.echo";
    let server = Server::start(&["--custom-capability", capability]).await;
    let gateway = Gateway::start(&server, "127.0.0.1:0").await;
    let url = format!("http://{}", gateway.opamp);
    let start = |transport| {
        let args = [
            ["--server", &url],
            ["--transport", transport],
            ["--heartbeat-interval", "0.2"],
            ["--custom-capability", capability],
        ];
        agent(args.as_flattened())
    };
    let (mut websocket, mut http) = (start("websocket"), start("http"));
    websocket.line("connected").await;
    http.line("connected").await;
    let agents = until(&server, "both connected", |agents| connected(agents) == 2).await;

    // What the server wants reaches both, and it hears what became of it.
    let config = server.json("PUT", "/v1/config", "b: 2\n").await;
    until(&server, "applied", |agents| {
        agents.iter().all(|agent| {
            let status = &agent["remote_config_status"];
            status["last_remote_config_hash"] == config["config_hash"]
                && status["status"] == "APPLIED"
                && agent["effective_config"][""]["body"] == "b: 2\n"
        })
    })
    .await;
    let message = json!({"capability": capability, "type": "t", "data_base64": "aGk="});
    for agent in &agents {
        let path = format!("/v1/agents/{}", agent["instance_uid"].as_str().unwrap());
        let post = format!("{path}/custom-message");
        assert_eq!(server.request("POST", &post, &message.to_string()).await.0, 202);
    }
    for agent in [&mut websocket, &mut http] {
        agent.line("custom-message ").await;
    }

    // One that says goodbye is gone at once, one that dies as well.
    assert_eq!(http.terminate().await, Some(0));
    until(&server, "one left", |agents| connected(agents) == 1).await;
    websocket.kill().await;
    until(&server, "none left", |agents| connected(agents) == 0).await;
    assert_eq!(gateway.program.terminate().await, Some(0));
}

#[tokio::test]
async fn agents_find_their_way_back_when_it_returns() {
    let server = Server::start(&[]).await;
    let gateway = Gateway::start(&server, "127.0.0.1:0").await;
    let listen = gateway.opamp.clone();
    let url = format!("ws://{listen}");
    let mut agent = agent(&["--server", &url, "--heartbeat-interval", "0.2"]);
    agent.line("connected").await;
    server.until("connected", |agent| agent["connected"] == true).await;
    assert_eq!(gateway.program.terminate().await, Some(0));
    agent.line("disconnected").await;
    server.until("gone with the gateway", |agent| agent["connected"] == false).await;

    let gateway = Gateway::start(&server, &listen).await;
    agent.line("connected").await;
    server.until("back", |agent| agent["connected"] == true).await;
    assert_eq!(agent.terminate().await, Some(0));
    gateway.program.kill().await;
}

#[tokio::test]
async fn one_address_has_no_more_than_its_connections() {
    let upstream = ["--upstream", "ws://127.0.0.1:1", "--max-per-address", "1"];
    let gateway =
        Gateway::start_with(&[["--listen", "127.0.0.1:0"].as_slice(), &upstream].concat()).await;
    // One that is refused ends without a word.
    let is_served = || async {
        let mut stream = TcpStream::connect(&gateway.opamp).await.unwrap();
        let asked = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answered = stream.read(&mut [0]).await;
        (asked.is_ok() && matches!(answered, Ok(1))).then_some(stream)
    };
    let first = is_served().await;
    assert!(first.is_some() && is_served().await.is_none());
    drop(first);
    // It takes a moment until the gateway has seen that there is room again.
    let began = tokio::time::Instant::now();
    while is_served().await.is_none() {
        assert!(began.elapsed() < PATIENCE, "there is never room again");
    }
    gateway.program.kill().await;
}

#[tokio::test]
async fn tls_on_both_sides_with_certificates_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = certificates(dir.path(), &["localhost", "gateway", "agent"]);
    let (ca, cert, key) = (path("ca.pem"), path("localhost.pem"), path("localhost-key.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca];
    let server = Server::start(&tls).await;
    let port = |addr: &str| addr.rsplit(':').next().unwrap().to_owned();
    let upstream = format!("wss://localhost:{}", port(&server.opamp));
    let (own, own_key) = (path("gateway.pem"), path("gateway-key.pem"));
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream, "--ca", &ca];
    let args = [&args[..], &["--cert", &own, "--key", &own_key], &tls].concat();
    let gateway = Gateway::start_with(&args).await;
    let port = port(&gateway.opamp);
    let (own, own_key) = (path("agent.pem"), path("agent-key.pem"));
    let mut agents = Vec::new();
    for scheme in ["wss", "https"] {
        let url = format!("{scheme}://localhost:{port}");
        let args = ["--server", &url, "--ca", &ca, "--heartbeat-interval", "0.2"];
        let mut stranger = agent(&args);
        stranger.line("connect-failed").await;
        let mut known = agent(&[&args[..], &["--cert", &own, "--key", &own_key]].concat());
        known.line("connected").await;
        agents.push(known);
    }
    until(&server, "both connected", |agents| connected(agents) == 2).await;

    // Another authority's certificate in the files: agents that come now are shown that one.
    let other = tempfile::tempdir().unwrap();
    let renewed = certificates(other.path(), &["localhost"]);
    for name in ["localhost.pem", "localhost-key.pem"] {
        std::fs::copy(renewed(name), path(name)).unwrap();
    }
    gateway.program.hang_up().await;
    let (url, ca) = (format!("wss://localhost:{port}"), renewed("ca.pem"));
    let newcomer = ["--server", &url, "--ca", &ca, "--cert", &own, "--key", &own_key];
    // It takes a moment until the gateway has read them, and the agent tries again.
    let mut newcomer = agent(&newcomer);
    newcomer.line("connected").await;
    until(&server, "none was lost", |agents| connected(agents) == 3).await;
    assert_eq!(gateway.program.terminate().await, Some(0));
}

#[tokio::test]
async fn a_server_that_is_somebody_else_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = certificates(dir.path(), &["localhost"]);
    let (cert, key) = (path("localhost.pem"), path("localhost-key.pem"));
    let server = Server::start(&["--tls-cert", &cert, "--tls-key", &key]).await;
    let upstream = format!("wss://{}", server.opamp);
    // The certificate is for another name; and then it is of an authority that is not trusted.
    let other = tempfile::tempdir().unwrap();
    let others = certificates(other.path(), &[]);
    let localhost = upstream.replace("127.0.0.1", "localhost");
    for (upstream, ca, why) in [
        (&upstream, path("ca.pem"), "not valid for name"),
        (&localhost, others("ca.pem"), "invalid peer certificate"),
    ] {
        let args = ["--listen", "127.0.0.1:0", "--upstream", upstream, "--ca", &ca];
        let mut gateway = Gateway::start_with(&args).await;
        let line = gateway.program.logs("cannot connect to the server").await;
        assert!(line.contains(why), "{line}");
    }
}

/// A full report that has so many bytes.
fn report_of(size: usize) -> Vec<u8> {
    let mut report = v1::AgentToServer {
        instance_uid: InstanceUid::generate().to_bytes(),
        sequence_num: 1,
        capabilities: 1,
        agent_description: Some(v1::AgentDescription::default()),
        ..Default::default()
    };
    let mut name = String::new();
    while report.encoded_len() < size {
        name.push_str(&"n".repeat((size - report.encoded_len()).div_ceil(2)));
        let attribute = v1::KeyValue { key: name.clone(), ..Default::default() };
        report.agent_description = Some(v1::AgentDescription {
            identifying_attributes: vec![attribute],
            ..Default::default()
        });
    }
    assert_eq!(report.encoded_len(), size);
    report.encode_to_vec()
}

#[tokio::test]
async fn a_message_of_the_greatest_size_is_passed_on_and_a_larger_one_harms_nobody() {
    let _judged = judges(&["SIZE-01", "SIZE-18", "SIZE-23"]);
    let server = Server::start(&["--max-message-size", "2048"]).await;
    let upstream = format!("ws://{}", server.opamp);
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
    for (agents, of_server, greatest) in [("2047", "2048", 2047), ("2048", "2048", 2047)] {
        let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
        let sizes = ["--max-message-size", agents, "--server-max-message-size", of_server];
        let gateway = Gateway::start_with(&[&args[..], &sizes].concat()).await;
        let url = format!("http://{}/v1/opamp", gateway.opamp);
        for (size, status) in [(greatest, 200), (greatest + 1, 413), (greatest, 200)] {
            let request = client.post(&url).header("content-type", "application/x-protobuf");
            let response = request.body(report_of(size)).send().await.unwrap();
            assert_eq!(response.status().as_u16(), status, "{agents}: {size}");
        }
        assert_eq!(gateway.program.terminate().await, Some(0));
    }
    let agents = server.json("GET", "/v1/agents", "").await;
    assert_eq!(agents["agents"].as_array().unwrap().len(), 4);
}
