//! What it takes to reach the server, fixed for the life of a client.

#[cfg(feature = "tls")]
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};

use super::endpoint::Endpoint;
use crate::core::{ClientConfig, Transport};
use crate::error::{Error, ErrorKind};

pub(crate) struct Connector {
    #[cfg(feature = "ws")]
    pub(super) websocket: super::websocket::Dialer,
    #[cfg(feature = "http")]
    pub(super) http: Option<super::http::Exchanger>,
}

impl Connector {
    pub(crate) fn new(
        endpoint: Endpoint,
        headers: Vec<(HeaderName, HeaderValue)>,
        config: &ClientConfig,
        #[cfg(feature = "tls")] tls: Option<Arc<rustls::ClientConfig>>,
    ) -> Result<Self, Error> {
        let missing = match config.transport {
            Transport::WebSocket if !cfg!(feature = "ws") => Some("ws"),
            Transport::Http if !cfg!(feature = "http") => Some("http"),
            _ if endpoint.secure && !cfg!(feature = "tls") => Some("tls"),
            _ => None,
        };
        if let Some(feature) = missing {
            let message = format!("this URL needs the feature {feature:?} of opamp-client");
            return Err(Error::new(ErrorKind::Feature, message));
        }
        #[cfg(feature = "tls")]
        let tls = match tls {
            Some(tls) => Some(tls),
            None if endpoint.secure => Some(crate::tls::Tls::new().config()?),
            None => None,
        };
        Ok(Self {
            #[cfg(feature = "http")]
            http: match config.transport {
                Transport::Http => Some(super::http::Exchanger::new(
                    &endpoint,
                    &headers,
                    config,
                    #[cfg(feature = "tls")]
                    tls.clone(),
                )?),
                Transport::WebSocket => None,
            },
            #[cfg(feature = "ws")]
            websocket: super::websocket::Dialer::new(
                endpoint,
                headers,
                config,
                #[cfg(feature = "tls")]
                tls,
            )?,
        })
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
