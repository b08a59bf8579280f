//! The certificates of a program's listener, which are renewed while it listens.

use opamp_server::service::tls::ListenerTls;

use crate::program::Failure;

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
