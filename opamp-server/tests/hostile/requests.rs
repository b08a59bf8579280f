//! What plain requests can make the Server hold: heads, bodies that are announced, answers nobody
//! takes.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opamp_proto::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{MASK, soon};
use crate::support::{full_report, remote_config};
use crate::witness::{Stage, rest_of};

const MIB: usize = 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_not_kept() {
    let stage = Stage::new().await;
    let field = format!("x-field: {}\r\n", "x".repeat(4 * 1024 - 11));
    let peers = (0..100).map(|_| async {
        let (mut reading, mut writing) = stage.connect().await.into_split();
        writing.write_all(b"POST /v1/opamp HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        for _ in 0..75 {
            if writing.write_all(field.as_bytes()).await.is_err() {
                break;
            }
        }
        rest_of(&mut reading).await
    });
    for said in futures_util::future::join_all(peers).await {
        // A reset may have taken the answer with it.
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 431"), "{said:?}");
    }
    stage.assert_unharmed(8 * MIB).await;
}

/// Says how much is to come, and sends a byte of it.
#[cfg(feature = "http2")]
#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_is_stated_costs_nothing() {
    let stage = Stage::new().await;
    let connections = (0..20).map(|_| async {
        let connected = hyper::client::conn::http2::handshake(
            TokioExecutor::new(),
            TokioIo::new(stage.connect().await),
        );
        let (client, connection) = connected.await.unwrap();
        tokio::spawn(connection);
        let requests = (0..100).map(|_| {
            let mut client = client.clone();
            let byte = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0])))]);
            let request = Request::post(format!("http://{}/v1/opamp", stage.server.addr))
                .header("content-type", "application/x-protobuf")
                .header("content-length", 60 * MIB)
                .body(StreamBody::new(byte.chain(stream::pending())))
                .unwrap();
            async move { client.send_request(request).await.map(|answer| answer.status().as_u16()) }
        });
        futures_util::future::join_all(requests).await
    });
    for status in soon(futures_util::future::join_all(connections)).await.into_iter().flatten() {
        assert!(matches!(status, Ok(408) | Err(_)), "{status:?}");
    }
    // Two thousand requests, with what this end has of them.
    stage.assert_unharmed(32 * MIB).await;
}

/// So many clients ask and take no more than the beginning of their answers, in which there is an
/// offer of 8 MiB. Gives how many of them are compressed.
async fn take_nothing(stage: &Stage, clients: u8, headers: &str) -> usize {
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 58) as u8)
    });
    let config = remote_config(&noise.take(8 * MIB).collect::<String>());
    stage.fleet().set_default_remote_config(config).unwrap();
    let mut deaf = Vec::new();
    for agent in 0..clients {
        let body = full_report(&[agent; 16], 1, MASK).encode_to_vec();
        let head = format!(
            "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
             content-length: {}\r\n{headers}\r\n",
            body.len()
        );
        let mut stream = stage.connect().await;
        stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
        deaf.push(stream);
    }
    let mut compressed = 0;
    for stream in &mut deaf {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon(stream.read_u8()).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200 OK"));
        compressed += usize::from(head.windows(16).any(|bytes| bytes == b"content-encoding"));
    }
    stage.server.until(|fleet| fleet.counters().timed_out == u64::from(clients)).await;
    compressed
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_with_a_large_offer_that_nobody_takes_hold_it_once() {
    let stage = Stage::with(|_, service| service.write_timeout = Duration::from_secs(3)).await;
    assert_eq!(take_nothing(&stage, 20, "").await, 0);
    stage.assert_unharmed(48 * MIB).await;
}

/// Those who take compressed answers have one of their own, as long as there is room.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_that_nobody_takes_share_a_budget() {
    let stage = Stage::with(|_, service| {
        // Longer than it takes to compress all of them, where each makes room by timing out.
        service.write_timeout = Duration::from_secs(10);
        service.max_in_progress = 20 * MIB;
    })
    .await;
    let compressed = take_nothing(&stage, 8, "accept-encoding: gzip\r\n").await;
    assert!((1..4).contains(&compressed), "{compressed} answers are compressed");
    stage.assert_unharmed(64 * MIB).await;
}

/// A client that sends all of its request before it looks at the answer, on a link that is not
/// fast.
async fn post_slowly(stage: &Stage, path: &str) -> String {
    let mut stream = stage.connect().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        8 * 1024 * 1024
    );
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    tokio::time::sleep(Duration::from_millis(50)).await;
    for _ in 0..8 {
        stream.write_all(&vec![0; MIB]).await.expect("it is taken");
    }
    let mut answer = Vec::new();
    while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        soon(stream.read_buf(&mut answer)).await.expect("an answer");
    }
    String::from_utf8(answer).expect("a head").to_ascii_lowercase()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_reaches_a_client_that_is_still_sending() {
    let _judged = opamp_spec::judges(&["THR-06", "THR-07"]);
    let stage = Stage::with(|_, service| {
        service.requests_per_address = opamp_server::Rate::per_second(1).with_burst(1);
        service.close_timeout = Duration::from_secs(5);
    })
    .await;
    assert!(post_slowly(&stage, "/elsewhere").await.starts_with("http/1.1 404"));
    stage.websocket().await;
    let throttled = post_slowly(&stage, "/v1/opamp").await;
    assert!(throttled.starts_with("http/1.1 429"), "{throttled}");
    assert!(throttled.contains("retry-after: "), "{throttled}");
    stage.assert_unharmed(8 * MIB).await;

    let stage = Stage::built(
        |_, service| service.close_timeout = Duration::from_secs(5),
        |builder| builder.max_connections(1),
    )
    .await;
    let crowded = post_slowly(&stage, "/v1/opamp").await;
    assert!(crowded.starts_with("http/1.1 503"), "{crowded}");
    assert!(crowded.contains("retry-after: "), "{crowded}");
    stage.assert_unharmed(8 * MIB).await;
}
