//! Connection settings of the reference client: those in use, the candidate it tries, and what it
//! tells the server about them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use opamp_proto::v1::{
    CertificateRequest, ConnectionSettingsOffers, ConnectionSettingsRequest,
    ConnectionSettingsStatus, ConnectionSettingsStatuses, Headers, OpAmpConnectionSettings,
    OpAmpConnectionSettingsRequest, ProxyConnectionSettings, TelemetryConnectionSettings,
    TlsCertificate, TlsConnectionSettings,
};

use super::certificates;
use crate::log::Log;
use crate::net::Network;
use crate::reference::Faults;
use crate::report::{Side, Transport};
use crate::wire::authority::Identity;
use crate::wire::certificate::Csr;
use crate::wire::http_client::Dialer;
use crate::wire::proxy::Via;
use crate::wire::url::Url;

/// Everything that says how to connect, and how often to send.
#[derive(Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) url: Url,
    pub(super) headers: Vec<(String, String)>,
    /// The authority the client was started with, PEM; it stands for those of the system.
    pub(super) ca: Option<String>,
    pub(super) identity: Option<Identity>,
    pub(super) tls: Option<TlsConnectionSettings>,
    pub(super) proxy: Option<ProxyConnectionSettings>,
    /// Zero where heartbeats are turned off.
    pub(super) heartbeat: Duration,
}

impl Settings {
    /// How to connect with these settings.
    pub(super) fn dialer(&self, network: &Network, faults: &Faults) -> Result<Dialer, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| error.to_string())?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| error.to_string())?;
            if faults.has("only-one-header-of-a-name") {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
        let via = match &self.proxy {
            Some(_) if faults.has("proxy-is-ignored") => None,
            Some(proxy) => {
                let mut via: Via = proxy.url.parse()?;
                let has_headers = proxy.connect_headers.is_some();
                let is_socks = proxy.url.starts_with("socks");
                if is_socks && has_headers && faults.has("socks5-with-headers-is-refused") {
                    return Err("header fields for a SOCKS5 proxy".to_owned());
                }
                for header in proxy.connect_headers.iter().flat_map(|headers| &headers.headers) {
                    if !faults.has("connect-headers-are-not-sent") {
                        via.header(&header.key, &header.value);
                    }
                }
                Some(via)
            }
            None => None,
        };
        let (network, url, log) = (network.clone(), self.url.clone(), Log::new(Side::Client));
        let tls = Some(certificates::client_config(self, faults)?);
        Ok(Dialer { network, url, via, tls, headers, log })
    }

    /// These settings with what the offer changes (A17). `own_key` is for a certificate that comes
    /// without one.
    fn with(
        &self,
        offer: &OpAmpConnectionSettings,
        own_key: Option<&str>,
        faults: &Faults,
    ) -> Result<Self, String> {
        let mut new = self.clone();
        if !offer.destination_endpoint.is_empty() && !faults.has("offered-endpoint-is-not-used") {
            new.url = offer.destination_endpoint.parse()?;
        }
        if let Some(Headers { headers }) = &offer.headers
            && !faults.has("offered-headers-are-not-sent")
        {
            new.headers =
                headers.iter().map(|header| (header.key.clone(), header.value.clone())).collect();
        }
        new.identity = match &offer.certificate {
            Some(certificate) => {
                if faults.has("authority-of-the-certificate-is-trusted") {
                    let more = String::from_utf8_lossy(&certificate.ca_cert).into_owned();
                    new.ca = Some(new.ca.unwrap_or_default() + &more);
                }
                let ignored = match certificate.private_key.is_empty() {
                    true => "issued-certificate-is-not-used",
                    false => "offered-certificate-is-not-presented",
                };
                let identity = self.identity_of(certificate, own_key)?;
                Some(identity).filter(|_| !faults.has(ignored))
            }
            None if faults.has("certificate-left-out-is-kept") => self.identity.clone(),
            None => None,
        };
        if offer.tls.is_some() || faults.has("tls-settings-left-out-are-forgotten") {
            new.tls.clone_from(&offer.tls);
        }
        if offer.proxy.is_some() || faults.has("proxy-left-out-is-forgotten") {
            new.proxy.clone_from(&offer.proxy);
        }
        // Zero turns heartbeats off only where nothing else changes (A01), and never polls (A03).
        let off = new == *self && new.url.transport == Transport::WebSocket;
        if offer.heartbeat_interval_seconds != 0 || off {
            new.heartbeat = Duration::from_secs(offer.heartbeat_interval_seconds);
        }
        Ok(new)
    }

    fn identity_of(&self, new: &TlsCertificate, own_key: Option<&str>) -> Result<Identity, String> {
        let text = |pem: &[u8]| String::from_utf8(pem.to_vec()).map_err(|error| error.to_string());
        let cert = text(&new.cert)?;
        if !new.private_key.is_empty() {
            return Ok(Identity { cert, key: text(&new.private_key)? });
        }
        // The certificate in use may be repeated without its key.
        let in_use = self.identity.as_ref().filter(|identity| identity.cert == cert);
        let key = in_use.map(|identity| identity.key.as_str()).or(own_key);
        let key = key.ok_or("the certificate has no key")?.to_owned();
        Ok(Identity { cert, key })
    }
}

