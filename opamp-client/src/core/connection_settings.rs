//! Offers of connection settings: one offer, several parts, one status.
//!
//! An offer has a part for the connection to the OpAMP server, which the client tries out by itself
//! (see `settings`), and parts for the connections that are the agent's own business, which reach
//! it together as one [`ConnectionSettingsOffer`]. The server is told one status for all of it:
//!
//! ```text
//!               offer: same hash as the last? ──► nothing (A35)
//!                 │
//!        ┌────────┴──────────┐
//!   opamp part         other parts, those that change anything
//!        │                   │
//!   offer_opamp_settings   Event::ConnectionSettings ── deadline ─┐
//!        │                   │                                    │
//!   opamp_settings_resolved  resolve_connection_settings ◄────────┘
//!        └────────┬──────────┘
//!   while one is pending: APPLYING · then, if one failed: FAILED with the reasons · else APPLIED
//! ```
//!
//! A newer offer is laid over one that is pending, as it leaves out what the server believes to
//! have said already (CONN-21): what was pending is offered again with it, under the newer hash.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use opamp_proto::{Message, v1};

use super::connections::{Connection, ConnectionKinds, Connections};
use super::offer::{NotPending, OfferId};
use super::timer::Timer;
use super::{ClientCore, MAX_PENDING_STARTS, Parts, PeerMisbehaved};

/// Bytes of settings of an agent's own connections that are kept. Connections cannot be taken back,
/// so a server could have an agent collect them for ever.
const MAX_CONNECTIONS_SIZE: usize = 1024 * 1024;

/// Settings the server offers for connections of the agent's own: its telemetry (TEL-01) and others
/// it knows by name (OTHER-06). To be answered with [`applied`](Self::applied),
/// [`applied_only`](Self::applied_only) or [`failed`](Self::failed).
///
/// The answer is a [`ConnectionSettingsResolution`] to hand to
/// [`ClientCore::resolve_connection_settings`]. The server is told APPLYING until then (TEL-07),
/// and FAILED when the deadline passes, [`offer_timeout`](super::ClientConfig::offer_timeout).
///
/// `Debug` shows no header values, keys or credentials.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an offer has to be answered: applied, or failed with the reason"]
pub struct ConnectionSettingsOffer {
    pub(super) id: OfferId,
    /// Boxed, or every event would be as large.
    pub(super) connections: Box<Connections>,
    pub(super) changed: BTreeSet<Connection>,
}

impl ConnectionSettingsOffer {
    /// Which offer this is.
    #[must_use]
    pub fn id(&self) -> OfferId {
        self.id
    }

    /// The settings of all connections as they are to be, what stays as it is included: use these
    /// rather than working out differences (CONN-24 to CONN-27, OTHER-01).
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The connections whose settings are others than now. Never empty.
    #[must_use]
    pub fn changed(&self) -> &BTreeSet<Connection> {
        &self.changed
    }

    /// The agent uses the offered settings from now on: they are kept, also over a restart
    /// (TEL-06), and the server is told APPLIED (CONN-34).
    pub fn applied(self) -> ConnectionSettingsResolution {
        ConnectionSettingsResolution { id: self.id, outcome: Outcome::Applied }
    }

    /// The agent uses the offered settings of these connections and goes on as before with the
    /// others, a name it does not know for example: the server is told FAILED and why (CONN-08).
    pub fn applied_only(
        self,
        applied: impl IntoIterator<Item = Connection>,
        why: impl Into<String>,
    ) -> ConnectionSettingsResolution {
        let outcome = Outcome::Only(applied.into_iter().collect(), why.into());
        ConnectionSettingsResolution { id: self.id, outcome }
    }

    /// The agent goes on as before: the server is told FAILED and why (CONN-08, CONN-34).
    pub fn failed(self, why: impl Into<String>) -> ConnectionSettingsResolution {
        self.applied_only([], why)
    }
}

/// What became of a [`ConnectionSettingsOffer`].
#[derive(Debug, Clone, PartialEq)]
#[must_use = "hand it to ClientCore::resolve_connection_settings"]
pub struct ConnectionSettingsResolution {
    id: OfferId,
    outcome: Outcome,
}

