//! When to offer something to an Agent, and what became of it: the same for configurations,
//! connection settings and packages (CFG-01 to CFG-03, CFG-18, CFG-19, CFG-24; CONN-32, CONN-33,
//! TEL-03 to TEL-05; PKG-38, PKG-39; readings A32, A35).
//!
//! An offer is due when the Agent accepts such offers and the hash it last reported is not that of
//! what it should have, whatever became of it: a FAILED with the right hash gets no second offer.
//! What was offered on a session is not offered there again until the Agent reported something new
//! about it, the wanted value changed, or, if the Agent can report what became of it, a pause went
//! by. And an Agent that answers every offer with another wrong hash, or that reconnects upon each,
//! gets a bounded number of them in each pause.
//!
//! ```text
//!            sent            APPLYING            APPLIED
//!   Pending ──────▶ Sent ───────────────▶ Applying ────────▶ Applied
//!      │              └──────────┬───────────┘└────────────▶ Failed
//!      │                         └──── no end in time ─────▶ TimedOut   (a late status still counts)
//!      └── the capability is missing ──────────────────────▶ NotAccepted
//!   any of them ── another value is wanted ────────────────▶ Superseded, as seen by who waits for it
//! ```

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{ConfigHash, Message as _, v1};

use super::record::{Anchor, OfferRecord};
use super::scan::Part;
use super::tally::OfferEvents;

/// Offers of one value to one Agent in one pause.
const MAX_OFFERS_PER_PAUSE: u8 = 8;

/// The hash that names what is offered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OfferHash([u8; 32]);

impl OfferHash {
    /// Of the hashes the functions of `opamp-proto` make, which are SHA-256.
    pub(super) fn new(hash: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let length = hash.len().min(bytes.len());
        bytes[..length].copy_from_slice(&hash[..length]);
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<ConfigHash> for OfferHash {
    fn from(hash: ConfigHash) -> Self {
        Self(*hash.as_bytes())
    }
}

/// Writes 64 lower-case hexadecimal digits.
impl fmt::Display for OfferHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for OfferHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What became of something an Agent should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// It waits for a chance to be sent: the Agent's next request or session.
    Pending,
    /// It was sent, and the Agent has said nothing of it. From an Agent that reports no status for
    /// it no more can be known.
    Sent,
    /// The Agent has it and is at work.
    Applying,
    /// The Agent has applied it.
    Applied,
    /// The Agent has refused it or could not apply it; why is in the status the Agent reported, in
    /// [`AgentState`](crate::AgentState).
    Failed,
    /// The Agent does not accept such offers, or none of its parts. Should it begin to, it is sent.
    NotAccepted,
    /// It was sent, and the Agent has reported neither success nor failure within
    /// [`ServerConfig::offer_deadline`](crate::ServerConfig::offer_deadline).
    TimedOut,
    /// Something else is wanted by now.
    Superseded,
}

impl Outcome {
    /// Whether nothing more is to be expected.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Applied | Self::Failed | Self::Superseded)
    }
}

/// Something an Agent should have, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferState {
    pub(crate) hash: OfferHash,
    pub(crate) own: bool,
    pub(crate) outcome: Outcome,
}

impl OfferState {
    /// The hash of what the Agent should have.
    #[must_use]
    pub const fn hash(&self) -> OfferHash {
        self.hash
    }

    /// Whether it was set for this Agent alone.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// What became of it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What became of something that was wanted when it was set: [`Outcome::Superseded`] unless it
    /// still is.
    #[must_use]
    pub fn outcome_of(&self, hash: OfferHash) -> Outcome {
        if self.hash == hash { self.outcome } else { Outcome::Superseded }
    }
}

/// How far an Agent is with what it reports the hash of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Unset,
    Applying,
    Applied,
    Failed,
}

/// What an Agent reports to have been offered.
#[derive(Debug, Clone)]
pub(super) struct Reported {
    hash: Bytes,
    progress: Progress,
}

impl Reported {
    fn new(hash: &[u8], progress: Progress) -> Self {
        Self { hash: Bytes::copy_from_slice(hash), progress }
    }

    /// What a status says; `None` for what is no status of an offer.
    pub(super) fn read(part: Part, content: &Bytes) -> Option<Self> {
        match part {
            Part::RemoteConfigStatus => {
                v1::RemoteConfigStatus::decode(content.clone()).ok().map(Into::into)
            }
            Part::ConnectionSettingsStatus => {
                v1::ConnectionSettingsStatus::decode(content.clone()).ok().map(Into::into)
            }
            Part::PackageStatuses => {
                v1::PackageStatuses::decode(content.clone()).ok().map(Into::into)
            }
            _ => None,
        }
    }

