//! A server the tester plays. It accepts the client over the transport of the case and speaks both
//! the same way: every message is answered, at the latest when the script asks for the next one,
//! with what the script queued or else with an acknowledgement.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};

use crate::judge::Stop;
use crate::log::Log;
use crate::mask::server as mask;
use crate::net::Network;
use crate::pace::Pace;
use crate::report::Transport;
use crate::wire::body;
use crate::wire::endpoint::{Arrival, Endpoint, Negotiated};
use crate::wire::http_client::field;
use crate::wire::ws::{Frame, Incoming, WebSocket};

/// How many offers may wait for the next request of a client.
const MAX_QUEUED: usize = 64;

/// What a scripted server hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// A message; over HTTP its request waits for an answer.
    Message(Box<AgentToServer>),
    /// Something that is no OpAMP message, and what is wrong with it.
    Malformed(String),
    /// The WebSocket was closed: the code of the Close frame, and in words.
    Closed(Option<u16>, String),
    /// Nothing within the time.
    Silence,
}

/// How a client came: what is known from its last handshake or request.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The header fields.
    pub headers: HeaderMap,
    /// The certificates it presented, its own first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What its TLS handshake agreed on; `None` without TLS.
    pub negotiated: Option<Negotiated>,
}

/// A scripted server.
pub struct Host {
    /// Where clients arrive; for what they meet there, see [`Endpoint::welcome`].
    pub endpoint: Endpoint,
    /// The capabilities announced in the first reply on each WebSocket and in every HTTP response.
    pub capabilities: u64,
    /// Whether permessage-deflate is agreed to.
    pub deflate: bool,
    transport: Transport,
    pace: Pace,
    /// How the client came last: with which header fields, certificates and TLS.
    pub visitor: Option<Visitor>,
    websocket: Option<WebSocket>,
    request: Option<Arrival>,
    /// The id of the last message and whether it still has to be answered.
    uid: Bytes,
    unanswered: bool,
    greeted: bool,
    queued: VecDeque<ServerToAgent>,
}

impl Host {
    /// Opens a server for this transport.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it cannot listen.
    pub async fn open(
        network: &Network,
        transport: Transport,
        tls: Option<Arc<rustls::ServerConfig>>,
        log: &Log,
        pace: Pace,
    ) -> Result<Self, Stop> {
        let endpoint = Endpoint::open(network, transport, tls, log)
            .await
            .map_err(|error| Stop::Harness(format!("cannot listen: {error}")))?;
        Ok(Self {
            endpoint,
            capabilities: mask::ALL,
            deflate: false,
            transport,
            pace,
            visitor: None,
            websocket: None,
            request: None,
            uid: Bytes::new(),
            unanswered: false,
            greeted: false,
            queued: VecDeque::new(),
        })
    }

    /// Where the client finds it.
    #[must_use]
    pub fn url(&self) -> String {
        self.endpoint.url().to_string()
    }

    /// The instance uid of the last message.
    #[must_use]
    pub fn uid(&self) -> &Bytes {
        &self.uid
    }

    /// The WebSocket, for what only a WebSocket can do.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when none is open.
    pub fn websocket(&mut self) -> Result<&mut WebSocket, Stop> {
        let none = || Stop::Unreached("the client has no WebSocket open".to_owned());
        self.websocket.as_mut().ok_or_else(none)
    }

