//! TLS for the listener: client certificates, and certificates that are renewed while it listens.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CipherSuite, RootCertStore, ServerConfig};

use super::error::{Error, ErrorKind};

mod reload;

pub(super) use self::reload::keep_current;
pub use self::reload::{ListenerTls, TlsFiles};

/// Whether clients have to present certificates, and which authorities sign these, PEM texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuthentication<'a> {
    /// Clients are asked for none.
    None,
    /// One of these authorities has to have signed the client's certificate.
    Required(&'a [u8]),
    /// A client may have no certificate; one that it presents is verified as if it were required.
    /// So Agents can come without and ask for one (TOFU-01, CSR-01). Whoever admits requests has to
    /// look whether there is one.
    Optional(&'a [u8]),
}

/// A TLS configuration from PEM texts: the server's certificate chain, its own first, and its
/// private key.
///
/// With authorities for client certificates a client has to present a certificate that one of them
/// signed; it reaches [`Handler::admit`](crate::Handler::admit) as
/// [`PeerCertificates`](crate::PeerCertificates). For certificates that are welcome but not
/// required see [`server_config_for`], and for files that are renewed [`TlsFiles`].
///
/// TLS 1.2 and 1.3 are offered, with the server's order of cipher suites: AES-128 with SHA-256
/// first. Sessions are resumed by tickets, so that a fleet that reconnects as a whole need not fit
/// a cache.
///
/// # Errors
///
/// An [`Error`] of kind [`Tls`](ErrorKind::Tls) if a text holds no usable certificate or key, or
/// the two do not belong together.
pub fn server_config(
    certificates: &[u8],
    private_key: &[u8],
    client_authorities: Option<&[u8]>,
) -> Result<ServerConfig, Error> {
    let clients =
        client_authorities.map_or(ClientAuthentication::None, ClientAuthentication::Required);
    server_config_for(certificates, private_key, clients)
}

/// As [`server_config`], with a choice of what is asked of clients.
///
/// # Errors
///
/// As [`server_config`].
pub fn server_config_for(
    certificates: &[u8],
    private_key: &[u8],
    clients: ClientAuthentication<'_>,
) -> Result<ServerConfig, Error> {
    let chain = certificates_of(certificates)?;
    let key = PrivateKeyDer::from_pem_slice(private_key).map_err(unusable)?;
    let mut provider = rustls::crypto::ring::default_provider();
    // Processors have instructions for SHA-256, and few for SHA-384, in which a handshake would
    // spend a tenth of its time.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let builder = match clients {
        ClientAuthentication::None => builder.with_no_client_auth(),
        ClientAuthentication::Required(pem) | ClientAuthentication::Optional(pem) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates_of(pem)? {
                roots.add(authority).map_err(unusable)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match clients {
                ClientAuthentication::Optional(_) => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.ignore_client_order = true;
    // An Agent has one connection, and gets another ticket with the next.
    config.send_tls13_tickets = 1;
    config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable)?;
    let spoken = [
        #[cfg(feature = "http2")]
        "h2",
        "http/1.1",
    ];
    config.alpn_protocols = spoken.into_iter().map(|name| name.into()).collect();
    Ok(config)
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(unusable)?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate"));
    }
    Ok(certificates)
}

fn unusable(source: impl Into<super::BoxError>) -> Error {
    Error::new(ErrorKind::Tls, source)
}
