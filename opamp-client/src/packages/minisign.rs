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
/// Where the trusted comment of a signature has words `name=…` or `version=…`, they have to be
/// those of the offer, so that an old package cannot be offered as a new one:
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

#[cfg(test)]
mod tests {
    use super::*;

    // Made by the `minisign` crate, of keys made for this and thrown away.
    const KEY: &str = "RWTDEE3QVI6TvVagRkxyQBKiCJHPNIA2ydJNkd8JzD87Xtw13fYTsgJD";
    const OTHER_KEY: &str = "RWTHf7BuPXp9+Os/OJbAXlrd6ZuwVlU3NwE8RKcSWMo5PQtsomSb/XHX";
    const CONTENT: &[u8] = b"the bytes of the package\n";
    const SIGNATURE: &str = "untrusted comment: test\n\
        RUTDEE3QVI6Tve47DmpChrYIhD2BrpF6AtyWNbvwb7r/sKSGH5eDuVg3cYlTyBGf0Mb6I4bt9USjSYa0pjYVZPJQIA+I+KYjSAc=\n\
        trusted comment: signed for a test\n\
        0ITkEydPVdHgThZ03pOcboMvilUzUtk4oIo9Zml1JFmRS9pMyfENsRDdDkge/TAeTkVZhLgfFumR8Pk6n2UvAA==\n";
    const BOUND: &str = "untrusted comment: test\n\
        RUTDEE3QVI6Tvb0BsvPubfuQ6iKRCMmxDlYXZJWB0luyMcDRuhdjCwU1fSqJYzlZSo+MPiBGsnqx4e5PhJE0bFPyLZtNZgovpgM=\n\
        trusted comment: name=plugin version=1.0\n\
        awQG/f/RKI8akVtG047PT2bP+YFSzpL9s1Ut3WBGvbpf0JwWCEqyqS+iGf2Nl5XLlBgl+hjNXoTbA+xsSY+WDQ==\n";
    const BY_OTHER: &str = "untrusted comment: test\n\
        RUTHf7BuPXp9+KGOFRMJ79bBZJ9LkLzqSaP85Wsscdr847pbbdYOO1f+UIoVz/QaiFPKW6NIC/6Y9qz6+Cq1fRFCmTwyz4gM5AI=\n\
        trusted comment: signed for a test\n\
        2xMVmXzI58oJCIufl9fhNBaxHQ/UiOziiN1lImcN4vIr+wqDCyjbxPrF6Wwof4KRqiTRM81UsoVO4lj1cBcIAQ==\n";

    fn verify(verifier: &Minisign, signature: &str, mut content: &[u8]) -> Result<(), String> {
        let package = SignedPackage::new("plugin", "1.0", signature.as_bytes());
        verifier.verify(&package, &mut content)
    }

    #[test]
    fn a_signature_is_valid_for_its_content_and_key() {
        let _judged = opamp_spec::judges(&["PKG-72", "SEC-13"]);
        let verifier = Minisign::new(KEY).unwrap();
        assert_eq!(verify(&verifier, SIGNATURE, CONTENT), Ok(()));
        assert!(verify(&verifier, SIGNATURE, b"the bytes of another\n").is_err());
        assert!(verify(&verifier, SIGNATURE, &CONTENT[1..]).is_err());
        assert!(verify(&verifier, BY_OTHER, CONTENT).is_err());
        let both = verifier.or(OTHER_KEY).unwrap();
        for signature in [SIGNATURE, BY_OTHER] {
            assert_eq!(verify(&both, signature, CONTENT), Ok(()));
        }
    }

    #[test]
    fn a_changed_signature_is_none() {
        let _judged = opamp_spec::judges(&["PKG-72"]);
        let verifier = Minisign::new(KEY).unwrap();
        let [plain, bound] = [SIGNATURE, BOUND].map(|text| text.lines().collect::<Vec<_>>());
        // The trusted comment of one on the signature of the other.
        let mixed = [plain[0], plain[1], bound[2], bound[3]].join("\n");
        assert!(verify(&verifier, &mixed, CONTENT).is_err());
        let forged = SIGNATURE.replace("for a test", "for the rest");
        assert!(verify(&verifier, &forged, CONTENT).is_err());
        for broken in ["", "x", "\n\n\n\n", &SIGNATURE[..80], &SIGNATURE.replace('=', "")] {
            assert!(verify(&verifier, broken, CONTENT).is_err(), "{broken:?}");
        }
        let package = SignedPackage::new("plugin", "1.0", &[0xff, 0xfe]);
        assert!(verifier.verify(&package, &mut { CONTENT }).is_err());
    }

    #[test]
    fn a_signature_that_names_its_package_is_for_no_other() {
        let verifier = Minisign::new(KEY).unwrap();
        assert_eq!(verify(&verifier, BOUND, CONTENT), Ok(()));
        for (name, version) in [("plugin", "2.0"), ("other", "1.0")] {
            let package = SignedPackage::new(name, version, BOUND.as_bytes());
            let why = verifier.verify(&package, &mut { CONTENT }).unwrap_err();
            assert!(why.contains("not for"), "{why}");
        }
    }

    #[test]
    fn a_key_is_read_from_its_file_or_alone() {
        let file = format!("untrusted comment: minisign public key: BD938E54D04D10C3\n{KEY}\n");
        for text in [KEY, &format!("{KEY}\n"), &file] {
            assert_eq!(verify(&Minisign::new(text).unwrap(), SIGNATURE, CONTENT), Ok(()));
        }
        for wrong in ["", "not a key", &KEY[1..], SIGNATURE] {
            assert!(Minisign::new(wrong).is_err(), "{wrong:?}");
        }
    }
}
