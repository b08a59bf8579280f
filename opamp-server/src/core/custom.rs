//! Custom capabilities and custom messages (CUST-01 to CUST-13; reading A31).
//!
//! What the Server is able to do besides the protocol it announces to each Agent once a session. A
//! message goes to an Agent only while both have announced its capability; it is sent at most once,
//! in the order the operator gave, and waits for a chance in a queue of bounded length and size.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{Message, v1};

use super::endpoint::InvalidOffer;
use super::tally::Tally;
use super::{OperationError, ServerConfig, later};

/// The custom capabilities of a Server: none by default.
///
/// ```
/// use opamp_server::{CustomCapabilities, ServerConfig};
///
/// let mut config = ServerConfig::default();
/// config.custom_capabilities = CustomCapabilities::new(["org.example.chat", "org.example.log/2"])?;
/// assert!(CustomCapabilities::new(["chat"]).is_err());
/// # Ok::<(), opamp_server::InvalidOffer>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomCapabilities {
    names: Arc<[String]>,
    /// A `ServerToAgent` with nothing but `custom_capabilities`.
    encoded: Bytes,
}

impl CustomCapabilities {
    /// The most capabilities a Server may have.
    pub const MAX: usize = 64;
    /// The most bytes of a name.
    pub const MAX_NAME: usize = 255;

    /// Capabilities of these names.
    ///
    /// # Errors
    ///
    /// [`InvalidOffer`] if a name is not a reverse domain name and a short name, joined by a dot,
    /// and perhaps a slash and a version (CUST-05); or if there are more than [`MAX`](Self::MAX) or
    /// longer ones than [`MAX_NAME`](Self::MAX_NAME).
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self, InvalidOffer> {
        let mut known: Vec<String> = Vec::new();
        for name in names {
            let name = name.into();
            let fault = |what: &str| InvalidOffer::new("custom_capabilities", what);
            if !is_name(&name) {
                let what = format!("{name:?} is not of the form org.example.name or …/version");
                return Err(fault(&what));
            }
            if !known.contains(&name) {
                known.push(name);
            }
            if known.len() > Self::MAX {
                return Err(fault(&format!("there are more than {}", Self::MAX)));
            }
        }
        if known.is_empty() {
            return Ok(Self::default());
        }
        let list = v1::CustomCapabilities { capabilities: known.clone() };
        let message = v1::ServerToAgent { custom_capabilities: Some(list), ..Default::default() };
        Ok(Self { names: known.into(), encoded: message.encode_to_vec().into() })
    }

    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// The encoded field of a message; empty if there is none.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.encoded
    }
}

impl fmt::Debug for CustomCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.names).finish()
    }
}

/// At least three labels, the last of which is the short name, and perhaps a version.
fn is_name(name: &str) -> bool {
    let (domain, version) = match name.split_once('/') {
        Some((domain, version)) => (domain, Some(version)),
        None => (name, None),
    };
    let label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.bytes().all(known)
    };
    name.len() <= CustomCapabilities::MAX_NAME
        && domain.split('.').count() >= 3
        && domain.split('.').all(label)
        && version.is_none_or(|version| {
            !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_graphic())
        })
}

/// Custom messages to an Agent: how many there were, and what became of them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CustomMessages {
    /// Messages that wait for a chance to be sent.
    pub waiting: usize,
    /// Messages sent. Whether the Agent did anything with one only its capability can tell.
    pub sent: u64,
    /// The number of the last message sent, which [`send_custom_message`] returned; `None` before
    /// the first.
    ///
    /// [`send_custom_message`]: crate::Fleet::send_custom_message
    pub last_sent: Option<u64>,
    /// Messages given up as they had waited too long.
    pub expired: u64,
    /// Messages given up as the Agent no longer announced their capability (CUST-03).
    pub not_accepted: u64,
}

/// Messages that wait to be sent to one Agent.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    messages: VecDeque<Queued>,
    bytes: usize,
    /// Numbers given out.
    numbers: u64,
    counts: CustomMessages,
    /// What was told for the counts of the Server.
    told: CustomMessages,
}

#[derive(Debug)]
struct Queued {
    number: u64,
    capability: String,
    /// A `ServerToAgent` with nothing but `custom_message`.
    encoded: Bytes,
    expires: Instant,
}

