//! Peers that are slow, silent or dead, in virtual time: the service on a pipe instead of a socket.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::request;
use hyper_util::rt::TokioIo;
use opamp_proto::{Message as _, v1};
use opamp_server::{
    AcceptAll, Handler, OpampService, Rejection, Server, ServerConfig, ServiceConfig,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::client::{UID, WebSocket, beat, report, run, soon, uid};
use crate::support::{bare, remote_config};

type Service = OpampService<AcceptAll>;

fn service() -> Service {
    OpampService::new(AcceptAll, ServerConfig::default(), ServiceConfig::default())
}

fn connect(service: &Service, buffer: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(buffer);
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), service.clone())
        .with_upgrades();
    tokio::spawn(connection);
    near
}

async fn websocket(service: &Service) -> WebSocket<DuplexStream> {
    WebSocket::open(connect(service, 64 * 1024), &[]).await.expect("an upgrade")
}

/// A request as it is on the wire.
fn raw_post(message: &v1::AgentToServer) -> Vec<u8> {
    let body = message.encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

fn is_connected(service: &Service) -> bool {
    service.fleet().agent(uid(&UID)).expect("the Agent").is_connected()
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_one_that_answers_is_kept() {
    let service = service();
    let mut socket = websocket(&service).await;
    socket.send(&report(1)).await;
    socket.recv().await;
    let started = Instant::now();
    for _ in 0..10 {
        // The library answers the ping when it is polled on.
        let ping = timeout(Duration::from_secs(60), socket.socket.next()).await.expect("a ping");
        assert!(matches!(ping, Some(Ok(Message::Ping(_)))), "{ping:?}");
        socket.socket.flush().await.unwrap();
    }
    let elapsed = started.elapsed().as_secs();
    assert!((300..=330).contains(&elapsed), "{elapsed} s for ten pings");
    assert!(is_connected(&service));
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_noticed() {
    let service = service();
    let mut socket = websocket(&service).await;
    socket.send(&report(1)).await;
    socket.recv().await;
    // The peer neither reads nor writes any more, and its end of the line stays open.
    sleep(Duration::from_secs(48)).await;
    assert!(is_connected(&service));
    sleep(Duration::from_secs(6)).await;
    assert!(!is_connected(&service));
    assert_eq!(service.fleet().counters().timed_out, 1);
    assert_eq!(socket.recv_close().await, 1008);
}

#[tokio::test(start_paused = true)]
async fn a_busy_peer_is_not_pinged() {
    let service = service();
    let mut socket = websocket(&service).await;
    socket.send(&report(0)).await;
    socket.recv().await;
    for number in 1..20 {
        sleep(Duration::from_secs(25)).await;
        socket.send(&beat(number)).await;
        let reply = socket.socket.next().await.unwrap().unwrap();
        assert!(matches!(reply, Message::Binary(_)), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_speaks_is_closed() {
    let service = service();
    let mut socket = websocket(&service).await;
    let started = Instant::now();
    sleep(Duration::from_secs(29)).await;
    assert_eq!(socket.recv_close().await, 1008);
    let elapsed = started.elapsed().as_secs();
    assert!((30..33).contains(&elapsed), "{elapsed} s");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_is_closed_and_others_are_served() {
    let service = service();
    let mut deaf = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    deaf.send(&report(1)).await;
    let mut other = websocket(&service).await;
    other.send(&crate::support::full_report(&[1; 16], 1, crate::client::MASK)).await;
    other.recv().await;
    deaf.recv().await;
    let config = remote_config(&"x".repeat(200_000));
    service.fleet().set_remote_config(uid(&UID), config).unwrap();
    for number in 2..6 {
        // It goes on sending, so it is not silent.
        deaf.send(&beat(number)).await;
        other.send(&crate::support::heartbeat(&[1; 16], number, crate::client::MASK)).await;
        assert_eq!(other.recv().await, bare(&[1; 16]));
        assert!(is_connected(&service));
        sleep(Duration::from_secs(7)).await;
    }
    sleep(Duration::from_secs(4)).await;
    assert!(!is_connected(&service));
    assert_eq!(service.fleet().counters().timed_out, 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_a_deaf_one() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    let config = remote_config(&"x".repeat(100_000));
    service.fleet().set_remote_config(uid(&UID), config).unwrap();
    // 20 kB every 20 s, with pongs and heartbeats in between.
    let mut raw = Vec::new();
    for number in 2..7 {
        sleep(Duration::from_secs(20)).await;
        socket.send(&beat(number)).await;
        while raw.len() < 20_000 * usize::try_from(number - 1).unwrap() {
            socket.socket.get_mut().read_buf(&mut raw).await.unwrap();
        }
    }
    assert!(is_connected(&service));
}

/// Both ends have a large message to send, and the peer reads nothing before its own is out.
#[tokio::test(start_paused = true)]
async fn two_large_messages_pass_each_other() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    let config = remote_config(&"x".repeat(1_000_000));
    service.fleet().set_remote_config(uid(&UID), config).unwrap();
    sleep(Duration::from_millis(1)).await;
    let large = v1::AgentToServer {
        health: Some(v1::ComponentHealth { status: "y".repeat(1_000_000), ..Default::default() }),
        ..beat(2)
    };
    let sending = timeout(Duration::from_secs(20), socket.send(&large));
    sending.await.expect("the Server reads while it writes");
    assert!(socket.recv().await.remote_config.is_some());
    assert_eq!(socket.recv().await, bare(&UID));
}

#[tokio::test(start_paused = true)]
async fn a_flood_without_reading_is_held_back() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    // The Server stops to take in messages it cannot answer, so that the sender is stopped as well.
    let mut sent = 1;
    while timeout(Duration::from_millis(100), socket.send(&beat(sent + 1))).await.is_ok() {
        sent += 1;
        assert!(sent < 100_000, "it is stopped in time");
    }
    let taken = service.fleet().agent(uid(&UID)).unwrap().sequence_num();
    assert!(taken > 100 && taken < sent + 1, "{taken} of {sent}");
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_without_reading_is_held_back() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    // A ping of 125 bytes, with a mask of zeros.
    let ping = [&[0x89, 0x80 | 125][..], &[0; 4 + 125]].concat();
    let raw = socket.socket.get_mut();
    let mut sent = 0;
    while timeout(Duration::from_millis(100), raw.write_all(&ping)).await.is_ok() {
        sent += 1;
        assert!(sent < 10_000, "it is stopped in time");
    }
    assert!(sent > 100, "{sent}");
    assert!(is_connected(&service));
    // Once it reads, it is answered.
    let mut pongs = vec![0; sent * (2 + 125)];
    soon(raw.read_exact(&mut pongs)).await.expect("the pongs");
    assert!(pongs.chunks(127).all(|pong| pong.starts_with(&[0x8a, 125])));
}

/// One byte after the other arrives in a read of its own.
#[tokio::test(start_paused = true)]
async fn a_message_may_come_byte_by_byte() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    let body = report(1).encode_to_vec();
    let len = u8::try_from(body.len() + 1).expect("a short message");
    let frame = [&[0x82, 0x80 | len, 0, 0, 0, 0, 0][..], &body].concat();
    for byte in frame {
        socket.socket.get_mut().write_all(&[byte]).await.expect("it is sent");
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(socket.recv().await.error_response, None);
}

/// The peer has hung up, but takes what was under way before the answer to that.
#[tokio::test(start_paused = true)]
async fn what_was_queued_before_a_close_frame_leaves_before_its_answer() {
    let service = service();
    let mut socket = WebSocket::open(connect(&service, 1024), &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    socket.recv().await;
    let config = remote_config(&"x".repeat(100_000));
    service.fleet().set_remote_config(uid(&UID), config).unwrap();
    sleep(Duration::from_millis(1)).await;
    let raw = socket.socket.get_mut();
    raw.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await.expect("it is sent");
    let mut received = Vec::new();
    soon(raw.read_to_end(&mut received)).await.expect("the rest");
    assert!(received.len() > 100_000);
    assert_eq!(received[received.len() - 4..], [0x88, 2, 0x03, 0xe8]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_is_408() {
    let service = service();
    let mut stream = connect(&service, 64 * 1024);
    let head = "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                content-length: 100\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let started = Instant::now();
    let mut answer = Vec::new();
    loop {
        tokio::select! {
            read = stream.read_buf(&mut answer) => {
                read.unwrap();
                break;
            }
            // Bytes come, but not in time.
            () = sleep(Duration::from_secs(1)) => stream.write_all(&[0]).await.unwrap(),
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(started.elapsed().as_secs(), 30);
}

/// On a real listener, which has the timer for it.
#[tokio::test]
async fn a_slow_head_ends_the_connection_and_an_idle_one_stays() {
    let server = Server::bind("127.0.0.1:0")
        .header_timeout(Duration::from_millis(200))
        .idle_timeout(Duration::from_secs(30));
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"POST /v1/opamp HTT").await.unwrap();
    let mut rest = Vec::new();
    let _ = soon(slow.read_to_end(&mut rest)).await;

    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    for number in 1..=2 {
        idle.write_all(&raw_post(&report(number))).await.unwrap();
        let mut answer = Vec::new();
        soon(async {
            while !answer.windows(16).any(|window| window == UID) {
                assert_ne!(idle.read_buf(&mut answer).await.unwrap(), 0, "it is kept");
            }
        })
        .await;
        sleep(Duration::from_millis(500)).await;
    }
    server.check_alive().await;
}

/// Lets in who asks, but not before it is told to.
struct Gate {
    asked: Arc<Notify>,
    open: Arc<Notify>,
}

impl Handler for Gate {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        self.asked.notify_one();
        self.open.notified().await;
        Ok(())
    }
}

/// On a real listener: what is asked last is answered as well.
#[tokio::test]
async fn a_client_that_has_said_all_it_has_to_say_gets_its_answer() {
    let (asked, open) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let gate = Gate { asked: Arc::clone(&asked), open: Arc::clone(&open) };
    let server = run(Server::bind("127.0.0.1:0").listen(gate).await.unwrap());
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&raw_post(&report(1))).await.unwrap();
    stream.shutdown().await.unwrap();
    soon(asked.notified()).await;
    open.notify_one();
    let mut answer = Vec::new();
    soon(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert!(answer.windows(16).any(|window| window == UID));
    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
}

/// On a real listener, as it is the one that writes there: a client that asks for a large response
/// and does not read it does not keep its place.
#[tokio::test]
async fn a_client_that_does_not_read_its_response_is_dropped_for_the_next() {
    let mut service = ServiceConfig::default();
    service.write_timeout = Duration::from_millis(300);
    let server = Server::bind("127.0.0.1:0").max_connections(1).service_config(service);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let _ = server.post(&report(1)).await;
    // More than what is buffered on the way.
    let config = remote_config(&"x".repeat(32 * 1024 * 1024));
    server.fleet.set_remote_config(uid(&UID), config).unwrap();

    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    let mut deaf = soon(TcpStream::connect(server.addr)).await.unwrap();
    deaf.write_all(&raw_post(&beat(2))).await.unwrap();
    // Until then others are told that there is no place.
    server.until(|fleet| fleet.counters().timed_out == 1).await;
    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    server.check_alive_one_by_one().await;
    let mut rest = Vec::new();
    let _ = soon(deaf.read_to_end(&mut rest)).await;
    assert!(rest.starts_with(b"HTTP/1.1 200"), "it was being served");
    assert!(rest.len() < 32 * 1024 * 1024, "{} bytes", rest.len());
}
