//! The connection settings the reference server holds for an agent: what a hook says, what is
//! offered of it and when, and the credentials among them.

use std::collections::BTreeMap;

use bytes::Bytes;
use opamp_proto::v1::{
    AgentToServer, ConnectionSettingsOffers, Header, Headers, OpAmpConnectionSettings,
    OtherConnectionSettings, ProxyConnectionSettings, ServerToAgent, TelemetryConnectionSettings,
    TlsCertificate,
};
use prost::Message as _;
use serde::Deserialize;
use serde_json::Value;

use super::base64;
use crate::hook::HookError;
use crate::mask::agent as mask;
use crate::reference::Faults;
use crate::wire::body;

/// The heartbeat interval of an offer that asks for no other.
const HEARTBEAT_SECONDS: u64 = 30;

/// What the server holds for one agent.
#[derive(Default)]
pub(super) struct Settings {
    held: ConnectionSettingsOffers,
    /// Goes up with every change.
    version: u64,
    /// The version offered last on this connection, not to be offered again unasked.
    offered: u64,
    /// The bearer tokens that are good, the newest last.
    tokens: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Given {
    opamp: Option<Connection>,
    own_metrics: Option<Connection>,
    own_traces: Option<Connection>,
    own_logs: Option<Connection>,
    other_connections: BTreeMap<String, Connection>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Connection {
    destination_endpoint: String,
    headers: Option<GivenHeaders>,
    certificate: Option<GivenCertificate>,
    heartbeat_interval_seconds: Option<u64>,
    proxy: Option<GivenProxy>,
    other_settings: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct GivenHeaders {
    headers: Vec<GivenHeader>,
}

#[derive(Deserialize)]
struct GivenHeader {
    key: String,
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct GivenCertificate {
    cert: String,
    private_key: String,
    ca_cert: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenProxy {
    url: String,
}

impl Settings {
    /// Takes over what a hook gives; `url` is where the server is.
    pub(super) fn change(
        &mut self,
        given: &Value,
        url: &str,
        faults: &Faults,
    ) -> Result<(), HookError> {
        let given: Given = serde_json::from_value(given.clone())
            .map_err(|error| HookError::Failed(format!("no connection settings: {error}")))?;
        if let Some(opamp) = given.opamp {
            self.change_opamp(opamp, url)?;
        }
        let telemetry = [
            (given.own_metrics, &mut self.held.own_metrics),
            (given.own_traces, &mut self.held.own_traces),
            (given.own_logs, &mut self.held.own_logs),
        ];
        for (given, held) in telemetry {
            let is_kept = held.is_some() && faults.has("changed-telemetry-is-kept-back");
            if let Some(given) = given.filter(|_| !is_kept) {
                *held = Some(given.telemetry()?);
            }
        }
        for (name, given) in given.other_connections {
            self.held.other_connections.insert(name, given.other()?);
        }
        self.changed(faults);
        Ok(())
    }

    /// Gives the agent this certificate, and this bearer token if any.
    pub(super) fn give(
        &mut self,
        certificate: TlsCertificate,
        token: Option<String>,
        url: &str,
        faults: &Faults,
    ) {
        let mut opamp = self.held.opamp.take().unwrap_or_else(|| OpAmpConnectionSettings {
            destination_endpoint: url.to_owned(),
            heartbeat_interval_seconds: HEARTBEAT_SECONDS,
            ..Default::default()
        });
        opamp.certificate = Some(certificate);
        if let Some(token) = token {
            let header = Header { key: "Authorization".into(), value: format!("Bearer {token}") };
            opamp.headers = Some(Headers { headers: vec![header] });
            self.tokens.push(token);
        }
        self.held.opamp = Some(opamp);
        self.changed(faults);
    }

    fn change_opamp(&mut self, given: Connection, url: &str) -> Result<(), HookError> {
        let old = self.held.opamp.take().unwrap_or_default();
        let endpoint = match (&given.destination_endpoint, &old.destination_endpoint) {
            (given, _) if !given.is_empty() => given.clone(),
            (_, old) if !old.is_empty() => old.clone(),
            _ => url.to_owned(),
        };
        let headers = given.headers()?.or(old.headers);
        let authorization = headers.iter().flat_map(|headers| &headers.headers);
        for header in authorization.filter(|h| h.key.eq_ignore_ascii_case("authorization")) {
            if let Some(token) = header.value.strip_prefix("Bearer ")
                && !self.tokens.iter().any(|known| known == token)
            {
                self.tokens.push(token.to_owned());
            }
        }
        self.held.opamp = Some(OpAmpConnectionSettings {
            destination_endpoint: endpoint,
            headers,
            certificate: given.certificate()?.or(old.certificate),
            heartbeat_interval_seconds: given
                .heartbeat_interval_seconds
                .unwrap_or(HEARTBEAT_SECONDS),
            tls: None,
            proxy: given.proxy()?.or(old.proxy),
        });
        Ok(())
    }

    fn changed(&mut self, faults: &Faults) {
        self.version += 1;
        self.held.hash = Bytes::new();
        self.held.hash = if faults.has("settings-hash-is-constant") {
            Bytes::from_static(b"settings")
        } else {
            body::sha256(&self.held.encode_to_vec())
        };
    }

    /// The agent is there again, or reports how settings fared: they may be offered again.
    pub(super) fn may_be_offered_again(&mut self) {
        self.offered = 0;
    }

    /// Whether the agent may use this bearer token. Once it uses a new one, older ones are gone.
    pub(super) fn admits(&mut self, token: &str, faults: &Faults) -> bool {
        let Some(place) = self.tokens.iter().position(|known| known == token) else {
            return false;
        };
        if !faults.has("replaced-credentials-stay-good") {
            self.tokens.drain(..place);
        }
        true
    }

    /// Puts an offer into a message to an agent that has reported `state`, where one is due.
    pub(super) fn fill(
        &mut self,
        message: &mut ServerToAgent,
        state: &AgentToServer,
        faults: &Faults,
    ) {
        let status = state.connection_settings_status.as_ref();
        let reported = status.map(|status| &status.last_connection_settings_hash);
        let reported = reported.filter(|hash| !hash.is_empty());
        let is_other = match reported {
            Some(hash) if *hash == self.held.hash => faults.has("known-settings-are-offered-again"),
            Some(_) => !faults.has("other-settings-hash-is-ignored"),
            None => true,
        };
        let is_repeated = self.offered == self.version && !faults.has("telemetry-is-offered-again");
        if self.version == 0 || !is_other || is_repeated {
            return;
        }
        let mut offer = self.for_agent(state.capabilities, faults);
        let is_empty = offer.opamp.is_none()
            && offer.own_metrics.is_none()
            && offer.own_traces.is_none()
            && offer.own_logs.is_none()
            && offer.other_connections.is_empty();
        let is_late = message.capabilities != 0
            && offer.own_metrics.is_some()
            && faults.has("telemetry-is-not-in-the-first-reply");
        if !is_empty && !is_late {
            spoil(&mut offer, faults);
            self.offered = self.version;
            message.connection_settings = Some(offer);
        }
    }

    /// The settings as far as the agent can take them.
    fn for_agent(&self, capabilities: u64, faults: &Faults) -> ConnectionSettingsOffers {
        let takes = |bit, fault| capabilities & bit != 0 || faults.has(fault);
        let mut offer = self.held.clone();
        if faults.has("opamp-settings-are-kept-back") {
            offer.opamp = None;
        }
        if !takes(mask::ACCEPTS_OPAMP_CONNECTION_SETTINGS, "opamp-settings-are-offered-to-all") {
            offer.opamp = None;
        }
        if !takes(mask::REPORTS_OWN_METRICS, "metrics-settings-are-offered-to-all") {
            offer.own_metrics = None;
        }
        if !takes(mask::REPORTS_OWN_TRACES, "traces-settings-are-offered-to-all") {
            offer.own_traces = None;
        }
        if !takes(mask::REPORTS_OWN_LOGS, "logs-settings-are-offered-to-all") {
            offer.own_logs = None;
        }
        if !takes(mask::ACCEPTS_OTHER_CONNECTION_SETTINGS, "other-settings-are-offered-to-all") {
            offer.other_connections.clear();
        }
        offer
    }
}

impl Connection {
    fn telemetry(self) -> Result<TelemetryConnectionSettings, HookError> {
        Ok(TelemetryConnectionSettings {
            headers: self.headers()?,
            certificate: self.certificate()?,
            proxy: self.proxy()?,
            destination_endpoint: self.destination_endpoint,
            tls: None,
        })
    }

    fn other(self) -> Result<OtherConnectionSettings, HookError> {
        Ok(OtherConnectionSettings {
            headers: self.headers()?,
            certificate: self.certificate()?,
            proxy: self.proxy()?,
            destination_endpoint: self.destination_endpoint,
            other_settings: self.other_settings,
            tls: None,
        })
    }

    fn headers(&self) -> Result<Option<Headers>, HookError> {
        Ok(self.headers.as_ref().map(|given| Headers {
            headers: given
                .headers
                .iter()
                .map(|header| Header { key: header.key.clone(), value: header.value.clone() })
                .collect(),
        }))
    }

    fn certificate(&self) -> Result<Option<TlsCertificate>, HookError> {
        let Some(given) = &self.certificate else { return Ok(None) };
        Ok(Some(TlsCertificate {
            cert: base64(&given.cert)?,
            private_key: base64(&given.private_key)?,
            ca_cert: base64(&given.ca_cert)?,
        }))
    }

    fn proxy(&self) -> Result<Option<ProxyConnectionSettings>, HookError> {
        let Some(given) = &self.proxy else { return Ok(None) };
        if given.url.is_empty() {
            return Err(HookError::Failed("the proxy has no URL".to_owned()));
        }
        Ok(Some(ProxyConnectionSettings { url: given.url.clone(), connect_headers: None }))
    }
}

/// Makes an offer wrong in the way of a fault.
fn spoil(offer: &mut ConnectionSettingsOffers, faults: &Faults) {
    if let Some(opamp) = &mut offer.opamp {
        if faults.has("heartbeat-interval-is-ten") {
            opamp.heartbeat_interval_seconds = 10;
        }
        let endpoint = &mut opamp.destination_endpoint;
        if faults.has("settings-endpoint-is-left-out") && endpoint.contains("127.0.0.1") {
            endpoint.clear();
        }
        if faults.has("settings-endpoint-has-another-scheme") {
            *endpoint = endpoint.replacen("ws", "tcp", 1);
        }
        if faults.has("repeated-header-is-dropped")
            && let Some(headers) = &mut opamp.headers
        {
            headers.headers.dedup_by(|a, b| a.key == b.key);
        }
        if let Some(certificate) = &mut opamp.certificate {
            super::certificates::spoil(certificate, faults);
        }
    }
    let telemetry = [&mut offer.own_metrics, &mut offer.own_traces, &mut offer.own_logs];
    for settings in telemetry.into_iter().flatten() {
        if faults.has("proxy-url-is-dropped")
            && let Some(proxy) = &mut settings.proxy
        {
            proxy.url.clear();
        }
        let endpoint = &mut settings.destination_endpoint;
        if faults.has("telemetry-endpoint-has-no-path")
            && let Some(path) = endpoint.find("/v1/")
        {
            endpoint.truncate(path);
        }
        if faults.has("telemetry-goes-in-the-clear") {
            *endpoint = endpoint.replacen("https", "http", 1);
        }
    }
    for settings in offer.other_connections.values_mut() {
        if faults.has("other-endpoint-has-to-be-a-url") {
            settings.destination_endpoint = format!("https://{}/", settings.destination_endpoint);
        }
    }
}
