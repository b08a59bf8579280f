//! The reference server: both transports at one address, its memory in [`desk`], and hooks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use opamp_proto::v1::ServerToAgent;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Duration;

use crate::hook::{Action, HookError, Hooks};
use crate::log::Log;
use crate::net::Network;
use crate::reference::Faults;
use crate::report::{Side, Transport};
use crate::server::ServerUnderTest;
use crate::wire::body;
use crate::wire::endpoint::{Arrival, Endpoint};
use crate::wire::http_client::field;
use crate::wire::ws::{Frame, Incoming, WebSocket};

mod desk;
mod faults;

pub use faults::FAULTS;

use desk::{Desk, Reply};

/// The largest message the reference server takes: small, so that a case of its limit is quick.
pub const MAX_MESSAGE: usize = 256 << 10;
/// How many messages wait to be pushed on one connection.
const PUSHES: usize = 64;

/// A reference server that runs until this is dropped.
pub struct ReferenceServer {
    target: ServerUnderTest,
    _tasks: JoinSet<()>,
}

/// What the tasks of the server share.
struct Shared {
    faults: Faults,
    desk: Mutex<Desk>,
    /// By connection: where to put what is to be pushed.
    pushes: Mutex<HashMap<u32, mpsc::Sender<Push>>>,
}

enum Push {
    Message(ServerToAgent),
    Close(u16),
}

impl ReferenceServer {
    /// Starts one on this network.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub async fn start(network: &Network, faults: Faults) -> std::io::Result<Self> {
        let log = Log::new(Side::Server);
        let endpoint = Endpoint::open(network, Transport::WebSocket, None, &log).await?;
        let url = endpoint.url().clone();
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk::new(faults.clone())),
            faults,
            pushes: Mutex::default(),
        });
        let hooks = Arc::new(ReferenceHooks(Arc::clone(&shared)));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(endpoint, shared));
        let target = ServerUnderTest {
            network: network.clone(),
            url,
            tls: None,
            headers: HeaderMap::new(),
            hooks,
            max_message_size: MAX_MESSAGE as u64,
            max_send_size: None,
        };
        Ok(Self { target, _tasks: tasks })
    }

    /// How to test it.
    #[must_use]
    pub fn target(&self) -> ServerUnderTest {
        self.target.clone()
    }
}

