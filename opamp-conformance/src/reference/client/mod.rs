//! The reference client: an agent with every capability whose mind is in [`mind`], and its two
//! drivers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use opamp_proto::v1::AgentToServer;
use prost::Message as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::{ClientUnderTest, Running, Start};
use crate::hook::{Action, HookError};
use crate::judge::Stop;
use crate::net::Network;
use crate::reference::Faults;
use crate::report::Transport;
use crate::wire::uid;
use crate::wire::url::Url;

mod certificates;
mod custom;
mod faults;
mod http;
mod mind;
mod packages;
mod patience;
mod settings;
mod strays;
mod telemetry;
mod websocket;

pub use faults::FAULTS;

use mind::{Mind, NEVER};
use settings::Settings;

/// The largest message the reference client takes: small, so that a case of its limit is quick.
pub const MAX_MESSAGE: usize = 256 << 10;
/// The interval of heartbeats and polls where it is told none.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);
/// How many orders to a running client wait.
const ORDERS: usize = 16;

/// Starts reference clients on a network in memory.
pub struct ReferenceClient {
    network: Network,
    faults: Faults,
    kept: Kept,
}

/// What clients left behind, by the directory they were given.
type Kept = Arc<Mutex<HashMap<PathBuf, mind::Kept>>>;

impl ReferenceClient {
    /// On this network.
    #[must_use]
    pub fn new(network: &Network, faults: Faults) -> Self {
        Self { network: network.clone(), faults, kept: Kept::default() }
    }

    fn new_uid(&self) -> Bytes {
        let fresh = uid::fresh(&mut rand::rng(), uid::now_ms());
        if self.faults.has("uid-is-the-same-everywhere") {
            return uid::fresh(&mut StdRng::seed_from_u64(1), 1_700_000_000_000);
        }
        if self.faults.has("uid-is-text") {
            return uid::text(&fresh).into();
        }
        if self.faults.has("uid-is-random") {
            return Bytes::copy_from_slice(
                uuid::Builder::from_random_bytes(rand::random()).as_uuid().as_bytes(),
            );
        }
        fresh
    }

    fn left_behind(&self, state: Option<&PathBuf>) -> Option<mind::Kept> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(state?).cloned()
    }
}

#[async_trait]
impl ClientUnderTest for ReferenceClient {
    fn network(&self) -> Network {
        self.network.clone()
    }

    fn takes(&self, _: &str) -> bool {
        true
    }

    fn max_message_size(&self) -> u64 {
        MAX_MESSAGE as u64
    }

    async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop> {
        let mut url: Url = start.url.parse().map_err(Stop::Harness)?;
        if self.faults.has("path-is-fixed") {
            "/v1/opamp".clone_into(&mut url.target);
        }
        if self.faults.has("default-path-is-another") && !start.url.ends_with(&url.target) {
            "/opamp".clone_into(&mut url.target);
        }
        let default = match self.faults.has("default-interval-is-a-minute") {
            true => 2 * DEFAULT_HEARTBEAT,
            false => DEFAULT_HEARTBEAT,
        };
        let settings = Settings {
            url,
            headers: start.headers,
            ca: start.ca,
            identity: None,
            tls: None,
            proxy: None,
            heartbeat: match start.heartbeat {
                Some(heartbeat) if self.faults.has("interval-cannot-be-set") => 3 * heartbeat,
                Some(heartbeat) => heartbeat,
                None => default,
            },
        };
        let kept = self
            .left_behind(start.state.as_ref())
            .unwrap_or_else(|| mind::Kept::new(self.new_uid()));
        let mind = Mind::new(self.faults.clone(), kept, settings, start.state.is_some());
        let (orders, received) = mpsc::channel(ORDERS);
        let limit = start.max_message_size.and_then(|limit| limit.try_into().ok());
        let limit: usize = limit.unwrap_or(MAX_MESSAGE);
        let body = Body {
            network: self.network.clone(),
            mind,
            orders: received,
            own_orders: orders.clone(),
            work: JoinSet::new(),
            exporting: JoinSet::new(),
            kept: Arc::clone(&self.kept),
            state: start.state,
            faults: self.faults.clone(),
            limit,
            stopping: false,
            heard_at: None,
            lingering: JoinSet::new(),
        };
        Ok(Box::new(Life { orders, task: tokio::spawn(body.live()) }))
    }
}

/// A running client from outside.
struct Life {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
}

/// What a running client is told by its hooks and its own work.
enum Order {
    Do(Action, oneshot::Sender<Result<Value, HookError>>),
    Progress(Box<packages::Progress>),
    Stop,
}

