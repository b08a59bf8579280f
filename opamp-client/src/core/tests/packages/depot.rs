//! A server that offers packages, a download server and a store, all scripted by hand, around a
//! client core in virtual time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1::{self, PackageStatusEnum};

use crate::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, FetchProgress, FetchRequest, FetchTicket, Fetched,
    PackageAction, PackageOffer, PackageRecords, PackageRemoval, PackagesConfig, RetainTicket,
    SaveTicket, SignaturePolicy,
};
use crate::core::tests::pair::{Pair, WebSocket};
use crate::core::tests::values::acknowledgement;
use crate::core::{ClientConfig, Event, Transport};

/// The content of a package's file: its name and version, say.
pub(super) fn content_hash(content: &str) -> Bytes {
    Bytes::copy_from_slice(&sha256(content))
}

/// Not the real one: the core compares hashes and computes none.
pub(super) fn sha256(content: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    for (at, byte) in content.bytes().enumerate() {
        hash[at % 32] ^= byte.rotate_left(u32::try_from(at / 32 % 8).unwrap());
    }
    hash[31] ^= 0x80;
    hash
}

pub(super) fn file(content: &str) -> v1::DownloadableFile {
    v1::DownloadableFile {
        download_url: format!("http://downloads.example/{content}"),
        content_hash: content_hash(content),
        ..Default::default()
    }
}

/// An addition of this version, whose file holds `content`.
pub(super) fn addon(version: &str, content: &str) -> v1::PackageAvailable {
    v1::PackageAvailable {
        r#type: v1::PackageType::Addon.into(),
        version: version.to_owned(),
        file: Some(file(content)),
        hash: format!("hash of {version} {content}").into(),
    }
}

