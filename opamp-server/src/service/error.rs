//! Errors of the listener.

use std::fmt;

use super::BoxError;

/// Why a server could not be started.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    source: BoxError,
}

/// The kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The address cannot be listened on.
    Bind,
    /// The certificates, the key or the authorities are not usable.
    Tls,
    /// The certificate or the key of a certificate authority is not usable.
    Authority,
    /// The stored state cannot be loaded.
    Store,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind, source: source.into() }
    }

    /// The kind of error.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            ErrorKind::Bind => "cannot listen on the address",
            ErrorKind::Tls => "unusable TLS configuration",
            ErrorKind::Authority => "unusable certificate authority",
            ErrorKind::Store => "the stored state cannot be loaded",
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}
