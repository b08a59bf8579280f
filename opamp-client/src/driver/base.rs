//! What an agent was started with, and what becomes of it with settings of the server on top.
//!
//! ```text
//!   Base (endpoint, headers, TLS, proxy) ──┐
//!                                          ├──► Connector: one server, one identity, one pool
//!   settings in force, or a candidate ─────┘
//! ```
//!
//! A connector holds nothing that outlives its settings: TLS sessions, idle connections and what
//! was learned of the server go with it, so a rotated certificate is in use with the next
//! connector.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use opamp_proto::{MessageLimits, v1};

use super::connector::Connector;
use super::endpoint::Endpoint;
use super::headers::{HeaderProvider, HeaderSource};
use super::proxy::Proxy;
use crate::core::{ClientConfig, Failure, FailureKind, Transport};
use crate::error::{Error, ErrorKind};
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// What an agent was started with.
pub(crate) struct Base {
    pub(crate) endpoint: Endpoint,
    /// The transport, where the scheme of the endpoint is not to choose it.
    pub(crate) transport: Option<Transport>,
    pub(crate) headers: http::HeaderMap,
    pub(crate) provider: Option<Arc<dyn HeaderProvider>>,
    pub(crate) proxy: Proxy,
    pub(crate) max_redirects: u8,
    pub(crate) compress_requests: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Tls,
    pub(crate) limits: MessageLimits,
    pub(crate) times: Times,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// To have a connection, and without any progress on it.
    pub(super) connect: Duration,
    /// Without progress in writing to an open WebSocket.
    #[cfg_attr(not(feature = "ws"), expect(dead_code, reason = "only a WebSocket stays open"))]
    pub(super) write: Duration,
}

impl Times {
    pub(crate) fn of(config: &ClientConfig) -> Self {
        // No wait is meant to be longer than a year, and the clock need not reach further.
        let bounded = |time: Duration| time.min(Duration::from_secs(365 * 86_400));
        Self { connect: bounded(config.connect_timeout), write: bounded(config.ping_timeout) }
    }
}

/// Where and how to connect: a base with settings on top.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) transport: Transport,
    pub(super) headers: HeaderSource,
    pub(super) proxy: Proxy,
    pub(super) max_redirects: u8,
    #[cfg_attr(not(feature = "http"), expect(dead_code, reason = "a matter of plain HTTP"))]
    pub(super) compress_requests: bool,
    #[cfg(feature = "tls")]
    pub(super) tls: Tls,
    pub(super) limits: MessageLimits,
    pub(super) times: Times,
}

impl Base {
    /// The connector for these settings in force, or for what the agent was started with. Settings
    /// with which none can be built cannot be connected with either: this is also the check of a
    /// candidate. It reads the system's trust store where that is trusted, and makes no connection.
    ///
    /// Whether settings may come into force at all (less secure ones, for example) is not decided
    /// here.
    pub(crate) fn connector(
        &self,
        settings: Option<&v1::OpAmpConnectionSettings>,
    ) -> Result<Connector, Failure> {
        self.try_connector(settings).map_err(|error| failure(&error))
    }

    pub(crate) fn try_connector(
        &self,
        settings: Option<&v1::OpAmpConnectionSettings>,
    ) -> Result<Connector, Error> {
        Connector::new(self.target(settings)?)
    }

    fn target(&self, settings: Option<&v1::OpAmpConnectionSettings>) -> Result<Target, Error> {
        let mut target = Target {
            endpoint: self.endpoint.clone(),
            transport: self.transport.unwrap_or(self.endpoint.transport()),
            headers: HeaderSource::new(self.headers.clone(), self.provider.clone()),
            proxy: self.proxy.clone(),
            max_redirects: self.max_redirects,
            compress_requests: self.compress_requests,
            #[cfg(feature = "tls")]
            tls: self.tls.clone(),
            limits: self.limits,
            times: self.times,
        };
        let Some(settings) = settings else {
            return Ok(target);
        };
        if !settings.destination_endpoint.is_empty() {
            target.endpoint = Endpoint::parse(&settings.destination_endpoint)?;
            // The server repeats the endpoint in use: that is no wish for another transport.
            if target.endpoint.transport() != self.endpoint.transport() {
                target.transport = target.endpoint.transport();
            }
        }
        if let Some(offered) = &settings.headers {
            target.headers = HeaderSource::offered(offered)?;
        }
        if let Some(offered) = &settings.proxy {
            target.proxy = Proxy::offered(offered)?;
        }
        #[cfg(feature = "tls")]
        {
            target.tls =
                self.tls.with_offered(settings.tls.as_ref(), settings.certificate.as_ref())?;
        }
        #[cfg(not(feature = "tls"))]
        if settings.tls.is_some() || settings.certificate.is_some() {
            let message = "TLS settings need the feature \"tls\" of opamp-client";
            return Err(Error::new(ErrorKind::Feature, message));
        }
        Ok(target)
    }
}