/// What of the connection settings outlives the process.
#[derive(Clone, Default)]
pub(super) struct Kept {
    /// The settings that an offer brought and that proved good.
    pub(super) accepted: Option<Settings>,
    /// Those of an offer that is being tried.
    pub(super) candidate: Option<Settings>,
    pub(super) status: ConnectionSettingsStatus,
    /// The key of the last certificate request, PEM.
    own_key: Option<String>,
}

/// What becomes of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reaction {
    /// There is nothing to do and nothing to report.
    None,
    /// The status is to be reported.
    Report,
    /// The status is to be reported, and then the client leaves to try the candidate.
    Move,
}

/// The connection settings of a running client.
pub(super) struct Connection {
    faults: Faults,
    given: Settings,
    kept: Kept,
    persistent: bool,
    /// Whether the connection is one with the candidate.
    trying: bool,
    /// The last certificate request, PEM.
    csr: String,
}

impl Connection {
    /// Of a client that was started with `given`; `persistent` says whether what it keeps survives
    /// it.
    pub(super) fn new(faults: Faults, given: Settings, kept: Kept, persistent: bool) -> Self {
        Self { faults, given, kept, persistent, trying: false, csr: String::new() }
    }

    pub(super) fn kept(&self) -> Kept {
        let mut kept = self.kept.clone();
        if self.faults.has("candidate-is-not-kept") {
            kept.candidate = None;
        }
        if self.faults.has("accepted-settings-are-not-kept") {
            kept.accepted = None;
        }
        if let Some(accepted) = &mut kept.accepted
            && self.faults.has("certificates-are-lost-with-the-process")
        {
            accepted.identity = None;
        }
        kept
    }

    pub(super) fn status(&self) -> ConnectionSettingsStatus {
        let mut status = self.kept.status.clone();
        if self.faults.has("settings-status-has-an-old-hash") && status.status != 0 {
            status.last_connection_settings_hash = Bytes::from_static(b"old");
        }
        status
    }

    /// The settings that are known to be good.
    pub(super) fn good(&self) -> &Settings {
        self.kept.accepted.as_ref().unwrap_or(&self.given)
    }

    /// Whether it uses settings that were never tried; only to break.
    pub(super) fn is_untried(&self) -> bool {
        self.faults.has("settings-are-accepted-untried") && self.kept.accepted.is_some()
    }

    /// The settings to connect with now.
    pub(super) fn connecting(&mut self) -> &Settings {
        if self.faults.has("settings-are-accepted-untried")
            && let Some(candidate) = self.kept.candidate.take()
        {
            self.kept.accepted = Some(candidate);
            self.applied();
        }
        self.trying = self.kept.candidate.is_some();
        match &self.kept.candidate {
            Some(candidate) => candidate,
            None => self.kept.accepted.as_ref().unwrap_or(&self.given),
        }
    }

    /// Whether this connection is to prove the candidate.
    pub(super) fn is_trying(&self) -> bool {
        self.trying
    }

    /// Takes in an offer.
    pub(super) fn offered(&mut self, offer: &ConnectionSettingsOffers) -> Reaction {
        let Some(opamp) = &offer.opamp else {
            if !self.faults.has("any-offer-reconnects") {
                return Reaction::None;
            }
            self.kept.candidate = Some(self.good().clone());
            return Reaction::Move;
        };
        let last = &self.kept.status.last_connection_settings_hash;
        if !offer.hash.is_empty() && offer.hash == *last {
            return Reaction::None;
        }
        self.kept.status.last_connection_settings_hash = offer.hash.clone();
        if opamp.certificate.is_some() && !self.persistent {
            return self.failed("a certificate would be lost with this process");
        }
        let mut candidate =
            match self.good().with(opamp, self.kept.own_key.as_deref(), &self.faults) {
                Ok(candidate) => candidate,
                Err(error) => return self.failed(&error),
            };
        // Settings that cannot even be tried need no trial.
        if let Err(error) = candidate.dialer(&Network::default(), &self.faults) {
            return self.failed(&error);
        }
        let current = self.good();
        let own = current.heartbeat;
        let is_zero = candidate.heartbeat.is_zero();
        if self.faults.has("offered-interval-is-ignored")
            || is_zero && self.faults.has("heartbeats-cannot-be-turned-off")
        {
            candidate.heartbeat = own;
        }
        if opamp.heartbeat_interval_seconds == 0 && self.faults.has("polls-can-be-turned-off") {
            candidate.heartbeat = Duration::ZERO;
        }
        let only_interval = Settings { heartbeat: current.heartbeat, ..candidate.clone() };
        if only_interval == *current {
            self.kept.accepted = Some(candidate);
            self.applied();
            return Reaction::Report;
        }
        self.kept.candidate = Some(candidate);
        if !self.faults.has("applying-is-not-reported") {
            self.report(ConnectionSettingsStatuses::Applying, "");
        }
        Reaction::Move
    }

