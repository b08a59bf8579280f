//! Packages: from the server's offer to what the agent has.
//!
//! The server offers a set of packages. What is new or different is downloaded and verified, then
//! handed to the agent, one package at a time; what is no longer in the set is handed to the agent
//! to be removed. The agent's words and the machine's own knowledge make the statuses the server is
//! told. Each package goes its own way, so one that fails holds up no other:
//!
//! ```text
//!   offered, and not what the agent has
//!      │
//!      ▼                 slot             whole, verified        its turn, recorded
//!   queued ────────────────────► fetching ───────────► verified ──────────────────► handed over
//!      ▲      InstallPending       │  │  Downloading        InstallPending   Installing │  │
//!      │                           │  └ no use, or too long ──────┐                     │  │
//!      │  time, a newer file       ▼                              ▼      failed, deadline│  │
//!   waiting ◄──────────────── attempt failed               InstallFailed ◄──────────────┘  │
//!                                                                                          ▼
//!   no longer offered ──► handed over, to be removed ──► not listed     Installed ◄── installed
//! ```
//!
//! A download that fails in ways that may pass is tried again for a day. After a few attempts the
//! server is told InstallFailed and why, as nothing else has room for a reason; from then on it
//! holds up no other package, and it is Downloading again when more bytes come than ever before.
//!
//! What has to be true after a stop at any moment is in one record, [`PackageRecords`], that is
//! saved whole before a package is handed over and after it has an outcome. Bytes are in a store,
//! under names made of the package and its content hash, so that an interrupted download is
//! continued and two different files are never taken for one. After a restart whatever is wanted
//! and not there begins anew with what the store has; a file is verified again before it is handed
//! over again.
//!
//! The machine is not tied to the connection: a reconnect neither stops nor repeats anything.

mod action;
mod config;
mod fetch;
mod handover;
mod plan;
mod record;
mod status;
mod work;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::v1;

pub use self::action::{PackageAction, RetainTicket, SaveTicket};
pub use self::config::{PackagesConfig, SignaturePolicy};
pub use self::fetch::{
    Evidence, Expected, FetchFailure, FetchFailureKind, FetchProgress, FetchRequest, FetchTicket,
    Fetched, FileKey, Rejection, Verified,
};
pub use self::handover::{PackageOffer, PackageOfferId, PackageRemoval, PackageResolution};
pub use self::record::{InstalledPackage, PackageFailure, PackageRecord, PackageRecords};

use self::handover::{HandOver, Token};
use self::work::{Trouble, Work};
use super::backoff::Backoff;
use super::timer::Timer;
use super::{ClientCore, Event, NotPending, Parts, PeerMisbehaved};

/// How often a package is handed over without an outcome: one that makes the agent crash must not
/// be handed to it for ever.
const MAX_HAND_OVERS: u32 = 3;

/// The packages of one agent.
#[derive(Debug)]
pub(super) struct Packages {
    config: PackagesConfig,
    backoff: Backoff,
    records: PackageRecords,
    /// What tells the last offer from others.
    identity: Option<Identity>,
    /// An offer that came before the records were loaded.
    early_offer: Option<v1::PackagesAvailable>,
    /// What is being done about packages that are wanted and not there.
    work: BTreeMap<String, Work>,
    /// What the agent was handed and has not answered.
    handed: BTreeMap<String, HandOver>,
    /// The removal that is handed over when the records of this version are saved.
    removing: Option<(String, u64)>,
    /// The newest hand-over of each package that has an outcome: a late word on an earlier one is
    /// not news.
    answered: BTreeMap<String, PackageOfferId>,
    /// Packages whose download failed lately.
    trouble: BTreeMap<String, Trouble>,
    last_id: u64,
    last_ticket: u64,
    cancelled: Vec<FetchTicket>,
    loading: Loading,
    saving: Saving,
    retaining: Option<RetainTicket>,
    /// The files that the store was last told to keep.
    retained: Option<Vec<FileKey>>,
    /// What the server is to be told may have changed.
    stale: bool,
    /// When the progress of downloads is told next.
    progress_due: Option<Instant>,
    notices: VecDeque<Event>,
}

