//! Certificates a case needs: an authority made for it, what it issues, and the TLS settings of
//! either end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use crate::judge::Stop;

/// What went wrong with certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Making or signing one failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("TLS does not accept the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// It is not PEM.
    #[error("not PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The verifier of client certificates cannot be made.
    #[error("no verifier of client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

impl From<CertificateError> for Stop {
    fn from(error: CertificateError) -> Self {
        Self::Harness(error.to_string())
    }
}

/// A certificate authority made for one case.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub cert: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority of this name.
    ///
    /// # Errors
    ///
    /// When making the key or the certificate fails.
    pub fn new(name: &str) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server certificate for loopback addresses and `localhost`.
    ///
    /// # Errors
    ///
    /// When making the key or the certificate fails.
    pub fn server(&self) -> Result<Identity, CertificateError> {
        let names = ["127.0.0.1", "localhost", "::1"].map(str::to_owned).to_vec();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "conformance server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// A client certificate for this common name.
    ///
    /// # Errors
    ///
    /// When making the key or the certificate fails.
    pub fn client(&self, name: &str) -> Result<Identity, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    /// The certificate a signing request asks for, PEM.
    ///
    /// # Errors
    ///
    /// When the request is not one or its signature is wrong.
    pub fn sign(&self, csr: &str) -> Result<String, CertificateError> {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr)?;
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        Ok(request.signed_by(&self.issuer)?.pem())
    }

    fn issue(&self, params: &CertificateParams) -> Result<Identity, CertificateError> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity { cert, key: key.serialize_pem() })
    }
}

/// TLS settings of a server: its identity, and the authority client certificates have to come from
/// where `client_ca` gives one. A client may connect without a certificate unless it is `required`.
///
/// # Errors
///
/// When something is not PEM or TLS refuses it.
pub fn server_config(
    identity: &Identity,
    client_ca: Option<&str>,
    required: bool,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        Some(ca) => {
            let roots = Arc::new(roots(ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier =
                if required { verifier } else { verifier.allow_unauthenticated() }.build()?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = identity.read()?;
    Ok(Arc::new(builder.with_single_cert(chain, key)?))
}

/// TLS settings of a server that speaks these versions alone and takes the cipher suite `last` only
/// where the client offers no other. It asks for no client certificate.
///
/// # Errors
///
/// When something is not PEM or TLS refuses it.
pub fn limited_server_config(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    last: Option<CipherSuite>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| Some(suite.suite()) == last);
    let (chain, key) = identity.read()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// The first certificate in PEM, as DER; `None` where there is none.
#[must_use]
pub fn certificate(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// TLS settings of a client that trusts the authority `ca` alone.
///
/// # Errors
///
/// When something is not PEM or TLS refuses it.
pub fn client_config(
    ca: &str,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, CertificateError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?);
    Ok(Arc::new(match identity {
        Some(identity) => {
            let (chain, key) = identity.read()?;
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    }))
}

/// The settings of a client that presents this certificate where it is asked for one, and notes in
/// `is_asked` that it was.
///
/// # Errors
///
/// When it is not PEM or TLS refuses it.
pub fn presenting(
    config: &ClientConfig,
    identity: &Identity,
    is_asked: &Arc<AtomicBool>,
) -> Result<Arc<ClientConfig>, CertificateError> {
    let (chain, key) = identity.read()?;
    let provider = rustls::crypto::ring::default_provider();
    let key = rustls::sign::CertifiedKey::from_der(chain, key, &provider)?;
    let mut config = config.clone();
    // A resumed session would be that of the certificate before.
    config.resumption = Resumption::disabled();
    config.client_auth_cert_resolver =
        Arc::new(Presented { key: Arc::new(key), is_asked: Arc::clone(is_asked) });
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Presented {
    key: Arc<rustls::sign::CertifiedKey>,
    is_asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Presented {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.is_asked.store(true, Ordering::SeqCst);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn roots(ca: &str) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        roots.add(cert?)?;
    }
    Ok(roots)
}

/// Certificates, the first one's own first, and the key of the first.
pub type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    /// Its certificates and its key.
    ///
    /// # Errors
    ///
    /// When they are not PEM.
    pub fn read(&self) -> Result<Chain, CertificateError> {
        let chain =
            CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes())?))
    }
}
