//! An agent whose configuration is a YAML file.
//!
//! It does no work worth the name: what it shows is how an agent is managed. It reports what it is,
//! how it fares and what it runs; takes a remote configuration, or refuses it with the reason;
//! restarts when it is told to; follows its server to other addresses and credentials, and comes
//! back where that does not work; and keeps its identity and all that over restarts of the process.

mod args;
mod components;
mod config;
mod description;
mod hooks;
mod news;
mod otlp;
mod packages;
mod process;
mod state;
mod telemetry;
mod work;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opamp_client::core::{ConnectionSettingsOffer, Event, RemoteConfigOffer};
use opamp_client::packages::{PackageOffer, PackageRemoval};
use opamp_client::{Client, ErrorKind, Events, FileStore};
use opamp_proto::{InstanceUid, v1};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use self::args::{AgentArgs, Attribute, Header, TransportChoice};
pub use self::news::News;

use self::config::Config;
use self::hooks::{Answer, Asked, Hooks};
use self::packages::Installation;
use self::state::StateDir;
use self::telemetry::{Destination, Exporter};
use self::work::Work;
use crate::program::Failure;

/// A running agent. Nothing happens to it until it is [run](Self::run).
#[derive(Debug)]
pub struct Agent {
    args: AgentArgs,
    client: Client,
    events: Events,
    driver: JoinHandle<()>,
    /// Locked as long as the agent runs.
    _state: Option<StateDir>,
    config: Config,
    packages: Option<Installation>,
    work: Work,
    reload: Option<mpsc::Receiver<()>>,
    hooks: Option<Hooks>,
    /// Exports the agent's own metrics, where the server wants them.
    exporter: Option<Exporter>,
    started: SystemTime,
}

impl Agent {
    /// Reads what the agent kept, and starts to connect. Has to be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the arguments cannot work.
    pub async fn start(args: AgentArgs) -> Result<Self, Failure> {
        let state = args.state.as_deref().map(StateDir::open).transpose()?;
        let config = Config::open(args.config.clone(), args.state.clone())?;
        let work = Work::start(config.failing(), SystemTime::now());

        let mut builder = Client::builder(&args.server)
            .state(args.new_client_state())
            .health(work.health())
            .effective_config(config.effective())
            .accept_remote_config()
            .accept_connection_settings()
            .accept_own_metrics()
            .accept_restart()
            .available_components(components::all())
            .custom_capabilities(args.custom_capabilities()?)
            .tls(args.tls()?);
        if let Some(dir) = &state {
            builder = builder
                .store(FileStore::new(dir.client_state_path()))
                .await
                .map_err(|error| Failure::caused_by("the agent cannot be started", error))?;
        }
        if args.csr {
            builder = builder.request_certificate();
        }
        if let Some(transport) = args.transport.transport() {
            builder = builder.transport(transport);
        }
        for Header(name, value) in &args.headers {
            builder = builder.header(name, value);
        }
        let packages = match Installation::open(&args)? {
            Some((installation, packages)) => {
                builder = builder.packages(packages);
                Some(installation)
            }
            None => None,
        };
        let (interval, attributes) = (args.heartbeat_interval, args.attributes.clone());
        let (client, events, driver) = builder
            .configure(move |config| {
                config.description = description::of(&attributes, config.state.instance_uid);
                if let Some(interval) = interval {
                    config.heartbeat_interval = Some(interval).filter(|i| !i.is_zero());
                    config.polling_interval = config.heartbeat_interval.unwrap_or(POLLING_INTERVAL);
                }
            })
            .build()
            .map_err(|error| match error.kind() {
                ErrorKind::Tls => Failure::caused_by("TLS", error),
                _ => Failure::caused_by("the agent cannot be started", error).of_usage(),
            })?;
        let kept = client.instance_uid();
        if let Some(asked) = args.instance_uid
            && asked != kept
        {
            tracing::warn!(%kept, %asked, "the instance uid kept in the state directory is used");
        }
        let driver = tokio::spawn(driver.run());
        let hooks = Hooks::at(args.hooks);
        Ok(Self {
            args,
            client,
            events,
            driver,
            _state: state,
            config,
            packages,
            work,
            reload: None,
            hooks,
            exporter: None,
            started: SystemTime::now(),
        })
    }

    /// Reads its configuration again whenever it is told so.
    #[must_use]
    pub fn reloading(self, reload: mpsc::Receiver<()>) -> Self {
        Self { reload: Some(reload), ..self }
    }

