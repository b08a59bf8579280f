//! The parts of an agent's status that travel, and may be left out, on their own (DELTA-01).

use opamp_proto::{Message, v1};

bitflags::bitflags! {
    /// A set of parts of the agent's status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Parts: u16 {
        /// `agent_description`.
        const DESCRIPTION = 1 << 0;
        /// `health`.
        const HEALTH = 1 << 1;
        /// `effective_config`.
        const EFFECTIVE_CONFIG = 1 << 2;
        /// `remote_config_status`.
        const REMOTE_CONFIG_STATUS = 1 << 3;
        /// `package_statuses`.
        const PACKAGE_STATUSES = 1 << 4;
        /// `custom_capabilities`.
        const CUSTOM_CAPABILITIES = 1 << 5;
        /// `available_components`.
        const AVAILABLE_COMPONENTS = 1 << 6;
        /// `connection_settings_status`.
        const CONNECTION_SETTINGS_STATUS = 1 << 7;
        /// The capabilities mask itself: it is in every message, and a change of it causes one.
        const CAPABILITIES = 1 << 8;
        /// `connection_settings_request`: no status, but told as surely.
        const CERTIFICATE_REQUEST = 1 << 9;
    }
}

impl Parts {
    /// How many parts there are.
    pub(super) const COUNT: usize = 10;

    /// The place of a single part in a table of [`Parts::COUNT`] entries.
    pub(super) fn index(self) -> usize {
        debug_assert_eq!(self.bits().count_ones(), 1);
        self.bits().trailing_zeros() as usize
    }

    /// Those of these parts for which `message` has a value.
    pub(super) fn present_in(self, message: &v1::AgentToServer) -> Self {
        self.iter().filter(|part| part.encoded_len(message).is_some()).collect()
    }

    /// Copies these parts of `from` into `to`.
    pub(super) fn copy(self, from: &v1::AgentToServer, to: &mut v1::AgentToServer) {
        for part in self.iter() {
            match part {
                Self::DESCRIPTION => to.agent_description.clone_from(&from.agent_description),
                Self::HEALTH => to.health.clone_from(&from.health),
                Self::EFFECTIVE_CONFIG => to.effective_config.clone_from(&from.effective_config),
                Self::REMOTE_CONFIG_STATUS => {
                    to.remote_config_status.clone_from(&from.remote_config_status);
                }
                Self::PACKAGE_STATUSES => to.package_statuses.clone_from(&from.package_statuses),
                Self::CUSTOM_CAPABILITIES => {
                    to.custom_capabilities.clone_from(&from.custom_capabilities);
                }
                Self::AVAILABLE_COMPONENTS => {
                    to.available_components.clone_from(&from.available_components);
                }
                Self::CONNECTION_SETTINGS_STATUS => {
                    to.connection_settings_status.clone_from(&from.connection_settings_status);
                }
                Self::CERTIFICATE_REQUEST => {
                    to.connection_settings_request.clone_from(&from.connection_settings_request);
                }
                _ => to.capabilities = from.capabilities,
            }
        }
    }

    /// Bytes this single part takes in `message`, without its key and length; `None` where it is
    /// absent.
    pub(super) fn encoded_len(self, message: &v1::AgentToServer) -> Option<usize> {
        fn len<M: Message>(part: Option<&M>) -> Option<usize> {
            part.map(Message::encoded_len)
        }
        match self {
            Self::DESCRIPTION => len(message.agent_description.as_ref()),
            Self::HEALTH => len(message.health.as_ref()),
            Self::EFFECTIVE_CONFIG => len(message.effective_config.as_ref()),
            Self::REMOTE_CONFIG_STATUS => len(message.remote_config_status.as_ref()),
            Self::PACKAGE_STATUSES => len(message.package_statuses.as_ref()),
            Self::CUSTOM_CAPABILITIES => len(message.custom_capabilities.as_ref()),
            Self::AVAILABLE_COMPONENTS => len(message.available_components.as_ref()),
            Self::CONNECTION_SETTINGS_STATUS => len(message.connection_settings_status.as_ref()),
            Self::CERTIFICATE_REQUEST => len(message.connection_settings_request.as_ref()),
            _ => Some(0),
        }
    }

    /// The largest of these parts in `message`; none when the set is empty.
    pub(super) fn largest_in(self, message: &v1::AgentToServer) -> Option<Self> {
        self.iter().max_by_key(|part| part.encoded_len(message))
    }
}
