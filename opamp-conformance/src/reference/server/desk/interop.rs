//! What the server says it can do, and how it takes what is new to it.

use bytes::Bytes;
use opamp_proto::v1::{
    AgentToServer, ComponentHealth, ConnectionSettingsStatuses, PackageStatusEnum,
    RemoteConfigStatuses,
};

use prost::Message as _;

use crate::mask::{agent, server};
use crate::reference::Faults;
use crate::wire::text;

/// The capabilities to tell an agent that has said this.
pub(super) fn mask(state: &AgentToServer, faults: &Faults) -> u64 {
    let is_minimal = state.capabilities == agent::REPORTS_STATUS;
    let mut mask = server::ALL;
    if is_minimal && faults.has("minimal-agents-are-told-no-mask") {
        mask = 0;
    }
    if faults.has("capabilities-are-missing") {
        return 0;
    }
    if faults.has("accepts-status-is-missing") {
        mask &= !server::ACCEPTS_STATUS;
    }
    if faults.has("mask-has-reserved-bits") {
        mask |= 1 << 40;
    }
    if faults.has("mask-hides-configurations") {
        mask &= !server::OFFERS_REMOTE_CONFIG;
    }
    if faults.has("csr-bit-is-not-announced") {
        mask &= !server::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    }
    mask
}

/// What a fault makes the server object to.
pub(super) fn wrong_objection(
    report: &AgentToServer,
    bytes: &Bytes,
    faults: &Faults,
) -> Option<&'static str> {
    let is_minimal = report.capabilities == agent::REPORTS_STATUS;
    let is_heartbeat = report.agent_description.is_none() && report.agent_disconnect.is_none();
    if is_minimal && is_heartbeat && faults.has("minimal-agents-get-errors") {
        return Some("nothing is reported");
    }
    let is_deep = report.health.as_ref().is_some_and(|health| depth(health) > 8);
    if is_deep && faults.has("nesting-is-refused") {
        return Some("health is nested too deep");
    }
    let has_unknown = || !text::read("AgentToServer", bytes).unknown_fields.is_empty();
    if faults.has("unknown-fields-are-refused") && has_unknown() {
        return Some("a field is unknown");
    }
    None
}

/// Whether a message that can be decoded has what no encoder writes, or is nested very deep.
pub(in super::super) fn is_odd(bytes: &[u8]) -> bool {
    let problems = text::read("AgentToServer", bytes).problems;
    let is_deep = problems.iter().any(|problem| problem.contains("nested deeper"));
    is_deep || !problems.is_empty() && AgentToServer::decode(bytes).is_ok()
}

/// How deep the health of components is nested.
fn depth(health: &ComponentHealth) -> usize {
    1 + health.component_health_map.values().map(depth).max().unwrap_or_default()
}

/// Whether a status has a value that is not defined.
pub(super) fn has_unknown_value(report: &AgentToServer) -> bool {
    let config = report.remote_config_status.as_ref().map(|status| status.status);
    let settings = report.connection_settings_status.as_ref().map(|status| status.status);
    let packages = report.package_statuses.iter().flat_map(|statuses| statuses.packages.values());
    config.is_some_and(|status| RemoteConfigStatuses::try_from(status).is_err())
        || settings.is_some_and(|status| ConnectionSettingsStatuses::try_from(status).is_err())
        || packages.into_iter().any(|package| PackageStatusEnum::try_from(package.status).is_err())
}
