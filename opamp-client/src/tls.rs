//! TLS for `wss` and `https`: trust and identity from PEM, made into a rustls configuration.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind};

/// What a client trusts, and who it says it is.
///
/// ```
/// # fn main() -> Result<(), opamp_client::Error> {
/// # let ca_pem = rcgen_ca();
/// let tls = opamp_client::tls::Tls::new().trust_pem(ca_pem.as_bytes())?.config()?;
/// let builder = opamp_client::Client::builder("wss://opamp.example.com/v1/opamp").tls(tls);
/// # drop(builder);
/// # Ok(())
/// # }
/// # fn rcgen_ca() -> String {
/// #     rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use = "call config"]
pub struct Tls {
    trusted: Vec<CertificateDer<'static>>,
    system: bool,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Tls {
    /// Trusts nothing yet. A configuration without any trust falls back to the system's store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in `pem`.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it, or one that cannot be read.
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        self.trusted.extend(certificates(pem, "CA certificates")?);
        Ok(self)
    }

    /// Trusts what the system trusts, also when other authorities are given.
    pub fn trust_system(mut self) -> Self {
        self.system = true;
        self
    }

    /// Presents a client certificate: `certificates` is the chain with the agent's own first, `key`
    /// its private key.
    ///
    /// # Errors
    ///
    /// When either is not readable PEM.
    pub fn identity_pem(mut self, certificates_pem: &[u8], key_pem: &[u8]) -> Result<Self, Error> {
        let chain = certificates(certificates_pem, "client certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
            Error::with_source(ErrorKind::Tls, "the client key is not a readable PEM key", error)
        })?;
        self.identity = Some((chain, key));
        Ok(self)
    }

    /// Makes the configuration, with the ring provider and rustls's defaults (TLS 1.2 and 1.3).
    ///
    /// # Errors
    ///
    /// When the system's trust store is needed and has no usable certificate, or the client's
    /// certificate and key do not belong together.
    pub fn config(self) -> Result<Arc<ClientConfig>, Error> {
        let mut roots = RootCertStore::empty();
        if self.system || self.trusted.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            let (usable, _) = roots.add_parsable_certificates(found.certs);
            if usable == 0 {
                let message = "the system's trust store has no usable certificate: name a CA file";
                return Err(Error::new(ErrorKind::Tls, message));
            }
        }
        for certificate in self.trusted {
            roots.add(certificate).map_err(|error| {
                Error::with_source(ErrorKind::Tls, "a CA certificate is not usable", error)
            })?;
        }
        let builder = builder(roots)?;
        let config = match self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
                let message = "the client certificate and its key do not belong together";
                Error::with_source(ErrorKind::Tls, message, error)
            })?,
        };
        Ok(Arc::new(config))
    }
}

fn builder(
    roots: RootCertStore,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::with_source(ErrorKind::Tls, "no TLS version", error))?;
    Ok(builder.with_root_certificates(roots))
}

/// What a client of an `http` URL uses: it makes no TLS connections.
#[cfg(feature = "http")]
pub(crate) fn trusting_nobody() -> Result<ClientConfig, Error> {
    Ok(builder(RootCertStore::empty())?.with_no_client_auth())
}

/// Whether TLS is at the bottom of an error.
pub(crate) fn is_cause_of(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // An I/O error hides from `source` what it wraps, and TLS errors come wrapped in those.
        next = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::new(ErrorKind::Tls, format!("no PEM certificate in the {what}"))),
        Err(error) => {
            let message = format!("the {what} are not readable PEM");
            Err(Error::with_source(ErrorKind::Tls, message, error))
        }
    }
}
