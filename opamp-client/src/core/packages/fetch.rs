//! One file of a package: what is asked for, what came of it, and the judgement between the two.
//!
//! [`Verified`] can be made in one place only, [`Expected::judge`], from what was measured on the
//! bytes. A package is handed over with one of these or not at all.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1;

use super::SignaturePolicy;

/// The longest name of a package, and the longest hash, in bytes. They are listed in every report.
pub(super) const MAX_NAME: usize = 1024;
pub(super) const MAX_HASH: usize = 256;
/// The longest version in bytes.
const MAX_VERSION: usize = 1024;
/// The longest URL in bytes.
const MAX_URL: usize = 16 * 1024;

/// Which content of which package a file holds: the name of a file in a store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    package: String,
    content: Bytes,
}

impl FileKey {
    pub(super) fn new(package: &str, content_hash: &Bytes, hash: &Bytes) -> Self {
        let content = if content_hash.is_empty() { hash } else { content_hash };
        Self { package: package.to_owned(), content: content.clone() }
    }

    #[cfg(all(test, feature = "file-store", feature = "packages"))]
    pub(crate) fn for_tests(package: &str, content: &[u8]) -> Self {
        Self::new(package, &Bytes::copy_from_slice(content), &Bytes::new())
    }

    /// The package's name: whatever the server chose, up to 1,024 bytes. It is not fit to be a part
    /// of a path as it is.
    #[must_use]
    pub fn package(&self) -> &str {
        &self.package
    }

    /// What tells this content of the package from others: up to 256 bytes.
    #[must_use]
    pub fn content(&self) -> &Bytes {
        &self.content
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:x}", self.package, self.content)
    }
}

/// A download that was asked for. Answers to an earlier one are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchTicket(pub(super) u64);

/// What is to be downloaded, unless the store has it already.
///
/// `Debug` shows neither the headers nor the query of the URL.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FetchRequest {
    /// To be given back in every answer.
    pub ticket: FetchTicket,
    /// The package's version, for a signature that covers it.
    pub version: String,
    /// Where the store keeps the file.
    pub key: FileKey,
    /// URL and headers, and what the server says of the content.
    pub file: v1::DownloadableFile,
    /// What the file has to be.
    pub expected: Expected,
    /// The largest size that is taken, in bytes.
    pub max_size: u64,
    /// Whether the agent has, or may have, a package with this file: an offer that turns out to be
    /// wrong must not take it away.
    pub in_use: bool,
}

/// What a file has to be to be taken for what was offered.
#[derive(Clone, PartialEq, Eq)]
pub struct Expected {
    sha256: Option<[u8; 32]>,
    signature: Bytes,
    policy: SignaturePolicy,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected")
            .field(
                "sha256",
                &self.sha256.map(|hash| format!("{:x}", Bytes::copy_from_slice(&hash))),
            )
            .field("signature", &format_args!("{} bytes", self.signature.len()))
            .field("policy", &self.policy)
            .finish()
    }
}

/// What was measured on the bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// How many there are.
    pub len: u64,
    /// Their SHA-256.
    pub sha256: [u8; 32],
    /// What a verifier said of the signature; `None` when it was not asked.
    pub signature: Option<Result<(), String>>,
}

/// Bytes that are what they have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    len: u64,
    sha256: [u8; 32],
}

impl Verified {
    /// How many bytes there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a file of no bytes is a file")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Their SHA-256.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

/// Why bytes are not what they have to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Other bytes than were offered: they may have been changed on the way.
    #[error("the content does not match its content_hash")]
    WrongContent,
    /// The bytes that were offered, but not signed by whom they have to be.
    #[error("the signature is not valid: {0}")]
    BadSignature(String),
}

