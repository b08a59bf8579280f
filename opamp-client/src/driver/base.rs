//! What an agent was started with, and what becomes of it with settings of the server on top.
//!
//! ```text
//!   Base (endpoint, headers, TLS, proxy) ──┐
//!                                          ├──► Connector: one server, one identity, one pool
//!   settings in force, or a candidate ─────┘
//! ```
//!
//! A connector holds nothing that outlives its settings: TLS sessions, idle connections and what was
//! learned of the server go with it, so a rotated certificate is in use with the next connector.

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
