//! A store that fails, or takes its time.

use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::depot::{Depot, addon, offer};
use crate::core::packages::{InstalledPackage, PackageAction, PackagesConfig};
use crate::core::tests::pair::{Pair, WebSocket};
use crate::core::tests::values::{acknowledgement, seconds};
use crate::core::{Event, PackageStoreTask};

#[test]
fn an_offer_waits_until_it_is_known_what_the_agent_has() {
    let _judged = opamp_spec::judges(&["PKG-09", "PKG-27"]);
    let before = Depot::having(&[("plugin", addon("1", "one"))]);
    let mut depot = Depot::unloaded(WebSocket, |_| {});
    depot.saved = before.saved.clone();
    depot.work();
    // The store takes so long that the agent connects without.
    depot.start();
    assert_eq!(depot.told, None, "an incomplete list would be wrong");
    depot.offer("second", &[("plugin", addon("1", "one")), ("new", addon("1", "new"))]);
    depot.expect_no_fetch();
    assert_eq!(depot.told, None);
    let saved = depot.saved.clone();
    depot.pair.core.handle_packages_loaded(Ok(saved), depot.pair.now);
    depot.settle();
    assert_eq!(depot.listed(), ["new", "plugin"]);
    assert_eq!(depot.state("plugin"), State::Installed);
    assert_eq!(depot.fetches.len(), 1);
}

#[test]
fn a_store_that_cannot_be_read_is_asked_again_and_the_server_told() {
    let _judged = opamp_spec::judges(&["PKG-41", "PKG-42"]);
    let local = |config: &mut PackagesConfig| {
        let mine = InstalledPackage::local(v1::PackageType::Addon, "1");
        config.local.insert("mine".to_owned(), mine);
    };
    let mut before = Depot::configured(local);
    before.offer("first", &[("plugin", addon("1", "one"))]);
    before.install("plugin", "one");
    let mine = before.status("mine");
    let mut depot = Depot::unloaded(WebSocket, local);
    depot.work();
    let fail = |depot: &mut Depot| {
        let why = Err("no such device".to_owned());
        depot.pair.core.handle_packages_loaded(why, depot.pair.now);
    };
    fail(&mut depot);
    depot.start();
    let told = v1::PackageStatuses {
        packages: [("mine".to_owned(), mine)].into(),
        error_message: "the package store cannot be read: no such device".to_owned(),
        ..Default::default()
    };
    assert_eq!(depot.told.as_ref(), Some(&told));
    for round in 1..10 {
        assert_eq!(depot.loads, round);
        depot.wait();
        fail(&mut depot);
        depot.settle();
    }
    let events = depot.pair.events();
    let failed = |event: &&Event| matches!(event, Event::PackageStoreFailed { .. });
    assert_eq!(events.iter().filter(failed).count(), 1, "that is news once: {events:?}");
    depot.wait();
    depot.pair.core.handle_packages_loaded(Ok(before.saved.clone()), depot.pair.now);
    depot.settle();
    assert_eq!(depot.told, before.told);
}

#[test]
fn nothing_is_handed_over_before_that_is_saved() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.saves = false;
    depot.fetched("plugin", "one");
    depot.expect_nothing_handed();
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.save();
    depot.settle();
    let saved = depot.saved.as_ref().unwrap();
    assert_eq!(saved.packages["plugin"].handed_over, 1);
    let offer = depot.take_package();
    depot.resolve(offer.installed()).unwrap();
}

/// What was saved is that another package is handed over.
#[test]
fn a_package_that_changes_while_that_is_saved_is_not_handed_over_before_it_is_saved_again() {
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.saves = false;
    depot.fetched("plugin", "one");
    depot.offer("second", &[("plugin", addon("2", "one"))]);
    depot.save();
    depot.settle();
    depot.expect_nothing_handed();
    depot.save();
    depot.settle();
    assert_eq!(depot.saved.as_ref().unwrap().packages["plugin"].handed_over, 1);
    let offer = depot.take_package();
    assert_eq!((offer.version(), offer.times()), ("2", 1));
}

#[test]
fn a_package_that_is_offered_again_while_that_is_saved_is_handed_over_once() {
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.saves = false;
    depot.fetched("plugin", "one");
    depot.offer("second", &[("plugin", addon("1", "one"))]);
    depot.saves = true;
    depot.save();
    depot.settle();
    assert_eq!(depot.take_package().times(), 1);
}

/// W-23 of the reference: a store that failed was taken for one that did not.
#[test]
fn a_package_whose_hand_over_cannot_be_saved_fails() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-60"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.saves = false;
    depot.fetched("plugin", "one");
    depot.pair.events();
    for attempt in 0..5 {
        assert_eq!(depot.state("plugin"), State::InstallPending, "{attempt}");
        depot.fail_save();
        depot.settle();
        depot.expect_nothing_handed_but_failures(attempt);
        while depot.saving.is_none() {
            depot.wait();
        }
    }
    let status = depot.status("plugin");
    assert_eq!(status.status, State::InstallFailed as i32);
    assert_eq!(status.error_message, "the package store cannot save: disk full");
    // And when it can again, that is what is saved.
    depot.save();
    depot.settle();
    assert!(depot.saved.as_ref().unwrap().packages["plugin"].failure.is_some());
}

