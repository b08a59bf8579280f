//! What the driver does beside the connection: checks, saves, certificates, downloads.

use std::path::PathBuf;
use std::time::Duration;

use opamp_client::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, FetchTicket, Fetched, PackageAction, PackageRecords,
    RetainTicket, SaveTicket,
};
use opamp_client::core::{CertificateOrder, CertificateRequest, Save, SettingsCheck};

use super::{Job, World, choose, failure, saved};

/// Jobs that the driver is at.
#[derive(Default)]
pub(super) struct Jobs {
    pub(super) check: Option<SettingsCheck>,
    pub(super) order: Option<CertificateOrder>,
    pub(super) save: Option<Save>,
    pub(super) load: bool,
    pub(super) save_packages: Option<(SaveTicket, PackageRecords)>,
    pub(super) retain: Option<RetainTicket>,
}

impl World {
    pub(super) fn package_action(&mut self, action: PackageAction) {
        match action {
            PackageAction::Load => {
                self.jobs.load = true;
                self.begin(Job::Load);
            }
            PackageAction::Save { ticket, records } => {
                assert!(self.jobs.save_packages.is_none(), "one save at a time");
                self.jobs.save_packages = Some((ticket, records));
                self.begin(Job::SavePackages);
            }
            PackageAction::Retain { ticket, .. } => {
                assert!(self.jobs.save_packages.is_none(), "nothing goes before all is saved");
                assert!(self.jobs.retain.is_none(), "one clean-up at a time");
                self.jobs.retain = Some(ticket);
                self.begin(Job::Retain);
            }
            PackageAction::Fetch(request) => {
                self.fetches.push(request);
                assert!(self.fetches.len() <= 2, "so many downloads are made at a time");
            }
            PackageAction::Cancel(ticket) => {
                let before = self.fetches.len();
                self.fetches.retain(|request| request.ticket != ticket);
                assert_eq!(self.fetches.len() + 1, before, "it was under way");
            }
        }
    }

    pub(super) fn begin(&mut self, job: Job) {
        if !self.setup.is_slow(job) {
            self.finish(job, 0);
        }
    }

    /// A job ends, well if `how` is even.
    pub(in super::super) fn finish(&mut self, job: Job, how: u8) {
        let now = self.now;
        let outcome = || if how.is_multiple_of(2) { Ok(()) } else { Err("fuzzed".to_owned()) };
        let core = &mut self.core;
        match job {
            Job::Check => {
                if let Some(check) = self.jobs.check.take() {
                    let outcome = outcome().map_err(|_| failure(how));
                    core.handle_settings_checked(check.id, outcome, now);
                }
            }
            Job::Certificate => {
                if let Some(order) = self.jobs.order.take() {
                    let made = outcome().map(|()| CertificateRequest::new("key", vec![how; 2]));
                    core.handle_certificate_made(order.id, made, now);
                }
            }
            Job::Save => match (self.jobs.save.take(), outcome()) {
                (Some(save), Ok(())) => {
                    self.disk = Some(saved(&save.state));
                    core.handle_saved(save.version, now);
                }
                (Some(save), Err(why)) => core.handle_save_failed(save.version, why, now),
                (None, _) => {}
            },
            Job::Load => {
                if std::mem::take(&mut self.jobs.load) {
                    let records = self.packages_disk.as_deref().map(|saved| {
                        PackageRecords::from_bytes(saved).expect("it is as it was saved")
                    });
                    core.handle_packages_loaded(outcome().map(|()| records), now);
                }
            }
            Job::SavePackages => {
                if let Some((ticket, records)) = self.jobs.save_packages.take() {
                    let outcome = outcome();
                    if outcome.is_ok() {
                        self.packages_disk = Some(records.to_bytes());
                    }
                    core.handle_packages_saved(ticket, outcome, now);
                }
            }
            Job::Retain => {
                if let Some(ticket) = self.jobs.retain.take() {
                    core.handle_packages_retained(ticket, outcome(), now);
                }
            }
            Job::Download => self.fetched(how),
            Job::Events => self.take_events(),
        }
    }

    pub(in super::super) fn download(&self, which: u8) -> Option<FetchTicket> {
        let at = usize::from(which) % self.fetches.len().max(1);
        self.fetches.get(at).map(|request| request.ticket)
    }

    /// A download ends.
    fn fetched(&mut self, how: u8) {
        let Some(request) = choose(&mut self.fetches, how >> 7, false) else { return };
        let received = u64::from(how >> 3);
        let failed = |kind| FetchFailure { kind, why: "fuzzed".to_owned(), received };
        let retry_after = (how > 64).then(|| Duration::from_secs(1 << (how % 64)));
        let outcome = match how % 8 {
            0 | 1 => {
                let signature = request.expected.signature().map(|_| match how {
                    9 => Err("fuzzed".to_owned()),
                    _ => Ok(()),
                });
                let sha256 = request.expected.sha256().copied().unwrap_or([how; 32]);
                let verdict = request.expected.judge(Evidence { len: received, sha256, signature });
                let location = PathBuf::from("/store");
                verdict
                    .map(|verified| Fetched { verified, location })
                    .map_err(|_| failed(FetchFailureKind::WrongContent))
            }
            2 => Err(failed(FetchFailureKind::WrongContent)),
            3 => Err(failed(FetchFailureKind::Permanent)),
            _ => Err(failed(FetchFailureKind::Transient { retry_after })),
        };
        let failed = outcome.is_err();
        self.core.handle_fetched(request.ticket, outcome, self.now);
        self.drive();
        let again = self.fetches.iter().any(|other| other.key == request.key);
        assert!(!(failed && again), "a download is not tried again at once");
    }
}
