//! Values the scenarios report and offer.

use std::time::Duration;

use bytes::Bytes;
use opamp_proto::{InstanceUid, Message, ServerCapabilities, v1};

use crate::core::Parts;

pub(super) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The uid of the agent under test.
pub(super) fn uid() -> InstanceUid {
    InstanceUid::from_parts(1_700_000_000_000, *b"agent-test")
}

pub(super) fn other_uid() -> InstanceUid {
    InstanceUid::from_parts(1_700_000_000_001, *b"other-uid!")
}

pub(super) fn description(version: &str) -> v1::AgentDescription {
    v1::AgentDescription {
        identifying_attributes: vec![v1::KeyValue::new("service.name", "io.example.agent")],
        non_identifying_attributes: vec![v1::KeyValue::new("service.version", version)],
    }
}

pub(super) fn health(status: &str) -> v1::ComponentHealth {
    v1::ComponentHealth { healthy: true, status: status.to_owned(), ..Default::default() }
}

pub(super) fn config_map(body: impl Into<Bytes>) -> v1::AgentConfigMap {
    let file = v1::AgentConfigFile { body: body.into(), content_type: "text/yaml".to_owned() };
    v1::AgentConfigMap { config_map: [(String::new(), file)].into() }
}

pub(super) fn effective(body: impl Into<Bytes>) -> v1::EffectiveConfig {
    v1::EffectiveConfig { config_map: Some(config_map(body)) }
}

/// An effective configuration that takes exactly `size` bytes.
pub(super) fn effective_of(size: usize) -> v1::EffectiveConfig {
    (size.saturating_sub(64)..size)
        .map(|body| effective(vec![b'x'; body]))
        .find(|config| config.encoded_len() == size)
        .expect("some body makes it that size")
}

/// What every server here can do, unless a scenario says otherwise.
pub(super) const SERVER: ServerCapabilities = ServerCapabilities::all();

/// A message that says nothing but that ours arrived.
pub(super) fn acknowledgement() -> v1::ServerToAgent {
    v1::ServerToAgent {
        instance_uid: uid().to_bytes(),
        capabilities: SERVER.to_wire(),
        ..Default::default()
    }
}

pub(super) fn full_state_request() -> v1::ServerToAgent {
    v1::ServerToAgent { flags: v1::ServerToAgentFlags::ReportFullState as u64, ..acknowledgement() }
}

pub(super) fn remote_config(hash: &str, body: &str) -> v1::ServerToAgent {
    v1::ServerToAgent {
        remote_config: Some(v1::AgentRemoteConfig {
            config: Some(config_map(body.to_owned())),
            config_hash: Bytes::copy_from_slice(hash.as_bytes()),
        }),
        ..acknowledgement()
    }
}

pub(super) fn remote_config_status(
    hash: &str,
    status: v1::RemoteConfigStatuses,
    error_message: &str,
) -> v1::RemoteConfigStatus {
    v1::RemoteConfigStatus {
        last_remote_config_hash: Bytes::copy_from_slice(hash.as_bytes()),
        status: status.into(),
        error_message: error_message.to_owned(),
    }
}

/// A message of nothing but an error, as servers are to send it (A08).
pub(super) fn error(kind: v1::ServerErrorResponseType, message: &str) -> v1::ServerToAgent {
    v1::ServerToAgent {
        instance_uid: uid().to_bytes(),
        error_response: Some(v1::ServerErrorResponse {
            r#type: kind.into(),
            error_message: message.to_owned(),
            details: None,
        }),
        ..Default::default()
    }
}

pub(super) fn retry_info(after: Duration) -> v1::server_error_response::Details {
    let nanoseconds = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
    v1::server_error_response::Details::RetryInfo(v1::RetryInfo {
        retry_after_nanoseconds: nanoseconds,
    })
}

/// `UNAVAILABLE`, with a wait where one is given.
pub(super) fn unavailable(retry_after: Option<Duration>) -> v1::ServerToAgent {
    let mut message = error(v1::ServerErrorResponseType::Unavailable, "overloaded");
    if let Some(error) = &mut message.error_response {
        error.details = retry_after.map(retry_info);
    }
    message
}

/// The sub-messages in a message; the mask, which is in all of them, does not count.
pub(super) fn parts(message: &v1::AgentToServer) -> Parts {
    (Parts::all() - Parts::CAPABILITIES).present_in(message)
}

/// All parts of the agent that the scenarios use by default.
pub(super) const EVERYTHING: Parts = Parts::DESCRIPTION
    .union(Parts::HEALTH)
    .union(Parts::EFFECTIVE_CONFIG)
    .union(Parts::REMOTE_CONFIG_STATUS);
