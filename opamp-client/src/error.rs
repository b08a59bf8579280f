//! Why a client could not be built.

use std::error::Error as StdError;
use std::fmt;

/// A client could not be built. Once it runs, nothing fails: what goes wrong is an
/// [`Event`](crate::core::Event), and is tried again.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URL of the server is not usable.
    Url,
    /// A header's name or value is not legal.
    Header,
    /// A certificate, a key or the system's trust store is not usable.
    Tls,
    /// An option of the client cannot work.
    Config,
    /// What an earlier process saved cannot be loaded.
    Store,
    /// The URL needs a feature that this build leaves out.
    Feature,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn with_source(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// What class of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the same call may work later: only a store can be out of order for a while, no other
    /// error of building a client goes away by itself.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind == ErrorKind::Store
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}
