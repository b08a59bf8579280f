//! The plain HTTP transport.

use futures_util::StreamExt as _;
use http::{Request, StatusCode};
use http_body_util::Full;
use opamp_proto::{Message as _, gzip, v1};
use opamp_server::AcceptAll;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{UID, beat, post, report, soon, start, start_with, uid};
use crate::support::{bare, remote_config};

#[tokio::test]
async fn the_media_type_decides_whatever_its_case_and_parameters() {
    let _judged = opamp_spec::judges(&["HTTP-15", "HTTP-16"]);
    let server = start().await;
    for content_type in [
        "application/x-protobuf",
        "Application/X-Protobuf; charset=utf-8",
        "application/x-protobuf;",
    ] {
        let mut request = post(report(1).encode_to_vec());
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        // An Upgrade beside it means nothing.
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        let answer = server.request(request).await;
        assert_eq!(answer.status, StatusCode::OK, "{content_type}");
        assert_eq!(answer.message().error_response, None);
    }
    for content_type in ["application/json", "application/x-protobuffer", ""] {
        let mut request = post(report(1).encode_to_vec());
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        let status = server.request(request).await.status;
        assert!(status.is_client_error() && status != StatusCode::NOT_FOUND, "{status}");
    }
}

#[tokio::test]
async fn only_post_is_served_and_nothing_else_is_404() {
    let _judged = opamp_spec::judges(&["HTTP-15"]);
    let server = start().await;
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"] {
        let mut request = post(report(1).encode_to_vec());
        *request.method_mut() = method.parse().unwrap();
        let answer = server.request(request).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(answer.headers["allow"], "POST");
    }
    for method in ["GET", "HEAD", "POST", "PUT"] {
        let request = Request::builder().method(method).uri("/v1/opamp").header("host", "x");
        let answer = server.request(request.body(Full::default()).unwrap()).await;
        let expected = match method {
            "GET" => StatusCode::UPGRADE_REQUIRED,
            _ => StatusCode::METHOD_NOT_ALLOWED,
        };
        assert_eq!(answer.status, expected, "{method}");
    }
    let elsewhere = Request::post("/v1/other").header("host", "x").body(Full::default()).unwrap();
    assert_eq!(server.request(elsewhere).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn requests_share_a_connection() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for number in 1..=3 {
        let body = report(number).encode_to_vec();
        let head = format!(
            "POST /v1/opamp?query HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        soon(async {
            while !answer.windows(16).any(|window| window == UID) {
                stream.read_buf(&mut answer).await.unwrap();
            }
        })
        .await;
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    }
    assert_eq!(server.fleet.agent(uid(&UID)).unwrap().sequence_num(), 3);
}