    pub(super) const fn progress(&self) -> Progress {
        self.progress
    }
}

impl From<v1::RemoteConfigStatus> for Reported {
    fn from(status: v1::RemoteConfigStatus) -> Self {
        let progress = match status.status() {
            v1::RemoteConfigStatuses::Unset => Progress::Unset,
            v1::RemoteConfigStatuses::Applying => Progress::Applying,
            v1::RemoteConfigStatuses::Applied => Progress::Applied,
            v1::RemoteConfigStatuses::Failed => Progress::Failed,
        };
        Self::new(&status.last_remote_config_hash, progress)
    }
}

impl From<v1::ConnectionSettingsStatus> for Reported {
    fn from(status: v1::ConnectionSettingsStatus) -> Self {
        let progress = match status.status() {
            v1::ConnectionSettingsStatuses::Unset => Progress::Unset,
            v1::ConnectionSettingsStatuses::Applying => Progress::Applying,
            v1::ConnectionSettingsStatuses::Applied => Progress::Applied,
            v1::ConnectionSettingsStatuses::Failed => Progress::Failed,
        };
        Self::new(&status.last_connection_settings_hash, progress)
    }
}

/// Each package has a status of its own: one that failed makes the whole failed, one that is not
/// done makes it not done. What the Agent has from elsewhere does not count.
impl From<v1::PackageStatuses> for Reported {
    fn from(statuses: v1::PackageStatuses) -> Self {
        use v1::PackageStatusEnum as Status;
        let offered = statuses.packages.values().filter(|it| !it.server_offered_hash.is_empty());
        let mut progress = match statuses.error_message.is_empty() {
            true => Progress::Applied,
            false => Progress::Failed,
        };
        for package in offered {
            match package.status() {
                Status::InstallFailed => progress = Progress::Failed,
                Status::Installed => {}
                Status::Installing | Status::InstallPending | Status::Downloading => {
                    if progress == Progress::Applied {
                        progress = Progress::Applying;
                    }
                }
            }
        }
        Self::new(&statuses.server_provided_all_packages_hash, progress)
    }
}

/// Times that offers go by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) pause: Duration,
    /// For an outcome.
    pub(super) deadline: Instant,
    pub(super) now: Instant,
}

/// What one Agent was offered of one kind, and what it says it has.
#[derive(Debug, Default, Clone)]
pub(super) struct Offers {
    /// `None` as long as no status was reported.
    reported: Option<Reported>,
    offered: Option<Box<Offered>>,
}

#[derive(Debug, Clone)]
struct Offered {
    hash: OfferHash,
    /// The offer may be repeated before the pause is over.
    repeatable: bool,
    last: Instant,
    /// When the pause began in which `count` offers were made.
    first: Instant,
    count: u8,
    /// When the Agent should be done; `None` once it is, or was not by then.
    deadline: Option<Instant>,
    timed_out: bool,
    /// It has failed, and the Agent may manage by itself yet, as with a download it goes on with.
    failed: bool,
}

/// What outlives the process: not what the Agent reported, which is in its state.
impl Offers {
    pub(super) fn record(&self, now: Anchor) -> Option<OfferRecord> {
        let offered = self.offered.as_ref()?;
        Some(OfferRecord {
            hash: offered.hash.0.to_vec(),
            last: now.millis(offered.last),
            first: now.millis(offered.first),
            count: offered.count.into(),
            deadline: offered.deadline.map(|deadline| now.millis(deadline)),
            timed_out: offered.timed_out,
            failed: offered.failed,
        })
    }

    pub(super) fn restored(record: &OfferRecord, now: Anchor) -> Self {
        let offered = Offered {
            hash: OfferHash::new(&record.hash),
            repeatable: true,
            last: now.instant(record.last),
            first: now.instant(record.first),
            count: u8::try_from(record.count).unwrap_or(u8::MAX),
            deadline: record.deadline.map(|deadline| now.instant(deadline)),
            timed_out: record.timed_out,
            failed: record.failed,
        };
        Self { reported: None, offered: Some(Box::new(offered)) }
    }
}

impl Offers {
    /// On a new session an offer is made again.
    pub(super) fn session_began(&mut self) {
        self.may_repeat();
    }

