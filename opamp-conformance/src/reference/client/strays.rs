//! What a broken reference client sends beside its messages.

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use tokio::io::AsyncWriteExt as _;
use tokio::time::{Duration, timeout};

use super::Body;
use crate::server::agent::PROTOBUF;
use crate::wire::body;
use crate::wire::http_client::Dialer;
use crate::wire::ws::{Frame, Opcode, WebSocket};

/// How long an answer to a stray request is waited for.
const PATIENCE: Duration = Duration::from_millis(100);

impl Body {
    /// After the first message on a WebSocket. What becomes of it the connection tells.
    pub(super) async fn stray_messages(&self, websocket: &mut WebSocket, first: &AgentToServer) {
        let bytes = first.encode_to_vec();
        if self.faults.has("text-message-is-sent") {
            let frame = Frame { opcode: Opcode::Text, ..Frame::binary(body::frame(&bytes)) };
            let _ = websocket.send_frame(frame).await;
        }
        if self.faults.has("header-is-not-zero") {
            let _ = websocket.send(body::frame_with_header(&[1], &bytes)).await;
        }
        if self.faults.has("bytes-follow-the-message") {
            let _ = websocket.send(body::frame(&[&bytes[..], &[0x0a]].concat())).await;
        }
    }

    /// Before the second message over HTTP, on a connection of its own.
    pub(super) async fn stray_requests(&self, dialer: &Dialer, second: &AgentToServer) {
        let bytes = second.encode_to_vec();
        let (method, body) = if self.faults.has("probes-with-head") {
            (Method::HEAD, Bytes::new())
        } else if self.faults.has("body-has-a-header") {
            (Method::POST, body::frame(&bytes))
        } else if self.faults.has("gzip-is-not-announced") {
            (Method::POST, body::gzip(&bytes))
        } else {
            return;
        };
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, PROTOBUF)]);
        let exchange = async {
            let mut http = dialer.http().await?;
            http.send(dialer.request(method, &headers, body)?).await
        };
        // It has been sent, and that is all.
        let _ = timeout(PATIENCE, exchange).await;
    }

    /// Speaks on a bare connection for as long as the server keeps it.
    pub(super) async fn speak_without_http(&mut self, message: &AgentToServer) {
        let Ok(dialer) = self.mind.dialer(&self.network) else { return };
        if let Ok((mut stream, _)) = dialer.stream().await {
            let _ = stream.write_all(&body::frame(&message.encode_to_vec())).await;
            std::future::pending().await
        }
    }
}
