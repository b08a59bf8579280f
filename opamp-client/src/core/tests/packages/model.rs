//! A model of everything around the core: a server that offers, a download server that may lie, a
//! store that may fail, an agent that installs, and a process that may stop at any moment. What
//! survives a stop is what was saved, the files, and what the agent has.
//!
//! What holds whatever happens: nothing is handed over that is not what was offered; no file goes
//! that is in use; nothing is removed that is wanted; every status is one that may be told. And
//! when nothing goes wrong any more, every package ends as it should, and the statuses are true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use opamp_proto::v1::{self, PackageStatusEnum as State};
use proptest::prelude::*;

use super::depot::{addon, check, config, offer, sha256, top_level};
use crate::core::Event;
use crate::core::packages::{
    Evidence, FetchFailure, FetchFailureKind, FetchProgress, FetchRequest, Fetched, FileKey,
    PackageAction, PackageOffer, PackageRecords, PackageRemoval, RetainTicket, SaveTicket,
};
use crate::core::tests::pair::{Pair, WebSocket};
use crate::core::tests::values::{acknowledgement, seconds};

const NAMES: [&str; 3] = ["agent", "plugin", "other"];

/// What happens next.
#[derive(Debug, Clone)]
enum Op {
    /// The server offers of each package this version; 0 is not at all.
    Offer {
        hash: u8,
        versions: [u8; 3],
    },
    /// The store answers what it was asked, or fails.
    Store {
        well: bool,
    },
    /// A download comes to an end.
    Fetch {
        which: usize,
        end: End,
    },
    /// A download has come so far.
    Progress {
        which: usize,
        received: u8,
    },
    /// The agent takes what it is handed and says this of it.
    Agent(Word),
    /// Somebody changes a file in the store.
    Damage,
    /// The connection is lost, and comes back.
    Reconnect,
    Wait(u16),
    /// The process stops and starts again.
    Restart,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Well,
    WithOtherContent,
    CutShort,
    Refused,
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Done,
    /// It is done, and the process stops before that is said.
    DoneAndGone,
    Refused,
    Later,
    Nothing,
}

