//! What the reference server shows of an agent to the hook `show_agent`.

use std::collections::BTreeMap;

use base64::Engine as _;
use opamp_proto::v1::{AgentConfigFile, ComponentDetails, ComponentHealth, KeyValue};
use serde_json::{Map, Value, json};

use super::Agent;
use crate::wire::hex;

/// The agent in the shape of the hook's answer.
pub(super) fn shown(agent: &Agent) -> Value {
    let state = &agent.state;
    json!({
        "connected": agent.connected,
        "sequence_num": agent.sequence_num,
        "agent_description": state.agent_description.as_ref().map(|description| json!({
            "identifying_attributes": attributes(&description.identifying_attributes),
            "non_identifying_attributes": attributes(&description.non_identifying_attributes),
        })),
        "health": state.health.as_ref().map(health),
        "effective_config": state.effective_config.as_ref().map(|config| {
            let files = config.config_map.iter().flat_map(|files| &files.config_map);
            Value::Object(files.map(|(name, file)| (name.clone(), self::file(file))).collect())
        }),
        "remote_config_status": state.remote_config_status.as_ref().map(|status| json!({
            "last_remote_config_hash": hex(&status.last_remote_config_hash),
            "error_message": status.error_message,
        })),
        "package_statuses": state.package_statuses.as_ref().map(|statuses| json!({
            "error_message": statuses.error_message,
        })),
        "available_components": state.available_components.as_ref().map(|components| json!({
            "components": self::components(&components.components),
            "hash": hex(&components.hash),
        })),
    })
}

fn attributes(attributes: &[KeyValue]) -> Map<String, Value> {
    let text = |attribute: &KeyValue| {
        let text = attribute.value.as_ref().and_then(|value| value.as_str());
        (attribute.key.clone(), text.into())
    };
    attributes.iter().map(text).collect()
}

fn health(health: &ComponentHealth) -> Value {
    let parts = health.component_health_map.iter();
    let parts: Map<_, _> = parts.map(|(name, part)| (name.clone(), self::health(part))).collect();
    json!({
        "healthy": health.healthy,
        "status": health.status,
        "last_error": health.last_error,
        "component_health_map": parts,
    })
}

fn file(file: &AgentConfigFile) -> Value {
    match std::str::from_utf8(&file.body) {
        Ok(body) => json!({ "content_type": file.content_type, "body": body }),
        Err(_) => json!({
            "content_type": file.content_type,
            "body_base64": base64::engine::general_purpose::STANDARD.encode(&file.body),
        }),
    }
}

fn components(parts: &BTreeMap<String, ComponentDetails>) -> Map<String, Value> {
    let part = |part: &ComponentDetails| {
        json!({
            "metadata": attributes(&part.metadata),
            "sub_component_map": components(&part.sub_component_map),
        })
    };
    parts.iter().map(|(name, details)| (name.clone(), part(details))).collect()
}
