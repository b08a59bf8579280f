//! Too many: connections, Agents, requests, messages that have begun.

use std::time::Duration;

use opamp_proto::{Message as _, MessageLimits};
use opamp_server::Rate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::client::{MASK, UNAVAILABLE, WebSocket, post, report, soon};
use crate::support::{full_report, heartbeat};
use crate::witness::{Stage, close_code, frame, header, rest_of};

const MIB: usize = 1024 * 1024;

fn uid(number: u64) -> [u8; 16] {
    u128::from(number + 1).to_be_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_carries_so_many_agents_and_no_more() {
    let _judged = opamp_spec::judges(&["ID-11"]);
    let stage = Stage::with(|config, _| config.max_agents_per_connection = 16).await;
    let mut socket = stage.server.websocket().await;
    for number in 0..100 {
        socket.send(&full_report(&uid(number), 1, MASK)).await;
        let reply = socket.recv().await;
        assert_eq!(reply.instance_uid, &uid(number)[..]);
        let error = reply.error_response.map(|error| error.r#type);
        assert_eq!(error, (number >= 16).then_some(UNAVAILABLE), "{number}");
    }
    // Those that are there are served on.
    socket.send(&heartbeat(&uid(3), 2, MASK)).await;
    assert_eq!(socket.recv().await.error_response, None);
    assert_eq!(stage.fleet().len(), 17);
    drop(socket);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_full_serves_those_it_knows() {
    let stage = Stage::with(|config, _| config.max_agents = 100).await;
    let mut socket = stage.server.websocket().await;
    let mut refused = 0;
    for number in 0..1_000 {
        socket.send(&full_report(&uid(number), 1, MASK)).await;
        refused += usize::from(socket.recv().await.error_response.is_some());
    }
    assert_eq!((stage.fleet().len(), refused), (100, 901));
    drop(socket);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_arrive_too_fast_are_told_when_to_come_back() {
    let _judged = opamp_spec::judges(&["THR-01", "THR-03", "THR-06", "THR-07", "THR-08"]);
    let arrivals = Rate::per_second(1).with_burst(20);
    let stage = Stage::with(|config, _| config.arrivals = arrivals).await;
    // On a connection that is there, over HTTP, and with a handshake.
    let mut socket = stage.server.websocket().await;
    let (mut told, mut served) = (Vec::new(), 0);
    for number in 0..40 {
        socket.send(&full_report(&uid(number), 1, MASK)).await;
        match socket.recv().await.error_response {
            None => served += 1,
            Some(error) => {
                assert_eq!(error.r#type, UNAVAILABLE);
                use opamp_proto::v1::server_error_response::Details::RetryInfo;
                let Some(RetryInfo(info)) = error.details else { panic!("{error:?}") };
                told.push(info.retry_after_nanoseconds);
            }
        }
    }
    assert!((18..=22).contains(&served), "{served}");
    // The wait grows with the queue.
    assert!(told.is_sorted() && told[0] >= 1_000_000_000, "{told:?}");
    assert!(told[told.len() - 1] > 15_000_000_000, "{told:?}");
    let over_http = full_report(&uid(1_000), 1, MASK).encode_to_vec();
    let answer = stage.server.request(post(over_http)).await;
    assert_eq!(answer.status, 503);
    let wait = |value: &http::HeaderValue| value.to_str().unwrap().parse::<u64>().unwrap();
    assert!(wait(&answer.headers["retry-after"]) > 15);
    let refused = stage.server.websocket_with(&[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 503);
    assert!(wait(&refused.headers()["retry-after"]) > 15);
    // Agents that are there do not arrive: neither on the WebSocket nor with a poll.
    for number in 2..50 {
        socket.send(&heartbeat(&uid(0), number, MASK)).await;
        assert_eq!(socket.recv().await.error_response, None);
        let poll = heartbeat(&uid(5), number, MASK).encode_to_vec();
        assert_eq!(stage.server.request(post(poll)).await.message().error_response, None);
    }
    drop(socket);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_progress_on_many_websockets_share_a_budget() {
    let limits = MessageLimits::new().with_max_receive(4 * MIB);
    let stage = Stage::with(|config, service| {
        config.limits = limits;
        service.max_in_progress = 8 * MIB;
        service.body_deadline = Duration::from_secs(5);
    })
    .await;
    let part = [header(0x82, 4 * MIB), vec![0; 2 * MIB]].concat();
    let mut peers = Vec::new();
    for _ in 0..40 {
        peers.push(stage.websocket().await);
    }
    let hostile = async {
        let sends = peers.iter_mut().map(|stream| async {
            let _ = timeout(Duration::from_secs(2), stream.write_all(&part)).await;
        });
        futures_util::future::join_all(sends).await;
    };
    hostile.await;
    // While they wait, a message in fragments of a good Agent finds room.
    let mut socket = stage.websocket().await;
    let body = [&[0][..], &full_report(&uid(1), 1, MASK).encode_to_vec(), &[0x9a, 6, 0xc0, 0x3e]];
    let body = [body.concat(), vec![7; 8000]].concat();
    let (first, last) = body.split_at(6_000);
    socket.write_all(&frame(0x02, first)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    socket.write_all(&frame(0x80, last)).await.unwrap();
    assert_eq!(soon(socket.read_u8()).await.unwrap(), 0x82, "a reply");
    drop(socket);
    let mut crowded = 0;
    for stream in &mut peers {
        // Those that were cut off while they sent may have lost the frame with a reset.
        let said = rest_of(stream).await;
        assert!(matches!(close_code(&said), Some(1013 | 1008) | None), "{said:?}");
        crowded += usize::from(close_code(&said) == Some(1013));
    }
    assert!(crowded > 10, "{crowded}");
    assert!(stage.fleet().counters().websockets_crowded >= 30);
    stage.assert_unharmed(24 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_share_of_connections() {
    let stage = Stage::with(|_, service| service.max_connections_per_address = 8).await;
    let mut peers = Vec::new();
    for number in 0..8 {
        let mut socket = stage.server.websocket().await;
        socket.send(&full_report(&uid(number), 1, MASK)).await;
        socket.recv().await;
        peers.push(socket);
    }
    let refused = stage.server.websocket_with(&[]).await.err().expect("no upgrade");
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(stage.server.request(post(report(1).encode_to_vec())).await.status, 429);
    assert_eq!(stage.fleet().counters().connections_per_address, 2);
    drop(peers);
    stage.server.until(|fleet| fleet.counters().listener_connections_open == 1).await;
    let stream = stage.connect().await;
    assert!(WebSocket::open(stream, &[]).await.is_ok(), "its places are free again");
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_its_share_of_requests() {
    let _judged = opamp_spec::judges(&["THR-06", "THR-08"]);
    let rate = Rate::per_second(1).with_burst(10);
    let stage = Stage::with(|_, service| service.requests_per_address = rate).await;
    let mut refused = 0;
    for number in 1..=20 {
        let answer = stage.server.request(post(report(number).encode_to_vec())).await;
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            refused += 1;
        }
    }
    assert!((5..=10).contains(&refused), "{refused}");
    assert_eq!(stage.fleet().counters().rejected_429, refused);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_are_places_are_told_so_or_closed() {
    let stage = Stage::built(
        |_, _| {},
        |builder| builder.max_connections(50).header_timeout(Duration::from_secs(3)),
    )
    .await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(stage.connect().await);
    }
    let mut loud = Vec::new();
    for _ in 0..5 {
        let mut stream = stage.connect().await;
        let _ = stream.write_all(b"GET /v1/opamp HTTP/1.1\r\nhost: x\r\n\r\n").await;
        loud.push(stream);
    }
    for stream in &mut loud {
        // Told, if there was a place left for that.
        let said = rest_of(stream).await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 503"), "{said:?}");
    }
    // They have the time of a head, and then there is room again.
    for stream in &mut silent {
        rest_of(stream).await;
    }
    assert!(stage.fleet().counters().connections_crowded >= 300);
    assert!(stage.server.websocket_with(&[]).await.is_ok());
    stage.assert_unharmed(16 * MIB).await;
}
