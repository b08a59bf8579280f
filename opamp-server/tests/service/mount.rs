//! The service in somebody else's application.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::request;
use hyper_util::rt::TokioIo;
use opamp_proto::Message as _;
use opamp_server::{
    AcceptAll, AgentChange, Handler, OpampService, Rejection, ServerConfig, ServiceConfig,
};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{MASK, UID, WebSocket, beat, exchange, post, report, soon, uid};
use crate::support::full_report;

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
    // The host may go on a while longer.
    let stream = TcpStream::connect(addr).await.unwrap();
    let answer = exchange(stream, post(beat(3).encode_to_vec())).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &one()));
    assert_eq!(service.fleet().agent(uid(&UID)).unwrap().sequence_num(), 2);
    server.abort();
}

fn one() -> http::HeaderValue {
    http::HeaderValue::from(1)
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

struct Counts(Arc<AtomicUsize>);

impl Handler for Counts {
    type Identity = ();

    async fn admit(&self, _request: &request::Parts) -> Result<(), Rejection> {
        Ok(())
    }

    async fn agent_changed(&self, _change: AgentChange<()>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// As in an application with a runtime for each of its threads.
#[test]
fn a_runtime_that_ends_takes_neither_the_time_nor_the_handler_along() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut config, calls) = (ServiceConfig::default(), Arc::new(AtomicUsize::new(0)));
    config.first_message_timeout = Duration::from_millis(100);
    config.handler_concurrency = 1;
    let handler = Counts(Arc::clone(&calls));
    let service = OpampService::new(handler, ServerConfig::default(), config);
    // A WebSocket whose session ends with its runtime, when nobody can be called.
    let first = runtime();
    let (near, far) = tokio::io::duplex(4096);
    let mut socket = first.block_on(async {
        tokio::spawn(serve(service.clone(), near));
        let mut socket = WebSocket::open(far, &[]).await.expect("an upgrade");
        socket.send(&report(1)).await;
        socket.recv().await;
        while calls.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        socket
    });
    drop(first);
    runtime().block_on(async {
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(serve(service.clone(), near));
        let mut silent = WebSocket::open(far, &[]).await.expect("an upgrade");
        assert_eq!(silent.recv_close().await, 1008);
        let (near, far) = tokio::io::duplex(4096);
        tokio::spawn(serve(service.clone(), near));
        let message = full_report(&[1; 16], 1, MASK).encode_to_vec();
        assert_eq!(exchange(far, post(message)).await.status, 200);
        soon(async {
            while calls.load(Ordering::SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        socket.recv_end().await;
    });
}

async fn serve(service: OpampService<Counts>, stream: tokio::io::DuplexStream) {
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let _ = connection.await;
}
