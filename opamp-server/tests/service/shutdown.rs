//! The end of a Server.

use std::time::Duration;

use futures_util::StreamExt as _;
use http::request;
use opamp_proto::Message as _;
use opamp_server::{AcceptAll, AgentChange, Handler, Rejection, Server};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{UID, beat, post, report, run, soon, start, start_with, uid};

#[tokio::test]
async fn websockets_are_closed_with_1001_and_the_handshake_is_completed() {
    let _judged = opamp_spec::judges(&["CLOSE-04"]);
    let server = start().await;
    let mut socket = server.websocket().await;
    socket.send(&report(1)).await;
    socket.recv().await;
    server.shutdown.shutdown();
    assert_eq!(socket.recv_close().await, 1001);
    assert!(!server.task.is_finished(), "it waits for the peer's Close frame");
    // Reading on, the library sends it.
    socket.recv_end().await;
    soon(server.task).await.expect("no panic");
    assert!(!server.fleet.agent(uid(&UID)).unwrap().is_connected());
    assert!(TcpStream::connect(server.addr).await.is_err(), "it does not listen any more");
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let server = start().await;
    server.shutdown.shutdown();
    server.shutdown.shutdown();
    soon(server.task).await.expect("no panic");
}

struct Slow;

impl Handler for Slow {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, _change: AgentChange<()>) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_response_in_progress_is_finished() {
    let server = start_with(Slow, |_, _| {}).await;
    let request = server.request(post(report(1).encode_to_vec()));
    let stop = async {
        server.until(|fleet| fleet.len() == 1).await;
        server.shutdown.shutdown();
    };
    let (answer, ()) = tokio::join!(request, stop);
    assert_eq!(answer.message().instance_uid, &UID[..]);
    soon(server.task).await.expect("no panic");
}

#[tokio::test]
async fn a_peer_that_does_not_close_delays_the_end_only_so_long() {
    let server = Server::bind("127.0.0.1:0").shutdown_deadline(Duration::from_millis(200));
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut socket = server.websocket().await;
    socket.send(&beat(1)).await;
    socket.recv().await;
    server.shutdown.shutdown();
    // The peer reads the Close frame late.
    soon(server.task).await.expect("no panic");
    assert!(matches!(soon(socket.socket.next()).await, Some(Ok(Message::Close(_)))));
    assert!(!server.fleet.agent(uid(&UID)).unwrap().is_connected());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_with_a_kind() {
    let server = start().await;
    let error = Server::bind(server.addr).listen(AcceptAll).await.expect_err("it is in use");
    assert_eq!(error.kind(), opamp_server::service::ErrorKind::Bind);
    assert!(std::error::Error::source(&error).is_some());
}

#[tokio::test]
async fn connections_above_the_limit_wait_until_one_ends() {
    let server = Server::bind("127.0.0.1:0").max_connections(1);
    let server = run(server.listen(AcceptAll).await.unwrap());
    let mut first = server.websocket().await;
    first.send(&report(1)).await;
    first.recv().await;
    // The upgraded connection holds its place.
    let second = server.websocket();
    let waits = tokio::time::timeout(Duration::from_millis(100), second).await;
    assert!(waits.is_err());
    drop(first);
    server.check_alive_one_by_one().await;
}
