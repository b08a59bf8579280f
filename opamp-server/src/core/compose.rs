//! What the operator wants of an Agent, and the composing of what it is sent.
//!
//! A message is a head with whatever is for the one Agent, and as its tail the largest of the
//! offers in it, which is shared. Offers go in order of kind, as many as the size of a message
//! allows; what does not fit follows in the next one.

use std::borrow::Cow;
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{AgentCapabilities, InstanceUid, ServerCapabilities, v1};

use super::OperationError;
use super::agent::{Agent, Due, Push, Rename, Terms, Transport};
use super::config::{ServerConfig, later};
use super::connection_settings::{Applied, ConnectionSettings};
use super::desired::either;
use super::offer::Pace;
use super::packages::Packages;
use super::remote_config::RemoteConfig;
use super::reply;

/// What the operator wants.
impl Agent {
    /// Gives the Agent a configuration of its own, or with `None` the one that all get.
    pub fn set_remote_config(&mut self, config: Option<RemoteConfig>) {
        self.want(|own| own.remote_config = config);
    }

    /// Gives the Agent connection settings of its own, or with `None` those that all get. The parts
    /// it accepts are offered when and while it does (CONN-02 to CONN-06).
    pub fn set_connection_settings(&mut self, settings: Option<ConnectionSettings>) {
        let certificate = |settings: &ConnectionSettings| settings.has_certificate();
        if settings.as_ref().is_some_and(certificate) {
            // The latest wins.
            self.clear_certificate();
        }
        self.want(|own| own.connection_settings = settings);
    }

    /// Gives the Agent packages of its own, or with `None` those that all get. They are offered
    /// when and while it accepts packages (PKG-01).
    pub fn set_packages(&mut self, packages: Option<Packages>) {
        self.want(|own| own.packages = packages);
    }

