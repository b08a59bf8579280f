//! Certificates that are renewed while the listener listens.
//!
//! Each handshake takes the configuration that is in use at its beginning; connections that are
//! open keep theirs. Files are compared by what is in them, so it does not matter how they were
//! replaced; a set of files that does not fit together, as somebody is writing them, leaves the
//! last one in use.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use sha2::{Digest as _, Sha256};

use super::{ClientAuthentication, server_config_for, unusable};
use crate::service::error::Error;

/// The PEM files of a TLS listener: its certificate chain, its private key, and the authorities
/// that sign client certificates.
///
/// ```no_run
/// use opamp_server::service::tls::{ListenerTls, TlsFiles};
/// use opamp_server::{AcceptAll, Server};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let files = TlsFiles::new("server.pem", "server-key.pem").welcome_clients_of(["ca.pem"]);
/// let tls = ListenerTls::from_files(files)?;
/// let server = Server::bind("0.0.0.0:4320").tls(tls.clone()).listen(AcceptAll).await?;
/// // The server looks every half a minute; who cannot wait says so:
/// tls.reload()?;
/// # server.run().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TlsFiles {
    certificates: PathBuf,
    private_key: PathBuf,
    authorities: Vec<PathBuf>,
    required: bool,
}

impl TlsFiles {
    /// The files of the server's certificate chain and of its private key. Clients are not asked
    /// for certificates.
    pub fn new(certificates: impl Into<PathBuf>, private_key: impl Into<PathBuf>) -> Self {
        Self {
            certificates: certificates.into(),
            private_key: private_key.into(),
            authorities: Vec::new(),
            required: false,
        }
    }

    /// Requires clients to present a certificate that an authority in these files has signed.
    #[must_use]
    pub fn require_clients_of<P: Into<PathBuf>>(
        self,
        authorities: impl IntoIterator<Item = P>,
    ) -> Self {
        let authorities = authorities.into_iter().map(Into::into).collect();
        Self { authorities, required: true, ..self }
    }

    /// Takes clients without a certificate, too; see [`ClientAuthentication::Optional`].
    #[must_use]
    pub fn welcome_clients_of<P: Into<PathBuf>>(
        self,
        authorities: impl IntoIterator<Item = P>,
    ) -> Self {
        Self { required: false, ..self.require_clients_of(authorities) }
    }

    fn read(&self) -> Result<Texts, Error> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| unusable(format!("{}: {error}", path.display())))
        };
        let mut authorities = Vec::new();
        for path in &self.authorities {
            authorities.extend(read(path)?);
            authorities.push(b'\n');
        }
        Ok(Texts {
            certificates: read(&self.certificates)?,
            private_key: read(&self.private_key)?,
            authorities,
        })
    }

    fn clients<'a>(&self, texts: &'a Texts) -> ClientAuthentication<'a> {
        match (self.authorities.is_empty(), self.required) {
            (true, _) => ClientAuthentication::None,
            (false, true) => ClientAuthentication::Required(&texts.authorities),
            (false, false) => ClientAuthentication::Optional(&texts.authorities),
        }
    }
}

/// What the files hold.
struct Texts {
    certificates: Vec<u8>,
    private_key: Vec<u8>,
    authorities: Vec<u8>,
}

/// By what the files are known again; not the key itself.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Prints {
    own: [u8; 32],
    authorities: [u8; 32],
}

impl Texts {
    fn prints(&self) -> Prints {
        let mut own = Sha256::new();
        own.update((self.certificates.len() as u64).to_be_bytes());
        own.update(&self.certificates);
        own.update(&self.private_key);
        Prints { own: own.finalize().into(), authorities: Sha256::digest(&self.authorities).into() }
    }
}

/// The TLS configuration of a listener, which can be replaced while it listens. Clones are handles
/// to the same.
#[derive(Clone)]
pub struct ListenerTls {
    shared: Arc<Shared>,
}

struct Shared {
    current: RwLock<Arc<ServerConfig>>,
    files: Option<Mutex<Watched>>,
}

struct Watched {
    files: TlsFiles,
    used: Prints,
}

impl From<ServerConfig> for ListenerTls {
    fn from(config: ServerConfig) -> Self {
        Arc::new(config).into()
    }
}

impl From<Arc<ServerConfig>> for ListenerTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self { shared: Arc::new(Shared { current: RwLock::new(config), files: None }) }
    }
}

impl ListenerTls {
    /// A configuration from files, which a [`Server`](crate::Server) looks at again
    /// [now and then](crate::ServerBuilder::tls_reload_interval).
    ///
    /// # Errors
    ///
    /// An [`Error`] of kind [`Tls`](crate::service::ErrorKind::Tls) if a file cannot be read, or as
    /// [`server_config`](super::server_config).
    pub fn from_files(files: TlsFiles) -> Result<Self, Error> {
        let texts = files.read()?;
        let config =
            server_config_for(&texts.certificates, &texts.private_key, files.clients(&texts))?;
        let watched = Watched { used: texts.prints(), files };
        let current = RwLock::new(Arc::new(config));
        Ok(Self { shared: Arc::new(Shared { current, files: Some(Mutex::new(watched)) }) })
    }

    /// The configuration for the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses another configuration from the next handshake on. Where other client certificates are
    /// to be taken, it must not share session tickets with the one before: a resumed session is not
    /// verified again.
    pub fn replace(&self, config: impl Into<Arc<ServerConfig>>) {
        *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = config.into();
    }

    /// Reads the files again, and uses them from the next handshake on if they have changed; true
    /// if so. Open connections go on. TLS sessions can be resumed as before, unless the authorities
    /// of client certificates have changed: those are then verified anew.
    ///
    /// It reads files, so call it where that may take a moment.
    ///
    /// # Errors
    ///
    /// As [`from_files`](Self::from_files); what was in use stays in use.
    pub fn reload(&self) -> Result<bool, Error> {
        let Some(files) = &self.shared.files else { return Ok(false) };
        let mut watched = files.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = watched.files.read()?;
        let prints = texts.prints();
        if prints == watched.used {
            return Ok(false);
        }
        let clients = watched.files.clients(&texts);
        let mut config = server_config_for(&texts.certificates, &texts.private_key, clients)?;
        if prints.authorities == watched.used.authorities {
            config.ticketer = Arc::clone(&self.current().ticketer);
        }
        self.replace(config);
        watched.used = prints;
        Ok(true)
    }
}

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reloads = self.shared.files.is_some();
        f.debug_struct("ListenerTls").field("reloads", &reloads).finish_non_exhaustive()
    }
}

/// Looks at the files for ever, and says once what is wrong with them.
pub(in crate::service) async fn keep_current(
    tls: Option<ListenerTls>,
    interval: Duration,
) -> Infallible {
    let Some(tls) = tls.filter(|tls| tls.shared.files.is_some()) else {
        return std::future::pending().await;
    };
    let mut said = None;
    loop {
        tokio::time::sleep(interval).await;
        let tls = tls.clone();
        let reloaded = tokio::task::spawn_blocking(move || tls.reload()).await;
        match reloaded {
            Ok(Ok(changed)) => {
                if changed {
                    tracing::info!("renewed certificates are in use");
                }
                said = None;
            }
            Ok(Err(error)) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                if why != said {
                    tracing::error!(
                        why,
                        "the renewed certificates are not usable: the last ones stay"
                    );
                }
                said = why;
            }
            // Only while the runtime shuts down.
            Err(_) => {}
        }
    }
}
