//! The load generator against a real server: what it reports is what the server has seen.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Parser as _;
use opamp_benches::load::{Options, Trouble, run};
use opamp_proto::{InstanceUid, Message as _, v1};
use opamp_server::{AcceptAll, Fleet, Outcome, RemoteConfig, Server};

struct Running {
    address: String,
    fleet: Fleet,
    /// The server ends with it.
    _runtime: tokio::runtime::Runtime,
}

fn start(certificate: Option<&Path>) -> Running {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    let mut builder = Server::bind("127.0.0.1:0");
    if let Some(directory) = certificate {
        let read = |name| std::fs::read(directory.join(name)).expect("a file");
        let (cert, key) = (read("cert.pem"), read("key.pem"));
        let tls = opamp_server::service::tls::server_config(&cert, &key, None);
        builder = builder.tls(tls.expect("TLS"));
    }
    let server = runtime.block_on(builder.listen(AcceptAll)).expect("a server");
    let (address, fleet) = (server.local_addr().to_string(), server.fleet().clone());
    runtime.spawn(server.run());
    Running { address, fleet, _runtime: runtime }
}

fn options(line: &str) -> Options {
    let line = format!("opamp-load --settle 0s --warmup 100ms --patience 20s {line}");
    Options::try_parse_from(line.split_whitespace()).expect("the options are good")
}

fn offer(fleet: &Fleet) {
    let file = v1::AgentConfigFile { body: "a: 1".into(), ..Default::default() };
    let config = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
    fleet.set_default_remote_config(RemoteConfig::new(config)).expect("it can be offered");
}

#[test]
fn agents_on_shared_websockets_report_send_and_take_a_configuration() {
    let server = start(None);
    offer(&server.fleet);
    let options = options(&format!(
        "--server ws://{}/v1/opamp --agents 20 --agents-per-connection 3 --threads 2 --depth 4 \
         --burst --duration 300ms --config-size 9000 --mix heartbeat=5,full=1,config=1,health=1 \
         --leave drop --pid {}",
        server.address,
        std::process::id()
    ));
    let report = run(&options, &mut |_| {}).expect("it runs");
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    assert_eq!(report.connect.as_ref().unwrap().connections, 7);
    assert_eq!(report.connect.as_ref().unwrap().offers, 20);
    let traffic = report.traffic.as_ref().unwrap();
    assert!(traffic.answered >= 20, "{traffic:?}");
    assert_eq!(traffic.latency_by_kind.len(), 4, "{traffic:?}");
    if cfg!(target_os = "linux") {
        assert!(traffic.server.unwrap().cpu_seconds > 0.0);
        assert!(!report.memory.is_empty());
    }

    assert_eq!(server.fleet.len(), 20);
    for agent in server.fleet.agents() {
        assert_eq!(agent.remote_config().expect("it was offered").outcome(), Outcome::Applied);
        let effective =
            agent.state().effective_config().expect("a configuration").config_map.unwrap();
        assert_eq!(effective.config_map["collector.yaml"].body.len(), 9000);
    }
}

#[test]
fn everything_that_is_sent_over_https_arrives_once() {
    let directory = tempfile::tempdir().expect("a directory");
    opamp_benches::certificate::write(directory.path()).expect("a certificate");
    let server = start(Some(directory.path()));
    let options = options(&format!(
        "--server https://{}/v1/opamp --agents 9 --agents-per-connection 2 --rate 200 \
         --duration 500ms --ca {}",
        server.address,
        directory.path().join("cert.pem").display()
    ));
    let report = run(&options, &mut |_| {}).expect("it runs");
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    assert_eq!(report.connections, 5);
    let traffic = report.traffic.as_ref().unwrap();
    assert!(traffic.answered > 50, "{traffic:?}");
    assert_eq!(server.fleet.counters().messages(), report.sent);
    assert!(server.fleet.agents().iter().all(|agent| !agent.is_connected()), "all said goodbye");
}