    /// Queues a custom message, and returns its number: the first has 1.
    ///
    /// # Errors
    ///
    /// [`OperationError::NotOffered`] if its capability is none of the Server's (CUST-09),
    /// [`OperationError::NotAccepted`] if the Agent has not announced it (CUST-03, CUST-04),
    /// [`OperationError::QueueFull`] if too much waits, and [`OperationError::TooLarge`].
    pub fn send_custom_message(
        &mut self,
        message: v1::CustomMessage,
        config: &ServerConfig,
        now: Instant,
    ) -> Result<u64, OperationError> {
        if !config.custom_capabilities.contains(&message.capability) {
            return Err(OperationError::NotOffered);
        }
        let announced = self.state.custom_capabilities().unwrap_or_default().capabilities;
        if !announced.contains(&message.capability) {
            return Err(OperationError::NotAccepted);
        }
        self.custom.get_or_insert_default().push(message, config, now)
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
        let announced = self.session.as_ref().is_some_and(|session| session.announced);
        if !due.goodbye
            && (announced || due.asks)
            && let Some(refusal) = self.take_certificate_refusal()
        {
            // What this message was owed, and whatever else there is, comes next.
            self.full_state |= due.full_state;
            self.left_over = true;
            refusal.encode(Some(due.uid()), out);
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
        let announce = !session.announced;
        if !announce && let Some(refusal) = self.take_certificate_refusal() {
            refusal.encode(Some(&self.uid), out);
            return Some(Push { tail: None, more: true });
        }
        self.lay_certificate(terms);
        let restart = self.take_restart(now);
        let untold =
            self.rename.as_ref().is_some_and(|rename| !rename.told && now < rename.expires);
        if !restart && !self.full_state && !untold && !self.has_due(terms, now) {
            self.left_over = false;
            return None;
        }
        reply::instance_uid(&self.uid, out);
        if announce {
            reply::capabilities(terms.config.sent_capabilities(), out);
            self.announced();
        }
        if restart {
            reply::restart(out);
            return Some(Push { tail: None, more: true });
        }
        let wants = Wants { full_state: std::mem::take(&mut self.full_state), rename: false };
        let tail = self.compose(&wants, terms, now, out);
        Some(Push { tail, more: self.has_more() })
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
        let mut flags = 0;
        if wants.full_state {
            flags |= reply::REPORT_FULL_STATE;
            self.tally.full_state = true;
        }
        if self.take_components_request(terms.config) {
            flags |= reply::REPORT_AVAILABLE_COMPONENTS;
        }
        if flags != 0 {
            reply::flags(flags, out);
        }
        if let Some(rename) = self.rename.as_mut().filter(|rename| now < rename.expires)
            && (wants.rename || !rename.told)
        {
            reply::new_instance_uid(rename.new, out);
            rename.told = true;
        }
        if let Some(session) = self.session.as_mut().filter(|session| !session.custom_announced) {
            out.extend_from_slice(terms.config.custom_capabilities.encoded());
            session.custom_announced = true;
        }
        self.add_offers(terms, now, out)
    }

    /// Adds the offers that are due, as many as there is room for. The largest is returned, so that
    /// it need not be copied.
    fn add_offers(&mut self, terms: Terms<'_>, now: Instant, out: &mut Vec<u8>) -> Option<Bytes> {
        self.lay_certificate(terms);
        self.left_over = false;
        let pace = Pace {
            pause: terms.config.offer_pause,
            deadline: later(now, terms.config.offer_deadline),
            now,
        };
        let mut tail: Option<Bytes> = None;
        let mut room = terms.config.limits.max_send().saturating_sub(out.len());
        // What alone is too much was refused when it was set, so the first one is always taken.
        let mut fits = |piece: Bytes, tail: &mut Option<Bytes>| {
            if tail.is_some() && piece.len() > room {
                return false;
            }
            room = room.saturating_sub(piece.len());
            match tail {
                Some(largest) if largest.len() >= piece.len() => out.extend_from_slice(&piece),
                _ => {
                    if let Some(smaller) = tail.replace(piece) {
                        out.extend_from_slice(&smaller);
                    }
                }
            }
            true
        };
        if let Some(config) = self.due_config(terms, now) {
            let (hash, piece) = (config.hash().into(), config.tail());
            if fits(piece, &mut tail) {
                self.tally.config |= self.offered.config.offered(hash, pace);
            } else {
                self.left_over = true;
            }
        }
        if let Some(settings) = self.due_settings(terms, now).map(Cow::into_owned) {
            let parts = self.accepted_parts();
            let applied = self.offered.applied_settings.as_deref().filter(|applied| {
                let hash = applied.settings.hash_for(applied.parts);
                hash.is_some_and(|hash| self.offered.settings.reported(hash).is_some())
            });
            if let (Some(hash), Some(piece)) =
                (settings.hash_for(parts), settings.tail(parts, applied))
            {
                if fits(piece, &mut tail) {
                    self.tally.settings |= self.offered.settings.offered(hash, pace);
                    self.offered.last_settings = Some(Box::new(Applied { settings, parts }));
                    // Until the Agent has said so again, nobody knows what it has.
                    self.offered.applied_settings = None;
                } else {
                    self.left_over = true;
                }
            }
        }
        if let Some(packages) = self.due_packages(terms, now) {
            let (hash, piece) = (packages.hash(), packages.tail());
            if fits(piece, &mut tail) {
                self.tally.packages |= self.offered.packages.offered(hash, pace);
            } else {
                self.left_over = true;
            }
        }
        if let Some(piece) = self.due_custom_message(now)
            && fits(piece, &mut tail)
            && let Some(waiting) = &mut self.custom
        {
            waiting.sent();
        }
        if let Some(waiting) = &mut self.custom {
            waiting.tell(&mut self.tally);
        }
        tail
    }

    fn has_due(&mut self, terms: Terms<'_>, now: Instant) -> bool {
        self.wants_components(terms.config)
            || self.due_config(terms, now).is_some()
            || self.due_settings(terms, now).is_some()
            || self.due_packages(terms, now).is_some()
            || self.due_custom_message(now).is_some()
    }

    fn due_config<'a>(&'a self, terms: Terms<'a>, now: Instant) -> Option<&'a RemoteConfig> {
        let (config, _) = either(self.own(), terms.desired, |it| it.remote_config.as_ref())?;
        let reports = self.accepts(AgentCapabilities::REPORTS_REMOTE_CONFIG);
        let pause = terms.config.offer_pause;
        let is_due = terms.config.capabilities.contains(ServerCapabilities::OFFERS_REMOTE_CONFIG)
            && self.accepts(AgentCapabilities::ACCEPTS_REMOTE_CONFIG)
            && self.offered.config.is_due(config.hash().into(), reports, pause, now);
        is_due.then_some(config)
    }

    fn due_settings<'a>(
        &'a self,
        terms: Terms<'a>,
        now: Instant,
    ) -> Option<Cow<'a, ConnectionSettings>> {
        let (settings, _) = self.wanted_settings(terms)?;
        let hash = settings.hash_for(self.accepted_parts())?;
        let reports = self.accepts(AgentCapabilities::REPORTS_CONNECTION_SETTINGS_STATUS);
        let pause = terms.config.offer_pause;
        let offers = ServerCapabilities::OFFERS_CONNECTION_SETTINGS;
        let is_due = !terms.holds_settings
            && terms.config.capabilities.contains(offers)
            && self.offered.settings.is_due(hash, reports, pause, now);
        is_due.then_some(settings)
    }

    fn due_packages<'a>(&'a self, terms: Terms<'a>, now: Instant) -> Option<&'a Packages> {
        let (packages, _) = either(self.own(), terms.desired, |it| it.packages.as_ref())?;
        let reports = self.accepts(AgentCapabilities::REPORTS_PACKAGE_STATUSES);
        let pause = terms.config.offer_pause;
        let is_due = terms.config.capabilities.contains(ServerCapabilities::OFFERS_PACKAGES)
            && self.accepts(AgentCapabilities::ACCEPTS_PACKAGES)
            && self.offered.packages.is_due(packages.hash(), reports, pause, now);
        is_due.then_some(packages)
    }

    /// The next custom message, if the Agent still announces its capability (CUST-03).
    fn due_custom_message(&mut self, now: Instant) -> Option<Bytes> {
        let waiting = self.custom.as_mut().filter(|waiting| !waiting.is_empty())?;
        let announced = self.state.custom_capabilities().unwrap_or_default().capabilities;
        waiting.next(&announced, now).cloned()
    }

    fn wants_components(&self, config: &ServerConfig) -> bool {
        self.components_unknown
            && config.max_remembered_components > 0
            && self.accepts(AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS)
            && self.session.as_ref().is_some_and(|session| !session.components_asked)
    }

    /// Whether to ask for the components, once a session (COMP-08).
    fn take_components_request(&mut self, config: &ServerConfig) -> bool {
        let wants = self.wants_components(config);
        if let Some(session) = self.session.as_mut().filter(|_| wants) {
            session.components_asked = true;
        }
        wants
    }

    /// Takes the waiting command, if it has not expired and the Agent still takes it (CAP-04).
    fn take_restart(&mut self, now: Instant) -> bool {
        let Some(expires) = self.restart.take() else { return false };
        let takes = now < expires && self.accepts(AgentCapabilities::ACCEPTS_RESTART_COMMAND);
        self.tally.command_sent |= takes;
        self.tally.command_dropped |= !takes;
        takes
    }
}

/// What a reply is asked to carry.
struct Wants {
    full_state: bool,
    rename: bool,
}
