//! What the application decides about packages before the client starts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::InstalledPackage;
use crate::core::BackoffConfig;

/// How an agent takes packages. Every field has a default; see
/// [`ClientConfig::packages`](crate::core::ClientConfig::packages).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PackagesConfig {
    /// What is asked of signatures. Default: [`SignaturePolicy::Required`].
    pub signatures: SignaturePolicy,
    /// Packages the agent has that did not come from the server, by name: they are listed in its
    /// statuses and never removed (PKG-28, A21). Default: none.
    pub local: BTreeMap<String, InstalledPackage>,
    /// The most packages an offer may have; one with more is refused as a whole. Default: 256.
    pub max_packages: usize,
    /// The largest file that is downloaded, in bytes. Default: 1 GiB.
    pub max_file_size: u64,
    /// How many files are downloaded at a time. Default: 2.
    pub parallel_downloads: usize,
    /// How many attempts at a download may fail before the server is told that the package has
    /// failed. An attempt that got further than those before it starts the count anew. Attempts go
    /// on after that for as long as [`retry_for`](Self::retry_for) says, unless the failure is one
    /// that others would share, such as a status 404. Default: 5.
    pub attempts: u32,
    /// How long a download is tried again that gets no further, as the download server cannot be
    /// reached or is overloaded: an outage must not cost the agent an update. After that it is
    /// tried when it is offered anew, or by the next process. Default: 24 h.
    pub retry_for: Duration,
    /// Time between these attempts, and between those at loading and saving what is remembered.
    /// Default: from 1 s to 5 min.
    pub backoff: BackoffConfig,
    /// Least time between two reports that tell nothing but the progress of downloads; no less than
    /// a second (PKG-24). Default: 10 s.
    pub progress_interval: Duration,
    /// How long the agent may take to install or remove a package that was handed to it before it
    /// counts as failed. Default: 10 min.
    pub install_timeout: Duration,
    /// The same for a package that the agent put off with
    /// [`PackageOffer::pending`](super::PackageOffer::pending). Default: 24 h.
    pub pending_timeout: Duration,
}

impl Default for PackagesConfig {
    fn default() -> Self {
        Self {
            signatures: SignaturePolicy::Required,
            local: BTreeMap::new(),
            max_packages: 256,
            max_file_size: 1 << 30,
            parallel_downloads: 2,
            attempts: 5,
            retry_for: Duration::from_secs(24 * 60 * 60),
            backoff: BackoffConfig { max: Duration::from_secs(300), ..BackoffConfig::default() },
            progress_interval: Duration::from_secs(10),
            install_timeout: Duration::from_secs(600),
            pending_timeout: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl PackagesConfig {
    /// The fields that must not be zero.
    pub(in crate::core) fn intervals(&self) -> [(&'static str, Duration); 5] {
        [
            ("packages.progress_interval", self.progress_interval),
            ("packages.install_timeout", self.install_timeout),
            ("packages.pending_timeout", self.pending_timeout),
            ("packages.backoff.initial", self.backoff.initial),
            ("packages.backoff.max", self.backoff.max),
        ]
    }
}

/// What is asked of the signature of a package's file (PKG-72, SEC-13). Whatever the policy, the
/// bytes have to match `content_hash` where that is a SHA-256 (A22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SignaturePolicy {
    /// A package without a valid signature is refused; one that is not signed at all is not even
    /// downloaded.
    #[default]
    Required,
    /// A signature has to be valid where there is one; an unsigned package is taken on its hash.
    /// This helps while signing is introduced: it keeps out nobody who can take a signature off.
    IfPresent,
    /// Signatures are not looked at, and the SHA-256 decides. It comes from the server, so this is
    /// as good as the trust in the server.
    Ignored,
}
