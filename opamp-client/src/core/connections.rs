//! The connections an agent can be offered settings for, besides those it speaks OpAMP over: where
//! its own metrics, traces and logs go, and others it knows by name.
//!
//! An offer names what changes, and what it leaves out stays (CONN-24 to CONN-27). So the settings
//! in force are those of all accepted offers, laid over each other; [`Connections`] holds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use opamp_proto::{AgentCapabilities, Message, v1};

bitflags::bitflags! {
    /// Kinds of connections an agent takes settings for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct ConnectionKinds: u8 {
        /// The connection to the OpAMP server: AcceptsOpAMPConnectionSettings.
        const OPAMP = 1 << 0;
        /// The destination of the agent's own metrics: ReportsOwnMetrics.
        const OWN_METRICS = 1 << 1;
        /// The destination of the agent's own traces: ReportsOwnTraces.
        const OWN_TRACES = 1 << 2;
        /// The destination of the agent's own logs: ReportsOwnLogs.
        const OWN_LOGS = 1 << 3;
        /// Connections the agent knows by name: AcceptsOtherConnectionSettings.
        const OTHERS = 1 << 4;
    }
}

impl ConnectionKinds {
    /// What an agent announces that takes these (CAP-03). Whoever takes any settings reports what
    /// became of them (CONN-07).
    pub(super) fn capabilities(self) -> AgentCapabilities {
        let mut capabilities = AgentCapabilities::empty();
        for (kind, capability) in [
            (Self::OPAMP, AgentCapabilities::ACCEPTS_OPAMP_CONNECTION_SETTINGS),
            (Self::OWN_METRICS, AgentCapabilities::REPORTS_OWN_METRICS),
            (Self::OWN_TRACES, AgentCapabilities::REPORTS_OWN_TRACES),
            (Self::OWN_LOGS, AgentCapabilities::REPORTS_OWN_LOGS),
            (Self::OTHERS, AgentCapabilities::ACCEPTS_OTHER_CONNECTION_SETTINGS),
        ] {
            capabilities.set(capability, self.contains(kind));
        }
        capabilities.set(AgentCapabilities::REPORTS_CONNECTION_SETTINGS_STATUS, !self.is_empty());
        capabilities
    }
}

/// One of the connections in [`Connections`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Connection {
    /// The destination of the agent's own metrics.
    OwnMetrics,
    /// The destination of the agent's own traces.
    OwnTraces,
    /// The destination of the agent's own logs.
    OwnLogs,
    /// The connection of this name (OTHER-06).
    Other(String),
}

impl Connection {
    fn kind(&self) -> ConnectionKinds {
        match self {
            Self::OwnMetrics => ConnectionKinds::OWN_METRICS,
            Self::OwnTraces => ConnectionKinds::OWN_TRACES,
            Self::OwnLogs => ConnectionKinds::OWN_LOGS,
            Self::Other(_) => ConnectionKinds::OTHERS,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnMetrics => f.write_str("own_metrics"),
            Self::OwnTraces => f.write_str("own_traces"),
            Self::OwnLogs => f.write_str("own_logs"),
            Self::Other(name) => write!(f, "other_connections[{name:?}]"),
        }
    }
}

/// The settings of all connections but that to the OpAMP server: whole, as far as the server ever
/// offered them and the agent took them.
///
/// `Debug` shows no header values, keys or credentials.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Connections {
    /// Where the agent's own metrics go (TEL-08).
    pub own_metrics: Option<v1::TelemetryConnectionSettings>,
    /// Where the agent's own traces go (TEL-12).
    pub own_traces: Option<v1::TelemetryConnectionSettings>,
    /// Where the agent's own logs go (TEL-13).
    pub own_logs: Option<v1::TelemetryConnectionSettings>,
    /// Other connections by name.
    pub others: BTreeMap<String, v1::OtherConnectionSettings>,
}

impl Connections {
    /// Lays what is offered over what there is. Telemetry settings that lack a destination even so
    /// are left out and named in the answer.
    pub(super) fn offer(&mut self, offered: v1::ConnectionSettingsOffers) -> Vec<Connection> {
        let mut unusable = Vec::new();
        for (connection, current, offered) in [
            (Connection::OwnMetrics, &mut self.own_metrics, offered.own_metrics),
            (Connection::OwnTraces, &mut self.own_traces, offered.own_traces),
            (Connection::OwnLogs, &mut self.own_logs, offered.own_logs),
        ] {
            let Some(offered) = offered else { continue };
            match telemetry(current.as_ref(), offered) {
                Some(settings) => *current = Some(settings),
                None => unusable.push(connection),
            }
        }
        for (name, offered) in offered.other_connections {
            other(self.others.entry(name).or_default(), offered);
        }
        unusable
    }

