//! Packages that are ready to be offered (PKG-02 to PKG-05, PKG-35, PKG-37, PKG-66, PKG-68,
//! PKG-70).

use std::fmt;

use bytes::Bytes;
use opamp_proto::{Message, all_packages_hash, package_hash, v1};

use super::endpoint::{InvalidOffer, check_headers, check_url};
use super::offer::OfferHash;

/// Packages ready to be offered: encoded once, however many Agents they go to.
///
/// An offer is everything an Agent is to have from the Server: packages it got earlier and that are
/// not in it are removed, so an offer of none removes all (PKG-27). Clones share the bytes. The
/// hashes follow from what is offered (PKG-35, PKG-68).
///
/// ```
/// use opamp_proto::{content_hash, v1};
/// use opamp_server::Packages;
///
/// let file = v1::DownloadableFile {
///     download_url: "https://packages.example/agent-1.0".to_owned(),
///     content_hash: content_hash(b"the file's bytes"),
///     ..Default::default()
/// };
/// let package = v1::PackageAvailable {
///     version: "1.0".to_owned(),
///     file: Some(file),
///     ..Default::default()
/// };
/// let packages = Packages::new(v1::PackagesAvailable {
///     packages: [("agent".to_owned(), package)].into(),
///     ..Default::default()
/// })?;
/// assert_eq!(packages, Packages::new(packages.to_message())?);
/// # Ok::<(), opamp_server::InvalidOffer>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Packages {
    hash: OfferHash,
    /// A `ServerToAgent` with nothing but `packages_available`.
    encoded: Bytes,
}

impl Packages {
    /// Checks and encodes packages. All hashes but `content_hash` and their signatures are ignored:
    /// the packages get their own.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if a package has no file, or one without an `http` or `https` URL, without
    /// the 32 bytes of its SHA-256 (PKG-70, reading A22), or with headers that cannot be sent; if
    /// its type is none (PKG-66); or if its name is empty and it is not the only top-level package
    /// (PKG-04, reading A39).
    pub fn new(mut packages: v1::PackagesAvailable) -> Result<Self, InvalidOffer> {
        let is_top_level =
            |it: &v1::PackageAvailable| it.r#type == v1::PackageType::TopLevel as i32;
        let top_levels = packages.packages.values().filter(|it| is_top_level(it)).count();
        for (name, package) in &mut packages.packages {
            let in_package = |fault: InvalidOffer| fault.within(&format!("packages[{name:?}]"));
            if name.is_empty() && !(top_levels == 1 && is_top_level(package)) {
                let what = "only the one top-level package may go without a name: give it one";
                return Err(in_package(InvalidOffer::new("name", what)));
            }
            check(package).map_err(in_package)?;
            package.hash = package_hash(name, package);
        }
        packages.all_packages_hash = all_packages_hash(&packages);
        let hash = OfferHash::new(&packages.all_packages_hash);
        let message =
            v1::ServerToAgent { packages_available: Some(packages), ..Default::default() };
        Ok(Self { hash, encoded: message.encode_to_vec().into() })
    }

    /// The hash of all packages.
    #[must_use]
    pub const fn hash(&self) -> OfferHash {
        self.hash
    }

    /// The bytes the offer adds to a message.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    /// The packages, decoded, with their hashes.
    #[must_use]
    pub fn to_message(&self) -> v1::PackagesAvailable {
        let message = v1::ServerToAgent::decode(self.encoded.clone()).unwrap_or_default();
        message.packages_available.unwrap_or_default()
    }

    /// The offer's encoded fields, to be appended to a message.
    pub(super) fn tail(&self) -> Bytes {
        self.encoded.clone()
    }
}

fn check(package: &v1::PackageAvailable) -> Result<(), InvalidOffer> {
    if v1::PackageType::try_from(package.r#type).is_err() {
        return Err(InvalidOffer::new("type", "is neither TopLevel nor Addon"));
    }
    let Some(file) = &package.file else {
        return Err(InvalidOffer::new("file", "is missing: say where it can be downloaded"));
    };
    check_file(file).map_err(|fault| fault.within("file"))
}

fn check_file(file: &v1::DownloadableFile) -> Result<(), InvalidOffer> {
    check_url(&file.download_url, &["https", "http"], false)
        .map_err(|what| InvalidOffer::new("download_url", what))?;
    if file.content_hash.len() != 32 {
        let what = format!(
            "has {} bytes: give the 32 bytes of the SHA-256 of the file's content",
            file.content_hash.len()
        );
        return Err(InvalidOffer::new("content_hash", what));
    }
    check_headers(file.headers.as_ref())
}

/// Shows no URLs and headers, which may hold credentials.
impl fmt::Debug for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packages")
            .field("hash", &self.hash)
            .field("encoded_len", &self.encoded.len())
            .finish_non_exhaustive()
    }
}
