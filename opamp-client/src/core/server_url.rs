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
}

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