#[tokio::test]
async fn gzipped_requests_and_responses() {
    let _judged = opamp_spec::judges(&["HTTP-19", "HTTP-20", "HTTP-21", "HTTP-24", "HTTP-25"]);
    let server = start().await;
    let config = remote_config(&"compressible ".repeat(1000));
    server.fleet.set_default_remote_config(config.clone()).unwrap();
    for (number, accept, compressed) in [
        (1, "gzip", true),
        (2, "br, GZIP;q=0.5", true),
        (3, "*", true),
        (4, "gzip;q=0, *", false),
        (5, "*;q=0", false),
        (6, "deflate, br", false),
        (7, "gzip; q=0.000", false),
        (8, "", false),
    ] {
        let mut message = report(number);
        message.instance_uid = vec![number as u8; 16].into();
        let mut request = post(gzip::compress(&message.encode_to_vec()));
        request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        request.headers_mut().insert("accept-encoding", accept.parse().unwrap());
        let mut answer = server.request(request).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.headers.contains_key("content-encoding"), compressed, "{accept}");
        if compressed {
            assert_eq!(answer.headers["content-encoding"], "gzip");
            assert!(answer.body.len() < 1000);
            answer.body = gzip::decompress(&answer.body, 1 << 20).unwrap();
        }
        let offer = answer.message().remote_config.expect("an offer");
        assert_eq!(offer.config, Some(config.to_message()));
    }
    // A small response is not worth it.
    let mut request = post(beat(2).encode_to_vec());
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let answer = server.request(request).await;
    assert!(!answer.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn a_header_that_names_another_agent_is_not_fatal() {
    let server = start().await;
    for header in ["08080808-0808-0808-0808-080808080808", "nonsense"] {
        let mut request = post(report(1).encode_to_vec());
        request.headers_mut().insert("opamp-instance-uid", header.parse().unwrap());
        assert_eq!(server.request(request).await.message().instance_uid, &UID[..]);
    }
}

#[tokio::test]
async fn malformed_messages_are_answered_with_200_and_bad_request() {
    let _judged = opamp_spec::judges(&["ERR-11", "ERR-12", "ERR-13"]);
    let server = start().await;
    for body in [&[][..], &[0xff; 30], &[0x00], b"hello"] {
        let answer = server.request(post(body.to_vec())).await;
        assert_eq!(answer.status, StatusCode::OK);
        let error = answer.message().error_response.expect("an error");
        assert_eq!(error.r#type, crate::client::BAD_REQUEST);
        assert!(!error.error_message.is_empty());
    }
    server.check_alive().await;
}

#[tokio::test]
async fn a_chunked_body_is_read_to_its_end() {
    let server = start().await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    let head = "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                transfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for byte in report(1).encode_to_vec() {
        stream.write_all(b"1\r\n").await.unwrap();
        stream.write_all(&[byte]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    soon(async {
        while !answer.windows(16).any(|window| window == UID) {
            stream.read_buf(&mut answer).await.unwrap();
        }
    })
    .await;
    assert_eq!(server.fleet.agent(uid(&UID)).unwrap().sequence_num(), 1);
}

#[tokio::test]
async fn an_http_agent_is_silent_until_it_counts_as_gone() {
    let _judged = opamp_spec::judges(&["CLOSE-08"]);
    let server = start_with(AcceptAll, |config, _| {
        config.http_offline_after = std::time::Duration::from_millis(300);
    })
    .await;
    server.post(&report(1)).await;
    assert!(server.fleet.agent(uid(&UID)).unwrap().is_connected());
    server.until_disconnected(&UID).await;
    let reply = server.post(&beat(2)).await;
    assert_eq!(reply, v1::ServerToAgent { capabilities: 0b11_1111, ..bare(&UID) });
}

/// Large messages are unpacked, taken over and packed away from the runtime's threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_messages_are_served_on_both_transports() {
    let _judged = opamp_spec::judges(&["HTTP-19", "HTTP-20", "SIZE-19"]);
    let server = start().await;
    let large = |number| v1::AgentToServer {
        health: Some(v1::ComponentHealth { status: "x".repeat(3_000_000), ..Default::default() }),
        ..beat(number)
    };
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    socket.send(&large(2)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(server.post(&large(3)).await.error_response, None);
    let mut request = post(gzip::compress(&large(4).encode_to_vec()));
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    assert_eq!(server.request(request).await.message().error_response, None);
    let agent = server.fleet.agent(uid(&UID)).unwrap();
    assert_eq!(agent.state().health().unwrap().status.len(), 3_000_000);
    let config = remote_config(&"compressible ".repeat(100_000));
    server.fleet.set_remote_config(uid(&UID), config.clone()).unwrap();
    let mut request = post(beat(5).encode_to_vec());
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let mut answer = server.request(request).await;
    assert!(answer.body.len() < 50_000);
    answer.body = gzip::decompress(&answer.body, 10 << 20).unwrap();
    let offer = answer.message().remote_config.expect("an offer");
    assert_eq!(offer.config, Some(config.to_message()));
}

/// A body that is refused by its length is not asked for, and one that is taken is.
#[tokio::test]
async fn a_client_that_waits_for_100_continue_is_told_to_or_not() {
    let _judged = opamp_spec::judges(&["SIZE-21", "SIZE-23"]);
    let server =
        start_with(AcceptAll, |config, _| config.limits = config.limits.with_max_receive(10_000))
            .await;
    let body = report(1).encode_to_vec();
    for (length, expected) in [(body.len(), "HTTP/1.1 100"), (10_001, "HTTP/1.1 413")] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
             expect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; expected.len()];
        soon(stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        if length != body.len() {
            continue;
        }
        stream.write_all(&body).await.unwrap();
        soon(async {
            while !answer.windows(16).any(|window| window == UID) {
                stream.read_buf(&mut answer).await.unwrap();
            }
        })
        .await;
        assert!(String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn answers_are_counted_by_their_status() {
    let server = start_with(AcceptAll, |config, _| {
        config.limits = config.limits.with_max_receive(10_000);
    })
    .await;
    server.post(&report(1)).await;
    server.request(post(vec![0; 10_001])).await;
    let mut coded = post(vec![1; 10]);
    coded.headers_mut().insert("content-encoding", "br".parse().unwrap());
    server.request(coded).await;
    let elsewhere = Request::post("/v1/other").header("host", "x").body(Full::default()).unwrap();
    server.request(elsewhere).await;
    let mut socket = server.websocket().await;
    socket.send(&report(2)).await;
    socket.recv().await;
    socket.socket.close(None).await.unwrap();
    soon(async { while let Some(Ok(_)) = socket.socket.next().await {} }).await;
    server.until(|fleet| fleet.counters().listener_connections_open == 0).await;
    let counters = server.fleet.counters();
    let counted = (
        counters.responses_200,
        counters.responses_413,
        counters.responses_415,
        counters.responses_404,
        counters.responses_101,
    );
    assert_eq!(counted, (1, 1, 1, 1, 1));
    assert_eq!((counters.websockets_opened, counters.websockets_open), (1, 0));
    assert_eq!(counters.websockets_closed_by_peer, 1);
    assert_eq!(counters.listener_connections_accepted, 5);
    assert_eq!((counters.http_messages_sent, counters.websocket_messages_sent), (1, 1));
}
