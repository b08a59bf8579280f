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

use super::OperationError;
use super::changes::Changes;
use super::config::{ServerConfig, later};
use super::offer::{Offers, RemoteConfig};
use super::reply::{self, Refusal};
use super::scan::{Part, Scan};
use super::sequence::{Sequence, Step};
use super::state::{AgentState, Parts};

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
    /// Limits, times and capabilities.
    pub config: &'a ServerConfig,
    /// The configuration for Agents that have none of their own.
    pub remote_config: Option<&'a RemoteConfig>,
}

/// What a message brought.
#[derive(Debug)]
#[must_use = "the message has to be answered: pass `due` to `poll_reply`"]
pub struct Handled {
    /// What is new.
    pub changes: Changes,
    /// The right to the message's reply.
    pub due: Due,
    /// The instance uid that was made for the Agent at its request just now (ID-09). It will speak
    /// under it sooner or later.
    pub new_instance_uid: Option<InstanceUid>,
}

/// The reply that a message is owed.
#[derive(Debug)]
#[must_use = "every message is answered: pass it to `poll_reply`"]
pub struct Due {
    uid: WireUid,
    transport: Transport,
    refusal: Option<Refusal>,
    announce: bool,
    full_state: bool,
    rename: bool,
    goodbye: bool,
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
                    reply::flags(v1::ServerToAgentFlags::ReportFullState, out);
                }
            }
        }
    }

    fn head(&self, config: &ServerConfig, out: &mut Vec<u8>) {
        reply::instance_uid(&self.uid, out);
        if self.announce {
            reply::capabilities(config.sent_capabilities(), out);
        }
    }
}

/// A message to push. Its head is in the caller's buffer.
#[derive(Debug)]
#[must_use]
pub struct Push {
    /// The shared rest of the message, to be sent right after the head.
    pub tail: Option<Bytes>,
}

#[derive(Debug)]
struct Session {
    transport: Transport,
    announced: bool,
}

#[derive(Debug)]
struct Rename {
    new: InstanceUid,
    expires: Instant,
    /// Told on this session.
    told: bool,
}

/// One Agent as the Server sees it. See the [module](self) for how it is driven.
#[derive(Debug)]
pub struct Agent {
    uid: WireUid,
    state: AgentState,
    session: Option<Session>,
    sequence: Sequence,
    offers: Offers,
    remote_config: Option<RemoteConfig>,
    /// When the command that is waiting expires.
    restart: Option<Instant>,
    /// The operator wants a full report.
    full_state: bool,
    rename: Option<Rename>,
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
            offers: Offers::default(),
            remote_config: None,
            restart: None,
            full_state: false,
            rename: None,
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

    /// The configuration that is this Agent's own, if it has one.
    #[must_use]
    pub const fn remote_config(&self) -> Option<&RemoteConfig> {
        self.remote_config.as_ref()
    }

