//! What the driver has to do about packages, and how the store answers.

use std::time::Instant;

use super::work::Stage;
use super::{FetchRequest, FetchTicket, FileKey, Loading, PackageRecords, Packages};
use crate::core::{Event, PackageStoreTask};

/// A save that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SaveTicket(u64);

/// A clean-up that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RetainTicket(u64);

/// What the driver has to do about packages. There is at most one of each kind under way, and as
/// many downloads as `parallel_downloads` says.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum PackageAction {
    /// Load what is remembered; answer with `handle_packages_loaded`.
    Load,
    /// Save the records, whole or not at all; answer with `handle_packages_saved` when they are
    /// safe.
    Save {
        /// To be given back in the answer.
        ticket: SaveTicket,
        /// Everything there is to remember.
        records: PackageRecords,
    },
    /// Delete all files but these; answer with `handle_packages_retained`.
    Retain {
        /// To be given back in the answer.
        ticket: RetainTicket,
        /// What is still of use.
        keys: Vec<FileKey>,
    },
    /// See that the file is in the store, whole and [judged](super::Expected::judge): what the
    /// store has need not be downloaded. Answer with `handle_fetched`; tell meanwhile with
    /// `handle_fetch_progress` how far it is.
    Fetch(FetchRequest),
    /// Stop that download. What there is of the file stays in the store. No answer is expected.
    Cancel(FetchTicket),
}

impl Packages {
    pub(super) fn poll_action(&mut self, stopped: bool) -> Option<PackageAction> {
        if let Some(ticket) = self.cancelled.pop() {
            return Some(PackageAction::Cancel(ticket));
        }
        if let Some(save) = self.poll_save() {
            return Some(save);
        }
        if stopped {
            return None;
        }
        match &self.loading {
            Loading::Due => {
                self.loading = Loading::UnderWay;
                return Some(PackageAction::Load);
            }
            Loading::Failed { until: None, failures, why } => {
                self.loading = Loading::Retrying { failures: *failures, why: why.clone() };
                return Some(PackageAction::Load);
            }
            _ => {}
        }
        if self.loading != Loading::Done || self.retaining.is_some() {
            return None;
        }
        self.poll_retain().or_else(|| self.poll_fetch())
    }

    fn poll_save(&mut self) -> Option<PackageAction> {
        let saving = &mut self.saving;
        let due = saving.version > saving.saved
            && saving.under_way.is_none()
            && saving.until.is_none()
            && self.loading == Loading::Done;
        if !due {
            return None;
        }
        saving.under_way = Some(saving.version);
        let records = self.records.clone();
        Some(PackageAction::Save { ticket: SaveTicket(saving.version), records })
    }

    /// Only what is safely of no more use may go, so it waits until everything is saved.
    fn poll_retain(&mut self) -> Option<PackageAction> {
        if self.saving.version > self.saving.saved {
            return None;
        }
        let keys = self.keys_of_use();
        if self.retained.as_ref() == Some(&keys) {
            return None;
        }
        self.last_ticket += 1;
        let ticket = RetainTicket(self.last_ticket);
        self.retaining = Some(ticket);
        self.retained = Some(keys.clone());
        Some(PackageAction::Retain { ticket, keys })
    }

    /// What the agent has, what it is to have, and what it was handed.
    fn keys_of_use(&self) -> Vec<FileKey> {
        let mut keys = Vec::new();
        for (name, record) in &self.records.packages {
            keys.extend(record.files().map(|package| package.file_of(name)));
            let refused = record.failure.as_ref().is_some_and(|failure| failure.by_agent);
            if record.wanted && !refused {
                keys.extend(record.as_offered().map(|offered| offered.file_of(name)));
            }
        }
        for (name, handed) in &self.handed {
            if let super::Token::Install(offer) = &handed.token {
                keys.push(offer.package.file_of(name));
            }
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// The next download: top-level packages first, and last those that failed often.
    fn poll_fetch(&mut self) -> Option<PackageAction> {
        let under_way = self.work.values().filter(|work| work.ticket().is_some()).count();
        if under_way >= self.config.parallel_downloads.max(1) {
            return None;
        }
        let queued = self.work.iter().filter(|(_, work)| work.stage == Stage::Queued);
        let (name, _) = queued.min_by_key(|(name, work)| {
            (work.stuck().is_some(), self.is_addon(name), name.as_str())
        })?;
        let name = name.clone();
        let record = self.records.packages.get(&name)?;
        let offered = record.offered.clone()?;
        let in_use: Vec<_> = record.files().map(|package| package.file_of(&name)).collect();
        let work = self.work.get_mut(&name)?;
        self.last_ticket += 1;
        let ticket = FetchTicket(self.last_ticket);
        work.stage = Stage::Fetching { ticket };
        Some(PackageAction::Fetch(FetchRequest {
            ticket,
            version: offered.version,
            key: work.key.clone(),
            file: offered.file.unwrap_or_default(),
            expected: work.expected.clone(),
            max_size: self.config.max_file_size,
            in_use: in_use.contains(&work.key),
        }))
    }

    pub(super) fn loaded(&mut self, loaded: Result<Option<PackageRecords>, String>, now: Instant) {
        let (failures, before) = match &self.loading {
            Loading::UnderWay => (0, None),
            Loading::Retrying { failures, why } => (*failures, Some(why.clone())),
            _ => return,
        };
        match loaded {
            Ok(records) => {
                self.loading = Loading::Done;
                self.restore(records.unwrap_or_default(), now);
            }
            Err(why) => {
                let delay = self.backoff.delay_of(failures);
                let until = now.checked_add(delay);
                if before.as_ref() != Some(&why) {
                    self.notice(Event::PackageStoreFailed {
                        task: PackageStoreTask::Load,
                        why: why.clone(),
                    });
                }
                self.loading = Loading::Failed { until, failures: failures.saturating_add(1), why };
                self.stale = true;
            }
        }
    }

    pub(super) fn saved(&mut self, ticket: SaveTicket, saved: Result<(), String>, now: Instant) {
        let saving = &mut self.saving;
        if saving.under_way != Some(ticket.0) {
            return;
        }
        saving.under_way = None;
        match saved {
            Ok(()) => {
                saving.saved = ticket.0;
                saving.failures = 0;
            }
            Err(why) => {
                saving.until = now.checked_add(self.backoff.delay_of(saving.failures));
                saving.failures = saving.failures.saturating_add(1);
                if saving.failures == 1 {
                    let task = PackageStoreTask::Save;
                    self.notices.push_back(Event::PackageStoreFailed { task, why: why.clone() });
                }
                if self.saving.failures >= self.config.attempts {
                    self.give_up_recording(&why);
                }
            }
        }
    }

    /// Files that stay too long cost space and nothing else: they go with the next change.
    pub(super) fn retained(&mut self, ticket: RetainTicket, retained: Result<(), String>) {
        if self.retaining != Some(ticket) {
            return;
        }
        self.retaining = None;
        if let Err(why) = retained {
            self.notice(Event::PackageStoreFailed { task: PackageStoreTask::Retain, why });
        }
    }
}
