//! The WebSocket transport when all is well.

use futures_util::{SinkExt as _, StreamExt as _};
use opamp_proto::{Message as _, v1};
use opamp_server::{AcceptAll, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::client::{OTHER, UID, beat, framed, report, soon, start, start_with, uid};
use crate::support::{self, bare, full_report, remote_config};

#[tokio::test]
async fn both_transports_are_served_at_one_path() {
    let _judged = opamp_spec::judges(&[
        "NET-01", "NET-03", "NET-08", "WS-01", "WS-02", "WS-04", "WS-06", "HTTP-03", "HTTP-04",
    ]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    let first = v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&UID) };
    assert_eq!(socket.recv().await, first);
    socket.send(&beat(2)).await;
    assert_eq!(socket.recv().await, bare(&UID));

    let reply = server.post(&full_report(&OTHER, 1, crate::client::MASK)).await;
    assert_eq!(reply, v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&OTHER) });

    let agent = server.fleet.agent(uid(&UID)).unwrap();
    assert_eq!(agent.transport(), Transport::WebSocket);
    assert!(agent.remote_addr().unwrap().ip().is_loopback());
    assert_eq!(server.fleet.agent(uid(&OTHER)).unwrap().transport(), Transport::Http);
}

#[tokio::test]
async fn a_config_is_pushed_and_a_reply_to_a_pipelined_message_is_in_order() {
    let _judged = opamp_spec::judges(&["WS-11", "WS-12", "CFG-09"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.send(&beat(2)).await;
    socket.send(&beat(3)).await;
    assert_ne!(socket.recv().await.capabilities, 0);
    assert_eq!(socket.recv().await, bare(&UID));
    assert_eq!(socket.recv().await, bare(&UID));
    let config = remote_config(&"x".repeat(300_000));
    server.fleet.set_remote_config(uid(&UID), config.clone()).unwrap();
    let pushed = socket.recv().await.remote_config.expect("an offer");
    assert_eq!(pushed.config, Some(config.to_message()));
}

#[tokio::test]
async fn header_forms_and_fragments_are_taken() {
    let _judged = opamp_spec::judges(&["WS-05", "WS-09"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    let padded = [&[0x80, 0x80, 0x00][..], &report(1).encode_to_vec()].concat();
    socket.send_raw(padded).await;
    assert_eq!(socket.recv().await.error_response, None);
    // One byte in each frame, and control frames in between.
    let message = framed(&beat(2).encode_to_vec());
    for (index, byte) in message.iter().enumerate() {
        let kind = if index == 0 { Data::Binary } else { Data::Continue };
        let last = index == message.len() - 1;
        let frame = Frame::message(vec![*byte], OpCode::Data(kind), last);
        socket.socket.send(Message::Frame(frame)).await.unwrap();
        if index == 5 {
            socket.socket.send(Message::Ping("x".into())).await.unwrap();
        }
    }
    let pong = soon(socket.socket.next()).await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong("x".into()));
    assert_eq!(socket.recv().await, bare(&UID));
}

#[tokio::test]
async fn many_agents_share_a_connection() {
    let _judged = opamp_spec::judges(&["ID-11"]);
    let server = start_with(AcceptAll, |config, _| config.max_agents_per_connection = 100).await;
    let mut socket = server.websocket().await;
    for number in 1..=100 {
        socket.send(&full_report(&[number; 16], 1, crate::client::MASK)).await;
    }
    for number in 1..=100 {
        let reply = socket.recv().await;
        assert_eq!((reply.instance_uid.as_ref(), reply.error_response), (&[number; 16][..], None));
    }
    // More are refused one by one, which is no reason to close the connection on the others.
    for number in 101..=130 {
        socket.send(&full_report(&[number; 16], 1, crate::client::MASK)).await;
        assert!(socket.recv().await.error_response.is_some());
    }
    server.fleet.set_default_remote_config(remote_config("all")).unwrap();
    let mut offered: Vec<_> = Vec::new();
    for _ in 1..=100 {
        let push = socket.recv().await;
        assert!(push.remote_config.is_some());
        offered.push(push.instance_uid);
    }
    offered.sort();
    offered.dedup();
    assert_eq!(offered.len(), 100);
    drop(socket);
    server.until(|fleet| fleet.agents().iter().all(|agent| !agent.is_connected())).await;
}

#[tokio::test]
async fn a_peer_that_closes_is_answered_and_its_agents_are_disconnected() {
    let _judged = opamp_spec::judges(&["CLOSE-11"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    socket.socket.close(None).await.unwrap();
    assert!(matches!(soon(socket.socket.next()).await, Some(Ok(Message::Close(_)))));
    socket.recv_end().await;
    server.until_disconnected(&UID).await;
}

#[tokio::test]
async fn a_message_that_came_with_the_handshake_is_not_lost() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let message = framed(&report(1).encode_to_vec());
    let mut bytes = b"GET /v1/opamp HTTP/1.1\r\nhost: x\r\nupgrade: h2c, WebSocket\r\n\
        connection: keep-alive, Upgrade\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    // A masked binary frame, with the mask of zeros.
    bytes.extend([0x82, 0x80 | u8::try_from(message.len()).unwrap(), 0, 0, 0, 0]);
    bytes.extend(&message);
    stream.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    soon(async {
        while !answer.windows(16).any(|window| window == UID) {
            stream.read_buf(&mut answer).await.unwrap();
        }
    })
    .await;
    let text = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(text.starts_with("http/1.1 101"), "{text}");
    assert!(text.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{text}");
}

/// Many clients, a config that keeps changing, and more than one thread: every message is answered,
/// and the last config reaches everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_served_while_the_operator_is_busy() {
    let server = start().await;
    let last = remote_config("last");
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..30_u8 {
        let mut socket = server.websocket().await;
        let last = last.hash().to_bytes();
        clients.spawn(async move {
            let uid = [client; 16];
            for number in 1..=100 {
                socket.send(&full_report(&uid, number, crate::client::MASK)).await;
            }
            let (mut messages, mut has_last) = (0, false);
            while messages < 100 || !has_last {
                let message = socket.recv().await;
                assert_eq!(
                    (message.instance_uid.as_ref(), message.error_response),
                    (&uid[..], None)
                );
                messages += 1;
                has_last |= message.remote_config.is_some_and(|offer| offer.config_hash == last);
            }
        });
    }
    for number in 0..100 {
        server.fleet.set_default_remote_config(remote_config(&number.to_string())).unwrap();
        tokio::task::yield_now().await;
    }
    server.fleet.set_default_remote_config(last).unwrap();
    soon(clients.join_all()).await;
    assert_eq!(server.fleet.counters().messages(), 3000);
}
