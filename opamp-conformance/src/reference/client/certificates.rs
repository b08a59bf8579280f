//! TLS of the reference client: whom it trusts, what it presents, and which versions and cipher
//! suites it offers.

use std::sync::Arc;

use opamp_proto::v1::TlsConnectionSettings;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::settings::Settings;
use crate::reference::Faults;

/// The TLS side of these settings.
pub(super) fn client_config(
    settings: &Settings,
    faults: &Faults,
) -> Result<Arc<ClientConfig>, String> {
    let text = |error: rustls::Error| error.to_string();
    let mut tls = settings.tls.clone().unwrap_or_default();
    let ignored = |fault| faults.has(fault);
    if ignored("offered-authority-is-not-trusted") {
        tls.ca_pem_contents.clear();
    }
    if ignored("no-verification-is-refused-silently") {
        tls.insecure_skip_verify = false;
    }
    if ignored("lowest-tls-version-is-ignored") {
        tls.min_version.clear();
    }
    if ignored("highest-tls-version-is-ignored") {
        tls.max_version.clear();
    }
    if ignored("cipher-suites-are-ignored") {
        tls.cipher_suites.clear();
    }
    let mut provider = rustls::crypto::ring::default_provider();
    if !tls.cipher_suites.is_empty() {
        let wanted = |suite: &SupportedCipherSuite| tls.cipher_suites.contains(&iana(suite));
        provider.cipher_suites.retain(wanted);
    }
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(&tls)?)
        .map_err(text)?;
    let builder = if tls.insecure_skip_verify || faults.has("servers-are-not-verified") {
        let trusting = Arc::new(Trusting(provider));
        builder.dangerous().with_custom_certificate_verifier(trusting)
    } else {
        builder.with_root_certificates(roots(settings, &tls)?)
    };
    let identity = settings
        .identity
        .as_ref()
        .filter(|_| settings.proxy.is_none() || !faults.has("no-certificate-for-the-proxy"));
    let config = match identity {
        Some(identity) => {
            let pem = |error: rustls::pki_types::pem::Error| error.to_string();
            let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().map_err(pem)?;
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(pem)?;
            builder.with_client_auth_cert(chain, key).map_err(text)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The offered authorities; with those it was started with where none are offered or they are asked
/// for.
fn roots(settings: &Settings, tls: &TlsConnectionSettings) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let own = settings.ca.as_deref().unwrap_or_default();
    let own =
        Some(own).filter(|_| tls.ca_pem_contents.is_empty() || tls.include_system_ca_certs_pool);
    for pem in own.into_iter().chain([tls.ca_pem_contents.as_str()]) {
        for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let cert = cert.map_err(|error| error.to_string())?;
            roots.add(cert).map_err(|error| error.to_string())?;
        }
    }
    Ok(roots)
}

fn versions(tls: &TlsConnectionSettings) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let bound = |text: &str, unset| match text.trim_start_matches("TLSv") {
        "" => Ok(unset),
        "1.0" => Ok(10),
        "1.1" => Ok(11),
        "1.2" => Ok(12),
        "1.3" => Ok(13),
        _ => Err(format!("{text:?} is no TLS version")),
    };
    let (least, most) = (bound(&tls.min_version, 12)?, bound(&tls.max_version, 13)?);
    let all = [(13, &TLS13), (12, &TLS12)];
    let within = all.into_iter().filter(|(version, _)| (least..=most).contains(version));
    Ok(within.map(|(_, version)| version).collect())
}

/// The name of a suite as IANA has it.
fn iana(suite: &SupportedCipherSuite) -> String {
    format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
}

/// Verifies nothing but that the server holds its key.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
