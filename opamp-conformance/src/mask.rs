//! The capability bits, as the schema catalogue gives them.

/// AgentCapabilities.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod agent {
    pub const REPORTS_STATUS: u64 = 0x1;
    pub const ACCEPTS_REMOTE_CONFIG: u64 = 0x2;
    pub const REPORTS_EFFECTIVE_CONFIG: u64 = 0x4;
    pub const ACCEPTS_PACKAGES: u64 = 0x8;
    pub const REPORTS_PACKAGE_STATUSES: u64 = 0x10;
    pub const REPORTS_OWN_TRACES: u64 = 0x20;
    pub const REPORTS_OWN_METRICS: u64 = 0x40;
    pub const REPORTS_OWN_LOGS: u64 = 0x80;
    pub const ACCEPTS_OPAMP_CONNECTION_SETTINGS: u64 = 0x100;
    pub const ACCEPTS_OTHER_CONNECTION_SETTINGS: u64 = 0x200;
    pub const ACCEPTS_RESTART_COMMAND: u64 = 0x400;
    pub const REPORTS_HEALTH: u64 = 0x800;
    pub const REPORTS_REMOTE_CONFIG: u64 = 0x1000;
    pub const REPORTS_HEARTBEAT: u64 = 0x2000;
    pub const REPORTS_AVAILABLE_COMPONENTS: u64 = 0x4000;
    pub const REPORTS_CONNECTION_SETTINGS_STATUS: u64 = 0x8000;
    /// All that are defined.
    pub const ALL: u64 = 0xffff;
}

/// ServerCapabilities.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod server {
    pub const ACCEPTS_STATUS: u64 = 0x1;
    pub const OFFERS_REMOTE_CONFIG: u64 = 0x2;
    pub const ACCEPTS_EFFECTIVE_CONFIG: u64 = 0x4;
    pub const OFFERS_PACKAGES: u64 = 0x8;
    pub const ACCEPTS_PACKAGES_STATUS: u64 = 0x10;
    pub const OFFERS_CONNECTION_SETTINGS: u64 = 0x20;
    pub const ACCEPTS_CONNECTION_SETTINGS_REQUEST: u64 = 0x40;
    /// All that are defined.
    pub const ALL: u64 = 0x7f;
}

/// ServerToAgentFlags and AgentToServerFlags.
#[allow(missing_docs, reason = "the names are those of the specification")]
pub mod flag {
    pub const REPORT_FULL_STATE: u64 = 0x1;
    pub const REPORT_AVAILABLE_COMPONENTS: u64 = 0x2;
    pub const REQUEST_INSTANCE_UID: u64 = 0x1;
}

/// The names of the bits that are set, without the prefix of their enum.
#[must_use]
pub fn names(of: &str, mask: u64) -> Vec<String> {
    let prefix = format!("{of}_");
    opamp_spec::schema()
        .iter()
        .filter(|row| row.message_or_enum == of)
        .filter(|row| row.number.is_some_and(|bit| bit != 0 && mask & bit == bit))
        .map(|row| row.name.strip_prefix(&prefix).unwrap_or(&row.name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masks_are_those_of_the_schema() {
        assert_eq!(names("AgentCapabilities", agent::ALL).len(), 16);
        assert_eq!(names("ServerCapabilities", server::ALL).len(), 7);
        assert_eq!(names("AgentCapabilities", agent::REPORTS_HEARTBEAT), ["ReportsHeartbeat"]);
        assert_eq!(
            names("ServerCapabilities", server::ACCEPTS_CONNECTION_SETTINGS_REQUEST),
            ["AcceptsConnectionSettingsRequest"]
        );
    }
}