#[test]
fn agents_that_are_cut_off_come_back_and_large_reports_are_taken_back() {
    let server = start(None);
    let options = options(&format!(
        "--server ws://{}/v1/opamp --agents 10 --churn 50 --rate 500 --duration 500ms \
         --config-size 100 --large 300000 --leave drop",
        server.address
    ));
    let report = run(&options, &mut |_| {}).expect("it runs");
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    assert!(report.traffic.as_ref().unwrap().dropped > 5);
    assert_eq!(report.large.as_ref().unwrap().latency_by_kind["large"].count, 10);
    for agent in server.fleet.agents() {
        let effective =
            agent.state().effective_config().expect("a configuration").config_map.unwrap();
        assert_eq!(effective.config_map["collector.yaml"].body.len(), 100);
    }
}

#[test]
fn a_rename_is_followed() {
    let server = start(None);
    let fleet = server.fleet.clone();
    let new = InstanceUid::from_bytes([7; 16]);
    let operator = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(20);
        while fleet.is_empty() {
            assert!(Instant::now() < until, "no agent came");
            std::thread::yield_now();
        }
        let key = *fleet.agents()[0].key();
        fleet.rename(key, new, Instant::now()).expect("it can be renamed");
    });
    let options = options(&format!(
        "--server ws://{}/v1/opamp --agents 1 --duration 1s --rate 100 --leave drop",
        server.address
    ));
    let report = run(&options, &mut |_| {}).expect("it runs");
    operator.join().expect("it was renamed");
    assert!(!report.troubles.contains_key(&Trouble::ForeignUid), "{:?}", report.troubles);
    assert!(server.fleet.agent(new).is_some());
}

/// Answers one request on each connection, in chunks, and gives what it was sent.
fn close_each_time(listener: &std::net::TcpListener) -> v1::AgentToServer {
    use std::io::{Read as _, Write as _};

    let (mut socket, _) = listener.accept().expect("a connection");
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    let body = loop {
        let len = socket.read(&mut buffer).expect("a request");
        assert_ne!(len, 0, "the request ends early");
        request.extend_from_slice(&buffer[..len]);
        let Some(end) = request.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]);
        let len = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let len: usize = len.and_then(|len| len.parse().ok()).expect("a length");
        if request.len() == end + 4 + len {
            break &request[end + 4..];
        }
    };
    let message = v1::AgentToServer::decode(body).expect("an AgentToServer");
    let reply =
        v1::ServerToAgent { instance_uid: message.instance_uid.clone(), ..Default::default() };
    let reply = reply.encode_to_vec();
    let head = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        reply.len()
    );
    let response = [head.as_bytes(), &reply, b"\r\n0\r\n\r\n"].concat();
    socket.write_all(&response).expect("it is read");
    message
}

#[test]
fn an_agent_goes_on_where_it_was_when_a_server_closes_after_each_response() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = std::thread::spawn(move || {
        let mut messages: Vec<v1::AgentToServer> = Vec::new();
        while messages.last().is_none_or(|last| last.agent_disconnect.is_none()) {
            messages.push(close_each_time(&listener));
        }
        messages
    });
    let options = options(&format!("--server http://{address}/ --agents 1 --duration 200ms"));
    let report = run(&options, &mut |_| {}).expect("it runs");
    assert!(report.troubles.is_empty(), "{:?}", report.troubles);
    let messages = server.join().expect("it was served");
    assert_eq!(messages.len() as u64, report.sent);
    assert!(messages.len() > 5, "{}", messages.len());
    for (message, number) in messages.iter().zip(1..) {
        assert_eq!(message.sequence_num, number);
        assert_eq!(message.agent_description.is_some(), number == 1);
    }
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    drop(port);
    let mut options = options(&format!("--server ws://{address}/ --agents 3 --duration 0s"));
    options.patience = Duration::from_millis(300);
    let report = run(&options, &mut |_| {}).expect("it runs");
    assert!(!report.is_complete());
    assert_eq!(report.troubles[&Trouble::NotReady], 3);
    assert_eq!(report.troubles[&Trouble::Connect(std::io::ErrorKind::ConnectionRefused)], 3);
}
