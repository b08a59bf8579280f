//! What has to survive a restart of the agent.

use std::fmt;

use bytes::Bytes;
use opamp_proto::{InstanceUid, Message, v1};

use super::server_url::ServerUrl;
use super::{Connections, PendingConnectionSettings, SettingsFailure};

/// What an agent keeps over restarts, so that it goes on where it was.
///
/// It is one record, to be saved as a whole: the identity, the statuses and the connection settings
/// then never contradict each other, whenever the process ends. A store does that by itself (see
/// [`poll_save`](super::ClientCore::poll_save)); others save it whenever
/// [`Event::StateChanged`](super::Event::StateChanged) comes and restore it into
/// [`ClientConfig::new`](super::ClientConfig::new).
///
/// It may hold private keys and credentials: keep it where only the agent can read it. `Debug`
/// shows none of them, and no configuration bodies.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClientState {
    /// The agent's identity (ID-04, ID-13).
    pub instance_uid: InstanceUid,
    /// What became of the last configuration offer (CFG-20, CFG-21).
    pub remote_config_status: Option<v1::RemoteConfigStatus>,
    /// An offer that has no outcome yet: it is offered to the agent again.
    pub pending_remote_config: Option<v1::AgentRemoteConfig>,
    /// How often the agent has started since with that offer pending.
    pub pending_starts: u32,
    /// What became of the last offer of connection settings (CONN-31, CONN-34).
    pub connection_settings_status: Option<v1::ConnectionSettingsStatus>,
    /// An offer of connection settings of which something has no outcome yet.
    pub pending_connection_settings: Option<PendingConnectionSettings>,
    /// The settings in force of the agent's own telemetry and other connections (TEL-06).
    pub connections: Connections,
    /// The OpAMP connection settings in force, as accepted offers have made them, laid over what
    /// the agent is started with (CONN-16, CERT-02, TLS-01, PROXY-01); `None` as long as none was
    /// accepted. The heartbeat interval in it has no meaning.
    pub opamp_settings: Option<v1::OpAmpConnectionSettings>,
    /// The heartbeat interval of the accepted offers in seconds; 0 turned heartbeats off, `None`
    /// says that the agent's own interval holds (A01).
    pub heartbeat_interval_seconds: Option<u64>,
    /// The URL the agent was started with when it accepted them, or began to try them.
    pub settings_endpoint: ServerUrl,
    /// Settings that are being tried: should the process end meanwhile, the next one goes on with
    /// it (CONN-11).
    pub settings_candidate: Option<SettingsCandidate>,
    /// A certificate the agent has asked for, or is about to.
    pub certificate_request: Option<CertificateRequest>,
}

/// OpAMP connection settings that are not proven yet.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SettingsCandidate {
    /// The settings as they are to be, what stays as it is included.
    pub settings: v1::OpAmpConnectionSettings,
    /// The heartbeat interval that comes with them: see
    /// [`heartbeat_interval_seconds`](ClientState::heartbeat_interval_seconds).
    pub heartbeat_interval_seconds: Option<u64>,
    /// How often the agent has started with them.
    pub starts: u32,
}

/// A key of the agent's own, and the request for a certificate of it (CSR-04).
///
/// `Debug` shows sizes only.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateRequest {
    /// The private key in PEM.
    pub private_key: Bytes,
    /// The certificate signing request in PEM (CSR-05).
    pub csr: Bytes,
}

impl CertificateRequest {
    /// A key and the request that was signed with it, both in PEM.
    #[must_use]
    pub fn new(private_key: impl Into<Bytes>, csr: impl Into<Bytes>) -> Self {
        Self { private_key: private_key.into(), csr: csr.into() }
    }
}

impl fmt::Debug for CertificateRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRequest")
            .field("private_key", &format_args!("{} bytes", self.private_key.len()))
            .field("csr", &format_args!("{} bytes", self.csr.len()))
            .finish()
    }
}

impl ClientState {
    /// The state of an agent that starts for the first time.
    #[must_use]
    pub fn new(instance_uid: InstanceUid) -> Self {
        Self {
            instance_uid,
            remote_config_status: None,
            pending_remote_config: None,
            pending_starts: 0,
            connection_settings_status: None,
            pending_connection_settings: None,
            connections: Connections::default(),
            opamp_settings: None,
            heartbeat_interval_seconds: None,
            settings_endpoint: ServerUrl::default(),
            settings_candidate: None,
            certificate_request: None,
        }
    }

