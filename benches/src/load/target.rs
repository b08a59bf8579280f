//! Where the Server is, and over what it is reached.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use http::Uri;

/// A Server's URL: `ws://`, `wss://`, `http://` or `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host, for the certificate.
    pub(crate) host: String,
    /// Host and port as they stand in the URL.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
    /// The first address the host has.
    pub(crate) addr: SocketAddr,
    /// Over WebSocket rather than plain HTTP.
    pub(crate) websocket: bool,
    pub(crate) tls: bool,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        let (websocket, tls) = match uri.scheme_str() {
            Some("ws") => (true, false),
            Some("wss") => (true, true),
            Some("http") => (false, false),
            Some("https") => (false, true),
            _ => return Err("a URL begins with ws://, wss://, http:// or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("the URL names no host")?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let mut addrs = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|error| format!("the host {host:?} cannot be resolved: {error}"))?;
        let addr = addrs.next().ok_or_else(|| format!("the host {host:?} has no address"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host, authority: authority.as_str().to_owned(), path, addr, websocket, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_how_and_where() {
        let target: Target = "wss://127.0.0.1:4320/v1/opamp?a=b".parse().unwrap();
        assert_eq!((target.websocket, target.tls), (true, true));
        assert_eq!(target.addr, SocketAddr::from(([127, 0, 0, 1], 4320)));
        assert_eq!(target.path, "/v1/opamp?a=b");
        let target: Target = "http://[::1]/".parse().unwrap();
        assert_eq!((target.host.as_str(), target.addr.port()), ("::1", 80));
        assert!("127.0.0.1:4320".parse::<Target>().is_err());
        assert!("ftp://127.0.0.1/".parse::<Target>().is_err());
    }
}
