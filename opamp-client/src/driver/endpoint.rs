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

    /// Whether credentials for one are also for the other.
    pub(super) fn same_origin(&self, other: &Self) -> bool {
        self.secure == other.secure
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(&other.host)
    }

    /// Where a `Location` leads that was given here (RFC 3986, section 5.2). The transport stays.
    pub(super) fn join(&self, location: &str) -> Result<Self, Error> {
        let location = location.trim();
        let scheme = if self.secure { "https" } else { "http" };
        let joined = if location.split_once("://").is_some_and(|(scheme, _)| is_scheme(scheme)) {
            location.to_owned()
        } else if let Some(authority) = location.strip_prefix("//") {
            format!("{scheme}://{authority}")
        } else {
            let path = self.path_and_query.split('?').next().unwrap_or_default();
            let tail = match location.chars().next() {
                None | Some('#') => self.path_and_query.clone(),
                Some('/') => location.to_owned(),
                Some('?') => format!("{path}{location}"),
                Some(_) => {
                    let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                    format!("{folder}{location}")
                }
            };
            format!("{scheme}://{}{tail}", self.authority)
        };
        let mut next = Self::parse(&joined)?;
        next.path_and_query = without_dots(&next.path_and_query);
        next.websocket = self.websocket;
        Ok(next)
    }

    pub(super) fn http_url(&self) -> String {
        self.url(if self.secure { "https" } else { "http" })
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}{}", self.authority, self.path_and_query)
    }
}

fn is_scheme(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
}

/// Resolves `.` and `..` in a path that begins with a slash.
fn without_dots(path_and_query: &str) -> String {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    let mut kept = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if segments.peek().is_none() {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}{query}", kept.join("/"))
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
    fn a_location_is_resolved_against_where_it_was_given() {
        let base = Endpoint::parse("wss://one.example:8443/a/b?token=x").unwrap();
        for (location, url) in [
            ("https://two.example/c", "wss://two.example/c"),
            ("WSS://two.example", "wss://two.example/v1/opamp"),
            ("//two.example:1/c", "wss://two.example:1/c"),
            ("/c?d=e#f", "wss://one.example:8443/c?d=e"),
            ("c", "wss://one.example:8443/a/c"),
            ("../c/./d/..", "wss://one.example:8443/c/"),
            ("/../../c", "wss://one.example:8443/c"),
            ("?d=e", "wss://one.example:8443/a/b?d=e"),
            (
                "/login?next=http://three.example/",
                "wss://one.example:8443/login?next=http://three.example/",
            ),
            ("", "wss://one.example:8443/a/b?token=x"),
        ] {
            let next = base.join(location).unwrap();
            assert_eq!(next.websocket_url(), url, "{location}");
        }
    }

    proptest::proptest! {
        /// A location is anybody's text.
        #[test]
        fn any_location_leads_to_a_usable_url_or_is_refused(
            location in "[a-z:/?#.%@\\[\\] \\PC]{0,40}",
        ) {
            let base = Endpoint::parse("https://one.example/a/b").unwrap();
            if let Ok(next) = base.join(&location) {
                let again = Endpoint::parse(&next.http_url()).unwrap();
                assert_eq!((again.host, again.port), (next.host, next.port));
                assert!(next.path_and_query.starts_with('/'), "{}", next.path_and_query);
            }
        }
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
