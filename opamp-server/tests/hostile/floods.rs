//! Peers that send more than anybody needs, as fast as they can.

use std::time::Duration;

use opamp_proto::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{MASK, soon};
use crate::support::{full_report, heartbeat};
use crate::witness::{Stage, close_code, frame, message, reset, rest_of};

const MIB: usize = 1024 * 1024;

/// Writes the same again and again, reading what comes, for so long or until it is cut off. Gives
/// how often, and what was said at last.
async fn flood(stream: TcpStream, bytes: &[u8], time: Duration) -> (usize, Vec<u8>) {
    let (mut reading, mut writing) = stream.into_split();
    let said = tokio::spawn(async move {
        let (mut last, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
        while let Ok(len @ 1..) = reading.read(&mut piece).await {
            last.clear();
            last.extend_from_slice(&piece[..len]);
        }
        last
    });
    let mut times = 0;
    let cut_off = timeout(time, async {
        while writing.write_all(bytes).await.is_ok() {
            times += 1;
        }
    });
    if cut_off.await.is_err() {
        // It goes in the middle of what it has to say.
        said.abort();
        return (times, Vec::new());
    }
    (times, soon(said).await.expect("no panic"))
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_as_fast_as_they_go_are_read_at_a_bounded_rate() {
    let stage = Stage::with(|_, service| service.max_frames_per_second = 1_000).await;
    let floods = (0..10_u8).map(|agent| {
        let stage = &stage;
        async move {
            let mut stream = stage.websocket().await;
            let report = full_report(&[agent; 16], 1, MASK).encode_to_vec();
            stream.write_all(&message(&report)).await.unwrap();
            let beats = message(&heartbeat(&[agent; 16], 2, MASK).encode_to_vec()).repeat(100);
            flood(stream, &beats, Duration::from_secs(2)).await
        }
    });
    let before = stage.fleet().counters().websocket_messages;
    let started = Instant::now();
    futures_util::future::join_all(floods).await;
    let taken = stage.fleet().counters().websocket_messages - before;
    // Each may have been read from once more.
    let most = 10 * (1_000 * (started.elapsed().as_secs() + 2) + 4 * 600) + 2_000;
    assert!((1_000..most).contains(&taken), "{taken} messages, {most} at most");
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_as_fast_as_they_go_hold_up_nobody() {
    let stage = Stage::new().await;
    let pings = frame(0x89, &[7; 125]).repeat(100);
    let report = message(&full_report(&[1; 16], 1, MASK).encode_to_vec());
    let floods = (0..10).map(|_| async {
        let mut stream = stage.websocket().await;
        stream.write_all(&report).await.unwrap();
        flood(stream, &pings, Duration::from_secs(1)).await
    });
    futures_util::future::join_all(floods).await;
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_whose_answers_nobody_reads_are_held_back() {
    let stage = Stage::new().await;
    let mut stream = stage.websocket().await;
    let pings = frame(0x89, &[7; 125]).repeat(100);
    // First its sends wait, then it is closed; what it sends meanwhile is dropped.
    soon(async {
        while let Ok(Ok(())) = timeout(Duration::from_secs(3), stream.write_all(&pings)).await {}
    })
    .await;
    assert_eq!(stage.fleet().counters().websockets_timed_out, 1);
    drop(stream);
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_without_a_message_are_read_at_a_bounded_rate() {
    let stage = Stage::with(|_, service| {
        service.max_frames_per_second = 10_000;
        service.body_deadline = Duration::from_millis(500);
    })
    .await;
    let mut stream = stage.websocket().await;
    stream.write_all(&message(&full_report(&[1; 16], 1, MASK).encode_to_vec())).await.unwrap();
    stream.write_all(&frame(0x02, &[0])).await.unwrap();
    let empty = frame(0x00, &[]).repeat(1_000);
    let (times, _) = flood(stream, &empty, Duration::from_secs(3)).await;
    // What the kernel takes on both ends is most of it.
    assert!(times < 2_000, "{times} thousand");
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_empty_fragments_are_no_message() {
    let stage = Stage::new().await;
    let floods = (0..4).map(|_| async {
        let mut stream = stage.websocket().await;
        stream.write_all(&frame(0x02, &[0])).await.unwrap();
        let empty = frame(0x00, &[]).repeat(1_000);
        flood(stream, &empty, Duration::from_secs(10)).await
    });
    let mut fragments = 0;
    for (times, said) in futures_util::future::join_all(floods).await {
        fragments += times * 1_000;
        // A reset may have taken the Close frame with it.
        assert!(matches!(close_code(&said), Some(1008) | None), "{said:?}");
    }
    assert!(fragments > 100_000, "{fragments}");
    assert_eq!(stage.fleet().counters().websockets_timed_out, 4);
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_come_and_go_leave_nothing() {
    let stage = Stage::with(|config, _| {
        config.arrivals = opamp_server::Rate::UNLIMITED;
    })
    .await;
    let report = message(&full_report(&[1; 16], 1, MASK).encode_to_vec());
    for round in 0..600_usize {
        let mut stream = match round % 6 {
            0 | 1 => stage.connect().await,
            _ => stage.websocket().await,
        };
        match round % 6 {
            1 => stream.write_all(b"POST /v1/opamp HTT").await.unwrap(),
            3 => stream.write_all(&report).await.unwrap(),
            4 => stream.write_all(&report[..report.len() / 2]).await.unwrap(),
            5 => {
                let large = frame(0x82, &vec![0; 100_000]);
                let _ =
                    timeout(Duration::from_millis(20), stream.write_all(&large[..50_000])).await;
            }
            _ => {}
        }
        match round % 2 {
            0 => drop(stream),
            _ => reset(stream),
        }
    }
    stage.assert_unharmed(16 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_as_fast_as_they_go_end_the_connection() {
    let stage = Stage::new().await;
    let mut stream = stage.websocket().await;
    for _ in 0..100 {
        if stream.write_all(&message(&[0xff; 10])).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let said = rest_of(&mut stream).await;
    assert!(matches!(close_code(&said), Some(1008) | None), "{said:?}");
    assert_eq!(stage.fleet().counters().websockets_malformed, 1);
    stage.assert_unharmed(8 * MIB).await;
}
