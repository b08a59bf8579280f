//! What an agent remembers of its packages: one record that is saved whole, so that no stop of the
//! process, at whatever moment, leaves it half true.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use opamp_proto::{Message, v1};

use super::FileKey;
use crate::core::StateError;

/// A package the agent has.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[non_exhaustive]
#[prost(skip_debug)]
pub struct InstalledPackage {
    /// Whether it is the agent itself or an addition to it: a [`v1::PackageType`].
    #[prost(enumeration = "v1::PackageType", tag = "1")]
    pub kind: i32,
    /// Its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The server's hash of the package, opaque to the agent (PKG-31).
    #[prost(bytes = "bytes", tag = "3")]
    pub hash: Bytes,
    /// The server's hash of its file.
    #[prost(bytes = "bytes", tag = "4")]
    pub content_hash: Bytes,
    /// Whether it came from the server; only such packages are ever removed (A21).
    #[prost(bool, tag = "5")]
    pub from_server: bool,
}

impl InstalledPackage {
    /// A package that somebody installed without the server, to be listed among the others
    /// (PKG-28).
    #[must_use]
    pub fn local(kind: v1::PackageType, version: impl Into<String>) -> Self {
        Self { kind: kind.into(), version: version.into(), ..Default::default() }
    }

    /// The same with a hash, whatever a server may compare with.
    #[must_use]
    pub fn with_hash(self, hash: impl Into<Bytes>) -> Self {
        Self { hash: hash.into(), ..self }
    }

    pub(super) fn of(offered: &v1::PackageAvailable) -> Self {
        let content_hash = offered.file.as_ref().map(|file| file.content_hash.clone());
        Self {
            kind: offered.r#type,
            version: offered.version.clone(),
            hash: offered.hash.clone(),
            content_hash: content_hash.unwrap_or_default(),
            from_server: true,
        }
    }

    /// Its file, under this name.
    pub(super) fn file_of(&self, name: &str) -> FileKey {
        FileKey::new(name, &self.content_hash, &self.hash)
    }

    /// Whether it is the package of an offer: that is what the hash is for (PKG-33). From a server
    /// that gives none (PKG-68) the rest has to tell packages apart, or no version would ever
    /// replace another.
    pub(super) fn is(&self, offered: &v1::PackageAvailable) -> bool {
        if !offered.hash.is_empty() {
            return self.hash == offered.hash;
        }
        *self == Self { from_server: self.from_server, ..Self::of(offered) }
    }
}

/// Shows hashes in hexadecimal.
impl fmt::Debug for InstalledPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstalledPackage")
            .field("kind", &self.kind())
            .field("version", &self.version)
            .field("hash", &format_args!("{:x}", self.hash))
            .field("content_hash", &format_args!("{:x}", self.content_hash))
            .field("from_server", &self.from_server)
            .finish()
    }
}

/// Why a package is not what the server wants it to be.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[non_exhaustive]
pub struct PackageFailure {
    /// For the server and for a log.
    #[prost(string, tag = "1")]
    pub why: String,
    /// Whether the agent itself refused the package, or could not remove it, so that the same bytes
    /// would be refused again (PKG-67).
    #[prost(bool, tag = "2")]
    pub by_agent: bool,
}

/// Packages of one name that are remembered as perhaps there. More than one takes an agent that
/// stops while it installs, several times, each with another offer in between.
const MAX_UNANSWERED: usize = 4;

/// What is remembered of one package.
#[derive(Clone, PartialEq, prost::Message)]
#[non_exhaustive]
pub struct PackageRecord {
    /// What the agent has of that name.
    #[prost(message, optional, tag = "1")]
    pub has: Option<InstalledPackage>,
    /// What the server last offered under that name. It holds credentials.
    #[prost(message, optional, tag = "2")]
    pub offered: Option<v1::PackageAvailable>,
    /// Whether the last offer had it.
    #[prost(bool, tag = "3")]
    pub wanted: bool,
    /// Why what is wanted was not done.
    #[prost(message, optional, tag = "4")]
    pub failure: Option<PackageFailure>,
    /// How often it was handed to the agent without an outcome.
    #[prost(uint32, tag = "5")]
    pub handed_over: u32,
    /// What was handed to the agent to be installed and has no outcome, newest last: the agent may
    /// have any of them.
    #[prost(message, repeated, tag = "6")]
    pub unanswered: Vec<InstalledPackage>,
    /// How often its removal was handed to the agent without an outcome.
    #[prost(uint32, tag = "7")]
    pub removals: u32,
}

