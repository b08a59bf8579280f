//! Where the server is.

use http::Uri;

use crate::core::Transport;
use crate::error::{Error, ErrorKind};

const DEFAULT_PATH: &str = "/v1/opamp";

/// A server's address, in the forms the two transports need.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    websocket: bool,
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port as given, for the request line and the Host header.
    authority: String,
    path_and_query: String,
}

impl Endpoint {
    /// Reads a `ws`, `wss`, `http` or `https` URL. Without a port it means the scheme's port (A28),
    /// without a path `/v1/opamp` (NET-03).
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::new(ErrorKind::Url, format!("the server's URL {why}"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(wrong("has no scheme: write ws://, wss://, http:// or https://"));
        };
        let (websocket, secure) = match scheme.to_ascii_lowercase().as_str() {
            "ws" => (true, false),
            "wss" => (true, true),
            "http" => (false, false),
            "https" => (false, true),
            _ => return Err(wrong("has another scheme than ws, wss, http or https")),
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if authority.contains('@') {
            return Err(wrong("has credentials in it: give them as an Authorization header"));
        }
        let path_and_query = match tail.chars().next() {
            None => DEFAULT_PATH.to_owned(),
            Some('?') => format!("{DEFAULT_PATH}{tail}"),
            Some(_) => tail.to_owned(),
        };
        let normal: Uri =
            format!("http://{authority}{path_and_query}").parse().map_err(|error| {
                Error::with_source(ErrorKind::Url, "the server's URL cannot be read", error)
            })?;
        let host = normal.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("names no host"))?;
        // An IPv6 literal is bracketed in a URL and bare everywhere else.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let default_port = if secure { 443 } else { 80 };
        let port = normal.port_u16().unwrap_or(default_port);
        Ok(Self { websocket, secure, host, port, authority: authority.to_owned(), path_and_query })
    }

    /// The transport that the scheme asks for.
    pub(crate) fn transport(&self) -> Transport {
        if self.websocket { Transport::WebSocket } else { Transport::Http }
    }

    #[cfg(feature = "ws")]
    pub(super) fn websocket_url(&self) -> String {
        self.url(if self.secure { "wss" } else { "ws" })
    }

    #[cfg(feature = "http")]
    pub(super) fn http_url(&self) -> String {
        self.url(if self.secure { "https" } else { "http" })
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

/// A query may hold a token: it is not for logs.
impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_path_or_port_gets_the_defaults() {
        let _judged = opamp_spec::judges(&["NET-03", "NET-04"]);
        let endpoint = Endpoint::parse("wss://example.com").unwrap();
        assert_eq!((endpoint.port, endpoint.secure), (443, true));
        assert_eq!(endpoint.url("wss"), "wss://example.com/v1/opamp");
        assert_eq!(endpoint.transport(), Transport::WebSocket);

        let endpoint = Endpoint::parse("HTTP://[::1]:4320/other?tenant=a").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 4320));
        assert_eq!(endpoint.url("http"), "http://[::1]:4320/other?tenant=a");
        assert_eq!(endpoint.transport(), Transport::Http);

        assert_eq!(Endpoint::parse("ws://h/").unwrap().url("ws"), "ws://h/");
        assert_eq!(Endpoint::parse("ws://h?a=b").unwrap().url("ws"), "ws://h/v1/opamp?a=b");
    }

    #[test]
    fn a_wrong_url_is_refused_with_what_to_do() {
        for (url, hint) in [
            ("example.com:4320", "no scheme"),
            ("ftp://example.com", "another scheme"),
            ("ws://", "cannot be read"),
            ("ws://user:secret@example.com", "Authorization"),
            ("http://exa mple.com", "cannot be read"),
        ] {
            let error = Endpoint::parse(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Url);
            assert!(error.to_string().contains(hint), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
