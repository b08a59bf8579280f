//! A certificate request, read and verified (CSR-05, CSR-17, CSR-20).
//!
//! Whoever sends one proves that it has the private key of the public key in it, and that is all it
//! proves. So what a request says of names, purposes and authority is shown to who approves it, and
//! an authority takes the key out of it alone.

use std::fmt;

use bytes::Bytes;
use opamp_proto::{InstanceUid, LegacyUid};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::peer::uuids_in;
use crate::core::CertificateRequestId;
use crate::fleet::AgentKey;

/// The greatest RSA key that is taken, in bits: opamp-go's agents make such ones, and larger ones
/// cost whoever verifies them.
const MAX_RSA_BITS: usize = 4096;

/// The names of a request that are looked at; one with more is refused.
const MAX_NAMES: usize = 32;

/// The kind of an Agent's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519.
    Ed25519,
    /// RSA with a modulus of so many bits, from 2048 to 4096.
    Rsa(usize),
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
        }
    }
}

/// What is wrong with a certificate request; the Agent is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidCertificateRequest {
    /// It is not a PEM text with one certificate request (PKCS#10), or that is damaged.
    #[error("certificate_request.csr: {0}")]
    Unreadable(&'static str),
    /// Its signature is wrong.
    #[error("certificate_request.csr: the signature is not by the key in the request")]
    Signature,
    /// The key or the signature is of a kind that is not taken.
    #[error(
        "certificate_request.csr: the key has to be ECDSA on P-256 or P-384, Ed25519, or RSA with 2048 \
         to 4096 bits, and the signature with SHA-256 or better"
    )]
    Algorithm,
    /// It names another instance uid than the Agent's (CSR-20).
    #[error(
        "certificate_request.csr: it names the instance_uid {0}, which is not that of the message"
    )]
    AnotherAgent(InstanceUid),
}

/// A verified request of an Agent for a certificate of a key that is its own.
///
/// ```no_run
/// use opamp_server::{AgentKey, CertificateRequest};
/// # fn show(key: AgentKey, csr: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
/// let request = CertificateRequest::parse(key, csr)?;
/// println!("{} asks for a certificate: {}, {:?}", key, request.key_algorithm(), request.names());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CertificateRequest {
    agent: AgentKey,
    id: CertificateRequestId,
    pem: Bytes,
    der: Vec<u8>,
    names: Vec<String>,
    algorithm: KeyAlgorithm,
    public_key: Vec<u8>,
}

impl CertificateRequest {
    /// Reads and verifies what an Agent sent.
    ///
    /// # Errors
    ///
    /// [`InvalidCertificateRequest`] if it is no PEM text with a request, if its signature is
    /// wrong, if its key is of a kind or size that is not taken, or if a common name, URI or DNS
    /// name in it holds an instance uid that is not the Agent's.
    pub fn parse(agent: AgentKey, csr: &[u8]) -> Result<Self, InvalidCertificateRequest> {
        use InvalidCertificateRequest::{Algorithm, AnotherAgent, Signature, Unreadable};

        let mut blocks = CertificateSigningRequestDer::pem_slice_iter(csr);
        let no_pem = Unreadable("it is no certificate request in PEM");
        let der = blocks.next().and_then(Result::ok).ok_or(no_pem)?;
        if blocks.next().is_some() {
            return Err(Unreadable("there is more than one request in it"));
        }
        let damaged = Unreadable("the certificate request is damaged");
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| damaged.clone())?;
        if !rest.is_empty() {
            return Err(damaged);
        }
        let info = &request.certification_request_info;
        let algorithm = key_algorithm(&info.subject_pki).ok_or(Algorithm)?;
        if !signs_with(algorithm, &request) {
            return Err(Algorithm);
        }
        request.verify_signature().map_err(|_| Signature)?;

        let names = names(&request)?;
        let of_old = || LegacyUid::parse(agent.uid().as_bytes()).map(|legacy| legacy.uid());
        let uid = agent.uid().instance_uid().or_else(of_old);
        let other = names.iter().flat_map(|name| uuids_in(name)).find(|named| Some(*named) != uid);
        if let Some(other) = other {
            return Err(AnotherAgent(other));
        }
        let public_key = info.subject_pki.raw.to_vec();
        Ok(Self {
            agent,
            id: CertificateRequestId::of(csr),
            pem: Bytes::copy_from_slice(csr),
            der: der.to_vec(),
            names,
            algorithm,
            public_key,
        })
    }

    /// Who asks. The certificate is to name this Agent and no other.
    #[must_use]
    pub const fn agent(&self) -> AgentKey {
        self.agent
    }

    /// Which request it is.
    #[must_use]
    pub const fn id(&self) -> CertificateRequestId {
        self.id
    }

    /// The request as the Agent sent it.
    #[must_use]
    pub const fn pem(&self) -> &Bytes {
        &self.pem
    }

    /// The request (PKCS#10) in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The common names, URIs and DNS names the Agent would like to have. Nothing vouches for them,
    /// but that none holds an instance uid which is not the Agent's.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The kind of the key.
    #[must_use]
    pub const fn key_algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public key, a SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

fn key_algorithm(key: &SubjectPublicKeyInfo<'_>) -> Option<KeyAlgorithm> {
    use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};

    match key.parsed().ok()? {
        PublicKey::RSA(rsa) => {
            // Without leading zeros, of which there should be one at most.
            let zeros = rsa.modulus.iter().take_while(|byte| **byte == 0).count();
            let modulus = &rsa.modulus[zeros..];
            let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
            let exponent = rsa.try_exponent().ok()?;
            let is_good = (2048..=MAX_RSA_BITS).contains(&bits) && exponent >= 65_537;
            is_good.then_some(KeyAlgorithm::Rsa(bits))
        }
        PublicKey::EC(_) => {
            let curve = key.algorithm.parameters.as_ref()?.as_oid().ok()?;
            if curve == OID_EC_P256 {
                Some(KeyAlgorithm::EcdsaP256)
            } else if curve == OID_NIST_EC_P384 {
                Some(KeyAlgorithm::EcdsaP384)
            } else {
                None
            }
        }
        _ if key.algorithm.algorithm == OID_SIG_ED25519 => Some(KeyAlgorithm::Ed25519),
        _ => None,
    }
}

/// Whether a request is signed in a way that is good for this kind of key: never with SHA-1.
fn signs_with(algorithm: KeyAlgorithm, request: &X509CertificationRequest<'_>) -> bool {
    let signed = &request.signature_algorithm.algorithm;
    match algorithm {
        KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
            [OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384].contains(signed)
        }
        KeyAlgorithm::Ed25519 => *signed == OID_SIG_ED25519,
        KeyAlgorithm::Rsa(_) => {
            [OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA]
                .contains(signed)
        }
    }
}

fn names(request: &X509CertificationRequest<'_>) -> Result<Vec<String>, InvalidCertificateRequest> {
    use InvalidCertificateRequest::Unreadable;

    let mut names = Vec::new();
    for name in request.certification_request_info.subject.iter_common_name() {
        // What cannot be read might be an id.
        names.push(name.as_str().map_err(|_| Unreadable("a common name is no text"))?.to_owned());
    }
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension else { continue };
        for name in &alternatives.general_names {
            if let GeneralName::URI(name) | GeneralName::DNSName(name) = name {
                names.push((*name).to_owned());
            }
        }
    }
    match names.len() {
        ..=MAX_NAMES => Ok(names),
        _ => Err(Unreadable("there are too many names in it")),
    }
}
