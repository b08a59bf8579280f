//! Where an agent keeps its packages.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;

use crate::core::packages::{FileKey, PackageRecords};

/// Keeps the packages of one agent over restarts: what is remembered of them, and their files,
/// whole or not yet.
///
/// The driver loads once, saves one record at a time, and works on up to `parallel_downloads` files
/// at a time, each by one operation at a time. It never waits for the store: the connection goes on
/// meanwhile. What fails is tried again with backoff, within bounds; what takes longer than 30
/// seconds counts as failed, and may still complete.
///
/// A [`FileKey`] has a name that the server chose. It is not fit to be a part of a path as it is.
#[async_trait::async_trait]
pub trait PackageStore: Send + Sync {
    /// The records saved last; `None` for an agent that never had packages.
    ///
    /// # Errors
    ///
    /// When it cannot be known whether there is something, or what. The agent then waits with
    /// packages, and with nothing else, until it can.
    async fn load(&self) -> io::Result<Option<PackageRecords>>;

    /// Saves the records in place of those saved before: all or nothing, and so that they survive a
    /// crash of the machine when this returns. They may hold credentials.
    ///
    /// # Errors
    ///
    /// When that could not be done; what was saved before is then still there.
    async fn save(&self, records: &PackageRecords) -> io::Result<()>;

    /// What there is of a file, if anything.
    ///
    /// # Errors
    ///
    /// When that cannot be known.
    async fn find(&self, key: &FileKey) -> io::Result<Option<StoredFile>>;

    /// Begins a file anew, empty. Where its bytes come from is kept with it until it is committed,
    /// and never with bytes that came from elsewhere.
    ///
    /// # Errors
    ///
    /// When that could not be done.
    async fn start(&self, key: &FileKey, source: &FileSource) -> io::Result<()>;

    /// Adds bytes at the end of a file that was started. A crash may lose them, or make others of
    /// them: what is in the file is verified before it is used.
    ///
    /// # Errors
    ///
    /// When the file does not end at `offset`, or the bytes could not be added;
    /// [`io::ErrorKind::QuotaExceeded`] or [`io::ErrorKind::StorageFull`] when there will not be
    /// room for them: the file is then discarded.
    async fn append(&self, key: &FileKey, offset: u64, bytes: Bytes) -> io::Result<()>;

    /// Up to `len` bytes of a file from `offset` on, committed or not; none at its end.
    ///
    /// # Errors
    ///
    /// When they cannot be read.
    async fn read(&self, key: &FileKey, offset: u64, len: usize) -> io::Result<Bytes>;

    /// The file is whole and verified: it is to survive a crash of the machine when this returns,
    /// and stays as it is until it is discarded. Returns where the agent finds it. Committing again
    /// does no harm.
    ///
    /// # Errors
    ///
    /// When that could not be done.
    async fn commit(&self, key: &FileKey) -> io::Result<PathBuf>;

    /// Deletes a file, committed or not. One that is not there is deleted.
    ///
    /// # Errors
    ///
    /// When it may still be there.
    async fn discard(&self, key: &FileKey) -> io::Result<()>;

    /// Deletes all files but these.
    ///
    /// # Errors
    ///
    /// When some may still be there.
    async fn retain(&self, keys: &[FileKey]) -> io::Result<()>;
}

/// What a store has of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// How many bytes.
    pub len: u64,
    /// Where they come from; `None` when the file was committed, or when that was lost.
    pub source: Option<FileSource>,
    /// Whether it was committed.
    pub committed: bool,
}

/// Where the bytes of a file come from: what has to be the same for a download to be continued.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FileSource {
    /// The URL that the bytes came from, after redirects, without query and credentials.
    #[prost(string, tag = "1")]
    pub url: String,
    /// The strong `ETag`, or the `Last-Modified` date; empty when the server gave neither, and
    /// nothing can be continued.
    #[prost(string, tag = "2")]
    pub validator: String,
}
