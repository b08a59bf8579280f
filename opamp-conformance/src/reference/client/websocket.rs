//! The reference client on a WebSocket.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use tokio::time::{sleep_until, timeout};

use super::mind::Next;
use super::{Body, MAX_MESSAGE, Order, Over};
use crate::wire::body;
use crate::wire::http_client::{Dialer, Handshake, field};
use crate::wire::ws::{Ended, Frame, Incoming, WebSocket};

/// How long a handshake and the end of a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Body {
    pub(super) async fn by_websocket(&mut self, dialer: &Dialer) -> Over {
        let none = HeaderMap::new();
        let websocket = match timeout(PATIENCE, dialer.websocket(&none)).await {
            Ok(Ok(Handshake::Accepted(websocket))) => websocket,
            Ok(Ok(Handshake::Refused(response))) => {
                return Over::Again(self.put_off(response.status().as_u16(), response.headers()));
            }
            Ok(Err(_)) | Err(_) => return Over::Again(self.mind.backoff()),
        };
        let over = self.converse(websocket).await;
        self.mind.lost();
        over
    }

    /// How long to wait after this answer to a handshake or a request.
    pub(super) fn put_off(&mut self, status: u16, headers: &HeaderMap) -> Duration {
        if !matches!(status, 429 | 503) {
            return self.mind.backoff();
        }
        let text = field(headers, RETRY_AFTER);
        let stated = match text.parse::<u64>() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => httpdate::parse_http_date(&text)
                .ok()
                .and_then(|date| date.duration_since(std::time::SystemTime::now()).ok()),
        };
        stated.filter(|wait| !wait.is_zero()).unwrap_or_else(|| self.mind.unstated_wait())
    }

    async fn converse(&mut self, mut websocket: WebSocket) -> Over {
        let mut due = true;
        loop {
            if due || self.mind.is_due() {
                due = false;
                let message = self.mind.compose();
                if send(&mut websocket, &message).await.is_err() {
                    return Over::Again(Duration::ZERO);
                }
            }
            tokio::select! {
                incoming = websocket.receive() => match self.heard(&mut websocket, incoming).await {
                    None => {}
                    Some(Over::Stop) => return Over::Stop,
                    Some(again) => return again,
                },
                order = self.orders.recv() => match order {
                    None | Some(Order::Stop) => {
                        self.leave(&mut websocket).await;
                        return Over::Stop;
                    }
                    Some(Order::Do(action, answer)) => self.obey(&action, answer),
                },
                () = sleep_until(self.mind.heartbeat_at()) => due = true,
                () = sleep_until(self.mind.trial_ends_at()) => return Over::Again(Duration::ZERO),
            }
        }
    }

    /// Takes in what came; gives how the connection is over, if it is.
    async fn heard(&mut self, websocket: &mut WebSocket, incoming: Incoming) -> Option<Over> {
        let payload = match incoming {
            Incoming::Message { is_text: false, payload, .. } => payload,
            Incoming::Ping | Incoming::Pong(_) | Incoming::Message { .. } => return None,
            Incoming::Close(code, _) => {
                // The server knows already.
                let _ = websocket.send_frame(Frame::close(code.unwrap_or(1000), "")).await;
                return Some(Over::Again(self.mind.backoff()));
            }
            Incoming::Ended(_) => return Some(Over::Again(Duration::ZERO)),
        };
        if payload.len() > MAX_MESSAGE {
            // The connection is left whatever becomes of this.
            let _ = websocket.send_frame(Frame::close(1009, "")).await;
            return Some(Over::Again(self.mind.backoff()));
        }
        let Ok((0, length, _)) = body::unframe(&payload) else { return None };
        let message = ServerToAgent::decode(payload.slice(length..)).ok()?;
        let next = self.mind.receive(message);
        self.keep();
        match next {
            Next::GoOn => None,
            Next::Wait(wait) => {
                self.leave(websocket).await;
                Some(Over::Again(wait))
            }
            Next::Move => {
                let applying = self.mind.compose();
                // What becomes of it does not keep the client here.
                let _ = send(websocket, &applying).await;
                self.leave(websocket).await;
                Some(Over::Again(Duration::ZERO))
            }
        }
    }

    /// Says goodbye and closes in good order.
    async fn leave(&mut self, websocket: &mut WebSocket) {
        let goodbye = self.mind.goodbye();
        let left = async {
            send(websocket, &goodbye).await?;
            websocket.send_frame(Frame::close(1000, "")).await?;
            while !matches!(websocket.receive().await, Incoming::Close(..) | Incoming::Ended(_)) {}
            Ok::<_, Ended>(())
        };
        // A server that does not answer is left all the same.
        let _ = timeout(PATIENCE, left).await;
    }
}

async fn send(websocket: &mut WebSocket, message: &AgentToServer) -> Result<(), Ended> {
    websocket.send(body::frame(&message.encode_to_vec())).await
}
