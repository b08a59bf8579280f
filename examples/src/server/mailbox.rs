//! The custom messages that agents sent last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use opamp_proto::{WireUid, v1};
use serde_json::{Value, json};

/// Messages that are kept, of all agents together, and their bytes; one may have more.
const MAX_MESSAGES: usize = 1000;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The last custom messages, the oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Mailbox(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    messages: VecDeque<(WireUid, v1::CustomMessage)>,
    bytes: usize,
}

fn size(message: &v1::CustomMessage) -> usize {
    message.capability.len() + message.r#type.len() + message.data.len()
}

impl Mailbox {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, from: WireUid, messages: Vec<v1::CustomMessage>) {
        let mut kept = self.kept();
        for mut message in messages {
            // A copy, as the data may be a part of all that it came with.
            message.data = Bytes::copy_from_slice(&message.data);
            kept.bytes += size(&message);
            kept.messages.push_back((from, message));
            while kept.messages.len() > MAX_MESSAGES
                || kept.bytes > MAX_BYTES && kept.messages.len() > 1
            {
                let oldest = kept.messages.pop_front();
                kept.bytes -= oldest.map_or(0, |(_, message)| size(&message));
            }
        }
    }

    /// What an agent sent, as JSON.
    pub(super) fn of(&self, uid: &WireUid) -> Vec<Value> {
        let kept = self.kept();
        let of_agent = kept.messages.iter().filter(|(from, _)| from == uid);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(size: usize) -> v1::CustomMessage {
        v1::CustomMessage { data: vec![0; size].into(), ..Default::default() }
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_in_bytes() {
        let mailbox = Mailbox::default();
        let [one, other] = [[1; 16], [2; 16]].map(|uid| WireUid::new(&uid).unwrap());
        mailbox.add(one, vec![message(1)]);
        mailbox.add(other, vec![message(2); MAX_MESSAGES - 1]);
        assert_eq!((mailbox.of(&one).len(), mailbox.of(&other).len()), (1, MAX_MESSAGES - 1));
        mailbox.add(other, vec![message(2)]);
        assert_eq!((mailbox.of(&one).len(), mailbox.of(&other).len()), (0, MAX_MESSAGES));
        assert_eq!(mailbox.kept().bytes, 2 * MAX_MESSAGES);

        mailbox.add(one, vec![message(MAX_BYTES)]);
        assert_eq!((mailbox.of(&one).len(), mailbox.of(&other).len()), (1, 0));
        mailbox.add(other, vec![message(MAX_BYTES + 1)]);
        assert_eq!((mailbox.of(&one).len(), mailbox.of(&other).len()), (0, 1));
        mailbox.add(one, vec![message(1); 2]);
        assert_eq!((mailbox.of(&one).len(), mailbox.kept().bytes), (2, 2));
    }

    #[test]
    fn a_message_does_not_keep_what_it_came_with() {
        let mailbox = Mailbox::default();
        let whole = Bytes::from(vec![0; 1000]);
        let uid = WireUid::new(&[1; 16]).unwrap();
        let message = v1::CustomMessage { data: whole.slice(..1), ..Default::default() };
        mailbox.add(uid, vec![message]);
        assert!(whole.is_unique());
    }
}
