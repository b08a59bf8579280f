//! What the application decides before the client starts.

use std::collections::BTreeMap;
use std::time::Duration;

use opamp_proto::frame::HeaderPolicy;
use opamp_proto::{AgentCapabilities, MessageLimits, v1};

use super::packages::PackagesConfig;
use super::server_url::ServerUrl;
use super::{BackoffConfig, ClientState, ConnectionKinds, CustomCapabilities};

/// Which of OpAMP's two transports a client uses (NET-02).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One long-lived connection; the server can send at any time.
    WebSocket,
    /// One request at a time; the server answers, and the client polls.
    Http,
}

/// Where the [`ClientState`] goes when it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Storage {
    /// Nowhere, or nobody promises anything: offers of certificates are refused, as the agent would
    /// be locked out after a restart (CONN-20).
    #[default]
    Ephemeral,
    /// The application saves it durably whenever
    /// [`Event::StateChanged`](super::Event::StateChanged) comes. Nothing waits for that.
    Application,
    /// The driver saves it as [`poll_save`](super::ClientCore::poll_save) says. What must not be
    /// lost is saved before it is acted on.
    Store,
}

/// The configuration of a [`ClientCore`](super::ClientCore).
///
/// The capabilities an agent announces follow from it: an agent that was given a health reports
/// health, one that accepts remote configuration also reports what became of it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The transport. Accepted connection settings may choose the other one. Default: WebSocket.
    pub transport: Transport,
    /// The URL the agent is started with: an offer that names it changes nothing, and accepted
    /// settings are forgotten when it is another one after a restart. Default: empty.
    pub endpoint: ServerUrl,
    /// What was saved by an earlier process, or a new identity.
    pub state: ClientState,
    /// Where the state goes when it changes. Default: nowhere.
    pub storage: Storage,
    /// Ask the server for an instance uid; the one in `state` serves until then (ID-07, ID-08).
    /// Default: no.
    pub request_instance_uid: bool,
    /// What the agent is and where it runs (DESC rows).
    pub description: v1::AgentDescription,
    /// The agent's health, where it reports one (HEALTH-10).
    pub health: Option<v1::ComponentHealth>,
    /// What the agent runs, where it reports that (CFG-05).
    pub effective_config: Option<v1::EffectiveConfig>,
    /// Whether the agent takes remote configuration (CFG-02). Off until the user turns it on
    /// (SEC-11).
    pub accepts_remote_config: bool,
    /// Whether the agent restarts when it is told to (CMD-03, CMD-04). Default: no.
    pub accepts_restart: bool,
    /// Connections the agent takes settings for (CONN-02 to CONN-07). Default: none.
    pub accepted_settings: ConnectionKinds,
    /// Whether offered settings may lead from `wss` or `https` to `ws` or `http`. Default: no.
    pub allow_insecure_endpoint: bool,
    /// Whether offered settings may turn off the verification of certificates (TLS-05). Default:
    /// no.
    pub allow_insecure_skip_verify: bool,
    /// Whether the agent asks the server for a client certificate of a key of its own, as long as
    /// no accepted settings have one, and when that has to be renewed (CSR-04, CSR-16). Needs
    /// durable storage and accepted OpAMP settings. Default: no.
    pub requests_certificate: bool,
    /// Whether the certificate names the instance uid (CSR-19); another uid then needs another
    /// certificate (CSR-21). Default: yes.
    pub certificate_names_uid: bool,
    /// When a certificate is asked for again that was refused or did not come. Default: 1 h.
    pub certificate_retry_interval: Duration,
    /// How long the credentials of accepted settings may be refused before what the agent is
    /// started with takes turns with them, so that no expired certificate costs the agent its
    /// server; `None` never goes back. Default: 15 min.
    pub refusal_timeout: Option<Duration>,
    /// How long offered settings of the OpAMP connection may take to be checked and saved, and then
    /// to bring a good reply (A37). Default: 30 s.
    pub settings_timeout: Duration,
    /// How the agent takes packages, if it does (PKG-01, PKG-73). Off until the user turns it on.
    pub packages: Option<PackagesConfig>,
    /// The components the agent has, by an id of each, where it reports them (COMP-01).
    pub available_components: Option<BTreeMap<String, v1::ComponentDetails>>,
    /// The custom capabilities the agent has (CUST-01). Default: none.
    pub custom_capabilities: CustomCapabilities,
    /// Custom messages that may wait for their outcome, and as many received ones for the
    /// application. Default: 64.
    pub max_custom_messages: usize,
    /// Bytes of custom messages, capability, type and data together, that may wait for their
    /// outcome, and as many received ones for the application; a single one is received at any
    /// size. Default: 1 MiB.
    pub max_custom_bytes: usize,
    /// How long a custom message may wait to be sent, its answer included. Default: 60 s.
    pub custom_message_timeout: Duration,
    /// Time between heartbeats over WebSocket, counted from the last message; `None` announces and
    /// sends none (HB-01, HB-03, HB-14). Default: 30 s.
    pub heartbeat_interval: Option<Duration>,
    /// Time between polls over HTTP, counted from the last request (HTTP-07, HTTP-08). Default:
    /// 30 s.
    pub polling_interval: Duration,
    /// Time between attempts to connect, and after failed requests.
    pub backoff: BackoffConfig,
    /// Largest messages, framing included and compression excluded. Default: 64 MiB either way.
    pub limits: MessageLimits,
    /// Whether a WebSocket message without the header is taken. Default: no (WS-08).
    pub header_policy: HeaderPolicy,
    /// How long a WebSocket may take to be established, and how long an HTTP exchange may go
    /// without progress. What the kernel has taken of a large request is allowed a second per 32
    /// KiB more (at most 2 min), and a whole exchange twenty times as long. Default: 30 s.
    pub connect_timeout: Duration,
    /// How long a report waits for its reply over WebSocket before the next one may be sent
    /// (RETRY-02). Default: 10 s.
    pub reply_timeout: Duration,
    /// How long a server may leave everything unanswered over WebSocket, although the connection is
    /// alive, before the client leaves it for a new one (EST-02): counted from when the first
    /// report is on its way, any other that comes after an answer, or a heartbeat where the server
    /// has answered one before. `None` waits for ever, for a server that answers nothing and is to
    /// push all the same. Default: 60 s.
    pub answer_timeout: Option<Duration>,
    /// How long the agent may take for an offer before it counts as failed. Default: 5 min.
    pub offer_timeout: Duration,
    /// How long a WebSocket may be silent before it is pinged; `None` never pings. Default: 30 s.
    pub ping_interval: Option<Duration>,
    /// How long a ping may go unanswered before the connection is given up. Default: 20 s.
    pub ping_timeout: Duration,
    /// How long an orderly close may take, and how long stopping may take. Default: 5 s.
    pub close_timeout: Duration,
    /// Least time between two reconnects without a delay; a connection lost again before that is
    /// tried again with backoff, also when it had worked (EST-06). Default: 10 s; zero is refused,
    /// as a server that answers once and drops would be asked again for ever without a pause.
    pub immediate_reconnect_interval: Duration,
    /// Seed of all jitter and of the first sequence number. Neither two agents nor two processes of
    /// one should share it; the drivers draw one at random. Default: 0, for which the first number
    /// is 1.
    pub seed: u64,
}

