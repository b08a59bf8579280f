//! The reference client on a WebSocket.

use std::time::Duration;

use bytes::Bytes;
use http::header::{SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_VERSION};
use http::{HeaderMap, HeaderValue};
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::mind::{NEVER, Next};
use super::{Body, Order, Over};
use crate::wire::body;
use crate::wire::http_client::{Dialer, Handshake};
use crate::wire::ws::{Ended, Frame, Incoming, WebSocket};

/// How long a handshake and the end of a connection may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each message is compressed for itself.
const DEFLATE: HeaderValue = HeaderValue::from_static(
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
);

impl Body {
    pub(super) async fn by_websocket(&mut self, dialer: &Dialer) -> Over {
        let mut headers = HeaderMap::from_iter([(SEC_WEBSOCKET_EXTENSIONS, DEFLATE)]);
        if self.faults.has("handshake-version-is-8") {
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        }
        self.stray_connection(dialer);
        let handshake = timeout(self.within(PATIENCE), dialer.websocket(&headers)).await;
        let websocket = match handshake {
            Ok(Ok(Handshake::Accepted(websocket))) => websocket,
            Ok(Ok(Handshake::Refused(response))) => {
                self.follow(dialer, &response).await;
                let status = response.status().as_u16();
                return Over::Again(self.mind.patience().put_off(status, response.headers()));
            }
            Ok(Err(_)) | Err(_) => return Over::Again(self.mind.patience().unconnected()),
        };
        self.linger().await;
        let over = self.converse(websocket).await;
        self.mind.lost();
        over
    }

    async fn converse(&mut self, mut websocket: WebSocket) -> Over {
        let (mut due, mut is_first) = (true, true);
        let mut silent = self.faults.has("waits-for-the-server-to-speak");
        loop {
            if (due || self.mind.is_due()) && !silent {
                due = false;
                let message = self.compose();
                if self.say(&mut websocket, &message).await.is_err() {
                    return Over::Again(Duration::ZERO);
                }
                if is_first {
                    self.stray_messages(&mut websocket, &message).await;
                    is_first = false;
                }
            }
            tokio::select! {
                incoming = websocket.receive() => match self.heard(&mut websocket, incoming).await {
                    None => silent = false,
                    Some(over) => {
                        if self.faults.has("the-old-connection-is-kept") {
                            self.lingering.spawn(async move {
                                while !matches!(websocket.receive().await, Incoming::Ended(_)) {}
                            });
                        }
                        return over;
                    }
                },
                order = self.orders.recv() => match order {
                    None | Some(Order::Stop) => {
                        self.leave(&mut websocket).await;
                        return Over::Stop;
                    }
                    Some(order) => self.obey(order),
                },
                () = sleep_until(self.mind.heartbeat_at()), if self.mind.has_heartbeats() && !silent => {
                    due = true;
                }
                () = sleep_until(self.mind.answer_is_due_at()) => {
                    return Over::Again(self.mind.backoff());
                }
                () = sleep_until(self.mind.trial_ends_at()) => return Over::Again(Duration::ZERO),
            }
        }
    }

