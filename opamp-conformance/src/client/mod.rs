//! Testing a client: the tester plays servers, and starts and stops the client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opamp_proto::v1::AgentToServer;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::hook::{Action, HookError};
use crate::judge::{Judge, Stop};
use crate::log::Log;
use crate::net::Network;
use crate::pace::Pace;
use crate::report::{Side, Transport};

pub mod cases;
pub mod depot;
pub mod download_server;
pub mod exec;
pub mod host;
pub mod listen;
pub mod offer;
pub mod otlp_sink;
pub mod reported;

pub use host::{Heard, Host};

/// A client to be tested: a way to start it.
#[async_trait]
pub trait ClientUnderTest: Send + Sync {
    /// Where its connections arrive.
    fn network(&self) -> Network;

    /// Whether it can be told this part of [`Start`]: `heartbeat`, `state`, `ca`, `headers`,
    /// `max_message_size`.
    fn takes(&self, part: &str) -> bool;

    /// The interval of heartbeats and polls it has where it cannot be told one; 30 s by the
    /// specification.
    fn heartbeat(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Whether it can be told to use this transport.
    fn speaks(&self, transport: Transport) -> bool {
        let _ = transport;
        true
    }

    /// The largest message the client takes where it is told no other limit, in bytes (SIZE-02,
    /// SIZE-19).
    fn max_message_size(&self) -> u64 {
        64 << 20
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it does not start.
    async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop>;
}

/// What a client is told when it is started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// The URL of the server.
    pub url: String,
    /// The interval of heartbeats and polls.
    pub heartbeat: Option<Duration>,
    /// Where it may keep what has to outlive it; see [`ClientStage::state`].
    pub state: Option<PathBuf>,
    /// The authority it is to trust, PEM.
    pub ca: Option<String>,
    /// Header fields for its requests and handshakes.
    pub headers: Vec<(String, String)>,
    /// The largest message it is to send and to take, in bytes.
    pub max_message_size: Option<u64>,
}

/// A client that was started. Dropping it kills it.
#[async_trait]
pub trait Running: Send {
    /// Has it do something that only the implementer can bring about.
    ///
    /// # Errors
    ///
    /// When there is no such hook, or it fails.
    async fn call(&mut self, action: &Action) -> Result<Value, HookError>;

    /// Asks it to stop in an orderly way, without waiting for that.
    ///
    /// # Errors
    ///
    /// [`HookError::Unsupported`] when there is no way to ask.
    async fn stop(&mut self) -> Result<(), HookError>;

    /// Ends it without warning.
    async fn kill(&mut self);

    /// How it ended, if it did, in words and with the last it had to say.
    fn ended(&mut self) -> Option<String>;
}

/// The stage of a case that tests a client.
pub struct ClientStage {
    /// The client.
    pub subject: Arc<dyn ClientUnderTest>,
    /// The transport this run of the case is for.
    pub transport: Transport,
    /// Where findings go.
    pub judge: Judge,
    /// Where everything is recorded.
    pub log: Log,
    /// How long to wait.
    pub pace: Pace,
    /// For ids and other arbitrary content.
    pub rng: StdRng,
}

impl ClientStage {
    /// A stage for a case that judges these rows. The same seed gives the same content.
    #[must_use]
    pub fn new(
        subject: Arc<dyn ClientUnderTest>,
        transport: Transport,
        rows: &'static [&'static str],
        pace: Pace,
        seed: u64,
    ) -> Self {
        let log = Log::new(Side::Client);
        let judge = Judge::new(rows, log.clone());
        Self { subject, transport, judge, log, pace, rng: StdRng::seed_from_u64(seed) }
    }

