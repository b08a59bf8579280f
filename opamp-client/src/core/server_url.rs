//! The URL of a server, as far as the core has to know it.

use std::fmt;

use super::config::Transport;

/// A server's URL. `Debug` leaves out what may be secret: user, password, query and fragment.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The URL as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both mean the same server, however they are written: with or without the port of the
    /// scheme and the path that are used where there is none (NET-03, A28).
    pub(super) fn means_the_same_as(&self, other: &Self) -> bool {
        self == other || matches!((self.plain(), other.plain()), (Some(a), Some(b)) if a == b)
    }

    fn plain(&self) -> Option<String> {
        let scheme = Scheme::of(&self.0)?;
        let (name, rest) = self.0.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let authority = authority.to_ascii_lowercase();
        let port = if scheme.secure { ":443" } else { ":80" };
        let authority = authority.strip_suffix(port).unwrap_or(&authority);
        let name = name.to_ascii_lowercase();
        let path = path.split('#').next().unwrap_or(path);
        let default = if path.starts_with('/') { "" } else { DEFAULT_PATH };
        Some(format!("{name}://{authority}{default}{path}"))
    }
}

/// The path of a URL that has none (NET-03).
const DEFAULT_PATH: &str = "/v1/opamp";

impl From<String> for ServerUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for ServerUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password may contain anything, and a query an at sign: rather too much is hidden.
        let end = self.0.find(['?', '#']).unwrap_or(self.0.len());
        let (head, tail) = self.0.split_at(end);
        match head.rsplit_once('@') {
            _ if tail.contains('@') => f.write_str("\"(redacted)\""),
            Some((_, shown)) => fmt::Debug::fmt(shown, f),
            None => fmt::Debug::fmt(head, f),
        }
    }
}

/// What the scheme of a URL says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scheme {
    pub(super) transport: Transport,
    pub(super) secure: bool,
}

impl Scheme {
    pub(super) fn of(url: &str) -> Option<Self> {
        let (scheme, _) = url.split_once("://")?;
        let (transport, secure) = match scheme.to_ascii_lowercase().as_str() {
            "ws" => (Transport::WebSocket, false),
            "wss" => (Transport::WebSocket, true),
            "http" => (Transport::Http, false),
            "https" => (Transport::Http, true),
            _ => return None,
        };
        Some(Self { transport, secure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_server_may_be_written_in_many_ways() {
        let _judged = opamp_spec::judges(&["NET-03"]);
        let same = |a: &str, b: &str| ServerUrl::from(a).means_the_same_as(&ServerUrl::from(b));
        for other in ["WSS://H", "wss://h:443", "wss://h/v1/opamp", "wss://h:443/v1/opamp#x"] {
            assert!(same("wss://h", other), "{other}");
        }
        assert!(same("ws://[::1]:80?a=b", "ws://[::1]/v1/opamp?a=b"));
        for other in ["ws://h", "https://h", "wss://h/", "wss://h:80", "wss://h/v1/opamp?a", "h"] {
            assert!(!same("wss://h", other), "{other}");
        }
        assert!(same("", ""));
    }

    #[test]
    fn nothing_secret_is_shown() {
        for url in [
            "wss://user:secret@h/v1?token=secret",
            "wss://user:sec?secret@h/v1#secret",
            "wss://h/v1?token=secret@secret#secret",
        ] {
            let shown = format!("{:?}", ServerUrl::from(url));
            assert!(!shown.contains("secret"), "{shown}");
        }
        assert_eq!(format!("{:?}", ServerUrl::from("wss://h/v1?a=b")), "\"wss://h/v1\"");
    }
}
