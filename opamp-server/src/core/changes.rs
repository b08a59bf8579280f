//! What changed about an Agent, as a set: changes that nobody has looked at yet add up.

use bitflags::bitflags;

bitflags! {
    /// What is new about an Agent since somebody last looked.
    ///
    /// The set says only what to look at; the values are those of the Agent's snapshot. After a
    /// quick reconnect, for example, both [`CONNECTED`](Self::CONNECTED) and
    /// [`DISCONNECTED`](Self::DISCONNECTED) are set, and the snapshot says which it is now.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct Changes: u32 {
        /// A new `agent_description`.
        const AGENT_DESCRIPTION = 1;
        /// A new `health`.
        const HEALTH = 1 << 1;
        /// A new `effective_config`.
        const EFFECTIVE_CONFIG = 1 << 2;
        /// A new `remote_config_status`.
        const REMOTE_CONFIG_STATUS = 1 << 3;
        /// New `package_statuses`.
        const PACKAGE_STATUSES = 1 << 4;
        /// New `custom_capabilities`.
        const CUSTOM_CAPABILITIES = 1 << 5;
        /// New `available_components`.
        const AVAILABLE_COMPONENTS = 1 << 6;
        /// A new `connection_settings_status`.
        const CONNECTION_SETTINGS_STATUS = 1 << 7;
        /// A new `capabilities` mask.
        const CAPABILITIES = 1 << 8;
        /// A session began.
        const CONNECTED = 1 << 9;
        /// A session ended: by goodbye, by the loss of the connection, or by silence.
        const DISCONNECTED = 1 << 10;
        /// The Agent speaks under another instance uid than before.
        const INSTANCE_UID = 1 << 11;
        /// Something the Agent was offered has [timed out](crate::Outcome::TimedOut).
        const OFFER_TIMED_OUT = 1 << 12;
        /// The Agent sent custom messages.
        const CUSTOM_MESSAGES = 1 << 13;
        /// The Agent asks for a certificate, and somebody has to decide.
        const CERTIFICATE_REQUEST = 1 << 14;
        /// The session ended as the Agent was silent for too long.
        const SILENT = 1 << 15;
        /// Another living Agent came under this one's instance uid, and is given one of its own.
        const DUPLICATE = 1 << 16;
    }
}