#[async_trait]
impl Running for Life {
    async fn call(&mut self, action: &Action) -> Result<Value, HookError> {
        let gone = || HookError::Failed("the client has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Do(action.clone(), answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    async fn stop(&mut self) -> Result<(), HookError> {
        // One that has ended is stopped.
        let _ = self.orders.send(Order::Stop).await;
        Ok(())
    }

    async fn kill(&mut self) {
        self.task.abort();
    }

    fn ended(&mut self) -> Option<String> {
        self.task.is_finished().then(|| "has ended".to_owned())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running client from inside.
struct Body {
    network: Network,
    mind: Mind,
    orders: mpsc::Receiver<Order>,
    own_orders: mpsc::Sender<Order>,
    work: JoinSet<()>,
    exporting: JoinSet<()>,
    kept: Kept,
    state: Option<PathBuf>,
    faults: Faults,
    /// The largest message it sends and takes, in bytes.
    limit: usize,
    /// Whether it was asked to stop while a request waits for its answer.
    stopping: bool,
    /// When the last message came.
    heard_at: Option<Instant>,
    /// A connection that a fault keeps open.
    lingering: JoinSet<()>,
}

/// Why a driver returned.
enum Over {
    /// The client was asked to stop.
    Stop,
    /// Connect again after this time.
    Again(Duration),
}

impl Body {
    async fn live(mut self) {
        if self.faults.has("speaks-without-http") {
            let message = self.mind.compose();
            self.speak_without_http(&message).await;
            self.mind.lost();
        }
        loop {
            let over = match self.mind.dialer(&self.network) {
                Ok(mut dialer) => {
                    if self.faults.has("credentials-are-not-sent") {
                        dialer.headers.clear();
                    }
                    match dialer.url.transport {
                        Transport::WebSocket => self.by_websocket(&dialer).await,
                        Transport::Http => self.by_http(&dialer).await,
                    }
                }
                Err(_) => Over::Again(self.mind.backoff()),
            };
            self.keep();
            match over {
                _ if self.stopping => return,
                Over::Stop => return,
                Over::Again(_) if self.mind.fall_back() => {
                    self.lingering = JoinSet::new();
                    self.keep();
                }
                Over::Again(wait) if self.rest(wait).await => return,
                Over::Again(_) => {}
            }
        }
    }

    /// Waits while nobody is connected; whether the client is to stop.
    async fn rest(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            match timeout_at(until, self.orders.recv()).await {
                Err(_) => return false,
                Ok(None | Some(Order::Stop)) => return true,
                Ok(Some(Order::Do(_, answer)))
                    if self.faults.has("changes-while-away-are-forgotten") =>
                {
                    let _ = answer.send(Ok(json!({})));
                }
                Ok(Some(order)) => self.obey(order),
            }
        }
    }

    /// Makes the first message late, where that is the fault.
    async fn linger(&self) {
        if self.faults.has("first-report-is-late") && self.mind.has_said_nothing() {
            sleep(Duration::from_secs(8)).await;
        }
    }

    /// The next message that may be sent: one above the limit is not, and its content waits.
    fn compose(&mut self) -> AgentToServer {
        let message = self.mind.compose();
        // Over WebSocket the header counts as well.
        if message.encoded_len() < self.limit || self.faults.has("own-messages-have-no-limit") {
            return message;
        }
        self.mind.unsent();
        self.mind.compose()
    }

    /// How long to wait for something that usually takes no longer than `usual`.
    fn within(&self, usual: Duration) -> Duration {
        if self.faults.has("silence-is-never-noticed") { NEVER } else { usual }
    }

    /// Whether a message of this size is larger than it takes.
    fn is_too_large(&self, size: usize) -> bool {
        let limit = if self.faults.has("limit-is-half") { self.limit / 2 } else { self.limit };
        size > limit && !self.faults.has("limit-is-ignored")
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Do(action, answer) => {
                let done = self.mind.hook(&action).map(|()| json!({}));
                // A caller that has gone away does not want to know.
                let _ = answer.send(done);
            }
            Order::Progress(progress) => self.mind.progress(*progress),
            Order::Stop => {}
        }
        self.keep();
    }

    /// Keeps what has to outlive the client, and begins the work there is.
    fn keep(&mut self) {
        if let Some(job) = self.mind.next_package() {
            let tools = packages::Tools {
                network: self.network.clone(),
                faults: self.faults.clone(),
                orders: self.own_orders.clone(),
            };
            self.work.spawn(packages::work(job, tools));
        }
        while self.work.try_join_next().is_some() {}
        if let Some(exporters) = self.mind.exporters(&self.network) {
            self.exporting = JoinSet::new();
            for exporter in exporters {
                self.exporting.spawn(exporter.run());
            }
        }
        if let Some(dir) = &self.state {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.insert(dir.clone(), self.mind.kept());
        }
    }
}
