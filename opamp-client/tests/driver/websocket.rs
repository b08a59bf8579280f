//! What a server can send on an open WebSocket, and how it can close one.

use std::time::{Duration, Instant};

use opamp_client::core::{Event, FailureKind, PeerMisbehaved};
use opamp_proto::{MessageLimits, frame, v1};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::websocket::{Peer, Server, raw_frame, raw_head};
use crate::support::{Agent, agent, healthy, offer_to, remote_config, reply_to, soon};

const LIMIT: usize = 4096;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

/// A client that takes no message above [`LIMIT`], and its connection after the first reply.
async fn limited() -> (Server, Agent, Peer, v1::AgentToServer) {
    let server = Server::start().await;
    let builder = agent(server.url())
        .accept_remote_config()
        .configure(|config| config.limits = MessageLimits::new().with_max_receive(LIMIT));
    let agent = Agent::start(builder);
    let (peer, report) = server.welcome().await;
    (server, agent, peer, report)
}

/// An offer that is exactly this long with its header.
fn offer_of(len: usize, report: &v1::AgentToServer) -> Vec<u8> {
    let offer = |body: usize| frame::encode(&offer_to(report, vec![b'x'; body], "h1"));
    let overhead = offer(len / 2).len() - len / 2;
    // Length prefixes grow with what they count: the second guess is right.
    let offer = offer(len - overhead);
    assert_eq!(offer.len(), len);
    offer.to_vec()
}

