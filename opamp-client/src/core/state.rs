//! What has to survive a restart of the agent.

use bytes::Bytes;
use opamp_proto::{InstanceUid, Message, v1};

use super::{Connections, PendingConnectionSettings};

/// What an agent keeps over restarts, so that it goes on where it was: save it whenever
/// [`Event::StateChanged`](super::Event::StateChanged) comes, restore it into
/// [`ClientConfig::new`](super::ClientConfig::new).
///
/// `Debug` shows no configuration bodies.
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
        })
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
}

#[derive(Clone, PartialEq, prost::Message)]
struct PendingRecord {
    #[prost(bytes = "bytes", tag = "1")]
    hash: Bytes,
    #[prost(message, optional, tag = "2")]
    opamp: Option<v1::OpAmpConnectionSettings>,
    #[prost(message, optional, tag = "3")]
    connections: Option<v1::ConnectionSettingsOffers>,
    #[prost(string, repeated, tag = "4")]
    failures: Vec<String>,
    #[prost(uint32, tag = "5")]
    starts: u32,
}

impl PendingRecord {
    fn of(pending: &PendingConnectionSettings) -> Self {
        Self {
            hash: pending.hash.clone(),
            opamp: pending.opamp.clone(),
            connections: pending.connections.as_ref().map(Connections::to_message),
            failures: pending.failures.clone(),
            starts: pending.starts,
        }
    }

    fn into_pending(self) -> PendingConnectionSettings {
        PendingConnectionSettings {
            hash: self.hash,
            opamp: self.opamp,
            connections: self.connections.map(Connections::from_message),
            failures: self.failures,
            starts: self.starts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(endpoint: &str) -> Connections {
        let mut connections = Connections::default();
        connections.own_metrics = Some(v1::TelemetryConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            ..Default::default()
        });
        connections.others.insert("sink".to_owned(), v1::OtherConnectionSettings::default());
        connections
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
                failures: vec!["own_logs: no".to_owned()],
                starts: 1,
            }),
            connections: connections("https://metrics.example/v1"),
        };
        assert_eq!(ClientState::from_bytes(&state.to_bytes()), Ok(state));
    }

    #[test]
    fn damaged_state_is_refused() {
        let mut bytes = ClientState::new(InstanceUid::from_parts(1, [7; 10])).to_bytes();
        bytes.truncate(bytes.len() - 1);
        assert_eq!(ClientState::from_bytes(&bytes), Err(StateError));
        assert_eq!(ClientState::from_bytes(b""), Err(StateError));
        assert_eq!(ClientState::from_bytes(b"{}"), Err(StateError));
    }
}
