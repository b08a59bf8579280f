//! An agent as JSON. What the agent never reported is absent; names are the protocol's, enum values
//! without their prefix, hashes and other bytes that are no text in hexadecimal or base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opamp_proto::v1::{self, any_value::Value as Any};
use opamp_server::{AgentSnapshot, Fleet, Transport};
use serde_json::{Map, Value, json};

use super::certificates;

/// The agent as the admin API shows it: if it told only the hash of its components, they may be
/// known from another.
pub(super) fn agent_of<I>(fleet: &Fleet<I>, agent: &AgentSnapshot) -> Value {
    let mut object = self::agent(agent);
    if let Some(components) = fleet.available_components(agent) {
        object["available_components"] = available_components(&components);
    }
    object
}

/// The agent as it is known by itself.
#[must_use]
pub fn agent(agent: &AgentSnapshot) -> Value {
    let state = agent.state();
    let mut object = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    let transport = match agent.transport() {
        Transport::WebSocket => "websocket",
        Transport::Http => "http",
    };
    let last_seen = humantime::format_rfc3339_millis(agent.last_seen());
    set("instance_uid", Some(agent.uid().to_string().into()));
    set("connected", Some(agent.is_connected().into()));
    set("transport", Some(transport.into()));
    set("remote_addr", agent.remote_addr().map(|addr| addr.to_string().into()));
    set("last_seen", Some(last_seen.to_string().into()));
    set("sequence_num", Some(agent.sequence_num().into()));
    set("capabilities", Some(agent.capabilities().names().collect()));
    set("agent_description", state.agent_description().as_ref().map(description));
    set("health", state.health().as_ref().map(health));
    set("effective_config", state.effective_config().as_ref().map(effective_config));
    set("remote_config_status", state.remote_config_status().as_ref().map(remote_config_status));
    set("package_statuses", state.package_statuses().as_ref().map(package_statuses));
    let settings_status = state.connection_settings_status();
    set("connection_settings_status", settings_status.as_ref().map(connection_settings_status));
    set("certificate_request", certificates::request_json(agent));
    set("available_components", state.available_components().as_ref().map(available_components));
    set(
        "custom_capabilities",
        state.custom_capabilities().map(|custom| custom.capabilities.into()),
    );
    Value::Object(object)
}

fn description(description: &v1::AgentDescription) -> Value {
    json!({
        "identifying_attributes": attributes(&description.identifying_attributes),
        "non_identifying_attributes": attributes(&description.non_identifying_attributes),
    })
}

fn health(health: &v1::ComponentHealth) -> Value {
    let components = &health.component_health_map;
    json!({
        "healthy": health.healthy,
        "status": health.status,
        "last_error": health.last_error,
        "start_time_unix_nano": health.start_time_unix_nano,
        "status_time_unix_nano": health.status_time_unix_nano,
        "component_health_map": by_name(components.iter().map(|(name, part)| (name, self::health(part)))),
    })
}

fn effective_config(config: &v1::EffectiveConfig) -> Value {
    let files = config.config_map.iter().flat_map(|files| &files.config_map);
    by_name(files.map(|(name, file)| (name, config_file(file))))
}

fn config_file(file: &v1::AgentConfigFile) -> Value {
    match std::str::from_utf8(&file.body) {
        Ok(body) => json!({ "content_type": file.content_type, "body": body }),
        Err(_) => json!({
            "content_type": file.content_type,
            "body_base64": BASE64.encode(&file.body),
        }),
    }
}

fn remote_config_status(status: &v1::RemoteConfigStatus) -> Value {
    json!({
        "last_remote_config_hash": hex(&status.last_remote_config_hash),
        "status": enum_name(status.status, |value| {
            Some(v1::RemoteConfigStatuses::try_from(value).ok()?.as_str_name())
        }),
        "error_message": status.error_message,
    })
}

fn package_statuses(statuses: &v1::PackageStatuses) -> Value {
    let package = |package: &v1::PackageStatus| {
        json!({
            "name": package.name,
            "agent_has_version": package.agent_has_version,
            "agent_has_hash": hex(&package.agent_has_hash),
            "server_offered_version": package.server_offered_version,
            "server_offered_hash": hex(&package.server_offered_hash),
            "status": enum_name(package.status, |value| {
                Some(v1::PackageStatusEnum::try_from(value).ok()?.as_str_name())
            }),
            "error_message": package.error_message,
        })
    };
    json!({
        "packages": by_name(statuses.packages.iter().map(|(name, status)| (name, package(status)))),
        "server_provided_all_packages_hash": hex(&statuses.server_provided_all_packages_hash),
        "error_message": statuses.error_message,
    })
}