fn op() -> impl Strategy<Value = Op> {
    let end = prop_oneof![
        6 => Just(End::Well),
        1 => Just(End::WithOtherContent),
        2 => Just(End::CutShort),
        1 => Just(End::Refused),
    ];
    let word = prop_oneof![
        6 => Just(Word::Done),
        1 => Just(Word::DoneAndGone),
        1 => Just(Word::Refused),
        1 => Just(Word::Later),
        1 => Just(Word::Nothing),
    ];
    prop_oneof![
        3 => (0..4_u8, prop::array::uniform3(0..3_u8))
            .prop_map(|(hash, versions)| Op::Offer { hash, versions }),
        8 => prop::bool::weighted(0.85).prop_map(|well| Op::Store { well }),
        6 => (0..3_usize, end).prop_map(|(which, end)| Op::Fetch { which, end }),
        1 => (0..3_usize, any::<u8>())
            .prop_map(|(which, received)| Op::Progress { which, received }),
        5 => word.prop_map(Op::Agent),
        1 => Just(Op::Damage),
        1 => Just(Op::Reconnect),
        3 => (0..2000_u16).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

/// A package of that name and version.
fn package(name: &str, version: u8) -> v1::PackageAvailable {
    let content = format!("{name}-{version}");
    match name {
        "agent" => top_level(&version.to_string(), &content),
        _ => addon(&version.to_string(), &content),
    }
}

fn set(hash: &str, versions: [u8; 3]) -> v1::PackagesAvailable {
    let packages = NAMES.into_iter().zip(versions).filter(|(_, version)| *version > 0);
    let packages: Vec<_> = packages.map(|(name, version)| (name, package(name, version))).collect();
    offer(hash, &packages)
}

struct World {
    pair: Pair,
    // What survives a stop.
    saved: Option<PackageRecords>,
    files: BTreeMap<FileKey, String>,
    /// What the agent has, by name: the version.
    has: BTreeMap<String, String>,
    /// Names of what it has and stopped before it could say so.
    unsaid: BTreeSet<String>,
    // What does not.
    loading: bool,
    saving: Option<(SaveTicket, PackageRecords)>,
    retaining: Option<(RetainTicket, Vec<FileKey>)>,
    fetches: Vec<FetchRequest>,
    installing: Option<PackageOffer>,
    removing: Option<PackageRemoval>,
    put_off: BTreeMap<String, PackageOffer>,
    told: Option<v1::PackageStatuses>,
    /// Operations of the driver so far, and the one before which the process stops.
    operations: u32,
    stop_before: Option<u32>,
    /// Which kind of operation fails from now on.
    failing: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            pair: Self::process(),
            saved: None,
            files: BTreeMap::new(),
            has: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            loading: false,
            saving: None,
            retaining: None,
            fetches: Vec::new(),
            installing: None,
            removing: None,
            put_off: BTreeMap::new(),
            told: None,
            operations: 0,
            stop_before: None,
            failing: false,
        };
        world.start();
        world
    }

    fn process() -> Pair {
        let mut packages = config();
        packages.pending_timeout = seconds(3000);
        Pair::new(WebSocket, |config| {
            config.packages = Some(packages);
            config.heartbeat_interval = None;
        })
    }

    fn start(&mut self) {
        self.turn();
        self.pair.connect();
        self.turn();
    }

    fn restart(&mut self) {
        let now = self.pair.now;
        self.pair = Self::process();
        self.pair.now = self.pair.now.max(now);
        self.loading = false;
        self.saving = None;
        self.retaining = None;
        self.fetches.clear();
        self.installing = None;
        self.removing = None;
        self.put_off.clear();
        self.start();
    }

    /// Does what the core wants begun, and answers its reports.
    fn turn(&mut self) {
        while let Some(action) = self.pair.core.poll_package_action(self.pair.now) {
            match action {
                PackageAction::Load => self.loading = true,
                PackageAction::Save { ticket, records } => {
                    assert!(self.saving.replace((ticket, records)).is_none());
                }
                PackageAction::Retain { ticket, keys } => {
                    assert!(self.retaining.replace((ticket, keys)).is_none());
                }
                PackageAction::Fetch(request) => self.fetches.push(request),
                PackageAction::Cancel(ticket) => {
                    let before = self.fetches.len();
                    self.fetches.retain(|fetch| fetch.ticket != ticket);
                    assert_eq!(self.fetches.len() + 1, before);
                }
            }
        }
        assert!(self.fetches.len() <= 2);
        while let Some(report) = self.pair.poll() {
            if let Some(statuses) = report.package_statuses {
                for (name, status) in &statuses.packages {
                    check(name, status);
                }
                self.told = Some(statuses);
            }
            self.pair.acknowledge();
        }
    }

    /// An operation of the driver: the process may stop instead.
    fn operate(&mut self) -> bool {
        self.operations += 1;
        if self.stop_before == Some(self.operations) && !self.failing {
            self.restart();
            return false;
        }
        true
    }

    fn fails(&self) -> bool {
        self.failing && self.stop_before == Some(self.operations)
    }

    fn store(&mut self, well: bool) {
        let now = self.pair.now;
        if self.loading {
            if !self.operate() {
                return;
            }
            self.loading = false;
            let loaded = match well && !self.fails() {
                true => Ok(self.saved.clone()),
                false => Err("cannot read".to_owned()),
            };
            self.pair.core.handle_packages_loaded(loaded, now);
        } else if let Some((ticket, records)) = self.saving.take() {
            if !self.operate() {
                return;
            }
            let saved = match well && !self.fails() {
                true => {
                    self.saved = Some(records);
                    Ok(())
                }
                false => Err("cannot write".to_owned()),
            };
            self.pair.core.handle_packages_saved(ticket, saved, now);
        } else if let Some((ticket, keys)) = self.retaining.take() {
            if !self.operate() {
                return;
            }
            if let Some(offer) = &self.installing {
                let file = |key: &&FileKey| *key.content() == *offer.content_hash();
                assert!(keys.iter().any(|key| file(&key)), "its file is in use: {offer:?}");
            }
            if well && !self.fails() {
                self.files.retain(|key, _| keys.contains(key));
            }
            let retained = if well { Ok(()) } else { Err("busy".to_owned()) };
            self.pair.core.handle_packages_retained(ticket, retained, now);
        }
        self.turn();
    }

    fn fetch(&mut self, which: usize, end: End) {
        if self.fetches.is_empty() || !self.operate() {
            return;
        }
        let request = self.fetches.remove(which % self.fetches.len());
        let end = if self.fails() { End::CutShort } else { end };
        let honest = request.file.download_url.rsplit('/').next().unwrap().to_owned();
        let failed = |kind, why: &str| FetchFailure { kind, why: why.to_owned(), received: 0 };
        let transient = FetchFailureKind::Transient { retry_after: None };
        let result = match end {
            End::CutShort => Err(failed(transient, "cut short")),
            End::Refused => Err(failed(FetchFailureKind::Permanent, "status 404")),
            End::Well | End::WithOtherContent => {
                let content = match end {
                    End::Well => honest,
                    _ => "something else".to_owned(),
                };
                let evidence = Evidence {
                    len: content.len() as u64,
                    sha256: sha256(&content),
                    signature: None,
                };
                match request.expected.judge(evidence) {
                    Ok(verified) => {
                        self.files.insert(request.key.clone(), content);
                        let location = format!("{:?}", request.key).into();
                        Ok(Fetched { verified, location })
                    }
                    Err(rejection) => {
                        self.files.remove(&request.key);
                        Err(failed(FetchFailureKind::WrongContent, &rejection.to_string()))
                    }
                }
            }
        };
        self.pair.core.handle_fetched(request.ticket, result, self.pair.now);
        self.turn();
        self.take_handed();
    }

    /// Looks at everything that is handed over when it is.
    fn take_handed(&mut self) {
        for event in self.pair.events() {
            match event {
                Event::Package(offer) => {
                    let key = self.files.iter().find(|(key, _)| {
                        offer.location().as_os_str() == format!("{key:?}").as_str()
                    });
                    let (_, content) = key.expect("the file is there");
                    let honest = format!("{}-{}", offer.name(), offer.version());
                    assert_eq!(*content, honest, "nothing unverified is handed over");
                    assert!(offer.times() <= 3);
                    assert!(self.installing.is_none(), "one at a time");
                    assert!(self.removing.is_none(), "one at a time");
                    self.put_off.remove(offer.name());
                    self.installing = Some(offer);
                }
                Event::PackageRemoval(removal) => {
                    assert!(self.removing.is_none() && self.installing.is_none());
                    self.removing = Some(removal);
                }
                _ => {}
            }
        }
    }

    fn agent(&mut self, word: Word) {
        self.take_handed();
        let now = self.pair.now;
        let gone = matches!(word, Word::DoneAndGone);
        let installing = self.installing.as_ref().map(PackageOffer::name);
        let removing = self.removing.as_ref().map(PackageRemoval::name);
        let put_off = self.put_off.keys().next().map(String::as_str);
        let name = installing.or(removing).or(put_off).unwrap_or_default().to_owned();
        let says = matches!(word, Word::Done);
        let has = |offer: &PackageOffer| {
            self.has.get(offer.name()).is_some_and(|version| version == offer.version())
        };
        let resolution = if let Some(offer) = self.installing.take() {
            match word {
                // It was there before the process stopped: an agent that looks sees that.
                Word::Refused | Word::Nothing if has(&offer) => offer.installed(),
                Word::Done | Word::DoneAndGone => {
                    self.has.insert(offer.name().to_owned(), offer.version().to_owned());
                    offer.installed()
                }
                Word::Refused => offer.failed("refused"),
                Word::Later => {
                    let later = offer.pending();
                    self.put_off.insert(offer.name().to_owned(), offer);
                    later
                }
                // Until its deadline, when nobody waits for it any more.
                Word::Nothing => {
                    self.pair.advance(seconds(600));
                    return self.turn();
                }
            }
        } else if let Some(removal) = self.removing.take() {
            match word {
                Word::Done | Word::DoneAndGone => {
                    self.has.remove(removal.name());
                    removal.removed()
                }
                Word::Refused | Word::Later => removal.failed("refused"),
                Word::Nothing => {
                    self.pair.advance(seconds(600));
                    return self.turn();
                }
            }
        } else if let Some((name, offer)) = self.put_off.pop_first() {
            match word {
                Word::Done | Word::DoneAndGone => {
                    self.has.insert(name, offer.version().to_owned());
                    offer.installed()
                }
                _ if has(&offer) => offer.installed(),
                _ => offer.failed("refused"),
            }
        } else {
            return;
        };
        if gone {
            self.unsaid.insert(name);
            return self.restart();
        }
        if says {
            self.unsaid.remove(&name);
        }
        // Whether it comes too late is not for the agent to care about.
        let _ = self.pair.core.resolve_package(resolution, now);
        self.turn();
    }

    fn offer(&mut self, offer: v1::PackagesAvailable) {
        self.pair
            .receive(v1::ServerToAgent { packages_available: Some(offer), ..acknowledgement() });
        self.turn();
    }

    fn advance(&mut self, by: Duration) {
        self.pair.advance(by);
        self.turn();
        // What passed its deadline is no longer the agent's business.
        self.take_handed();
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Offer { hash, versions } => self.offer(set(&format!("set {hash}"), versions)),
            Op::Store { well } => self.store(well),
            Op::Fetch { which, end } => self.fetch(which, end),
            Op::Progress { which, received } => {
                if let Some(fetch) = self.fetches.get(which) {
                    let progress = FetchProgress { received: received.into(), total: Some(200) };
                    let ticket = fetch.ticket;
                    self.pair.core.handle_fetch_progress(ticket, progress, self.pair.now);
                    self.turn();
                }
            }
            Op::Agent(word) => self.agent(word),
            Op::Damage => {
                let handed = self.installing.is_some();
                if let Some(content) = self.files.values_mut().next().filter(|_| !handed) {
                    "damaged".clone_into(content);
                    // Who notices is whoever looks: the agent that starts again.
                    self.restart();
                }
            }
            Op::Reconnect => {
                self.pair.reconnect();
                self.turn();
            }
            Op::Wait(by) => {
                self.take_handed();
                if self.installing.is_none() && self.removing.is_none() {
                    self.advance(seconds(by.into()));
                }
            }
            Op::Restart => self.restart(),
        }
    }

    /// Nothing goes wrong any more, until there is nothing left to do.
    fn settle(&mut self) {
        for _ in 0..500 {
            self.store(true);
            self.fetch(0, End::Well);
            self.agent(Word::Done);
            let busy = self.loading
                || self.saving.is_some()
                || self.retaining.is_some()
                || !self.fetches.is_empty()
                || self.pair.core.has_events();
            if busy {
                continue;
            }
            match self.pair.until_timeout() {
                None => return,
                Some(wait) => self.advance(wait),
            }
        }
        panic!("it never ends: {:?}", self.told);
    }

    /// Every package of the offer is there or was refused, others are gone, and what is told is so.
    fn expect_end(&self, versions: [u8; 3]) {
        let told = self.told.as_ref().expect("statuses were told");
        for (name, version) in NAMES.into_iter().zip(versions) {
            let Some(status) = told.packages.get(name) else {
                assert_eq!(version, 0, "{name} is lost");
                assert_eq!(self.has.get(name), None, "{name} is had and not listed");
                continue;
            };
            assert_ne!(version, 0, "{name} is listed and no longer offered: {told:?}");
            assert_eq!(status.server_offered_version, version.to_string());
            let crashed = status.error_message.contains("3 times without an outcome");
            match State::try_from(status.status) {
                Ok(State::Installed) => assert_eq!(status.agent_has_version, version.to_string()),
                Ok(State::InstallFailed) => {
                    let refused = ["refused", "no outcome within"];
                    let refused = refused.iter().any(|why| status.error_message.contains(why));
                    assert!(refused || crashed, "{status:?}");
                }
                other => panic!("{name} is left {other:?}"),
            }
            // An agent that was stopped before it could say so was not heard.
            if !crashed && !self.unsaid.contains(name) {
                let has = self.has.get(name).map_or("", String::as_str);
                assert_eq!(status.agent_has_version, has, "{name}: {status:?}");
            }
        }
        assert_eq!(self.installing, None);
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_ends_well(
        ops in prop::collection::vec(op(), 0..60),
        versions in prop::array::uniform3(0..3_u8),
    ) {
        let _judged = opamp_spec::judges(&["PKG-14", "PKG-26", "PKG-27", "PKG-36", "PKG-71"]);
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        world.restart();
        world.settle();
        world.offer(set("the last set", versions));
        world.settle();
        world.expect_end(versions);
        let number = world.pair.core.sequence_num();
        world.offer(set("the last set", versions));
        world.settle();
        assert_eq!(world.pair.core.sequence_num(), number, "no chatter");
    }
}

