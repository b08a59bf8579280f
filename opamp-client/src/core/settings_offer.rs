//! What an offer of OpAMP connection settings amounts to: laid over what is in force, and held
//! against the agent's own policy (A01, A17, A19).

use std::sync::Arc;

use bytes::Bytes;
use opamp_proto::{Message as _, v1};

use super::ClientCore;
use super::config::Storage;
use super::server_url::Scheme;

/// Bytes of settings of the OpAMP connection in one offer: room for a bundle of authorities.
const MAX_SETTINGS_SIZE: usize = 1024 * 1024;

/// An offer, made complete.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Proposal {
    pub(super) settings: v1::OpAmpConnectionSettings,
    pub(super) heartbeat_interval_seconds: Option<u64>,
}

impl ClientCore {
    /// Makes an offer complete, or says why the agent does not take it. What it leaves out stays as
    /// it is, or as an offer that is `pending` would have made it, lest an agent lock itself out;
    /// but no certificate means none (CERT-03), unless the offer is about nothing but the heartbeat
    /// interval.
    pub(super) fn lay_over(
        &self,
        offered: v1::OpAmpConnectionSettings,
        pending: Option<(Arc<v1::OpAmpConnectionSettings>, Option<u64>)>,
    ) -> Result<Proposal, String> {
        let size = offered.encoded_len();
        if size > MAX_SETTINGS_SIZE {
            return Err(format!(
                "the settings take {size} bytes, more than the {MAX_SETTINGS_SIZE} this agent keeps"
            ));
        }
        let in_force = self.opamp_settings().cloned().unwrap_or_default();
        let interval = offered.heartbeat_interval_seconds;
        let (current, current_interval) = match pending {
            Some((settings, interval)) => (v1::OpAmpConnectionSettings::clone(&settings), interval),
            None => (in_force.clone(), self.state.heartbeat_interval_seconds),
        };
        let settings = self.complete(offered, &current);
        if settings != in_force {
            self.judge(&settings, &in_force)?;
        }
        let heartbeat_interval_seconds = match interval {
            // Servers that offer a certificate or headers rarely mean to silence the agent (A01).
            0 if settings != current => current_interval,
            seconds => Some(seconds),
        };
        Ok(Proposal { settings, heartbeat_interval_seconds })
    }

    fn complete(
        &self,
        offered: v1::OpAmpConnectionSettings,
        current: &v1::OpAmpConnectionSettings,
    ) -> v1::OpAmpConnectionSettings {
        let silent = v1::OpAmpConnectionSettings {
            heartbeat_interval_seconds: offered.heartbeat_interval_seconds,
            ..Default::default()
        };
        if offered == silent {
            return current.clone();
        }
        let mut settings = v1::OpAmpConnectionSettings {
            heartbeat_interval_seconds: 0,
            certificate: offered.certificate.map(|certificate| self.with_key(&certificate)),
            headers: offered.headers.or_else(|| current.headers.clone()),
            tls: offered.tls.or_else(|| current.tls.clone()),
            proxy: offered.proxy.or_else(|| current.proxy.clone()),
            destination_endpoint: offered.destination_endpoint,
        };
        let endpoint = &mut settings.destination_endpoint;
        let started_with = endpoint.as_str() == self.config.endpoint.as_str();
        if endpoint.is_empty() || started_with && current.destination_endpoint.is_empty() {
            endpoint.clone_from(&current.destination_endpoint);
        }
        settings
    }

    /// A certificate as it is kept, without holding on to the message it came in. One without a key
    /// is for a key the agent has (A19): that of the same certificate, or the one it asked for a
    /// certificate with.
    fn with_key(&self, offered: &v1::TlsCertificate) -> v1::TlsCertificate {
        let mut certificate = v1::TlsCertificate {
            cert: Bytes::copy_from_slice(&offered.cert),
            private_key: Bytes::copy_from_slice(&offered.private_key),
            ca_cert: Bytes::copy_from_slice(&offered.ca_cert),
        };
        if certificate.private_key.is_empty() {
            let in_use = self.opamp_settings().and_then(|settings| settings.certificate.as_ref());
            let asked_for = self.state.certificate_request.as_ref();
            certificate.private_key = in_use
                .filter(|in_use| in_use.cert == certificate.cert)
                .map(|in_use| in_use.private_key.clone())
                .or_else(|| asked_for.map(|request| request.private_key.clone()))
                .unwrap_or_default();
        }
        certificate
    }

    fn judge(
        &self,
        settings: &v1::OpAmpConnectionSettings,
        current: &v1::OpAmpConnectionSettings,
    ) -> Result<(), String> {
        self.permit(settings, &current.destination_endpoint)?;
        let Some(certificate) = &settings.certificate else { return Ok(()) };
        if settings.certificate != current.certificate && self.config.storage == Storage::Ephemeral
        {
            return Err("this agent cannot keep a certificate over a restart".to_owned());
        }
        if certificate.cert.is_empty() {
            return Err("certificate has no cert".to_owned());
        }
        if certificate.private_key.is_empty() {
            return Err("certificate has no private_key, and the agent has none for it".to_owned());
        }
        Ok(())
    }

    /// Whether policy allows a connection with these settings to an agent that has one to
    /// `present`.
    pub(super) fn permit(
        &self,
        settings: &v1::OpAmpConnectionSettings,
        present: &str,
    ) -> Result<(), String> {
        let endpoint = &settings.destination_endpoint;
        if !endpoint.is_empty() {
            let scheme = Scheme::of(endpoint)
                .ok_or("destination_endpoint is not a ws, wss, http or https URL")?;
            let present = match present {
                "" => self.config.endpoint.as_str(),
                endpoint => endpoint,
            };
            let secure = Scheme::of(present).is_some_and(|scheme| scheme.secure);
            if secure && !scheme.secure && !self.config.allow_insecure_endpoint {
                return Err("this agent does not go from an encrypted connection to one that is \
                            not"
                .to_owned());
            }
        }
        let skips = settings.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify);
        if skips && !self.config.allow_insecure_skip_verify {
            return Err("this agent does not skip the verification of certificates".to_owned());
        }
        Ok(())
    }
}