    /// Whether a command waits to be [pushed](Self::poll_push). A reply over WebSocket leaves it, as
    /// a command travels alone.
    #[must_use]
    pub const fn has_command(&self) -> bool {
        self.restart.is_some()
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
        self.session = Some(Session { transport, announced: false });
        self.sequence.session_began();
        self.offers.session_began();
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
                return Handled { changes, due, new_instance_uid: None };
            }
        };
        changes |= folded.changes;
        self.follow_sequence(scan, folded.present, terms, now, &mut due);
        if folded.changes.contains(Changes::REMOTE_CONFIG_STATUS) {
            self.offers.status_changed(&self.state.remote_config_status().unwrap_or_default());
        }
        let new_instance_uid = self.follow_flags(scan.flags(), terms, now, fresh, &mut due);
        if folded.present.has(Part::AgentDisconnect) {
            due.goodbye = true;
            changes |= self.handle_lost();
        }
        Handled { changes, due, new_instance_uid }
    }

    /// The reply to a message that is not taken over, since the Agent was last seen on a newer
    /// connection. It asks for the full state: nobody reads it on the remains of a dead connection,
    /// and an Agent that is alive there must not believe that it was heard.
    pub fn challenge(&self, transport: Transport) -> Due {
        Due { full_state: true, ..self.due(transport, true) }
    }

    /// Whether this message leaves out nothing that the Agent promises to report.
    #[must_use]
    pub fn is_complete(&self, scan: &Scan<'_>, config: &ServerConfig) -> bool {
        let capabilities = match scan.capabilities() {
            0 => self.state.capabilities(),
            mask => AgentCapabilities::from_bits_retain(mask),
        };
        let present: Parts =
            Part::STATE.into_iter().filter(|part| scan.part(*part).is_some()).collect();
        present.covers(promised(capabilities, config.sent_capabilities()))
    }

    fn due(&self, transport: Transport, announce: bool) -> Due {
        Due {
            uid: self.uid,
            transport,
            refusal: None,
            announce,
            full_state: false,
            rename: false,
            goodbye: false,
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
            self.offers.may_repeat();
        }
        let promised = promised(self.state.capabilities(), terms.config.sent_capabilities());
        let pause = terms.config.full_state_pause;
        due.full_state = self.sequence.received(number, present, promised, pause, now);
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

    /// The Agent speaks under an instance uid it was given, if not the last one. Everything known of
    /// it goes with it (reading A05).
    pub fn handle_renamed(&mut self, uid: WireUid) -> Changes {
        self.uid = uid;
        self.rename = self.rename.take().filter(|rename| WireUid::from(rename.new) != uid);
        Changes::INSTANCE_UID
    }
}

/// The full report's parts that an Agent with this mask owes a Server with that one.
fn promised(agent: AgentCapabilities, server: ServerCapabilities) -> Parts {
    use AgentCapabilities as Does;
    use ServerCapabilities as Wants;

    let any = Wants::empty();
    let reports = [
        (Does::empty(), any, Part::AgentDescription),
        (Does::REPORTS_HEALTH, any, Part::Health),
        (Does::REPORTS_EFFECTIVE_CONFIG, Wants::ACCEPTS_EFFECTIVE_CONFIG, Part::EffectiveConfig),
        (Does::REPORTS_REMOTE_CONFIG, Wants::OFFERS_REMOTE_CONFIG, Part::RemoteConfigStatus),
        (Does::REPORTS_PACKAGE_STATUSES, Wants::ACCEPTS_PACKAGES_STATUS, Part::PackageStatuses),
        (Does::REPORTS_AVAILABLE_COMPONENTS, any, Part::AvailableComponents),
        (
            Does::REPORTS_CONNECTION_SETTINGS_STATUS,
            Wants::OFFERS_CONNECTION_SETTINGS,
            Part::ConnectionSettingsStatus,
        ),
    ];
    reports
        .into_iter()
        .filter(|(does, wants, _)| agent.contains(*does) && server.contains(*wants))
        .map(|(_, _, part)| part)
        .collect()
}

/// What the operator wants.
impl Agent {
    /// Gives the Agent a configuration of its own, or with `None` the one that all get.
    pub fn set_remote_config(&mut self, config: Option<RemoteConfig>) {
        self.remote_config = config;
    }

    /// Asks the Agent to restart, once. The command waits until `expires` for a chance to be sent.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotAccepted`] if the Agent lacks `AcceptsRestartCommand` (CMD-05).
    pub fn restart(&mut self, expires: Instant) -> Result<(), OperationError> {
        if !self.state.capabilities().contains(AgentCapabilities::ACCEPTS_RESTART_COMMAND) {
            return Err(OperationError::NotAccepted);
        }
        self.restart = Some(expires);
        Ok(())
    }

    /// Asks the Agent for a full report, once.
    pub fn request_full_state(&mut self) {
        self.full_state = true;
    }

    /// Gives the Agent another instance uid. It is told on each session until it speaks under that
    /// uid or the rename expires; an Agent that never does is served on under its old one.
    pub fn rename(&mut self, new: InstanceUid, expires: Instant) {
        self.rename = Some(Rename { new, expires, told: false });
    }
}

