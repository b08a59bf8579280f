//! What hooks have the client do.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use opamp_proto::v1::{ComponentHealth, CustomMessage};

use super::{Mind, Part};
use crate::hook::{Action, HookError};
use crate::mask::agent as mask;
use crate::mask::names;

impl Mind {
    /// Does what a hook asks for.
    pub(in crate::reference::client) fn hook(&mut self, action: &Action) -> Result<(), HookError> {
        let changed = match action {
            Action::SetHealth { healthy, last_error }
                if self.faults.has("every-change-is-queued") =>
            {
                let last_error = last_error.clone();
                let health =
                    ComponentHealth { healthy: *healthy, last_error, ..self.health.clone() };
                self.queued.push_back(health);
                return Ok(());
            }
            Action::SetHealth { healthy, last_error } => {
                self.health.healthy = *healthy || self.faults.has("agent-is-always-healthy");
                self.health.last_error.clone_from(last_error);
                if self.faults.has("last-error-is-left-out") {
                    self.health.last_error.clear();
                }
                Part::Health
            }
            Action::SetDescription { attributes } => {
                self.attributes.extend(attributes.clone());
                self.is_changed = true;
                Part::Description
            }
            Action::SetEffectiveConfig { body } => {
                if !self.faults.has("effective-config-is-that-of-the-start") {
                    self.kept.config.clone_from(body);
                }
                Part::EffectiveConfig
            }
            Action::RequestCertificate => return self.ask_for_certificate(),
            Action::SetCustomCapabilities { capabilities } => {
                self.custom.announce(capabilities);
                if self.faults.has("custom-capabilities-are-not-told") {
                    return Ok(());
                }
                Part::CustomCapabilities
            }
            Action::SendCustomMessage { capability, r#type, data, .. } => {
                let message = CustomMessage {
                    capability: capability.clone(),
                    r#type: r#type.clone(),
                    data: decode(data)?,
                };
                self.custom.send(message, &self.faults).map_err(HookError::Failed)?;
                return Ok(());
            }
            Action::SetCapability { name, on } => {
                let bit = capability(name).ok_or(HookError::Unsupported)?;
                if *on {
                    self.capabilities |= bit;
                } else {
                    self.capabilities &= !bit;
                }
                Part::Presence
            }
            Action::RequestInstanceUid => {
                self.wants_uid = true;
                Part::Presence
            }
            _ => return Err(HookError::Unsupported),
        };
        let is_status = matches!(changed, Part::Description | Part::Health | Part::EffectiveConfig);
        if !(is_status && self.faults.has("change-is-not-told")) {
            self.unreported.insert(changed);
        }
        Ok(())
    }
}

/// The capability of this name.
fn capability(name: &str) -> Option<u64> {
    let bits = (0..u64::BITS).map(|bit| 1 << bit);
    bits.filter(|bit| bit & mask::ALL != 0)
        .find(|bit| names("AgentCapabilities", *bit).concat() == name)
}

fn decode(base64: &str) -> Result<Bytes, HookError> {
    let decoded = BASE64_STANDARD.decode(base64);
    decoded.map(Bytes::from).map_err(|error| HookError::Failed(error.to_string()))
}
