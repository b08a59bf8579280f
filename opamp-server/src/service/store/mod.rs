//! Where a Server keeps what has to survive a restart.
//!
//! A [`StateStore`] is a sorted map of small keys to opaque values that is written in batches, each
//! as a whole or not at all. [`FileStore`] (feature `file-store`) is one in a file, [`MemoryStore`]
//! one in memory; an application whose servers shall share a database brings its own.
//!
//! With a store, a message that changes what is known of its Agent is answered when the change is
//! safe, so what was acknowledged is known after any restart, and after an orderly one no Agent is
//! asked for its full state. Heartbeats wait for nothing: numbers and times are written now and
//! then, so after a crash the Agents that had heartbeats since are asked, at the pace of
//! [`full_state_rate`](crate::ServerConfig::full_state_rate).
//!
//! # When the store fails
//!
//! The Server goes on. Agents without news are served as ever, and so are operators; an Agent with
//! news is told UNAVAILABLE and to come again, until the store works again, as the Server must not
//! promise to remember what it may forget ([`StoreFailure`] can say otherwise). The failed batch is
//! tried again, after pauses of up to [five seconds](crate::service::store::MAX_PAUSE), for as long
//! as it takes; nothing has to be done but to mend the store. An error is logged once a minute, and
//! [`store_failures`](crate::Counters) counts.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::BoxError;
use crate::fleet::Change;

#[cfg(feature = "file-store")]
mod file;
mod memory;

#[cfg(feature = "file-store")]
pub use self::file::FileStore;
pub use self::memory::MemoryStore;

/// The longest pause before a batch that failed to be written is tried again.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Keeps what has to survive a restart.
///
/// Calls come one after the other, from one Server at a time.
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use opamp_server::fleet::Change;
/// use opamp_server::service::store::{StateStore, StoreError};
///
/// /// Writes through a cache of what others look at.
/// struct Mirrored<S> {
///     store: S,
///     writes: std::sync::atomic::AtomicU64,
/// }
///
/// impl<S: StateStore> StateStore for Mirrored<S> {
///     async fn load(
///         &self,
///         after: Option<&[u8]>,
///         max_bytes: usize,
///     ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
///         self.store.load(after, max_bytes).await
///     }
///
///     async fn save(&self, changes: Arc<[Change]>) -> Result<(), StoreError> {
///         self.writes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
///         self.store.save(changes).await
///     }
/// }
/// ```
pub trait StateStore: Send + Sync + 'static {
    /// The entries whose keys come after this one, or the first ones, in the order of their keys,
    /// which are compared as bytes: about so many bytes of them, but at least one; none at the end.
    ///
    /// # Errors
    ///
    /// The Server does not start.
    fn load(
        &self,
        after: Option<&[u8]>,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>> + Send;

    /// Makes these changes, in their order: all of them or none. When it returns they survive the
    /// loss of the process, and of power if the store is to be worth that.
    ///
    /// It is not dropped before it returns unless the runtime ends.
    ///
    /// # Errors
    ///
    /// The same changes are tried again after a pause. It does no harm if they were made.
    fn save(&self, changes: Arc<[Change]>) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl<S: StateStore> StateStore for Arc<S> {
    fn load(
        &self,
        after: Option<&[u8]>,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, Bytes)>, StoreError>> + Send {
        (**self).load(after, max_bytes)
    }

    fn save(&self, changes: Arc<[Change]>) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).save(changes)
    }
}

/// What an Agent with news is told while the store fails.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreFailure {
    /// UNAVAILABLE, and to come again: it is not promised that its news are remembered. Agents that
    /// are new are told the same.
    #[default]
    Refuse,
    /// What it is told as ever: to be served counts more. If the Server ends before the store works
    /// again, those Agents are asked for their full state after the restart.
    Acknowledge,
}

/// A store cannot be used. Its text says what to do where that is known.
#[derive(Debug)]
pub struct StoreError {
    text: String,
    source: Option<BoxError>,
}

impl StoreError {
    /// An error with this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), source: None }
    }

    /// An error with this text that another one has led to.
    #[must_use]
    pub fn caused_by(
        text: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { text: text.into(), source: Some(source.into()) }
    }
}

/// Writes the cause as well, since what helps stands there.
impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().and_then(|source| source.source())
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A store of whatever type.
pub(super) trait AnyStore: Send + Sync {
    fn load<'a>(
        &'a self,
        after: Option<&'a [u8]>,
        max_bytes: usize,
    ) -> Boxed<'a, Vec<(Bytes, Bytes)>>;

    fn save(&self, changes: Arc<[Change]>) -> Boxed<'_, ()>;
}

impl<S: StateStore> AnyStore for S {
    fn load<'a>(
        &'a self,
        after: Option<&'a [u8]>,
        max_bytes: usize,
    ) -> Boxed<'a, Vec<(Bytes, Bytes)>> {
        Box::pin(StateStore::load(self, after, max_bytes))
    }

    fn save(&self, changes: Arc<[Change]>) -> Boxed<'_, ()> {
        Box::pin(StateStore::save(self, changes))
    }
}