    /// Whether the client is connected: a WebSocket is open, or a request waits for its answer.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.websocket.is_some() || self.request.is_some()
    }

    /// A message to the client with nothing but its id, and the capabilities where they are due.
    #[must_use]
    pub fn message(&self) -> ServerToAgent {
        let due = self.transport == Transport::Http || !self.greeted;
        ServerToAgent {
            instance_uid: self.uid.clone(),
            capabilities: if due { self.capabilities } else { 0 },
            ..Default::default()
        }
    }

    /// The next message of the client. What it sent before is answered first; a new WebSocket is
    /// accepted. Cancel safe but for that answer.
    pub async fn next(&mut self, within: Duration) -> Heard {
        self.answer().await;
        self.next_unanswered(within).await
    }

    /// As [`next`](Self::next), but leaves what came before without an answer; over HTTP the
    /// request is dropped with its connection.
    pub async fn next_unanswered(&mut self, within: Duration) -> Heard {
        self.request = None;
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if let Some(websocket) = &mut self.websocket {
                let Ok(incoming) = timeout(left, websocket.receive()).await else {
                    return Heard::Silence;
                };
                match incoming {
                    Incoming::Ping | Incoming::Pong(_) => {}
                    Incoming::Message { is_text: true, .. } => {
                        return Heard::Malformed("a WebSocket message of type text".to_owned());
                    }
                    Incoming::Message { payload, .. } => return self.heard_framed(&payload),
                    Incoming::Close(code, reason) => {
                        return self.closed(code, &reason).await;
                    }
                    Incoming::Ended(ended) => {
                        self.forget();
                        return Heard::Closed(None, ended.to_string());
                    }
                }
            } else {
                let Some(arrival) = self.endpoint.next(left).await else {
                    return Heard::Silence;
                };
                if let Some(heard) = self.welcome(arrival).await {
                    return heard;
                }
            }
        }
    }

    /// As [`next`](Self::next), beginning with a request that the script has taken from the
    /// endpoint itself.
    pub async fn receive(&mut self, arrival: Arrival, within: Duration) -> Heard {
        match self.welcome(arrival).await {
            Some(heard) => heard,
            None => self.next(within).await,
        }
    }

    /// The first message, or the next after a reconnect.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when none comes within the time.
    pub async fn first(&mut self, within: Duration) -> Result<AgentToServer, Stop> {
        match self.next(within).await {
            Heard::Message(message) => Ok(*message),
            Heard::Malformed(what) => {
                Err(Stop::Unreached(format!("the client's message is malformed: {what}")))
            }
            Heard::Closed(_, how) => Err(Stop::Unreached(format!("no message, but {how}"))),
            Heard::Silence => Err(Stop::Unreached(format!(
                "no message of the client within {:.1} s",
                within.as_secs_f64()
            ))),
        }
    }

    /// Waits for a message for which `is_it` holds. All others are answered and passed over, and
    /// reconnecting is let happen. The one found waits for its answer.
    pub async fn hear(
        &mut self,
        within: Duration,
        mut is_it: impl FnMut(&AgentToServer) -> bool,
    ) -> Option<AgentToServer> {
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.next(left).await {
                Heard::Message(message) if is_it(&message) => return Some(*message),
                Heard::Message(_) | Heard::Malformed(_) | Heard::Closed(..) => {}
                Heard::Silence => return None,
            }
        }
    }

    /// Everything the client sends within this time, each message answered.
    pub async fn collect(&mut self, within: Duration) -> Vec<AgentToServer> {
        let mut all = Vec::new();
        self.hear(within, |message| {
            all.push(message.clone());
            false
        })
        .await;
        all
    }

    /// Sends a message: over a WebSocket at once, over HTTP as the answer to the request that
    /// waits, or else to the next one.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when there is no WebSocket to send it on, [`Stop::Harness`] when too
    /// many wait.
    pub async fn send(&mut self, message: ServerToAgent) -> Result<(), Stop> {
        self.greeted |= message.capabilities != 0;
        if self.transport == Transport::WebSocket {
            self.unanswered = false;
            let bytes = body::frame(&message.encode_to_vec());
            // What the connection came to is told by the next receive.
            let _ = self.websocket()?.send(bytes).await;
            return Ok(());
        }
        match self.request.take() {
            Some(request) => {
                self.unanswered = false;
                respond(request, &message);
            }
            None if self.queued.len() < MAX_QUEUED => self.queued.push_back(message),
            None => return Err(Stop::Harness("too many offers wait for a request".to_owned())),
        }
        Ok(())
    }

    /// Answers the last message with an acknowledgement, or with what waits, if it was not answered
    /// yet.
    pub async fn answer(&mut self) {
        if !self.unanswered {
            return;
        }
        let message = self.queued.pop_front().unwrap_or_else(|| self.message());
        // Where the connection is gone there is nobody to answer.
        let _ = self.send(message).await;
        self.unanswered = false;
    }

    /// The HTTP request that waits for its answer, to be answered by hand.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when none waits.
    pub fn take_request(&mut self) -> Result<Arrival, Stop> {
        self.unanswered = false;
        self.request.take().ok_or_else(|| Stop::Unreached("no request waits".to_owned()))
    }

    /// Whether the client has closed the connection of the request that waits for its answer, or
    /// does so within this time.
    pub async fn is_given_up(&mut self, within: Duration) -> bool {
        match &mut self.request {
            Some(request) => timeout(within, request.given_up()).await.is_ok(),
            None => false,
        }
    }

    /// Drops the connection without a word, as a crash would.
    pub fn cut(&mut self) {
        self.forget();
        self.request = None;
    }

    /// Closes the WebSocket in good order with this code, and waits for the client's Close.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when there is no WebSocket.
    pub async fn close(&mut self, code: u16) -> Result<(), Stop> {
        let until = Instant::now() + self.pace.reply();
        let websocket = self.websocket()?;
        // One that ended meanwhile is as good as closed.
        let _ = websocket.send_frame(Frame::close(code, "")).await;
        while let Ok(incoming) = tokio::time::timeout_at(until, websocket.receive()).await {
            if matches!(incoming, Incoming::Close(..) | Incoming::Ended(_)) {
                break;
            }
        }
        self.forget();
        Ok(())
    }

    /// Answers a Close frame of the client, which ends the connection.
    async fn closed(&mut self, code: Option<u16>, reason: &str) -> Heard {
        if let Some(mut websocket) = self.websocket.take() {
            // A client that does not wait for it is judged elsewhere.
            let _ = websocket.send_frame(Frame::close(code.unwrap_or(1000), "")).await;
            websocket.shutdown().await;
        }
        self.forget();
        let number = code.map_or("no code".to_owned(), |code| code.to_string());
        Heard::Closed(code, format!("a Close frame with {number} {reason:?}"))
    }

    fn forget(&mut self) {
        self.websocket = None;
        self.greeted = false;
        self.unanswered = false;
    }

    async fn welcome(&mut self, arrival: Arrival) -> Option<Heard> {
        self.visitor = Some(Visitor {
            headers: arrival.headers.clone(),
            certificates: arrival.client_certificates.clone(),
            negotiated: arrival.negotiated.clone(),
        });
        if arrival.is_handshake() {
            self.websocket = arrival.upgrade(self.deflate).await;
            self.greeted = false;
            return None;
        }
        if arrival.method != Method::POST {
            let what = format!("a {} request", arrival.method);
            arrival.respond(405, &[], Bytes::new());
            return Some(Heard::Malformed(what));
        }
        let coding = field(&arrival.headers, header::CONTENT_ENCODING);
        let bytes = match coding.as_str() {
            "" => Ok(arrival.body.clone()),
            "gzip" => body::gunzip(&arrival.body, crate::wire::ws::MAX_MESSAGE)
                .map_err(|error| error.to_string()),
            other => Err(format!("Content-Encoding {other:?}")),
        };
        self.request = Some(arrival);
        Some(match bytes {
            Ok(bytes) => self.heard(bytes),
            Err(error) => Heard::Malformed(error),
        })
    }

    fn heard_framed(&mut self, payload: &Bytes) -> Heard {
        match body::unframe(payload) {
            Ok((0, length, _)) => self.heard(payload.slice(length..)),
            Ok((header, ..)) => Heard::Malformed(format!("the header is {header} and not 0")),
            Err(error) => Heard::Malformed(error),
        }
    }

    fn heard(&mut self, bytes: Bytes) -> Heard {
        match AgentToServer::decode(bytes) {
            Ok(message) => {
                self.uid = message.instance_uid.clone();
                self.unanswered = true;
                Heard::Message(Box::new(message))
            }
            Err(error) => Heard::Malformed(format!("no AgentToServer: {error}")),
        }
    }
}

fn respond(request: Arrival, message: &ServerToAgent) {
    let body = message.encode_to_vec().into();
    request.respond(200, &[("content-type", "application/x-protobuf")], body);
}
