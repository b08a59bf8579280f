//! What a client has reported so far, part by part: tells news from repetition, and reports from
//! heartbeats.

use opamp_proto::v1::AgentToServer;
use prost::Message;

use crate::case::Conversation;
use crate::log::{Entry, Event};
use crate::mask::agent as mask;
use crate::report::By;

/// A sub-message that tells something of the agent's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the specification")]
pub enum Part {
    AgentDescription,
    Health,
    EffectiveConfig,
    RemoteConfigStatus,
    PackageStatuses,
    ConnectionSettingsStatus,
    CustomCapabilities,
    AvailableComponents,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AgentDescription,
        Self::Health,
        Self::EffectiveConfig,
        Self::RemoteConfigStatus,
        Self::PackageStatuses,
        Self::ConnectionSettingsStatus,
        Self::CustomCapabilities,
        Self::AvailableComponents,
    ];

    /// The name of its field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentDescription => "agent_description",
            Self::Health => "health",
            Self::EffectiveConfig => "effective_config",
            Self::RemoteConfigStatus => "remote_config_status",
            Self::PackageStatuses => "package_statuses",
            Self::ConnectionSettingsStatus => "connection_settings_status",
            Self::CustomCapabilities => "custom_capabilities",
            Self::AvailableComponents => "available_components",
        }
    }

    /// The capability that promises it; 0 where none does.
    #[must_use]
    pub fn capability(self) -> u64 {
        match self {
            Self::AgentDescription => mask::REPORTS_STATUS,
            Self::Health => mask::REPORTS_HEALTH,
            Self::EffectiveConfig => mask::REPORTS_EFFECTIVE_CONFIG,
            Self::RemoteConfigStatus => mask::REPORTS_REMOTE_CONFIG,
            Self::PackageStatuses => mask::REPORTS_PACKAGE_STATUSES,
            Self::ConnectionSettingsStatus => mask::REPORTS_CONNECTION_SETTINGS_STATUS,
            Self::CustomCapabilities => 0,
            Self::AvailableComponents => mask::REPORTS_AVAILABLE_COMPONENTS,
        }
    }

    /// Whether a message has it.
    #[must_use]
    pub fn is_in(self, message: &AgentToServer) -> bool {
        self.read(message).is_some()
    }

    /// Its content in a message, in a form that is the same for the same content. Of the components
    /// it is the hash, which stands for them.
    fn read(self, message: &AgentToServer) -> Option<Vec<u8>> {
        fn encoded<M: Message>(part: &Option<M>) -> Option<Vec<u8>> {
            part.as_ref().map(Message::encode_to_vec)
        }
        match self {
            Self::AgentDescription => encoded(&message.agent_description),
            Self::Health => encoded(&message.health),
            Self::EffectiveConfig => encoded(&message.effective_config),
            Self::RemoteConfigStatus => encoded(&message.remote_config_status),
            Self::PackageStatuses => encoded(&message.package_statuses),
            Self::ConnectionSettingsStatus => encoded(&message.connection_settings_status),
            Self::CustomCapabilities => encoded(&message.custom_capabilities),
            Self::AvailableComponents => {
                message.available_components.as_ref().map(|components| components.hash.to_vec())
            }
        }
    }
}

/// The parts of the agent's state in a message.
#[must_use]
pub fn parts(message: &AgentToServer) -> Vec<Part> {
    Part::ALL.into_iter().filter(|part| part.is_in(message)).collect()
}

/// Their names, for a finding.
#[must_use]
pub fn names(parts: &[Part]) -> String {
    if parts.is_empty() {
        return "nothing".to_owned();
    }
    parts.iter().map(|part| part.name()).collect::<Vec<_>>().join(", ")
}

/// Whether a message says no more than that the client is there: a heartbeat or a poll (A02).
#[must_use]
pub fn is_bare(message: &AgentToServer) -> bool {
    parts(message).is_empty()
        && message.agent_disconnect.is_none()
        && message.custom_message.is_none()
        && message.connection_settings_request.is_none()
}

/// What was reported last of each part.
#[derive(Debug, Clone, Default)]
pub struct Reported([Option<Vec<u8>>; Part::ALL.len()]);

impl Reported {
    /// After this message, as the first.
    #[must_use]
    pub fn from_first(message: &AgentToServer) -> Self {
        let mut reported = Self::default();
        reported.take(message);
        reported
    }

    /// Takes in a message; gives the parts in it that are as they were reported last.
    pub fn take(&mut self, message: &AgentToServer) -> Vec<Part> {
        let mut repeated = Vec::new();
        for (last, part) in self.0.iter_mut().zip(Part::ALL) {
            if let Some(now) = part.read(message) {
                if last.as_ref() == Some(&now) {
                    repeated.push(part);
                }
                *last = Some(now);
            }
        }
        repeated
    }

    /// Whether a message reports something without anything in it being new.
    pub fn is_stale(&mut self, message: &AgentToServer) -> bool {
        let repeated = self.take(message);
        !repeated.is_empty() && repeated.len() == parts(message).len()
    }

    /// Whether this part was ever reported.
    #[must_use]
    pub fn has(&self, part: Part) -> bool {
        self.0.iter().zip(Part::ALL).any(|(last, other)| other == part && last.is_some())
    }

    /// Whether a message has this part with another content than was reported last, or for the
    /// first time.
    #[must_use]
    pub fn is_news(&self, part: Part, message: &AgentToServer) -> bool {
        let now = part.read(message);
        self.0
            .iter()
            .zip(Part::ALL)
            .any(|(last, other)| other == part && now.is_some() && *last != now)
    }
}

/// The client's messages in a conversation, with what they came in. What a client sends to a
/// destination of telemetry is none.
pub fn messages(conversation: &Conversation) -> impl Iterator<Item = (&Entry, AgentToServer)> {
    conversation.entries.iter().filter(|entry| entry.by == By::Subject).filter_map(|entry| {
        if let Event::Request { target, .. } = &entry.event {
            let path = target.split('?').next().unwrap_or_default();
            if ["/v1/metrics", "/v1/traces", "/v1/logs"].iter().any(|end| path.ends_with(end)) {
                return None;
            }
        }
        Some((entry, entry.agent_to_server()?))
    })
}

#[cfg(test)]
mod tests {
    use opamp_proto::v1::{AvailableComponents, ComponentDetails, ComponentHealth};

    use super::*;

    #[test]
    fn a_report_without_news_is_stale() {
        let health = |healthy| AgentToServer {
            health: Some(ComponentHealth { healthy, ..Default::default() }),
            ..Default::default()
        };
        let mut reported = Reported::from_first(&health(true));
        assert!(reported.is_stale(&health(true)));
        assert!(reported.is_news(Part::Health, &health(false)));
        assert!(!reported.is_stale(&health(false)));
        assert!(reported.is_stale(&health(false)));
        assert!(!reported.is_stale(&AgentToServer::default()), "a heartbeat is no report");
        let both = AgentToServer { custom_capabilities: Some(Default::default()), ..health(false) };
        assert!(!reported.is_stale(&both), "one part of it is new");
    }

    #[test]
    fn components_are_what_their_hash_says() {
        let with = |components| AgentToServer {
            available_components: Some(AvailableComponents { components, hash: vec![1].into() }),
            ..Default::default()
        };
        let map = [("receivers".to_owned(), ComponentDetails::default())];
        let mut reported = Reported::from_first(&with(Default::default()));
        assert_eq!(reported.take(&with(map.into())), [Part::AvailableComponents]);
    }
}
