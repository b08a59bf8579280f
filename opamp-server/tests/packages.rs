//! Packages: offered to whom, and how often.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use opamp_proto::v1::PackageStatusEnum::{Downloading, InstallFailed, InstallPending, Installed};
use opamp_proto::{AgentCapabilities as Does, content_hash, v1};
use opamp_server::{OperationError, Outcome, Packages};
use proptest::prelude::*;
use support::{Bench, bare, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const TAKES: Does = Does::REPORTS_STATUS.union(Does::ACCEPTS_PACKAGES);
const MASK: Does = TAKES.union(Does::REPORTS_PACKAGE_STATUSES);

fn package(content: &str) -> v1::PackageAvailable {
    let file = v1::DownloadableFile {
        download_url: "https://packages.example/file".to_owned(),
        content_hash: content_hash(content.as_bytes()),
        ..Default::default()
    };
    v1::PackageAvailable { version: "1.0".to_owned(), file: Some(file), ..Default::default() }
}

fn offer(packages: &[(&str, v1::PackageAvailable)]) -> v1::PackagesAvailable {
    let packages = packages.iter().map(|(name, package)| ((*name).to_owned(), package.clone()));
    v1::PackagesAvailable { packages: packages.collect(), ..Default::default() }
}

fn main_package(content: &str) -> Packages {
    Packages::new(offer(&[("main", package(content))])).unwrap()
}

/// A report about what was offered, and about a package the Agent has from elsewhere.
fn report(
    number: u64,
    hash: &[u8],
    status: v1::PackageStatusEnum,
    error_message: &str,
) -> v1::AgentToServer {
    let of = |status: v1::PackageStatusEnum, offered: &[u8]| v1::PackageStatus {
        server_offered_hash: offered.to_vec().into(),
        status: status.into(),
        ..Default::default()
    };
    let packages =
        [("main".to_owned(), of(status, b"offered")), ("local".to_owned(), of(InstallFailed, b""))];
    let statuses = v1::PackageStatuses {
        packages: packages.into(),
        server_provided_all_packages_hash: hash.to_vec().into(),
        error_message: error_message.to_owned(),
    };
    v1::AgentToServer { package_statuses: Some(statuses), ..heartbeat(&UID, number, MASK) }
}

fn outcome(bench: &Bench) -> Outcome {
    bench.fleet.agent(wire(&UID)).unwrap().packages().unwrap().outcome()
}

#[test]
fn packages_go_to_agents_that_take_them_and_are_pushed() {
    let _judged = opamp_spec::judges(&["PKG-01", "PKG-02", "PKG-37", "PKG-66", "INTEROP-03"]);
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, Does::REPORTS_STATUS));
    let set = |bench: &Bench| bench.fleet.set_packages(wire(&UID), main_package("a"));
    assert_eq!(set(&bench), Err(OperationError::NotAccepted));
    bench.fleet.set_default_packages(main_package("all")).unwrap();
    assert_eq!(bench.pushes(&route, &UID), []);
    assert_eq!(outcome(&bench), Outcome::NotAccepted);

    let reply = bench.send(&mut route, &heartbeat(&UID, 2, TAKES));
    assert_eq!(reply.packages_available, Some(main_package("all").to_message()));
    let _ = woken.take();
    set(&bench).unwrap();
    assert_eq!(woken.take(), [wire(&UID).into()]);
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes[0].packages_available, Some(main_package("a").to_message()));
    assert_eq!(pushes.len(), 1);
    assert!(!main_package("a").to_message().all_packages_hash.is_empty());
    // Once is enough for an Agent that reports no status.
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, TAKES)), bare(&UID));
    bench.fleet.clear_packages(wire(&UID)).unwrap();
    assert_eq!(bench.pushes(&route, &UID).len(), 1, "the ones for all again");
    let _ = bench.send(&mut route, &heartbeat(&UID, 4, Does::REPORTS_STATUS));
    bench.fleet.set_default_packages(main_package("b")).unwrap();
    assert_eq!(bench.pushes(&route, &UID), []);
}

#[test]
fn the_reported_hash_decides_and_the_statuses_say_what_became_of_it() {
    let _judged = opamp_spec::judges(&["PKG-35", "PKG-38", "PKG-39"]);
    let mut bench = Bench::new();
    let packages = main_package("a");
    let hash = *packages.hash().as_bytes();
    bench.fleet.set_default_packages(packages.clone()).unwrap();
    let mut route = bench.websocket();
    assert!(bench.send(&mut route, &full_report(&UID, 1, MASK)).packages_available.is_some());
    assert_eq!(outcome(&bench), Outcome::Sent);
    for (number, status, error, seen) in [
        (2, Downloading, "", Outcome::Applying),
        (3, InstallPending, "", Outcome::Applying),
        (4, InstallFailed, "", Outcome::Failed),
        (5, Installed, "no signature", Outcome::Failed),
        (6, Installed, "", Outcome::Applied),
    ] {
        let reply = bench.send(&mut route, &report(number, &hash, status, error));
        assert_eq!(reply.packages_available, None);
        assert_eq!(outcome(&bench), seen, "{status:?} {error}");
    }
    let reply = bench.send(&mut route, &report(7, b"old", Installed, ""));
    assert_eq!(reply.packages_available, Some(packages.to_message()));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 8, MASK)), bare(&UID));
}

