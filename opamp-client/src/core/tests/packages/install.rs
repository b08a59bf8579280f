//! What is new or different is downloaded and handed over, what is not is left alone, and what is
//! no longer offered is removed.

use opamp_proto::AgentCapabilities;
use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::depot::{Depot, addon, top_level};
use crate::core::packages::InstalledPackage;
use crate::core::tests::pair::{Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::{acknowledgement, seconds};
use crate::core::{Event, PeerMisbehaved};

#[test]
fn an_offered_package_is_downloaded_installed_and_reported() {
    let _judged = opamp_spec::judges(&[
        "PKG-05",
        "PKG-08",
        "PKG-10",
        "PKG-11",
        "PKG-16",
        "PKG-18",
        "PKG-20",
        "PKG-25",
        "PKG-26",
        "PKG-31",
        "PKG-36",
        "PKG-42",
        "PKG-45",
        "PKG-47",
        "PKG-49",
        "PKG-52",
        "PKG-73",
        "STATUS-05",
    ]);
    for transport in TRANSPORTS {
        let mut depot = Depot::over(transport);
        let capabilities =
            AgentCapabilities::ACCEPTS_PACKAGES | AgentCapabilities::REPORTS_PACKAGE_STATUSES;
        assert!(depot.pair.core.capabilities().contains(capabilities));
        assert_eq!(depot.told, Some(v1::PackageStatuses::default()), "in the first report");

        let package = addon("1.0", "bytes");
        depot.offer("all", &[("plugin", package.clone())]);
        assert_eq!(depot.state("plugin"), State::InstallPending);
        let request = depot.fetch_of("plugin");
        assert_eq!(depot.fetches.len(), 1, "one file");
        assert_eq!(Some(&request.file), package.file.as_ref());
        depot.progress("plugin", 0, 5);
        assert_eq!(depot.state("plugin"), State::Downloading);
        depot.fetched("plugin", "bytes");
        assert_eq!(depot.state("plugin"), State::Installing);
        let offer = depot.take_package();
        assert_eq!((offer.name(), offer.version()), ("plugin", "1.0"));
        assert_eq!(offer.kind(), v1::PackageType::Addon);
        assert_eq!((offer.hash(), offer.len()), (&package.hash, 5));
        assert!(offer.location().starts_with("/store"));
        assert_eq!((offer.previous(), offer.times()), (None, 1));
        assert_eq!(depot.status("plugin").agent_has_version, "");
        assert_eq!(depot.resolve(offer.installed()), Ok(()));

        let told = depot.told.clone().unwrap();
        assert_eq!(told.server_provided_all_packages_hash, "all");
        assert_eq!(told.error_message, "");
        let expected = v1::PackageStatus {
            name: "plugin".to_owned(),
            agent_has_version: "1.0".to_owned(),
            agent_has_hash: package.hash.clone(),
            server_offered_version: "1.0".to_owned(),
            server_offered_hash: package.hash,
            status: State::Installed.into(),
            ..Default::default()
        };
        assert_eq!(told.packages["plugin"], expected);
        depot.expect_quiet();
    }
}

#[test]
fn the_same_set_is_no_work_and_no_news() {
    let _judged = opamp_spec::judges(&["PKG-09", "PKG-34", "STATUS-14", "STATUS-20"]);
    for transport in TRANSPORTS {
        let mut depot = Depot::over(transport);
        depot.offer("all", &[("plugin", addon("1.0", "bytes"))]);
        depot.install("plugin", "bytes");
        let told = depot.told.take();
        // Whatever is in it: the hash says that it is the same.
        for version in ["1.0", "2.0"] {
            depot.offer("all", &[("plugin", addon(version, version))]);
            depot.expect_no_fetch();
        }
        depot.offer("all", &[]);
        assert_eq!(depot.told, None, "nothing was told");
        depot.told = told;
        depot.expect_quiet();
    }
}

#[test]
fn without_a_hash_of_the_set_its_content_tells_offers_apart() {
    let _judged = opamp_spec::judges(&["STATUS-15", "PKG-13"]);
    let mut depot = Depot::new();
    depot.offer("", &[("plugin", addon("1.0", "bytes"))]);
    depot.fetch_failed("plugin", super::depot::permanent());
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    depot.told = None;
    for _ in 0..3 {
        depot.offer("", &[("plugin", addon("1.0", "bytes"))]);
        depot.expect_no_fetch();
    }
    assert_eq!(depot.told, None, "no news");
    depot.offer("", &[("plugin", addon("1.1", "others"))]);
    assert_eq!(depot.state("plugin"), State::InstallPending);
}

#[test]
fn a_package_with_the_same_hash_is_left_alone() {
    let _judged = opamp_spec::judges(&["PKG-10", "PKG-12", "PKG-13", "PKG-33"]);
    let mut depot = Depot::having(&[("plugin", addon("1.0", "bytes"))]);
    let mut same = addon("1.0-again", "others");
    same.hash = addon("1.0", "bytes").hash;
    depot.offer("second", &[("plugin", same), ("other", addon("1", "other"))]);
    let fetches: Vec<_> = depot.fetches.values().map(|fetch| fetch.key.package()).collect();
    assert_eq!(fetches, ["other"]);
    let status = depot.status("plugin");
    assert_eq!(status.status, State::Installed as i32);
    assert_eq!((&*status.agent_has_version, &*status.server_offered_version), ("1.0", "1.0-again"));
}

#[test]
fn without_a_hash_of_the_package_the_rest_tells_packages_apart() {
    let without_hash = |version: &str, content: &str| v1::PackageAvailable {
        hash: Default::default(),
        ..addon(version, content)
    };
    let mut depot = Depot::new();
    depot.with_hashes = false;
    depot.offer("1", &[("plugin", without_hash("1", "one"))]);
    depot.install("plugin", "one");
    depot.offer("2", &[("plugin", without_hash("1", "one"))]);
    depot.expect_no_fetch();
    assert_eq!(depot.state("plugin"), State::Installed);
    for (hash, package) in [("3", without_hash("2", "one")), ("4", without_hash("2", "two"))] {
        depot.offer(hash, &[("plugin", package)]);
        assert_eq!(depot.fetches.len(), 1);
    }
}

#[test]
fn a_new_version_of_the_same_content_is_looked_for_in_the_store() {
    let _judged = opamp_spec::judges(&["PKG-17", "PKG-19", "PKG-32"]);
    let mut depot = Depot::having(&[("plugin", addon("1.0", "bytes"))]);
    let before = depot.retained.clone();
    assert_eq!(before.len(), 1, "the file stays");
    let mut same = addon("1.1", "elsewhere");
    let file = same.file.as_mut().unwrap();
    file.content_hash = super::depot::content_hash("bytes");
    depot.offer("second", &[("plugin", same)]);
    let request = depot.fetch_of("plugin");
    assert_eq!([format!("{:?}", request.key)], before[..], "under the name it has");
    // No bytes come, so nothing is being downloaded.
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.install("plugin", "bytes");
    assert_eq!(depot.status("plugin").agent_has_version, "1.1");
}

#[test]
fn an_upgrade_replaces_what_is_there() {
    let _judged = opamp_spec::judges(&["PKG-03", "PKG-12", "PKG-15", "PKG-20"]);
    let mut depot = Depot::having(&[("plugin", addon("1.0", "one"))]);
    depot.offer("second", &[("plugin", addon("2.0", "two"))]);
    let status = depot.status("plugin");
    assert_eq!((&*status.agent_has_version, &*status.server_offered_version), ("1.0", "2.0"));
    assert_eq!(depot.retained.len(), 2, "the old file is there until the new one is installed");
    depot.fetched("plugin", "two");
    let offer = depot.take_package();
    assert_eq!(offer.previous().map(|previous| &*previous.version), Some("1.0"));
    depot.resolve(offer.installed()).unwrap();
    assert_eq!(depot.status("plugin").agent_has_version, "2.0");
    assert_eq!(depot.listed(), ["plugin"]);
    assert_eq!(depot.retained.len(), 1);
    depot.expect_quiet();
}

/// W-23 of the reference: an addition arrived as a top-level package.
#[test]
fn a_package_is_of_the_kind_that_was_offered_also_when_that_changes() {
    let mut depot = Depot::having(&[("agent", addon("1.0", "one"))]);
    depot.offer("second", &[("agent", top_level("1.0", "one"))]);
    // The same hash is the same package, whatever else is said of it.
    depot.expect_no_fetch();
    depot.offer("third", &[("agent", top_level("2.0", "two"))]);
    depot.fetched("agent", "two");
    let offer = depot.take_package();
    assert_eq!(offer.kind(), v1::PackageType::TopLevel);
    assert_eq!(offer.previous().map(InstalledPackage::kind), Some(v1::PackageType::Addon));
}

#[test]
fn what_is_no_longer_offered_is_removed_when_the_rest_is_done() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-35"]);
    let mut depot = Depot::having(&[("stays", addon("1", "one")), ("goes", addon("1", "two"))]);
    depot.offer("second", &[("stays", addon("1", "one")), ("new", addon("1", "three"))]);
    depot.expect_nothing_handed();
    assert_eq!(depot.state("goes"), State::Installed, "as long as it is there");
    depot.install("new", "three");
    let removal = depot.take_removal();
    assert_eq!((removal.name(), &*removal.package().version), ("goes", "1"));
    assert_eq!(depot.resolve(removal.removed()), Ok(()));
    assert_eq!(depot.listed(), ["new", "stays"]);
    assert_eq!(depot.retained.len(), 2, "its file is gone: {:?}", depot.retained);
    depot.expect_quiet();
}

