//! A simple server: it folds what it is told into one view of the agent.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, v1};

use super::super::values::{SERVER, config_map, other_uid, retry_info};
use super::op::{Push, custom_list};
use crate::core::Parts;

#[derive(Debug, Default)]
pub(super) struct Server {
    /// What the agent has told; nothing after a goodbye.
    view: Option<v1::AgentToServer>,
    pub(super) silent: bool,
    pub(super) always_full: bool,
    /// Whether a gap in the numbers, or an unknown agent, is noticed (SEQ-04).
    notices_gaps: bool,
    /// Since a gap, no complete report came.
    misses_something: bool,
    /// The agent has told custom capabilities once, so a complete report has them: no capability in
    /// its mask says so.
    has_custom: bool,
    /// Ask for full state in the next answer.
    pub(super) wants_full_state: bool,
    /// What the next answers have beyond an acknowledgement.
    pub(super) extras: VecDeque<Push>,
}

impl Server {
    pub(super) fn new(notices_gaps: bool) -> Self {
        Self { notices_gaps, ..Self::default() }
    }

    pub(super) fn view(&self) -> Option<&v1::AgentToServer> {
        self.view.as_ref()
    }

    pub(super) fn forget_custom(&mut self) {
        self.has_custom = false;
    }

    pub(super) fn forget(&mut self) {
        self.view = None;
    }

    /// Takes a message; the answer, unless this server gives none.
    pub(super) fn receive(&mut self, message: &v1::AgentToServer) -> Option<v1::ServerToAgent> {
        let extra = self.extras.pop_front();
        let mut answer = self.answer(&message.instance_uid, extra.as_ref());
        if answer.error_response.is_some() {
            // What came was not taken. That it came is known all the same.
            if let Some(view) = &mut self.view {
                view.sequence_num = message.sequence_num;
            }
            return Some(answer);
        }
        if message.agent_disconnect.is_some() {
            self.view = None;
            return (!self.silent).then_some(answer);
        }
        self.has_custom |= message.custom_capabilities.is_some();
        let complete =
            is_complete(message) && message.custom_capabilities.is_some() == self.has_custom;
        self.misses_something = !complete && (self.misses_something || !self.follows(message));
        if self.notices_gaps && self.misses_something {
            answer.flags |= v1::ServerToAgentFlags::ReportFullState as u64;
        }
        let view = self.view.get_or_insert_default();
        Parts::all().present_in(message).copy(message, view);
        if let Some(told) = &mut view.available_components {
            // It has seen them, and knows them by their hash.
            told.components.clear();
        }
        view.sequence_num = message.sequence_num;
        view.instance_uid = message.instance_uid.clone();
        (!self.silent).then_some(answer)
    }

    /// A message is the next one after the last.
    fn follows(&self, message: &v1::AgentToServer) -> bool {
        self.view.as_ref().is_some_and(|view| message.sequence_num == view.sequence_num + 1)
    }

    fn answer(&mut self, uid: &Bytes, extra: Option<&Push>) -> v1::ServerToAgent {
        let mut answer = self.say(uid, extra.unwrap_or(&Push::Nothing));
        if self.always_full || std::mem::take(&mut self.wants_full_state) {
            answer.flags |= v1::ServerToAgentFlags::ReportFullState as u64;
        }
        answer
    }

    /// A message of this server to the agent.
    pub(super) fn say(&self, uid: &Bytes, what: &Push) -> v1::ServerToAgent {
        let mut message = v1::ServerToAgent {
            instance_uid: uid.clone(),
            capabilities: SERVER.to_wire(),
            ..Default::default()
        };
        match what {
            Push::Nothing => {}
            Push::Offer { hash, body } => {
                // One of the hashes is none.
                let hash = Bytes::from(vec![*hash; usize::from(*hash)]);
                let body = format!("body: {body}");
                message.remote_config = Some(v1::AgentRemoteConfig {
                    config: Some(config_map(body)),
                    config_hash: hash,
                });
            }
            Push::Flags(flags) => message.flags = *flags,
            Push::Mask(mask) => message.capabilities = *mask,
            Push::NewUid(uid) => {
                message.agent_identification =
                    Some(v1::AgentIdentification { new_instance_uid: uid.clone().into() });
            }
            Push::Command(kind) => {
                message.command = Some(v1::ServerToAgentCommand { r#type: *kind });
            }
            Push::CustomMessage => message.custom_message = Some(v1::CustomMessage::default()),
            Push::Announce(has) => message.custom_capabilities = Some(custom_list(*has)),
            Push::Foreign => message.instance_uid = other_uid().to_bytes(),
            Push::Error(kind, retry_after) => {
                return error(uid, *kind, *retry_after);
            }
        }
        message
    }
}

fn error(uid: &Bytes, kind: i32, retry_after: Option<Duration>) -> v1::ServerToAgent {
    v1::ServerToAgent {
        instance_uid: uid.clone(),
        error_response: Some(v1::ServerErrorResponse {
            r#type: kind,
            error_message: "refused".to_owned(),
            details: retry_after.map(retry_info),
        }),
        ..Default::default()
    }
}

/// Whether a message has every sub-message that its mask promises.
fn is_complete(message: &v1::AgentToServer) -> bool {
    let capabilities = AgentCapabilities::from_bits_retain(message.capabilities);
    let promised = |capability, present| !capabilities.contains(capability) || present;
    message.agent_description.is_some()
        && promised(AgentCapabilities::REPORTS_HEALTH, message.health.is_some())
        && promised(AgentCapabilities::REPORTS_EFFECTIVE_CONFIG, message.effective_config.is_some())
        && promised(
            AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS,
            message.available_components.is_some(),
        )
        && promised(
            AgentCapabilities::REPORTS_REMOTE_CONFIG,
            message.remote_config_status.is_some(),
        )
}