impl Waiting {
    pub(super) fn counts(&self) -> CustomMessages {
        CustomMessages { waiting: self.messages.len(), ..self.counts }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Adds what is new to the tally.
    pub(super) fn tell(&mut self, tally: &mut Tally) {
        let Self { counts, told, .. } = self;
        let new = |now: u64, then: u64| u16::try_from(now - then).unwrap_or(u16::MAX);
        tally.custom_sent = tally.custom_sent.saturating_add(new(counts.sent, told.sent));
        tally.custom_expired =
            tally.custom_expired.saturating_add(new(counts.expired, told.expired));
        tally.custom_unsupported =
            tally.custom_unsupported.saturating_add(new(counts.not_accepted, told.not_accepted));
        *told = *counts;
    }

    /// Adds a message, and returns its number.
    pub(super) fn push(
        &mut self,
        message: v1::CustomMessage,
        config: &ServerConfig,
        now: Instant,
    ) -> Result<u64, OperationError> {
        self.drop_expired(now);
        let capability = message.capability.clone();
        let message = v1::ServerToAgent { custom_message: Some(message), ..Default::default() };
        let encoded = Bytes::from(message.encode_to_vec());
        config.check_size(encoded.len())?;
        if self.messages.len() >= config.max_custom_messages
            || self.bytes.saturating_add(encoded.len()) > config.max_custom_bytes
        {
            return Err(OperationError::QueueFull);
        }
        self.numbers += 1;
        self.bytes += encoded.len();
        let expires = later(now, config.custom_message_expiry);
        self.messages.push_back(Queued { number: self.numbers, capability, encoded, expires });
        Ok(self.numbers)
    }

    /// The next message that can be sent; those before it that cannot any more are given up.
    pub(super) fn next(&mut self, agent: &[String], now: Instant) -> Option<&Bytes> {
        self.drop_expired(now);
        while let Some(message) = self.messages.front() {
            if agent.contains(&message.capability) {
                break;
            }
            self.bytes -= message.encoded.len();
            self.counts.not_accepted += 1;
            self.messages.pop_front();
        }
        self.messages.front().map(|message| &message.encoded)
    }

    /// The next message is being sent.
    pub(super) fn sent(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.encoded.len();
            self.counts.sent += 1;
            self.counts.last_sent = Some(message.number);
        }
        if self.messages.is_empty() {
            self.messages.shrink_to(0);
        }
    }

    /// Gives up what has waited for too long. Messages expire in the order they came in.
    pub(super) fn drop_expired(&mut self, now: Instant) {
        while self.messages.front().is_some_and(|message| now >= message.expires) {
            if let Some(message) = self.messages.pop_front() {
                self.bytes -= message.encoded.len();
                self.counts.expired += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// However a message leaves the queue, there is room for as much again, and no more.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
    fn what_leaves_makes_room() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let chat = |name: &str, size: usize| v1::CustomMessage {
            capability: format!("org.example.{name}"),
            data: vec![1; size].into(),
            ..Default::default()
        };
        let encoded_len = |message| {
            let message = v1::ServerToAgent { custom_message: Some(message), ..Default::default() };
            message.encoded_len()
        };
        let max_custom_bytes = encoded_len(chat("gone", 500)) + encoded_len(chat("chat", 200));
        let config = ServerConfig { max_custom_bytes, ..ServerConfig::default() };
        type Leave = fn(&mut Waiting, Instant);
        let sent: Leave = |waiting, _| waiting.sent();
        let skipped: Leave =
            |waiting, now| assert!(waiting.next(&["org.example.chat".into()], now).is_some());
        let expired: Leave = |waiting, now| waiting.drop_expired(now + Duration::from_secs(300));
        for (leave, ended) in [(sent, (1, 0, 0)), (skipped, (0, 1, 0)), (expired, (0, 0, 1))] {
            let mut waiting = Waiting::default();
            waiting.push(chat("gone", 500), &config, now).expect("room");
            waiting.push(chat("chat", 200), &config, later).expect("room");
            leave(&mut waiting, now);
            waiting.push(chat("chat", 500), &config, later).expect("room");
            let full = waiting.push(chat("chat", 0), &config, later);
            assert_eq!(full, Err(OperationError::QueueFull));
            let CustomMessages { sent, not_accepted, expired, .. } = waiting.counts();
            assert_eq!((sent, not_accepted, expired), ended);
        }
    }

    #[test]
    fn names_are_reverse_domain_names() {
        let _judged = opamp_spec::judges(&["CUST-05"]);
        for name in ["org.example.chat", "io.a-b.c_d.e", "org.example.chat/1", "a.b.c/v1.2/x"] {
            assert!(CustomCapabilities::new([name]).is_ok(), "{name}");
        }
        let long = format!("org.example.{}", "a".repeat(250));
        for name in ["", "chat", "example.chat", "org..chat", "org.example.chat/", "a.b.c d", &long]
        {
            assert!(CustomCapabilities::new([name]).is_err(), "{name}");
        }
        let many = (0..65).map(|number| format!("org.example.c{number}"));
        assert!(CustomCapabilities::new(many).is_err());
        let twice = CustomCapabilities::new(["org.example.a", "org.example.a"]).unwrap();
        assert_eq!(twice.names(), ["org.example.a"]);
        assert!(CustomCapabilities::default().is_empty() && !twice.is_empty());
    }
}
