//! What is known to be wrong with the server of the reference implementation, and must not be
//! possible here. W-1 and W-30 to W-40 are the names these defects have in the project's notes on
//! it.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::SinkExt as _;
use http::{HeaderValue, StatusCode, request};
use hyper_util::rt::TokioIo;
use opamp_proto::{AgentCapabilities as Does, Message as _, gzip, v1};
use opamp_server::{
    AcceptAll, AgentChange, CustomCapabilities, Fleet, Handler, OpampService, Rejection, Server,
    ServerConfig, ServiceConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::{
    BAD_REQUEST, MASK, OTHER, Running, UID, WebSocket, beat, exchange, framed, post, report, run,
    soon, start, start_with, uid,
};
use crate::support::{FULL_STATE, SERVER_MASK, full_report, heartbeat, remote_config};

/// The limit counts what comes out of compression, where there is any.
#[tokio::test]
async fn w1_no_small_message_becomes_a_large_one() {
    let _judged = opamp_spec::judges(&["SIZE-05", "SIZE-22", "SIZE-23"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(1 << 18))
            .await;
    let bomb = v1::AgentToServer {
        health: Some(v1::ComponentHealth { status: "x".repeat(2 << 20), ..Default::default() }),
        ..report(1)
    };
    let packed = gzip::compress(&bomb.encode_to_vec());
    assert!(packed.len() < 64 * 1024);
    let mut request = post(packed.clone());
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(server.request(request).await.status, StatusCode::PAYLOAD_TOO_LARGE);

    let offer = [("sec-websocket-extensions", "permessage-deflate")];
    let mut socket = server.websocket_with(&offer).await.expect("an upgrade");
    let mut frame = Frame::message(packed, OpCode::Data(Data::Binary), true);
    frame.header_mut().rsv1 = true;
    socket.socket.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(socket.recv_close().await, 1002);
    assert!(server.fleet.is_empty());
    server.check_alive().await;
}

/// Rejects by whatever the request asks for.
struct Rejecting;

impl Handler for Rejecting {
    type Identity = ();

    async fn admit(&self, request: &request::Parts) -> Result<(), Rejection> {
        Err(match request.headers.get("reject").map(HeaderValue::as_bytes) {
            Some(b"401") => Rejection::unauthorized(HeaderValue::from_static("Bearer")),
            Some(b"403") => Rejection::forbidden(),
            Some(b"429") => Rejection::too_many_requests(Duration::ZERO),
            Some(b"503") => Rejection::unavailable(Duration::ZERO),
            _ => return Ok(()),
        })
    }
}

/// A mounted service knows nothing of its host's connections, and a rejection always has a status.
#[tokio::test]
async fn w30_a_mounted_service_needs_nothing_from_its_host() {
    let service = OpampService::new(Rejecting, ServerConfig::default(), ServiceConfig::default());
    let (mounted, fleet) = (service.clone(), service.fleet().clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), mounted.clone())
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    let stream = TcpStream::connect(addr).await.unwrap();
    let answer = exchange(stream, post(report(1).encode_to_vec())).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(fleet.agent(uid(&UID)).unwrap().remote_addr(), None);
    for status in ["401", "403", "429", "503"] {
        let mut request = post(report(2).encode_to_vec());
        request.headers_mut().insert("reject", status.parse().unwrap());
        let answer = exchange(TcpStream::connect(addr).await.unwrap(), request).await;
        assert_eq!(answer.status.as_str(), status);
        let stream = TcpStream::connect(addr).await.unwrap();
        let refused =
            WebSocket::open(stream, &[("reject", status)]).await.err().expect("a refusal");
        assert_eq!(refused.status().as_str(), status);
    }
    assert_eq!(fleet.counters().handler_panics, 0);
}

/// Peers that stall in whatever stage lose their place to the next.
#[tokio::test]
async fn w31_no_stalled_peer_keeps_its_place() {
    let short = Duration::from_millis(200);
    let mut service = ServiceConfig::default();
    service.body_deadline = short;
    service.first_message_timeout = short;
    service.ping_interval = short;
    service.pong_timeout = short;
    service.close_timeout = short;
    let server = Server::bind("127.0.0.1:0")
        .max_connections(1)
        .header_timeout(short)
        .idle_timeout(2 * short)
        .service_config(service);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let upgrade = "GET /v1/opamp HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\
                   connection: Upgrade\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let spoken = framed(&report(1).encode_to_vec());
    let length = 0x80 | u8::try_from(spoken.len()).unwrap();
    let spoken = [upgrade.as_bytes(), &[0x82, length, 0, 0, 0, 0], &spoken].concat();
    for (what, bytes) in [
        ("says nothing", &b""[..]),
        ("half a head", b"POST /v1/opamp HTTP/1.1\r\nhost: x\r\n"),
        (
            "half a body",
            b"POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
              content-length: 100\r\n\r\nabc",
        ),
        ("no message on a WebSocket", upgrade.as_bytes()),
        ("half a frame", &[upgrade.as_bytes(), &[0x82, 0xfe, 0x10]].concat()),
        ("no answer to pings", &spoken),
    ] {
        // It holds the one place there is, and keeps its end open.
        let mut stalled = TcpStream::connect(server.addr).await.unwrap();
        stalled.write_all(bytes).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(server.fleet.counters().listener_connections_open, 1, "{what}");
        let is_free = |fleet: &Fleet| fleet.counters().listener_connections_open == 0;
        server.until(is_free).await;
        server.check_alive_one_by_one().await;
        drop(stalled);
        server.until(is_free).await;
    }
}

/// What is to be sent never blocks whoever wants it sent, and a peer that reads nothing is closed.
#[tokio::test]
async fn w32_a_peer_that_does_not_read_blocks_nobody() {
    let server = start_with(AcceptAll, |_, service| {
        service.write_timeout = Duration::from_millis(500);
    })
    .await;
    let mut deaf = server.websocket().await;
    deaf.send(&report(1)).await;
    deaf.recv().await;
    let mut other = server.websocket().await;
    other.send(&full_report(&OTHER, 1, MASK)).await;
    other.recv().await;
    // Far more than is buffered on the way; each operation returns at once.
    for round in 0..5 {
        let config = remote_config(&format!("{round}").repeat(4_000_000));
        server.fleet.set_remote_config(uid(&UID), config).unwrap();
        server.fleet.request_full_state(uid(&OTHER)).unwrap();
        assert_eq!(other.recv().await.flags, FULL_STATE);
    }
    server.until_disconnected(&UID).await;
    let counters = server.fleet.counters();
    assert_eq!((counters.timed_out, counters.websockets_timed_out), (1, 1));
    drop(deaf);
}

/// A server that was stopped says so to every peer, and answers nobody any more.
#[tokio::test]
async fn w33_a_stopped_server_closes_its_connections() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = start().await;
    let mut sockets = Vec::new();
    for agent in 0..10 {
        let mut socket = server.websocket().await;
        socket.send(&full_report(&[agent; 16], 1, MASK)).await;
        socket.recv().await;
        sockets.push(socket);
    }
    server.shutdown.shutdown();
    for socket in &mut sockets {
        assert_eq!(socket.recv_close().await, 1001);
        socket.recv_end().await;
    }
    drop(sockets);
    soon(server.task).await.expect("it returns");
    assert!(TcpStream::connect(server.addr).await.is_err());
    let counters = server.fleet.counters();
    assert_eq!((counters.websockets_shut_down, counters.websockets_open), (10, 0));
}

