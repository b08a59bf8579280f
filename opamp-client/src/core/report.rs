//! What the server should know of this agent, and what of it the server surely has.
//!
//! The report is a snapshot, never a queue: a message is composed from it when the transport can
//! take one, so any number of changes becomes one message (RETRY-07, RETRY-08). Each part moves
//! through these states:
//!
//! ```text
//!            changed                    sent                  surely answered
//!   clean ──────────────► dirty ─────────────────► outstanding ─────────────► clean
//!     ▲                     ▲  ▲                     │     │
//!     │                     │  └──── link lost, 5xx, ┘     │ refused: BAD_REQUEST, UNKNOWN, 400;
//!     │                     │        UNAVAILABLE           │ too large: 413, 1009, own limit
//!     │                     └───── changed, full state ─── parked
//! ```
//!
//! What is outstanding is not sent again on the same connection, unless its answer is overdue: then
//! it goes along with the next report, as does what was refused once; see [`Report::refused`].
//!
//! Over WebSocket nothing says which message a reply belongs to (A34), so answers are counted: a
//! reply that carries nothing but an acknowledgement is *the* answer to the oldest unanswered
//! message, while a message with an offer, a flag, a command or a custom message may as well be a
//! push. Such a message lets the next report go out, but confirms nothing: what it may have
//! answered stays outstanding and would be sent again after an unclean loss, which is allowed,
//! where losing it is not.

use std::collections::BTreeMap;
use std::mem;
use std::ops::RangeInclusive;

use opamp_proto::{AgentCapabilities, Message, v1};

use super::part::Parts;

#[derive(Debug, Clone)]
pub(super) struct Report {
    /// The present value of everything that can be reported.
    snapshot: v1::AgentToServer,
    dirty: Parts,
    /// Parts for which the server lacks the capability (INTEROP-04).
    withheld: Parts,
    /// The first message of a connection is owed, with or without content (STATUS-01, A06).
    opening: bool,
    /// A full report is owed (SEQ-07).
    full: bool,
    /// The components behind the hash in the snapshot.
    components: BTreeMap<String, v1::ComponentDetails>,
    /// They are owed, once (COMP-09).
    components_owed: bool,
    /// A message with the flags is owed.
    flags_owed: bool,
    /// The number of the last message; goes on over connections (SEQ-01, SEQ-02).
    sequence_num: u64,
    /// Messages sent on this connection.
    sent: u64,
    /// How many of them are surely answered.
    answered: u64,
    /// Messages received that may have been answers, beyond `answered`.
    perhaps_answered: u64,
    /// The message with content that holds back the next one.
    awaiting: Option<u64>,
    /// Parts whose answer did not come in time: they go along with the next report (A06).
    overdue: Parts,
    /// Parts whose present value was refused once: they go along with the next report (A06).
    refused_once: Parts,
    /// For each part, which message of this connection last carried it; 0 for none.
    last_sent: [u64; Parts::COUNT],
}

/// A part that alone would make a message larger than may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Oversized {
    pub(super) part: Parts,
    pub(super) size: usize,
}

impl Report {
    /// `before_first` is the number before that of the first message.
    pub(super) fn new(snapshot: v1::AgentToServer, before_first: u64) -> Self {
        let present = Parts::all().present_in(&snapshot);
        Self {
            snapshot,
            dirty: present,
            withheld: Parts::empty(),
            opening: true,
            full: false,
            components: BTreeMap::new(),
            components_owed: false,
            flags_owed: false,
            sequence_num: before_first,
            sent: 0,
            answered: 0,
            perhaps_answered: 0,
            awaiting: None,
            overdue: Parts::empty(),
            refused_once: Parts::empty(),
            last_sent: [0; Parts::COUNT],
        }
    }

    pub(super) fn sequence_num(&self) -> u64 {
        self.sequence_num
    }

    pub(super) fn snapshot(&self) -> &v1::AgentToServer {
        &self.snapshot
    }

    /// Changes one part of the snapshot; an equal value is no change.
    pub(super) fn update<M>(
        &mut self,
        part: Parts,
        slot: impl FnOnce(&mut v1::AgentToServer) -> &mut Option<M>,
        value: Option<M>,
    ) where
        M: Message + PartialEq,
    {
        let slot = slot(&mut self.snapshot);
        if same(slot.as_ref(), value.as_ref()) {
            return;
        }
        let present = value.is_some();
        *slot = value;
        self.refused_once.remove(part);
        self.dirty.set(part, present);
    }