pub(super) fn top_level(version: &str, content: &str) -> v1::PackageAvailable {
    v1::PackageAvailable { r#type: v1::PackageType::TopLevel.into(), ..addon(version, content) }
}

pub(super) fn offer(
    hash: &str,
    packages: &[(&str, v1::PackageAvailable)],
) -> v1::PackagesAvailable {
    v1::PackagesAvailable {
        packages: packages.iter().map(|(name, p)| ((*name).to_owned(), p.clone())).collect(),
        all_packages_hash: hash.to_owned().into(),
    }
}

pub(super) fn config() -> PackagesConfig {
    PackagesConfig { signatures: SignaturePolicy::Ignored, ..Default::default() }
}

pub(super) fn transient() -> FetchFailure {
    FetchFailure {
        kind: FetchFailureKind::Transient { retry_after: None },
        why: "connection reset".to_owned(),
        received: 0,
    }
}

pub(super) fn permanent() -> FetchFailure {
    FetchFailure { kind: FetchFailureKind::Permanent, why: "status 404".to_owned(), received: 0 }
}

/// A core, and what it wants done about packages.
pub(super) struct Depot {
    pub(super) pair: Pair,
    transport: Transport,
    /// What is safely saved.
    pub(super) saved: Option<PackageRecords>,
    /// Saves are answered by themselves.
    pub(super) saves: bool,
    pub(super) saving: Option<(SaveTicket, PackageRecords)>,
    pub(super) fetches: BTreeMap<FetchTicket, FetchRequest>,
    pub(super) cancelled: Vec<FetchTicket>,
    /// The files that were to be kept, the last time that was said.
    pub(super) retained: Vec<String>,
    /// The statuses as they were last reported.
    pub(super) told: Option<v1::PackageStatuses>,
    pub(super) loads: usize,
    /// The server gives every package a hash, so every status has to have it.
    pub(super) with_hashes: bool,
}

impl Depot {
    /// An agent that takes packages, has none, and has nothing to tell.
    pub(super) fn new() -> Self {
        Self::with(WebSocket, None, |_| {})
    }

    pub(super) fn over(transport: Transport) -> Self {
        Self::with(transport, None, |_| {})
    }

    pub(super) fn configured(adapt: impl FnOnce(&mut PackagesConfig)) -> Self {
        Self::with(WebSocket, None, adapt)
    }

    /// An agent that has this in its store.
    pub(super) fn with(
        transport: Transport,
        saved: Option<PackageRecords>,
        adapt: impl FnOnce(&mut PackagesConfig),
    ) -> Self {
        let mut depot = Self::unloaded(transport, adapt);
        depot.saved = saved;
        depot.load();
        depot.start();
        depot
    }

    /// An agent whose store has not answered, before it connects.
    pub(super) fn unloaded(transport: Transport, adapt: impl FnOnce(&mut PackagesConfig)) -> Self {
        let mut packages = config();
        adapt(&mut packages);
        let pair = Pair::new(transport, |config: &mut ClientConfig| {
            config.packages = Some(packages);
            config.heartbeat_interval = None;
            config.polling_interval = Duration::from_secs(1_000_000);
        });
        Self {
            pair,
            transport,
            saved: None,
            saves: true,
            saving: None,
            fetches: BTreeMap::new(),
            cancelled: Vec::new(),
            retained: Vec::new(),
            told: None,
            loads: 0,
            with_hashes: true,
        }
    }

    /// The store answers what it has.
    pub(super) fn load(&mut self) {
        let before = self.loads;
        self.work();
        assert_eq!(self.loads, before + 1, "what is remembered is loaded first");
        let saved = self.saved.clone();
        self.pair.core.handle_packages_loaded(Ok(saved), self.pair.now);
        self.work();
    }

    /// Connects, and has the first report answered.
    pub(super) fn start(&mut self) {
        self.pair.connect();
        self.told = self.pair.expect().package_statuses;
        self.pair.acknowledge();
        self.settle();
    }

    /// The same agent after a restart: all that is left is what was saved.
    pub(super) fn restart(self) -> Self {
        let Self { transport, saved, .. } = self;
        Self::with(transport, saved, |_| {})
    }

    /// Does what the core wants done, downloads apart.
    pub(super) fn work(&mut self) {
        while let Some(action) = self.pair.core.poll_package_action(self.pair.now) {
            match action {
                PackageAction::Load => self.loads += 1,
                PackageAction::Save { ticket, records } => {
                    assert_eq!(self.saving, None, "one save at a time");
                    self.saving = Some((ticket, records));
                    if self.saves {
                        self.save();
                    }
                }
                PackageAction::Retain { ticket, keys } => {
                    assert!(self.saving.is_none(), "nothing goes before all is saved");
                    self.retained = keys.iter().map(|key| format!("{key:?}")).collect();
                    self.retained(ticket);
                }
                PackageAction::Fetch(request) => {
                    self.fetches.insert(request.ticket, request);
                }
                PackageAction::Cancel(ticket) => {
                    assert!(self.fetches.remove(&ticket).is_some(), "it was under way");
                    self.cancelled.push(ticket);
                }
            }
        }
    }

    fn retained(&mut self, ticket: RetainTicket) {
        self.pair.core.handle_packages_retained(ticket, Ok(()), self.pair.now);
    }

    /// What is being saved is safe.
    pub(super) fn save(&mut self) {
        let (ticket, records) = self.saving.take().expect("something is being saved");
        // What is read is what was written.
        let written = PackageRecords::from_bytes(&records.to_bytes()).expect("readable");
        assert_eq!(written, records);
        self.saved = Some(written);
        self.pair.core.handle_packages_saved(ticket, Ok(()), self.pair.now);
    }

    pub(super) fn fail_save(&mut self) {
        let (ticket, _) = self.saving.take().expect("something is being saved");
        let why = Err("disk full".to_owned());
        self.pair.core.handle_packages_saved(ticket, why, self.pair.now);
    }

    /// Does what there is to do, and has every report answered.
    pub(super) fn settle(&mut self) {
        self.work();
        while let Some(report) = self.pair.poll() {
            if let Some(statuses) = report.package_statuses {
                for (name, status) in statuses.packages.iter().filter(|_| self.with_hashes) {
                    check(name, status);
                }
                self.told = Some(statuses);
            }
            self.pair.acknowledge();
        }
        self.work();
    }

    /// The server offers these packages.
    pub(super) fn offer(&mut self, hash: &str, packages: &[(&str, v1::PackageAvailable)]) {
        self.send(offer(hash, packages));
    }

    pub(super) fn send(&mut self, offer: v1::PackagesAvailable) {
        if self.transport == Transport::Http {
            self.pair.advance(Duration::from_secs(1_000_000));
            self.pair.expect_heartbeat();
        }
        self.pair
            .receive(v1::ServerToAgent { packages_available: Some(offer), ..acknowledgement() });
        self.settle();
    }

    /// The download under way for this package.
    pub(super) fn fetch_of(&self, name: &str) -> FetchRequest {
        let mut fetches = self.fetches.values().filter(|fetch| fetch.key.package() == name);
        fetches.next().cloned().unwrap_or_else(|| panic!("{name} is not being downloaded"))
    }

    pub(super) fn expect_no_fetch(&self) {
        assert!(self.fetches.is_empty(), "{:?}", self.fetches);
    }

    /// Bytes came.
    pub(super) fn progress(&mut self, name: &str, received: u64, total: u64) {
        let ticket = self.fetch_of(name).ticket;
        let progress = FetchProgress { received, total: Some(total) };
        self.pair.core.handle_fetch_progress(ticket, progress, self.pair.now);
        self.settle();
    }

    /// The download is complete, and brought this content.
    pub(super) fn fetched(&mut self, name: &str, content: &str) {
        let request = self.fetch_of(name);
        let evidence = Evidence {
            len: content.len() as u64,
            sha256: sha256(content),
            signature: request.expected.signature().map(|_| Ok(())),
        };
        let result = match request.expected.judge(evidence) {
            Ok(verified) => {
                let location = PathBuf::from(format!("/store/{:?}", request.key));
                Ok(Fetched { verified, location })
            }
            Err(rejection) => Err(FetchFailure {
                kind: FetchFailureKind::WrongContent,
                why: rejection.to_string(),
                received: content.len() as u64,
            }),
        };
        self.answer(request.ticket, result);
    }

    pub(super) fn fetch_failed(&mut self, name: &str, failure: FetchFailure) {
        let ticket = self.fetch_of(name).ticket;
        self.answer(ticket, Err(failure));
    }

    fn answer(&mut self, ticket: FetchTicket, result: Result<Fetched, FetchFailure>) {
        self.fetches.remove(&ticket);
        self.pair.core.handle_fetched(ticket, result, self.pair.now);
        self.settle();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.pair.advance(by);
        self.settle();
    }

    /// Lets time pass until the core wants to be woken.
    pub(super) fn wait(&mut self) {
        let wait = self.pair.until_timeout().expect("something is due");
        self.advance(wait);
    }

    /// What the agent was handed, and nothing else.
    fn handed(&mut self) -> Vec<Event> {
        let events = self.pair.events();
        let handed = |event: &Event| matches!(event, Event::Package(_) | Event::PackageRemoval(_));
        events.into_iter().filter(handed).collect()
    }

    pub(super) fn take_package(&mut self) -> PackageOffer {
        let mut handed = self.handed();
        assert_eq!(handed.len(), 1, "{handed:?}");
        match handed.pop() {
            Some(Event::Package(offer)) => {
                self.settle();
                offer
            }
            other => panic!("not a package: {other:?}"),
        }
    }

    pub(super) fn take_removal(&mut self) -> PackageRemoval {
        let mut handed = self.handed();
        assert_eq!(handed.len(), 1, "{handed:?}");
        match handed.pop() {
            Some(Event::PackageRemoval(removal)) => removal,
            other => panic!("not a removal: {other:?}"),
        }
    }

    pub(super) fn expect_nothing_handed(&mut self) {
        assert_eq!(self.handed(), []);
    }

    pub(super) fn resolve(
        &mut self,
        resolution: crate::core::packages::PackageResolution,
    ) -> Result<(), crate::core::NotPending> {
        let result = self.pair.core.resolve_package(resolution, self.pair.now);
        self.settle();
        result
    }

    /// Downloads and installs a package that is on offer.
    pub(super) fn install(&mut self, name: &str, content: &str) {
        self.fetched(name, content);
        let offer = self.take_package();
        assert_eq!(offer.name(), name);
        self.resolve(offer.installed()).expect("it is pending");
    }

    /// An agent that has these packages, each installed from an offer.
    pub(super) fn having(packages: &[(&str, v1::PackageAvailable)]) -> Self {
        let mut depot = Self::new();
        depot.offer("first", packages);
        // One at a time, as the slots allow.
        while let Some(fetch) = depot.fetches.values().next().cloned() {
            let url = fetch.file.download_url.clone();
            let content = url.rsplit('/').next().unwrap().to_owned();
            let name = fetch.key.package().to_owned();
            depot.install(&name, &content);
        }
        depot.expect_nothing_handed();
        depot
    }

    /// What was last told of a package.
    pub(super) fn status(&self, name: &str) -> v1::PackageStatus {
        let statuses = self.told.as_ref().expect("statuses were reported");
        statuses.packages.get(name).cloned().unwrap_or_else(|| panic!("{name} is not listed"))
    }

    pub(super) fn state(&self, name: &str) -> PackageStatusEnum {
        PackageStatusEnum::try_from(self.status(name).status).expect("a known status")
    }

    pub(super) fn listed(&self) -> Vec<&str> {
        let statuses = self.told.as_ref().expect("statuses were reported");
        statuses.packages.keys().map(String::as_str).collect()
    }

    /// Everything the core does from now on is silent, whatever is repeated to it.
    pub(super) fn expect_quiet(&mut self) {
        let told = self.told.clone();
        let number = self.pair.core.sequence_num();
        self.settle();
        assert_eq!(self.told, told);
        assert_eq!(self.pair.core.sequence_num(), number, "nothing is to be sent");
    }
}

/// What holds for every status (PKG-40 to PKG-65).
pub(super) fn check(name: &str, status: &v1::PackageStatus) {
    use PackageStatusEnum::{Downloading, InstallFailed, InstallPending, Installed, Installing};
    assert_eq!(status.name, name, "PKG-43, PKG-44");
    let state = PackageStatusEnum::try_from(status.status).expect("a known status");
    let offered = !status.server_offered_hash.is_empty();
    let failed = !status.error_message.is_empty();
    match state {
        Installed => {
            assert!(!failed, "PKG-55");
            assert!(!status.agent_has_version.is_empty(), "PKG-45: {status:?}");
            if offered {
                assert_eq!(status.agent_has_hash, status.server_offered_hash, "{status:?}");
            }
        }
        InstallPending | Installing | Downloading => {
            assert!(!failed, "PKG-58, PKG-62");
            assert!(offered, "PKG-57, PKG-61");
            assert_ne!(status.agent_has_hash, status.server_offered_hash, "PKG-56");
        }
        InstallFailed => {
            assert!(failed, "PKG-63");
            assert!(offered, "PKG-59");
        }
    }
    match status.download_details {
        Some(details) => {
            assert_eq!(state, Downloading, "PKG-64");
            assert!((0.0..=100.0).contains(&details.download_percent), "PKG-65");
            let rate = details.download_bytes_per_second;
            assert!(rate.is_finite() && rate >= 0.0, "PKG-65");
        }
        None => assert_ne!(state, Downloading),
    }
}
