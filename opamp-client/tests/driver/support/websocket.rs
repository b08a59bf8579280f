//! A WebSocket server that does what a test says, one step at a time.

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use opamp_proto::frame::{self, HeaderPolicy};
use opamp_proto::{Message as _, v1};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::{Io, is_bare, reply_to, soon};

pub(crate) struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), tls: None }
    }

    pub(crate) async fn start_tls(tls: TlsAcceptor) -> Self {
        Self { tls: Some(tls), ..Self::start().await }
    }

    pub(crate) fn on(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port())
    }

    /// The next TCP connection, on which nothing has happened yet.
    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        soon(self.listener.accept()).await.unwrap().0
    }

    /// The next connection, upgraded.
    pub(crate) async fn accept(&self) -> Peer {
        let tcp = self.accept_tcp().await;
        let io: Box<dyn Io> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(soon(tls.accept(tcp)).await.unwrap()),
        };
        Peer::upgrade(io).await
    }

    /// The next connection, its first report answered.
    pub(crate) async fn welcome(&self) -> (Peer, v1::AgentToServer) {
        let mut peer = self.accept().await;
        let report = peer.report().await;
        peer.send(&reply_to(&report)).await;
        (peer, report)
    }
}

/// One end of an open WebSocket, and what its handshake said.
pub(crate) struct Peer {
    pub(crate) path_and_query: String,
    pub(crate) headers: http::HeaderMap,
    stream: WebSocketStream<Box<dyn Io>>,
}

impl Peer {
    pub(crate) async fn upgrade(io: Box<dyn Io>) -> Self {
        let mut seen = None;
        #[expect(clippy::result_large_err, reason = "the library's signature")]
        let record = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            seen = Some((request.uri().to_string(), request.headers().clone()));
            Ok(response)
        };
        let stream = soon(tokio_tungstenite::accept_hdr_async(io, record)).await.unwrap();
        let (path_and_query, headers) = seen.unwrap();
        Self { path_and_query, headers, stream }
    }

    /// What comes next, an error included.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, WsError>> {
        soon(self.stream.next()).await
    }

    /// The next message of any kind; `None` when the connection is over.
    pub(crate) async fn receive(&mut self) -> Option<Message> {
        self.next().await.map(Result::unwrap)
    }

    /// The next binary message, raw. Pings and pongs are passed over.
    pub(crate) async fn binary(&mut self) -> Bytes {
        loop {
            match self.receive().await {
                Some(Message::Binary(bytes)) => return bytes,
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("not a binary message: {other:?}"),
            }
        }
    }

    /// The next report.
    pub(crate) async fn report(&mut self) -> v1::AgentToServer {
        let frame = frame::decode(self.binary().await, HeaderPolicy::Required).unwrap();
        v1::AgentToServer::decode(frame.body).unwrap()
    }

    /// The next report that is more than a heartbeat.
    pub(crate) async fn status_report(&mut self) -> v1::AgentToServer {
        loop {
            let report = self.report().await;
            if !is_bare(&report) {
                return report;
            }
        }
    }

    pub(crate) async fn send(&mut self, message: &v1::ServerToAgent) {
        self.send_raw(Message::Binary(frame::encode(message))).await;
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        soon(self.stream.send(message)).await.unwrap();
    }

    /// Writes bytes of the test's own below the WebSocket.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let io = self.stream.get_mut();
        soon(io.write_all(bytes)).await.unwrap();
        soon(io.flush()).await.unwrap();
    }

    /// Writes bytes of the test's own below the WebSocket, over and over, until they are no longer
    /// taken, or so many are that it makes no difference. Returns how many were.
    pub(crate) async fn flood(&mut self, bytes: &[u8], most: usize) -> usize {
        let io = self.stream.get_mut();
        let mut taken = 0;
        while taken < most {
            let rest = &bytes[taken % bytes.len()..];
            let write = tokio::time::timeout(std::time::Duration::from_secs(1), io.write(rest));
            match write.await {
                Ok(Ok(written)) if written > 0 => taken += written,
                _ => break,
            }
        }
        taken
    }

    /// The Close frame that comes next; what comes before it is passed over.
    pub(crate) async fn close_frame(&mut self) -> CloseFrame {
        loop {
            match self.receive().await {
                Some(Message::Close(Some(frame))) => return frame,
                Some(_) => {}
                None => panic!("no Close frame came"),
            }
        }
    }

    /// The closing handshake is complete and the connection is over.
    pub(crate) async fn ended(mut self) {
        assert_eq!(self.receive().await, None);
    }

    /// The agent says goodbye: its last message, the Close frame, the end.
    pub(crate) async fn goodbye(mut self) {
        let goodbye = self.report().await;
        assert!(goodbye.agent_disconnect.is_some(), "{goodbye:?}");
        let frame = self.close_frame().await;
        assert_eq!(u16::from(frame.code), 1000);
        self.ended().await;
    }
}

/// A frame as a server writes it, unmasked.
pub(crate) fn raw_frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = raw_head(fin, opcode, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// The head of a frame whose payload comes later, if ever.
pub(crate) fn raw_head(fin: bool, opcode: u8, len: usize) -> Vec<u8> {
    let mut head = vec![u8::from(fin) << 7 | opcode];
    match len {
        0..=125 => head.push(u8::try_from(len).unwrap()),
        126..=0xffff => {
            head.push(126);
            head.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend(u64::try_from(len).unwrap().to_be_bytes());
        }
    }
    head
}
