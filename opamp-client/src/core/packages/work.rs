//! The work on a package that is wanted and not there: its download, attempt after attempt, until
//! it is verified and can be handed over.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{
    Expected, FetchFailure, FetchFailureKind, FetchProgress, FetchTicket, Fetched, FileKey,
    Packages, SHORTEST_PROGRESS_INTERVAL,
};
use crate::core::Event;
use crate::core::offer::cut;

/// How often a whole file may turn out to be wrong: the second time it is no accident of the way.
const MAX_WRONG: u32 = 2;

#[derive(Debug, Clone)]
pub(super) struct Work {
    pub(super) key: FileKey,
    pub(super) expected: Expected,
    pub(super) stage: Stage,
    /// Attempts that failed since the last that got further than those before.
    attempts: u32,
    /// When the first of them failed.
    failing: Option<Instant>,
    /// Why the last of so many failed that the package is told to have failed; it is tried again
    /// all the same.
    stuck: Option<String>,
    /// Files that were whole and wrong.
    wrong: u32,
    /// The most bytes that ever were there.
    furthest: u64,
    /// The most bytes that ever came, of use to another attempt or not.
    seen: u64,
    /// How far the download is; `None` until bytes came.
    progress: Option<FetchProgress>,
    /// What the server is told of that.
    pub(super) told: Option<Told>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    /// Waits for its turn to be downloaded.
    Queued,
    Fetching {
        ticket: FetchTicket,
    },
    /// Waits after a failed attempt.
    Waiting {
        until: Instant,
    },
    /// Whole and verified; waits for its turn to be handed over.
    Verified {
        location: PathBuf,
        len: u64,
    },
    /// Handed over when the records of this version are saved.
    Recording {
        location: PathBuf,
        len: u64,
        version: u64,
    },
}

/// The progress of a download as it is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Told {
    pub(super) progress: FetchProgress,
    pub(super) bytes_per_second: f64,
    since: Instant,
}

/// A package whose download failed, whatever has been offered since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trouble {
    failures: u32,
    /// Not tried again before, lest a server that offers anew in every reply make a hot loop.
    pub(super) until: Instant,
}

impl Work {
    pub(super) fn new(key: FileKey, expected: Expected, not_before: Option<Instant>) -> Self {
        Self {
            key,
            expected,
            stage: match not_before {
                Some(until) => Stage::Waiting { until },
                None => Stage::Queued,
            },
            attempts: 0,
            failing: None,
            stuck: None,
            wrong: 0,
            furthest: 0,
            seen: 0,
            progress: None,
            told: None,
        }
    }

    /// The download under way, if one is.
    pub(super) fn ticket(&self) -> Option<FetchTicket> {
        match self.stage {
            Stage::Fetching { ticket } => Some(ticket),
            _ => None,
        }
    }

    pub(super) fn waits_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Waiting { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn wake(&mut self, now: Instant) {
        if self.waits_until().is_some_and(|until| until <= now) {
            self.stage = Stage::Queued;
        }
    }

    /// It is offered anew: what failed before does not count.
    pub(super) fn renew(&mut self) {
        self.attempts = 0;
        self.failing = None;
        self.stuck = None;
    }

    /// Why the package is told to have failed, although it is tried again. It holds up no other.
    pub(super) fn stuck(&self) -> Option<&str> {
        self.stuck.as_deref()
    }

    pub(super) fn is_verified(&self) -> bool {
        matches!(self.stage, Stage::Verified { .. })
    }

    /// It is to be handed over when the records of `version` are saved.
    pub(super) fn record(&mut self, version: u64) {
        if let Stage::Verified { location, len } = &self.stage {
            let (location, len) = (location.clone(), *len);
            self.stage = Stage::Recording { location, len, version };
        }
    }

    /// What was recorded is out of date.
    pub(super) fn unrecord(&mut self) {
        if let Stage::Recording { location, len, .. } = &self.stage {
            self.stage = Stage::Verified { location: location.clone(), len: *len };
        }
    }

    /// The file, if what is saved says that it is handed over.
    pub(super) fn recorded(&self, saved: u64) -> Option<(PathBuf, u64)> {
        match &self.stage {
            Stage::Recording { location, len, version } if *version <= saved => {
                Some((location.clone(), *len))
            }
            _ => None,
        }
    }
}

impl Packages {
    fn work_of(&mut self, ticket: FetchTicket) -> Option<(String, &mut Work)> {
        let (name, work) = self.work.iter_mut().find(|(_, work)| work.ticket() == Some(ticket))?;
        Some((name.clone(), work))
    }