#[test]
fn a_removal_that_fails_is_told_and_tried_again_with_the_next_offer() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-27", "PKG-41", "PKG-42"]);
    let mut depot = Depot::having(&[("goes", addon("1", "two"))]);
    depot.offer("second", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.failed("in use")).unwrap();
    assert_eq!(depot.state("goes"), State::Installed, "the agent still has it");
    let told = depot.told.clone().unwrap();
    assert_eq!(told.error_message, r#""goes" could not be removed: in use"#);
    depot.advance(seconds(100_000));
    depot.expect_nothing_handed();

    depot.offer("third", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(
        depot.told,
        Some(v1::PackageStatuses {
            server_provided_all_packages_hash: "third".into(),
            ..Default::default()
        })
    );
}

#[test]
fn a_package_that_is_offered_again_is_not_removed_but_had() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    let removal = depot.take_removal();
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    depot.expect_no_fetch();
    depot.resolve(removal.removed()).unwrap();
    // Now it is gone, and is wanted.
    depot.install("plugin", "one");
    assert_eq!(depot.state("plugin"), State::Installed);
}

#[test]
fn local_packages_are_listed_and_never_removed() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-27", "PKG-28", "PKG-35", "PKG-50", "PKG-53"]);
    let local = InstalledPackage::local(v1::PackageType::Addon, "0.9").with_hash(&b"local"[..]);
    let mut depot = Depot::configured(|config| {
        config.local.insert("mine".to_owned(), local);
    });
    let expected = v1::PackageStatus {
        name: "mine".to_owned(),
        agent_has_version: "0.9".to_owned(),
        agent_has_hash: "local".into(),
        ..Default::default()
    };
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.install("plugin", "one");
    assert_eq!(depot.listed(), ["mine", "plugin"]);
    assert_eq!(depot.status("mine"), expected);
    depot.offer("none", &[]);
    let removal = depot.take_removal();
    assert_eq!(removal.name(), "plugin");
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.status("mine"), expected);

    // One that fails to replace it leaves it as it is.
    depot.offer("new", &[("mine", addon("1", "one"))]);
    depot.fetch_failed("mine", super::depot::permanent());
    let status = depot.status("mine");
    assert_eq!((status.status, &*status.agent_has_version), (State::InstallFailed as i32, "0.9"));
    depot.offer("none again", &[]);
    assert_eq!(depot.status("mine"), expected);
    depot.expect_nothing_handed();
}