    /// The connections whose settings are others than in `before`.
    pub(super) fn changed_since(&self, before: &Self) -> BTreeSet<Connection> {
        let mut changed = BTreeSet::new();
        for (connection, now, before) in [
            (Connection::OwnMetrics, &self.own_metrics, &before.own_metrics),
            (Connection::OwnTraces, &self.own_traces, &before.own_traces),
            (Connection::OwnLogs, &self.own_logs, &before.own_logs),
        ] {
            if now != before {
                changed.insert(connection);
            }
        }
        for (name, now) in &self.others {
            if before.others.get(name) != Some(now) {
                changed.insert(Connection::Other(name.clone()));
            }
        }
        changed
    }

    /// Gives up what differs from `present` in connections of other kinds.
    pub(super) fn keep(&mut self, kinds: ConnectionKinds, present: &Self) {
        for connection in self.changed_since(present) {
            if !kinds.contains(connection.kind()) {
                self.take_over(&connection, present);
            }
        }
    }

    /// Takes one connection over from `from`.
    pub(super) fn take_over(&mut self, connection: &Connection, from: &Self) {
        match connection {
            Connection::OwnMetrics => self.own_metrics.clone_from(&from.own_metrics),
            Connection::OwnTraces => self.own_traces.clone_from(&from.own_traces),
            Connection::OwnLogs => self.own_logs.clone_from(&from.own_logs),
            Connection::Other(name) => match from.others.get(name) {
                Some(settings) => {
                    self.others.insert(name.clone(), settings.clone());
                }
                None => {
                    self.others.remove(name);
                }
            },
        }
    }

    /// Bytes it takes to keep them.
    pub(super) fn size(&self) -> usize {
        self.to_message().encoded_len()
    }

    /// A copy that shares no memory with the message an offer came in.
    pub(super) fn detached(&self) -> Self {
        let bytes = self.to_message().encode_to_vec();
        // What was just encoded can be read.
        v1::ConnectionSettingsOffers::decode(&*bytes)
            .map_or_else(|_| self.clone(), Self::from_message)
    }

    pub(super) fn to_message(&self) -> v1::ConnectionSettingsOffers {
        v1::ConnectionSettingsOffers {
            own_metrics: self.own_metrics.clone(),
            own_traces: self.own_traces.clone(),
            own_logs: self.own_logs.clone(),
            other_connections: self.others.clone(),
            ..Default::default()
        }
    }

    pub(super) fn from_message(message: v1::ConnectionSettingsOffers) -> Self {
        Self {
            own_metrics: message.own_metrics,
            own_traces: message.own_traces,
            own_logs: message.own_logs,
            others: message.other_connections,
        }
    }
}

/// No certificate means none (CERT-06); no TLS and no proxy part mean the present ones (TLS-02,
/// PROXY-02). The same goes for headers, as for the OpAMP connection (A17), unless the data is to
/// go elsewhere: a credential is for whom it was meant.
fn telemetry(
    current: Option<&v1::TelemetryConnectionSettings>,
    offered: v1::TelemetryConnectionSettings,
) -> Option<v1::TelemetryConnectionSettings> {
    let current = current.cloned().unwrap_or_default();
    let mut settings = offered;
    if settings.destination_endpoint.is_empty() {
        settings.destination_endpoint.clone_from(&current.destination_endpoint);
    }
    if settings.headers.is_none()
        && origin(&settings.destination_endpoint) == origin(&current.destination_endpoint)
    {
        settings.headers = current.headers;
    }
    settings.tls = settings.tls.or(current.tls);
    settings.proxy = settings.proxy.or(current.proxy);
    (!settings.destination_endpoint.is_empty()).then_some(settings)
}

/// Each field that is not set keeps its value, the certificate included (A18, OTHER-01, OTHER-02).
fn other(current: &mut v1::OtherConnectionSettings, offered: v1::OtherConnectionSettings) {
    if !offered.destination_endpoint.is_empty() {
        current.destination_endpoint = offered.destination_endpoint;
    }
    if !offered.other_settings.is_empty() {
        current.other_settings = offered.other_settings;
    }
    current.headers = offered.headers.or(current.headers.take());
    current.certificate = offered.certificate.or(current.certificate.take());
    current.tls = offered.tls.or(current.tls.take());
    current.proxy = offered.proxy.or(current.proxy.take());
}

/// Scheme and authority of a URL, in one case; of anything else, all of it.
fn origin(url: &str) -> String {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    url[..end].to_ascii_lowercase()
}
