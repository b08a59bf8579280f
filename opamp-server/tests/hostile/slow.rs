//! Peers that are slow on purpose, or gone.

use std::time::Duration;

use opamp_proto::Message as _;
use opamp_server::service::tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep};

use crate::client::{MASK, report, soon};
use crate::support::{heartbeat, remote_config, wire};
use crate::witness::{Stage, close_code, frame, header, message, rest_of};

const MIB: usize = 1024 * 1024;

/// Writes one byte after the other, with a pause between, until the Server has had enough; gives
/// what it said and when.
async fn dribble(
    mut stream: tokio::net::TcpStream,
    bytes: Vec<u8>,
    pause: Duration,
) -> (Vec<u8>, Duration) {
    let started = Instant::now();
    let (mut reading, mut writing) = stream.split();
    let dribbled = async {
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        said = rest_of(&mut reading) => (said, started.elapsed()),
        () = dribbled => unreachable!(),
    }
}

const PAUSE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_handshake_does_not_take_for_ever() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = tls::server_config(
        certified.cert.pem().as_bytes(),
        certified.signing_key.serialize_pem().as_bytes(),
        None,
    );
    // The witness is on a plain listener of the same process.
    let stage = Stage::new().await;
    let server = opamp_server::Server::bind("127.0.0.1:0")
        .tls(tls.unwrap())
        .tls_handshake_timeout(Duration::from_millis(500));
    let server = crate::client::run(server.listen(opamp_server::AcceptAll).await.unwrap());
    // The head of a TLS record that announces a ClientHello of 512 bytes.
    let hello = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[7; 400]].concat();
    let peers = (0..20).map(|_| async {
        let stream = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        dribble(stream, hello.clone(), PAUSE).await
    });
    for (said, after) in futures_util::future::join_all(peers).await {
        assert!(said.is_empty());
        assert!((400..3_000).contains(&after.as_millis()), "{after:?}");
    }
    server.until(|fleet| fleet.counters().timed_out == 20).await;
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_does_not_take_for_ever() {
    let stage = Stage::new().await;
    let head = b"POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
                 content-length: 100\r\n\r\n";
    let body = [0; 90];
    let heads = futures_util::future::join_all((0..50).map(|_| async {
        let stream = stage.connect().await;
        dribble(stream, head[..60].to_vec(), PAUSE).await
    }));
    let bodies = futures_util::future::join_all((0..50).map(|_| async {
        let mut stream = stage.connect().await;
        stream.write_all(head).await.unwrap();
        dribble(stream, body.to_vec(), PAUSE).await
    }));
    let (heads, bodies) = tokio::join!(heads, bodies);
    for (said, after) in heads {
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
        assert!((400..3_000).contains(&after.as_millis()), "{after:?}");
    }
    for (said, after) in bodies {
        assert!(said.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&said));
        assert!((600..4_000).contains(&after.as_millis()), "{after:?}");
    }
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_on_a_websocket_does_not_take_for_ever() {
    let staged = Stage::new().await;
    let beat = heartbeat(&[1; 16], 1, MASK).encode_to_vec();
    // A header in bytes; a payload in bytes; fragments in bytes; fragments without content, on and
    // on.
    let half_a_header = header(0x82, 70_000)[..9].to_vec();
    let payload = frame(0x82, &[0; 200])[..150].to_vec();
    let fragments = [frame(0x02, &[0]), frame(0x00, &beat[..5]).repeat(20)].concat();
    let empty = [frame(0x02, &[0]), frame(0x00, &[]).repeat(50)].concat();
    let slow = [half_a_header, payload, fragments, empty].into_iter().cycle().zip(1..=40_u8);
    let stage = &staged;
    let peers = slow.map(|(bytes, agent)| async move {
        let mut stream = stage.websocket().await;
        // It has been a good Agent so far.
        let first = heartbeat(&[agent; 16], 1, MASK).encode_to_vec();
        stream.write_all(&message(&first)).await.unwrap();
        let mut answer = [0; 256];
        let _ = soon(stream.read(&mut answer)).await.unwrap();
        dribble(stream, bytes, Duration::from_millis(30)).await
    });
    for (said, after) in futures_util::future::join_all(peers).await {
        assert_eq!(close_code(&said), Some(1008), "{said:?}");
        assert!((600..4_000).contains(&after.as_millis()), "{after:?}");
    }
    assert_eq!(stage.fleet().counters().websockets_timed_out, 40);
    staged.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_without_a_message_is_closed() {
    let stage = Stage::new().await;
    let peers = (0..50).map(|_| async {
        let mut stream = stage.websocket().await;
        close_code(&rest_of(&mut stream).await)
    });
    for code in futures_util::future::join_all(peers).await {
        assert_eq!(code, Some(1008));
    }
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_socket_is_noticed() {
    let stage = Stage::new().await;
    let mut stream = stage.websocket().await;
    stream.write_all(&message(&report(1).encode_to_vec())).await.unwrap();
    stage.server.until(|fleet| fleet.agent(wire(&crate::client::UID)).is_some()).await;
    // From here on the peer is gone, and nobody has told the Server's end.
    stage.server.until_disconnected(&crate::client::UID).await;
    assert_eq!(stage.fleet().counters().websockets_timed_out, 1);
    drop(stream);
    stage.assert_unharmed(8 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_is_closed_and_holds_little() {
    let stage = Stage::new().await;
    let config = remote_config(&"x".repeat(8 * MIB));
    stage.fleet().set_default_remote_config(config).unwrap();
    let mut deaf = Vec::new();
    for agent in 0..20_u8 {
        let mut stream = stage.websocket().await;
        let uid = [agent; 16];
        let report = crate::support::full_report(&uid, 1, MASK).encode_to_vec();
        stream.write_all(&message(&report)).await.unwrap();
        deaf.push((uid, stream));
    }
    // They go on sending, so they are not silent.
    let sending = deaf.iter_mut().map(|(uid, stream)| async {
        for number in 2.. {
            let beat = message(&heartbeat(uid, number, MASK).encode_to_vec());
            let sent = tokio::time::timeout(Duration::from_secs(10), stream.write_all(&beat));
            if !matches!(sent.await, Ok(Ok(()))) {
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
    });
    soon(futures_util::future::join_all(sending)).await;
    for (uid, _) in &deaf {
        assert!(!stage.fleet().agent(wire(uid)).unwrap().is_connected());
    }
    assert_eq!(stage.fleet().counters().websockets_timed_out, 20);
    drop(deaf);
    // The configuration is there a few times at most, not once for each of them.
    stage.assert_unharmed(48 * MIB).await;
}