async fn misbehaviour(agent: &mut Agent) -> PeerMisbehaved {
    agent
        .until(|event| match event {
            Event::PeerMisbehaved(what) => Some(what),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_message_of_exactly_the_limit_is_taken() {
    let _judged = opamp_spec::judges(&["SIZE-01", "SIZE-03", "WS-09"]);
    let (_server, mut agent, mut peer, report) = limited().await;
    peer.send_raw(Message::binary(offer_of(LIMIT, &report))).await;
    assert!(agent.offer().await.config().config_map[""].body.len() > LIMIT / 2);
}

#[tokio::test]
async fn a_message_above_the_limit_closes_the_connection() {
    let _judged = opamp_spec::judges(&["SIZE-08", "SIZE-10", "SIZE-11"]);
    let (server, mut agent, mut peer, report) = limited().await;
    peer.send_raw(Message::binary(offer_of(LIMIT + 1, &report))).await;
    assert_eq!(u16::from(peer.close_frame().await.code), 1009);
    peer.ended().await;
    assert_eq!(misbehaviour(&mut agent).await, PeerMisbehaved::TooLarge { limit: LIMIT });
    // The client comes back, and never acted on the offer.
    let (_peer, again) = server.welcome().await;
    assert_eq!(again.instance_uid, report.instance_uid);
    assert!(agent.client.status().state.pending_remote_config.is_none());
}

/// The reason for the close arrives also at a server that is far from done with sending: a socket
/// that is closed with bytes unread would be reset, and the Close frame lost.
#[tokio::test]
async fn the_close_arrives_with_more_bytes_in_flight() {
    let _judged = opamp_spec::judges(&["SIZE-11"]);
    const FLOOD: usize = 8 * 1024 * 1024;
    let (_server, _agent, mut peer, _) = limited().await;
    peer.write(&raw_head(true, BINARY, FLOOD)).await;
    for _ in 0..FLOOD / LIMIT {
        peer.write(&[0; LIMIT]).await;
    }
    assert_eq!(u16::from(peer.close_frame().await.code), 1009);
    peer.ended().await;
}

#[tokio::test]
async fn fragments_above_the_limit_close_the_connection_too() {
    let _judged = opamp_spec::judges(&["SIZE-08", "SIZE-11"]);
    let (_server, _agent, mut peer, _) = limited().await;
    peer.write(&raw_frame(false, BINARY, &[0; LIMIT])).await;
    // There is no need to wait for the end to know that it is too much.
    peer.write(&raw_frame(false, CONTINUATION, &[0])).await;
    assert_eq!(u16::from(peer.close_frame().await.code), 1009);
    peer.ended().await;
}

#[tokio::test]
async fn fragmented_messages_are_put_together() {
    let server = Server::start().await;
    let mut agent = Agent::start(agent(server.url()).accept_remote_config());
    let (mut peer, report) = server.welcome().await;

    // Fragments of 4 KiB with pings between them, as some servers send.
    let message = offer_of(50_000, &report);
    let mut opcode = BINARY;
    let mut chunks = message.chunks(4096).peekable();
    while let Some(chunk) = chunks.next() {
        peer.write(&raw_frame(chunks.peek().is_none(), opcode, chunk)).await;
        peer.write(&raw_frame(true, PING, b"")).await;
        opcode = CONTINUATION;
    }
    assert_eq!(agent.offer().await.hash(), "h1");

    // All of it in a first fragment, and an empty last one.
    let message =
        v1::ServerToAgent { remote_config: Some(remote_config("b", "h2")), ..reply_to(&report) };
    peer.write(&raw_frame(false, BINARY, &frame::encode(&message))).await;
    peer.write(&raw_frame(true, CONTINUATION, b"")).await;
    assert_eq!(agent.offer().await.hash(), "h2");
}

#[tokio::test]
async fn what_is_no_opamp_message_is_dropped_and_the_connection_goes_on() {
    let _judged = opamp_spec::judges(&["WS-01", "WS-05", "WS-07", "WS-08", "WS-10"]);
    let (_server, mut agent, mut peer, report) = limited().await;
    peer.send_raw(Message::text("{}")).await;
    assert_eq!(misbehaviour(&mut agent).await, PeerMisbehaved::TextMessage);
    for garbage in [
        &b""[..],
        b"\x01",
        b"\x00<html>",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
        b"<html>",
    ] {
        peer.send_raw(Message::binary(garbage.to_vec())).await;
        let what = misbehaviour(&mut agent).await;
        assert!(matches!(what, PeerMisbehaved::Malformed(_)), "{garbage:?}: {what:?}");
    }
    let mut foreign = offer_to(&report, "not for you", "h0");
    foreign.instance_uid = vec![7; 16].into();
    peer.send(&foreign).await;
    assert_eq!(misbehaviour(&mut agent).await, PeerMisbehaved::ForeignInstanceUid);
    // All fields unset, and a header padded to three bytes.
    peer.send_raw(Message::binary(b"\0".to_vec())).await;
    let mut padded = b"\x80\x80".to_vec();
    padded.extend(frame::encode(&offer_to(&report, "for you", "h1")));
    peer.send_raw(Message::binary(padded)).await;
    assert_eq!(agent.offer().await.hash(), "h1");
}

/// The server is told why before the connection ends, and the client comes back.
#[tokio::test]
async fn what_is_no_websocket_frame_ends_the_connection() {
    let long = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    for (broken, code) in [
        // A reserved opcode, reserved bits, a masked frame, a continuation of nothing.
        (raw_frame(true, 3, b"x"), 1002),
        (raw_frame(true, BINARY | 0x70, b"x"), 1002),
        (vec![0x82, 0x81, 1, 2, 3, 4, b'x' ^ 1], 1002),
        (raw_frame(true, CONTINUATION, b"x"), 1002),
        // Control frames in parts, and ones that are too long.
        (raw_frame(false, PING, b"x"), 1002),
        (raw_frame(true, PING, &[b'x'; 126]), 1002),
        // A new message before the last one is whole.
        ([raw_frame(false, BINARY, b"x"), raw_frame(true, BINARY, b"y")].concat(), 1002),
        // Text that is none, whole and in parts.
        (raw_frame(true, TEXT, b"\xff"), 1007),
        ([raw_frame(false, TEXT, b"\xc3"), raw_frame(true, CONTINUATION, b"(")].concat(), 1007),
        // A length that no message has is one that is too large.
        (long.to_vec(), 1009),
    ] {
        let (server, mut agent, mut peer, report) = limited().await;
        // What is sent after it is not looked at any more.
        let more = frame::encode(&offer_to(&report, "too late", "h1"));
        peer.write(&[broken.clone(), raw_frame(true, BINARY, &more)].concat()).await;
        assert_eq!(u16::from(peer.close_frame().await.code), code, "{broken:02x?}");
        peer.ended().await;
        let reason = agent.disconnected().await;
        assert!(code == 1009 || reason.contains("breaks the WebSocket protocol"), "{reason}");
        let (_peer, again) = server.welcome().await;
        assert_eq!(again.sequence_num, report.sequence_num + 1, "{broken:02x?}");
        assert!(agent.client.status().state.pending_remote_config.is_none());
    }
}

/// The end of the connection does not depend on the server.
#[tokio::test]
async fn a_server_that_breaks_the_protocol_and_never_closes_is_left() {
    let (server, mut agent, mut peer, _) = limited().await;
    peer.write(&raw_frame(true, 3, b"x")).await;
    assert!(agent.disconnected().await.contains("protocol"));
    server.welcome().await;
    drop(peer);
}

/// Their contents cannot be told from those of a message that was compressed.
/// W-1 of the reference: what was compressed got around the limit.
#[tokio::test]
async fn no_extension_is_offered_and_none_is_taken() {
    let server = crate::support::http::Server::start().await;
    let mut agent = Agent::start(agent(server.url().replace("http://", "ws://")));
    let mut request = server.request().await;
    assert_eq!(request.header("sec-websocket-extensions"), None);
    let key = request.header("sec-websocket-key").unwrap();
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    request.write(answer.as_bytes()).await;
    let (failure, _) = agent.failure().await;
    assert_eq!(failure.kind, FailureKind::BadResponse, "{}", failure.message);
    assert!(failure.message.contains("extension"), "{}", failure.message);
}

#[tokio::test]
async fn a_server_that_closes_is_left_alone_for_a_while() {
    let _judged = opamp_spec::judges(&["EST-07", "SEQ-02", "STATUS-03", "ID-04"]);
    let wait = Duration::from_millis(150);
    for code in [1000, 1001, 1012, 1013] {
        let server = Server::start().await;
        let builder = agent(server.url()).health(healthy("fine")).configure(move |config| {
            config.backoff.initial = wait;
            config.backoff.max = wait;
            config.backoff.jitter = 0.0;
        });
        let mut agent = Agent::start(builder);
        let (mut peer, first) = server.welcome().await;
        let reason = "moving out".into();
        let asked = Instant::now();
        peer.send_raw(Message::Close(Some(CloseFrame { code: code.into(), reason }))).await;
        assert_eq!(u16::from(peer.close_frame().await.code), code);
        peer.ended().await;
        let reason = agent.disconnected().await;
        assert!(reason.contains(&code.to_string()) && reason.contains("moving out"), "{reason}");

        let (_peer, again) = server.welcome().await;
        assert!(asked.elapsed() >= wait, "{code}: {:?}", asked.elapsed());
        assert_eq!(again.instance_uid, first.instance_uid);
        assert_eq!(again.sequence_num, first.sequence_num + 1);
        assert_eq!((again.agent_description, again.health), (None, None));
    }
}

/// The agent has to answer at once, however long nothing happened before.
#[tokio::test]
async fn a_close_after_a_long_silence_is_answered() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = Server::start().await;
    let mut agent = Agent::start(agent(server.url()).configure(|config| {
        config.heartbeat_interval = None;
        config.ping_interval = None;
    }));
    let (mut peer, _) = server.welcome().await;
    // Longer than the agent would wait for the rest of a closing handshake.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let frame = CloseFrame { code: 1001.into(), reason: "restarting".into() };
    peer.send_raw(Message::Close(Some(frame))).await;
    assert_eq!(u16::from(peer.close_frame().await.code), 1001);
    peer.ended().await;
    assert!(agent.disconnected().await.contains("1001"));
}

/// A server that sends a Close frame and then neither reads nor closes the socket.
#[tokio::test]
async fn a_server_that_never_finishes_closing_is_left() {
    let server = Server::start().await;
    let mut agent = Agent::start(agent(server.url()));
    let (mut peer, _) = server.welcome().await;
    peer.write(&raw_frame(true, 8, &1001_u16.to_be_bytes())).await;
    let reason = agent.disconnected().await;
    assert!(reason.contains("1001"), "{reason}");
    server.welcome().await;
    drop(peer);
}

#[tokio::test]
async fn an_answer_that_is_no_handshake_is_a_failure() {
    let _judged = opamp_spec::judges(&["NET-08", "EST-03"]);
    let wrong_accept = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Accept: bm90IHRoZSByaWdodCBvbmU=\r\n\r\n";
    let no_upgrade = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    for answer in [wrong_accept, no_upgrade, "220 mail.example.com ESMTP\r\n\r\n"] {
        let server = Server::start().await;
        let mut agent = Agent::start(agent(server.url()));
        let mut tcp = server.accept_tcp().await;
        let mut byte = [0; 1];
        soon(tcp.read_exact(&mut byte)).await.unwrap();
        tcp.write_all(answer.as_bytes()).await.unwrap();
        let (failure, _) = agent.failure().await;
        assert_eq!(failure.kind, FailureKind::BadResponse, "{answer}: {}", failure.message);
        drop(tcp);
        server.welcome().await;
    }
}
