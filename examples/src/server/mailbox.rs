//! The custom messages that agents sent last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use opamp_proto::{WireUid, v1};
use serde_json::{Value, json};

/// Messages that are kept, of all agents together.
const MAX_MESSAGES: usize = 1000;

/// The last custom messages, the oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Mailbox(Arc<Mutex<VecDeque<(WireUid, v1::CustomMessage)>>>);

impl Mailbox {
    fn messages(&self) -> MutexGuard<'_, VecDeque<(WireUid, v1::CustomMessage)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, from: WireUid, messages: Vec<v1::CustomMessage>) {
        let mut kept = self.messages();
        kept.extend(messages.into_iter().map(|message| (from, message)));
        let excess = kept.len().saturating_sub(MAX_MESSAGES);
        kept.drain(..excess);
    }

    /// What an agent sent, as JSON.
    pub(super) fn of(&self, uid: &WireUid) -> Vec<Value> {
        let messages = self.messages();
        let of_agent = messages.iter().filter(|(from, _)| from == uid);
        of_agent
            .map(|(_, message)| {
                json!({
                    "capability": message.capability,
                    "type": message.r#type,
                    "data_base64": BASE64.encode(&message.data),
                })
            })
            .collect()
    }
}