impl ConnectionSettingsResolution {
    /// Which offer it is about.
    #[must_use]
    pub fn id(&self) -> OfferId {
        self.id
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Applied,
    Only(BTreeSet<Connection>, String),
}

/// An offer of connection settings some of whose parts have no outcome yet, as it survives a
/// restart of the agent.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct PendingConnectionSettings {
    /// The server's hash of the offer.
    pub hash: Bytes,
    /// The part for the OpAMP connection, where it has no outcome yet.
    pub opamp: Option<v1::OpAmpConnectionSettings>,
    /// The settings of the other connections as they are to be, where they have no outcome yet.
    pub connections: Option<Connections>,
    /// Why parts failed that have an outcome. It stays so under a newer offer that leaves them out.
    pub failures: Vec<SettingsFailure>,
    /// How often the agent has started since.
    pub starts: u32,
}

/// Why parts of an offer of connection settings failed, which the server has not been told yet.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct SettingsFailure {
    /// The parts, as the offer names them; none where it is no matter of one.
    pub parts: BTreeSet<String>,
    /// The reason.
    pub why: String,
}

impl SettingsFailure {
    pub(super) fn new(parts: BTreeSet<String>, why: String) -> Self {
        Self { parts, why: super::offer::cut(why) }
    }

    /// Whether a newer offer with these parts says something new of all that failed.
    fn is_superseded_by(&self, named: &BTreeSet<String>) -> bool {
        self.parts.is_subset(named)
    }
}

/// The part of an offer for the OpAMP connection.
const OPAMP: &str = "opamp";

/// Failures that are remembered; a status has no room for more.
const MAX_FAILURES: usize = 32;

fn names<'a>(connections: impl IntoIterator<Item = &'a Connection>) -> BTreeSet<String> {
    connections.into_iter().map(ToString::to_string).collect()
}

/// The newest offer of connection settings.
#[derive(Debug, Default)]
pub(super) struct ConnectionSettings {
    /// What identifies the last offer, answered or not.
    identity: Option<Identity>,
    /// What the application has to answer.
    offer: Option<ConnectionSettingsOffer>,
    /// Whether it has been told of it.
    announced: bool,
}

/// What tells offers apart: the hash. Servers that give none would offer anew in each reply, so
/// there it is the content (A35).
#[derive(Debug, PartialEq)]
enum Identity {
    Hash(Bytes),
    Content(Vec<u8>),
}

impl Identity {
    fn of(offer: &v1::ConnectionSettingsOffers) -> Self {
        match offer.hash.is_empty() {
            true => Self::Content(offer.encode_to_vec()),
            false => Self::Hash(Bytes::copy_from_slice(&offer.hash)),
        }
    }
}

impl ConnectionSettings {
    /// An offer the application has not been told of.
    pub(super) fn unannounced(&self) -> Option<&ConnectionSettingsOffer> {
        self.offer.as_ref().filter(|_| !self.announced)
    }

    pub(super) fn announce(&mut self) -> Option<ConnectionSettingsOffer> {
        let offer = self.unannounced().cloned();
        self.announced = true;
        offer
    }
}

