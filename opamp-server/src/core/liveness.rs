//! When silence means that an Agent is gone (HB-08, HB-10, HB-18, CLOSE-08; readings A01, A03).
//!
//! On a WebSocket silence means nothing by itself: an Agent without heartbeats has nothing to say
//! for days, and whether its connection lives a ping tells. Only an Agent that has agreed to an
//! interval of this Server's, and sets ReportsHeartbeat, is gone when its messages stop; on a
//! shared connection no ping could tell that. Over HTTP an Agent polls anyway, at the interval it
//! agreed to or at one of its own.
//!
//! ```text
//!                          ReportsHeartbeat, and            no interval
//!                          APPLIED an offer with one        was agreed to
//!   WebSocket              so many missed intervals         never by silence
//!   HTTP                   so many missed intervals         http_offline_after
//!                          (ReportsHeartbeat or not)
//! ```

use std::time::Duration;

use opamp_proto::AgentCapabilities;

use super::agent::{Agent, Terms, Transport};
use super::changes::Changes;
use super::config::ServerConfig;
use super::connection_settings::{Applied, ConnectionSettings, SettingsParts};
use super::desired::Desired;
use super::offer::{Progress, Reported};

/// The longest time a heartbeat may be on its way.
const MAX_GRACE: Duration = Duration::from_secs(10);

impl Agent {
    /// The heartbeat interval the Agent has agreed to: that of the last settings of this Server's
    /// which it reported as applied, and which had one.
    #[must_use]
    pub fn agreed_interval(&self) -> Option<Duration> {
        self.heartbeat.map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// How long the Agent may be silent before it counts as gone; `None` if for ever.
    #[must_use]
    pub fn patience(&self, config: &ServerConfig) -> Option<Duration> {
        let reports = self.accepts(AgentCapabilities::REPORTS_HEARTBEAT);
        let missed = (config.missed_heartbeats > 0).then(|| self.longest_interval()).flatten().map(
            |interval| {
                let grace = (interval / 2).min(MAX_GRACE);
                interval.saturating_mul(config.missed_heartbeats).saturating_add(grace)
            },
        );
        match self.transport()? {
            Transport::WebSocket => missed.filter(|_| reports),
            Transport::Http => Some(missed.unwrap_or(config.http_offline_after)),
        }
    }

    /// The Agent has been silent for so long: its session ends if that is too long.
    pub fn handle_silence(&mut self, silence: Duration, config: &ServerConfig) -> Changes {
        match self.patience(config) {
            Some(patience) if silence >= patience => self.handle_lost() | Changes::SILENT,
            _ => Changes::empty(),
        }
    }

    /// An Agent that is at work on settings with a longer interval may keep to that already.
    fn longest_interval(&self) -> Option<Duration> {
        let agreed = self.agreed_interval()?;
        let last = self.offered.last_settings.as_ref().filter(|_| self.offered.settings.is_open());
        let offered = last.and_then(|last| interval(&last.settings, last.parts));
        Some(offered.map_or(agreed, |offered| agreed.max(Duration::from_secs(offered.into()))))
    }

    /// The Agent has told the state of its connection settings.
    pub(super) fn follow_heartbeat(&mut self, terms: Terms<'_>) {
        let accepted = self.accepted_parts();
        let offered = self.offered.last_settings.as_deref();
        // Those an earlier process of this Server may have offered.
        let wanted = [Desired::of(&self.own), terms.desired]
            .into_iter()
            .filter_map(|desired| desired.connection_settings.as_ref());
        let mut known = offered
            .map(|Applied { settings, parts }| (settings, *parts))
            .into_iter()
            .chain(wanted.map(|settings| (settings, accepted)));
        let told = known.find_map(|(settings, parts)| {
            let reported = self.offered.settings.reported(settings.hash_for(parts)?)?;
            Some((settings, parts, reported.progress()))
        });
        let progress = self.offered.settings.last_reported().map(Reported::progress);
        match (told, progress) {
            (Some((settings, parts, Progress::Applied)), _) => {
                // Settings without a part for this connection change nothing about it.
                if let Some(seconds) = interval(settings, parts) {
                    self.heartbeat = Some(seconds);
                }
            }
            // What it had before holds.
            (Some(_), _) | (None, Some(Progress::Applying | Progress::Failed)) => {}
            // It has settings of somebody else, or none.
            (None, _) => self.heartbeat = None,
        }
    }
}

/// The interval in these parts of settings, in seconds.
fn interval(settings: &ConnectionSettings, parts: SettingsParts) -> Option<u32> {
    let seconds = settings.heartbeat_interval().filter(|_| parts.contains(SettingsParts::OPAMP))?;
    Some(u32::try_from(seconds).unwrap_or(u32::MAX))
}
