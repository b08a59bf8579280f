//! The parts of a status, each on its own.

use opamp_proto::v1;

use super::values::{description, effective, health};
use crate::core::Parts;

/// A message with every part, none of them empty.
fn whole() -> v1::AgentToServer {
    v1::AgentToServer {
        agent_description: Some(description("1.0")),
        capabilities: 1,
        health: Some(health("well")),
        effective_config: Some(effective("a: 1")),
        remote_config_status: Some(v1::RemoteConfigStatus {
            error_message: "no".to_owned(),
            ..Default::default()
        }),
        package_statuses: Some(v1::PackageStatuses {
            error_message: "no".to_owned(),
            ..Default::default()
        }),
        custom_capabilities: Some(v1::CustomCapabilities {
            capabilities: vec!["io.example.capability".to_owned()],
        }),
        available_components: Some(v1::AvailableComponents {
            hash: vec![1, 2, 3].into(),
            ..Default::default()
        }),
        connection_settings_status: Some(v1::ConnectionSettingsStatus {
            error_message: "no".to_owned(),
            ..Default::default()
        }),
        connection_settings_request: Some(v1::ConnectionSettingsRequest {
            opamp: Some(v1::OpAmpConnectionSettingsRequest::default()),
        }),
        ..Default::default()
    }
}

#[test]
fn a_part_is_copied_without_the_others() {
    let whole = whole();
    assert_eq!(Parts::all().present_in(&whole), Parts::all());
    let mut together = v1::AgentToServer::default();
    for part in Parts::all() {
        let mut alone = v1::AgentToServer::default();
        part.copy(&whole, &mut alone);
        assert_ne!(alone, v1::AgentToServer::default(), "{part:?}");
        // The mask is in every message.
        assert_eq!(Parts::all().present_in(&alone), part | Parts::CAPABILITIES);
        assert_eq!(part.encoded_len(&alone), part.encoded_len(&whole));
        part.copy(&whole, &mut together);
    }
    assert_eq!(together, whole);
}

#[test]
fn a_part_is_taken_out_by_copying_its_absence() {
    let mut message = whole();
    for part in Parts::all() - Parts::CAPABILITIES {
        part.copy(&v1::AgentToServer::default(), &mut message);
        assert!(!Parts::all().present_in(&message).contains(part));
    }
    assert_eq!(message, v1::AgentToServer { capabilities: 1, ..Default::default() });
}

#[test]
fn an_empty_part_is_present() {
    let message =
        v1::AgentToServer { health: Some(v1::ComponentHealth::default()), ..Default::default() };
    assert_eq!(Parts::all().present_in(&message), Parts::HEALTH | Parts::CAPABILITIES);
    assert_eq!(Parts::HEALTH.encoded_len(&message), Some(0));
}

#[test]
fn every_part_has_its_own_place() {
    let places: std::collections::BTreeSet<_> = Parts::all().iter().map(Parts::index).collect();
    assert!(places.into_iter().eq(0..Parts::COUNT));
}