/// What tells an offer from others: its hash, which is there for that (PKG-34). From a server that
/// breaks PKG-37 all of it, or each of its replies would be new work.
#[derive(Debug, PartialEq)]
enum Identity {
    Hash(Bytes),
    Content(v1::PackagesAvailable),
}

impl Identity {
    fn of(offer: &v1::PackagesAvailable) -> Self {
        match offer.all_packages_hash.is_empty() {
            true => Self::Content(offer.clone()),
            false => Self::Hash(offer.all_packages_hash.clone()),
        }
    }
}

/// Whether the records are there.
#[derive(Debug, Clone, PartialEq)]
enum Loading {
    Due,
    UnderWay,
    Failed { until: Option<Instant>, failures: u32, why: String },
    Retrying { failures: u32, why: String },
    Done,
}

/// How far the records are saved. Versions are counted, and the newest is saved.
#[derive(Debug, Clone, Default)]
struct Saving {
    version: u64,
    saved: u64,
    under_way: Option<u64>,
    failures: u32,
    /// When a save that failed is tried again.
    until: Option<Instant>,
}

impl Packages {
    pub(super) fn new(config: PackagesConfig, seed: u64) -> Self {
        let backoff = Backoff::new(config.backoff.clone(), seed);
        Self {
            config,
            backoff,
            records: PackageRecords::default(),
            identity: None,
            early_offer: None,
            work: BTreeMap::new(),
            handed: BTreeMap::new(),
            removing: None,
            answered: BTreeMap::new(),
            trouble: BTreeMap::new(),
            last_id: 0,
            last_ticket: 0,
            cancelled: Vec::new(),
            loading: Loading::Due,
            saving: Saving::default(),
            retaining: None,
            retained: None,
            stale: false,
            progress_due: None,
            notices: VecDeque::new(),
        }
    }

    /// The records changed: they are to be saved, and the server may have to be told.
    fn changed(&mut self) {
        self.saving.version += 1;
        self.stale = true;
    }

    /// Something went wrong that the application should know of. What it does not take gives way in
    /// the queue this ends in.
    fn notice(&mut self, event: Event) {
        self.notices.push_back(event);
    }

    /// The next thing that the agent has to do.
    fn poll_event(&mut self) -> Option<Event> {
        let handed = self.handed.values_mut().find(|handed| !handed.announced)?;
        handed.announced = true;
        Some(match handed.token.clone() {
            Token::Install(offer) => Event::Package(offer),
            Token::Remove(removal) => Event::PackageRemoval(removal),
        })
    }

    fn has_event(&self) -> bool {
        self.handed.values().any(|handed| !handed.announced)
    }

    /// When time alone makes something happen.
    fn next_due(&self) -> Option<Instant> {
        let loading = match self.loading {
            Loading::Failed { until, .. } => until,
            _ => None,
        };
        let waits = self.work.values().filter_map(Work::waits_until);
        let deadlines = self.handed.values().filter_map(|handed| handed.due);
        let single = [loading, self.saving.until, self.progress_due];
        single.into_iter().flatten().chain(waits).chain(deadlines).min()
    }

    fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if let Loading::Failed { until, .. } = &mut self.loading
            && due(*until)
        {
            *until = None;
        }
        if due(self.saving.until) {
            self.saving.until = None;
        }
        for work in self.work.values_mut() {
            work.wake(now);
        }
        if due(self.progress_due) {
            self.tell_progress(now);
        }
        self.expire_handed(now);
    }
}

impl ClientCore {
    /// Something for the driver to do about packages, if anything. The first is to
    /// [load](PackageAction::Load) what is remembered: a driver that answers that before it
    /// connects has the packages in its first report.
    pub fn poll_package_action(&mut self, now: Instant) -> Option<PackageAction> {
        let stopped = self.is_stopped();
        self.with_packages(now, |packages| packages.poll_action(stopped)).flatten()
    }