/// What is to be sent.
impl Agent {
    /// Composes the reply to a message: appends its head to `out`, and returns the rest if there is
    /// one.
    ///
    /// An error goes alone, and so does a command; what else is to be said waits (CMD-01, ERR-03).
    /// Whatever became of the Agent since, the reply names the uid that the message had (ID-10).
    #[must_use = "the tail is a part of the message"]
    pub fn poll_reply(
        &mut self,
        due: Due,
        terms: Terms<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Bytes> {
        if due.refusal.is_some() {
            due.acknowledge(terms.config, out);
            return None;
        }
        due.head(terms.config, out);
        if due.announce {
            self.announced();
        }
        if due.goodbye {
            return None;
        }
        let mut wants = Wants { full_state: due.full_state, rename: due.rename };
        if due.transport == Transport::Http && self.take_restart(now) {
            // What this message was owed is not forgotten over the command.
            self.full_state |= wants.full_state;
            reply::restart(out);
            return None;
        }
        wants.full_state |= std::mem::take(&mut self.full_state);
        self.compose(&wants, terms, now, out)
    }

    /// Composes the next message to push, if there is one. To be called until it returns `None`:
    /// when the connection can send, after each reply, and after each of the operator's wishes.
    ///
    /// Nothing is pushed over HTTP, nor to an Agent that is disconnected.
    pub fn poll_push(&mut self, terms: Terms<'_>, now: Instant, out: &mut Vec<u8>) -> Option<Push> {
        let session = self.session.as_ref()?;
        if session.transport != Transport::WebSocket {
            return None;
        }
        let restart = self.take_restart(now);
        let untold =
            self.rename.as_ref().is_some_and(|rename| !rename.told && now < rename.expires);
        if !restart && !self.full_state && !untold && self.due_offer(terms, now).is_none() {
            return None;
        }
        let announce = self.session.as_ref().is_some_and(|session| !session.announced);
        reply::instance_uid(&self.uid, out);
        if announce {
            reply::capabilities(terms.config.sent_capabilities(), out);
            self.announced();
        }
        if restart {
            reply::restart(out);
            return Some(Push { tail: None });
        }
        let wants = Wants { full_state: std::mem::take(&mut self.full_state), rename: false };
        Some(Push { tail: self.compose(&wants, terms, now, out) })
    }

    fn announced(&mut self) {
        if let Some(session) = &mut self.session {
            session.announced = true;
        }
    }

    /// Appends everything but the uid and the mask.
    fn compose(
        &mut self,
        wants: &Wants,
        terms: Terms<'_>,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Bytes> {
        if wants.full_state {
            reply::flags(v1::ServerToAgentFlags::ReportFullState, out);
        }
        if let Some(rename) = self.rename.as_mut().filter(|rename| now < rename.expires)
            && (wants.rename || !rename.told)
        {
            reply::new_instance_uid(rename.new, out);
            rename.told = true;
        }
        let config = self.due_offer(terms, now)?.clone();
        self.offers.offered(&config, terms.config.offer_pause, now);
        Some(config.tail())
    }

    fn due_offer<'a>(&'a self, terms: Terms<'a>, now: Instant) -> Option<&'a RemoteConfig> {
        let both = self.state.capabilities().contains(AgentCapabilities::ACCEPTS_REMOTE_CONFIG)
            && terms.config.capabilities.contains(ServerCapabilities::OFFERS_REMOTE_CONFIG);
        let config = self.remote_config.as_ref().or(terms.remote_config)?;
        (both && self.offers.is_due(config, terms.config.offer_pause, now)).then_some(config)
    }

    /// Takes the waiting command, if it has not expired and the Agent still takes it (CAP-04).
    fn take_restart(&mut self, now: Instant) -> bool {
        self.restart.take().is_some_and(|expires| now < expires)
            && self.state.capabilities().contains(AgentCapabilities::ACCEPTS_RESTART_COMMAND)
    }
}

/// What a reply is asked to carry.
struct Wants {
    full_state: bool,
    rename: bool,
}
