//! Verified packages, and packages to be removed, as values that the agent has to answer.
//!
//! ```text
//!                     ┌── pending() ──┐  ┌─ installing() ─┐
//!                     │               ▼  │                ▼
//!   handed over ──────┤        InstallPending ◄────► Installing ◄── at first
//!                     │               │                   │
//!                     ├─► installed() ┴──► Installed ◄────┤
//!                     └─► failed()  ─────► InstallFailed ◄┴── deadline
//! ```

use std::path::{Path, PathBuf};

use bytes::Bytes;
use opamp_proto::v1;

use super::InstalledPackage;

/// Which hand-over an outcome belongs to; never reused by one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageOfferId(pub(super) u64);

/// A package that the server offers, downloaded and verified, to be installed and answered with
/// [`installed`](Self::installed) or [`failed`](Self::failed) (PKG-16, PKG-26).
///
/// The answer is a [`PackageResolution`] to hand to
/// [`ClientCore::resolve_package`](crate::core::ClientCore::resolve_package). One package is handed
/// over at a time, top-level ones first, unless the agent puts one off with
/// [`pending`](Self::pending). A package without an answer by `install_timeout` counts as failed.
///
/// An agent that stops before it answered is handed the package again when it is back, three times
/// in all; then the package counts as failed. So an agent that replaces itself need not answer
/// before it restarts: the new version answers, when it has seen that it works. Installing the same
/// package twice has to be harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a package has to be answered: installed, or failed with the reason"]
pub struct PackageOffer {
    pub(super) id: PackageOfferId,
    pub(super) name: String,
    pub(super) package: InstalledPackage,
    pub(super) previous: Option<InstalledPackage>,
    pub(super) location: PathBuf,
    pub(super) len: u64,
    pub(super) times: u32,
}

impl PackageOffer {
    /// Which hand-over this is.
    #[must_use]
    pub fn id(&self) -> PackageOfferId {
        self.id
    }

    /// The package's name: whatever the server chose, up to 1,024 bytes, and so no part of a path.
    /// Empty for an agent's sole top-level package, where the server likes it so (A39).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is the agent itself or an addition to it.
    #[must_use]
    pub fn kind(&self) -> v1::PackageType {
        self.package.kind()
    }

    /// The offered version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.package.version
    }

    /// The server's hash of the package, opaque to the agent (PKG-31).
    #[must_use]
    pub fn hash(&self) -> &Bytes {
        &self.package.hash
    }

    /// The server's hash of the file.
    #[must_use]
    pub fn content_hash(&self) -> &Bytes {
        &self.package.content_hash
    }

    /// What the agent has of that name until now, possibly of another kind. The same content as now
    /// if only the version changed.
    #[must_use]
    pub fn previous(&self) -> Option<&InstalledPackage> {
        self.previous.as_ref()
    }

    /// Where the store has the verified bytes: with the file store a file to be read or copied, not
    /// to be changed or moved. It stays there until the package is replaced or removed.
    #[must_use]
    pub fn location(&self) -> &Path {
        &self.location
    }

    /// The size of the file in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a file of no bytes is a file")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// How often this package has been handed over, this time included: more than once after a
    /// restart of the agent without an answer.
    #[must_use]
    pub fn times(&self) -> u32 {
        self.times
    }

    /// The agent has the package now: the server is told Installed (PKG-45, PKG-47).
    pub fn installed(self) -> PackageResolution {
        let outcome = PackageOutcome::Installed(self.package);
        PackageResolution { id: self.id, name: self.name, outcome }
    }

    /// The agent did not take the package and has what it had: the server is told InstallFailed and
    /// why (PKG-59, PKG-60). The same package is not handed over again.
    pub fn failed(self, why: impl Into<String>) -> PackageResolution {
        let outcome = PackageOutcome::Failed(why.into());
        PackageResolution { id: self.id, name: self.name, outcome }
    }

    /// The agent will install the package later, in a maintenance window for example: the server is
    /// told InstallPending (PKG-56), other packages take their turn, and `pending_timeout` begins.
    pub fn pending(&self) -> PackageResolution {
        self.progress(PackageOutcome::Pending)
    }

    /// The agent has begun to install the package, or is still at it: the server is told
    /// Installing, as it was when the package was handed over (PKG-57), and `install_timeout`
    /// begins anew.
    pub fn installing(&self) -> PackageResolution {
        self.progress(PackageOutcome::Installing)
    }

    fn progress(&self, outcome: PackageOutcome) -> PackageResolution {
        PackageResolution { id: self.id, name: self.name.clone(), outcome }
    }
}

/// A package that came from the server and is not offered any more: it is to be removed and
/// answered with [`removed`](Self::removed) or [`failed`](Self::failed) (PKG-14, A21).
///
/// A package that may be here, as it was handed over once and never answered, comes as well:
/// removing what is not there has to be harmless. Removals come when the packages of the same offer
/// are done. As a [`PackageOffer`], it comes again after a restart without an answer, and counts as
/// failed after `install_timeout`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a removal has to be answered: removed, or failed with the reason"]
pub struct PackageRemoval {
    pub(super) id: PackageOfferId,
    pub(super) name: String,
    pub(super) package: InstalledPackage,
}

impl PackageRemoval {
    /// Which hand-over this is.
    #[must_use]
    pub fn id(&self) -> PackageOfferId {
        self.id
    }

    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the agent has, or may have.
    #[must_use]
    pub fn package(&self) -> &InstalledPackage {
        &self.package
    }

    /// The agent does not have the package any more: it is no longer listed.
    pub fn removed(self) -> PackageResolution {
        PackageResolution { id: self.id, name: self.name, outcome: PackageOutcome::Removed }
    }

    /// The agent still has the package: it stays listed, and the server is told why. Removing it is
    /// tried again with the next offer, or after a restart.
    pub fn failed(self, why: impl Into<String>) -> PackageResolution {
        let outcome = PackageOutcome::Failed(why.into());
        PackageResolution { id: self.id, name: self.name, outcome }
    }
}

/// What became of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "hand it to ClientCore::resolve_package"]
pub struct PackageResolution {
    pub(super) id: PackageOfferId,
    pub(super) name: String,
    pub(super) outcome: PackageOutcome,
}

impl PackageResolution {
    /// Which hand-over it is about.
    #[must_use]
    pub fn id(&self) -> PackageOfferId {
        self.id
    }

    /// Whether it is the last word on that hand-over.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.outcome, PackageOutcome::Pending | PackageOutcome::Installing)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PackageOutcome {
    Installing,
    Pending,
    Installed(InstalledPackage),
    Removed,
    Failed(String),
}

/// What the agent was last handed of a package.
#[derive(Debug, Clone)]
pub(super) struct HandOver {
    pub(super) id: PackageOfferId,
    pub(super) token: Token,
    /// Whether the application has taken it.
    pub(super) announced: bool,
    /// Whether the agent put it off.
    pub(super) pending: bool,
    /// When it counts as failed; never at `None`.
    pub(super) due: Option<std::time::Instant>,
}

#[derive(Debug, Clone)]
pub(super) enum Token {
    Install(PackageOffer),
    Remove(PackageRemoval),
}

impl HandOver {
    /// Whether this is about installing that package.
    pub(super) fn installs(&self, offered: &v1::PackageAvailable) -> bool {
        matches!(&self.token, Token::Install(offer) if offer.package.is(offered))
    }
}
