//! The hashes of the packages a Server offers.
//!
//! There are three levels (PKG-29): the hash of a file's content is its SHA-256 (PKG-70), that of a
//! package covers everything the offer says of it (PKG-68), and that of all packages covers their
//! names and hashes (PKG-35). To the Agent the last two are opaque.

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::any_value::write_sized;
use crate::settings_hash::write_headers;
use crate::v1::{DownloadableFile, PackageAvailable, PackagesAvailable};

/// Sets these hashes apart from all others, and from those of a later definition.
const PACKAGE_DOMAIN: &[u8] = b"opamp-proto/package-hash/1";
const ALL_DOMAIN: &[u8] = b"opamp-proto/all-packages-hash/1";

/// The SHA-256 of a file's content, for `DownloadableFile.content_hash` (PKG-70).
#[must_use]
pub fn content_hash(content: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(content))
}

/// Hashes a package by its name and all that the offer says of it; the content of its file counts
/// by `content_hash`, and the field `hash` does not count (PKG-68).
///
/// The hash is SHA-256, 32 bytes.
#[must_use]
pub fn package_hash(name: &str, package: &PackageAvailable) -> Bytes {
    let PackageAvailable { r#type, version, file, hash: _ } = package;
    let mut form = Vec::new();
    write_sized(PACKAGE_DOMAIN, &mut form);
    write_sized(name.as_bytes(), &mut form);
    form.extend(r#type.to_be_bytes());
    write_sized(version.as_bytes(), &mut form);
    form.push(u8::from(file.is_some()));
    if let Some(DownloadableFile { download_url, content_hash, signature, headers }) = file {
        write_sized(download_url.as_bytes(), &mut form);
        write_sized(content_hash, &mut form);
        write_sized(signature, &mut form);
        form.push(u8::from(headers.is_some()));
        if let Some(headers) = headers {
            write_headers(headers, &mut form);
        }
    }
    Bytes::copy_from_slice(&Sha256::digest(&form))
}

/// Hashes the names and the hashes of packages (PKG-35, PKG-37); what the packages' own field
/// `hash` says counts, and the field `all_packages_hash` does not.
///
/// The hash is SHA-256, 32 bytes. No packages have a hash as well.
///
/// ```
/// use opamp_proto::{all_packages_hash, package_hash, v1};
///
/// let mut package = v1::PackageAvailable { version: "1.0".to_owned(), ..Default::default() };
/// package.hash = package_hash("main", &package);
/// let offer = v1::PackagesAvailable {
///     packages: [("main".to_owned(), package)].into(),
///     ..Default::default()
/// };
/// assert_ne!(all_packages_hash(&offer), all_packages_hash(&Default::default()));
/// ```
#[must_use]
pub fn all_packages_hash(packages: &PackagesAvailable) -> Bytes {
    let mut form = Vec::new();
    write_sized(ALL_DOMAIN, &mut form);
    for (name, package) in &packages.packages {
        write_sized(name.as_bytes(), &mut form);
        write_sized(&package.hash, &mut form);
    }
    Bytes::copy_from_slice(&Sha256::digest(&form))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::v1::Headers;

    #[test]
    fn whatever_differs_changes_the_hash_of_a_package() {
        let _judged = opamp_spec::judges(&["PKG-68", "PKG-29"]);
        let with = |change: &dyn Fn(&mut PackageAvailable, &mut DownloadableFile)| {
            let (mut package, mut file) = Default::default();
            change(&mut package, &mut file);
            package_hash("", &PackageAvailable { file: Some(file), ..package })
        };
        let hashes = [
            package_hash("", &PackageAvailable::default()),
            package_hash("a", &PackageAvailable::default()),
            with(&|_, _| {}),
            with(&|package, _| package.r#type = 1),
            with(&|package, _| package.version.push('a')),
            with(&|_, file| file.download_url.push('a')),
            with(&|_, file| file.content_hash = "a".into()),
            with(&|_, file| file.signature = "a".into()),
            with(&|_, file| file.headers = Some(Headers::default())),
        ];
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
        let named = PackageAvailable { hash: "a".into(), ..Default::default() };
        assert_eq!(package_hash("", &named), hashes[0], "the hash itself does not count");
    }

    #[test]
    fn names_and_hashes_make_the_hash_of_all() {
        let _judged = opamp_spec::judges(&["PKG-35", "PKG-29"]);
        let all = |packages: &[(&str, &'static str)]| {
            let package = |(name, hash): &(&str, &'static str)| {
                let hash = Bytes::from_static(hash.as_bytes());
                ((*name).to_owned(), PackageAvailable { hash, ..Default::default() })
            };
            let packages = packages.iter().map(package).collect();
            all_packages_hash(&PackagesAvailable { packages, all_packages_hash: "x".into() })
        };
        let hashes =
            [all(&[]), all(&[("a", "b")]), all(&[("ab", "")]), all(&[("a", "b"), ("b", "b")])];
        assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), hashes.len());
        assert!(hashes.iter().all(|hash| hash.len() == 32));
    }
}