    /// What the store remembers, `None` if nothing was ever saved, or why it cannot be read; then
    /// it is asked again, and offers wait (PKG-27).
    pub fn handle_packages_loaded(
        &mut self,
        loaded: Result<Option<PackageRecords>, String>,
        now: Instant,
    ) {
        self.with_packages(now, |packages| packages.loaded(loaded, now));
    }

    /// The records are saved and survive anything, or why not; then it is tried again.
    pub fn handle_packages_saved(
        &mut self,
        ticket: SaveTicket,
        saved: Result<(), String>,
        now: Instant,
    ) {
        self.with_packages(now, |packages| packages.saved(ticket, saved, now));
    }

    /// Files of no more use are gone, or why not.
    pub fn handle_packages_retained(
        &mut self,
        ticket: RetainTicket,
        retained: Result<(), String>,
        now: Instant,
    ) {
        self.with_packages(now, |packages| packages.retained(ticket, retained));
    }

    /// How far a download has come; as often as the driver likes. The first time means that bytes
    /// are coming (PKG-24, PKG-65).
    pub fn handle_fetch_progress(
        &mut self,
        ticket: FetchTicket,
        progress: FetchProgress,
        now: Instant,
    ) {
        self.with_packages(now, |packages| packages.progress(ticket, progress, now));
    }

    /// A file is there and verified, or not.
    pub fn handle_fetched(
        &mut self,
        ticket: FetchTicket,
        fetched: Result<Fetched, FetchFailure>,
        now: Instant,
    ) {
        self.with_packages(now, |packages| packages.fetched(ticket, fetched, now));
    }

    /// Tells what became of a package that was handed over.
    ///
    /// # Errors
    ///
    /// [`NotPending`] when the hand-over has an outcome already, its deadline passed or it never
    /// was. That a package was installed or removed is true all the same, however late it is said:
    /// then there is no error, and the server is told.
    pub fn resolve_package(
        &mut self,
        resolution: PackageResolution,
        now: Instant,
    ) -> Result<(), NotPending> {
        self.with_packages(now, |packages| packages.resolve(resolution, now))
            .unwrap_or(Err(NotPending))
    }

    pub(super) fn process_packages(&mut self, offer: v1::PackagesAvailable, now: Instant) {
        if self.packages.is_none() {
            return self.misbehaved(PeerMisbehaved::NotAnnounced("packages_available"));
        }
        self.with_packages(now, |packages| packages.offer(offer, now));
    }

    pub(super) fn packages_timeout(&mut self, now: Instant) {
        self.with_packages(now, |packages| packages.handle_timeout(now));
    }

    pub(super) fn poll_package_event(&mut self) -> Option<Event> {
        if self.is_stopped() {
            return None;
        }
        self.packages.as_mut()?.poll_event()
    }

    pub(super) fn has_package_event(&self) -> bool {
        !self.is_stopped() && self.packages.as_ref().is_some_and(|packages| packages.has_event())
    }

    /// Lets something happen to the packages, and draws the consequences.
    fn with_packages<T>(
        &mut self,
        now: Instant,
        happen: impl FnOnce(&mut Packages) -> T,
    ) -> Option<T> {
        let packages = self.packages.as_mut()?;
        let result = happen(packages);
        packages.advance(now);
        for notice in packages.notices.drain(..) {
            self.events.push(notice);
        }
        let statuses = packages.take_statuses();
        let due = packages.next_due();
        if let Some(statuses) = statuses {
            self.report.update(
                Parts::PACKAGE_STATUSES,
                |s| &mut s.package_statuses,
                Some(statuses),
            );
        }
        if !self.is_stopped() {
            self.timers.set(Timer::Packages, due);
        }
        Some(result)
    }
}

/// Never a hot loop, whatever the configuration says.
const SHORTEST_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