fn connection_settings_status(status: &v1::ConnectionSettingsStatus) -> Value {
    json!({
        "last_connection_settings_hash": hex(&status.last_connection_settings_hash),
        "status": enum_name(status.status, |value| {
            Some(v1::ConnectionSettingsStatuses::try_from(value).ok()?.as_str_name())
        }),
        "error_message": status.error_message,
    })
}

fn available_components(components: &v1::AvailableComponents) -> Value {
    json!({
        "components": by_name(components.components.iter().map(|(id, part)| (id, component(part)))),
        "hash": hex(&components.hash),
    })
}

fn component(details: &v1::ComponentDetails) -> Value {
    let parts = details.sub_component_map.iter();
    json!({
        "metadata": attributes(&details.metadata),
        "sub_component_map": by_name(parts.map(|(id, part)| (id, component(part)))),
    })
}

fn by_name<'a>(entries: impl Iterator<Item = (&'a String, Value)>) -> Value {
    Value::Object(entries.map(|(name, value)| (name.clone(), value)).collect())
}

fn attributes(list: &[v1::KeyValue]) -> Value {
    by_name(list.iter().map(|attribute| (&attribute.key, any(attribute.value.as_ref()))))
}

/// What was decoded is nested no deeper than decoding allows.
fn any(value: Option<&v1::AnyValue>) -> Value {
    match value.and_then(|value| value.value.as_ref()) {
        None => Value::Null,
        Some(Any::StringValue(text)) => text.as_str().into(),
        Some(Any::BoolValue(value)) => (*value).into(),
        Some(Any::IntValue(value)) => (*value).into(),
        // JSON has no numbers for these.
        Some(Any::DoubleValue(value)) if !value.is_finite() => value.to_string().into(),
        Some(Any::DoubleValue(value)) => (*value).into(),
        Some(Any::BytesValue(bytes)) => BASE64.encode(bytes).into(),
        Some(Any::ArrayValue(array)) => array.values.iter().map(|value| any(Some(value))).collect(),
        Some(Any::KvlistValue(list)) => attributes(&list.values),
    }
}

/// A value of a newer schema is shown as its number.
fn enum_name(value: i32, name: impl Fn(i32) -> Option<&'static str>) -> Value {
    match name(value) {
        Some(name) => name.split_once('_').map_or(name, |(_, name)| name).into(),
        None => value.into(),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A string takes whatever is written to it.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_text_where_they_can_be() {
        let file = |body: &'static [u8]| v1::AgentConfigFile {
            body: body.into(),
            content_type: "text/yaml".into(),
        };
        assert_eq!(
            config_file(&file(b"a: 1")),
            json!({"content_type": "text/yaml", "body": "a: 1"})
        );
        assert_eq!(
            config_file(&file(b"\xff\x00")),
            json!({"content_type": "text/yaml", "body_base64": "/wA="})
        );
    }

    #[test]
    fn enum_values_have_no_prefix_and_newer_ones_their_number() {
        let status = |status| v1::RemoteConfigStatus { status, ..Default::default() };
        let applied = remote_config_status(&status(v1::RemoteConfigStatuses::Applied.into()));
        assert_eq!(applied["status"], "APPLIED");
        assert_eq!(remote_config_status(&status(99))["status"], 99);
        let package = v1::PackageStatus {
            status: v1::PackageStatusEnum::InstallPending.into(),
            ..Default::default()
        };
        let statuses =
            v1::PackageStatuses { packages: [("p".into(), package)].into(), ..Default::default() };
        assert_eq!(package_statuses(&statuses)["packages"]["p"]["status"], "InstallPending");
    }

    #[test]
    fn attributes_keep_their_types() {
        let list = [
            v1::KeyValue::new("text", "a"),
            v1::KeyValue::new("number", 1_i64),
            v1::KeyValue::new("nan", f64::NAN),
            v1::KeyValue::new("list", vec![v1::AnyValue::from(true), v1::AnyValue::from(0.5)]),
        ];
        assert_eq!(
            attributes(&list),
            json!({"text": "a", "number": 1, "nan": "NaN", "list": [true, 0.5]})
        );
    }
}