/// Without hashes kind and version tell whether the agent has what is offered.
#[test]
fn a_local_package_may_be_what_a_server_without_hashes_offers() {
    for kind in [v1::PackageType::Addon, v1::PackageType::TopLevel] {
        let local = InstalledPackage::local(kind, "1");
        let mut depot = Depot::configured(|config| {
            config.local.insert("plugin".to_owned(), local);
        });
        depot.with_hashes = false;
        let mut offered = addon("1", "one");
        offered.r#type = kind.into();
        offered.hash.clear();
        offered.file.as_mut().unwrap().content_hash.clear();
        depot.offer("all", &[("plugin", offered)]);
        assert_eq!(depot.state("plugin"), State::Installed);
    }
}

#[test]
fn top_level_packages_go_first() {
    let mut depot = Depot::configured(|config| config.parallel_downloads = 1);
    let packages = [("a", addon("1", "a")), ("z", top_level("1", "z")), ("b", addon("1", "b"))];
    depot.offer("all", &packages);
    assert_eq!(depot.fetches.len(), 1);
    depot.fetch_failed("z", super::depot::transient());
    depot.fetched("a", "a");
    depot.fetched("b", "b");
    // An addition may need the newer agent, and that is on its way.
    depot.expect_nothing_handed();
    depot.wait();
    depot.fetched("z", "z");
    for name in ["z", "a", "b"] {
        let offer = depot.take_package();
        assert_eq!(offer.name(), name);
        depot.resolve(offer.installed()).unwrap();
    }
}

#[test]
fn a_top_level_package_that_fails_holds_nothing_up() {
    let mut depot = Depot::new();
    depot.offer("all", &[("a", addon("1", "a")), ("z", top_level("1", "z"))]);
    depot.fetched("a", "a");
    depot.expect_nothing_handed();
    depot.fetch_failed("z", super::depot::permanent());
    let offer = depot.take_package();
    assert_eq!(offer.name(), "a");
    drop(offer);
}

#[test]
fn an_agent_that_takes_no_packages_ignores_offers() {
    let _judged = opamp_spec::judges(&["CAP-05"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        packages_available: Some(super::depot::offer("all", &[])),
        ..acknowledgement()
    });
    let misbehaved = Event::PeerMisbehaved(PeerMisbehaved::NotAnnounced("packages_available"));
    assert_eq!(pair.events(), [misbehaved]);
    assert_eq!(pair.core.poll_package_action(pair.now), None);
    pair.expect_silence();
}

#[test]
fn a_server_that_takes_no_statuses_is_told_none() {
    let _judged = opamp_spec::judges(&["INTEROP-04"]);
    let mut depot = Depot::new();
    let without = opamp_proto::ServerCapabilities::all()
        - opamp_proto::ServerCapabilities::ACCEPTS_PACKAGES_STATUS;
    depot.told = None;
    depot.pair.receive(v1::ServerToAgent {
        capabilities: without.to_wire(),
        packages_available: Some(super::depot::offer("all", &[("plugin", addon("1", "one"))])),
        ..acknowledgement()
    });
    depot.settle();
    depot.install("plugin", "one");
    assert_eq!(depot.told, None);
    assert!(depot.pair.core.status().package_statuses.is_some());
}
