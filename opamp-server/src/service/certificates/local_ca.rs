//! A certificate authority in this process: its certificate and its private key are here.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opamp_proto::v1;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::{CertificateAuthority, CertificateRequest, IssuedCertificate, NotIssued};
use super::{Revocations, Revoked};
use crate::fleet::AgentKey;
use crate::service::error::{Error, ErrorKind};

/// How long certificates are valid unless another time is set.
const DEFAULT_VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Certificates are valid from a little before they are made, for Agents whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A certificate authority in this process (CSR-11).
///
/// Of a request it takes the public key alone. The certificate is made by its own rules: the
/// subject's common name is the Agent's instance uid, which the alternative name `urn:uuid:…`
/// repeats; it is for TLS clients, signs no other certificates, has a random serial number of 16
/// bytes, and is valid for 30 days, or as long as the authority's own certificate is if that is
/// less. An Agent asks for the next one in time (CSR-16).
///
/// Whoever reads the process's memory or files can make certificates, so where it matters keep the
/// key elsewhere, and implement [`CertificateAuthority`] with who has it (CERT-17). Clones are the
/// same authority.
///
/// ```no_run
/// use opamp_server::{CertificateIssuing, CsrApproval, LocalCa, ServiceConfig};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ca = LocalCa::from_pem(&std::fs::read("ca.pem")?, &std::fs::read("ca-key.pem")?)?;
/// let issuing = CertificateIssuing::new(ca, "wss://opamp.example:4320/v1/opamp")?
///     .approval(CsrApproval::Manual);
/// let mut config = ServiceConfig::default();
/// config.certificates = Some(issuing);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct LocalCa {
    inner: Arc<Inner>,
    validity: Duration,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    not_after: SystemTime,
    /// The texts that go along: what is between the certificates made here and the root, and all.
    intermediates: String,
    authority: String,
}

impl LocalCa {
    /// An authority from PEM texts: its certificate, followed by those above it if it is not a
    /// root, and its private key (PKCS#8).
    ///
    /// # Errors
    ///
    /// An [`Error`] of kind [`Authority`](ErrorKind::Authority) that says what is wrong: no
    /// certificate, one that may not sign others, one that is not valid at present, no key in
    /// PKCS#8, or a key that is another certificate's.
    pub fn from_pem(certificates: &[u8], private_key: &[u8]) -> Result<Self, Error> {
        let chain = CertificateDer::pem_slice_iter(certificates).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| unusable(format!("the certificate: {error}")))?;
        let own = chain.first().ok_or_else(|| unusable("there is no certificate"))?;
        let (_, parsed) = X509Certificate::from_der(own)
            .map_err(|error| unusable(format!("the certificate is damaged: {error}")))?;
        let not_after = check_authority(&parsed)?;