    /// The Agent reported a status that differs from the one before.
    pub(super) fn status_changed(&mut self, reported: Reported) -> OfferEvents {
        let mut events = OfferEvents::empty();
        if let Some(offered) = &mut self.offered
            && offered.hash.0[..] == reported.hash[..]
        {
            let open = offered.deadline.is_some() || offered.timed_out;
            events = match reported.progress {
                Progress::Applied if open || offered.failed => OfferEvents::APPLIED,
                Progress::Failed if open => OfferEvents::FAILED,
                _ => OfferEvents::empty(),
            };
            if !events.is_empty() {
                offered.deadline = None;
                offered.timed_out = false;
                offered.failed = events == OfferEvents::FAILED;
            }
        }
        self.reported = Some(reported);
        self.may_repeat();
        events
    }

    /// The offer did not arrive, as it seems.
    pub(super) fn may_repeat(&mut self) {
        if let Some(offered) = &mut self.offered {
            offered.repeatable = true;
        }
    }

    /// Whether the Agent may be at work on what it was offered last.
    pub(super) fn is_open(&self) -> bool {
        self.offered.as_ref().is_some_and(|offered| offered.deadline.is_some())
    }

    /// What the Agent reports, of whatever value.
    pub(super) const fn last_reported(&self) -> Option<&Reported> {
        self.reported.as_ref()
    }

    /// What the Agent reports of this value, if that is what it reports of.
    pub(super) fn reported(&self, hash: OfferHash) -> Option<&Reported> {
        self.reported.as_ref().filter(|reported| reported.hash[..] == hash.0[..])
    }

    /// Whether the Agent failed with what it was offered last.
    pub(super) fn has_failed(&self) -> bool {
        let hash = self.offered.as_ref().map(|offered| offered.hash);
        let reported = hash.and_then(|hash| self.reported(hash));
        reported.is_some_and(|reported| reported.progress == Progress::Failed)
    }

    /// Whether to offer this value now. `reports`: the Agent can tell what became of it.
    pub(super) fn is_due(
        &self,
        hash: OfferHash,
        reports: bool,
        pause: Duration,
        now: Instant,
    ) -> bool {
        if self.reported(hash).is_some() {
            return false;
        }
        let Some(offered) = self.offered.as_ref().filter(|offered| offered.hash == hash) else {
            return true;
        };
        let paused = |since| now.saturating_duration_since(since) >= pause;
        if offered.repeatable {
            return offered.count < MAX_OFFERS_PER_PAUSE || paused(offered.first);
        }
        // To an Agent that reports no status, once is enough.
        (reports || self.reported.is_some()) && paused(offered.last)
    }

    /// This value is being offered.
    pub(super) fn offered(&mut self, hash: OfferHash, pace: Pace) -> OfferEvents {
        let Pace { pause, deadline, now } = pace;
        let mut events = OfferEvents::OFFERED;
        let earlier = self.offered.take();
        let open = earlier.as_ref().is_some_and(|earlier| earlier.deadline.is_some());
        let earlier = earlier.filter(|earlier| earlier.hash == hash);
        if open && earlier.is_none() {
            events |= OfferEvents::SUPERSEDED;
        }
        let (deadline, timed_out, failed) = match &earlier {
            Some(earlier) => (earlier.deadline, earlier.timed_out, earlier.failed),
            None => (Some(deadline), false, false),
        };
        let earlier =
            earlier.filter(|earlier| now.saturating_duration_since(earlier.first) < pause);
        let (first, count) = earlier.map_or((now, 0), |earlier| (earlier.first, earlier.count));
        self.offered = Some(Box::new(Offered {
            hash,
            repeatable: false,
            last: now,
            first,
            count: count.saturating_add(1),
            deadline,
            timed_out,
            failed,
        }));
        events
    }

    /// Looks at the clock. True if an offer has timed out just now. `reports`: the Agent can tell
    /// what became of it.
    pub(super) fn expire(&mut self, reports: bool, now: Instant) -> bool {
        let Some(offered) = &mut self.offered else { return false };
        let over = offered.deadline.is_some_and(|deadline| now >= deadline);
        if over {
            offered.deadline = None;
            offered.timed_out = reports;
        }
        over && reports
    }

    /// What became of this value. `accepted`: the Agent takes such offers.
    pub(super) fn outcome(&self, hash: OfferHash, accepted: bool) -> Outcome {
        let offered = self.offered.as_ref().filter(|offered| offered.hash == hash);
        let timed_out = offered.is_some_and(|offered| offered.timed_out);
        match self.reported(hash).map(Reported::progress) {
            Some(Progress::Applied) => Outcome::Applied,
            Some(Progress::Failed) => Outcome::Failed,
            _ if timed_out => Outcome::TimedOut,
            Some(Progress::Applying) => Outcome::Applying,
            Some(Progress::Unset) => Outcome::Sent,
            None if !accepted => Outcome::NotAccepted,
            None if offered.is_some() => Outcome::Sent,
            None => Outcome::Pending,
        }
    }
}
