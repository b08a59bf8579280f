//! A WebSocket to the reference server, from the handshake to its end.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use super::desk::{Reply, is_bare, is_odd, malformed, unavailable};
use super::{MAX_MESSAGE, PUSHES, Push, Shared};
use crate::mask::agent as mask;
use crate::reference::Faults;
use crate::wire::body;
use crate::wire::endpoint::Arrival;
use crate::wire::http_client::field;
use crate::wire::ws::{self, Ended, Frame, Incoming, Opcode, WebSocket};

/// After which time without heartbeats a fault takes an agent for gone.
const GONE: Duration = Duration::from_secs(60);
/// Longer than any case.
const NEVER: Duration = Duration::from_secs(3_600);

/// What has to be known of a conversation.
#[derive(Default)]
struct Talk {
    /// When the last message came.
    last: Option<Instant>,
    /// Whether nothing is answered any more.
    hangs: bool,
    /// When the last heartbeat came.
    beat: Option<Instant>,
    /// Who waits for a sign of life.
    pings: Vec<oneshot::Sender<()>>,
    /// Whether a Close frame was sent.
    is_closing: bool,
}

impl Shared {
    /// Whether a fault refuses this handshake.
    pub(super) fn is_refused_for_its_form(&self, headers: &HeaderMap) -> bool {
        self.faults.has("handshake-needs-exact-fields")
            && field(headers, header::CONNECTION) != "Upgrade"
    }

