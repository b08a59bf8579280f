//! Custom messages: what travels between an agent and a server of the same family, besides OpAMP.
//!
//! Unlike a status they cannot be told anew from the present state, so they are the one thing that
//! queues: first in, first out, bounded, each with exactly one [`CustomOutcome`].
//!
//! ```text
//!   send ──► queued ──────────────► in flight ───────────► Delivered
//!    │         │ ▲  both ends          │ │ │   surely answered
//!    │         │ │  announce it        │ │ └───────────► Refused: BAD_REQUEST, UNKNOWN, 400, 413, 1009
//!    ▼         │ └─────────────────────┘ │
//!  NotSent     │  turned away: 429,      └─────────────► Unconfirmed: connection or response lost,
//!  at once     │  UNAVAILABLE, …             other 5xx, no answer in time
//!              └──► Dropped: capability not with both ends any more, too old, stopped
//! ```
//!
//! A custom message travels in a message of its own, so that a refusal of it is not one of the
//! status, and waits for the answer to what was sent before. Once it may have been processed it is
//! never sent again. The server's list is known after its first reply; until then messages wait,
//! also on a new connection, as the server may have become another (A31).

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::v1;

use super::timer::Timer;
use super::{ClientCore, Event, Parts, PeerMisbehaved};

/// Names of a server's custom capabilities that are kept.
const MAX_SERVER_CAPABILITIES: usize = 1024;

/// The longest name of a custom capability, in bytes.
const MAX_NAME: usize = 255;

/// A custom message that was accepted for sending; never reused by one core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CustomMessageId(u64);

/// What became of a custom message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CustomOutcome {
    /// The server answered the message that carried it. Whether it could make sense of it is
    /// between the two ends: a server may ignore what it does not know (CUST-06, CUST-07).
    Delivered,
    /// The server refused it, for this reason.
    Refused(String),
    /// It was sent, and no answer came that is surely to it: the server may have it or not. It is
    /// not sent again, as only the application knows whether twice is better than never.
    Unconfirmed,
    /// It was not sent and will not be, or was turned away unread and grew too old.
    Dropped(NotSent),
}

/// Why a custom message was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSent {
    /// As many messages wait for an outcome, or as many bytes, as may.
    #[error("too many custom messages wait for their outcome: send it when some have theirs")]
    Full,
    /// It can never be sent, however long it waits.
    #[error("the custom message takes {size} bytes of at most {limit}: split it")]
    TooLarge {
        /// What it takes, in bytes.
        size: usize,
        /// What it may take, in bytes.
        limit: usize,
    },
    /// The agent does not announce the capability (CUST-09).
    #[error("the agent does not announce the capability: set it before sending")]
    NotAnnounced,
    /// The server does not announce the capability (CUST-04, A31).
    #[error("the server does not announce the capability")]
    NotSupported,
    /// It waited for the server, or for its turn, for too long.
    #[error("the server could not be sent the message in time")]
    Expired,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// A custom capability's name is not a reverse domain name of two parts, a dot, a short name and,
/// if any, a slash with a version, `com.example.feature/v2` for example, of 255 bytes at most
/// (CUST-05).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no name of a custom capability: use a form like com.example.feature/v2")]
pub struct InvalidCapability {
    /// The name.
    pub name: String,
}

/// Custom capabilities to announce: valid names, each once.
///
/// ```
/// use opamp_client::core::CustomCapabilities;
///
/// let capabilities = CustomCapabilities::new(["com.example.chat", "com.example.chat/v2"])?;
/// assert!(capabilities.contains("com.example.chat/v2"));
/// assert!(CustomCapabilities::new(["chat"]).is_err());
/// # Ok::<(), opamp_client::core::InvalidCapability>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CustomCapabilities(BTreeSet<String>);

