//! The reference server behind TLS: it asks for client certificates, which have to be its own.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};

use crate::reference::Faults;
use crate::wire::authority::{Authority, CertificateError, client_config, server_config};

/// The settings of the server that issues client certificates with this authority, and those of a
/// client that trusts it.
pub(super) fn settings(
    issuer: &Authority,
    faults: &Faults,
) -> Result<(Arc<ServerConfig>, Arc<ClientConfig>), CertificateError> {
    let trusted = Authority::new("authority of the reference server")?;
    let mut server = server_config(&trusted.server()?, Some(issuer.pem()), false)?;
    if faults.has("client-certificates-are-not-verified") {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (chain, key) = trusted.server()?.read()?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Anybody(provider)));
        server = Arc::new(builder.with_single_cert(chain, key)?);
    }
    Ok((server, client_config(trusted.pem(), None)?))
}

/// Takes any client certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