    /// Takes settings for telemetry as settings for this connection, where that is the fault.
    pub(super) fn confuse_with(&mut self, telemetry: &TelemetryConnectionSettings) {
        let mut settings = self.good().clone();
        if telemetry.tls.is_some() && self.faults.has("telemetry-tls-is-used-for-opamp") {
            settings.tls.clone_from(&telemetry.tls);
        }
        if telemetry.proxy.is_some() && self.faults.has("telemetry-proxy-is-used-for-opamp") {
            settings.proxy.clone_from(&telemetry.proxy);
        }
        if settings != *self.good() {
            self.kept.accepted = Some(settings);
        }
    }

    /// The settings of an offer that needs no trial are in use.
    pub(super) fn took(&mut self, hash: &Bytes) -> Reaction {
        if !hash.is_empty() && *hash == self.kept.status.last_connection_settings_hash {
            return Reaction::None;
        }
        self.kept.status.last_connection_settings_hash = hash.clone();
        self.applied();
        Reaction::Report
    }

    /// The server has answered; whether that proves the candidate.
    pub(super) fn proven(&mut self) -> bool {
        if !std::mem::take(&mut self.trying) {
            return false;
        }
        self.kept.accepted = self.kept.candidate.take().or(self.kept.accepted.take());
        self.applied();
        true
    }

    /// The connection is over; whether it was one that did not prove the candidate, which is given
    /// up then.
    pub(super) fn fall_back(&mut self) -> bool {
        if !std::mem::take(&mut self.trying) || self.faults.has("no-fallback") {
            return false;
        }
        self.failed("no connection with the offered settings");
        true
    }

    fn applied(&mut self) {
        let error = if self.faults.has("applied-with-an-error-text") { "it went well" } else { "" };
        if !self.faults.has("applied-is-not-reported") {
            self.report(ConnectionSettingsStatuses::Applied, error);
        }
    }

    /// Makes a certificate request for this id, with a new key.
    pub(super) fn make_request(&mut self, uid: &str) -> Result<(), String> {
        let csr = Csr::new(uid).map_err(|error| error.to_string())?;
        self.csr = match self.faults.has("certificate-request-is-signed-wrongly") {
            true => csr.with_broken_signature(),
            false => csr.pem,
        };
        self.kept.own_key = Some(csr.key);
        Ok(())
    }

    /// Whether it has asked for a certificate in its life, and so goes by one of its own.
    pub(super) fn has_own_certificate(&self) -> bool {
        self.kept.own_key.is_some() && self.good().identity.is_some()
    }

    /// The last certificate request.
    pub(super) fn request(&self) -> ConnectionSettingsRequest {
        let mut csr = Bytes::copy_from_slice(self.csr.as_bytes());
        if self.faults.has("certificate-request-is-not-pem") {
            csr = csr.slice(20..);
        }
        let opamp = OpAmpConnectionSettingsRequest {
            certificate_request: Some(CertificateRequest { csr }),
        };
        let is_empty = self.faults.has("certificate-request-is-empty");
        ConnectionSettingsRequest { opamp: Some(opamp).filter(|_| !is_empty) }
    }

    fn failed(&mut self, why: &str) -> Reaction {
        let candidate = self.kept.candidate.take();
        let unverified = candidate.and_then(|candidate| candidate.tls);
        if unverified.is_some_and(|tls| tls.insecure_skip_verify)
            && self.faults.has("no-verification-is-refused-silently")
        {
            return Reaction::None;
        }
        if !self.faults.has("failed-is-not-reported") {
            self.report(ConnectionSettingsStatuses::Failed, why);
        }
        Reaction::Report
    }

    fn report(&mut self, status: ConnectionSettingsStatuses, error: &str) {
        if self.faults.has("settings-status-is-never-reported") {
            return;
        }
        self.kept.status.status = status as i32;
        self.kept.status.error_message = error.to_owned();
    }
}
