//! Packages for an agent: where they are kept, and whom to believe.
//!
//! An agent that takes packages is built with [`Builder::packages`](crate::Builder::packages). It
//! is handed each package that the server offers when the file is downloaded and verified, as
//! [`Event::Package`](crate::core::Event::Package), and answers whether it is installed:
//!
#![cfg_attr(all(feature = "ws", feature = "file-store"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "ws", feature = "file-store")), doc = "```ignore")]
//! use opamp_client::packages::{FilePackageStore, Packages};
//! use opamp_client::{Client, core::Event};
//!
//! # async fn agent() -> Result<(), Box<dyn std::error::Error>> {
//! let store = FilePackageStore::open("/var/lib/my-agent/packages")?;
//! let (client, mut events, driver) = Client::builder("wss://opamp.example.com")
//!     .identifying_attribute("service.name", "my-agent")
//!     .packages(Packages::verified_by_hash(store))
//!     .build()?;
//! tokio::spawn(driver.run());
//!
//! while let Some(event) = events.next().await {
//!     match event {
//!         Event::Package(offer) => {
//!             // … install what is at offer.location(), then say how it went:
//!             client.resolve_package(offer.installed());
//!         }
//!         Event::PackageRemoval(removal) => client.resolve_package(removal.removed()),
//!         other => println!("{other:?}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Downloads go on beside everything else, over reconnects and restarts, and never hold up the
//! connection. What they are held to:
//!
//! | limit | default | where |
//! | --- | --- | --- |
//! | size of a file | 1 GiB | [`PackagesConfig::max_file_size`] |
//! | downloads at a time | 2 | [`PackagesConfig::parallel_downloads`] |
//! | attempts without progress before the server is told | 5 | [`PackagesConfig::attempts`] |
//! | time for attempts without progress | 24 h | [`PackagesConfig::retry_for`] |
//! | time to connect, and without a byte | 30 s each | [`Packages::idle_timeout`] |
//! | least rate, over twice that time | 1 KiB/s | [`Packages::least_rate`] |
//! | redirects in a row | 5 | |
//! | packages in an offer | 256 | [`PackagesConfig::max_packages`] |
//!
//! Downloads go through the proxy that the client is built with, and trust whom the system trusts,
//! unless [`Packages::proxy`] and [`Packages::tls`] say otherwise. Proxy and TLS settings that the
//! server offers are, by the specification, those of the OpAMP connection: no download uses them,
//! nor shows their client certificate, also where its URL leads to the OpAMP server itself.
//! Credentials for a download come as headers with its offer. A redirect never leads from `https`
//! to `http`, and those headers are sent to the origin of the URL only. The bytes are taken as they
//! are served: no content coding is asked for or undone.

#[cfg(feature = "file-store")]
mod file_store;
#[cfg(feature = "minisign")]
mod minisign;
mod store;
mod verifier;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use crate::core::packages::{
    FileKey, InstalledPackage, PackageOffer, PackageRecords, PackageRemoval, PackageResolution,
    PackagesConfig, SignaturePolicy,
};

use crate::Proxy;

#[cfg(feature = "file-store")]
pub use self::file_store::{FilePackageStore, file_name};
#[cfg(feature = "minisign")]
pub use self::minisign::{Minisign, MinisignKeyError};
pub use self::store::{FileSource, PackageStore, StoredFile};
pub use self::verifier::{SignatureVerifier, SignedPackage};

/// How an agent takes packages: see [`Builder::packages`](crate::Builder::packages).
#[must_use = "give it to Builder::packages"]
pub struct Packages {
    pub(crate) store: Arc<dyn PackageStore>,
    pub(crate) verifier: Option<Arc<dyn SignatureVerifier>>,
    pub(crate) config: PackagesConfig,
    pub(crate) idle_timeout: Duration,
    pub(crate) least_rate: u32,
    pub(crate) proxy: Option<Proxy>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Tls>,
}

impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packages").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Packages {
    fn new(
        store: impl PackageStore + 'static,
        verifier: Option<Arc<dyn SignatureVerifier>>,
        signatures: SignaturePolicy,
    ) -> Self {
        Self {
            store: Arc::new(store),
            verifier,
            config: PackagesConfig { signatures, ..PackagesConfig::default() },
            idle_timeout: Duration::from_secs(30),
            least_rate: 1024,
            proxy: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Takes packages whose bytes have the SHA-256 that the server says, signed or not
    /// ([`SignaturePolicy::Ignored`]): whoever controls the server can make the agent run anything.
    /// A package without a SHA-256 is refused (A22).
    pub fn verified_by_hash(store: impl PackageStore + 'static) -> Self {
        Self::new(store, None, SignaturePolicy::Ignored)
    }

    /// Takes packages that `verifier` finds to be signed, and no others
    /// ([`SignaturePolicy::Required`]): an unsigned one is refused without a download (PKG-72,
    /// SEC-13). Another policy can be set with [`configure`](Self::configure).
    pub fn verified_by_signature(
        store: impl PackageStore + 'static,
        verifier: impl SignatureVerifier + 'static,
    ) -> Self {
        Self::new(store, Some(Arc::new(verifier)), SignaturePolicy::Required)
    }

    /// A package the agent has that did not come from the server. It is listed, and never removed
    /// (PKG-28, A21).
    pub fn local(mut self, name: impl Into<String>, package: InstalledPackage) -> Self {
        self.config.local.insert(name.into(), package);
        self
    }

    /// How `https` downloads are made: see [`tls`](crate::tls). Default: the system's trust store
    /// and no client certificate; those of the OpAMP connection are not used, offered or not.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// The proxy on the way to download servers. Default: the one the client was built with, see
    /// [`Builder::proxy`](crate::Builder::proxy); one that the server offers later is for the OpAMP
    /// connection alone.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// How long a download server may take to be connected to, to answer, and to send the next
    /// byte. Default: 30 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// The least rate of a download in bytes per second. One that is slower for twice the
    /// [`idle_timeout`](Self::idle_timeout) is interrupted and goes on later, so that a server that
    /// trickles does not hold up other downloads for ever; 0 lets it. Default: 1,024.
    pub fn least_rate(mut self, bytes_per_second: u32) -> Self {
        self.least_rate = bytes_per_second;
        self
    }

    /// Sets what has no method of its own: limits, attempts, timeouts.
    pub fn configure(mut self, configure: impl FnOnce(&mut PackagesConfig)) -> Self {
        configure(&mut self.config);
        self
    }
}