    pub(super) fn set_capabilities(&mut self, capabilities: AgentCapabilities) {
        let bits = capabilities.to_wire();
        if self.snapshot.capabilities != bits {
            self.snapshot.capabilities = bits;
            self.dirty.insert(Parts::CAPABILITIES);
        }
    }

    pub(super) fn set_instance_uid(&mut self, uid: bytes::Bytes) {
        self.snapshot.instance_uid = uid;
    }

    /// Sets the flags that go along with every report; flags that were not set before cause one.
    pub(super) fn set_flags(&mut self, flags: u64) {
        self.flags_owed = flags != 0 && (self.flags_owed || flags != self.snapshot.flags);
        self.snapshot.flags = flags;
    }

    /// What the server cannot take is dirty, as it had to ignore what it was told of it, and causes
    /// no message.
    pub(super) fn withhold(&mut self, parts: Parts) {
        self.withheld = parts;
        self.dirty |= parts.present_in(&self.snapshot);
    }

    /// Everything is to be told again, as to a server that knows nothing.
    pub(super) fn forget_delivered(&mut self) {
        self.dirty = Parts::all().present_in(&self.snapshot);
        self.refused_once = Parts::empty();
        self.last_sent = [0; Parts::COUNT];
    }

    pub(super) fn request_full(&mut self) {
        self.full = true;
    }

    pub(super) fn full_owed(&self) -> bool {
        self.full
    }

    /// What is told of the components is their hash; the components themselves on request
    /// (COMP-07).
    pub(super) fn set_components(&mut self, components: Option<v1::AvailableComponents>) {
        let (components, hash) =
            components.map(|mut it| (mem::take(&mut it.components), it)).unzip();
        self.components = components.unwrap_or_default();
        self.components_owed &= hash.is_some();
        self.update(Parts::AVAILABLE_COMPONENTS, |s| &mut s.available_components, hash);
    }

    pub(super) fn has_components(&self) -> bool {
        self.snapshot.available_components.is_some()
    }

    pub(super) fn request_components(&mut self) {
        self.components_owed = true;
    }

    pub(super) fn components_owed(&self) -> bool {
        self.components_owed
    }

    /// Puts the components into the snapshot, to be told, or out of it again. They are not part of
    /// the state, as they are told once per request: if that is lost, the server sees the hash
    /// again, and can ask again.
    fn exchange_components(&mut self) {
        if let Some(told) = self.snapshot.available_components.as_mut() {
            mem::swap(&mut told.components, &mut self.components);
        }
    }

    /// A new connection: its first message is owed at once.
    pub(super) fn open(&mut self) {
        self.opening = true;
        self.sent = 0;
        self.answered = 0;
        self.perhaps_answered = 0;
        self.awaiting = None;
        self.overdue = Parts::empty();
        self.last_sent = [0; Parts::COUNT];
    }

    /// Whether the first message of the connection is still owed.
    pub(super) fn opening(&self) -> bool {
        self.opening
    }

    /// Whether there is something to tell that may be told now.
    pub(super) fn due(&self) -> bool {
        self.awaiting.is_none()
            && (self.opening
                || self.full
                || self.flags_owed
                || self.components_owed
                || !(self.dirty - self.withheld).is_empty())
    }

    /// Composes the message that is due, within `limit` bytes. Parts that fit only into a message
    /// of their own wait for the next one; parts that do not even fit there are parked and reported
    /// through `oversized`; `None` when nothing is left to send (SIZE-15, SIZE-16, A10).
    pub(super) fn compose(
        &mut self,
        limit: usize,
        mut oversized: impl FnMut(Oversized),
    ) -> Option<v1::AgentToServer> {
        if !self.due() {
            return None;
        }
        if !self.components_owed {
            return self.compose_due(limit, oversized);
        }
        let part = Parts::AVAILABLE_COMPONENTS;
        let hash_owed = self.dirty.contains(part);
        self.dirty.insert(part);
        self.exchange_components();
        let message = self.compose_due(limit, &mut oversized);
        self.exchange_components();
        let told = message.as_ref().is_some_and(|message| message.available_components.is_some());
        // What was neither told nor left for the next message is too large to be ever told.
        self.components_owed = !told && self.dirty.contains(part);
        if !told && !self.components_owed {
            self.dirty.set(part, hash_owed);
            if message.is_none() && self.due() {
                return self.compose_due(limit, oversized);
            }
        }
        message
    }