    /// Encodes the state for storage. Later versions read what earlier ones wrote.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        Record {
            magic: MAGIC,
            instance_uid: self.instance_uid.to_bytes(),
            remote_config_status: self.remote_config_status.clone(),
            pending_remote_config: self.pending_remote_config.clone(),
            pending_starts: self.pending_starts,
            connection_settings_status: self.connection_settings_status.clone(),
            pending_connection_settings: self
                .pending_connection_settings
                .as_ref()
                .map(PendingRecord::of),
            connections: Some(self.connections.to_message()),
            opamp_settings: self.opamp_settings.clone(),
            heartbeat_interval_seconds: self.heartbeat_interval_seconds,
            settings_endpoint: self.settings_endpoint.as_str().to_owned(),
            settings_candidate: self.settings_candidate.clone().map(|candidate| CandidateRecord {
                settings: Some(candidate.settings),
                heartbeat_interval_seconds: candidate.heartbeat_interval_seconds,
                starts: candidate.starts,
            }),
            certificate_request: self
                .certificate_request
                .clone()
                .map(|CertificateRequest { private_key, csr }| RequestRecord { private_key, csr }),
        }
        .encode_to_vec()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are damaged or something else altogether.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let record = Record::decode(bytes).map_err(|_| StateError)?;
        if record.magic != MAGIC {
            return Err(StateError);
        }
        Ok(Self {
            instance_uid: InstanceUid::try_from(&*record.instance_uid).map_err(|_| StateError)?,
            remote_config_status: record.remote_config_status,
            pending_remote_config: record.pending_remote_config,
            pending_starts: record.pending_starts,
            connection_settings_status: record.connection_settings_status,
            pending_connection_settings: record
                .pending_connection_settings
                .map(PendingRecord::into_pending),
            connections: record.connections.map(Connections::from_message).unwrap_or_default(),
            opamp_settings: record.opamp_settings,
            heartbeat_interval_seconds: record.heartbeat_interval_seconds,
            settings_endpoint: record.settings_endpoint.into(),
            settings_candidate: record.settings_candidate.map(|candidate| SettingsCandidate {
                settings: candidate.settings.unwrap_or_default(),
                heartbeat_interval_seconds: candidate.heartbeat_interval_seconds,
                starts: candidate.starts,
            }),
            certificate_request: record
                .certificate_request
                .map(|RequestRecord { private_key, csr }| CertificateRequest { private_key, csr }),
        })
    }

    /// What can be saved of an encoding that [`from_bytes`](Self::from_bytes) refuses: the
    /// identity, which comes first in it, if it is whole.
    #[must_use]
    pub fn identity_of_damaged(bytes: &[u8]) -> Option<Self> {
        let head = Record {
            magic: MAGIC,
            instance_uid: Bytes::from_static(&[0; 16]),
            ..Record::default()
        };
        let head = bytes.get(..head.encoded_len())?;
        Self::from_bytes(head).ok()
    }
}

/// The bytes are not a saved [`ClientState`], or they are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a saved client state, or damaged")]
pub struct StateError;

const MAGIC: u32 = 0x6f70_6d70;

