//! Signatures made with minisign.

use std::io::Read;

use minisign_verify::{PublicKey, Signature};

use super::{SignatureVerifier, SignedPackage};

/// Verifies signatures made with [minisign] (Ed25519): the signature of a package is what
/// `minisign -S` writes into its `.minisig` file. Signatures of the legacy kind, which are not made
/// of a hash, are refused.
///
/// A signature may be made by any of several keys, so that one can be replaced by the next.
///
/// Where the trusted comment of a signature has words `name=…` or `version=…`, they have to be those
/// of the offer, so that an old package cannot be offered as a new one:
/// `minisign -S -t 'name=collector version=1.2.3' -m FILE`.
///
/// [minisign]: https://jedisct1.github.io/minisign/
#[derive(Debug, Clone)]
pub struct Minisign {
    keys: Vec<PublicKey>,
}

/// The text is not a public key of minisign.
#[derive(Debug, thiserror::Error)]
#[error("not a public key of minisign")]
pub struct MinisignKeyError(#[source] minisign_verify::Error);

impl Minisign {
    /// Believes the holder of this key: the content of a `minisign.pub` file, or its second line.
    ///
    /// # Errors
    ///
    /// When it is neither.
    pub fn new(key: &str) -> Result<Self, MinisignKeyError> {
        Self { keys: Vec::new() }.or(key)
    }

    /// Believes the holder of this key, too.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn or(mut self, key: &str) -> Result<Self, MinisignKeyError> {
        let key = key.trim();
        let parsed = match key.contains('\n') {
            true => PublicKey::decode(key),
            false => PublicKey::from_base64(key),
        };
        self.keys.push(parsed.map_err(MinisignKeyError)?);
        Ok(self)
    }
}

impl SignatureVerifier for Minisign {
    fn verify(&self, package: &SignedPackage<'_>, content: &mut dyn Read) -> Result<(), String> {
        let text = std::str::from_utf8(package.signature)
            .map_err(|_| "it is not a signature of minisign".to_owned())?;
        let signature = Signature::decode(text)
            .map_err(|error| format!("it is not a signature of minisign: {error}"))?;
        let mut last = "no key is known".to_owned();
        // The id of the key is a part of the signature, so at most one of them fits.
        let stream = self.keys.iter().find_map(|key| {
            key.verify_stream(&signature).map_err(|error| last = error.to_string()).ok()
        });
        let mut stream = stream.ok_or(last)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => stream.update(&buffer[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the content cannot be read: {error}")),
            }
        }
        stream.finalize().map_err(|error| error.to_string())?;
        // The comment is covered by the signature, and proved to be by now.
        for word in signature.trusted_comment().split_whitespace() {
            for (what, offered) in [("name", package.name), ("version", package.version)] {
                let signed = word.split_once('=').filter(|(key, _)| *key == what);
                if let Some((_, signed)) = signed
                    && signed != offered
                {
                    return Err(format!("it is for {what} {signed:?}, not for {offered:?}"));
                }
            }
        }
        Ok(())
    }
}
