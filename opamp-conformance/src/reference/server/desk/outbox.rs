//! What the reference server has for an agent besides offers: the Restart command, its custom
//! capabilities and custom messages.

use std::collections::VecDeque;

use opamp_proto::v1::{
    AgentToServer, CommandType, CustomCapabilities, CustomMessage, ServerToAgent,
    ServerToAgentCommand,
};

use crate::hook::HookError;
use crate::mask::agent as mask;
use crate::mask::flag::REPORT_FULL_STATE;
use crate::reference::Faults;

/// The server's custom capabilities.
const OURS: [&str; 2] = ["org.example.reference.one", "org.example.reference.two/1"];

/// What waits for one agent, and what both ends announced.
#[derive(Default)]
pub(super) struct Outbox {
    restart: bool,
    messages: VecDeque<CustomMessage>,
    /// The agent's custom capabilities.
    theirs: Vec<String>,
    /// How many messages the agent was sent in this session.
    sent: u32,
    /// What was sent first of each type, for a fault.
    types: Vec<CustomMessage>,
}

impl Outbox {
    /// The agent is there again.
    pub(super) fn new_session(&mut self) {
        self.sent = 0;
    }

    /// Takes over what the agent announces.
    pub(super) fn hear(&mut self, report: &AgentToServer, faults: &Faults) {
        if let Some(list) = &report.custom_capabilities {
            if !faults.has("custom-capabilities-add-up") {
                self.theirs.clear();
            }
            self.theirs.extend(list.capabilities.iter().cloned());
        }
    }

    /// Has the agent restarted.
    pub(super) fn restart(&mut self, capabilities: u64, faults: &Faults) -> Result<(), HookError> {
        let accepts = capabilities & mask::ACCEPTS_RESTART_COMMAND != 0;
        if !accepts && !faults.has("restart-is-sent-to-all") {
            return Err(HookError::Failed("the agent takes no Restart command".to_owned()));
        }
        self.restart = true;
        Ok(())
    }

    /// Sends a custom message.
    pub(super) fn send(
        &mut self,
        mut message: CustomMessage,
        faults: &Faults,
    ) -> Result<(), HookError> {
        let has = self.theirs.contains(&message.capability);
        if !has && !faults.has("custom-messages-are-sent-to-all") {
            return Err(HookError::Failed("the agent does not have the capability".to_owned()));
        }
        if !ours(faults).contains(&message.capability) {
            return Err(HookError::Failed("the server does not have the capability".to_owned()));
        }
        if faults.has("custom-messages-are-of-any-capability") {
            message.capability = "org.example.reference.other".to_owned();
        }
        if faults.has("custom-data-becomes-text") {
            message.data = String::from_utf8_lossy(&message.data).into_owned().into();
        }
        if faults.has("custom-messages-are-known-by-type") {
            match self.types.iter().find(|first| first.r#type == message.r#type) {
                Some(first) => message.capability.clone_from(&first.capability),
                None => self.types.push(message.clone()),
            }
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// Puts into a message what is due.
    pub(super) fn fill(
        &mut self,
        message: &mut ServerToAgent,
        on_websocket: bool,
        faults: &Faults,
    ) {
        let turn = if faults.has("custom-capabilities-come-late") { 1 } else { 0 };
        let again = on_websocket && faults.has("custom-capabilities-are-repeated");
        if self.sent == turn || again {
            message.custom_capabilities = Some(CustomCapabilities { capabilities: ours(faults) });
        }
        self.sent = self.sent.saturating_add(1);
        message.custom_message = self.messages.pop_front();
        // The command goes alone, so it waits for a message that has nothing else.
        let alone = ServerToAgent {
            instance_uid: message.instance_uid.clone(),
            capabilities: message.capabilities,
            ..Default::default()
        };
        if self.restart && *message == alone {
            self.restart = false;
            message.command = Some(ServerToAgentCommand { r#type: CommandType::Restart.into() });
            if faults.has("commands-come-with-flags") {
                message.flags |= REPORT_FULL_STATE;
            }
        }
    }
}

fn ours(faults: &Faults) -> Vec<String> {
    if faults.has("custom-capabilities-are-not-domains") {
        return vec!["reference".to_owned()];
    }
    OURS.map(str::to_owned).to_vec()
}