impl Expected {
    /// # Errors
    ///
    /// When no bytes whatsoever could be taken.
    pub(super) fn new(
        file: &v1::DownloadableFile,
        policy: SignaturePolicy,
    ) -> Result<Self, &'static str> {
        let sha256 = <[u8; 32]>::try_from(&*file.content_hash).ok();
        let signed = !file.signature.is_empty();
        match policy {
            SignaturePolicy::Required if !signed => {
                return Err("the package is not signed, and this agent takes signed packages only");
            }
            SignaturePolicy::Ignored if sha256.is_none() => return Err(NO_SHA256),
            SignaturePolicy::IfPresent if sha256.is_none() && !signed => return Err(NO_SHA256),
            _ => {}
        }
        Ok(Self { sha256, signature: file.signature.clone(), policy })
    }

    /// The SHA-256 the content has to have, where the server gave one (A22).
    #[must_use]
    pub fn sha256(&self) -> Option<&[u8; 32]> {
        self.sha256.as_ref()
    }

    /// The signature that is to be verified, if any is.
    #[must_use]
    pub fn signature(&self) -> Option<&Bytes> {
        let verify = self.policy != SignaturePolicy::Ignored && !self.signature.is_empty();
        verify.then_some(&self.signature)
    }

    /// Whether it is a verdict on these bytes.
    pub(super) fn accepts(&self, verified: &Verified) -> bool {
        self.sha256.is_none_or(|expected| expected == verified.sha256)
    }

    /// Whether bytes of which this is known may be taken (PKG-71, PKG-72).
    ///
    /// # Errors
    ///
    /// When they may not: they are then of no use to anyone.
    pub fn judge(&self, evidence: Evidence) -> Result<Verified, Rejection> {
        if self.sha256.is_some_and(|expected| expected != evidence.sha256) {
            return Err(Rejection::WrongContent);
        }
        match (self.signature(), evidence.signature) {
            (Some(_), Some(Ok(()))) => {}
            (Some(_), Some(Err(why))) => return Err(Rejection::BadSignature(why)),
            (Some(_), None) => {
                return Err(Rejection::BadSignature("nothing here can verify it".to_owned()));
            }
            // Without a signature the hash is all there is: see `new`.
            (None, _) if self.sha256.is_none() => return Err(Rejection::WrongContent),
            (None, _) => {}
        }
        Ok(Verified { len: evidence.len, sha256: evidence.sha256 })
    }
}

const NO_SHA256: &str = "content_hash is not a SHA-256, so the content cannot be verified";

/// How far a download has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchProgress {
    /// Bytes that are there, those of earlier attempts included.
    pub received: u64,
    /// The size of the whole file, where the download server said.
    pub total: Option<u64>,
}

/// A file that is whole, verified and where it will stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What was verified.
    pub verified: Verified,
    /// Where the store has it.
    pub location: PathBuf,
}

/// Why a file is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchFailure {
    /// What that means for another attempt.
    pub kind: FetchFailureKind,
    /// For the server and for a log; without secrets.
    pub why: String,
    /// Bytes that are there and will be of use to the next attempt.
    pub received: u64,
}

/// Classes of [`FetchFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchFailureKind {
    /// Another attempt may go well, after this time at the least where the server said.
    Transient {
        /// What `Retry-After` asked for.
        retry_after: Option<Duration>,
    },
    /// Whole, but wrong; it was thrown away. One more attempt is worth it.
    WrongContent,
    /// Another attempt would end the same.
    Permanent,
}

/// Cuts what is longer than it may be to where [`check`] still finds it too long: it is kept, and
/// listed in every report.
pub(super) fn bound(package: &mut v1::PackageAvailable) {
    let cut = |text: &mut String, limit: usize| {
        if let Some(end) = (limit + 1..text.len()).find(|at| text.is_char_boundary(*at)) {
            *text = text[..end].to_owned();
        }
    };
    let cut_hash = |hash: &mut Bytes| {
        if hash.len() > MAX_HASH {
            *hash = Bytes::copy_from_slice(&hash[..=MAX_HASH]);
        }
    };
    cut(&mut package.version, MAX_VERSION);
    cut_hash(&mut package.hash);
    if let Some(file) = &mut package.file {
        cut(&mut file.download_url, MAX_URL);
        cut_hash(&mut file.content_hash);
    }
}

/// What is wrong with a package on offer before anything is downloaded (W-20).
pub(super) fn check(package: &v1::PackageAvailable) -> Result<(), String> {
    if v1::PackageType::try_from(package.r#type).is_err() {
        return Err(format!("the package has the unknown type {}", package.r#type));
    }
    let Some(file) = &package.file else {
        return Err("the offer has no file".to_owned());
    };
    let url = file.download_url.as_str();
    if url.is_empty() {
        return Err("the offer has no download_url".to_owned());
    }
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) {
        return Err("download_url is not an http or https URL".to_owned());
    }
    if url.len() > MAX_URL {
        return Err(format!("download_url is longer than {MAX_URL} bytes"));
    }
    if file.content_hash.is_empty() && package.hash.is_empty() {
        return Err("the offer has no hash".to_owned());
    }
    for (what, hash) in [("hash", &package.hash), ("content_hash", &file.content_hash)] {
        if hash.len() > MAX_HASH {
            return Err(format!("{what} is longer than {MAX_HASH} bytes"));
        }
    }
    if package.version.len() > MAX_VERSION {
        return Err(format!("version is longer than {MAX_VERSION} bytes"));
    }
    Ok(())
}