impl PackageRecord {
    /// Whether the agent has what the server offers.
    pub(super) fn is_installed(&self) -> bool {
        match (&self.has, &self.offered) {
            (Some(has), Some(offered)) => has.is(offered),
            (has, None) => has.is_some(),
            (None, Some(_)) => false,
        }
    }

    /// What the agent has, or may have, that came from the server.
    pub(super) fn server_package(&self) -> Option<&InstalledPackage> {
        match &self.has {
            Some(has) => Some(has).filter(|has| has.from_server),
            None => self.unanswered.last(),
        }
    }

    /// What the agent has, and what it may have since: their files stay.
    pub(super) fn files(&self) -> impl Iterator<Item = &InstalledPackage> {
        let has = self.has.as_ref().filter(|has| has.from_server);
        has.into_iter().chain(&self.unanswered)
    }

    /// What it would be if it were installed as offered.
    pub(super) fn as_offered(&self) -> Option<InstalledPackage> {
        self.offered.as_ref().map(InstalledPackage::of)
    }

    /// Its removal may have been carried out, and is not wanted any more: what the agent has has to
    /// be installed anew to be sure of it.
    pub(super) fn doubt(&mut self) -> bool {
        let begun = std::mem::take(&mut self.removals) > 0;
        if begun && let Some(has) = self.has.take() {
            self.may_have(has);
        }
        begun
    }

    /// The agent was handed another package and may have installed it, unheard: what it has has to
    /// be installed anew to be sure of it.
    pub(super) fn doubt_installed(&mut self) -> bool {
        let other = self.unanswered.iter().any(|other| self.has.as_ref() != Some(other));
        let doubted = other && self.is_installed();
        if doubted && let Some(has) = self.has.take() {
            self.may_have(has);
        }
        doubted
    }

    /// The agent may have this from now on, whatever it had.
    pub(super) fn may_have(&mut self, package: InstalledPackage) {
        self.unanswered.retain(|other| *other != package);
        if self.unanswered.len() >= MAX_UNANSWERED {
            self.unanswered.remove(0);
        }
        self.unanswered.push(package);
    }

    /// It is as it should be. The credentials of its download are of no more use.
    pub(super) fn forget_how(&mut self) {
        self.failure = None;
        self.handed_over = 0;
        if let Some(file) = self.offered.as_mut().and_then(|offered| offered.file.as_mut()) {
            file.headers = None;
        }
    }

    /// Top-level packages come first.
    pub(super) fn is_addon(&self) -> bool {
        let offered = self.offered.as_ref().map(|offered| offered.r#type);
        offered != Some(v1::PackageType::TopLevel as i32)
    }
}

/// Everything that is remembered of the packages of an agent: what a
/// package store loads and saves.
///
/// It holds the headers of downloads, which are credentials: it is not for everyone to read.
/// `Debug` does not show them.
#[derive(Clone, PartialEq, prost::Message)]
#[non_exhaustive]
pub struct PackageRecords {
    /// The packages by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub packages: BTreeMap<String, PackageRecord>,
    /// The hash of the last offer as a whole (PKG-36).
    #[prost(bytes = "bytes", tag = "2")]
    pub all_packages_hash: Bytes,
    /// What was wrong with that offer as a whole (PKG-41).
    #[prost(string, tag = "3")]
    pub error_message: String,
    #[prost(fixed32, tag = "15")]
    magic: u32,
}

const MAGIC: u32 = 0x6f70_6b67;

impl PackageRecords {
    /// Encodes the records for storage. Later versions read what earlier ones wrote.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut records = self.clone();
        records.magic = MAGIC;
        records.encode_to_vec()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are damaged or something else altogether.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut records = Self::decode(bytes).map_err(|_| StateError)?;
        if std::mem::take(&mut records.magic) != MAGIC {
            return Err(StateError);
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut records = PackageRecords::default();
        let has = InstalledPackage::local(v1::PackageType::Addon, "1").with_hash(&b"h"[..]);
        let record = PackageRecord { has: Some(has), handed_over: 2, ..Default::default() };
        records.packages.insert("a".to_owned(), record);
        assert_eq!(PackageRecords::from_bytes(&records.to_bytes()), Ok(records.clone()));
        let mut damaged = records.to_bytes();
        damaged.truncate(damaged.len() - 1);
        assert_eq!(PackageRecords::from_bytes(&damaged), Err(StateError));
        assert_eq!(PackageRecords::from_bytes(b""), Err(StateError));
    }
}