    /// The interval at which an idle client of this case sends: one second where it can be told so.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        if !self.subject.takes("heartbeat") {
            return self.subject.heartbeat();
        }
        // The protocol has whole seconds.
        Duration::from_secs_f64(self.pace.scale().ceil())
    }

    /// A place for what has to outlive a client that is started more than once; to be given to each
    /// start. It is relative: the launcher puts it where it likes, and removes it.
    pub fn state(&mut self) -> PathBuf {
        format!("{:016x}", self.rng.random::<u64>()).into()
    }

    /// A server for the transport of this run that is ready for the client.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it cannot listen.
    pub async fn host(&self) -> Result<Host, Stop> {
        self.host_with_tls(None).await
    }

    /// As [`host`](Self::host), over TLS where settings are given.
    ///
    /// # Errors
    ///
    /// As [`host`](Self::host).
    pub async fn host_with_tls(
        &self,
        tls: Option<Arc<rustls::ServerConfig>>,
    ) -> Result<Host, Stop> {
        let network = self.subject.network();
        Host::open(&network, self.transport, tls, &self.log, self.pace).await
    }

    /// What the client is told in most cases: where this server is, and a short heartbeat.
    #[must_use]
    pub fn start_for(&self, host: &Host) -> Start {
        Start {
            url: host.url(),
            heartbeat: self.subject.takes("heartbeat").then(|| self.heartbeat()),
            ..Default::default()
        }
    }

    /// Starts the client.
    ///
    /// # Errors
    ///
    /// [`Stop::Harness`] when it does not start.
    pub async fn start(&self, start: Start) -> Result<Box<dyn Running>, Stop> {
        self.log.remark(format!("the client is started for {}", start.url));
        self.subject.start(start).await
    }

    /// The beginning of most cases: a server, a client started for it, and the client's first
    /// message, which is not answered yet.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when no message comes.
    pub async fn meet(&self) -> Result<(Host, Box<dyn Running>, AgentToServer), Stop> {
        let mut host = self.host().await?;
        let start = self.start_for(&host);
        let (client, message) = self.admit(&mut host, start).await?;
        Ok((host, client, message))
    }

    /// Starts the client, and waits for its first message to this server, which is not answered
    /// yet.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when no message comes.
    pub async fn admit(
        &self,
        host: &mut Host,
        start: Start,
    ) -> Result<(Box<dyn Running>, AgentToServer), Stop> {
        let mut client = self.start(start).await?;
        match host.first(self.pace.start()).await {
            Ok(message) => Ok((client, message)),
            Err(stop) => Err(match client.ended() {
                Some(how) => Stop::Harness(format!("the client's program {how}")),
                None => stop,
            }),
        }
    }

    /// Has a hook of the implementer do something in the client.
    ///
    /// # Errors
    ///
    /// [`Stop::Missing`] when there is no such hook, [`Stop::Harness`] when it fails.
    pub async fn hook(&self, client: &mut dyn Running, action: Action) -> Result<Value, Stop> {
        self.log.remark(format!("hook {}", serde_json::to_string(&action).unwrap_or_default()));
        client.call(&action).await.map_err(|error| match error {
            HookError::Unsupported => Stop::Missing(format!("the hook `{}`", action.name())),
            HookError::Failed(why) => {
                Stop::Harness(format!("the hook `{}` failed: {why}", action.name()))
            }
        })
    }

    /// Asks the client to stop in an orderly way.
    ///
    /// # Errors
    ///
    /// [`Stop::Missing`] when there is no way to ask, [`Stop::Harness`] when asking fails.
    pub async fn stop(&self, client: &mut dyn Running) -> Result<(), Stop> {
        self.log.remark("the client is asked to stop");
        client.stop().await.map_err(|error| match error {
            HookError::Unsupported => Stop::Missing("a way to stop the client".to_owned()),
            HookError::Failed(why) => Stop::Harness(format!("stopping the client failed: {why}")),
        })
    }

    /// Goes on only if the client can be told this part of [`Start`].
    ///
    /// # Errors
    ///
    /// [`Stop::Missing`] when it cannot.
    pub fn takes(&self, part: &str) -> Result<(), Stop> {
        let missing = || Stop::Missing(format!("a client that can be told its `{part}`"));
        if self.subject.takes(part) { Ok(()) } else { Err(missing()) }
    }

    /// Goes on only if the client announces this capability.
    ///
    /// # Errors
    ///
    /// [`Stop::NotApplicable`] when it does not.
    pub fn requires(&self, first: &AgentToServer, capability: u64) -> Result<(), Stop> {
        if first.capabilities & capability == capability {
            return Ok(());
        }
        let missing = crate::mask::names("AgentCapabilities", capability & !first.capabilities);
        Err(Stop::NotApplicable(format!("the client does not announce {}", missing.join(", "))))
    }
}