        let key = std::str::from_utf8(private_key).ok().filter(|key| key.contains("-----BEGIN"));
        let key = key.ok_or_else(|| unusable("there is no private key in PEM"))?;
        // Neither the key nor what its parser says of it is for messages.
        let key = KeyPair::from_pem(key).map_err(|_| {
            unusable(
                "the private key cannot be read: it has to be ECDSA on P-256 or P-384, Ed25519 or RSA, \
                 in PKCS#8 (`openssl pkcs8 -topk8 -nocrypt` makes that of other forms)",
            )
        })?;
        if key.subject_public_key_info() != parsed.public_key().raw {
            return Err(unusable("the private key is not that of the certificate"));
        }
        let issuer = Issuer::from_ca_cert_der(own, key)
            .map_err(|error| unusable(format!("the certificate: {error}")))?;
        let is_root = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der)
                .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
        };
        let between = chain.iter().filter(|certificate| !is_root(certificate));
        Ok(Self {
            inner: Arc::new(Inner {
                issuer,
                not_after,
                intermediates: between.map(|certificate| pem("CERTIFICATE", certificate)).collect(),
                authority: chain.iter().map(|it| pem("CERTIFICATE", it)).collect(),
            }),
            validity: DEFAULT_VALIDITY,
        })
    }

    /// How long certificates are valid. Default: 30 days.
    #[must_use]
    pub fn validity(self, validity: Duration) -> Self {
        Self { validity, ..self }
    }

    /// The authority's certificates, PEM: what whoever verifies its certificates has to trust.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.inner.authority
    }

    /// A certificate with a new key, for an Agent that did not ask for one of a key of its own: one
    /// that was approved on its first use, or is to have credentials of its own from then on
    /// (TOFU-04, TOFU-06, CERT-12). Offer it with
    /// [`Fleet::offer_certificate`](crate::Fleet::offer_certificate).
    ///
    /// # Errors
    ///
    /// [`NotIssued`] if the authority's own certificate is not valid any more.
    pub fn credentials(&self, agent: impl Into<AgentKey>) -> Result<v1::TlsCertificate, NotIssued> {
        let key = KeyPair::generate().map_err(|_| NotIssued::failed())?;
        let IssuedCertificate { certificate, authority } = self.sign(agent.into(), &key)?;
        Ok(v1::TlsCertificate {
            cert: certificate.into(),
            private_key: key.serialize_pem().into(),
            ca_cert: authority.unwrap_or_default().into(),
        })
    }

    /// The revoked serial numbers as a list that other verifiers can read (CRL, PEM), valid for
    /// this long. What is revoked by instance uid is not in it.
    ///
    /// # Errors
    ///
    /// An [`Error`] of kind [`Authority`](ErrorKind::Authority) if the authority may not sign such
    /// lists.
    pub fn revocation_list(
        &self,
        revocations: &Revocations,
        valid_for: Duration,
    ) -> Result<String, Error> {
        let now = now();
        let revoked = revocations.entries().into_iter().filter_map(|(what, since)| match what {
            Revoked::Serial(serial) => Some(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.as_bytes()),
                revocation_time: since.into(),
                reason_code: None,
                invalidity_date: None,
            }),
            Revoked::InstanceUid(_) => None,
        });
        // Each list has a greater number than the one before.
        let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + valid_for.min(self.longest())).into(),
            crl_number: SerialNumber::from_slice(&number.to_be_bytes()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list =
            list.signed_by(&self.inner.issuer).map_err(|error| unusable(error.to_string()))?;
        list.pem().map_err(|error| unusable(error.to_string()))
    }

    /// What is left of the authority's own time.
    fn longest(&self) -> Duration {
        self.inner.not_after.duration_since(now()).unwrap_or_default()
    }

    fn sign(
        &self,
        agent: AgentKey,
        key: &impl PublicKeyData,
    ) -> Result<IssuedCertificate, NotIssued> {
        let now = now();
        if self.longest().is_zero() {
            tracing::error!("the certificate of the local authority has expired");
            return Err(NotIssued::new("the authority's own certificate has expired"));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, agent.uid().to_string());
        if let Some(uid) = agent.uid().instance_uid() {
            let urn = format!("urn:uuid:{uid}").try_into().map_err(|_| NotIssued::failed())?;
            params.subject_alt_names = vec![SanType::URI(urn)];
        }
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + self.validity.min(self.longest())).into();
        params.serial_number = Some(SerialNumber::from_slice(&random_serial()?));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.inner.issuer).map_err(|error| {
            tracing::error!(%error, "the local authority cannot sign");
            NotIssued::failed()
        })?;
        Ok(IssuedCertificate {
            certificate: certificate.pem() + &self.inner.intermediates,
            authority: Some(self.inner.authority.clone()),
        })
    }
}

impl CertificateAuthority for LocalCa {
    async fn issue(&self, request: &CertificateRequest) -> Result<IssuedCertificate, NotIssued> {
        let key = SubjectPublicKeyInfo::from_der(request.public_key())
            .map_err(|_| NotIssued::new("the key is of a kind that the authority does not take"))?;
        let (this, agent) = (self.clone(), request.agent());
        // A signature with an RSA key takes milliseconds.
        let signed = tokio::task::spawn_blocking(move || this.sign(agent, &key)).await;
        signed.map_err(|_| NotIssued::failed())?
    }
}

/// Shows no secrets.
impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Checks that a certificate may sign others at present, and returns its end.
fn check_authority(certificate: &X509Certificate<'_>) -> Result<SystemTime, Error> {
    let constraints = certificate.basic_constraints().ok().flatten();
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(unusable(
            "the certificate is not that of an authority (its basic constraints do not say CA)",
        ));
    }
    let usage = certificate.key_usage().map_err(|error| unusable(error.to_string()))?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(unusable("the certificate may not sign others (its key usage says so)"));
    }
    let validity = certificate.validity();
    let time = |seconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    let (Some(begin), Some(end)) =
        (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()))
    else {
        return Err(unusable("the certificate is valid beyond all time"));
    };
    let now = now();
    if end <= now {
        return Err(unusable(format!("the certificate expired on {}", validity.not_after)));
    }
    if begin > now {
        return Err(unusable(format!("the certificate is valid from {}", validity.not_before)));
    }
    Ok(end)
}

/// 16 random bytes that are a positive number without leading zeros.
fn random_serial() -> Result<[u8; 16], NotIssued> {
    let mut serial = [0; 16];
    let random = rustls::crypto::ring::default_provider().secure_random;
    random.fill(&mut serial).map_err(|_| NotIssued::failed())?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn now() -> SystemTime {
    super::super::now().system
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

fn unusable(source: impl Into<crate::service::BoxError>) -> Error {
    Error::new(ErrorKind::Authority, source)
}
