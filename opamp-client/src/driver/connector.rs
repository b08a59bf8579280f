//! What it takes to reach one server with one set of settings.

use super::base::{Target, failure};
use super::endpoint::Endpoint;
use super::proxy::Route;
use crate::core::{Failure, Transport};
use crate::error::Error;

/// What a TLS connection is made with.
#[cfg(feature = "tls")]
pub(super) type TlsConfig = std::sync::Arc<rustls::ClientConfig>;
/// There is none in this build.
#[cfg(not(feature = "tls"))]
pub(super) type TlsConfig = std::sync::Arc<()>;

/// Reaches one server, over one transport, as one identity.
pub(crate) struct Connector {
    transport: Transport,
    #[cfg(feature = "ws")]
    pub(super) websocket: Option<super::websocket::Dialer>,
    #[cfg(feature = "http")]
    pub(super) http: Option<super::http::Exchanger>,
}

impl Connector {
    pub(super) fn new(target: Target) -> Result<Self, Error> {
        target.check_features()?;
        let transport = target.transport;
        Ok(Self {
            transport,
            #[cfg(feature = "ws")]
            websocket: match transport {
                Transport::WebSocket => Some(super::websocket::Dialer::new(target.clone())?),
                Transport::Http => None,
            },
            #[cfg(feature = "http")]
            http: match transport {
                Transport::Http => Some(super::http::Exchanger::new(target)?),
                Transport::WebSocket => None,
            },
        })
    }

    /// Whether a new one would have other certificates.
    pub(super) fn is_stale(&self) -> bool {
        #[cfg(feature = "ws")]
        if let Some(dialer) = &self.websocket {
            return dialer.is_stale();
        }
        #[cfg(feature = "http")]
        if let Some(exchanger) = &self.http {
            return exchanger.is_stale();
        }
        false
    }

    /// The transport that its settings ask for.
    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }
}

/// The TLS configurations of one connector.
///
/// The client certificate is for the configured server and for proxies, which no server chooses but
/// by an offer. Where a redirect has led to another server, a configuration without it is made,
/// with a memory of TLS sessions of its own. Over HTTP the library has one configuration for both:
/// there a proxy that wants the certificate lets no redirect to another origin pass.
pub(super) struct Credentials {
    #[cfg(feature = "tls")]
    settings: crate::tls::Tls,
    #[cfg(feature = "tls")]
    stamp: crate::tls::Stamp,
    own: Option<TlsConfig>,
}

impl Credentials {
    /// Makes what will be needed, so that unusable settings show at once.
    #[cfg(feature = "tls")]
    pub(super) fn of(target: &Target) -> Result<Self, Error> {
        let needed = target.endpoint.secure || target.proxy.is_secure();
        // Before the files are read: a change after that is seen later.
        let stamp = target.tls.stamp();
        let own = needed.then(|| target.tls.config()).transpose()?;
        Ok(Self { settings: target.tls.clone(), stamp, own })
    }

    /// Whether files of certificates have changed since these were made.
    #[cfg(feature = "tls")]
    pub(super) fn are_stale(&self) -> bool {
        self.own.is_some() && self.settings.stamp() != self.stamp
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn are_stale(&self) -> bool {
        false
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn of(_: &Target) -> Result<Self, Error> {
        Ok(Self { own: None })
    }

    /// What to use for this server; `None` where it needs no TLS.
    #[cfg(feature = "ws")]
    pub(super) fn for_server(
        &self,
        endpoint: &Endpoint,
        abroad: bool,
    ) -> Result<Option<TlsConfig>, Failure> {
        self.where_needed(endpoint.secure, abroad)
    }

    /// What to use for the proxy; `None` where it needs no TLS.
    #[cfg(feature = "ws")]
    pub(super) fn for_proxy(&self, route: Option<&Route>) -> Result<Option<TlsConfig>, Failure> {
        self.where_needed(route.is_some_and(Route::is_secure), false)
    }

    /// What to use for both; `None` where neither needs TLS.
    #[cfg(feature = "http")]
    pub(super) fn for_all(
        &self,
        endpoint: &Endpoint,
        route: Option<&Route>,
        abroad: bool,
    ) -> Result<Option<TlsConfig>, Failure> {
        self.where_needed(endpoint.secure || route.is_some_and(Route::is_secure), abroad)
    }

    fn where_needed(&self, needed: bool, abroad: bool) -> Result<Option<TlsConfig>, Failure> {
        match &self.own {
            _ if !needed => Ok(None),
            Some(_) if !abroad => Ok(self.own.clone()),
            _ => self.make(abroad).map(Some),
        }
    }

    #[cfg(feature = "tls")]
    fn make(&self, abroad: bool) -> Result<TlsConfig, Failure> {
        let made = if abroad { self.settings.anonymous().config() } else { self.settings.config() };
        made.map_err(|error| failure(&error))
    }

    #[cfg(not(feature = "tls"))]
    fn make(&self, _: bool) -> Result<TlsConfig, Failure> {
        let message = "this URL needs the feature \"tls\" of opamp-client";
        Err(failure(&Error::new(crate::error::ErrorKind::Feature, message)))
    }
}

/// What `Retry-After` says, as a wait from now: seconds, or a date (THR-08 to THR-10).
pub(super) fn retry_after(headers: &http::HeaderMap) -> Option<std::time::Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(std::time::Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    #[expect(clippy::disallowed_methods, reason = "a date is only a wait with a clock")]
    let now = std::time::SystemTime::now();
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let _judged = opamp_spec::judges(&["THR-09", "THR-10"]);
        let parse = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("-1"), None);
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        #[expect(clippy::disallowed_methods, reason = "the date has to be in the future")]
        let date = std::time::SystemTime::now() + Duration::from_secs(100);
        let wait = parse(&httpdate::fmt_http_date(date)).unwrap();
        assert!(wait > Duration::from_secs(90) && wait <= Duration::from_secs(100), "{wait:?}");
    }
}
