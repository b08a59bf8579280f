//! What the registry knows of an Agent at one moment.

use std::net::SocketAddr;
use std::time::SystemTime;

use opamp_proto::{AgentCapabilities, InstanceUid, WireUid};

use super::{AgentKey, Tenant};
use crate::core::{AgentState, CertificateRequestState, CustomMessages, OfferState, Transport};

/// An Agent as it was known at one moment. Clones share the reported bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSnapshot {
    pub(super) key: AgentKey,
    pub(super) connected: bool,
    pub(super) transport: Transport,
    pub(super) remote_addr: Option<SocketAddr>,
    pub(super) last_seen: SystemTime,
    pub(super) sequence_num: u64,
    pub(super) remote_config: Option<OfferState>,
    pub(super) connection_settings: Option<OfferState>,
    pub(super) packages: Option<OfferState>,
    pub(super) certificate_request: Option<CertificateRequestState>,
    pub(super) custom_messages: CustomMessages,
    pub(super) new_instance_uid: Option<InstanceUid>,
    pub(super) state: AgentState,
}

impl AgentSnapshot {
    /// The registry's key, by which operations know the Agent.
    #[must_use]
    pub const fn key(&self) -> &AgentKey {
        &self.key
    }

    /// The identifier as the Agent sends it: the key within its tenant.
    #[must_use]
    pub const fn uid(&self) -> &WireUid {
        self.key.uid()
    }

    /// Whose Agent it is.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.key.tenant()
    }

    /// Whether the Agent has a session.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.connected
    }

    /// The transport of the session, or of the last one.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// The address the last message came from, if the driver knew it.
    #[must_use]
    pub const fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote_addr
    }

    /// When the last message came.
    #[must_use]
    pub const fn last_seen(&self) -> SystemTime {
        self.last_seen
    }

    /// The number of the last message.
    #[must_use]
    pub const fn sequence_num(&self) -> u64 {
        self.sequence_num
    }

    /// The last reported mask.
    #[must_use]
    pub const fn capabilities(&self) -> AgentCapabilities {
        self.state.capabilities()
    }

    /// The configuration the Agent should have, be it its own or the one for all, and what became
    /// of it.
    #[must_use]
    pub const fn remote_config(&self) -> Option<OfferState> {
        self.remote_config
    }

    /// The connection settings the Agent should have, and what became of them. The hash is that of
    /// the parts the Agent accepts.
    #[must_use]
    pub const fn connection_settings(&self) -> Option<OfferState> {
        self.connection_settings
    }

    /// The packages the Agent should have, and what became of them.
    #[must_use]
    pub const fn packages(&self) -> Option<OfferState> {
        self.packages
    }

    /// The Agent's last certificate request, and what became of it.
    #[must_use]
    pub const fn certificate_request(&self) -> Option<CertificateRequestState> {
        self.certificate_request
    }

    /// What became of custom messages to the Agent.
    #[must_use]
    pub const fn custom_messages(&self) -> CustomMessages {
        self.custom_messages
    }

    /// The instance uid the Agent was told to take, until it speaks under it.
    #[must_use]
    pub const fn new_instance_uid(&self) -> Option<InstanceUid> {
        self.new_instance_uid
    }

    /// What the Agent reported.
    #[must_use]
    pub const fn state(&self) -> &AgentState {
        &self.state
    }
}