    pub(super) fn progress(&mut self, ticket: FetchTicket, progress: FetchProgress, now: Instant) {
        let interval = self.config.progress_interval.max(SHORTEST_PROGRESS_INTERVAL);
        let Some((_, work)) = self.work_of(ticket) else { return };
        let before = work.progress.replace(progress);
        let further = progress.received > work.seen;
        if further {
            work.seen = progress.received;
        }
        let recovers = further && work.stuck.take().is_some();
        let first = work.told.is_none();
        if first {
            work.told = Some(Told { progress, bytes_per_second: 0.0, since: now });
        }
        if first || before != Some(progress) {
            self.stale |= first || recovers;
            // Without an end of time to speak of there is no progress to speak of either.
            self.progress_due = self.progress_due.or(now.checked_add(interval));
        }
    }

    /// Brings what is told of the downloads up to date (PKG-24, PKG-65).
    pub(super) fn tell_progress(&mut self, now: Instant) {
        self.progress_due = None;
        let interval = self.config.progress_interval.max(SHORTEST_PROGRESS_INTERVAL);
        for work in self.work.values_mut() {
            let Stage::Fetching { .. } = work.stage else { continue };
            let (Some(told), Some(progress)) = (&mut work.told, work.progress) else { continue };
            self.progress_due = now.checked_add(interval);
            let seconds = now.saturating_duration_since(told.since).as_secs_f64();
            let bytes = progress.received.saturating_sub(told.progress.received);
            told.bytes_per_second = rate(bytes, seconds);
            told.progress = progress;
            told.since = now;
            self.stale = true;
        }
    }

    pub(super) fn fetched(
        &mut self,
        ticket: FetchTicket,
        fetched: Result<Fetched, FetchFailure>,
        now: Instant,
    ) {
        let (attempts_allowed, longest) =
            (self.config.attempts.max(1), self.config.backoff.max_retry_after);
        let retry_for = self.config.retry_for;
        let Some((name, work)) = self.work_of(ticket) else { return };
        let failure = match fetched {
            // A driver that answers with another file's verdict is not believed.
            Ok(fetched) if work.expected.accepts(&fetched.verified) => {
                let len = fetched.verified.len();
                work.stage = Stage::Verified { location: fetched.location, len };
                work.told = None;
                work.stuck = None;
                self.trouble.remove(&name);
                self.stale = true;
                return;
            }
            Ok(_) => FetchFailure {
                kind: FetchFailureKind::WrongContent,
                why: "another file was verified".to_owned(),
                received: 0,
            },
            Err(failure) => failure,
        };
        if failure.received > work.furthest {
            work.furthest = failure.received;
            work.attempts = 0;
            work.failing = None;
        }
        work.attempts = work.attempts.saturating_add(1);
        let failing = now.saturating_duration_since(*work.failing.get_or_insert(now));
        if failure.kind == FetchFailureKind::WrongContent {
            work.wrong += 1;
            // It starts over, and no attempt before got anywhere.
            work.furthest = 0;
        }
        if let Some(told) = &mut work.told {
            told.bytes_per_second = 0.0;
        }
        let often = work.attempts >= attempts_allowed;
        let over = failure.kind == FetchFailureKind::Permanent
            || work.wrong >= MAX_WRONG
            || often && failing >= retry_for;
        let news = often && work.stuck.is_none();
        if often {
            work.stuck = Some(cut(format!("{}; it is tried again", failure.why)));
        }
        let attempts = work.attempts;
        let failures = self.trouble.get(&name).map_or(0, |trouble| trouble.failures);
        let backoff = self.backoff.delay_of(failures.max(attempts - 1));
        let asked = match failure.kind {
            FetchFailureKind::Transient { retry_after: Some(asked) } => asked.min(longest),
            _ => Duration::ZERO,
        };
        let until = now + backoff.max(asked).min(LONGEST_PAUSE);
        let failures = failures.saturating_add(1);
        self.trouble.insert(name.clone(), Trouble { failures, until });
        self.stale = true;
        // What was answered is not to be cancelled.
        if let Some(work) = self.work.get_mut(&name) {
            work.stage = Stage::Waiting { until };
        }
        if over {
            self.fail(&name, failure.why, false);
        } else if news {
            self.notice(Event::PackageFailed { name, why: cut(failure.why) });
        }
    }
}

/// A pause that is longer is never over either, and this one can be added to any time.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Finite and not negative, whatever the clock does (PKG-65).
fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds <= 0.0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
    let bytes = bytes as f64;
    bytes / seconds
}
