//! TLS for `wss` and `https`: whom a client trusts, who it says it is, and what it insists on.
//!
//! What is given here holds for the connection to the OpAMP server and for a proxy on the way to it
//! (PROXY-03). Settings that the server offers lie on top: they replace trust and identity, and can
//! narrow versions and cipher suites, never widen them.

mod failure;
mod files;
mod offer;
mod unverified;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};

pub(crate) use self::failure::explain;
pub(crate) use self::files::Stamp;
use self::files::{Files, read};
use crate::error::{Error, ErrorKind};

/// A version of TLS. Older ones than these are broken, and not implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    fn supported(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &rustls::version::TLS12,
            Self::Tls13 => &rustls::version::TLS13,
        }
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// What a client trusts, who it says it is, and the versions of TLS it speaks.
///
/// ```
/// # fn main() -> Result<(), opamp_client::Error> {
/// # let ca_pem = rcgen_ca();
/// use opamp_client::tls::{Tls, TlsVersion};
///
/// let tls = Tls::new().trust_pem(ca_pem.as_bytes())?.min_version(TlsVersion::Tls13);
/// let builder = opamp_client::Client::builder("wss://opamp.example.com/v1/opamp").tls(tls);
/// # drop(builder);
/// # Ok(())
/// # }
/// # fn rcgen_ca() -> String {
/// #     rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()
/// # }
/// ```
#[derive(Clone)]
#[must_use = "give it to Builder::tls"]
pub struct Tls {
    trusted: Vec<CertificateDer<'static>>,
    system: bool,
    identity: Option<Arc<CertifiedKey>>,
    files: Files,
    lowest: TlsVersion,
    highest: TlsVersion,
    suites: Vec<SupportedCipherSuite>,
    verify: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows neither certificates nor keys.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("trusted", &self.trusted.len())
            .field("system", &self.system)
            .field("identity", &self.identity.is_some())
            .field("files", &self.files)
            .field("versions", &(self.lowest..=self.highest))
            .field("cipher_suites", &self.suites.len())
            .field("verify", &self.verify)
            .finish()
    }
}

impl Tls {
    /// Trusts nothing yet, and speaks TLS 1.2 and 1.3. Without any trust the system's store is
    /// used.
    pub fn new() -> Self {
        Self {
            trusted: Vec::new(),
            system: false,
            identity: None,
            files: Files::default(),
            lowest: TlsVersion::Tls12,
            highest: TlsVersion::Tls13,
            suites: provider().cipher_suites,
            verify: true,
        }
    }

    /// Trusts the certificate authorities in `pem`.
    ///
    /// # Errors
    ///
    /// When there is no certificate in it, or one that cannot be read.
    pub fn trust_pem(mut self, pem: &[u8]) -> Result<Self, Error> {
        let authorities = certificates(pem, "CA certificates")?;
        let mut scratch = RootCertStore::empty();
        for authority in &authorities {
            scratch.add(authority.clone()).map_err(|error| {
                Error::with_source(ErrorKind::Tls, "a CA certificate is not usable", error)
            })?;
        }
        self.trusted.extend(authorities);
        Ok(self)
    }

    /// Trusts the certificate authorities in a PEM file, and again whatever is in it when it has
    /// changed: the next handshake or request looks. As long as it cannot be read then, the last
    /// contents hold.
    ///
    /// # Errors
    ///
    /// As [`trust_pem`](Self::trust_pem), and when the file cannot be read.
    pub fn trust_file(mut self, path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let _ = Self::new().trust_pem(&read(&path)?)?;
        self.files.trusted.push(path);
        Ok(self)
    }

    /// Trusts what the system trusts, also when other authorities are given.
    pub fn trust_system(mut self) -> Self {
        self.system = true;
        self
    }

