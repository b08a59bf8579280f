//! Testing a server: the tester plays agents.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::hook::{Action, HookError, Hooks, NoHooks};
use crate::judge::{Judge, Stop};
use crate::log::Log;
use crate::mask;
use crate::net::Network;
use crate::pace::Pace;
use crate::report::{Side, Transport};
use crate::wire::http_client::Dialer;
use crate::wire::uid;
use crate::wire::url::Url;

pub mod agent;
pub mod cases;
mod offer;
mod provision;

pub use agent::{Agent, Heard};

/// A server to be tested, and what the tester has to know of it.
#[derive(Clone)]
pub struct ServerUnderTest {
    /// The network it is in.
    pub network: Network,
    /// Where it is; the scheme also says which transport the user means, the other one is reached
    /// at the same address.
    pub url: Url,
    /// TLS settings for wss and https.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Header fields for every request and handshake, for example credentials.
    pub headers: HeaderMap,
    /// What only the implementer can bring about.
    pub hooks: Arc<dyn Hooks>,
    /// The largest message the server is configured to take, in bytes; 64 MiB by default (SIZE-02,
    /// SIZE-19).
    pub max_message_size: u64,
    /// The largest message the server is configured to send, where the user knows it.
    pub max_send_size: Option<u64>,
}

impl ServerUnderTest {
    /// The server at this URL, with the limits of the specification and nothing else.
    #[must_use]
    pub fn new(url: Url) -> Self {
        Self {
            network: Network::Sockets,
            url,
            tls: None,
            headers: HeaderMap::new(),
            hooks: Arc::new(NoHooks),
            max_message_size: 64 << 20,
            max_send_size: None,
        }
    }
}

/// The stage of a case that tests a server.
pub struct ServerStage {
    /// The server.
    pub target: ServerUnderTest,
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

impl ServerStage {
    /// A stage for a case that judges these rows. The same seed gives the same content.
    #[must_use]
    pub fn new(
        target: ServerUnderTest,
        transport: Transport,
        rows: &'static [&'static str],
        pace: Pace,
        seed: u64,
    ) -> Self {
        let log = Log::new(Side::Server);
        let judge = Judge::new(rows, log.clone());
        Self { target, transport, judge, log, pace, rng: StdRng::seed_from_u64(seed) }
    }

    /// How to reach the server over the transport of this run.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.dialer_over(self.transport)
    }

    /// How to reach the server over this transport.
    #[must_use]
    pub fn dialer_over(&self, transport: Transport) -> Dialer {
        Dialer {
            network: self.target.network.clone(),
            url: self.target.url.over(transport),
            via: None,
            tls: self.target.tls.clone(),
            headers: self.target.headers.clone(),
            log: self.log.clone(),
        }
    }

    /// An instance uid nobody else has.
    pub fn new_uid(&mut self) -> Bytes {
        uid::fresh(&mut self.rng, uid::now_ms())
    }

    /// A new agent with these capabilities that is not connected yet.
    pub fn agent(&mut self, capabilities: u64) -> Agent {
        let uid = self.new_uid();
        Agent::new(self.dialer(), uid, capabilities, self.pace)
    }

    /// A new agent with these capabilities that is connected and has not said anything. Over plain
    /// HTTP another agent has reported before, so that what comes of a message is not for want of a
    /// server.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when the server cannot be reached.
    pub async fn connected(&mut self, capabilities: u64) -> Result<Agent, Stop> {
        if self.transport == Transport::Http {
            self.reported(mask::agent::REPORTS_STATUS).await?;
        }
        let mut agent = self.agent(capabilities);
        agent.connect().await?;
        Ok(agent)
    }

    /// A new agent with these capabilities that is connected and whose full first report was
    /// answered without an error; and that answer.
    ///
    /// # Errors
    ///
    /// [`Stop::Unreached`] when the server does not get that far.
    pub async fn reported(
        &mut self,
        capabilities: u64,
    ) -> Result<(Agent, opamp_proto::v1::ServerToAgent), Stop> {
        let mut agent = self.agent(capabilities);
        agent.connect().await?;
        let report = agent.full_report();
        let reply = agent.exchange(report).await?;
        match &reply.error_response {
            None => Ok((agent, reply)),
            Some(error) => Err(Stop::Unreached(format!(
                "the first report was answered with an error: {:?}",
                error.error_message
            ))),
        }
    }

    /// Has a hook of the implementer do something.
    ///
    /// # Errors
    ///
    /// [`Stop::Missing`] when there is no such hook, [`Stop::Harness`] when it fails.
    pub async fn hook(&mut self, action: Action) -> Result<Value, Stop> {
        self.log.remark(format!("hook {}", serde_json::to_string(&action).unwrap_or_default()));
        match self.target.hooks.call(&action).await {
            Ok(answer) => Ok(answer),
            Err(HookError::Unsupported) => {
                Err(Stop::Missing(format!("the hook `{}`", action.name())))
            }
            Err(HookError::Failed(why)) => {
                Err(Stop::Harness(format!("the hook `{}` failed: {why}", action.name())))
            }
        }
    }

    /// As [`hook`](Self::hook), for what a server may well refuse to do; the reason it gives is the
    /// inner error.
    ///
    /// # Errors
    ///
    /// [`Stop::Missing`] when there is no such hook.
    pub async fn try_hook(&mut self, action: Action) -> Result<Result<Value, String>, Stop> {
        match self.hook(action).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Stop::Harness(why)) => {
                self.log.remark(&why);
                Ok(Err(why))
            }
            Err(other) => Err(other),
        }
    }

    /// Ends the case for a server whose mask in `reply` lacks this bit. A server that gives no mask
    /// at all is taken at its deeds.
    ///
    /// # Errors
    ///
    /// [`Stop::NotApplicable`].
    pub fn requires(&self, reply: &opamp_proto::v1::ServerToAgent, bit: u64) -> Result<(), Stop> {
        if reply.capabilities == 0 || reply.capabilities & bit == bit {
            return Ok(());
        }
        let names = mask::names("ServerCapabilities", bit).join(" and ");
        Err(Stop::NotApplicable(format!("the server does not announce {names}")))
    }

    /// What the server knows of the agent with this id, by the hook `show_agent`; `Null` where it
    /// knows none.
    ///
    /// # Errors
    ///
    /// As [`hook`](Self::hook).
    pub async fn shown(&mut self, uid: &[u8]) -> Result<Value, Stop> {
        let answer = self.hook(Action::ShowAgent { instance_uid: uid::text(uid) }).await?;
        Ok(answer.get("agent").cloned().unwrap_or(Value::Null))
    }
}