    fn compose_due(
        &mut self,
        limit: usize,
        mut oversized: impl FnMut(Oversized),
    ) -> Option<v1::AgentToServer> {
        // What only goes along must not keep away what is new.
        let mut spare = Parts::empty();
        let mut parts = if self.full {
            Parts::all().present_in(&self.snapshot) - self.withheld
        } else {
            let outstanding = self.outstanding();
            let along = (self.overdue & outstanding) | (self.refused_once - outstanding);
            spare = along - self.dirty;
            (self.dirty | along) - self.withheld
        };
        self.overdue = Parts::empty();
        let mut message = self.bare();
        message.flags = self.snapshot.flags;
        let len_without_parts = message.encoded_len();
        parts.copy(&self.snapshot, &mut message);
        let mut len = message.encoded_len();
        while len > limit {
            let removable = parts - Parts::CAPABILITIES;
            let first = (removable & spare).largest_in(&self.snapshot);
            let part = first.or_else(|| removable.largest_in(&self.snapshot))?;
            parts.remove(part);
            part.copy(&v1::AgentToServer::default(), &mut message);
            let share = len - message.encoded_len();
            len -= share;
            if first.is_some() {
                self.overdue.insert(part);
                continue;
            }
            if len_without_parts + share <= limit {
                self.dirty.insert(part);
                continue;
            }
            let size = part.encoded_len(&self.snapshot).unwrap_or(0);
            oversized(Oversized { part, size });
            self.park(part);
        }
        self.full = false;
        if parts.is_empty() && !self.opening && !self.flags_owed {
            return None;
        }
        self.opening = false;
        self.flags_owed = false;
        self.record_sent(parts);
        self.awaiting = Some(self.sent);
        Some(message)
    }

    /// A message without status: a heartbeat, a poll (A02).
    pub(super) fn heartbeat(&mut self) -> v1::AgentToServer {
        let message = self.bare();
        self.record_sent(Parts::empty());
        message
    }

    /// A message without status that waits for its answer as a report does, for something else to
    /// travel in; and its number on this connection.
    pub(super) fn carrier(&mut self) -> (v1::AgentToServer, u64) {
        let message = self.heartbeat();
        self.awaiting = Some(self.sent);
        (message, self.sent)
    }

    /// The numbers on this connection of the messages that an error may answer. It is never a push,
    /// so that is the oldest unanswered one, unless something came before that may have been its
    /// answer.
    pub(super) fn refusable(&self) -> RangeInclusive<u64> {
        let oldest = self.answered + 1;
        oldest..=oldest + self.perhaps_answered
    }

    /// The messages of this connection up to this number are surely answered.
    pub(super) fn answered_up_to(&self) -> u64 {
        self.answered
    }

    /// The last message of a connection (CLOSE-01).
    pub(super) fn goodbye(&mut self) -> v1::AgentToServer {
        v1::AgentToServer { agent_disconnect: Some(v1::AgentDisconnect {}), ..self.heartbeat() }
    }

    /// What every message has. A message that is composed and then not sent uses up no number.
    fn bare(&self) -> v1::AgentToServer {
        v1::AgentToServer {
            instance_uid: self.snapshot.instance_uid.clone(),
            sequence_num: self.sequence_num + 1,
            capabilities: self.snapshot.capabilities,
            ..Default::default()
        }
    }

    /// Every message carries the mask, so every message tells a change of it.
    fn record_sent(&mut self, parts: Parts) {
        self.sequence_num += 1;
        self.sent += 1;
        for part in parts | (self.dirty & Parts::CAPABILITIES) {
            self.dirty.remove(part);
            self.last_sent[part.index()] = self.sent;
        }
    }

    /// The oldest unanswered message is answered.
    pub(super) fn answered(&mut self) {
        self.answered = (self.answered + 1).min(self.sent);
        self.settle();
    }