    /// Presents a client certificate: `certificates_pem` is the chain with the agent's own first,
    /// `key_pem` its private key (PKCS #8, PKCS #1 or SEC1).
    ///
    /// A certificate that the server offers later takes its place (CERT-01).
    ///
    /// # Errors
    ///
    /// When either is not readable PEM, or they do not belong together.
    pub fn identity_pem(mut self, certificates_pem: &[u8], key_pem: &[u8]) -> Result<Self, Error> {
        let chain = certificates(certificates_pem, "client certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|error| {
            let why = unreadable(&error);
            Error::new(ErrorKind::Tls, format!("the client key is not a readable PEM key: {why}"))
        })?;
        let identity = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            let message = match error {
                rustls::Error::InconsistentKeys(_) => {
                    "the client certificate and its key do not belong together"
                }
                _ => "the client certificate or its key is of a kind that is not usable",
            };
            Error::with_source(ErrorKind::Tls, message, error)
        })?;
        self.identity = Some(Arc::new(identity));
        self.files.identity = None;
        Ok(self)
    }

    /// As [`identity_pem`](Self::identity_pem), with PEM files, which are read again when they have
    /// changed: a certificate that something else renews is in use with the next handshake. Put new
    /// files in the place of the old ones by renaming; as long as they do not fit, the last ones
    /// hold.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), opamp_client::Error> {
    /// let tls = opamp_client::tls::Tls::new()
    ///     .trust_file("/etc/my-agent/ca.pem")?
    ///     .identity_files("/etc/my-agent/tls.crt", "/etc/my-agent/tls.key")?;
    /// # drop(tls);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As there, and when a file cannot be read.
    pub fn identity_files(
        mut self,
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, Error> {
        let (certificates, key) = (certificates.into(), key.into());
        let _ = Self::new().identity_pem(&read(&certificates)?, &read(&key)?)?;
        self.identity = None;
        self.files.identity = Some((certificates, key));
        Ok(self)
    }

    /// Speaks no older version. Settings that the server offers cannot go below it. Default: 1.2.
    pub fn min_version(mut self, version: TlsVersion) -> Self {
        self.lowest = version;
        self
    }

    /// Speaks no newer version. Default: 1.3.
    pub fn max_version(mut self, version: TlsVersion) -> Self {
        self.highest = version;
        self
    }

    /// Makes the configuration, with the ring provider, for other connections of the agent that are
    /// to have the same trust and identity. Each call begins a new memory of TLS sessions.
    ///
    /// # Errors
    ///
    /// When the system's trust store is needed and has no usable certificate, a file cannot be
    /// used, or no version is left between the lowest and the highest.
    pub fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        self.loaded()?.build()
    }

    /// Makes the configuration without a look at files.
    fn build(&self) -> Result<Arc<ClientConfig>, Error> {
        let versions: Vec<_> = [TlsVersion::Tls13, TlsVersion::Tls12]
            .into_iter()
            .filter(|version| (self.lowest..=self.highest).contains(version))
            .map(TlsVersion::supported)
            .filter(|version| self.suites.iter().any(|suite| suite.version() == *version))
            .collect();
        if versions.is_empty() {
            let Self { lowest, highest, .. } = self;
            let message = format!(
                "no TLS version is left: at least {lowest} and at most {highest}, with the cipher \
                 suites that are allowed"
            );
            return Err(Error::new(ErrorKind::Tls, message));
        }
        let provider =
            Arc::new(CryptoProvider { cipher_suites: self.suites.clone(), ..provider() });
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&versions)
            .map_err(|error| Error::with_source(ErrorKind::Tls, "no TLS version", error))?;
        let builder = match self.verify {
            true => builder.with_root_certificates(self.roots()?),
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(unverified::Anyone(provider))),
        };
        Ok(Arc::new(match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let identity = SingleCertAndKey::from(CertifiedKey::clone(identity));
                builder.with_client_cert_resolver(Arc::new(identity))
            }
        }))
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        if self.system || self.trusted.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            let (usable, _) = roots.add_parsable_certificates(found.certs);
            if usable == 0 && self.trusted.is_empty() {
                let message = "the system's trust store has no usable certificate: name a CA file";
                return Err(Error::new(ErrorKind::Tls, message));
            }
        }
        for certificate in &self.trusted {
            roots.add(certificate.clone()).map_err(|error| {
                Error::with_source(ErrorKind::Tls, "a CA certificate is not usable", error)
            })?;
        }
        Ok(roots)
    }

    /// The same without a client certificate, for another server than the one it is for.
    pub(crate) fn anonymous(&self) -> Self {
        let files = Files { identity: None, ..self.files.clone() };
        Self { identity: None, files, ..self.clone() }
    }
}

fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// What a client of an `http` URL uses: it makes no TLS connections.
#[cfg(feature = "http")]
pub(crate) fn trusting_nobody() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::with_source(ErrorKind::Tls, "no TLS version", error))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::new(ErrorKind::Tls, format!("no PEM certificate in the {what}"))),
        Err(error) => {
            let why = unreadable(&error);
            Err(Error::new(ErrorKind::Tls, format!("the {what} are not readable PEM: {why}")))
        }
    }
}

/// What is wrong, in words of our own: those of the library quote lines, which may be all of a key.
fn unreadable(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end, or is all on one line",
        pem::Error::IllegalSectionStart { .. } => "a section begins in the middle of a line",
        pem::Error::Base64Decode(_) => "what is in a section is not base64",
        pem::Error::NoItemsFound => "nothing of the kind is in it",
        _ => "it is damaged, or too large",
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    /// Line breaks are easily lost, and files mixed up: what is refused then may be a key.
    #[test]
    fn no_part_of_a_key_is_in_an_error() {
        let certificate = rcgen::generate_simple_self_signed(["agent".to_owned()]).unwrap();
        let key = certificate.signing_key.serialize_pem();
        let chain = certificate.cert.pem();
        let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        for ruined in [
            key.replace('\n', ""),
            key.replace('\n', " "),
            key.replacen('\n', "", 1),
            key.replace("-----END", "----END"),
            key.replace(&body[..4], "*!*!"),
        ] {
            for error in [
                Tls::new().identity_pem(chain.as_bytes(), ruined.as_bytes()).unwrap_err(),
                Tls::new().identity_pem(ruined.as_bytes(), key.as_bytes()).unwrap_err(),
                Tls::new().trust_pem(ruined.as_bytes()).unwrap_err(),
            ] {
                let mut shown = format!("{error:?} {error}");
                let mut source = error.source();
                while let Some(cause) = source {
                    shown = format!("{shown} {cause:?} {cause}");
                    source = cause.source();
                }
                let bytes = |from: usize| format!("{:?}", &body.as_bytes()[from..from + 6]);
                for at in [8, 40] {
                    assert!(!shown.contains(&body[at..at + 6]), "{shown}");
                    let numbers = bytes(at);
                    assert!(!shown.contains(&numbers[1..numbers.len() - 1]), "{shown}");
                }
            }
        }
    }
}