impl ClientCore {
    /// The settings of the agent's own connections that are in force: those of all offers it took,
    /// also in earlier processes (TEL-06).
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.state.connections
    }

    /// Changes the kinds of connections the agent takes settings for (CAP-03). Offers of kinds that
    /// it takes no more are dropped; where it takes more than before, the server is told that no
    /// offer was ever taken, so that it makes one.
    pub fn set_accepted_settings(&mut self, kinds: ConnectionKinds) {
        let before = std::mem::replace(&mut self.config.accepted_settings, kinds);
        if before == kinds {
            return;
        }
        self.update_capabilities();
        if !(before - kinds).is_empty() {
            let why = "the agent takes no settings for some of these connections any more";
            self.fail_connections(why);
        }
        if !kinds.contains(ConnectionKinds::OPAMP) {
            self.withdraw_opamp_settings();
        }
        if !(kinds - before).is_empty() {
            self.connection_settings.identity = None;
            if let Some(status) = self.state.connection_settings_status.as_mut()
                && self.state.pending_connection_settings.is_none()
            {
                *status = v1::ConnectionSettingsStatus::default();
                self.state_changed();
            }
        }
        self.report_connection_settings_status();
    }

    /// The status an agent starts with, and the offer that had no outcome when the last process
    /// ended.
    pub(super) fn restore_connection_settings(&mut self, now: Instant) {
        let status = self.state.connection_settings_status.clone().unwrap_or_default();
        if !status.last_connection_settings_hash.is_empty() {
            let hash = status.last_connection_settings_hash.clone();
            self.connection_settings.identity = Some(Identity::Hash(hash));
        }
        if let Some(pending) = self.state.pending_connection_settings.as_mut() {
            pending.starts = pending.starts.saturating_add(1);
            let starts = pending.starts;
            let connections = pending.connections.take();
            let opamp = pending.opamp.clone();
            if let Some(mut connections) = connections {
                connections.keep(self.config.accepted_settings, &self.state.connections);
                self.offer_connections(connections, now);
            }
            let too_often = (starts > MAX_PENDING_STARTS)
                .then(|| format!("the agent started {starts} times without an outcome"));
            if let Some(settings) = opamp
                && !self.opamp_settings_pending()
            {
                // The process ended before the settings were so much as a candidate.
                match &too_often {
                    None => self.offer_opamp_settings(settings, now),
                    Some(why) => self.settings_failed(why.clone()),
                }
            }
            if let Some(why) = too_often {
                self.fail_connections(&why);
            }
            self.settle_connection_settings();
        } else if status.status == v1::ConnectionSettingsStatuses::Applying as i32 {
            let status = v1::ConnectionSettingsStatus {
                status: v1::ConnectionSettingsStatuses::Failed.into(),
                error_message: "interrupted by a restart of the agent".to_owned(),
                ..status
            };
            self.set_connection_settings_status(status);
        }
        self.report_connection_settings_status();
    }

    pub(super) fn process_connection_settings(
        &mut self,
        mut offer: v1::ConnectionSettingsOffers,
        now: Instant,
    ) {
        if self.config.accepted_settings.is_empty() {
            return self.misbehaved(PeerMisbehaved::NotAnnounced("connection_settings"));
        }
        let identity = Identity::of(&offer);
        if self.connection_settings.identity.as_ref() == Some(&identity) {
            return;
        }
        let hash = Bytes::copy_from_slice(&offer.hash);
        self.connection_settings.identity = Some(identity);
        let dropped = self.drop_unannounced(&mut offer);
        let something = offer.opamp.is_some()
            || offer.own_metrics.is_some()
            || offer.own_traces.is_some()
            || offer.own_logs.is_some()
            || !offer.other_connections.is_empty();
        let before = self.state.pending_connection_settings.take().unwrap_or_default();
        let named = parts_of(&offer);
        let opamp = offer.opamp.take();
        // What the server has not been told of yet, and says nothing new of.
        let mut failures = before.failures;
        failures.retain(|failure| !failure.is_superseded_by(&named));
        if !something {
            // Beside something else, what is not for this agent would not spoil what is.
            failures.extend(dropped.into_iter().map(|why| SettingsFailure::new([].into(), why)));
        }
        let mut connections = before.connections.unwrap_or_else(|| self.state.connections.clone());
        for unusable in connections.offer(offer) {
            let why = format!("{unusable}: no destination_endpoint");
            failures.push(SettingsFailure::new(names([&unusable]), why));
        }
        self.withdraw_connections();
        self.state.pending_connection_settings = Some(PendingConnectionSettings {
            hash,
            // A verification that is under way goes on under the newer hash.
            opamp: opamp.clone().or(before.opamp),
            connections: None,
            failures,
            starts: 0,
        });
        match connections.size() {
            0..=MAX_CONNECTIONS_SIZE => self.offer_connections(connections.detached(), now),
            size => {
                let why = format!(
                    "settings of all connections together take {size} bytes, more than the \
                     {MAX_CONNECTIONS_SIZE} this agent keeps"
                );
                let own = named.into_iter().filter(|part| part != OPAMP).collect();
                self.connection_settings_failed(own, why);
            }
        }
        if let Some(settings) = opamp {
            self.offer_opamp_settings(settings, now);
        }
        self.settle_connection_settings();
    }

    /// Takes out of an offer what the agent did not announce to take (CAP-05). Returns what that
    /// was.
    fn drop_unannounced(&mut self, offer: &mut v1::ConnectionSettingsOffers) -> Vec<String> {
        let announced = self.config.accepted_settings;
        let mut dropped = Vec::new();
        let mut drop = |kind: ConnectionKinds, present: bool, part: &'static str| {
            let drop = present && !announced.contains(kind);
            if drop {
                dropped.push(part);
            }
            drop
        };
        if drop(ConnectionKinds::OPAMP, offer.opamp.is_some(), "connection_settings.opamp") {
            offer.opamp = None;
        }
        for (kind, settings, part) in [
            (
                ConnectionKinds::OWN_METRICS,
                &mut offer.own_metrics,
                "connection_settings.own_metrics",
            ),
            (ConnectionKinds::OWN_TRACES, &mut offer.own_traces, "connection_settings.own_traces"),
            (ConnectionKinds::OWN_LOGS, &mut offer.own_logs, "connection_settings.own_logs"),
        ] {
            if drop(kind, settings.is_some(), part) {
                *settings = None;
            }
        }
        let others = &mut offer.other_connections;
        if drop(
            ConnectionKinds::OTHERS,
            !others.is_empty(),
            "connection_settings.other_connections",
        ) {
            others.clear();
        }
        for part in &dropped {
            self.misbehaved(PeerMisbehaved::NotAnnounced(part));
        }
        dropped.iter().map(|part| format!("{part} is nothing this agent takes")).collect()
    }

    /// Has the application decide on what is to change, if anything is.
    fn offer_connections(&mut self, connections: Connections, now: Instant) {
        let changed = connections.changed_since(&self.state.connections);
        if changed.is_empty() {
            return;
        }
        self.last_offer += 1;
        let id = OfferId(self.last_offer);
        if let Some(pending) = self.state.pending_connection_settings.as_mut() {
            pending.connections = Some(connections.clone());
        }
        let connections = Box::new(connections);
        self.connection_settings.offer = Some(ConnectionSettingsOffer { id, connections, changed });
        self.connection_settings.announced = false;
        self.timers.set(Timer::ConnectionSettings, now.checked_add(self.config.offer_timeout));
    }

    /// Tells what became of an offer of connection settings.
    ///
    /// # Errors
    ///
    /// [`NotPending`] when a newer offer took its place or its deadline passed; it has no effect
    /// then.
    pub fn resolve_connection_settings(
        &mut self,
        resolution: ConnectionSettingsResolution,
    ) -> Result<(), NotPending> {
        let pending = self.connection_settings.offer.as_ref();
        let Some(offer) = pending.filter(|offer| offer.id == resolution.id) else {
            return Err(NotPending);
        };
        let (applied, failed) = match resolution.outcome {
            Outcome::Applied => (offer.changed.clone(), None),
            Outcome::Only(applied, why) => {
                let failed = names(&(&offer.changed - &applied));
                (&applied & &offer.changed, Some((failed, why)))
            }
        };
        for connection in &applied {
            self.state.connections.take_over(connection, &offer.connections);
        }
        self.withdraw_connections();
        if let Some((parts, why)) = failed {
            self.connection_settings_failed(parts, why);
        }
        self.settle_connection_settings();
        Ok(())
    }

    /// The deadline of the application's part passed.
    pub(super) fn connection_settings_overdue(&mut self) {
        let seconds = self.config.offer_timeout.as_secs();
        self.fail_connections(&format!("no outcome within {seconds} s"));
    }

    /// Tells what became of the OpAMP part of the newest offer; a part that a newer one took the
    /// place of has no outcome.
    pub(super) fn opamp_settings_resolved(&mut self, outcome: Result<(), String>) {
        let Some(pending) = self.state.pending_connection_settings.as_mut() else { return };
        if pending.opamp.take().is_none() {
            return;
        }
        if let Err(why) = outcome {
            self.connection_settings_failed([OPAMP.to_owned()].into(), why);
        }
        self.settle_connection_settings();
    }

    fn fail_connections(&mut self, why: &str) {
        if let Some(offer) = &self.connection_settings.offer {
            let parts = names(&offer.changed);
            self.withdraw_connections();
            self.connection_settings_failed(parts, why.to_owned());
            self.settle_connection_settings();
        }
    }

    /// The application has nothing to answer any more.
    fn withdraw_connections(&mut self) {
        self.connection_settings.offer = None;
        self.timers.stop(Timer::ConnectionSettings);
        if let Some(pending) = self.state.pending_connection_settings.as_mut() {
            pending.connections = None;
        }
    }

    fn connection_settings_failed(&mut self, parts: BTreeSet<String>, why: String) {
        if let Some(pending) = self.state.pending_connection_settings.as_mut() {
            let many = pending.failures.len().saturating_sub(MAX_FAILURES - 1);
            pending.failures.drain(..many);
            pending.failures.push(SettingsFailure::new(parts, why));
        }
    }

    /// Works out the one status of all parts.
    fn settle_connection_settings(&mut self) {
        let Some(pending) = self.state.pending_connection_settings.as_ref() else { return };
        let done = pending.opamp.is_none() && pending.connections.is_none();
        let (status, error_message) = match (done, pending.failures.is_empty()) {
            (false, _) => (v1::ConnectionSettingsStatuses::Applying, String::new()),
            (true, true) => (v1::ConnectionSettingsStatuses::Applied, String::new()),
            (true, false) => {
                let reasons: Vec<_> = pending.failures.iter().map(|it| it.why.as_str()).collect();
                (v1::ConnectionSettingsStatuses::Failed, reasons.join("; "))
            }
        };
        let status = v1::ConnectionSettingsStatus {
            last_connection_settings_hash: pending.hash.clone(),
            status: status.into(),
            error_message: super::offer::cut(error_message),
        };
        if done {
            self.state.pending_connection_settings = None;
        }
        self.set_connection_settings_status(status);
    }

    /// The OpAMP settings that were applied serve no more.
    pub(super) fn opamp_settings_void(&mut self, why: String) {
        if let Some(status) = self.state.connection_settings_status.clone()
            && self.state.pending_connection_settings.is_none()
        {
            self.set_connection_settings_status(v1::ConnectionSettingsStatus {
                status: v1::ConnectionSettingsStatuses::Failed.into(),
                error_message: why,
                ..status
            });
        }
    }

    fn set_connection_settings_status(&mut self, status: v1::ConnectionSettingsStatus) {
        self.state.connection_settings_status = Some(status);
        self.state_changed();
        self.report_connection_settings_status();
    }

    /// An agent that takes no settings has no status of them (CONN-07). A status without a hash
    /// says that no offer was ever taken, or that none is known any more.
    fn report_connection_settings_status(&mut self) {
        let accepts = !self.config.accepted_settings.is_empty();
        let known = self.state.connection_settings_status.clone();
        let status = accepts.then(|| known.unwrap_or_default());
        let part = Parts::CONNECTION_SETTINGS_STATUS;
        self.report.update(part, |s| &mut s.connection_settings_status, status);
    }
}

/// The parts that an offer has.
fn parts_of(offer: &v1::ConnectionSettingsOffers) -> BTreeSet<String> {
    let own = [
        (Connection::OwnMetrics, offer.own_metrics.is_some()),
        (Connection::OwnTraces, offer.own_traces.is_some()),
        (Connection::OwnLogs, offer.own_logs.is_some()),
    ];
    let own = own.into_iter().filter_map(|(connection, has)| has.then_some(connection));
    let others = offer.other_connections.keys().cloned().map(Connection::Other);
    let mut parts = names(&own.chain(others).collect::<Vec<_>>());
    parts.extend(offer.opamp.is_some().then(|| OPAMP.to_owned()));
    parts
}