    /// Changes a handshake so that a wrong answer to it follows.
    pub(super) fn spoil_handshake(&self, arrival: &mut Arrival) {
        let headers = &mut arrival.headers;
        if self.faults.has("accept-key-is-wrong") {
            headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("another"));
        }
        if self.faults.has("handshake-agrees-to-more") {
            let extension = HeaderValue::from_static("permessage-deflate");
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, extension);
        }
    }

    pub(super) async fn converse(&self, mut websocket: WebSocket) {
        let (sent, inflated) = self.limits();
        websocket.limit(sent, inflated);
        if self.faults.has("unmasked-frames-are-taken") {
            websocket.take_unmasked();
        }
        let connection = websocket.connection();
        let (sender, mut pushes) = mpsc::channel(PUSHES);
        self.pushes().insert(connection, sender);
        let mut talk = Talk::default();
        loop {
            let goes_on = tokio::select! {
                incoming = websocket.receive() => {
                    self.incoming(&mut websocket, incoming, &mut talk).await
                }
                () = sleep_until(talk.limit(&self.faults)) => close(&mut websocket, 1000).await,
                Some(push) = pushes.recv() => match push {
                    Push::Message(message) => {
                        websocket.send(body::frame(&message.encode_to_vec())).await.is_ok()
                    }
                    Push::Close(_) if self.faults.has("connections-end-without-close") => false,
                    Push::Close(code) => {
                        talk.is_closing = true;
                        websocket.send_frame(Frame::close(code, "")).await.is_ok()
                    }
                    Push::Ping(answer) => {
                        talk.pings.push(answer);
                        let (fin, rsv1, opcode) = (true, false, Opcode::Ping);
                        let ping = Frame { fin, rsv1, opcode, payload: Bytes::new() };
                        websocket.send_frame(ping).await.is_ok()
                    }
                },
            };
            if !goes_on {
                break;
            }
        }
        self.pushes().remove(&connection);
        self.desk().connection_lost(connection);
        websocket.shutdown().await;
    }

    /// The largest message that is taken, as sent and when decompressed.
    fn limits(&self) -> (usize, usize) {
        let limit = match () {
            () if self.faults.has("websocket-limit-is-one-off") => MAX_MESSAGE + 1,
            () if self.faults.has("websocket-limit-is-half") => MAX_MESSAGE / 2,
            () if self.faults.has("websocket-limit-is-missing") => ws::MAX_MESSAGE,
            () => MAX_MESSAGE,
        };
        let is_limited = !self.faults.has("inflated-messages-are-not-limited");
        (limit, if is_limited { limit } else { ws::MAX_MESSAGE })
    }

    async fn incoming(
        &self,
        websocket: &mut WebSocket,
        incoming: Incoming,
        talk: &mut Talk,
    ) -> bool {
        let faults = &self.faults;
        if !matches!(incoming, Incoming::Ended(_)) {
            // Who waited may have given up.
            for answer in talk.pings.drain(..) {
                let _ = answer.send(());
            }
        }
        let payload = match incoming {
            Incoming::Ping | Incoming::Pong(_) => return true,
            Incoming::Message { is_text: true, .. } if !faults.has("text-is-processed") => {
                return close(websocket, 1003).await;
            }
            Incoming::Message { frames: 2.., .. } if faults.has("fragments-are-dropped") => {
                return true;
            }
            Incoming::Message { payload, .. } => payload,
            Incoming::Close(..) if talk.is_closing => {
                return faults.has("connections-stay-open-after-close");
            }
            Incoming::Close(code, _) => return close(websocket, code.unwrap_or(1000)).await,
            Incoming::Ended(Ended::TooLarge(_)) => {
                let is_wrong = faults.has("too-large-closes-with-1002");
                return close(websocket, if is_wrong { 1002 } else { 1009 }).await;
            }
            Incoming::Ended(_) => return false,
        };
        let now = Some(Instant::now());
        if talk.last == now && faults.has("second-of-two-is-dropped") {
            return true;
        }
        talk.last = now;
        talk.hangs |= faults.has("odd-messages-hang") && is_odd(&payload[1.min(payload.len())..]);
        if talk.hangs {
            return true;
        }
        if payload.len() == 1 && faults.has("empty-message-closes") {
            return close(websocket, 1002).await;
        }
        let Reply { message, close: code } = match self.message_in(&payload) {
            Some(message) if self.is_overloaded() => unavailable(&message, faults),
            Some(message) => {
                talk.hear(&message);
                self.answer(websocket.connection(), &message).await
            }
            None => malformed(Bytes::new(), "the header of the message is not 0", faults),
        };
        if let Some(message) = message {
            let is_wrong = message.flags != 0 && faults.has("header-is-not-zero");
            let header: &[u8] = if is_wrong { &[1] } else { &[0] };
            let framed = body::frame_with_header(header, &self.encoded(&message, |_| false));
            let is_error = message.error_response.is_some();
            if is_error && faults.has("errors-are-text-messages") {
                let frame = Frame { opcode: Opcode::Text, ..Frame::binary(framed) };
                return websocket.send_frame(frame).await.is_ok();
            }
            let times = if is_error && faults.has("bad-request-is-repeated") { 2 } else { 1 };
            for _ in 0..times {
                if websocket.send(framed.clone()).await.is_err() {
                    return false;
                }
            }
        }
        match code {
            Some(code) => close(websocket, code).await,
            None => true,
        }
    }

    /// The OpAMP message in a WebSocket message; `None` where its header is wrong.
    fn message_in(&self, payload: &Bytes) -> Option<Bytes> {
        let faults = &self.faults;
        match body::unframe(payload) {
            Ok((0, ..)) if faults.has("header-is-one-byte") => Some(payload.slice(1..)),
            Ok((0, length, _)) => Some(payload.slice(length..)),
            Ok((_, length, _)) if faults.has("header-is-not-checked") => {
                Some(payload.slice(length..))
            }
            Ok((10, ..)) if faults.has("messages-need-no-header") => Some(payload.clone()),
            Err(_) if faults.has("endless-header-is-skipped") => {
                let length = payload.iter().take_while(|byte| **byte & 0x80 != 0).count();
                Some(payload.slice((length + 1).min(payload.len())..))
            }
            _ => None,
        }
    }
}

impl Talk {
    /// Takes notice of a message that may be a heartbeat.
    fn hear(&mut self, message: &Bytes) {
        let Ok(report) = AgentToServer::decode(message.clone()) else { return };
        let is_first = self.beat.is_none();
        let beats = report.capabilities & mask::REPORTS_HEARTBEAT != 0;
        if beats && (is_first || is_bare(&report)) {
            self.beat = Some(Instant::now());
        }
    }

    /// When a fault makes the server give up the connection.
    fn limit(&self, faults: &Faults) -> Instant {
        let since = match () {
            () if faults.has("silent-agents-are-dropped") => self.last,
            () if faults.has("only-empty-messages-are-heartbeats") => self.beat,
            () => None,
        };
        since.map_or_else(|| Instant::now() + NEVER, |since| since + GONE)
    }
}

/// Closes the WebSocket; gives `false`, as it does not go on.
async fn close(websocket: &mut WebSocket, code: u16) -> bool {
    // Nothing more can be done for a connection that fails now.
    let _ = websocket.send_frame(Frame::close(code, "")).await;
    false
}
