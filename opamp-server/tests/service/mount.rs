//! The service in somebody else's application.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use opamp_proto::Message as _;
use opamp_server::{AcceptAll, OpampService, ServerConfig, ServiceConfig};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{UID, WebSocket, beat, exchange, post, report, soon, uid};

async fn check<F>(service: OpampService<AcceptAll>, serve: impl FnOnce(TcpListener) -> F)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener));
    let stream = TcpStream::connect(addr).await.unwrap();
    let mut socket = WebSocket::open(stream, &[]).await.expect("an upgrade");
    socket.send(&report(1)).await;
    assert_eq!(socket.recv().await.error_response, None);
    let stream = TcpStream::connect(addr).await.unwrap();
    let answer = exchange(stream, post(beat(2).encode_to_vec())).await;
    assert_eq!(answer.message().instance_uid, &UID[..]);
    assert_eq!(service.fleet().agent(uid(&UID)).unwrap().sequence_num(), 2);

    let mut shutdown = std::pin::pin!(service.shutdown(Duration::from_secs(10)));
    tokio::select! {
        () = &mut shutdown => panic!("it waits for the closing handshake"),
        code = socket.recv_close() => assert_eq!(code, 1001),
    }
    drop(socket);
    soon(shutdown).await;
    server.abort();
}

#[tokio::test]
async fn mounted_in_axum() {
    let _judged = opamp_spec::judges(&["NET-01", "NET-05"]);
    let service = OpampService::new(AcceptAll, ServerConfig::default(), ServiceConfig::default());
    let app: axum::Router = axum::Router::new()
        .route("/", axum::routing::get(|| async { "hello" }))
        .route_service("/v1/opamp", service.clone());
    check(service, |listener| async move { axum::serve(listener, app).await }).await;
}

#[tokio::test]
async fn mounted_in_hyper() {
    let service = OpampService::new(AcceptAll, ServerConfig::default(), ServiceConfig::default());
    let mounted = service.clone();
    check(service, |listener| async move {
        while let Ok((stream, _)) = listener.accept().await {
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), mounted.clone())
                .with_upgrades();
            tokio::spawn(connection);
        }
    })
    .await;
}