async fn serve(mut endpoint: Endpoint, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            arrival = endpoint.next(Duration::from_secs(3_600)) => {
                if let Some(arrival) = arrival {
                    tasks.spawn(Arc::clone(&shared).arrived(arrival));
                }
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

impl Shared {
    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pushes(&self) -> std::sync::MutexGuard<'_, HashMap<u32, mpsc::Sender<Push>>> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn arrived(self: Arc<Self>, arrival: Arrival) {
        let content_type = field(&arrival.headers, header::CONTENT_TYPE);
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if media_type.eq_ignore_ascii_case("application/x-protobuf") {
            return self.exchange(arrival);
        }
        let upgradable = arrival.is_handshake()
            && arrival.method == Method::GET
            && field(&arrival.headers, header::SEC_WEBSOCKET_VERSION) == "13"
            && !field(&arrival.headers, header::SEC_WEBSOCKET_KEY).is_empty();
        if !upgradable {
            return arrival.respond(400, &[], Bytes::from_static(b"not a WebSocket handshake\n"));
        }
        if let Some(websocket) = arrival.upgrade(true).await {
            self.converse(websocket).await;
        }
    }

    /// Plain HTTP: one request, one response.
    fn exchange(&self, arrival: Arrival) {
        if arrival.method != Method::POST {
            return arrival.respond(405, &[("allow", "POST")], Bytes::new());
        }
        let message = match field(&arrival.headers, header::CONTENT_ENCODING).as_str() {
            _ if arrival.body.len() > MAX_MESSAGE => {
                return arrival.respond(413, &[], Bytes::new());
            }
            "" | "identity" => arrival.body.clone(),
            "gzip" => match body::gunzip(&arrival.body, MAX_MESSAGE) {
                Ok(message) => message,
                Err(body::Error::TooLarge(_)) => {
                    return arrival.respond(413, &[], Bytes::new());
                }
                Err(_) => return arrival.respond(400, &[], Bytes::new()),
            },
            _ => return arrival.respond(415, &[], Bytes::new()),
        };
        let Reply { message, .. } = self.desk().handle(None, &message);
        let bytes: Bytes = message.unwrap_or_default().encode_to_vec().into();
        let content_type = ("content-type", "application/x-protobuf");
        if bytes.len() > 256 && accepts_gzip(&arrival.headers) {
            let headers = [content_type, ("content-encoding", "gzip")];
            return arrival.respond(200, &headers, body::gzip(&bytes));
        }
        arrival.respond(200, &[content_type], bytes);
    }

    /// A WebSocket, from the handshake to its end.
    async fn converse(&self, mut websocket: WebSocket) {
        let connection = websocket.connection();
        let (sender, mut pushes) = mpsc::channel(PUSHES);
        self.pushes().insert(connection, sender);
        loop {
            let goes_on = tokio::select! {
                incoming = websocket.receive() => {
                    self.incoming(&mut websocket, incoming).await
                }
                Some(push) = pushes.recv() => match push {
                    Push::Message(message) => {
                        websocket.send(body::frame(&message.encode_to_vec())).await.is_ok()
                    }
                    Push::Close(code) => {
                        websocket.send_frame(Frame::close(code, "")).await.is_ok()
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

    async fn incoming(&self, websocket: &mut WebSocket, incoming: Incoming) -> bool {
        let payload = match incoming {
            Incoming::Ping | Incoming::Pong(_) => return true,
            Incoming::Message { is_text: true, .. } => {
                // Nothing more can be done for a connection that fails now.
                let _ = websocket.send_frame(Frame::close(1003, "text")).await;
                return false;
            }
            Incoming::Message { payload, .. } => payload,
            Incoming::Close(code, _) => {
                let _ = websocket.send_frame(Frame::close(code.unwrap_or(1000), "")).await;
                return false;
            }
            Incoming::Ended(_) => return false,
        };
        if payload.len() > MAX_MESSAGE {
            let _ = websocket.send_frame(Frame::close(1009, "too large")).await;
            return false;
        }
        let message = match body::unframe(&payload) {
            Ok((0, length, _)) => payload.slice(length..),
            // No AgentToServer begins with a byte of all ones.
            _ => Bytes::from_static(&[0xff]),
        };
        let Reply { message, close } = self.desk().handle(Some(websocket.connection()), &message);
        if let Some(message) = message {
            let header: &[u8] = if self.faults.has("header-is-not-zero") { &[1] } else { &[0] };
            let framed = body::frame_with_header(header, &message.encode_to_vec());
            if websocket.send(framed).await.is_err() {
                return false;
            }
        }
        match close {
            Some(code) => {
                let _ = websocket.send_frame(Frame::close(code, "")).await;
                false
            }
            None => true,
        }
    }

    /// Pushes to an agent what the desk has for it, where it is on a WebSocket.
    fn push_to(&self, uid: &[u8]) {
        let pushed = self.desk().push(uid);
        if let Some((connection, message)) = pushed
            && let Some(sender) = self.pushes().get(&connection)
        {
            // A connection that is gone or does not read gets it with its next report.
            let _ = sender.try_send(Push::Message(message));
        }
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    field(headers, header::ACCEPT_ENCODING).split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        name.eq_ignore_ascii_case("gzip") && !refused
    })
}

struct ReferenceHooks(Arc<Shared>);

#[async_trait]
impl Hooks for ReferenceHooks {
    async fn call(&self, action: &Action) -> Result<Value, HookError> {
        let shared = &self.0;
        if let Action::Disconnect { instance_uid } = action {
            let uid = desk::uid(instance_uid)?;
            let connection = shared.desk().connection_of(&uid);
            if let Some(sender) = connection.and_then(|id| shared.pushes().get(&id).cloned()) {
                // A connection that has just ended is as good as closed.
                let _ = sender.try_send(Push::Close(1000));
            }
            return Ok(json!({}));
        }
        let (answer, concerned) = shared.desk().hook(action)?;
        if let Some(uid) = concerned {
            shared.push_to(&uid);
        }
        Ok(answer)
    }
}
