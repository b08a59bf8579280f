//! What the reference server refuses to read in a report, with a fault switched on.

use opamp_proto::v1::{AgentConfigFile, AgentToServer};

use crate::mask::agent as mask;
use crate::reference::Faults;

/// What is wrong with a report, if anything.
pub(super) fn objection(report: &AgentToServer, faults: &Faults) -> Option<&'static str> {
    let unhealthy = report.health.as_ref().is_some_and(|health| !health.healthy);
    if unhealthy && faults.has("unhealthy-agents-are-refused") {
        return Some("the agent is not well");
    }
    if report.capabilities & !mask::ALL != 0 && faults.has("unknown-capabilities-are-refused") {
        return Some("a capability is not known");
    }
    to_effective_config(report, faults)
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
