//! The machine of one Agent.
//!
//! An [`Agent`] owns no socket, clock, lock or random source. Whoever drives it tells it what
//! arrived and when, and asks it what to send:
//!
//! ```text
//!                 handle_message ──▶ Handled { changes, due }      (one Due for each message)
//!   connection ▶  handle_connected         │
//!                 handle_lost              ▼
//!                                    poll_reply(due) ──▶ head (+ tail)   the answer
//!   operator  ▶   restart, rename …  poll_push ────────▶ head (+ tail)   WebSocket only, until None
//! ```
//!
//! A [`Due`] is worth exactly one reply, so every message gets one and none gets two (STATUS-07,
//! RETRY-05). Outputs are composed at the moment they can be sent, so any number of changes the
//! operator makes in between are one message.

use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, InstanceUid, ServerCapabilities, WireUid, v1};

use super::certificate::Certificates;
use super::changes::Changes;
use super::config::{ServerConfig, later};
use super::connection_settings::SettingsParts;
use super::custom::Waiting;
use super::desired::{Desired, Offered};
use super::pacing::FullStatePace;
use super::reply::{self, Refusal};
use super::scan::{Part, Scan};
use super::sequence::{Sequence, Step};
use super::state::{AgentState, Parts};
use super::tally::Tally;

/// The transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A WebSocket: the Server can push.
    WebSocket,
    /// Plain HTTP: whatever the Server has to say waits for the next request (HTTP-10).
    Http,
}

/// What the Server grants and wants of every Agent.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) desired: &'a Desired,
    pub(super) pace: Option<&'a FullStatePace>,
    /// Connection settings are not offered for now.
    pub(super) holds_settings: bool,
}

impl<'a> Terms<'a> {
    /// Limits, times and capabilities, and what Agents should have that have nothing of that kind
    /// of their own.
    #[must_use]
    pub const fn new(config: &'a ServerConfig, desired: &'a Desired) -> Self {
        Self { config, desired, pace: None, holds_settings: false }
    }

    /// Asks for the full state in turn, not at once.
    #[must_use]
    pub const fn paced(self, pace: &'a FullStatePace) -> Self {
        Self { pace: Some(pace), ..self }
    }

    /// Offers no connection settings for now, if that is so: the Server is not sure to remember
    /// them (CONN-09).
    #[must_use]
    pub const fn holding_settings(self, holds_settings: bool) -> Self {
        Self { holds_settings, ..self }
    }

    /// When it is the turn of an Agent to be asked for its full state.
    fn turn(&self, now: Instant) -> Instant {
        self.pace.map_or(now, |pace| pace.turn(now))
    }
}

/// What a message brought.
#[derive(Debug)]
#[must_use = "the message has to be answered: pass `due` to `poll_reply`"]
#[non_exhaustive]
pub struct Handled {
    /// What is new.
    pub changes: Changes,
    /// The right to the message's reply.
    pub due: Due,
    /// The instance uid that was made for the Agent at its request just now (ID-09). It will speak
    /// under it sooner or later.
    pub new_instance_uid: Option<InstanceUid>,
    /// A custom message, if its capability is one of the Server's and it has not come before.
    pub custom_message: Option<v1::CustomMessage>,
}

/// The reply that a message is owed.
#[derive(Debug)]
#[must_use = "every message is answered: pass it to `poll_reply`"]
pub struct Due {
    uid: WireUid,
    pub(super) transport: Transport,
    pub(super) refusal: Option<Refusal>,
    pub(super) announce: bool,
    pub(super) full_state: bool,
    pub(super) rename: bool,
    /// A uid for somebody else than the Agent.
    new: Option<InstanceUid>,
    pub(super) goodbye: bool,
    /// The message has a certificate request.
    pub(super) asks: bool,
}

impl Due {
    /// The Agent, by the uid it used in the message.
    #[must_use]
    pub const fn uid(&self) -> &WireUid {
        &self.uid
    }

    /// Why the message was refused, if it was.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    pub(crate) const fn asks_full_state(&self) -> bool {
        self.full_state
    }

    /// Whether the Agent said goodbye.
    #[must_use]
    pub const fn is_goodbye(&self) -> bool {
        self.goodbye
    }

    /// Appends a reply that delivers nothing, for a message whose Agent is gone or is now served by
    /// another connection (STATUS-08).
    pub fn acknowledge(self, config: &ServerConfig, out: &mut Vec<u8>) {
        match &self.refusal {
            Some(refusal) => refusal.encode(Some(&self.uid), out),
            None => {
                self.head(config, out);
                if self.full_state {
                    reply::flags(reply::REPORT_FULL_STATE, out);
                }
                if let Some(new) = self.new {
                    reply::new_instance_uid(new, out);
                }
            }
        }
    }

    pub(super) fn head(&self, config: &ServerConfig, out: &mut Vec<u8>) {
        reply::instance_uid(&self.uid, out);
        if self.announce {
            reply::capabilities(config.sent_capabilities(), out);
        }
    }
}

