//! How a client is put together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use opamp_proto::{InstanceUid, v1};
use tokio::sync::{mpsc, watch};

use crate::core::{
    ClientConfig, ClientCore, ClientState, ConnectionKinds, CustomCapabilities, Storage, Transport,
};
#[cfg(feature = "packages")]
use crate::driver::Warehouse;
use crate::driver::{Base, Driver, Endpoint, HeaderProvider, Proxy, Servers, Times, append_header};
use crate::error::{Error, ErrorKind};
use crate::handle::{Client, Events, Mailbox, Status};
#[cfg(feature = "packages")]
use crate::packages::Packages;
use crate::redaction::Redaction;
use crate::store::SettingsStore;

type Configure = Box<dyn FnOnce(&mut ClientConfig) + Send>;

/// Describes a client before it runs: see [`Client::builder`].
#[must_use = "call build"]
pub struct Builder {
    url: String,
    transport: Option<Transport>,
    headers: Vec<(String, String)>,
    state: Option<ClientState>,
    store: Option<Arc<dyn SettingsStore>>,
    #[cfg(feature = "packages")]
    packages: Option<Packages>,
    /// Boxed, or the futures that hold a builder would be large.
    config: Box<ClientConfig>,
    configure: Vec<Configure>,
    redaction: Redaction,
    header_provider: Option<Arc<dyn HeaderProvider>>,
    proxy: Proxy,
    max_redirects: u8,
    compress_requests: bool,
    #[cfg(feature = "tls")]
    tls: crate::tls::Tls,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the headers nor a URL's userinfo are for logs.
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        let unset = ClientState::new(InstanceUid::from_bytes([0; 16]));
        Self {
            url,
            transport: None,
            headers: Vec::new(),
            state: None,
            store: None,
            #[cfg(feature = "packages")]
            packages: None,
            config: Box::new(ClientConfig::new(unset, v1::AgentDescription::default())),
            configure: Vec::new(),
            redaction: Redaction::default(),
            header_provider: None,
            proxy: Proxy::system(),
            max_redirects: 5,
            compress_requests: true,
            #[cfg(feature = "tls")]
            tls: crate::tls::Tls::new(),
        }
    }

    /// The transport, where the scheme of the URL should not choose it: a `ws` URL can be used for
    /// plain HTTP, and an `http` URL for WebSocket.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = Some(transport);
        self
    }

    /// What an earlier process of this agent saved: see [`Status::state`]. Without it the agent
    /// starts as a new one, with a new UUID v7 (ID-02, ID-06). A [`store`](Self::store) is more
    /// comfortable; what was in it when it was given takes precedence.
    pub fn state(mut self, state: ClientState) -> Self {
        self.state.get_or_insert(state);
        self
    }

    /// Loads from `store` what an earlier process of this agent saved, and saves there whatever
    /// changes: the identity (ID-04, ID-13), what became of offers (CFG-20), and the connection
    /// settings that were accepted or are being tried (CONN-11, CONN-16). Offers of certificates
    /// are accepted only with durable storage (CONN-20).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Store`] when the store cannot be read. An agent that then starts without would
    /// be another agent to its server.
    ///
    /// # Cancel safety
    ///
    /// Cancelling does no harm; the builder is gone.
    pub async fn store(mut self, store: impl SettingsStore + 'static) -> Result<Self, Error> {
        if let Some(state) = store.load().await.map_err(|error| {
            Error::with_source(ErrorKind::Store, "the saved state cannot be loaded", error)
        })? {
            self.state = Some(state);
        }
        self.config.storage = Storage::Store;
        self.store = Some(Arc::new(store));
        Ok(self)
    }

    /// Adds an attribute that identifies the agent, by the OpenTelemetry resource conventions:
    /// `service.name`, `service.namespace`, `service.version`, `service.instance.id` (DESC-04 to
    /// DESC-08).
    pub fn identifying_attribute(mut self, key: &str, value: impl Into<v1::AnyValue>) -> Self {
        let attribute = v1::KeyValue::new(key, value);
        self.config.description.identifying_attributes.push(attribute);
        self
    }

    /// Adds an attribute that says where the agent runs: `os.type`, `host.name` and so on
    /// (DESC-09).
    pub fn attribute(mut self, key: &str, value: impl Into<v1::AnyValue>) -> Self {
        let attribute = v1::KeyValue::new(key, value);
        self.config.description.non_identifying_attributes.push(attribute);
        self
    }

    /// The agent's health at the start; with it the agent announces that it reports health.
    pub fn health(mut self, health: v1::ComponentHealth) -> Self {
        self.config.health = Some(health);
        self
    }

    /// What the agent runs at the start; with it the agent announces that it reports it.
    pub fn effective_config(mut self, config: v1::EffectiveConfig) -> Self {
        self.config.effective_config = Some(config);
        self
    }

    /// Lets `redact` take out of every effective configuration what the server is not to see,
    /// secrets for example, before it is reported, wherever it comes from:
    /// [`effective_config`](Self::effective_config), [`Client::set_effective_config`] or
    /// [`RemoteConfigOffer::applied_with`](crate::core::RemoteConfigOffer::applied_with).
    ///
    /// It runs on the thread that sets the configuration, and may be called from several at once.
    ///
    /// ```
    /// # #[cfg(feature = "ws")] {
    /// use opamp_client::Client;
    /// use opamp_proto::v1::EffectiveConfig;
    ///
    /// let builder = Client::builder("ws://127.0.0.1:4320/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .redact_effective_config(|config: &mut EffectiveConfig| {
    ///         let files = config.config_map.iter_mut().flat_map(|map| map.config_map.values_mut());
    ///         for file in files {
    ///             let shown = String::from_utf8_lossy(&file.body).replace("hunter2", "[redacted]");
    ///             file.body = shown.into();
    ///         }
    ///     });
    /// # builder.build().expect("it is complete");
    /// # }
    /// ```
    pub fn redact_effective_config(
        mut self,
        redact: impl Fn(&mut v1::EffectiveConfig) + Send + Sync + 'static,
    ) -> Self {
        self.redaction = Redaction::new(redact);
        self
    }

    /// The agent takes remote configuration: it has to answer
    /// [`Event::RemoteConfig`](crate::core::Event::RemoteConfig).
    pub fn accept_remote_config(mut self) -> Self {
        self.config.accepts_remote_config = true;
        self
    }

    /// The agent restarts when told to: it has to act on
    /// [`Event::Restart`](crate::core::Event::Restart).
    pub fn accept_restart(mut self) -> Self {
        self.config.accepts_restart = true;
        self
    }

    /// The agent takes settings for its connection to the OpAMP server: another server, other
    /// credentials or certificates, a proxy, another heartbeat interval (CONN-01, HB-04). The
    /// client does the rest: it tries them out, keeps those that work, goes back otherwise, and
    /// reports what came of it (CONN-11 to CONN-19). [`Event::OpampSettingsApplied`] and
    /// [`Event::OpampSettingsFailed`] tell the application.
    ///
    /// Offers of certificates need a [`store`](Self::store), or a
    /// [`storage`](ClientConfig::storage) that is the application's (CONN-20). Less secure
    /// connections than the present one, and connections without verification, are refused unless
    /// the configuration allows them.
    ///
    /// [`Event::OpampSettingsApplied`]: crate::core::Event::OpampSettingsApplied
    /// [`Event::OpampSettingsFailed`]: crate::core::Event::OpampSettingsFailed
    ///
    /// ```
    /// # fn main() -> Result<(), opamp_client::Error> {
    /// # #[cfg(feature = "ws")] {
    /// use opamp_client::Client;
    ///
    /// let (client, events, driver) = Client::builder("ws://opamp.example.com/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .accept_connection_settings()
    ///     .configure(|config| config.settings_timeout = std::time::Duration::from_secs(60))
    ///     .build()?;
    /// # drop((client, events, driver));
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept_connection_settings(self) -> Self {
        self.accept_settings(ConnectionKinds::OPAMP)
    }

    /// The agent asks the server for a client certificate of a key of its own, as soon as the
    /// server takes such requests (CSR-04, CSR-25), and uses it from then on (CSR-13); it asks for
    /// another one when two thirds to three quarters of its time are over, which differs between
    /// agents, and when the server gives the agent another uid (CSR-16, CSR-21). This accepts
    /// [connection settings](Self::accept_connection_settings) and needs a [`store`](Self::store):
    /// a key that is lost makes its certificate worthless.
    ///
    /// The first connection is made with what the builder is given: no client certificate, or a
    /// bootstrap certificate (TOFU-01, CSR-03). The key is an ECDSA key on P-256 and never leaves
    /// the agent; the common name is the uid, unless
    /// [`certificate_names_uid`](ClientConfig::certificate_names_uid) says otherwise.
    ///
    /// ```
    /// # #[cfg(feature = "file-store")]
    /// # async fn agent() -> Result<(), opamp_client::Error> {
    /// use opamp_client::{Client, FileStore};
    ///
    /// let (client, events, driver) = Client::builder("wss://opamp.example.com/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .store(FileStore::new("/var/lib/my-agent/opamp-state"))
    ///     .await?
    ///     .request_certificate()
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "csr")]
    pub fn request_certificate(mut self) -> Self {
        self.config.requests_certificate = true;
        self.accept_connection_settings()
    }

    /// The agent sends its own metrics where the server wants them: it has to answer
    /// [`Event::ConnectionSettings`](crate::core::Event::ConnectionSettings) (TEL-08). The settings
    /// in force outlive the process where the state is kept: see [`Client::connections`].
    ///
    #[cfg_attr(feature = "ws", doc = "```no_run")]
    #[cfg_attr(not(feature = "ws"), doc = "```ignore")]
    /// use opamp_client::{Client, core::Event};
    ///
    /// # fn send_metrics_to(_: Option<opamp_proto::v1::TelemetryConnectionSettings>) -> Result<(), String> { Ok(()) }
    /// # async fn agent() -> Result<(), Box<dyn std::error::Error>> {
    /// let (client, mut events, driver) = Client::builder("ws://127.0.0.1:4320/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .accept_own_metrics()
    ///     .build()?;
    /// tokio::spawn(driver.run());
    ///
    /// send_metrics_to(client.connections().own_metrics)?;
    /// while let Some(event) = events.next().await {
    ///     if let Event::ConnectionSettings(offer) = event {
    ///         let outcome = match send_metrics_to(offer.connections().own_metrics.clone()) {
    ///             Ok(()) => offer.applied(),
    ///             Err(why) => offer.failed(why),
    ///         };
    ///         client.resolve_connection_settings(outcome);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept_own_metrics(self) -> Self {
        self.accept_settings(ConnectionKinds::OWN_METRICS)
    }

    /// The agent sends its own traces where the server wants them: it has to answer
    /// [`Event::ConnectionSettings`](crate::core::Event::ConnectionSettings) (TEL-12).
    pub fn accept_own_traces(self) -> Self {
        self.accept_settings(ConnectionKinds::OWN_TRACES)
    }

    /// The agent sends its own logs where the server wants them: it has to answer
    /// [`Event::ConnectionSettings`](crate::core::Event::ConnectionSettings) (TEL-13).
    pub fn accept_own_logs(self) -> Self {
        self.accept_settings(ConnectionKinds::OWN_LOGS)
    }

    /// The agent takes settings of connections that it knows by name: it has to answer
    /// [`Event::ConnectionSettings`](crate::core::Event::ConnectionSettings) (OTHER-06).
    pub fn accept_other_connections(self) -> Self {
        self.accept_settings(ConnectionKinds::OTHERS)
    }

    /// The components the agent has at the start, by an id of each; with them the agent announces
    /// that it reports them. The server is told their hash, and asks for them where it does not
    /// know it (COMP-07, COMP-09).
    ///
    /// ```
    /// # #[cfg(feature = "ws")] {
    /// use opamp_client::Client;
    /// use opamp_proto::v1::{ComponentDetails, KeyValue};
    ///
    /// let tail = ComponentDetails {
    ///     metadata: vec![KeyValue::new("code.namespace", "com.example.agent.tail")],
    ///     ..Default::default()
    /// };
    /// let inputs = ComponentDetails {
    ///     sub_component_map: [("tail".to_owned(), tail)].into(),
    ///     ..Default::default()
    /// };
    /// let builder = Client::builder("ws://127.0.0.1:4320/v1/opamp")
    ///     .identifying_attribute("service.name", "my-agent")
    ///     .available_components([("inputs".to_owned(), inputs)].into());
    /// # builder.build().expect("it is complete");
    /// # }
    /// ```
    pub fn available_components(
        mut self,
        components: BTreeMap<String, v1::ComponentDetails>,
    ) -> Self {
        self.config.available_components = Some(components);
        self
    }

    /// The custom capabilities the agent has at the start (CUST-01): it is handed messages of
    /// these, as [`Event::CustomMessage`](crate::core::Event::CustomMessage), and can send such;
    /// see [`Client::send_custom_message`].
    pub fn custom_capabilities(mut self, capabilities: CustomCapabilities) -> Self {
        self.config.custom_capabilities = capabilities;
        self
    }

    fn accept_settings(mut self, kinds: ConnectionKinds) -> Self {
        self.config.accepted_settings |= kinds;
        self
    }

    /// The agent takes packages and reports on them: it has to answer
    /// [`Event::Package`](crate::core::Event::Package) and
    /// [`Event::PackageRemoval`](crate::core::Event::PackageRemoval) (PKG-01, PKG-73). Downloads go
    /// on beside everything else: see [`packages`](crate::packages).
    #[cfg(feature = "packages")]
    pub fn packages(mut self, packages: Packages) -> Self {
        self.config.packages = Some(packages.config.clone());
        self.packages = Some(packages);
        self
    }

    /// A header for every HTTP request and WebSocket handshake, `Authorization` for example. A name
    /// may be given several times. Headers that the server offers take the place of all of these.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Asks for headers before every HTTP request and WebSocket handshake: for tokens that expire.
    /// See [`HeaderProvider`].
    pub fn header_provider(mut self, provider: impl HeaderProvider) -> Self {
        self.header_provider = Some(Arc::new(provider));
        self
    }

    /// How `wss` and `https` connections are made: see [`tls`](crate::tls). Default: the system's
    /// trust store and no client certificate.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The proxy on the way to the server. Default: [`Proxy::system`], what the environment says.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = proxy;
        self
    }

    /// How many redirects of one handshake or request are followed; 0 follows none. Default: 5.
    ///
    /// Followed are 301, 302, 307 and 308, also for the `POST` requests of the HTTP transport,
    /// which are made again as they were; 303 for a handshake only. None leads from TLS to plain
    /// text or in a circle. To another origin (scheme, host or port) neither headers but
    /// `User-Agent` nor the client certificate go along. No redirect is remembered: the next
    /// attempt goes to the configured URL.
    pub fn max_redirects(mut self, most: u8) -> Self {
        self.max_redirects = most;
        self
    }

    /// Whether HTTP requests of 2 KiB and more may be compressed with gzip (HTTP-17). Default: yes,
    /// once the server has answered with gzip itself. A server that then cannot read it gets the
    /// same request again, and no compressed one after that.
    pub fn compress_requests(mut self, compress: bool) -> Self {
        self.compress_requests = compress;
        self
    }

    /// Sets what has no method of its own: intervals, limits, timeouts. Applied last, in order.
    pub fn configure(mut self, configure: impl FnOnce(&mut ClientConfig) + Send + 'static) -> Self {
        self.configure.push(Box::new(configure));
        self
    }

    /// Builds the client: the handle, the events, and the driver to spawn.
    ///
    /// # Errors
    ///
    /// When the URL, a header, the TLS configuration or an option cannot work.
    pub fn build(self) -> Result<(Client, Events, Driver), Error> {
        let mut config = *self.config;
        config.state = self.state.unwrap_or_else(|| ClientState::new(InstanceUid::generate()));
        config.seed = seed();
        for configure in self.configure {
            configure(&mut config);
        }
        if let Some(effective) = &mut config.effective_config {
            self.redaction.apply(effective);
        }
        let mut headers = http::HeaderMap::new();
        for (name, value) in &self.headers {
            append_header(&mut headers, name, value)?;
        }
        let base = Base {
            endpoint: Endpoint::parse(&self.url)?,
            transport: self.transport,
            headers,
            provider: self.header_provider,
            proxy: self.proxy.clone(),
            max_redirects: self.max_redirects,
            compress_requests: self.compress_requests,
            #[cfg(feature = "tls")]
            tls: self.tls,
            limits: config.limits,
            times: Times::of(&config),
        };
        let servers = Servers::new(base)?;
        config.transport = servers.transport();
        config.endpoint = self.url.into();
        let mailbox = Arc::new(Mailbox::new(&config, self.redaction));
        #[cfg(feature = "packages")]
        let has_store = self.packages.is_some();
        #[cfg(not(feature = "packages"))]
        let has_store = false;
        if config.packages.is_some() && !has_store {
            let message = "packages need a store: set them up with Builder::packages";
            return Err(Error::new(ErrorKind::Config, message));
        }
        #[cfg(feature = "csr")]
        let seed = config.seed;
        #[expect(clippy::disallowed_methods, reason = "the driver reads the clock for the core")]
        let core = ClientCore::new(config, Instant::now())
            .map_err(|error| Error::with_source(ErrorKind::Config, error.to_string(), error))?;
        let (status_sender, status) = watch::channel(Status::of(&core));
        // One place: an offer that waits there longer than that is superseded in the core.
        let (event_sender, events) = mpsc::channel(1);
        let client = Client::new(Arc::clone(&mailbox), status);
        let driver = Driver::new(core, servers, self.store, mailbox, status_sender, event_sender);
        #[cfg(feature = "csr")]
        let driver = driver.renewing(seed);
        #[cfg(feature = "packages")]
        let driver = match self.packages {
            Some(packages) => driver.with_packages(Warehouse::new(&packages, &self.proxy)?),
            None => driver,
        };
        Ok((client, Events::new(events), driver))
    }
}

/// Jitter has to differ between agents; the random part of a UUID does.
fn seed() -> u64 {
    let uid = InstanceUid::generate();
    let [.., a, b, c, d, e, f, g, h] = *uid.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