/// A failure to listen is an error and nothing else: another try is a new one.
#[tokio::test]
async fn w34_a_busy_port_spoils_nothing() {
    let busy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = busy.local_addr().unwrap();
    assert!(Server::bind(addr).listen(AcceptAll).await.is_err());
    drop(busy);
    let server = run(soon(Server::bind(addr).listen(AcceptAll)).await.expect("it is free"));
    server.check_alive().await;
    server.shutdown.shutdown();
    soon(server.task).await.expect("it stops");
}

/// The operator's end of a connection is a closing handshake.
#[tokio::test]
async fn w35_a_disconnected_peer_gets_a_close_frame() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    server.fleet.disconnect(uid(&UID)).unwrap();
    assert_eq!(socket.recv_close().await, 1000);
    socket.recv_end().await;
    server.until(|fleet| fleet.counters().websockets_ended == 1).await;
}

#[tokio::test]
async fn w36_a_malformed_message_is_answered_with_bad_request_on_both_transports() {
    let _judged = opamp_spec::judges(&["ERR-11", "ERR-12", "ERR-13"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    for malformed in
        [vec![0xff; 20], b"hello".to_vec(), full_report(&[1; 3], 1, MASK).encode_to_vec()]
    {
        socket.send_raw(framed(&malformed)).await;
        let answer = server.request(post(malformed)).await;
        assert_eq!(answer.status, StatusCode::OK);
        for reply in [socket.recv().await, answer.message()] {
            let error = reply.error_response.expect("an error");
            assert_eq!(error.r#type, BAD_REQUEST);
            assert!(error.error_message.len() > 10, "it says what is wrong");
        }
    }
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
}

/// Gives each Agent a configuration as soon as it is known.
struct Configuring;

impl Handler for Configuring {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, change: AgentChange<()>) {
        let config = remote_config("from the handler");
        let _ = change.fleet.set_remote_config(change.agent.key(), config);
    }
}

/// The Server's mask and custom capabilities are in the first message to each Agent, whatever else
/// is to be said, and a push names its Agent.
#[tokio::test]
async fn w37_the_first_message_tells_capabilities_and_every_push_names_its_agent() {
    let _judged = opamp_spec::judges(&["CAP-10", "CUST-01", "ID-10"]);
    let names = ["org.example.chat"];
    let server = start_with(Configuring, |config, _| {
        config.custom_capabilities = CustomCapabilities::new(names).unwrap();
    })
    .await;
    let mut socket = server.websocket().await;
    for agent in [UID, OTHER] {
        socket.send(&full_report(&agent, 1, MASK)).await;
        let first = socket.recv().await;
        assert_eq!(first.capabilities & SERVER_MASK, SERVER_MASK);
        assert_eq!(first.custom_capabilities.expect("they are told").capabilities, names);
        assert_eq!(first.instance_uid, &agent[..]);
        let push = match first.remote_config {
            Some(_) => continue,
            None => socket.recv().await,
        };
        assert!(push.remote_config.is_some());
        assert_eq!(push.instance_uid, &agent[..]);
    }
}

/// The registry does what each application would have to do by itself.
#[tokio::test]
async fn w38_there_is_a_registry_that_outlives_requests() {
    let _judged = opamp_spec::judges(&["SEQ-03", "SEQ-05", "CFG-03", "HTTP-10", "CAP-04"]);
    let server = start().await;
    server.post(&report(1)).await;
    server.post(&full_report(&OTHER, 1, Does::REPORTS_STATUS)).await;
    // While no request is open.
    let config = remote_config("a: 1");
    for agent in [UID, OTHER] {
        server.fleet.set_remote_config(uid(&agent), config.clone()).unwrap();
    }
    let offer = server.post(&beat(2)).await.remote_config.expect("an offer");
    assert_eq!(offer.config, Some(config.to_message()));
    assert_eq!(server.post(&beat(3)).await.remote_config, None, "once");
    let reply = server.post(&heartbeat(&OTHER, 2, Does::REPORTS_STATUS)).await;
    assert_eq!(reply.remote_config, None, "not to one that takes none");
    assert_eq!(server.post(&beat(7)).await.flags, FULL_STATE);
    let counters = server.fleet.counters();
    assert_eq!((counters.http_messages, counters.configs_offered), (6, 1));
    assert_eq!((counters.configs_unsupported, counters.full_state_replies), (1, 1));
}

/// Passes on what admission found out.
struct Identities(Mutex<mpsc::UnboundedSender<String>>);

impl Handler for Identities {
    type Identity = String;

    async fn admit(&self, request: &request::Parts) -> Result<String, Rejection> {
        let name = request.headers.get("name").and_then(|name| name.to_str().ok());
        name.map(str::to_owned).ok_or_else(Rejection::forbidden)
    }

    async fn agent_changed(&self, change: AgentChange<String>) {
        let _ = self.0.lock().unwrap().send(change.identity);
    }
}

#[tokio::test]
async fn w39_what_admission_found_out_reaches_every_call_on_a_websocket() {
    let (sender, mut calls) = mpsc::unbounded_channel();
    let server: Running<String> = start_with(Identities(Mutex::new(sender)), |_, _| {}).await;
    let mut socket = server.websocket_with(&[("name", "someone")]).await.expect("an upgrade");
    for number in 1..4 {
        let health = v1::ComponentHealth { status: number.to_string(), ..Default::default() };
        socket.send(&v1::AgentToServer { health: Some(health), ..report(number) }).await;
        socket.recv().await;
        assert_eq!(soon(calls.recv()).await.as_deref(), Some("someone"));
    }
}

#[tokio::test]
async fn w40_a_message_with_another_first_byte_is_no_message() {
    let _judged = opamp_spec::judges(&["WS-07", "WS-08"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    let body = report(1).encode_to_vec();
    for first in 1..=u8::MAX {
        if first % 16 == 0 {
            socket.send(&full_report(&OTHER, first.into(), MASK)).await;
            socket.recv().await;
        }
        socket.send_raw([&[first][..], &body].concat()).await;
        let error = socket.recv().await.error_response.unwrap_or_else(|| panic!("{first}"));
        assert_eq!(error.r#type, BAD_REQUEST);
    }
    socket.send_raw(body).await;
    assert!(socket.recv().await.error_response.is_some(), "nor is one without header");
    assert!(server.fleet.agent(uid(&UID)).is_none());
    // A deaf ear for the rest would be one too many.
    let mut rest = [0; 1];
    let read =
        tokio::time::timeout(Duration::from_millis(20), socket.socket.get_mut().read(&mut rest));
    assert!(read.await.is_err(), "the connection goes on");
}
