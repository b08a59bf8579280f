//! Whom to believe.

use std::io::Read;

/// Verifies signatures of packages (PKG-72). The protocol leaves it open what a signature is.
///
/// ```
/// use std::io::Read;
/// use opamp_client::packages::{SignatureVerifier, SignedPackage};
///
/// /// Takes what an authority elsewhere has on its list.
/// struct Listed(Vec<(String, String)>);
///
/// impl SignatureVerifier for Listed {
///     fn verify(&self, package: &SignedPackage<'_>, _: &mut dyn Read) -> Result<(), String> {
///         let entry = (package.name.to_owned(), package.version.to_owned());
///         self.0.contains(&entry).then_some(()).ok_or_else(|| "not on the list".to_owned())
///     }
/// }
/// ```
pub trait SignatureVerifier: Send + Sync {
    /// Whether the signature is valid for the content, which may be large. It is called on a thread
    /// of its own and may take its time.
    ///
    /// A signature of nothing but the content is valid under another name and for another version,
    /// too: a server could offer an old package as a new one. Where that matters, have the
    /// signature cover name and version, and compare.
    ///
    /// # Errors
    ///
    /// Why it is not valid, for the server and for a log; also when reading fails.
    fn verify(&self, package: &SignedPackage<'_>, content: &mut dyn Read) -> Result<(), String>;
}

/// A package and its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignedPackage<'a> {
    /// The name it is offered under.
    pub name: &'a str,
    /// The version it is offered as.
    pub version: &'a str,
    /// The signature, as it is in the offer.
    pub signature: &'a [u8],
}

impl<'a> SignedPackage<'a> {
    /// To call a verifier with.
    #[must_use]
    pub fn new(name: &'a str, version: &'a str, signature: &'a [u8]) -> Self {
        Self { name, version, signature }
    }
}
