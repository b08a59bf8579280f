//! Where a server is: the four schemes of OpAMP.

use std::fmt;
use std::str::FromStr;

use crate::report::Transport;

/// A ws, wss, http or https URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// The transport its scheme stands for.
    pub transport: Transport,
    /// Whether it asks for TLS.
    pub tls: bool,
    /// The host, IPv6 addresses in brackets.
    pub host: String,
    /// The port, that of the scheme where the URL gives none.
    pub port: u16,
    /// Path and query; `/v1/opamp` where the URL gives none (NET-03).
    pub target: String,
}

impl Url {
    /// The same place over the other transport, or over this one.
    #[must_use]
    pub fn over(&self, transport: Transport) -> Self {
        Self { transport, ..self.clone() }
    }

    /// Host and port as in a Host header.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.transport, self.tls) {
            (Transport::WebSocket, false) => "ws",
            (Transport::WebSocket, true) => "wss",
            (Transport::Http, false) => "http",
            (Transport::Http, true) => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: http::Uri =
            text.parse().map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let (transport, tls) = match uri.scheme_str() {
            Some("ws") => (Transport::WebSocket, false),
            Some("wss") => (Transport::WebSocket, true),
            Some("http") => (Transport::Http, false),
            Some("https") => (Transport::Http, true),
            _ => return Err(format!("{text:?} is no ws, wss, http or https URL")),
        };
        let host = uri.host().ok_or_else(|| format!("{text:?} has no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let target = match uri.path_and_query() {
            Some(target) if target.as_str() != "/" || text.ends_with('/') => target.to_string(),
            _ => "/v1/opamp".to_owned(),
        };
        Ok(Self { transport, tls, host, port, target })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_path_and_port_are_filled_in() {
        let url: Url = "wss://example.com".parse().unwrap();
        assert_eq!((url.tls, url.port, url.target.as_str()), (true, 443, "/v1/opamp"));
        assert_eq!(url.to_string(), "wss://example.com:443/v1/opamp");
        let url: Url = "http://[::1]:4320/x?y".parse().unwrap();
        assert_eq!(url.over(Transport::WebSocket).to_string(), "ws://[::1]:4320/x?y");
    }

    #[test]
    fn what_is_no_opamp_url_is_refused() {
        for wrong in ["", "127.0.0.1:4320", "ftp://x/", "ws://"] {
            assert!(wrong.parse::<Url>().is_err(), "{wrong}");
        }
    }
}
