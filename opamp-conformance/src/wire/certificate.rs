//! Reading certificates and certificate requests that come over the wire, whoever made them.

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::error::X509Error;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::uid;

/// How many certificates of a chain are looked at.
const MAX_CHAIN: usize = 16;

/// Why something is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// It is wrong.
    #[error("{0}")]
    Wrong(String),
    /// It is of a kind the tester cannot check.
    #[error("the tester cannot check it: {0}")]
    Unknown(String),
}

/// The certificates of a PEM text, the first one's own first.
pub struct Chain(Vec<Pem>);

impl Chain {
    /// Reads a PEM text that has at least one certificate.
    ///
    /// # Errors
    ///
    /// When it is not PEM or holds no certificate.
    pub fn read(pem: &[u8]) -> Result<Self, Flaw> {
        let wrong = |why: &str| Flaw::Wrong(why.to_owned());
        let mut certificates = Vec::new();
        for block in Pem::iter_from_buffer(pem).take(MAX_CHAIN) {
            let block = block.map_err(|error| Flaw::Wrong(format!("not PEM: {error}")))?;
            if block.label == "CERTIFICATE" {
                X509Certificate::from_der(&block.contents)
                    .map_err(|error| Flaw::Wrong(format!("no certificate in the PEM: {error}")))?;
                certificates.push(block);
            }
        }
        if certificates.is_empty() {
            return Err(wrong("no certificate in PEM form"));
        }
        Ok(Self(certificates))
    }

    fn certificates(&self) -> impl Iterator<Item = X509Certificate<'_>> {
        self.0.iter().filter_map(|block| {
            X509Certificate::from_der(&block.contents).ok().map(|(_, certificate)| certificate)
        })
    }

    /// Whether its first certificate is signed with its own key.
    #[must_use]
    pub fn is_self_signed(&self) -> bool {
        self.certificates().next().is_some_and(|certificate| {
            certificate.issuer().as_raw() == certificate.subject().as_raw()
                && certificate.verify_signature(None).is_ok()
        })
    }

    /// Follows the signatures from the first certificate, over the others, to one of the
    /// authority's.
    ///
    /// # Errors
    ///
    /// When they do not lead there.
    pub fn verify(&self, authority: &Self) -> Result<(), Flaw> {
        let mut current = self.certificates().next();
        for _ in 0..MAX_CHAIN {
            let Some(certificate) = current.take() else { break };
            for issuer in authority.certificates() {
                match signed(&certificate, &issuer) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(flaw) => return Err(flaw),
                }
            }
            current = self.certificates().skip(1).find(|issuer| {
                issuer.subject().as_raw() != certificate.subject().as_raw()
                    && signed(&certificate, issuer) == Ok(true)
            });
        }
        Err(Flaw::Wrong("the signatures do not lead from it to ca_cert".to_owned()))
    }

    /// Whether the private key in a PEM text is that of the first certificate.
    ///
    /// # Errors
    ///
    /// When it is not, or is no key.
    pub fn matches(&self, key: &[u8]) -> Result<(), Flaw> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| Flaw::Wrong(format!("no private key in PEM form: {error}")))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|error| Flaw::Unknown(error.to_string()))?;
        let public = key
            .public_key()
            .ok_or_else(|| Flaw::Unknown("it does not tell its public half".into()))?;
        self.has_key(&public)
    }

    /// Whether this is the public key (SubjectPublicKeyInfo, DER) of the first certificate.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn has_key(&self, public: &[u8]) -> Result<(), Flaw> {
        let (_, public) = SubjectPublicKeyInfo::from_der(public)
            .map_err(|error| Flaw::Unknown(format!("no public key: {error}")))?;
        let is_it = self.certificates().next().is_some_and(|certificate| {
            certificate.public_key().subject_public_key.data == public.subject_public_key.data
        });
        if is_it { Ok(()) } else { Err(Flaw::Wrong("the certificate has another key".to_owned())) }
    }

    /// Whether a text is anywhere in the first certificate.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        let first = self.0.first().map(|block| block.contents.as_slice()).unwrap_or_default();
        first.windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }
}

fn signed(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Result<bool, Flaw> {
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return Ok(false);
    }
    match certificate.verify_signature(Some(issuer.public_key())) {
        Ok(()) => Ok(true),
        Err(X509Error::SignatureUnsupportedAlgorithm) => {
            let algorithm = &certificate.signature_algorithm.algorithm;
            Err(Flaw::Unknown(format!("signature algorithm {algorithm}")))
        }
        Err(_) => Ok(false),
    }
}