impl ClientConfig {
    /// A configuration with the defaults named at each field.
    #[must_use]
    pub fn new(state: ClientState, description: v1::AgentDescription) -> Self {
        Self {
            transport: Transport::WebSocket,
            endpoint: ServerUrl::default(),
            state,
            storage: Storage::default(),
            request_instance_uid: false,
            description,
            health: None,
            effective_config: None,
            accepts_remote_config: false,
            accepts_restart: false,
            accepted_settings: ConnectionKinds::empty(),
            allow_insecure_endpoint: false,
            allow_insecure_skip_verify: false,
            requests_certificate: false,
            certificate_names_uid: true,
            certificate_retry_interval: Duration::from_secs(3600),
            refusal_timeout: Some(Duration::from_secs(900)),
            settings_timeout: Duration::from_secs(30),
            packages: None,
            available_components: None,
            custom_capabilities: CustomCapabilities::default(),
            max_custom_messages: 64,
            max_custom_bytes: 1024 * 1024,
            custom_message_timeout: Duration::from_secs(60),
            heartbeat_interval: Some(Duration::from_secs(30)),
            polling_interval: Duration::from_secs(30),
            backoff: BackoffConfig::default(),
            limits: MessageLimits::default(),
            header_policy: HeaderPolicy::Required,
            connect_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(10),
            answer_timeout: Some(Duration::from_secs(60)),
            offer_timeout: Duration::from_secs(300),
            ping_interval: Some(Duration::from_secs(30)),
            ping_timeout: Duration::from_secs(20),
            close_timeout: Duration::from_secs(5),
            immediate_reconnect_interval: Duration::from_secs(10),
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let intervals = [
            ("heartbeat_interval", self.heartbeat_interval.unwrap_or(Duration::MAX)),
            ("polling_interval", self.polling_interval),
            ("connect_timeout", self.connect_timeout),
            ("reply_timeout", self.reply_timeout),
            ("answer_timeout", self.answer_timeout.unwrap_or(Duration::MAX)),
            ("offer_timeout", self.offer_timeout),
            ("ping_interval", self.ping_interval.unwrap_or(Duration::MAX)),
            ("ping_timeout", self.ping_timeout),
            ("settings_timeout", self.settings_timeout),
            ("certificate_retry_interval", self.certificate_retry_interval),
            ("close_timeout", self.close_timeout),
            ("immediate_reconnect_interval", self.immediate_reconnect_interval),
            ("custom_message_timeout", self.custom_message_timeout),
            ("backoff.initial", self.backoff.initial),
            ("backoff.max", self.backoff.max),
        ];
        let packages = self.packages.iter().flat_map(PackagesConfig::intervals);
        let intervals = intervals.into_iter().chain(packages);
        if let Some((field, _)) = intervals.into_iter().find(|(_, interval)| interval.is_zero()) {
            return Err(ConfigError::ZeroInterval { field });
        }
        if self.limits.max_send() < MIN_SEND_LIMIT {
            return Err(ConfigError::SendLimitTooSmall { limit: self.limits.max_send() });
        }
        if self.requests_certificate
            && (self.storage == Storage::Ephemeral
                || !self.accepted_settings.contains(ConnectionKinds::OPAMP))
        {
            return Err(ConfigError::CertificateCannotBeKept);
        }
        if self.description.identifying_attributes.is_empty()
            && self.description.non_identifying_attributes.is_empty()
        {
            return Err(ConfigError::EmptyDescription);
        }
        Ok(())
    }

    /// The largest custom message that can be sent.
    pub(crate) fn max_custom_message(&self) -> usize {
        let fits = self.limits.max_send().saturating_sub(super::custom::OVERHEAD);
        self.max_custom_bytes.min(fits)
    }

    /// What follows from the configuration and from the parts that have a value.
    pub(super) fn capabilities(&self, snapshot: &v1::AgentToServer) -> AgentCapabilities {
        let mut capabilities = AgentCapabilities::REPORTS_STATUS;
        capabilities.set(
            AgentCapabilities::ACCEPTS_REMOTE_CONFIG | AgentCapabilities::REPORTS_REMOTE_CONFIG,
            self.accepts_remote_config,
        );
        capabilities
            .set(AgentCapabilities::REPORTS_EFFECTIVE_CONFIG, snapshot.effective_config.is_some());
        capabilities.set(AgentCapabilities::REPORTS_HEALTH, snapshot.health.is_some());
        capabilities.set(AgentCapabilities::ACCEPTS_RESTART_COMMAND, self.accepts_restart);
        capabilities.set(
            AgentCapabilities::ACCEPTS_PACKAGES | AgentCapabilities::REPORTS_PACKAGE_STATUSES,
            self.packages.is_some(),
        );
        capabilities.set(AgentCapabilities::REPORTS_HEARTBEAT, self.heartbeat_interval.is_some());
        capabilities.set(
            AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS,
            snapshot.available_components.is_some(),
        );
        capabilities | self.accepted_settings.capabilities()
    }
}

/// Room for a message without status and then some.
const MIN_SEND_LIMIT: usize = 256;

/// The configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// An interval of zero would make a hot loop.
    #[error("{field} is zero: give it a positive duration")]
    ZeroInterval {
        /// The field of [`ClientConfig`].
        field: &'static str,
    },
    /// Not even a heartbeat would fit.
    #[error("limits.max_send is {limit} bytes: at least {MIN_SEND_LIMIT} are needed")]
    SendLimitTooSmall {
        /// The limit that was given.
        limit: usize,
    },
    /// A certificate that is asked for has to be accepted, and to survive a restart (CONN-20).
    #[error(
        "requests_certificate needs accepted OpAMP settings, and a store or another durable storage"
    )]
    CertificateCannotBeKept,
    /// An agent has to say what it is.
    #[error("description has no attributes: give at least service.name")]
    EmptyDescription,
}
