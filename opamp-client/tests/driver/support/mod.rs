//! The scripted world around a client: how to start one, and the peers it meets.

pub(crate) mod certificates;
pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod proxy;
pub(crate) mod websocket;

use std::future::Future;
use std::process::Command;
use std::time::Duration;

use opamp_client::core::{ClientConfig, Event, Failure, RemoteConfigOffer};
use opamp_client::{Builder, Client, Events, Proxy};
use opamp_proto::{ServerCapabilities, v1};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

/// The byte stream under a connection, with or without TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A failsafe: what a test waits for has to come, and never takes this long.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), what).await {
        Ok(result) => result,
        Err(_) => panic!("what the test waits for never comes"),
    }
}

/// A client that tries again quickly and that neither a timeout nor the environment disturbs unless
/// a test says so.
pub(crate) fn agent(url: impl Into<String>) -> Builder {
    let builder = Client::builder(url).identifying_attribute("service.name", "scripted");
    builder.proxy(Proxy::none()).configure(|config| {
        config.backoff.initial = Duration::from_millis(10);
        config.backoff.max = Duration::from_millis(20);
        config.backoff.throttled = Duration::from_millis(30);
        config.close_timeout = Duration::from_secs(2);
    })
}

/// Sets up a client whose time is a hundredth of the default one.
pub(crate) fn quick(config: &mut ClientConfig) {
    config.heartbeat_interval = Some(Duration::from_millis(100));
    config.polling_interval = Duration::from_millis(100);
}

/// Runs a test that is ignored otherwise in a process with these variables, and without any that
/// name a proxy: the environment of a process cannot be changed safely while it has threads.
pub(crate) fn run_in_environment(test: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A client under way.
pub(crate) struct Agent {
    pub(crate) client: Client,
    pub(crate) events: Events,
    driver: JoinHandle<()>,
}

impl Agent {
    pub(crate) fn start(builder: Builder) -> Self {
        let (client, events, driver) = builder.build().unwrap();
        Self { client, events, driver: tokio::spawn(driver.run()) }
    }

    /// Takes events until one is what the test waits for.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        let mut seen = Vec::new();
        let found = async {
            while let Some(event) = self.events.next().await {
                seen.push(event.clone());
                if let Some(found) = wanted(event) {
                    return Some(found);
                }
            }
            None
        };
        match tokio::time::timeout(Duration::from_secs(20), found).await {
            Ok(Some(found)) => found,
            _ => panic!("the event never comes, after {seen:#?}"),
        }
    }

    /// The next offer of a configuration.
    pub(crate) async fn offer(&mut self) -> RemoteConfigOffer {
        self.until(|event| match event {
            Event::RemoteConfig(offer) => Some(offer),
            _ => None,
        })
        .await
    }

    /// The next failure to connect or to make an exchange, and the wait after it.
    pub(crate) async fn failure(&mut self) -> (Failure, Duration) {
        self.until(|event| match event {
            Event::ConnectFailed { failure, retry_in } => Some((failure, retry_in)),
            _ => None,
        })
        .await
    }

    /// Why the established connection is over.
    pub(crate) async fn disconnected(&mut self) -> String {
        self.until(|event| match event {
            Event::Disconnected { reason } => Some(reason),
            _ => None,
        })
        .await
    }

    /// The driver has ended by itself, without a panic.
    pub(crate) async fn ended(self) {
        drop(self.events);
        soon(self.driver).await.unwrap();
    }

    /// The driver is dropped, as when the application's runtime goes down.
    pub(crate) async fn abort_driver(&mut self) {
        self.driver.abort();
        assert!(soon(&mut self.driver).await.unwrap_err().is_cancelled());
    }
}

/// A reply that says nothing but that the report came.
pub(crate) fn reply_to(report: &v1::AgentToServer) -> v1::ServerToAgent {
    v1::ServerToAgent {
        instance_uid: report.instance_uid.clone(),
        capabilities: (ServerCapabilities::ACCEPTS_STATUS
            | ServerCapabilities::OFFERS_REMOTE_CONFIG
            | ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG)
            .to_wire(),
        ..Default::default()
    }
}

/// A reply with an offer of one unnamed file.
pub(crate) fn offer_to(
    report: &v1::AgentToServer,
    body: impl Into<bytes::Bytes>,
    hash: &'static str,
) -> v1::ServerToAgent {
    v1::ServerToAgent { remote_config: Some(remote_config(body, hash)), ..reply_to(report) }
}

pub(crate) fn remote_config(
    body: impl Into<bytes::Bytes>,
    hash: &'static str,
) -> v1::AgentRemoteConfig {
    v1::AgentRemoteConfig {
        config: Some(config_map(body)),
        config_hash: bytes::Bytes::from_static(hash.as_bytes()),
    }
}

pub(crate) fn effective(body: impl Into<bytes::Bytes>) -> v1::EffectiveConfig {
    v1::EffectiveConfig { config_map: Some(config_map(body)) }
}

fn config_map(body: impl Into<bytes::Bytes>) -> v1::AgentConfigMap {
    let file = v1::AgentConfigFile { body: body.into(), ..Default::default() };
    v1::AgentConfigMap { config_map: [(String::new(), file)].into() }
}

pub(crate) fn healthy(status: &str) -> v1::ComponentHealth {
    v1::ComponentHealth { healthy: true, status: status.to_owned(), ..Default::default() }
}

/// Whether a message has nothing but what every message has.
pub(crate) fn is_bare(message: &v1::AgentToServer) -> bool {
    *message
        == v1::AgentToServer {
            instance_uid: message.instance_uid.clone(),
            sequence_num: message.sequence_num,
            capabilities: message.capabilities,
            ..Default::default()
        }
}
