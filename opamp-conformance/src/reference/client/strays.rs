//! What a broken reference client sends beside its messages.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::Full;
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, sleep, timeout};

use super::Body;
use crate::server::agent::PROTOBUF;
use crate::wire::body;
use crate::wire::http_client::{Dialer, HttpConnection, Lost, field};
use crate::wire::text;
use crate::wire::ws::{Frame, Opcode, WebSocket};

/// How long an answer to a stray request is waited for.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long the first of two requests waits for its answer before the second is sent.
const STRAY: Duration = Duration::from_millis(500);
/// How long a connection is held that is of no use.
const SPARE: Duration = Duration::from_secs(20);

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

    /// Speaks on a bare connection until the server ends it.
    pub(super) async fn speak_without_http(&mut self, message: &AgentToServer) {
        let Ok(dialer) = self.mind.dialer(&self.network) else { return };
        if let Ok((mut stream, _)) = dialer.stream().await {
            // The server's answer is not listened to, only waited for.
            let _ = stream.write_all(&body::frame(&message.encode_to_vec())).await;
            let _ = timeout(SPARE, stream.read_to_end(&mut Vec::new())).await;
        }
    }

    /// Goes where an answer points to, with all its header fields.
    pub(super) async fn follow(&self, dialer: &Dialer, response: &Response<Bytes>) {
        let location = field(response.headers(), header::LOCATION);
        let Ok(url) = location.parse() else { return };
        if !self.faults.has("redirect-takes-credentials-along") {
            return;
        }
        let dialer = Dialer { url, ..dialer.clone() };
        let exchange = async {
            let mut http = dialer.http().await?;
            http.send(dialer.request(Method::GET, &HeaderMap::new(), Bytes::new())?).await
        };
        // It has been sent, and that is all.
        let _ = timeout(PATIENCE, exchange).await;
    }

    /// Another connection beside the first.
    pub(super) fn stray_connection(&self, dialer: &Dialer) {
        if self.faults.has("has-two-connections") && self.heard_at.is_none() {
            let dialer = dialer.clone();
            tokio::spawn(async move {
                let spare = dialer.stream().await;
                sleep(SPARE).await;
                drop(spare);
            });
        }
    }

    /// What the server's message says, as far as it is one.
    pub(super) fn read(&self, body: Bytes) -> Option<ServerToAgent> {
        let strict = self.faults.has("unknown-fields-are-refused");
        if strict && !text::read("ServerToAgent", &body).unknown_fields.is_empty() {
            return None;
        }
        ServerToAgent::decode(body).ok()
    }
}

/// Sends a request, and once more where the answer takes long.
pub(super) async fn send_twice(
    dialer: &Dialer,
    http: &mut HttpConnection,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, Lost> {
    let again = request.clone();
    let answer = http.send(request);
    tokio::pin!(answer);
    if let Ok(answer) = timeout(STRAY, &mut answer).await {
        return answer;
    }
    let exchange = async { dialer.http().await?.send(again).await };
    // It has been sent, and that is all.
    tokio::join!(answer, timeout(PATIENCE, exchange)).0
}
