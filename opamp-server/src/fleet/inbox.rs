//! Custom messages that Agents have sent and the handler has not taken: a bounded number and size
//! for each Agent, within what is kept for all of them.

use opamp_proto::v1;

use super::Fleet;
use crate::core::ServerConfig;

/// The custom messages of one Agent, in the order they came in.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    messages: Vec<v1::CustomMessage>,
    bytes: usize,
}

impl Inbox {
    /// What is kept of the messages, which counts towards the bytes kept for all Agents.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn has_room(&self, size: usize, config: &ServerConfig) -> bool {
        self.messages.len() < config.max_custom_messages
            && self.bytes.saturating_add(size) <= config.max_custom_bytes
    }
}

impl<I> Fleet<I> {
    /// Keeps a custom message for the handler. False if there is no room for it: it is dropped, and
    /// counted.
    pub(super) fn keep(&self, inbox: &mut Inbox, message: v1::CustomMessage) -> bool {
        let size = message.capability.len() + message.r#type.len() + message.data.len();
        let room = inbox.has_room(size, self.config());
        let Some(reserved) = self.inner.budget.reserve(size).filter(|_| room) else {
            self.inner.counting.custom_messages_dropped.add();
            return false;
        };
        reserved.settle(0, size);
        inbox.bytes += size;
        inbox.messages.push(message);
        self.inner.counting.custom_messages_taken.add();
        true
    }

    /// Takes the messages out for the handler.
    pub(super) fn empty(&self, inbox: &mut Inbox) -> Vec<v1::CustomMessage> {
        let Inbox { messages, bytes } = std::mem::take(inbox);
        self.inner.budget.release(bytes);
        messages
    }
}