impl Target {
    /// Refuses what this build cannot do.
    pub(super) fn check_features(&self) -> Result<(), Error> {
        let secure = self.endpoint.secure || self.proxy.is_secure();
        let missing = match self.transport {
            Transport::WebSocket if !cfg!(feature = "ws") => Some("ws"),
            Transport::Http if !cfg!(feature = "http") => Some("http"),
            _ if secure && !cfg!(feature = "tls") => Some("tls"),
            _ => None,
        };
        match missing {
            None => Ok(()),
            Some(feature) => {
                let message = format!("this URL needs the feature {feature:?} of opamp-client");
                Err(Error::new(ErrorKind::Feature, message))
            }
        }
    }
}

/// The whole story in one line, for the status that the server sees.
pub(super) fn failure(error: &Error) -> Failure {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Failure { kind: FailureKind::Configuration, message }
}

#[cfg(all(test, feature = "ws", feature = "http", feature = "tls"))]
mod tests {
    use super::*;
    use crate::core::ClientState;

    fn base(url: &str, transport: Option<Transport>) -> Base {
        let uid = opamp_proto::InstanceUid::from_bytes([1; 16]);
        let config = ClientConfig::new(ClientState::new(uid), v1::AgentDescription::default());
        Base {
            endpoint: Endpoint::parse(url).unwrap(),
            transport,
            headers: http::HeaderMap::new(),
            provider: None,
            proxy: Proxy::none(),
            max_redirects: 5,
            compress_requests: true,
            tls: Tls::new().min_version(crate::tls::TlsVersion::Tls13),
            limits: config.limits,
            times: Times::of(&config),
        }
    }

    fn to(url: &str) -> v1::OpAmpConnectionSettings {
        v1::OpAmpConnectionSettings { destination_endpoint: url.to_owned(), ..Default::default() }
    }

    #[test]
    fn the_scheme_of_an_offered_endpoint_chooses_the_transport() {
        let transport = |base: &Base, url: &str| {
            let settings = to(url);
            base.target(Some(&settings)).unwrap().transport
        };
        let plain = base("ws://one.example", None);
        assert_eq!(transport(&plain, ""), Transport::WebSocket);
        assert_eq!(transport(&plain, "http://two.example"), Transport::Http);
        assert_eq!(transport(&plain, "wss://two.example"), Transport::WebSocket);
        // The server repeats the endpoint as it knows it, whatever the user made of it.
        let chosen = base("ws://one.example", Some(Transport::Http));
        assert_eq!(transport(&chosen, "ws://one.example/v1/opamp"), Transport::Http);
        assert_eq!(transport(&chosen, "https://one.example"), Transport::Http);
        let chosen = base("http://one.example", Some(Transport::WebSocket));
        assert_eq!(transport(&chosen, "http://one.example"), Transport::WebSocket);
    }

    #[test]
    fn what_settings_leave_out_is_as_the_agent_was_started() {
        let base = base("wss://one.example:1/path", None);
        let target = base.target(Some(&v1::OpAmpConnectionSettings::default())).unwrap();
        assert!(target.endpoint == base.endpoint);
        assert_eq!(format!("{:?}", target.tls), format!("{:?}", base.tls));
        assert_eq!(format!("{:?}", target.proxy), "Proxy(none)");
        let proxy = v1::ProxyConnectionSettings { url: "p:1".to_owned(), ..Default::default() };
        let settings = v1::OpAmpConnectionSettings { proxy: Some(proxy), ..to("") };
        let target = base.target(Some(&settings)).unwrap();
        assert_eq!(format!("{:?}", target.proxy), "Proxy(http://p:1)");
    }

    #[test]
    fn what_cannot_be_used_says_why_in_one_line() {
        let base = base("wss://one.example", None);
        let failure = base.connector(Some(&to("gopher://two.example/?token=secret")));
        let failure = failure.err().unwrap();
        assert_eq!(failure.kind, FailureKind::Configuration);
        assert!(failure.message.contains("another scheme"), "{}", failure.message);
        assert!(!failure.message.contains("secret"), "{}", failure.message);
        // The agent insists on more than the offer allows.
        let tls = v1::TlsConnectionSettings { max_version: "1.2".to_owned(), ..Default::default() };
        let settings = v1::OpAmpConnectionSettings { tls: Some(tls), ..to("") };
        let failure = base.connector(Some(&settings)).err().unwrap();
        assert!(failure.message.contains("at least 1.3, at most 1.2"), "{}", failure.message);
    }
}