    /// Takes in what came; gives how the connection is over, if it is.
    async fn heard(&mut self, websocket: &mut WebSocket, incoming: Incoming) -> Option<Over> {
        let payload = match incoming {
            Incoming::Message { frames: 2.., .. } if self.faults.has("fragments-are-dropped") => {
                return None;
            }
            Incoming::Message { is_text, payload, .. }
                if !is_text || self.faults.has("text-message-is-processed") =>
            {
                payload
            }
            Incoming::Ping | Incoming::Pong(_) | Incoming::Message { .. } => return None,
            Incoming::Close(code, _) => {
                // The server knows already.
                let _ = websocket.send_frame(Frame::close(code.unwrap_or(1000), "")).await;
                let is_final = self.faults.has("close-by-the-server-is-final");
                return Some(Over::Again(if is_final { NEVER } else { self.mind.backoff() }));
            }
            Incoming::Ended(Ended::BrokeFraming(_)) if self.faults.has("broken-frame-is-final") => {
                return Some(Over::Again(NEVER));
            }
            Incoming::Ended(_) if self.faults.has("reconnects-late") => {
                return Some(Over::Again(Duration::from_secs(5)));
            }
            Incoming::Ended(_) => return Some(Over::Again(Duration::ZERO)),
        };
        let size = payload
            .len()
            .saturating_sub(usize::from(self.faults.has("limit-leaves-out-the-header")));
        let unchecked = websocket.is_deflate() && self.faults.has("limit-counts-deflated-bytes");
        if self.is_too_large(size) && !unchecked {
            let code =
                if self.faults.has("oversized-message-closes-with-1000") { 1000 } else { 1009 };
            // The connection is left whatever becomes of this.
            let _ = websocket.send_frame(Frame::close(code, "")).await;
            return Some(Over::Again(self.mind.backoff()));
        }
        let length = match body::unframe(&payload) {
            Ok((_, 2.., _)) if self.faults.has("padded-header-is-refused") => {
                return Some(Over::Again(self.mind.backoff()));
            }
            Ok((0, length, _)) => length,
            Ok((1.., length, _)) if self.faults.has("header-is-not-looked-at") => length,
            Ok(_) if self.faults.has("other-header-crashes") => return Some(Over::Stop),
            Err(_) if self.faults.has("header-without-end-is-skipped") => 11,
            Err(_) if payload.len() > 10 && self.faults.has("header-without-end-crashes") => {
                return Some(Over::Stop);
            }
            Ok(_) | Err(_) => return None,
        };
        if payload.len() == length && self.faults.has("empty-message-is-refused") {
            return Some(Over::Again(self.mind.backoff()));
        }
        let after = self.heard_at.replace(Instant::now()).map(|before| before.elapsed());
        if after.is_some_and(|after| after < Duration::from_millis(1))
            && self.faults.has("second-of-two-messages-is-dropped")
        {
            return None;
        }
        let message = self.read(payload.get(length..).map(Bytes::copy_from_slice)?);
        if message.is_none() && self.faults.has("broken-message-is-final") {
            return Some(Over::Again(NEVER));
        }
        let message = message?;
        let next = self.mind.receive(message);
        self.keep();
        match next {
            Next::GoOn => None,
            Next::Wait(_) if self.faults.has("stays-when-unavailable") => None,
            Next::Wait(wait) => {
                self.leave(websocket).await;
                Some(Over::Again(wait))
            }
            Next::Move => {
                let applying = self.mind.compose();
                // What becomes of it does not keep the client here.
                let _ = self.say(websocket, &applying).await;
                if !self.faults.has("the-old-connection-is-kept") {
                    self.leave(websocket).await;
                }
                Some(Over::Again(Duration::ZERO))
            }
            Next::Restart => {
                self.leave(websocket).await;
                self.mind.restart();
                Some(Over::Again(Duration::ZERO))
            }
        }
    }

    /// Says goodbye and closes in good order.
    async fn leave(&mut self, websocket: &mut WebSocket) {
        let goodbye = self.mind.goodbye();
        let left = async {
            if !self.faults.has("leaves-without-goodbye") {
                self.say(websocket, &goodbye).await?;
            }
            if self.faults.has("leaves-without-close") {
                return Ok(());
            }
            websocket.send_frame(Frame::close(1000, "")).await?;
            while !matches!(websocket.receive().await, Incoming::Close(..) | Incoming::Ended(_)) {}
            Ok::<_, Ended>(())
        };
        // A server that does not answer is left all the same.
        let _ = timeout(PATIENCE, left).await;
    }

    async fn say(&self, websocket: &mut WebSocket, message: &AgentToServer) -> Result<(), Ended> {
        let mut bytes = message.encode_to_vec();
        if self.faults.has("unknown-field-is-sent") {
            bytes.extend([0xf8, 0x3f, 1]);
        }
        websocket.send(body::frame(&bytes)).await
    }
}
