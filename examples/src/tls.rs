//! The certificates of a program's listener, which are renewed while it listens.

use std::path::PathBuf;

use opamp_server::service::tls::{ListenerTls, TlsFiles};

use crate::program::Failure;

/// How agents are served with TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TlsArgs {
    /// The certificate chain, a PEM file: agents then connect with wss and https. Default: no TLS
    #[arg(id = "tls_cert", long = "tls-cert", value_name = "PEM", requires = "tls_key")]
    pub cert: Option<PathBuf>,

    /// The private key of the certificate, a PEM file
    #[arg(id = "tls_key", long = "tls-key", value_name = "PEM", requires = "tls_cert")]
    pub key: Option<PathBuf>,

    /// Requires a client certificate of agents from one of the authorities in this PEM file.
    /// Default: none
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub client_ca: Option<PathBuf>,
}

impl TlsArgs {
    /// The listener's own files, if there is to be TLS.
    pub(crate) fn files(&self) -> Option<TlsFiles> {
        Some(TlsFiles::new(self.cert.as_ref()?, self.key.as_ref()?))
    }
}

/// Reads the files of certificates again; those in use stay if they are not usable.
pub(crate) fn reload(tls: &ListenerTls) {
    match tls.reload() {
        Ok(true) => tracing::info!("renewed certificates are in use"),
        Ok(false) => tracing::info!("the certificates have not changed"),
        Err(error) => {
            let what = "the certificates are not usable, the last ones stay";
            tracing::error!("{}", Failure::caused_by(what, error));
        }
    }
}