    /// The handle of the agent's client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Does what the server asks for until `stop` completes, then says goodbye. Whatever changes is
    /// passed to `tell`.
    ///
    /// # Errors
    ///
    /// When a part of the agent fails that cannot.
    pub async fn run(
        mut self,
        stop: impl Future<Output = ()>,
        mut tell: impl FnMut(News<'_>),
    ) -> Result<(), Failure> {
        tell(News::Started { instance_uid: self.client.instance_uid(), server: &self.args.server });
        if let Some(settings) = self.client.connections().own_metrics {
            match destination(settings).await {
                Ok(destination) => self.send_metrics_to(destination, &mut tell),
                Err(why) => tell(News::TelemetryFailed { why: &why }),
            }
        }
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some(event) => self.handle(event, &mut tell).await?,
                    None => break,
                },
                Some(()) = told(&mut self.reload) => self.reload(&mut tell).await?,
                asked = asked(&mut self.hooks) => self.obey(asked?, &mut tell).await?,
                () = &mut stop, if !stopping => {
                    stopping = true;
                    let client = self.client.clone();
                    tokio::spawn(async move { client.stop().await });
                }
            }
        }
        self.driver.await.map_err(|error| Failure::caused_by("the client failed", error))
    }

    async fn handle(
        &mut self,
        event: Event,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<(), Failure> {
        match event {
            Event::RemoteConfig(offer) => self.take(offer, tell).await?,
            Event::Restart => {
                self.work = Work::start(self.work.failing(), SystemTime::now());
                self.client.set_health(self.work.health());
                tell(News::Restarted { start_time: self.work.start_time() });
            }
            Event::ConnectionSettings(offer) => self.follow(offer, tell).await,
            Event::Package(offer) => self.install(offer, tell).await?,
            Event::PackageRemoval(removal) => self.remove(removal, tell).await?,
            Event::InstanceUidChanged { old, new } => {
                self.describe(new);
                tell(News::InstanceUidChanged { old, new });
            }
            Event::CustomMessage(message) => {
                tell(News::CustomMessage {
                    capability: &message.capability,
                    kind: &message.r#type,
                    len: message.data.len(),
                });
                // Nobody waits for it to arrive, but that it cannot be sent is worth a line.
                if let Err(error) = self.client.send_custom_message(message) {
                    tracing::warn!(%error, "a custom message is not sent back");
                }
            }
            other => {
                if let Some(news) = News::of(&other) {
                    tell(news);
                }
            }
        }
        Ok(())
    }

    /// Tells what the agent is, and has its telemetry say the same (TEL-14).
    fn describe(&mut self, instance_uid: InstanceUid) {
        let description = description::of(&self.args.attributes, instance_uid);
        if let Some(exporter) = self.exporter.take() {
            let destination = exporter.destination();
            let exporter = Exporter::start(destination, description.clone(), self.started);
            self.exporter = Some(exporter);
        }
        self.client.set_description(description);
    }

    /// Sends its metrics where the server wants them, or where it did before and says why.
    async fn follow(&mut self, offer: ConnectionSettingsOffer, tell: &mut impl FnMut(News<'_>)) {
        // Nothing else was announced, so nothing else is in the offer.
        let settings = offer.connections().own_metrics.clone().unwrap_or_default();
        match destination(settings).await {
            Ok(destination) => {
                self.client.resolve_connection_settings(offer.applied());
                self.send_metrics_to(destination, tell);
            }
            Err(why) => {
                self.client.resolve_connection_settings(offer.failed(&why));
                tell(News::TelemetryFailed { why: &why });
            }
        }
    }

    fn send_metrics_to(&mut self, destination: Destination, tell: &mut impl FnMut(News<'_>)) {
        tell(News::Telemetry { destination: &destination.shown() });
        let description = description::of(&self.args.attributes, self.client.instance_uid());
        // The one before ends first.
        self.exporter = None;
        let exporter = Exporter::start(Arc::new(destination), description, self.started);
        self.exporter = Some(exporter);
    }

    /// Runs what the server offers, or goes on as before and says why (CFG-21, CFG-22).
    async fn take(
        &mut self,
        offer: RemoteConfigOffer,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<(), Failure> {
        let (config, files) = (self.config.clone(), offer.config().clone());
        let outcome = tokio::task::spawn_blocking(move || config.replaced_by(files))
            .await
            .map_err(|error| Failure::caused_by("taking a configuration failed", error))?;
        let hash = offer.hash().clone();
        match outcome {
            Ok(config) => {
                self.configure(config, tell);
                self.client.resolve(offer.applied_with(self.config.effective()));
                tell(News::ConfigApplied { hash: &hash });
            }
            Err(why) => {
                self.client.resolve(offer.failed(&why));
                tell(News::ConfigFailed { hash: &hash, why: &why });
            }
        }
        Ok(())
    }

    /// Does what the conformance tester posts.
    async fn obey(&mut self, asked: Asked, tell: &mut impl FnMut(News<'_>)) -> Result<(), Failure> {
        let action = &asked.action;
        let answer = match action["hook"].as_str() {
            Some("set_health") => {
                let why = action["last_error"].as_str().filter(|why| !why.is_empty());
                let failing = (action["healthy"] != true).then(|| why.unwrap_or("no reason"));
                self.work.reconfigure(failing, SystemTime::now());
                self.client.set_health(self.work.health());
                Answer::Done
            }
            Some("set_description") => {
                let given = action["attributes"].as_object().into_iter().flatten();
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let given = given.map(|(key, value)| Attribute(key.clone(), text(value)));
                self.args.attributes.extend(given);
                self.describe(self.client.instance_uid());
                Answer::Done
            }
            Some("set_effective_config") => {
                let body = action["body"].as_str().unwrap_or_default().to_owned();
                let file = v1::AgentConfigFile { body: body.into(), ..Default::default() };
                let files = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
                let config = self.config.clone();
                let outcome = tokio::task::spawn_blocking(move || config.replaced_by(files))
                    .await
                    .map_err(|error| Failure::caused_by("taking a configuration failed", error))?;
                match outcome {
                    Ok(config) => {
                        self.configure(config, tell);
                        self.client.set_effective_config(self.config.effective());
                        Answer::Done
                    }
                    Err(why) => Answer::Refused(why),
                }
            }
            Some("request_certificate") if self.args.csr => {
                self.client.request_certificate();
                Answer::Done
            }
            _ => hooks::act(&self.client, action).unwrap_or(Answer::Unsupported),
        };
        // The tester may have gone.
        let _ = asked.answer.send(answer);
        Ok(())
    }

    /// Installs a package, or says why it cannot (PKG-16, PKG-26).
    async fn install(
        &mut self,
        offer: PackageOffer,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<(), Failure> {
        // Packages are offered to an agent that takes them only.
        let Some(installation) = self.packages.clone() else { return Ok(()) };
        let (offer, installed) = tokio::task::spawn_blocking(move || {
            let installed = installation.install(&offer);
            (offer, installed)
        })
        .await
        .map_err(|error| Failure::caused_by("installing a package failed", error))?;
        match installed {
            Ok(()) => {
                tell(News::PackageInstalled { name: offer.name(), version: offer.version() });
                self.client.resolve_package(offer.installed());
            }
            // It is told with the event that comes of it.
            Err(error) => self.client.resolve_package(offer.failed(error.to_string())),
        }
        Ok(())
    }

    /// Removes a package that is no longer offered, or says why it cannot (PKG-14).
    async fn remove(
        &mut self,
        removal: PackageRemoval,
        tell: &mut impl FnMut(News<'_>),
    ) -> Result<(), Failure> {
        let Some(installation) = self.packages.clone() else { return Ok(()) };
        let (removal, removed) = tokio::task::spawn_blocking(move || {
            let removed = installation.remove(&removal);
            (removal, removed)
        })
        .await
        .map_err(|error| Failure::caused_by("removing a package failed", error))?;
        match removed {
            Ok(()) => {
                tell(News::PackageRemoved { name: removal.name() });
                self.client.resolve_package(removal.removed());
            }
            Err(error) => self.client.resolve_package(removal.failed(error.to_string())),
        }
        Ok(())
    }

    /// Runs what somebody else wrote into the file, or goes on as before.
    async fn reload(&mut self, tell: &mut impl FnMut(News<'_>)) -> Result<(), Failure> {
        let (file, state) = (self.args.config.clone(), self.args.state.clone());
        match tokio::task::spawn_blocking(move || Config::open(file, state)).await {
            Ok(Ok(config)) => {
                self.configure(config, tell);
                self.client.set_effective_config(self.config.effective());
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the configuration is not read again");
                Ok(())
            }
            Err(error) => Err(Failure::caused_by("reading the configuration failed", error)),
        }
    }

    fn configure(&mut self, config: Config, tell: &mut impl FnMut(News<'_>)) {
        self.config = config;
        if self.work.reconfigure(self.config.failing(), SystemTime::now()) {
            self.client.set_health(self.work.health());
            tell(News::Health { failing: self.work.failing() });
        }
    }
}

async fn destination(settings: v1::TelemetryConnectionSettings) -> Result<Destination, String> {
    tokio::task::spawn_blocking(move || Destination::of(&settings))
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
}

/// Waits until it is asked for something.
async fn asked(hooks: &mut Option<Hooks>) -> Result<Asked, Failure> {
    match hooks {
        Some(hooks) => hooks.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until it is told something.
async fn told(reload: &mut Option<mpsc::Receiver<()>>) -> Option<()> {
    match reload {
        Some(reload) => reload.recv().await,
        None => std::future::pending().await,
    }
}

/// Where heartbeats are turned off, an HTTP agent still has to ask now and then (HTTP-07).
const POLLING_INTERVAL: Duration = Duration::from_secs(30);
