//! What the operator wants an Agent to have, what it was offered of that, and what it says of it.

use std::time::Instant;

use opamp_proto::AgentCapabilities;

use super::agent::{Agent, Terms};
use super::changes::Changes;
use super::connection_settings::{Applied, ConnectionSettings};
use super::custom::CustomMessages;
use super::offer::{OfferState, Offers, Progress, Reported};
use super::packages::Packages;
use super::remote_config::RemoteConfig;
use super::scan::{Part, Scan};
use super::tally::OfferEvents;

/// What the operator wants Agents to have: all of them, or one. `None` wants nothing.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Desired {
    /// The configuration.
    pub remote_config: Option<RemoteConfig>,
    /// The connection settings.
    pub connection_settings: Option<ConnectionSettings>,
    /// The packages.
    pub packages: Option<Packages>,
}

impl Desired {
    pub(super) const NOTHING: Self =
        Self { remote_config: None, connection_settings: None, packages: None };

    /// What is wanted for one Agent alone.
    pub(super) fn of(own: &Option<Box<Self>>) -> &Self {
        own.as_deref().unwrap_or(&Self::NOTHING)
    }
}

/// What the Agent was offered of each kind.
#[derive(Debug, Default)]
pub(super) struct Offered {
    pub(super) config: Offers,
    pub(super) settings: Offers,
    pub(super) packages: Offers,
    /// The settings offered last, and those the Agent has said to have applied. Boxed, as most
    /// Agents are offered none.
    pub(super) last_settings: Option<Box<Applied>>,
    pub(super) applied_settings: Option<Box<Applied>>,
}

/// What became of it.
impl Agent {
    /// The configuration the Agent should have, and what became of it.
    #[must_use]
    pub fn config_state(&self, terms: Terms<'_>) -> Option<OfferState> {
        let (config, own) = either(self.own(), terms.desired, |it| it.remote_config.as_ref())?;
        let hash = config.hash().into();
        let accepted = self.accepts(AgentCapabilities::ACCEPTS_REMOTE_CONFIG);
        Some(OfferState { hash, own, outcome: self.offered.config.outcome(hash, accepted) })
    }

    /// The connection settings the Agent should have, its certificate included, those parts of them
    /// that it accepts, and what became of them.
    #[must_use]
    pub fn settings_state(&self, terms: Terms<'_>) -> Option<OfferState> {
        let (settings, own) = self.wanted_settings(terms)?;
        let accepted = settings.hash_for(self.accepted_parts());
        let hash = accepted.unwrap_or(settings.hash());
        let outcome = self.offered.settings.outcome(hash, accepted.is_some());
        Some(OfferState { hash, own, outcome })
    }

    /// The packages the Agent should have, and what became of them.
    #[must_use]
    pub fn packages_state(&self, terms: Terms<'_>) -> Option<OfferState> {
        let (packages, own) = either(self.own(), terms.desired, |it| it.packages.as_ref())?;
        let hash = packages.hash();
        let accepted = self.accepts(AgentCapabilities::ACCEPTS_PACKAGES);
        let outcome = self.offered.packages.outcome(hash, accepted);
        Some(OfferState { hash, own, outcome })
    }

    /// What became of custom messages to the Agent.
    #[must_use]
    pub fn custom_messages(&self) -> CustomMessages {
        self.custom.as_ref().map(|waiting| waiting.counts()).unwrap_or_default()
    }

    /// Time passes for offers and custom messages: to be called every few seconds.
    pub fn handle_time(&mut self, now: Instant) -> Changes {
        use AgentCapabilities as Does;
        if let Some(waiting) = &mut self.custom {
            waiting.drop_expired(now);
            waiting.tell(&mut self.tally);
        }
        if self.restart.is_some_and(|expires| now >= expires) {
            self.restart = None;
            self.tally.command_dropped = true;
        }
        let reports = |capability| self.state.capabilities().contains(capability);
        let Offered { config, settings, packages, .. } = &mut self.offered;
        let tally = &mut self.tally;
        let timed_out = [
            (config.expire(reports(Does::REPORTS_REMOTE_CONFIG), now), &mut tally.config),
            (
                settings.expire(reports(Does::REPORTS_CONNECTION_SETTINGS_STATUS), now),
                &mut tally.settings,
            ),
            (packages.expire(reports(Does::REPORTS_PACKAGE_STATUSES), now), &mut tally.packages),
        ];
        let mut changes = Changes::empty();
        for (_, events) in timed_out.into_iter().filter(|(timed_out, _)| *timed_out) {
            *events |= OfferEvents::TIMED_OUT;
            changes = Changes::OFFER_TIMED_OUT;
        }
        changes
    }

    /// `scan` is the message with the changes, if there is one.
    pub(super) fn follow_statuses(&mut self, changes: Changes, scan: Option<&Scan<'_>>) {
        let state = &self.state;
        let reported = |part: Part| {
            let changed = changes.contains(part.change());
            let content = state.encoded(part).filter(|_| changed)?;
            scan.and_then(|scan| scan.reported(part)).or_else(|| Reported::read(part, content))
        };
        if let Some(status) = reported(Part::RemoteConfigStatus) {
            self.tally.config |= self.offered.config.status_changed(status);
        }
        if let Some(status) = reported(Part::ConnectionSettingsStatus) {
            self.tally.settings |= self.offered.settings.status_changed(status);
            self.offered.note_applied_settings();
        }
        if let Some(statuses) = reported(Part::PackageStatuses) {
            self.tally.packages |= self.offered.packages.status_changed(statuses);
        }
        if changes.contains(Changes::AVAILABLE_COMPONENTS) {
            let told = state.components_told();
            self.components_unknown = told.is_some_and(|told| told.is_hash_alone());
            if let Some(session) = &mut self.session {
                session.components_asked = false;
            }
        }
    }
}

impl Offered {
    /// If the Agent says that it has applied the settings it was offered last, they are what later
    /// offers may leave out parts of.
    fn note_applied_settings(&mut self) {
        let applied = self.last_settings.as_ref().filter(|last| {
            let hash = last.settings.hash_for(last.parts);
            let reported = hash.and_then(|hash| self.settings.reported(hash));
            reported.is_some_and(|reported| reported.progress() == Progress::Applied)
        });
        if let Some(applied) = applied {
            self.applied_settings = Some(applied.clone());
        }
    }
}

/// The Agent's own value, or the one for all; and whether it is its own.
pub(super) fn either<'a, T>(
    own: &'a Desired,
    all: &'a Desired,
    kind: impl Fn(&'a Desired) -> Option<&'a T>,
) -> Option<(&'a T, bool)> {
    kind(own).map(|value| (value, true)).or_else(|| kind(all).map(|value| (value, false)))
}