/// Protobuf, so that later fields can be added without breaking earlier files.
#[derive(Clone, PartialEq, prost::Message)]
struct Record {
    #[prost(fixed32, tag = "1")]
    magic: u32,
    #[prost(bytes = "bytes", tag = "2")]
    instance_uid: Bytes,
    #[prost(message, optional, tag = "3")]
    remote_config_status: Option<v1::RemoteConfigStatus>,
    #[prost(message, optional, tag = "4")]
    pending_remote_config: Option<v1::AgentRemoteConfig>,
    #[prost(uint32, tag = "5")]
    pending_starts: u32,
    #[prost(message, optional, tag = "20")]
    connection_settings_status: Option<v1::ConnectionSettingsStatus>,
    #[prost(message, optional, tag = "21")]
    pending_connection_settings: Option<PendingRecord>,
    #[prost(message, optional, tag = "22")]
    connections: Option<v1::ConnectionSettingsOffers>,
    #[prost(message, optional, tag = "10")]
    opamp_settings: Option<v1::OpAmpConnectionSettings>,
    #[prost(uint64, optional, tag = "11")]
    heartbeat_interval_seconds: Option<u64>,
    #[prost(string, tag = "14")]
    settings_endpoint: String,
    #[prost(message, optional, tag = "12")]
    settings_candidate: Option<CandidateRecord>,
    #[prost(message, optional, tag = "13")]
    certificate_request: Option<RequestRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PendingRecord {
    #[prost(bytes = "bytes", tag = "1")]
    hash: Bytes,
    #[prost(message, optional, tag = "2")]
    opamp: Option<v1::OpAmpConnectionSettings>,
    #[prost(message, optional, tag = "3")]
    connections: Option<v1::ConnectionSettingsOffers>,
    #[prost(message, repeated, tag = "7")]
    failures: Vec<FailureRecord>,
    #[prost(uint32, tag = "5")]
    starts: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FailureRecord {
    #[prost(string, repeated, tag = "1")]
    parts: Vec<String>,
    #[prost(string, tag = "2")]
    why: String,
}

impl PendingRecord {
    fn of(pending: &PendingConnectionSettings) -> Self {
        Self {
            hash: pending.hash.clone(),
            opamp: pending.opamp.clone(),
            connections: pending.connections.as_ref().map(Connections::to_message),
            failures: pending
                .failures
                .iter()
                .map(|SettingsFailure { parts, why }| FailureRecord {
                    parts: parts.iter().cloned().collect(),
                    why: why.clone(),
                })
                .collect(),
            starts: pending.starts,
        }
    }

    fn into_pending(self) -> PendingConnectionSettings {
        PendingConnectionSettings {
            hash: self.hash,
            opamp: self.opamp,
            connections: self.connections.map(Connections::from_message),
            failures: self
                .failures
                .into_iter()
                .map(|failure| {
                    SettingsFailure::new(failure.parts.into_iter().collect(), failure.why)
                })
                .collect(),
            starts: self.starts,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct CandidateRecord {
    #[prost(message, optional, tag = "1")]
    settings: Option<v1::OpAmpConnectionSettings>,
    #[prost(uint64, optional, tag = "2")]
    heartbeat_interval_seconds: Option<u64>,
    #[prost(uint32, tag = "3")]
    starts: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestRecord {
    #[prost(bytes = "bytes", tag = "1")]
    private_key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    csr: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(endpoint: &str) -> Connections {
        let own_metrics = v1::TelemetryConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            ..Default::default()
        };
        Connections {
            own_metrics: Some(own_metrics),
            others: [("sink".to_owned(), v1::OtherConnectionSettings::default())].into(),
            ..Connections::default()
        }
    }

    #[test]
    fn state_is_read_as_it_was_written() {
        let state = ClientState {
            instance_uid: InstanceUid::from_parts(1, [7; 10]),
            remote_config_status: Some(v1::RemoteConfigStatus {
                last_remote_config_hash: Bytes::from_static(b"hash"),
                status: v1::RemoteConfigStatuses::Failed.into(),
                error_message: "why".into(),
            }),
            pending_remote_config: Some(v1::AgentRemoteConfig {
                config: Some(v1::AgentConfigMap::default()),
                config_hash: Bytes::from_static(b"newer"),
            }),
            pending_starts: 2,
            connection_settings_status: Some(v1::ConnectionSettingsStatus {
                last_connection_settings_hash: Bytes::from_static(b"settings"),
                status: v1::ConnectionSettingsStatuses::Applying.into(),
                error_message: String::new(),
            }),
            pending_connection_settings: Some(PendingConnectionSettings {
                hash: Bytes::from_static(b"settings"),
                opamp: Some(v1::OpAmpConnectionSettings::default()),
                connections: Some(connections("https://metrics.example/v2")),
                failures: vec![
                    SettingsFailure::new(["own_logs".to_owned()].into(), "no".to_owned()),
                    SettingsFailure::new([].into(), "never".to_owned()),
                ],
                starts: 1,
            }),
            connections: connections("https://metrics.example/v1"),
            opamp_settings: Some(settings("wss://one.example.com")),
            heartbeat_interval_seconds: Some(0),
            settings_endpoint: "wss://one.example.com".into(),
            settings_candidate: Some(SettingsCandidate {
                settings: settings("wss://two.example.com"),
                heartbeat_interval_seconds: Some(5),
                starts: 1,
            }),
            certificate_request: Some(CertificateRequest::new("key", "csr")),
        };
        assert_eq!(ClientState::from_bytes(&state.to_bytes()), Ok(state));
    }

    fn settings(endpoint: &str) -> v1::OpAmpConnectionSettings {
        v1::OpAmpConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            headers: Some(v1::Headers { headers: Vec::new() }),
            certificate: Some(v1::TlsCertificate {
                cert: Bytes::from_static(b"certificate"),
                private_key: Bytes::from_static(b"a very private key"),
                ca_cert: Bytes::new(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let state = ClientState {
            opamp_settings: Some(settings("wss://user:secret@h?token=secret")),
            settings_candidate: Some(SettingsCandidate {
                settings: settings("wss://user:secret@h"),
                ..Default::default()
            }),
            certificate_request: Some(CertificateRequest::new("a very private key", "csr")),
            ..ClientState::new(InstanceUid::from_parts(1, [7; 10]))
        };
        let shown = format!("{state:?} {state:#?}");
        assert!(!shown.contains("secret") && !shown.contains("private key"), "{shown}");
    }

    #[test]
    fn damaged_state_is_refused() {
        let mut bytes = ClientState::new(InstanceUid::from_parts(1, [7; 10])).to_bytes();
        bytes.truncate(bytes.len() - 1);
        assert_eq!(ClientState::from_bytes(&bytes), Err(StateError));
        assert_eq!(ClientState::from_bytes(b""), Err(StateError));
        assert_eq!(ClientState::from_bytes(b"{}"), Err(StateError));
    }

    #[test]
    fn of_a_damaged_state_the_identity_is_left_if_that_is_whole() {
        let identity = ClientState::new(InstanceUid::from_parts(1, [7; 10]));
        let whole = ClientState { heartbeat_interval_seconds: Some(30), ..identity.clone() };
        let mut bytes = whole.to_bytes();
        bytes.truncate(bytes.len() - 1);
        assert_eq!(ClientState::identity_of_damaged(&bytes), Some(identity));
        bytes.truncate(20);
        assert_eq!(ClientState::identity_of_damaged(&bytes), None);
    }
}
