//! What a peer at fault is told: the table of `opamp_server::service`, row by row. After each fault
//! the Server goes on serving others.

use futures_util::SinkExt as _;
use http::{Request, StatusCode};
use http_body_util::Full;
use opamp_proto::{Message as _, gzip, v1};
use opamp_server::{AcceptAll, CustomCapabilities, ServerConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{
    BAD_REQUEST, MASK, UID, UNAVAILABLE, beat, framed, post, report, soon, start, start_with, uid,
};
use crate::support::{bare, heartbeat, remote_config};

const LIMIT: usize = 100_000;

fn padded(number: u64, size: usize) -> v1::AgentToServer {
    let mut message = beat(number);
    let health = |length| v1::ComponentHealth { status: "x".repeat(length), ..Default::default() };
    message.health = Some(health(size - 100));
    let missing = size - message.encoded_len();
    message.health = Some(health(size - 100 + missing));
    assert_eq!(message.encoded_len(), size);
    message
}

#[tokio::test]
async fn malformed_websocket_messages_are_told_and_the_connection_goes_on() {
    let _judged = opamp_spec::judges(&["WS-07", "WS-08", "WS-10", "ERR-11", "ERR-12", "ERR-13"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    let good = beat(1).encode_to_vec();
    for (what, bytes) in [
        ("header 1", [&[1][..], &good].concat()),
        ("no header", good.clone()),
        ("unterminated header", vec![0x80; 9]),
        ("header of 11 bytes", [&[0x80; 10][..], &[0], &good].concat()),
        ("overflowing header", [&[0xff; 9][..], &[0x7f], &good].concat()),
        ("empty WebSocket message", vec![]),
        ("empty OpAMP message", vec![0]),
        ("random bytes", [&[0][..], &[0xa7; 50]].concat()),
    ] {
        socket.send_raw(bytes).await;
        let reply = socket.recv().await;
        let error = reply.error_response.unwrap_or_else(|| panic!("{what} is refused"));
        assert_eq!(error.r#type, BAD_REQUEST, "{what}");
        assert!(!error.error_message.is_empty(), "{what}");
        assert!(reply.instance_uid.is_empty(), "{what}");
    }
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(server.fleet.counters().malformed, 8);
}

#[tokio::test]
async fn a_missing_header_is_served_when_tolerated() {
    let server = start_with(AcceptAll, |config, _| config.tolerances.missing_header = true).await;
    let mut socket = server.websocket().await;
    socket.send_raw(report(1).encode_to_vec()).await;
    assert_eq!(socket.recv().await.error_response, None);
    socket.send(&beat(2)).await;
    assert_eq!(socket.recv().await, bare(&UID));
    assert_eq!(server.fleet.counters().missing_headers, 1);
}

#[tokio::test]
async fn many_malformed_messages_in_a_row_close_the_connection() {
    let server = start().await;
    let mut socket = server.websocket().await;
    for round in 0..2 {
        for _ in 0..16 {
            socket.send_raw(vec![0, 0xff]).await;
            assert!(socket.recv().await.error_response.is_some());
        }
        if round == 0 {
            socket.send(&report(1)).await;
            assert_eq!(socket.recv().await.error_response, None, "in a row, not in all");
        }
    }
    // Sixteen are borne with, and one more for the Agent on the connection.
    socket.send_raw(vec![0, 0xff]).await;
    assert!(socket.recv().await.error_response.is_some());
    socket.send_raw(vec![0, 0xff]).await;
    assert_eq!(socket.recv_close().await, 1008);
    server.check_alive().await;
}

#[tokio::test]
async fn websocket_messages_up_to_the_limit_pass_and_larger_ones_close_with_1009() {
    let _judged = opamp_spec::judges(&["SIZE-01", "SIZE-03", "SIZE-04", "SIZE-06", "SIZE-07"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    socket.send(&padded(2, LIMIT - 1)).await;
    assert_eq!(socket.recv().await, bare(&UID), "the header counts");
    socket.send(&padded(3, LIMIT)).await;
    assert_eq!(socket.recv_close().await, 1009);
    socket.recv_end().await;
    server.until_disconnected(&UID).await;
    let agent = server.fleet.agent(uid(&UID)).unwrap();
    assert_eq!(agent.sequence_num(), 2);
    assert_eq!(server.fleet.counters().oversized, 1);
    server.check_alive().await;
}

#[tokio::test]
async fn a_websocket_message_may_have_64_mib_where_nothing_else_is_configured() {
    const MOST: usize = 67_108_864;
    let _judged = opamp_spec::judges(&["SIZE-02"]);
    assert_eq!(ServerConfig::default().limits.max_send(), MOST);
    let server = start().await;
    let mut socket = server.websocket().await;
    // A field that nobody knows makes it large and nothing else: no state is to be kept of it.
    let mut message = framed(&report(1).encode_to_vec());
    encode_key(100, WireType::LengthDelimited, &mut message);
    // The length of what follows takes four bytes itself.
    let rest = MOST - message.len() - 4;
    encode_varint(rest as u64, &mut message);
    assert_eq!(message.len() + rest, MOST);
    message.resize(MOST, 0);
    socket.send_raw(message).await;
    assert_eq!(socket.recv().await.error_response, None);

    // One byte more, which is refused at its announcement: a final binary frame with a mask.
    let announced = [&[0x82, 0xff][..], &(MOST as u64 + 1).to_be_bytes(), &[0; 4]].concat();
    socket.socket.get_mut().write_all(&announced).await.unwrap();
    assert_eq!(socket.recv_close().await, 1009);
    server.check_alive().await;
}

/// The peer is still sending when the Server closes, and reads only afterwards: the Close frame has
/// to survive that.
#[tokio::test]
async fn the_close_frame_reaches_a_peer_that_is_still_sending() {
    let _judged = opamp_spec::judges(&["SIZE-07"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let mut socket = server.websocket().await;
    socket.send_raw(vec![0; 20 * 1024 * 1024]).await;
    assert_eq!(socket.recv_close().await, 1009);
    server.check_alive().await;
}

#[tokio::test]
async fn an_oversized_message_in_fragments_closes_with_1009() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let mut socket = server.websocket().await;
    for index in 0..11 {
        let kind = if index == 0 { Data::Binary } else { Data::Continue };
        let frame = Frame::message(vec![0; LIMIT / 10], OpCode::Data(kind), false);
        socket.socket.send(Message::Frame(frame)).await.unwrap();
    }
    assert_eq!(socket.recv_close().await, 1009);
}

#[tokio::test]
async fn a_text_message_closes_with_1003_and_a_broken_frame_with_1002() {
    let _judged = opamp_spec::judges(&["WS-01"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.socket.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(socket.recv_close().await, 1003);

    let mut socket = server.websocket().await;
    // An unmasked frame, which no client may send.
    let frame = [0x82, 1, 0];
    socket.socket.get_mut().write_all(&frame).await.unwrap();
    assert_eq!(socket.recv_close().await, 1002);
    server.check_alive().await;
}

#[tokio::test]
async fn an_invalid_close_frame_is_answered_with_what_is_wrong() {
    let server = start().await;
    for (payload, answer) in
        [(&b"\x03"[..], 1002), (b"\x03\xed", 1002), (b"\x03\xe8\xff", 1007), (b"\x0b\xb8", 3000)]
    {
        let mut socket = server.websocket().await;
        let len = u8::try_from(payload.len()).expect("a short payload");
        let frame = [&[0x88, 0x80 | len, 0, 0, 0, 0][..], payload].concat();
        socket.socket.get_mut().write_all(&frame).await.unwrap();
        assert_eq!(socket.recv_close().await, answer, "{payload:?}");
        socket.recv_end().await;
    }
    server.check_alive().await;
}

#[tokio::test]
async fn a_frame_that_breaks_off_is_a_lost_connection() {
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    socket.socket.get_mut().write_all(&[0x82, 0xff, 0, 0]).await.unwrap();
    drop(socket);
    server.until_disconnected(&UID).await;
    server.check_alive().await;
}

#[tokio::test]
async fn deep_nesting_passes_to_a_point_and_is_refused_beyond() {
    let _judged = opamp_spec::judges(&["HEALTH-07"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    let mut health = v1::ComponentHealth::default();
    for _ in 1..16 {
        let component_health_map = [(String::from("inner"), health)].into();
        health = v1::ComponentHealth { component_health_map, ..Default::default() };
    }
    socket.send(&v1::AgentToServer { health: Some(health), ..report(1) }).await;
    assert_eq!(socket.recv().await.error_response, None);

    let mut abyss = Vec::new();
    for _ in 0..1000 {
        let mut entry = vec![0x0a, 0x00, 0x12];
        prost::encoding::encode_varint(abyss.len() as u64, &mut entry);
        entry.append(&mut abyss);
        abyss.push(6 << 3 | 2);
        prost::encoding::encode_varint(entry.len() as u64, &mut abyss);
        abyss.append(&mut entry);
    }
    let mut message = framed(&beat(2).encode_to_vec());
    message.push(5 << 3 | 2);
    prost::encoding::encode_varint(abyss.len() as u64, &mut message);
    message.append(&mut abyss);
    socket.send_raw(message).await;
    let reply = socket.recv().await;
    assert_eq!(reply.error_response.expect("an error").r#type, BAD_REQUEST);
    assert_eq!(reply.instance_uid, &UID[..]);
}

/// Small enough for the wire, but not once decoded.
#[tokio::test]
async fn millions_of_attributes_are_refused_by_name_and_the_connection_goes_on() {
    let _judged = opamp_spec::judges(&["ERR-11", "ERR-12", "ERR-13"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    let attributes = [0x0a, 0x00].repeat(8_000_000);
    let mut message = beat(1).encode_to_vec();
    message.push(3 << 3 | 2);
    prost::encoding::encode_varint(attributes.len() as u64, &mut message);
    message.extend(attributes);
    socket.send_raw(framed(&message)).await;
    let over_websocket = socket.recv().await;
    let over_http = server.request(post(message)).await.message();
    for reply in [over_websocket, over_http] {
        let error = reply.error_response.expect("an error");
        assert_eq!(error.r#type, BAD_REQUEST);
        let text = "AgentToServer.agent_description: more than 100000 elements";
        assert_eq!(error.error_message, text);
        assert_eq!(reply.instance_uid, &UID[..]);
    }
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(server.fleet.counters().malformed, 2);
    server.check_alive().await;
}

#[tokio::test]
async fn bodies_up_to_the_limit_pass_and_larger_ones_are_413() {
    let _judged = opamp_spec::judges(&["SIZE-18", "SIZE-20", "SIZE-21", "SIZE-22", "SIZE-23"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    server.post(&report(1)).await;
    assert_eq!(server.post(&padded(2, LIMIT)).await.error_response, None);
    let too_large = padded(3, LIMIT + 1).encode_to_vec();
    let answer = server.request(post(too_large.clone())).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(answer.headers["connection"], "close");

    // Unpacked, it is what counts.
    let gzipped = |body: &[u8]| {
        let mut request = post(gzip::compress(body));
        request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        request
    };
    let exact = server.request(gzipped(&padded(3, LIMIT).encode_to_vec())).await;
    assert_eq!(exact.message().error_response, None);
    let answer = server.request(gzipped(&too_large)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let bomb = server.request(gzipped(&vec![0; 10_000_000])).await;
    assert_eq!(bomb.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.fleet.agent(uid(&UID)).unwrap().sequence_num(), 3);
    server.check_alive().await;
}

/// The client sends before it reads, and far more than what is buffered on the way.
#[tokio::test]
async fn the_413_reaches_a_client_that_is_still_sending() {
    let _judged = opamp_spec::judges(&["SIZE-23"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let size = 20 * 1024 * 1024;
    for framing in [format!("content-length: {size}"), "transfer-encoding: chunked".into()] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
             {framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = vec![0; size];
        if framing.contains("chunked") {
            stream.write_all(format!("{size:x}\r\n").as_bytes()).await.unwrap();
            stream.write_all(&chunk).await.unwrap();
            stream.write_all(b"\r\n0\r\n\r\n").await.unwrap();
        } else {
            stream.write_all(&chunk).await.unwrap();
        }
        let mut answer = Vec::new();
        soon(stream.read_buf(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
    }
}

/// Who asks before sending is not asked to send in vain.
#[tokio::test]
async fn an_oversized_body_that_was_only_announced_is_413_at_once() {
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                content-length: 100001\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    soon(stream.read_buf(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_body_without_a_length_is_counted_as_it_comes() {
    let _judged = opamp_spec::judges(&["SIZE-21", "SIZE-23"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(LIMIT))
            .await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"8000\r\n".as_slice(), &[0; 0x8000], b"\r\n"].concat();
    for _ in 0..4 {
        stream.write_all(&chunk).await.unwrap();
    }
    let mut answer = Vec::new();
    soon(stream.read_buf(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn codings_that_cannot_be_undone_are_refused() {
    let _judged = opamp_spec::judges(&["HTTP-19"]);
    let server = start().await;
    let body = report(1).encode_to_vec();
    let coded = |coding: &str, body: Vec<u8>| {
        let mut request = post(body);
        request.headers_mut().insert("content-encoding", coding.parse().unwrap());
        request
    };
    for coding in ["br", "deflate", "gzip, gzip", "zstd, gzip"] {
        let answer = server.request(coded(coding, gzip::compress(&body))).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}");
        assert_eq!(answer.headers["accept-encoding"], "gzip");
    }
    let mut truncated = gzip::compress(&body);
    truncated.truncate(truncated.len() / 2);
    for corrupt in [body.clone(), truncated, vec![]] {
        let answer = server.request(coded("gzip", corrupt)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
    let answer = server.request(coded("identity", body)).await;
    assert_eq!(answer.message().error_response, None);
}

#[tokio::test]
async fn invalid_handshakes_get_a_4xx() {
    let _judged = opamp_spec::judges(&["HTTP-16", "NET-08"]);
    let server = start().await;
    let valid = [
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let cases = [
        ("upgrade", "h2c", StatusCode::UPGRADE_REQUIRED),
        ("connection", "close", StatusCode::UPGRADE_REQUIRED),
        ("sec-websocket-version", "12", StatusCode::UPGRADE_REQUIRED),
        ("sec-websocket-key", "short", StatusCode::BAD_REQUEST),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25j!!==", StatusCode::BAD_REQUEST),
    ];
    for (changed, to, expected) in cases {
        let mut request = Request::get("/v1/opamp").header("host", "x");
        for (name, value) in valid {
            request = request.header(name, if name == changed { to } else { value });
        }
        let answer = server.request(request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, expected, "{changed}: {to}");
        if changed == "sec-websocket-version" {
            assert_eq!(answer.headers["sec-websocket-version"], "13");
        }
    }
}

#[tokio::test]
async fn random_bytes_instead_of_http_hurt_nobody() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 200, 1, 0, 0]).await.unwrap();
    stream.write_all(&[0xff; 500]).await.unwrap();
    let mut answer = Vec::new();
    // Whatever the answer is, the connection ends.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    server.check_alive().await;
}

#[tokio::test]
async fn an_overloaded_server_opens_no_websockets_and_tells_the_others() {
    let _judged = opamp_spec::judges(&["THR-01", "THR-06", "THR-07", "THR-08"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    server.fleet.set_unavailable(Some(std::time::Duration::from_millis(2500)));
    socket.send(&beat(2)).await;
    assert_eq!(socket.recv().await.error_response.expect("an error").r#type, UNAVAILABLE);
    let answer = server.request(post(heartbeat(&[3; 16], 1, MASK).encode_to_vec())).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers["retry-after"], "3");
    let refused = server.websocket_with(&[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "3");
    server.fleet.set_available();
    server.check_alive().await;
}

#[tokio::test]
async fn a_reply_above_the_send_limit_is_never_sent() {
    let _judged = opamp_spec::judges(&["SIZE-12", "SIZE-13", "SIZE-30", "SIZE-31"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_send(1000)).await;
    assert!(server.fleet.set_default_remote_config(remote_config(&"x".repeat(2000))).is_err());
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    assert!(socket.recv_raw().await.len() <= 1000);
    let answer = server.request(post(report(2).encode_to_vec())).await;
    assert!(answer.body.len() <= 1000 && answer.message().remote_config.is_none());
}

#[tokio::test]
async fn a_reply_that_does_not_fit_gives_way_to_an_error() {
    let _judged = opamp_spec::judges(&["ERR-05", "SIZE-14", "SIZE-32"]);
    let server = start_with(AcceptAll, |config, _| {
        config.limits = config.limits.with_max_send(200);
        let names = (0..10).map(|number| format!("org.example.capability{number}"));
        config.custom_capabilities = CustomCapabilities::new(names).unwrap();
    })
    .await;
    let answer = server.request(post(report(1).encode_to_vec())).await.message();
    let mut socket = server.websocket().await;
    socket.send(&report(2)).await;
    for reply in [answer, socket.recv().await] {
        let error = reply.error_response.expect("an error");
        assert_eq!(error.r#type, v1::ServerErrorResponseType::Unknown as i32);
        assert!(error.error_message.contains("size limit"), "{}", error.error_message);
    }
    assert_eq!(server.fleet.counters().unsendable, 2);
}

#[tokio::test]
async fn no_reply_at_all_leaves_when_nothing_fits() {
    let _judged = opamp_spec::judges(&["SIZE-14", "SIZE-32"]);
    // A limit below the size of an acknowledgement is a configuration nobody wants; it is kept.
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_send(10)).await;
    let answer = server.request(post(report(1).encode_to_vec())).await;
    assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
    let mut socket = server.websocket().await;
    socket.send(&report(2)).await;
    assert_eq!(socket.recv_raw().await, &[0][..]);
    assert_eq!(server.fleet.counters().unsendable, 2);
}