/// A message to push. Its head is in the caller's buffer.
#[derive(Debug)]
#[must_use]
#[non_exhaustive]
pub struct Push {
    /// The shared rest of the message, to be sent right after the head.
    pub tail: Option<Bytes>,
    /// Whether there may be more to push at once. If not, [`Agent::poll_push`] need not be asked.
    pub more: bool,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) transport: Transport,
    /// The Server's mask was told.
    pub(super) announced: bool,
    /// The Server's custom capabilities were told.
    pub(super) custom_announced: bool,
    /// The components were asked for.
    pub(super) components_asked: bool,
}

#[derive(Debug)]
pub(super) struct Rename {
    pub(super) new: InstanceUid,
    pub(super) expires: Instant,
    /// Told on this session.
    pub(super) told: bool,
}

/// One Agent as the Server sees it. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Agent {
    pub(super) uid: WireUid,
    pub(super) state: AgentState,
    pub(super) session: Option<Session>,
    pub(super) sequence: Sequence,
    pub(super) offered: Offered,
    /// What is wanted for this Agent alone. Boxed, as that is mostly nothing.
    pub(super) own: Option<Box<Desired>>,
    /// Boxed, as most Agents have none.
    pub(super) custom: Option<Box<Waiting>>,
    /// Boxed for the same reason.
    pub(super) certificates: Option<Box<Certificates>>,
    /// When the command that is waiting expires.
    pub(super) restart: Option<Instant>,
    /// The operator wants a full report.
    pub(super) full_state: bool,
    /// The Agent has told a hash of its components, and nobody knows which these are.
    pub(super) components_unknown: bool,
    /// Something did not fit into the last message.
    pub(super) left_over: bool,
    pub(super) rename: Option<Rename>,
    /// The heartbeat interval agreed to, in seconds.
    pub(super) heartbeat: Option<u32>,
    pub(super) tally: Tally,
}

/// What is known.
impl Agent {
    /// An Agent nothing is known of but its identifier.
    #[must_use]
    pub fn new(uid: WireUid) -> Self {
        Self {
            uid,
            state: AgentState::default(),
            session: None,
            sequence: Sequence::default(),
            offered: Offered::default(),
            own: None,
            custom: None,
            certificates: None,
            restart: None,
            full_state: false,
            components_unknown: false,
            left_over: false,
            rename: None,
            heartbeat: None,
            tally: Tally::default(),
        }
    }

    /// The identifier, as the Agent sends it.
    #[must_use]
    pub const fn uid(&self) -> &WireUid {
        &self.uid
    }

    /// The last reported state.
    #[must_use]
    pub const fn state(&self) -> &AgentState {
        &self.state
    }

    /// The transport of the current session; `None` if the Agent is disconnected.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.session.as_ref().map(|session| session.transport)
    }

    /// The last sequence number; `None` before the first message.
    #[must_use]
    pub const fn sequence_num(&self) -> Option<u64> {
        self.sequence.last()
    }

    /// Whether this is the number the Agent's next message should have.
    #[must_use]
    pub fn continues_with(&self, sequence_num: u64) -> bool {
        self.sequence.step(sequence_num) == Step::Next
    }

    /// What is wanted for this Agent alone.
    #[must_use]
    pub fn own(&self) -> &Desired {
        Desired::of(&self.own)
    }

    /// Changes what is wanted for this Agent alone.
    pub(super) fn want(&mut self, change: impl FnOnce(&mut Desired)) {
        let mut own = self.own.take().unwrap_or_default();
        change(&mut own);
        self.own = Some(own).filter(|own| **own != Desired::NOTHING);
    }

    /// Whether there is more to [push](Self::poll_push): a command, which travels alone, custom
    /// messages, of which a message holds one, or what a message had no room for.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.restart.is_some()
            || self.left_over
            || self.has_untold_refusal()
            || self.custom.as_ref().is_some_and(|waiting| !waiting.is_empty())
    }

    pub(super) fn accepts(&self, capability: AgentCapabilities) -> bool {
        self.state.capabilities().contains(capability)
    }

    /// The parts of settings the Agent accepts.
    #[must_use]
    pub fn accepted_parts(&self) -> SettingsParts {
        SettingsParts::accepted_by(self.state.capabilities())
    }

    /// Whether the Agent has told a hash of its components that it has not told the components of
    /// (COMP-08).
    #[must_use]
    pub const fn has_unknown_components(&self) -> bool {
        self.components_unknown
    }

    /// The instance uid the Agent is being renamed to.
    #[must_use]
    pub fn pending_rename(&self, now: Instant) -> Option<InstanceUid> {
        self.rename.as_ref().filter(|rename| now < rename.expires).map(|rename| rename.new)
    }
}

