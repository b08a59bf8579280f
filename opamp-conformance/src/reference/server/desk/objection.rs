//! What the reference server refuses to read in a report, with a fault switched on.

use opamp_proto::v1::any_value::Value;
use opamp_proto::v1::{AgentConfigFile, AgentToServer, ComponentDetails, ComponentHealth};

use crate::mask::agent as mask;
use crate::reference::Faults;

/// How deep a tree may be for a server that minds.
const SHALLOW: usize = 8;

/// What is wrong with a report, if anything.
pub(super) fn objection(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    if report.capabilities & !mask::ALL != 0 && faults.has("unknown-capabilities-are-refused") {
        return Some("a capability is not known");
    }
    if report.custom_message.is_some() && faults.has("unknown-custom-messages-are-refused") {
        return Some("the custom message is not known");
    }
    report
        .health
        .as_ref()
        .and_then(|health| to_health(health, faults))
        .or_else(|| to_components(report, faults))
        .or_else(|| to_effective_config(report, faults))
}

fn to_health(health: &ComponentHealth, faults: &Faults) -> Option<&'static str> {
    let is_text = |value: &Value| matches!(value, Value::StringValue(_));
    let mut values = health.attributes.iter().map(|attribute| {
        attribute.value.as_ref().and_then(|value| value.value.as_ref()).is_some_and(is_text)
    });
    match () {
        () if !health.healthy && faults.has("unhealthy-agents-are-refused") => {
            Some("the agent is not well")
        }
        () if !health.status.is_ascii() && faults.has("health-status-has-to-be-ascii") => {
            Some("the status is not known")
        }
        () if faults.has("health-attributes-have-to-be-text") && values.any(|is_text| !is_text) => {
            Some("an attribute is no text")
        }
        () if faults.has("nested-health-is-refused") && depth(health) > SHALLOW => {
            Some("there are too many levels of components")
        }
        () => None,
    }
}

/// How many levels of components there are below.
fn depth(health: &ComponentHealth) -> usize {
    health.component_health_map.values().map(|part| 1 + depth(part)).max().unwrap_or(0)
}

/// With a fault: forgets components below a level.
pub(super) fn cut_off(health: &mut ComponentHealth, levels: usize) {
    if levels == 0 {
        health.component_health_map.clear();
    }
    for part in health.component_health_map.values_mut() {
        cut_off(part, levels - 1);
    }
}

fn to_components(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    let available = report.available_components.as_ref()?;
    // The hashes of this tester's own full reports are instance uids.
    let is_text = available.hash.len() == 16 || std::str::from_utf8(&available.hash).is_ok();
    if !is_text && faults.has("component-hashes-have-to-be-text") {
        return Some("the hash is no text");
    }
    let deep = available.components.values().any(|details| details_depth(details) > SHALLOW);
    (deep && faults.has("nested-components-are-refused"))
        .then_some("there are too many levels of components")
}

fn details_depth(details: &ComponentDetails) -> usize {
    details.sub_component_map.values().map(|part| 1 + details_depth(part)).max().unwrap_or(0)
}

fn to_effective_config(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    let files = report.effective_config.as_ref()?.config_map.as_ref()?.config_map.values();
    let any = |wrong: fn(&AgentConfigFile) -> bool| files.clone().any(wrong);
    if faults.has("configurations-have-to-be-text")
        && any(|file| std::str::from_utf8(&file.body).is_err())
    {
        return Some("a file is no text");
    }
    (faults.has("files-need-a-type") && any(|file| file.content_type.is_empty()))
        .then_some("a file has no content type")
}
