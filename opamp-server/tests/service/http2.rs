//! HTTP/2 for plain requests, beside HTTP/1.1 and WebSockets on the same port.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opamp_proto::{Message as _, v1};
use opamp_server::{AcceptAll, Server, ServiceConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::client::{Answer, MASK, Running, UID, beat, report, run, soon, start, uid};
use crate::support::{full_report, remote_config};

type Client = SendRequest<Full<Bytes>>;

async fn connect(server: &Running) -> (Client, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(server.addr).await.expect("a connection");
    let connection = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (client, connection) = connection.expect("HTTP/2");
    (client, tokio::spawn(connection))
}

fn post(server: &Running, message: &v1::AgentToServer) -> Request<Full<Bytes>> {
    Request::post(format!("http://{}/v1/opamp", server.addr))
        .header("content-type", "application/x-protobuf")
        .body(Full::new(message.encode_to_vec().into()))
        .expect("a request")
}

async fn exchange(client: &mut Client, request: Request<Full<Bytes>>) -> Answer {
    soon(client.ready()).await.expect("an open connection");
    let response = soon(client.send_request(request)).await.expect("a response");
    assert_eq!(response.version(), Version::HTTP_2);
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.expect("a body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

#[tokio::test]
async fn requests_of_many_agents_share_a_connection_with_prior_knowledge() {
    let _judged = opamp_spec::judges(&["HTTP-03", "HTTP-04"]);
    let server = start().await;
    let (client, _connection) = connect(&server).await;
    let agents = (0..50).map(|agent| {
        let (mut client, server) = (client.clone(), &server);
        async move {
            for number in 1..=3 {
                let message = full_report(&[agent; 16], number, MASK);
                let answer = exchange(&mut client, post(server, &message)).await;
                assert_eq!(answer.status, StatusCode::OK);
                assert_eq!(answer.message().instance_uid, vec![agent; 16]);
            }
        }
    });
    futures_util::future::join_all(agents).await;
    assert_eq!(server.fleet.len(), 50);
    let counters = server.fleet.counters();
    assert_eq!((counters.listener_connections_accepted, counters.responses_200), (1, 150));
    // The other transports are served on the same port.
    server.check_alive().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_as_over_http_1() {
    let server = start().await;
    let (mut client, _connection) = connect(&server).await;
    for (method, content_type, expected) in [
        ("GET", "application/x-protobuf", StatusCode::METHOD_NOT_ALLOWED),
        ("HEAD", "application/x-protobuf", StatusCode::METHOD_NOT_ALLOWED),
        // A WebSocket is to be opened over HTTP/1.1, and not said to be elsewhere.
        ("GET", "", StatusCode::BAD_REQUEST),
    ] {
        let mut request = post(&server, &report(1));
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        assert_eq!(exchange(&mut client, request).await.status, expected, "{method}");
    }
    let mut elsewhere = post(&server, &report(1));
    *elsewhere.uri_mut() = format!("http://{}/elsewhere", server.addr).parse().unwrap();
    assert_eq!(exchange(&mut client, elsewhere).await.status, StatusCode::NOT_FOUND);
    // The connection goes on.
    let answer = exchange(&mut client, post(&server, &report(1))).await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn a_large_response_arrives_whole() {
    let server = start().await;
    let (mut client, _connection) = connect(&server).await;
    exchange(&mut client, post(&server, &report(1))).await;
    let config = remote_config(&"x".repeat(5_000_000));
    server.fleet.set_remote_config(uid(&UID), config.clone()).unwrap();
    let answer = exchange(&mut client, post(&server, &beat(2))).await;
    let offer = answer.message().remote_config.expect("an offer");
    assert_eq!(offer.config, Some(config.to_message()));
}

#[tokio::test]
async fn a_beginning_that_could_be_either_is_waited_for() {
    let server = start().await;
    let body = report(1).encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nhost: x\r\ncontent-type: application/x-protobuf\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (first, rest) = head.split_at(1);
    stream.write_all(first.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = Vec::new();
    soon(async {
        while !answer.windows(16).any(|window| window == UID) {
            stream.read_buf(&mut answer).await.unwrap();
        }
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_connection_without_requests_is_sent_away() {
    let server = Server::bind("127.0.0.1:0")
        .header_timeout(Duration::from_millis(200))
        .idle_timeout(Duration::from_millis(400))
        .max_connections(1);
    let server = run(server.listen(AcceptAll).await.unwrap());
    // One that never asks, one that did, and one that says nothing at all.
    let (_silent, connection) = connect(&server).await;
    soon(connection).await.expect("no panic").expect("a good end");
    let (mut client, connection) = connect(&server).await;
    exchange(&mut client, post(&server, &report(1))).await;
    soon(connection).await.expect("no panic").expect("a good end");
    let mut mute = TcpStream::connect(server.addr).await.unwrap();
    assert_eq!(
        soon(mute.read_u8()).await.expect_err("the end").kind(),
        std::io::ErrorKind::UnexpectedEof
    );
    server.check_alive_one_by_one().await;
}

/// It answers pings and takes nothing of its response.
#[tokio::test]
async fn a_response_that_is_not_taken_does_not_keep_its_place() {
    let mut config = ServiceConfig::default();
    for time in [
        &mut config.body_deadline,
        &mut config.admission_deadline,
        &mut config.reply_deadline,
        &mut config.close_timeout,
        &mut config.write_timeout,
    ] {
        *time = Duration::from_millis(100);
    }
    let server = Server::bind("127.0.0.1:0").service_config(config);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let (mut client, connection) = connect(&server).await;
    exchange(&mut client, post(&server, &report(1))).await;
    server.fleet.set_remote_config(uid(&UID), remote_config(&"x".repeat(8_000_000))).unwrap();
    let response = soon(client.send_request(post(&server, &beat(2)))).await.expect("a response");
    let ended = soon(connection).await.expect("no panic");
    drop(response);
    drop(ended);
    assert_eq!(server.fleet.counters().timed_out, 1);
    server.check_alive().await;
}

#[tokio::test]
async fn a_shutdown_ends_the_connection_in_good_order() {
    let server = start().await;
    let (mut client, connection) = connect(&server).await;
    exchange(&mut client, post(&server, &report(1))).await;
    server.shutdown.shutdown();
    soon(connection).await.expect("no panic").expect("a good end");
    soon(server.task).await.expect("it returns");
}

/// As whoever wants none of them would write it.
#[tokio::test]
async fn times_without_end_are_no_limits() {
    let mut config = ServiceConfig::default();
    for time in [
        &mut config.admission_deadline,
        &mut config.body_deadline,
        &mut config.reply_deadline,
        &mut config.first_message_timeout,
        &mut config.ping_interval,
        &mut config.pong_timeout,
        &mut config.write_timeout,
        &mut config.close_timeout,
        &mut config.handler_deadline,
    ] {
        *time = Duration::MAX;
    }
    let server = Server::bind("127.0.0.1:0")
        .service_config(config)
        .header_timeout(Duration::MAX)
        .idle_timeout(Duration::MAX)
        .drain(Duration::ZERO)
        .shutdown_deadline(Duration::MAX);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let (mut client, connection) = connect(&server).await;
    for number in 1..10 {
        let answer = exchange(&mut client, post(&server, &report(number))).await;
        assert_eq!(answer.message().error_response, None);
    }
    server.check_alive().await;
    server.shutdown.shutdown();
    drop(client);
    let _ = soon(connection).await;
    soon(server.task).await.expect("no panic");
}