/// What arrives.
impl Agent {
    /// The Agent is on a new connection: a WebSocket, or a first HTTP request after it was
    /// disconnected or on a WebSocket (reading A06).
    ///
    /// What a session is told once is told again: the Server's mask, a pending rename, offers, and
    /// the request for a full state that is still missing.
    pub fn handle_connected(&mut self, transport: Transport) -> Changes {
        self.session = Some(Session {
            transport,
            announced: false,
            custom_announced: false,
            components_asked: false,
        });
        self.sequence.session_began();
        self.offered.config.session_began();
        self.offered.settings.session_began();
        self.offered.packages.session_began();
        if let Some(rename) = &mut self.rename {
            rename.told = false;
        }
        Changes::CONNECTED
    }

    /// The connection is lost, or an HTTP Agent has been silent for too long.
    pub fn handle_lost(&mut self) -> Changes {
        match self.session.take() {
            Some(_) => Changes::DISCONNECTED,
            None => Changes::empty(),
        }
    }

    /// A message of this Agent. `fresh` makes an instance uid if the Agent asks for one; it has to
    /// return a new one each time, of version 7 (ID-15).
    ///
    /// A message that is refused changes nothing but the sequence number; the error is in
    /// [`Handled::due`].
    pub fn handle_message(
        &mut self,
        scan: &Scan<'_>,
        transport: Transport,
        terms: Terms<'_>,
        now: Instant,
        fresh: &mut dyn FnMut() -> InstanceUid,
    ) -> Handled {
        let mut changes = Changes::empty();
        if self.transport() != Some(transport) {
            changes |= self.handle_connected(transport);
        }
        let announced = self.session.as_ref().is_some_and(|session| session.announced);
        let mut due = self.due(transport, transport == Transport::Http || !announced);
        let folded = match self.state.fold(scan, terms.config.max_retained_bytes) {
            Ok(folded) => folded,
            Err(refusal) => {
                self.sequence.refused(scan.sequence_num());
                due.refusal = Some(refusal);
                return Handled { changes, due, new_instance_uid: None, custom_message: None };
            }
        };
        changes |= folded.changes;
        let repeated = self.sequence.repeats(scan.sequence_num(), folded.present);
        self.follow_sequence(scan, folded.present, terms, now, &mut due);
        self.follow_statuses(folded.changes, Some(scan));
        if folded.changes.contains(Changes::CONNECTION_SETTINGS_STATUS)
            || (self.heartbeat.is_none() && folded.present.has(Part::ConnectionSettingsStatus))
        {
            self.follow_heartbeat(terms);
        }
        due.asks = folded.present.has(Part::ConnectionSettingsRequest);
        changes |= self.take_certificate_request(scan, terms.config, now);
        let custom_message =
            if repeated { None } else { scan.custom_message(&terms.config.custom_capabilities) };
        let new_instance_uid = self.follow_flags(scan.flags(), terms, now, fresh, &mut due);
        if folded.present.has(Part::AgentDisconnect) {
            due.goodbye = true;
            changes |= self.handle_lost();
        }
        Handled { changes, due, new_instance_uid, custom_message }
    }

    /// Time passes for an Agent that owes its full state: to be called every second or few. True if
    /// its turn to be asked has come, or to be asked again as it has not even sent a heartbeat
    /// since, and the request is to be pushed.
    pub fn handle_turn(&mut self, terms: Terms<'_>, now: Instant) -> bool {
        if self.transport() != Some(Transport::WebSocket) {
            return false;
        }
        let pause = terms.config.full_state_pause;
        self.sequence.ask_again(pause, now, || terms.turn(now));
        let come = self.sequence.take_turn(now);
        self.full_state |= come;
        come
    }

    /// Somebody knows which components the Agent has: they need not be asked for (COMP-10).
    pub const fn handle_components_known(&mut self) {
        self.components_unknown = false;
    }

    /// Nobody knows any more which components the Agent has that told their hash alone: it is asked
    /// for them, once a session (COMP-08).
    pub const fn handle_components_forgotten(&mut self) {
        self.components_unknown = true;
    }

    /// The reply to a message that changes nothing, since the Agent is served on another
    /// connection. It may ask for the full state, or give whoever speaks there a uid of its own
    /// (DUP-08).
    pub fn stand_by(
        &self,
        transport: Transport,
        full_state: bool,
        new: Option<InstanceUid>,
    ) -> Due {
        Due { full_state, new, ..self.due(transport, true) }
    }

    /// Appends a message to push to somebody else who speaks under this Agent's uid: its own uid
    /// (DUP-06, DUP-08).
    pub fn rename_duplicate(&self, new: InstanceUid, out: &mut Vec<u8>) {
        reply::instance_uid(&self.uid, out);
        reply::new_instance_uid(new, out);
    }

