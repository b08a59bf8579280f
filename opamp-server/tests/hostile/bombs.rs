//! A little that becomes a lot.

use std::io::Read as _;

use flate2::read::GzEncoder;
use opamp_proto::gzip;
use opamp_proto::{Message as _, MessageLimits};
use tokio::io::AsyncWriteExt as _;

use crate::client::{Answer, exchange, post};
use crate::support::full_report;
use crate::witness::{Stage, close_code, frame, handshake, rest_of};

const MIB: usize = 1024 * 1024;

/// So many zeros, packed. They are never in memory, which another test may be measuring.
fn bomb(size: usize) -> Vec<u8> {
    let zeros = std::io::repeat(0).take(size as u64);
    let mut packed = Vec::new();
    GzEncoder::new(zeros, flate2::Compression::default()).read_to_end(&mut packed).expect("zeros");
    packed
}

async fn send(stage: &Stage, body: Vec<u8>) -> Answer {
    let mut request = post(body);
    request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
    exchange(stage.connect().await, request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_413_and_does_not_go_off() {
    let bombs = [bomb(32 * MIB), bomb(MIB).repeat(32), [bomb(10), bomb(32 * MIB)].concat()];
    // A bomb in a bomb is unpacked once, and no message then.
    let nested = gzip::compress(&bombs[0]);
    let limits = MessageLimits::new().with_max_receive(MIB);
    let stage = Stage::with(|config, _| config.limits = limits).await;
    for bomb in bombs {
        assert!(bomb.len() < MIB, "{}", bomb.len());
        assert_eq!(send(&stage, bomb).await.status, 413);
    }
    let answer = send(&stage, nested).await;
    assert_eq!(
        answer.message().error_response.expect("an error").r#type,
        crate::client::BAD_REQUEST
    );
    assert_eq!(stage.fleet().counters().oversized, 3);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_bombs_below_the_limit_share_a_budget() {
    let limits = MessageLimits::new().with_max_receive(2 * MIB);
    let packed = bomb(MIB + MIB / 2);
    let stage = Stage::with(|config, service| {
        config.limits = limits;
        service.max_in_progress = 4 * MIB;
    })
    .await;
    let bombs = (0..16).map(|_| send(&stage, packed.clone()));
    let (mut refused, mut unpacked) = (0, 0);
    for answer in futures_util::future::join_all(bombs).await {
        match answer.status.as_u16() {
            503 => {
                assert!(answer.headers.contains_key("retry-after"));
                refused += 1;
            }
            200 => unpacked += 1,
            other => panic!("{other}"),
        }
    }
    assert!(unpacked > 0, "{refused} refused");
    // A usual report goes through meanwhile and afterwards.
    let report = gzip::compress(&full_report(&[1; 16], 1, crate::client::MASK).encode_to_vec());
    assert_eq!(send(&stage, report).await.message().error_response, None);
    // The budget, as much again for what is copied, and the clients.
    stage.assert_unharmed(12 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_of_websockets_is_never_agreed_to() {
    let _judged = opamp_spec::judges(&["SIZE-05"]);
    let stage = Stage::new().await;
    let mut stream = stage.connect().await;
    let offer = "sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n";
    let answer = handshake(&mut stream, offer).await;
    assert!(answer.starts_with("HTTP/1.1 101"));
    assert!(!answer.to_ascii_lowercase().contains("extensions"), "{answer}");
    // A compressed message all the same.
    stream.write_all(&frame(0x82 | 0x40, &[1, 2, 3])).await.unwrap();
    assert_eq!(close_code(&rest_of(&mut stream).await), Some(1002));
    stage.assert_unharmed(8 * MIB).await;
}
