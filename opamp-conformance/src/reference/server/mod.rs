//! The reference server: both transports at one address, its memory in [`desk`], and hooks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ::http::{HeaderMap, Method, header};
use async_trait::async_trait;
use bytes::Bytes;
use opamp_proto::v1::ServerToAgent;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Duration;

use crate::hook::{Action, HookError, Hooks};
use crate::log::Log;
use crate::net::Network;
use crate::reference::Faults;
use crate::report::{Side, Transport};
use crate::server::ServerUnderTest;
use crate::wire::authority::Authority;
use crate::wire::encode;
use crate::wire::endpoint::{Arrival, Endpoint};
use crate::wire::http_client::field;

mod desk;
mod duplicates;
mod faults;
mod gate;
mod http;
mod tls;
mod websocket;

pub use faults::FAULTS;

use desk::Desk;

/// The largest message the reference server takes: small, so that a case of its limit is quick.
pub const MAX_MESSAGE: usize = 256 << 10;
/// The largest message it sends.
pub const MAX_SEND: usize = 64 << 10;
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
    overloaded: AtomicBool,
    desk: Mutex<Desk>,
    /// By connection: where to put what is to be pushed.
    pushes: Mutex<HashMap<u32, mpsc::Sender<Push>>>,
}

enum Push {
    Message(Box<ServerToAgent>),
    Close(u16),
    /// Whatever comes next is the answer.
    Ping(oneshot::Sender<()>),
}

impl ReferenceServer {
    /// Starts one on this network.
    ///
    /// # Errors
    ///
    /// When it cannot listen.
    pub async fn start(network: &Network, faults: Faults) -> std::io::Result<Self> {
        Self::open(network, faults, None, None).await
    }

    /// As [`start`](Self::start), behind TLS.
    ///
    /// # Errors
    ///
    /// When it cannot listen or cannot make its certificates.
    pub async fn start_with_tls(network: &Network, faults: Faults) -> std::io::Result<Self> {
        let made = Authority::new("reference server")
            .and_then(|authority| Ok((tls::settings(&authority, &faults)?, authority)));
        let (settings, authority) = made.map_err(std::io::Error::other)?;
        Self::open(network, faults, Some(settings), Some(authority)).await
    }

    async fn open(
        network: &Network,
        faults: Faults,
        tls: Option<(Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>)>,
        authority: Option<Authority>,
    ) -> std::io::Result<Self> {
        let log = Log::new(Side::Server);
        let (server_tls, client_tls) = tls.unzip();
        let endpoint = Endpoint::open(network, Transport::WebSocket, server_tls, &log).await?;
        let url = endpoint.url().clone();
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk::new(faults.clone(), url.clone(), authority)),
            faults,
            overloaded: AtomicBool::new(false),
            pushes: Mutex::default(),
        });
        let hooks = Arc::new(ReferenceHooks(Arc::clone(&shared)));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(endpoint, shared));
        let target = ServerUnderTest {
            network: network.clone(),
            url,
            tls: client_tls,
            headers: HeaderMap::from_iter([(header::AUTHORIZATION, gate::CREDENTIALS)]),
            hooks,
            max_message_size: MAX_MESSAGE as u64,
            max_send_size: Some(MAX_SEND as u64),
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
        let Some(arrival) = self.admit(arrival) else { return };
        if self.is_plain(&arrival) {
            if self.faults.has("http-is-not-served") {
                return arrival.respond(404, &[], Bytes::new());
            }
            return self.exchange(arrival);
        }
        let Some(mut arrival) = self.hand_out(arrival) else { return };
        let upgradable = arrival.is_handshake()
            && arrival.method == Method::GET
            && field(&arrival.headers, header::SEC_WEBSOCKET_VERSION) == "13"
            && !field(&arrival.headers, header::SEC_WEBSOCKET_KEY).is_empty()
            && !self.is_refused_for_its_form(&arrival.headers);
        if !upgradable || self.faults.has("websocket-is-not-served") {
            return arrival.respond(400, &[], Bytes::from_static(b"not a WebSocket handshake\n"));
        }
        self.spoil_handshake(&mut arrival);
        if let Some(websocket) = arrival.upgrade(true).await {
            self.converse(websocket).await;
        }
    }

    /// Whether it behaves as overloaded, and says so.
    fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::SeqCst) && !self.faults.has("overload-is-not-told")
    }

    /// The bytes of a reply; of an error in its place where it is larger than may be sent.
    fn encoded(&self, message: &ServerToAgent, is_compressed: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut bytes = message.encode_to_vec();
        let is_let_by = self.faults.has("send-limit-is-missing")
            || self.faults.has("send-limit-counts-compressed-bytes") && is_compressed(bytes.len());
        if bytes.len() >= MAX_SEND && !is_let_by {
            bytes = desk::not_sent(message.instance_uid.clone()).encode_to_vec();
        }
        if self.faults.has("replies-have-unknown-fields") {
            bytes.extend(encode::number(99, 1));
        }
        if self.faults.has("replies-come-in-twos") {
            bytes.extend(encode::bytes(1, &message.instance_uid));
        }
        bytes
    }

    /// Pushes to an agent what the desk has for it, where it is on a WebSocket.
    fn push_to(&self, uid: &[u8]) {
        let pushed = self.desk().push(uid);
        let may_be_sent = |message: &ServerToAgent| {
            message.encoded_len() < MAX_SEND || self.faults.has("send-limit-is-missing")
        };
        if let Some((connection, message)) = pushed
            && may_be_sent(&message)
            && let Some(sender) = self.pushes().get(&connection)
        {
            // A connection that is gone or does not read gets it with its next report.
            let _ = sender.try_send(Push::Message(Box::new(message)));
        }
    }
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
        if let Action::Overload { on } = action {
            shared.overloaded.store(*on, Ordering::SeqCst);
            return Ok(json!({}));
        }
        let (answer, concerned) = shared.desk().hook(action)?;
        if let Some(uid) = concerned {
            shared.push_to(&uid);
        }
        Ok(answer)
    }
}