/// Installs two packages, upgrades one and removes the other, in the way of `world`.
fn story(world: &mut World) {
    for versions in [[1, 1, 0], [2, 0, 1]] {
        world.offer(set(&format!("{versions:?}"), versions));
        for _ in 0..40 {
            world.store(true);
            world.fetch(0, End::Well);
            world.agent(Word::Done);
            if let Some(wait) = world.pair.until_timeout()
                && world.installing.is_none()
                && wait < seconds(100)
            {
                world.advance(wait);
            }
        }
    }
}

#[test]
fn a_stop_or_a_failure_at_any_operation_does_no_harm() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-26", "PKG-27", "PKG-36"]);
    let mut counted = World::new();
    story(&mut counted);
    let operations = counted.operations;
    assert!(operations > 15, "{operations}");
    for failing in [false, true] {
        for at in 1..=operations {
            let mut world = World::new();
            world.stop_before = Some(at);
            world.failing = failing;
            story(&mut world);
            world.settle();
            // The last offer may have come to a process that stopped before it saved anything.
            world.offer(set("[2, 0, 1]", [2, 0, 1]));
            world.settle();
            world.expect_end([2, 0, 1]);
            for name in ["agent", "other"] {
                let status = &world.told.as_ref().unwrap().packages[name];
                assert_eq!(status.status, State::Installed as i32, "{failing} {at}: {status:?}");
            }
        }
    }
}
