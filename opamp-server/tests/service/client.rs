//! Servers to test, and clients that are nothing but a socket and hand-made messages.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use opamp_proto::{AgentCapabilities as Does, Message as _, WireUid, v1};
use opamp_server::service::store::StateStore;
use opamp_server::{
    AcceptAll, Fleet, Handler, Server, ServerConfig, ServiceConfig, ShutdownHandle,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::support::{full_report, heartbeat, wire};

pub(crate) const UID: [u8; 16] = [7; 16];
pub(crate) const OTHER: [u8; 16] = [8; 16];
pub(crate) const MASK: Does = Does::REPORTS_STATUS
    .union(Does::REPORTS_HEALTH)
    .union(Does::ACCEPTS_REMOTE_CONFIG)
    .union(Does::REPORTS_REMOTE_CONFIG);
pub(crate) const BAD_REQUEST: i32 = v1::ServerErrorResponseType::BadRequest as i32;
pub(crate) const UNAVAILABLE: i32 = v1::ServerErrorResponseType::Unavailable as i32;

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it happens soon")
}

/// A Server that runs.
pub(crate) struct Running<I = ()> {
    pub(crate) addr: SocketAddr,
    pub(crate) fleet: Fleet<I>,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) task: JoinHandle<()>,
}

pub(crate) async fn start() -> Running {
    start_with(AcceptAll, |_, _| {}).await
}

pub(crate) async fn start_with<H: Handler>(
    handler: H,
    adjust: impl FnOnce(&mut ServerConfig, &mut ServiceConfig),
) -> Running<H::Identity> {
    let (mut config, mut service) = (ServerConfig::default(), ServiceConfig::default());
    adjust(&mut config, &mut service);
    let server = Server::bind("127.0.0.1:0").config(config).service_config(service);
    run(server.listen(handler).await.expect("a free port"))
}

/// A Server with a store.
pub(crate) async fn start_on(
    store: impl StateStore,
    adjust: impl FnOnce(&mut ServerConfig, &mut ServiceConfig),
) -> Running {
    let (mut config, mut service) = (ServerConfig::default(), ServiceConfig::default());
    adjust(&mut config, &mut service);
    let server = Server::bind("127.0.0.1:0").config(config).service_config(service);
    run(server.state_store(store).listen(AcceptAll).await.expect("a free port"))
}

pub(crate) fn run<H: Handler>(server: Server<H>) -> Running<H::Identity> {
    Running {
        addr: server.local_addr(),
        fleet: server.fleet().clone(),
        shutdown: server.shutdown_handle(),
        task: tokio::spawn(server.run()),
    }
}

impl<I> Running<I> {
    pub(crate) async fn websocket(&self) -> WebSocket<TcpStream> {
        let stream = TcpStream::connect(self.addr).await.expect("a connection");
        WebSocket::open(stream, &[]).await.expect("an upgrade")
    }

    pub(crate) async fn websocket_with(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<WebSocket<TcpStream>, Response<Option<Vec<u8>>>> {
        let stream = TcpStream::connect(self.addr).await.expect("a connection");
        WebSocket::open(stream, headers).await
    }

    /// A request on a connection of its own.
    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Answer {
        let stream = TcpStream::connect(self.addr).await.expect("a connection");
        exchange(stream, request).await
    }

    pub(crate) async fn post(&self, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let answer = self.request(post(message.encode_to_vec())).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.message()
    }

    /// The Server still serves others.
    pub(crate) async fn check_alive(&self) {
        let mut socket = self.websocket().await;
        socket.send(&full_report(&OTHER, 1, MASK)).await;
        assert_eq!(socket.recv().await.error_response, None);
        assert_eq!(self.post(&full_report(&[9; 16], 1, MASK)).await.error_response, None);
    }

    pub(crate) async fn until_disconnected(&self, uid: &[u8]) {
        self.until(|fleet| !fleet.agent(wire(uid)).expect("the Agent").is_connected()).await;
    }

    /// Waits for something that other tasks are about to bring about.
    pub(crate) async fn until(&self, reached: impl Fn(&Fleet<I>) -> bool) {
        soon(async {
            while !reached(&self.fleet) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

pub(crate) struct WebSocket<S> {
    pub(crate) socket: WebSocketStream<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    pub(crate) async fn open(
        stream: S,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Response<Option<Vec<u8>>>> {
        let mut request = "ws://localhost/v1/opamp".into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match soon(tokio_tungstenite::client_async(request, stream)).await {
            Ok((socket, _response)) => Ok(Self { socket }),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(*response),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) async fn send(&mut self, message: &v1::AgentToServer) {
        self.send_raw(framed(&message.encode_to_vec())).await;
    }

    pub(crate) async fn send_raw(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::Binary(bytes.into())).await.expect("it is sent");
    }

    /// The next OpAMP message.
    pub(crate) async fn recv(&mut self) -> v1::ServerToAgent {
        let bytes = self.recv_raw().await;
        assert_eq!(bytes[0], 0, "the header");
        v1::ServerToAgent::decode(&bytes[1..]).expect("a ServerToAgent")
    }

    pub(crate) async fn recv_raw(&mut self) -> Bytes {
        loop {
            match soon(self.socket.next()).await.expect("a message").expect("no error") {
                Message::Binary(bytes) => return bytes,
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code the Server closes with; any message before is dropped.
    pub(crate) async fn recv_close(&mut self) -> u16 {
        loop {
            let message = soon(self.socket.next()).await.expect("a Close frame");
            if let Message::Close(frame) = message.expect("no error") {
                return frame.expect("a code").code.into();
            }
        }
    }

    /// The connection's end, after a Close frame.
    pub(crate) async fn recv_end(&mut self) {
        assert!(soon(self.socket.next()).await.is_none_or(|message| message.is_err()));
    }
}

/// A message as a WebSocket carries it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&[0], message].concat()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn message(&self) -> v1::ServerToAgent {
        assert_eq!(self.headers["content-type"], "application/x-protobuf");
        v1::ServerToAgent::decode(&self.body[..]).expect("a ServerToAgent")
    }
}

pub(crate) fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("/v1/opamp")
        .header("host", "localhost")
        .header("content-type", "application/x-protobuf")
        .body(Full::new(body.into()))
        .expect("a request")
}

pub(crate) async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("a connection");
    tokio::spawn(connection);
    let response = soon(sender.send_request(request)).await.expect("a response");
    let (parts, body) = response.into_parts();
    let body = soon(body.collect()).await.expect("a body").to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

pub(crate) fn uid(bytes: &[u8]) -> WireUid {
    wire(bytes)
}

pub(crate) fn beat(number: u64) -> v1::AgentToServer {
    heartbeat(&UID, number, MASK)
}

pub(crate) fn report(number: u64) -> v1::AgentToServer {
    full_report(&UID, number, MASK)
}

impl<I> Running<I> {
    /// As [`check_alive`](Self::check_alive), with one connection at a time.
    pub(crate) async fn check_alive_one_by_one(&self) {
        let mut socket = soon(self.websocket()).await;
        socket.send(&full_report(&OTHER, 1, MASK)).await;
        assert_eq!(socket.recv().await.error_response, None);
    }
}
