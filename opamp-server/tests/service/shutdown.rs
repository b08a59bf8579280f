//! The end of a Server.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::request;
use hyper_util::rt::TokioIo;
use opamp_proto::Message as _;
use opamp_server::{
    AcceptAll, AgentChange, Handler, OpampService, Rejection, Server, ServerConfig, ServiceConfig,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{
    MASK, UID, WebSocket, beat, framed, post, report, run, soon, start, start_with, uid,
};
use crate::support::{full_report, heartbeat};
use crate::tls::Authority;

#[tokio::test]
async fn websockets_are_closed_with_1001_and_the_handshake_is_completed() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    server.shutdown.shutdown();
    assert_eq!(socket.recv_close().await, 1001);
    assert!(!server.task.is_finished(), "it waits for the peer's Close frame");
    // Reading on, the library sends it.
    socket.recv_end().await;
    soon(server.task).await.expect("no panic");
    assert!(!server.fleet.agent(uid(&UID)).unwrap().is_connected());
    assert!(TcpStream::connect(server.addr).await.is_err(), "it does not listen any more");
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let server = start().await;
    server.shutdown.shutdown();
    server.shutdown.shutdown();
    soon(server.task).await.expect("no panic");
}

struct Slow;

impl Handler for Slow {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, _change: AgentChange<()>) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_response_in_progress_is_finished() {
    let server = start_with(Slow, |_, _| {}).await;
    let request = server.request(post(report(1).encode_to_vec()));
    let stop = async {
        server.until(|fleet| fleet.len() == 1).await;
        server.shutdown.shutdown();
    };
    let (answer, ()) = tokio::join!(request, stop);
    assert_eq!(answer.message().instance_uid, &UID[..]);
    soon(server.task).await.expect("no panic");
}

#[tokio::test]
async fn a_peer_that_does_not_close_delays_the_end_only_so_long() {
    let server = Server::bind("127.0.0.1:0").shutdown_deadline(Duration::from_millis(200));
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut socket = server.websocket().await;
    socket.send(&beat(1)).await;
    socket.recv().await;
    server.shutdown.shutdown();
    // The peer reads the Close frame late.
    soon(server.task).await.expect("no panic");
    assert!(matches!(soon(socket.socket.next()).await, Some(Ok(Message::Close(_)))));
    assert!(!server.fleet.agent(uid(&UID)).unwrap().is_connected());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_with_a_kind() {
    let server = start().await;
    let error = Server::bind(server.addr).listen(AcceptAll).await.expect_err("it is in use");
    assert_eq!(error.kind(), opamp_server::service::ErrorKind::Bind);
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn connections_above_the_limit_are_told_so() {
    let server = Server::bind("127.0.0.1:0").max_connections(1);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut first = server.websocket().await;
    first.send(&report(1)).await;
    first.recv().await;
    // The upgraded connection holds its place.
    let refused = server.websocket_with(&[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 503);
    let wait: u32 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((30..=60).contains(&wait), "{wait}");
    assert_eq!(server.request(post(report(1).encode_to_vec())).await.status, 503);
    assert_eq!(server.fleet.counters().connections_crowded, 2);
    drop(first);
    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    server.check_alive_one_by_one().await;
}

#[tokio::test]
async fn a_drain_spreads_the_ends_of_connections() {
    let over = Duration::from_millis(1500);
    let server = run(Server::bind("127.0.0.1:0").drain(over).listen(AcceptAll).await.unwrap());
    let mut sockets = Vec::new();
    for agent in 0..30 {
        let mut socket = server.websocket().await;
        socket.send(&full_report(&[agent; 16], 1, MASK)).await;
        socket.recv().await;
        sockets.push((agent, socket));
    }
    let started = tokio::time::Instant::now();
    server.shutdown.shutdown();
    let ends = sockets.into_iter().map(|(agent, mut socket)| async move {
        let mut number = 1;
        // Until its turn it is served.
        let code = loop {
            number += 1;
            let beat = heartbeat(&[agent; 16], number, MASK);
            if socket
                .socket
                .send(Message::Binary(framed(&beat.encode_to_vec()).into()))
                .await
                .is_err()
            {
                break 1001;
            }
            match soon(socket.socket.next()).await {
                Some(Ok(Message::Binary(_))) => tokio::time::sleep(Duration::from_millis(10)).await,
                Some(Ok(Message::Close(Some(frame)))) => break frame.code.into(),
                other => panic!("{other:?}"),
            }
        };
        let ended = started.elapsed();
        socket.recv_end().await;
        assert_eq!(code, 1001);
        (ended, agent)
    });
    let mut ends = futures_util::future::join_all(ends).await;
    soon(server.task).await.expect("no panic");
    let order: Vec<_> = {
        ends.sort();
        ends.iter().map(|(_, agent)| *agent).collect()
    };
    for (index, third) in ends.chunks(10).enumerate() {
        let earliest = over / 3 * u32::try_from(index).unwrap();
        assert!(third[0].0 + Duration::from_millis(200) > earliest, "{ends:?}");
    }
    assert!(ends[29].0 > over * 2 / 3, "{ends:?}");
    assert_ne!(order, (0..30).collect::<Vec<_>>(), "in no particular order");
}

#[tokio::test]
async fn while_connections_are_drained_new_ones_are_refused() {
    let service = OpampService::new(AcceptAll, ServerConfig::default(), ServiceConfig::default());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (second, other) = tokio::io::duplex(64 * 1024);
    for far in [far, other] {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service.clone())
            .with_upgrades();
        tokio::spawn(connection);
    }
    let mut socket = WebSocket::open(near, &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    let drained = service.clone();
    let draining = tokio::spawn(async move { drained.drain(Duration::from_secs(3600)).await });
    // The only one is told at the first step.
    assert_eq!(socket.recv_close().await, 1001);
    let refused = WebSocket::open(second, &[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 503);
    draining.abort();
}

#[tokio::test]
async fn who_does_not_want_to_wait_does_not_have_to() {
    let server = Server::bind("127.0.0.1:0").drain(Duration::from_secs(3600));
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut sockets = Vec::new();
    for _ in 0..3 {
        let mut socket = server.websocket().await;
        socket.send(&report(1)).await;
        socket.recv().await;
        sockets.push(socket);
    }
    server.shutdown.shutdown();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!server.task.is_finished());
    server.shutdown.shutdown_at_once();
    // What was asked for is not taken back.
    server.shutdown.shutdown();
    soon(server.task).await.expect("no panic");
}

/// Nothing is in progress with somebody who has not said what it wants.
#[tokio::test]
async fn those_who_have_not_asked_for_anything_are_not_waited_for() {
    let issued = Authority::new().issue("localhost");
    let tls = opamp_server::service::tls::server_config(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        None,
    );
    let bind = || Server::bind("127.0.0.1:0");
    let balancer = "127.0.0.0/8".parse().unwrap();
    for (server, says) in [
        (bind(), &b""[..]),
        (bind(), b"P"),
        (bind().tls(tls.unwrap()), &[22, 3, 1, 2]),
        (bind().proxy_protocol([balancer]), b"PROXY "),
    ] {
        let server = run(server.listen(AcceptAll).await.unwrap());
        let mut silent = TcpStream::connect(server.addr).await.unwrap();
        silent.write_all(says).await.unwrap();
        // Nothing says when this was read.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = tokio::time::Instant::now();
        server.shutdown.shutdown();
        soon(server.task).await.expect("no panic");
        assert!(started.elapsed() < Duration::from_secs(5), "{says:?}");
    }
}