    /// Whether this message leaves out nothing that the Agent promises to report.
    #[must_use]
    pub fn is_complete(&self, scan: &Scan<'_>, terms: Terms<'_>) -> bool {
        let capabilities = match scan.capabilities() {
            0 => self.state.capabilities(),
            mask => AgentCapabilities::from_bits_retain(mask),
        };
        let present: Parts =
            Part::STATE.into_iter().filter(|part| scan.part(*part).is_some()).collect();
        present.covers(self.promised(capabilities, terms))
    }

    fn due(&self, transport: Transport, announce: bool) -> Due {
        Due {
            uid: self.uid,
            transport,
            refusal: None,
            announce,
            full_state: false,
            rename: false,
            new: None,
            goodbye: false,
            asks: false,
        }
    }

    fn follow_sequence(
        &mut self,
        scan: &Scan<'_>,
        present: Parts,
        terms: Terms<'_>,
        now: Instant,
        due: &mut Due,
    ) {
        let number = scan.sequence_num();
        if self.sequence.step(number) == Step::Repeated {
            // The Agent repeats itself, so the reply with the offer may be what it did not get.
            self.offered.config.may_repeat();
            self.offered.settings.may_repeat();
            self.offered.packages.may_repeat();
            if let Some(session) =
                self.session.as_mut().filter(|it| it.transport == Transport::Http)
            {
                session.custom_announced = false;
                session.components_asked = false;
            }
        }
        let promised = self.promised(self.state.capabilities(), terms);
        let pause = terms.config.full_state_pause;
        let turn = || terms.turn(now);
        due.full_state = self.sequence.received(number, present, promised, pause, now, turn);
    }

    fn follow_flags(
        &mut self,
        flags: u64,
        terms: Terms<'_>,
        now: Instant,
        fresh: &mut dyn FnMut() -> InstanceUid,
        due: &mut Due,
    ) -> Option<InstanceUid> {
        if flags & v1::AgentToServerFlags::RequestInstanceUid as u64 == 0 {
            return None;
        }
        due.rename = true;
        if self.pending_rename(now).is_some() {
            return None;
        }
        let new = fresh();
        self.rename(new, later(now, terms.config.rename_expiry));
        Some(new)
    }

    /// The Agent is not given this instance uid after all.
    pub fn withdraw_rename(&mut self, new: InstanceUid) {
        self.rename = self.rename.take().filter(|rename| rename.new != new);
    }

    /// The Agent speaks under an instance uid it was given, if not the last one. Everything known
    /// of it goes with it (reading A05).
    pub fn handle_renamed(&mut self, uid: WireUid) -> Changes {
        self.uid = uid;
        self.rename = self.rename.take().filter(|rename| WireUid::from(rename.new) != uid);
        Changes::INSTANCE_UID | self.certificate_request_again()
    }
}

impl Agent {
    /// The parts of a full report that the Agent owes the Server: those that both can handle. A
    /// status is owed where there is something it could be of.
    fn promised(&self, agent: AgentCapabilities, terms: Terms<'_>) -> Parts {
        use AgentCapabilities as Does;
        use ServerCapabilities as Takes;

        let server = terms.config.sent_capabilities();
        let any = Takes::empty();
        let wants = |wants: fn(&Desired) -> bool| wants(self.own()) || wants(terms.desired);
        let settings = wants(|desired| desired.connection_settings.is_some());
        let packages = wants(|desired| desired.packages.is_some());
        let mut promised = Parts::default();
        promised.add(Part::AgentDescription);
        let mut reports = |wanted: bool, does: Does, takes: Takes, part| {
            if wanted && agent.contains(does) && server.contains(takes) {
                promised.add(part);
            }
        };
        reports(true, Does::REPORTS_HEALTH, any, Part::Health);
        let takes = Takes::ACCEPTS_EFFECTIVE_CONFIG;
        reports(true, Does::REPORTS_EFFECTIVE_CONFIG, takes, Part::EffectiveConfig);
        let offers = Takes::OFFERS_REMOTE_CONFIG;
        reports(true, Does::REPORTS_REMOTE_CONFIG, offers, Part::RemoteConfigStatus);
        let takes = Takes::ACCEPTS_PACKAGES_STATUS;
        reports(packages, Does::REPORTS_PACKAGE_STATUSES, takes, Part::PackageStatuses);
        reports(true, Does::REPORTS_AVAILABLE_COMPONENTS, any, Part::AvailableComponents);
        let (does, offers) =
            (Does::REPORTS_CONNECTION_SETTINGS_STATUS, Takes::OFFERS_CONNECTION_SETTINGS);
        reports(settings, does, offers, Part::ConnectionSettingsStatus);
        promised
    }
}