impl CustomCapabilities {
    /// These capabilities.
    ///
    /// # Errors
    ///
    /// [`InvalidCapability`] for the first name that has not the form of one (CUST-05).
    pub fn new(
        names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self, InvalidCapability> {
        let checked = names.into_iter().map(|name| {
            let name = name.into();
            if is_name(&name) { Ok(name) } else { Err(InvalidCapability { name }) }
        });
        checked.collect::<Result<_, _>>().map(Self)
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn to_message(&self) -> v1::CustomCapabilities {
        v1::CustomCapabilities { capabilities: self.0.iter().cloned().collect() }
    }
}

fn is_name(name: &str) -> bool {
    let (path, version) = name.split_once('/').unwrap_or((name, "1"));
    let is_word = |word: &str| {
        !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    name.len() <= MAX_NAME
        && is_word(version)
        && path.split('.').count() >= 3
        && path.split('.').all(is_word)
}

/// A message on its way out.
#[derive(Debug)]
struct Outgoing {
    id: CustomMessageId,
    message: v1::CustomMessage,
    /// What it counts for in the limit of bytes.
    size: usize,
    /// When it ends without an answer; `None` is beyond the end of time.
    deadline: Option<Instant>,
}

/// What came in and waits for the application.
#[derive(Debug)]
enum Incoming {
    Message(v1::CustomMessage),
    /// So many had no room here.
    Lost(u64),
}

#[derive(Debug, Default)]
pub(super) struct Custom {
    /// What the server announced; `None` until it did.
    server: Option<BTreeSet<String>>,
    queued: VecDeque<Outgoing>,
    /// What was sent on the present connection and has no outcome, with the number of the message
    /// that carried it.
    in_flight: VecDeque<(u64, Outgoing)>,
    /// What became of those that have an outcome: no more than were accepted.
    outcomes: VecDeque<(CustomMessageId, CustomOutcome)>,
    last_id: u64,
    incoming: VecDeque<Incoming>,
    incoming_size: usize,
}

impl Custom {
    fn count(&self) -> usize {
        self.queued.len() + self.in_flight.len() + self.outcomes.len()
    }

    fn size(&self) -> usize {
        let queued = self.queued.iter().map(|outgoing| outgoing.size);
        queued.chain(self.in_flight.iter().map(|(_, outgoing)| outgoing.size)).sum()
    }

    fn finish(&mut self, outgoing: &Outgoing, outcome: CustomOutcome) {
        self.outcomes.push_back((outgoing.id, outcome));
    }

    /// The answer to every message up to this one came.
    fn answered(&mut self, number: u64) {
        while self.in_flight.front().is_some_and(|(sent, _)| *sent <= number)
            && let Some((_, outgoing)) = self.in_flight.pop_front()
        {
            self.finish(&outgoing, CustomOutcome::Delivered);
        }
    }

    fn take_in_flight(&mut self, number: u64) -> Option<Outgoing> {
        let at = self.in_flight.iter().position(|(sent, _)| *sent == number)?;
        self.in_flight.remove(at).map(|(_, outgoing)| outgoing)
    }

    /// Whatever is in flight may have arrived or not.
    fn lost(&mut self) {
        for (_, outgoing) in std::mem::take(&mut self.in_flight) {
            self.finish(&outgoing, CustomOutcome::Unconfirmed);
        }
    }

    /// Drops what waits and is for a capability without the consent of both ends.
    fn drop_unsupported(&mut self, own: &CustomCapabilities) {
        for outgoing in std::mem::take(&mut self.queued) {
            let name = &outgoing.message.capability;
            let supported = self.server.as_ref().is_none_or(|server| server.contains(name));
            if !own.contains(name) {
                self.finish(&outgoing, CustomOutcome::Dropped(NotSent::NotAnnounced));
            } else if !supported {
                self.finish(&outgoing, CustomOutcome::Dropped(NotSent::NotSupported));
            } else {
                self.queued.push_back(outgoing);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let in_flight = self.in_flight.iter().map(|(_, outgoing)| outgoing);
        self.queued.iter().chain(in_flight).filter_map(|outgoing| outgoing.deadline).min()
    }

    fn expire(&mut self, now: Instant) {
        let due = |outgoing: &Outgoing| outgoing.deadline.is_some_and(|deadline| deadline <= now);
        for outgoing in std::mem::take(&mut self.queued) {
            match due(&outgoing) {
                true => self.finish(&outgoing, CustomOutcome::Dropped(NotSent::Expired)),
                false => self.queued.push_back(outgoing),
            }
        }
        for (number, outgoing) in std::mem::take(&mut self.in_flight) {
            match due(&outgoing) {
                true => self.finish(&outgoing, CustomOutcome::Unconfirmed),
                false => self.in_flight.push_back((number, outgoing)),
            }
        }
    }

    fn stop(&mut self) {
        self.lost();
        self.incoming.clear();
        self.incoming_size = 0;
        for outgoing in std::mem::take(&mut self.queued) {
            self.finish(&outgoing, CustomOutcome::Dropped(NotSent::Stopped));
        }
    }

    pub(super) fn has_incoming(&self) -> bool {
        !self.incoming.is_empty()
    }

    pub(super) fn pop_incoming(&mut self) -> Option<Event> {
        Some(match self.incoming.pop_front()? {
            Incoming::Message(message) => {
                self.incoming_size -= size(&message);
                Event::CustomMessage(message)
            }
            Incoming::Lost(count) => Event::CustomMessagesLost { count },
        })
    }
}

/// Bytes of a message that carries a custom message, besides the custom message's strings and data:
/// at the most, so that none is accepted that cannot be sent.
pub(super) const OVERHEAD: usize = 76;

/// What a message counts for in the limits of bytes.
fn size(message: &v1::CustomMessage) -> usize {
    message.capability.len() + message.r#type.len() + message.data.len()
}

impl ClientCore {
    /// Announces exactly these custom capabilities (CUST-01 to CUST-03). Messages that wait for
    /// another one are dropped.
    pub fn set_custom_capabilities(&mut self, capabilities: CustomCapabilities) {
        self.config.custom_capabilities = capabilities;
        // An empty list takes back an earlier one; who never had one has nothing to say.
        let known = self.report.snapshot().custom_capabilities.is_some();
        let list = (known || !self.config.custom_capabilities.is_empty())
            .then(|| self.config.custom_capabilities.to_message());
        self.report.update(Parts::CUSTOM_CAPABILITIES, |s| &mut s.custom_capabilities, list);
        self.custom.drop_unsupported(&self.config.custom_capabilities);
    }

    /// The custom capabilities the server announced; `None` until it did (CUST-04).
    #[must_use]
    pub fn server_custom_capabilities(&self) -> Option<&BTreeSet<String>> {
        self.custom.server.as_ref()
    }

    /// Has a custom message sent as soon as may be (CUST-13): after those that were given before,
    /// when both ends are known to announce the capability (CUST-04, CUST-09), and what was sent
    /// before is answered. What became of it is told once, by
    /// [`poll_custom_outcome`](Self::poll_custom_outcome).
    ///
    /// # Errors
    ///
    /// [`NotSent`] when it cannot be sent, or has no room. The server's lack of the capability is
    /// an error once its list is known; before that the message waits, no longer than
    /// [`custom_message_timeout`](super::ClientConfig::custom_message_timeout).
    pub fn send_custom_message(
        &mut self,
        message: v1::CustomMessage,
        now: Instant,
    ) -> Result<CustomMessageId, NotSent> {
        let size = size(&message);
        let limit = self.config.max_custom_message();
        let name = &message.capability;
        if self.is_stopped() {
            return Err(NotSent::Stopped);
        }
        if size > limit {
            return Err(NotSent::TooLarge { size, limit });
        }
        if !self.config.custom_capabilities.contains(name) {
            return Err(NotSent::NotAnnounced);
        }
        if self.custom.server.as_ref().is_some_and(|server| !server.contains(name)) {
            return Err(NotSent::NotSupported);
        }
        let max_bytes = self.config.max_custom_bytes;
        if self.custom.count() >= self.config.max_custom_messages
            || self.custom.size() + size > max_bytes
        {
            return Err(NotSent::Full);
        }
        self.custom.last_id += 1;
        let id = CustomMessageId(self.custom.last_id);
        let deadline = now.checked_add(self.config.custom_message_timeout);
        self.custom.queued.push_back(Outgoing { id, message, size, deadline });
        self.schedule_custom();
        Ok(id)
    }

    /// What became of a custom message, if there is news. Each is told once; one that is not polled
    /// takes up room.
    #[must_use]
    pub fn poll_custom_outcome(&mut self) -> Option<(CustomMessageId, CustomOutcome)> {
        self.custom.outcomes.pop_front()
    }

    fn schedule_custom(&mut self) {
        match self.is_stopped() {
            true => self.timers.stop(Timer::Custom),
            false => self.timers.set(Timer::Custom, self.custom.next_deadline()),
        }
    }

    /// The next custom message, if one may be sent now. Whether something is still unanswered does
    /// not matter when there is no time to wait for answers.
    pub(super) fn compose_custom(
        &mut self,
        now: Instant,
        hurry: bool,
    ) -> Option<v1::AgentToServer> {
        let known = self.custom.server.is_some() && self.good;
        // What is to be reported goes first: it may be the capability itself.
        let turn = known && !self.report.due() && (hurry || !self.report.waiting());
        if !turn {
            return None;
        }
        let outgoing = self.custom.queued.pop_front()?;
        let (mut message, number) = self.report.carrier();
        message.custom_message = Some(outgoing.message.clone());
        self.custom.in_flight.push_back((number, outgoing));
        self.expect_answer(now);
        Some(message)
    }

    /// A reply came: what it answers is delivered.
    pub(super) fn custom_answered(&mut self) {
        self.custom.answered(self.report.answered_up_to());
        self.schedule_custom();
    }

    /// A message was refused. Says whether it was surely a custom message. One that may have been
    /// it is unconfirmed: who takes it for refused might send it again.
    pub(super) fn custom_refused(&mut self, reason: &str) -> bool {
        let refusable = self.report.refusable();
        let sure = refusable.start() == refusable.end();
        let mut refused = false;
        for number in refusable {
            if let Some(outgoing) = self.custom.take_in_flight(number) {
                let outcome = match sure {
                    true => CustomOutcome::Refused(reason.to_owned()),
                    false => CustomOutcome::Unconfirmed,
                };
                self.custom.finish(&outgoing, outcome);
                refused = sure;
            }
        }
        if refused {
            self.report.answered();
        }
        self.schedule_custom();
        refused
    }

    /// Something was too large for the server. Says whether it can only have been a custom message.
    pub(super) fn custom_too_large(&mut self, reason: &str) -> bool {
        let in_flight = self.custom.in_flight.iter();
        let largest = in_flight.max_by_key(|(_, outgoing)| outgoing.size);
        let Some(number) = largest.map(|(number, _)| *number) else { return false };
        if !(self.report.outstanding() - Parts::CAPABILITIES).is_empty() {
            return false;
        }
        if let Some(outgoing) = self.custom.take_in_flight(number) {
            self.custom.finish(&outgoing, CustomOutcome::Refused(reason.to_owned()));
        }
        true
    }

    /// A message was turned away unread: a custom message, if it surely was one, will be sent
    /// again.
    pub(super) fn custom_turned_away(&mut self) {
        let refusable = self.report.refusable();
        if refusable.start() == refusable.end()
            && let Some(outgoing) = self.custom.take_in_flight(*refusable.start())
        {
            self.custom.queued.push_front(outgoing);
            // The consent may be gone since it was sent.
            self.custom.drop_unsupported(&self.config.custom_capabilities);
        }
    }

    /// The connection, or a response, is lost.
    pub(super) fn custom_lost(&mut self) {
        self.custom.lost();
        self.schedule_custom();
    }

    /// The next server is another, of which nothing is known.
    pub(super) fn custom_server_changed(&mut self) {
        self.custom_lost();
        self.custom.server = None;
    }

    pub(super) fn custom_overdue(&mut self, now: Instant) {
        self.custom.expire(now);
        self.schedule_custom();
    }

    pub(super) fn custom_stopped(&mut self) {
        self.custom.stop();
        self.schedule_custom();
    }

    /// The server's list replaces the one before (CUST-03).
    pub(super) fn process_custom_capabilities(&mut self, list: v1::CustomCapabilities) {
        let total = list.capabilities.len();
        let server: BTreeSet<String> = list
            .capabilities
            .into_iter()
            .filter(|name| name.len() <= MAX_NAME)
            .take(MAX_SERVER_CAPABILITIES)
            .collect();
        if self.custom.server.as_ref() == Some(&server) {
            return;
        }
        if total > MAX_SERVER_CAPABILITIES {
            self.misbehaved(PeerMisbehaved::TooManyCustomCapabilities { count: total });
        }
        self.custom.server = Some(server.clone());
        self.events.push(Event::ServerCustomCapabilities(server));
        self.custom.drop_unsupported(&self.config.custom_capabilities);
        self.schedule_custom();
    }

    pub(super) fn process_custom_message(&mut self, message: v1::CustomMessage) {
        if !self.config.custom_capabilities.contains(&message.capability) {
            return self.misbehaved(PeerMisbehaved::NotAnnounced("custom_message"));
        }
        let size = size(&message);
        let custom = &mut self.custom;
        let full = custom.incoming.len() >= self.config.max_custom_messages
            || custom.incoming_size + size > self.config.max_custom_bytes;
        if full && !custom.incoming.is_empty() {
            match custom.incoming.back_mut() {
                Some(Incoming::Lost(count)) => *count += 1,
                _ => custom.incoming.push_back(Incoming::Lost(1)),
            }
            return;
        }
        custom.incoming_size += size;
        // The message's slice would keep all of it in memory.
        let data = Bytes::copy_from_slice(&message.data);
        custom.incoming.push_back(Incoming::Message(v1::CustomMessage { data, ..message }));
    }
}