/// A certificate request that came over the wire.
pub struct SigningRequest(Vec<u8>);

impl SigningRequest {
    /// Reads one from PEM.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(pem: &[u8]) -> Result<Self, Flaw> {
        let wrong = |why: String| Flaw::Wrong(why);
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem)
            .map_err(|error| wrong(format!("it is not PEM: {error}")))?;
        if !matches!(pem.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
            return Err(wrong(format!("it is PEM of a {:?}", pem.label)));
        }
        X509CertificationRequest::from_der(&pem.contents)
            .map_err(|error| wrong(format!("it is no certificate request: {error}")))?;
        Ok(Self(pem.contents))
    }

    /// Whether it is signed with the key that it is for.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn is_signed(&self) -> Result<(), Flaw> {
        let wrong = |error: X509Error| Flaw::Wrong(error.to_string());
        let (_, request) =
            X509CertificationRequest::from_der(&self.0).map_err(|error| wrong(error.into()))?;
        request.verify_signature().map_err(|error| match error {
            X509Error::SignatureUnsupportedAlgorithm => {
                let algorithm = &request.signature_algorithm.algorithm;
                Flaw::Unknown(format!("signature algorithm {algorithm}"))
            }
            other => wrong(other),
        })
    }

    /// Whether this instance uid stands in it: as bytes, or as text of whatever form.
    #[must_use]
    pub fn names(&self, instance_uid: &[u8]) -> bool {
        let text = uid::text(instance_uid);
        let forms = [instance_uid.to_vec(), text.replace('-', "").into_bytes(), text.into_bytes()];
        forms
            .iter()
            .filter(|form| !form.is_empty())
            .any(|form| self.0.windows(form.len()).any(|window| window.eq_ignore_ascii_case(form)))
    }
}

/// A certificate request with the key it is for.
pub struct Csr {
    /// The request, PEM.
    pub pem: String,
    /// The private key, PEM.
    pub key: String,
    /// The public key, SubjectPublicKeyInfo in DER.
    pub public_key: Vec<u8>,
}

impl Csr {
    /// A request for a certificate of an agent with this id, which is its common name and also in
    /// an alternative name.
    ///
    /// # Errors
    ///
    /// When making the key or the request fails.
    pub fn new(uid: &str) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, uid);
        params.subject_alt_names = vec![SanType::URI(format!("urn:uuid:{uid}").try_into()?)];
        let key = KeyPair::generate()?;
        let pem = params.serialize_request(&key)?.pem()?;
        let public_key = rcgen::PublicKeyData::subject_public_key_info(&key);
        Ok(Self { pem, key: key.serialize_pem(), public_key })
    }

    /// The same with a signature that is wrong.
    #[must_use]
    pub fn with_broken_signature(&self) -> String {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::STANDARD;
        let lines: Vec<_> = self.pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let mut der = engine.decode(lines.concat()).unwrap_or_default();
        // The last byte is within the signature and no length.
        if let Some(last) = der.last_mut() {
            *last ^= 1;
        }
        let text = engine.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let body = lines.join("\n");
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::authority::Authority;

    #[test]
    fn a_chain_is_checked_to_its_authority_and_its_key() {
        let (ours, other) = (Authority::new("a").unwrap(), Authority::new("a").unwrap());
        let identity = ours.client("agent").unwrap();
        let chain = Chain::read(identity.cert.as_bytes()).unwrap();
        let authority = Chain::read(ours.pem().as_bytes()).unwrap();
        assert_eq!(chain.verify(&authority), Ok(()));
        assert!(chain.verify(&Chain::read(other.pem().as_bytes()).unwrap()).is_err());
        assert!(!chain.is_self_signed());
        assert!(authority.is_self_signed());
        assert_eq!(chain.matches(identity.key.as_bytes()), Ok(()));
        assert!(chain.matches(other.client("agent").unwrap().key.as_bytes()).is_err());
        assert!(chain.mentions("agent"));
        assert!(Chain::read(b"").is_err());
        assert!(Chain::read(identity.key.as_bytes()).is_err());
    }

    #[test]
    fn a_request_is_taken_unless_its_signature_is_broken() {
        let authority = Authority::new("a").unwrap();
        let csr = Csr::new("01890a5d-ac96-774b-bcce-b302099a8057").unwrap();
        let issued = Chain::read(authority.sign(&csr.pem).unwrap().as_bytes()).unwrap();
        assert_eq!(issued.has_key(&csr.public_key), Ok(()));
        let broken = csr.with_broken_signature();
        let error = authority.sign(&broken).unwrap_err().to_string();
        assert!(error.contains("signature"), "{error}");
    }
}