#[test]
fn an_installed_package_is_told_though_the_store_fails_and_saved_when_it_does_not() {
    let _judged = opamp_spec::judges(&["PKG-45", "PKG-47"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.saves = false;
    depot.resolve(offer.installed()).unwrap();
    // The agent has it: no disk makes that untrue.
    assert_eq!(depot.state("plugin"), State::Installed);
    for _ in 0..20 {
        depot.fail_save();
        while depot.saving.is_none() {
            depot.wait();
        }
    }
    assert_eq!(depot.state("plugin"), State::Installed);
    let files = depot.retained.clone();
    depot.save();
    depot.settle();
    assert_eq!(depot.retained, files);
    let depot = depot.restart();
    assert_eq!(depot.state("plugin"), State::Installed);
}

/// The process may end before it is saved that the old package is replaced.
#[test]
fn a_file_goes_when_it_is_safely_of_no_more_use() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    let offer = depot.take_package();
    let both = depot.retained.clone();
    assert_eq!(both.len(), 2);
    depot.saves = false;
    depot.resolve(offer.installed()).unwrap();
    depot.fail_save();
    depot.settle();
    assert_eq!(depot.retained, both);
    while depot.saving.is_none() {
        depot.wait();
    }
    depot.save();
    depot.settle();
    assert_eq!(depot.retained.len(), 1);
    assert!(both.contains(&depot.retained[0]));
}

#[test]
fn a_file_that_was_refused_or_is_not_on_offer_any_more_goes() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    let one = depot.retained.clone();
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    let offer = depot.take_package();
    assert_eq!(depot.retained.len(), 2);
    depot.resolve(offer.failed("it does not start")).unwrap();
    assert_eq!(depot.retained, one);
    depot.offer("third", &[("plugin", addon("3", "three"))]);
    assert_eq!(depot.retained.len(), 2);
    depot.offer("fourth", &[]);
    assert_eq!(depot.retained, one);
}

#[test]
fn what_changed_last_is_saved_after_the_stop() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.pair.core.stop(depot.pair.now);
    depot.pair.expect_goodbye();
    assert!(depot.pair.core.poll_connection(depot.pair.now).is_some());
    depot.pair.closed_by_server(1000);
    depot.pair.core.resolve_package(offer.installed(), depot.pair.now).unwrap();
    let action = depot.pair.core.poll_package_action(depot.pair.now);
    let Some(PackageAction::Save { records, .. }) = action else { panic!("{action:?}") };
    assert!(records.packages["plugin"].has.is_some());
}

#[test]
fn files_that_stay_are_no_trouble() {
    let (mut depot, mut failed) = (Depot::unloaded(WebSocket, |_| {}), 0);
    depot.pair.core.poll_package_action(depot.pair.now);
    depot.pair.core.handle_packages_loaded(Ok(None), depot.pair.now);
    while let Some(action) = depot.pair.core.poll_package_action(depot.pair.now) {
        let PackageAction::Retain { ticket, .. } = action else { panic!("{action:?}") };
        let why = Err("busy".to_owned());
        depot.pair.core.handle_packages_retained(ticket, why, depot.pair.now);
        failed += 1;
    }
    assert_eq!(failed, 1);
    let events = depot.pair.events();
    let task = PackageStoreTask::Retain;
    assert_eq!(events, [Event::PackageStoreFailed { task, why: "busy".to_owned() }]);
    assert_eq!(depot.pair.until_timeout(), None);
    depot.pair.advance(seconds(1));
}

#[test]
fn an_answer_of_the_store_counts_once() {
    let mut pair = Depot::unloaded(WebSocket, |_| {}).pair;
    pair.connect();
    pair.expect();
    pair.acknowledge();
    assert_eq!(pair.core.poll_package_action(pair.now), Some(PackageAction::Load));
    pair.core.handle_packages_loaded(Ok(None), pair.now);
    let retain = |pair: &mut Pair| match pair.core.poll_package_action(pair.now) {
        Some(PackageAction::Retain { ticket, .. }) => ticket,
        other => panic!("files of no more use are to go, not {other:?}"),
    };
    let first = retain(&mut pair);
    pair.core.handle_packages_retained(first, Ok(()), pair.now);
    let packages_available = Some(offer("all", &[("plugin", addon("1", "one"))]));
    pair.receive(v1::ServerToAgent { packages_available, ..acknowledgement() });
    let action = pair.core.poll_package_action(pair.now);
    let Some(PackageAction::Save { ticket, .. }) = action else { panic!("{action:?}") };
    pair.core.handle_packages_saved(ticket, Ok(()), pair.now);
    let second = retain(&mut pair);
    pair.core.handle_packages_retained(first, Ok(()), pair.now);
    assert_eq!(pair.core.poll_package_action(pair.now), None);
    pair.core.handle_packages_retained(second, Ok(()), pair.now);
    let action = pair.core.poll_package_action(pair.now);
    assert!(matches!(action, Some(PackageAction::Fetch(_))), "{action:?}");
}

impl Depot {
    fn expect_nothing_handed_but_failures(&mut self, attempt: usize) {
        let events = self.pair.events();
        let failures = events.iter().filter(|event| {
            matches!(event, Event::PackageStoreFailed { .. } | Event::PackageFailed { .. })
        });
        assert_eq!(failures.count(), events.len(), "{events:?}");
        // The first time, and when it is given up.
        assert_eq!(!events.is_empty(), attempt == 0 || attempt == 4, "{events:?}");
    }
}

#[test]
fn a_package_that_could_not_be_recorded_was_not_handed_over() {
    let mut depot = Depot::new();
    for round in 0..4 {
        depot.offer(&format!("offer {round}"), &[("plugin", addon("1", "one"))]);
        depot.saves = false;
        depot.fetched("plugin", "one");
        for _ in 0..5 {
            depot.fail_save();
            depot.settle();
            while depot.saving.is_none() {
                depot.wait();
            }
        }
        let why = depot.status("plugin").error_message;
        assert_eq!(why, "the package store cannot save: disk full");
        depot.saves = true;
        depot.save();
        depot.settle();
    }
    depot.offer("last", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    assert_eq!(offer.times(), 1);
    depot.resolve(offer.installed()).unwrap();
}