    /// Whether the first answer on this connection is still to come.
    pub(super) fn nothing_answered(&self) -> bool {
        self.answered == 0
    }

    /// A message came that may have been an answer or a push.
    pub(super) fn perhaps_answered(&mut self) {
        self.perhaps_answered += 1;
        self.settle();
    }

    /// Everything sent is answered (an HTTP response belongs to its request).
    pub(super) fn all_answered(&mut self) {
        self.answered = self.sent;
        self.settle();
    }

    fn settle(&mut self) {
        self.perhaps_answered = self.perhaps_answered.min(self.sent - self.answered);
        let surely_or_perhaps = self.answered + self.perhaps_answered;
        if self.awaiting.is_some_and(|message| message <= surely_or_perhaps) {
            self.awaiting = None;
        }
        for part in self.refused_once {
            let last_sent = self.last_sent[part.index()];
            self.refused_once.set(part, last_sent == 0 || last_sent > self.answered);
        }
    }

    /// No answer came in time: the next report need not wait for it any longer, and tells again
    /// what was not answered. That alone is no reason for a report.
    pub(super) fn stop_waiting(&mut self) {
        self.awaiting = None;
        self.overdue = self.outstanding();
    }

    /// Whether the server surely has the present value of a part.
    pub(super) fn surely_told(&self, part: Parts) -> bool {
        let sent = self.last_sent[part.index()];
        !self.dirty.contains(part) && sent > 0 && sent <= self.answered
    }

    /// Whether an answer is waited for before more content is sent.
    pub(super) fn waiting(&self) -> bool {
        self.awaiting.is_some()
    }

    /// What was sent on this connection, was not withdrawn since, and is not surely with the
    /// server.
    pub(super) fn outstanding(&self) -> Parts {
        let sent = Parts::all().present_in(&self.snapshot);
        sent.iter().filter(|part| self.last_sent[part.index()] > self.answered).collect()
    }

    /// What is outstanding may be lost: it is told again at the next opportunity (DELTA-04).
    pub(super) fn lost(&mut self) {
        self.dirty |= self.outstanding();
        self.flags_owed |= self.snapshot.flags != 0;
        self.close();
    }

    /// The last message never left, so the next one has its number.
    pub(super) fn unsent(&mut self) {
        self.sequence_num -= 1;
    }

    /// What is outstanding was refused. It does not cause another report, but goes along with the
    /// next one, which is another message (A06, ERR-06, ERR-14). What is then refused again is the
    /// likely reason: it is not sent any more until it changes or full state is asked for, and the
    /// rest is told without it. So each value is refused twice at most, and none takes others down
    /// with it. Returns what was refused.
    pub(super) fn refused(&mut self) -> Parts {
        let refused = self.outstanding() - self.dirty - Parts::CAPABILITIES;
        let again = refused & self.refused_once;
        self.park(refused);
        self.answered();
        self.refused_once |= refused;
        if !again.is_empty() {
            self.refused_once -= again;
            self.dirty |= refused - again;
        }
        refused
    }

    /// What is outstanding made too large a message: its largest part is parked, so that the next
    /// report is smaller; the rest is told again (SIZE-24, A10). Returns what was parked.
    pub(super) fn too_large(&mut self) -> Parts {
        let outstanding = self.outstanding();
        let candidates = outstanding - self.dirty - Parts::CAPABILITIES;
        let largest = candidates.largest_in(&self.snapshot).unwrap_or(Parts::empty());
        self.dirty |= outstanding;
        self.park(largest);
        self.close();
        largest
    }

    /// What is neither dirty nor outstanding is not sent until it changes, delivered or not.
    fn park(&mut self, parts: Parts) {
        self.dirty -= parts;
        for part in parts {
            self.last_sent[part.index()] = 0;
        }
    }

    /// The connection is over.
    fn close(&mut self) {
        self.overdue = Parts::empty();
        self.last_sent = [0; Parts::COUNT];
        self.answered = self.sent;
        self.perhaps_answered = 0;
        self.awaiting = None;
    }
}

/// Both there, and equal or encoded alike: a NaN in an attribute is not a change of the attribute.
fn same<M: Message + PartialEq>(a: Option<&M>, b: Option<&M>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a == b || a.encode_to_vec() == b.encode_to_vec())
}