#[test]
fn a_thousand_offers_that_differ_have_as_many_strong_hashes() {
    let _judged = opamp_spec::judges(&["PKG-29"]);
    let (mut of_packages, mut of_offers) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..1000 {
        let [name, version, content] = [1, 10, 100].map(|by| (number / by % 10).to_string());
        // A weak one that was brought along is not taken over.
        let given = v1::PackageAvailable { version, hash: "1".into(), ..package(&content) };
        let offered = Packages::new(offer(&[(&name, given)])).unwrap().to_message();
        let hash = &offered.packages[&name].hash;
        assert_eq!((hash.len(), offered.all_packages_hash.len()), (32, 32));
        of_packages.insert(hash.clone());
        of_offers.insert(offered.all_packages_hash.clone());
    }
    assert_eq!((of_packages.len(), of_offers.len()), (1000, 1000));
}

#[test]
fn packages_may_have_files_of_the_same_name() {
    let _judged = opamp_spec::judges(&["PKG-07"]);
    let both = Packages::new(offer(&[("one", package("a")), ("two", package("b"))])).unwrap();
    let mut bench = Bench::new();
    bench.fleet.set_default_packages(both.clone()).unwrap();
    let mut route = bench.websocket();
    let reply = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let offered = reply.packages_available.expect("they are offered");
    assert_eq!(offered, both.to_message());
    let file = |name: &str| offered.packages[name].file.clone().unwrap();
    assert_eq!(file("one").download_url, file("two").download_url);
    assert_ne!(file("one").content_hash, file("two").content_hash);
}

#[test]
fn packages_that_would_be_of_no_use_are_refused_with_what_to_do() {
    let _judged = opamp_spec::judges(&["PKG-04", "PKG-66", "PKG-70"]);
    let main = |change: &dyn Fn(&mut v1::PackageAvailable)| {
        let mut package = package("a");
        change(&mut package);
        Packages::new(offer(&[("main", package)])).err().map(|error| error.field().to_owned())
    };
    let file = |change: &dyn Fn(&mut v1::DownloadableFile)| {
        main(&|package| package.file.iter_mut().for_each(change))
    };
    assert_eq!(main(&|_| {}), None);
    assert_eq!(main(&|it| it.file = None).as_deref(), Some("packages[\"main\"].file"));
    assert_eq!(main(&|it| it.r#type = 9).as_deref(), Some("packages[\"main\"].type"));
    let hash = file(&|it| it.content_hash = "short".into());
    assert_eq!(hash.as_deref(), Some("packages[\"main\"].file.content_hash"));
    let url = file(&|it| it.download_url = "/file".to_owned());
    assert_eq!(url.as_deref(), Some("packages[\"main\"].file.download_url"));

    let addon = v1::PackageAvailable { r#type: v1::PackageType::Addon.into(), ..package("b") };
    let unnamed = |others: &[(&str, v1::PackageAvailable)]| {
        Packages::new(offer(&[&[("", package("a"))], others].concat())).is_ok()
    };
    assert!(unnamed(&[]) && unnamed(&[("addon", addon.clone())]));
    assert!(!unnamed(&[("other", package("b"))]));
    assert!(Packages::new(offer(&[("", addon)])).is_err());
    assert!(Packages::new(offer(&[])).is_ok(), "an offer of none removes all");
}

/// What can happen to an Agent that installs what it is offered.
#[derive(Debug, Clone)]
enum Step {
    SetAll(u8),
    SetOwn(u8),
    ClearOwn,
    Heartbeat,
    Report,
    Reconnect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..3).prop_map(Step::SetAll),
        (0_u8..3).prop_map(Step::SetOwn),
        Just(Step::ClearOwn),
        Just(Step::Heartbeat),
        Just(Step::Report),
        Just(Step::Reconnect),
        (1_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Whatever happens, what is offered is what is wanted and never what the Agent reported, and
    /// in the end the Agent has it and the Server knows.
    #[test]
    fn an_agent_that_installs_offers_ends_with_the_wanted_packages(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let choices: Vec<_> = ["a", "b", "c"].map(main_package).into();
        let (mut all, mut own): (Option<u8>, Option<u8>) = (None, None);
        let (mut has, mut reported, mut number) = (Vec::new(), Vec::new(), 0);
        let _ = bench.send(&mut route, &full_report(&UID, number, MASK));
        let last = [Step::Report, Step::Wait(60), Step::Heartbeat, Step::Report];
        for step in steps.into_iter().chain(last) {
            let mut messages = Vec::new();
            match step {
                Step::SetAll(index) => {
                    all = Some(index);
                    let wanted = choices[usize::from(index)].clone();
                    bench.fleet.set_default_packages(wanted).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::SetOwn(index) => {
                    own = Some(index);
                    let wanted = choices[usize::from(index)].clone();
                    bench.fleet.set_packages(wire(&UID), wanted).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::ClearOwn => {
                    own = None;
                    bench.fleet.clear_packages(wire(&UID)).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::Heartbeat => {
                    number += 1;
                    messages.push(bench.send(&mut route, &heartbeat(&UID, number, MASK)));
                }
                Step::Report => {
                    number += 1;
                    reported = has.clone();
                    messages.push(bench.send(&mut route, &report(number, &has, Installed, "")));
                }
                Step::Reconnect => {
                    let _ = bench.fleet.close_route(route);
                    route = bench.websocket();
                }
                Step::Wait(seconds) => bench.advance(Duration::from_secs(seconds)),
            }
            let wanted = own.or(all).map(|index| choices[usize::from(index)].to_message());
            for offer in messages.into_iter().filter_map(|message| message.packages_available) {
                prop_assert_eq!(Some(&offer), wanted.as_ref());
                prop_assert_ne!(&offer.all_packages_hash[..], &reported[..]);
                has = offer.all_packages_hash.to_vec();
            }
        }
        if let Some(index) = own.or(all) {
            let wanted = choices[usize::from(index)].hash();
            prop_assert_eq!(&has[..], &wanted.as_bytes()[..]);
            prop_assert_eq!(outcome(&bench), Outcome::Applied);
        }
    }
}
