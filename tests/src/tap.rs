//! What must hold of every message on the wire, whatever happens around it.

use std::collections::{BTreeMap, BTreeSet};

use opamp_client::core::Transport;
use opamp_proto::v1::{AgentToServer, ServerToAgent};
use opamp_proto::{AgentCapabilities, Message as _, ServerCapabilities};

/// Counts and judges the messages of one run.
#[derive(Debug, Default)]
pub struct Tap {
    /// Messages of agents that carry status, or nothing but are owed by a new connection.
    pub reports: u64,
    /// Messages of agents that carry nothing.
    pub heartbeats: u64,
    /// Messages of the server.
    pub replies: u64,
    /// The last sequence number of each agent process.
    sequence: BTreeMap<usize, u64>,
    /// Agent processes that said goodbye on a connection.
    gone: BTreeSet<(usize, u64)>,
    /// Connections on which an agent has had its first reply.
    greeted: BTreeSet<u64>,
}

/// Whether a message of an agent carries any part of its status.
#[must_use]
pub fn has_status(message: &AgentToServer) -> bool {
    message.agent_description.is_some()
        || message.health.is_some()
        || message.effective_config.is_some()
        || message.remote_config_status.is_some()
        || message.package_statuses.is_some()
        || message.custom_capabilities.is_some()
        || message.available_components.is_some()
        || message.connection_settings_status.is_some()
}

impl Tap {
    /// An agent's process sent a message on a connection; over HTTP each request is its own.
    ///
    /// # Panics
    ///
    /// When the message breaks a rule.
    pub fn sent_by_agent(&mut self, process: usize, connection: u64, body: &[u8]) {
        let message = AgentToServer::decode(body).expect("the client sends AgentToServer");
        assert_eq!(message.instance_uid.len(), 16, "ID-05");
        let last = self.sequence.insert(process, message.sequence_num);
        if let Some(last) = last {
            assert_eq!(message.sequence_num, last + 1, "SEQ-01, SEQ-02");
        }
        let capabilities = AgentCapabilities::from_bits_retain(message.capabilities);
        assert!(AgentCapabilities::all().contains(capabilities), "CAP-01");
        assert!(capabilities.contains(AgentCapabilities::REPORTS_STATUS), "CAP-06");
        assert!(!self.gone.contains(&(process, connection)), "CLOSE-01: nothing after the goodbye");
        if message.agent_disconnect.is_some() {
            self.gone.insert((process, connection));
        }
        if has_status(&message) {
            self.reports += 1;
        } else {
            self.heartbeats += 1;
        }
    }

    /// The server sent a message to an agent that calls itself `uid`.
    ///
    /// # Panics
    ///
    /// When the message breaks a rule.
    pub fn sent_by_server(
        &mut self,
        transport: Transport,
        connection: u64,
        uid: &[u8],
        body: &[u8],
    ) {
        let message = ServerToAgent::decode(body).expect("the server sends ServerToAgent");
        assert_eq!(message.instance_uid, uid, "ID-10");
        self.replies += 1;
        let rest = ServerToAgent {
            instance_uid: message.instance_uid.clone(),
            error_response: message.error_response.clone(),
            ..Default::default()
        };
        if message.error_response.is_some() {
            assert_eq!(message, rest, "ERR-03: an error comes alone");
            return;
        }
        let capabilities = ServerCapabilities::from_bits_retain(message.capabilities);
        assert!(ServerCapabilities::all().contains(capabilities), "CAP-09");
        if self.greeted.insert(connection) || transport == Transport::Http {
            assert!(capabilities.contains(ServerCapabilities::ACCEPTS_STATUS), "CAP-10, CAP-13");
        }
        if message.command.is_some() {
            let rest = ServerToAgent {
                instance_uid: message.instance_uid.clone(),
                capabilities: message.capabilities,
                command: message.command,
                ..Default::default()
            };
            assert_eq!(message, rest, "CMD-01: a command comes alone");
        }
        if let Some(offer) = &message.remote_config {
            assert_eq!(offer.config_hash.len(), 32, "CFG-25");
            assert!(offer.config.is_some(), "CFG-25");
        }
        if let Some(identification) = &message.agent_identification {
            assert_eq!(identification.new_instance_uid.len(), 16, "ID-14");
        }
    }
}
