//! An agent that stops at any moment goes on where it was.

use opamp_proto::v1::PackageStatusEnum as State;

use super::depot::{Depot, addon, permanent, transient};
use crate::core::tests::values::seconds;

#[test]
fn what_is_installed_is_in_the_first_report_after_a_restart() {
    let _judged = opamp_spec::judges(&["PKG-27", "PKG-36", "PKG-45", "PKG-47", "PKG-09"]);
    let depot = Depot::having(&[("plugin", addon("1", "one"))]);
    let told = depot.told.clone();
    let mut depot = depot.restart();
    assert_eq!(depot.told, told, "in the first report");
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.expect_no_fetch();
    depot.expect_quiet();
}

#[test]
fn a_download_is_resumed_after_a_restart_without_another_offer() {
    let mut depot = Depot::new();
    let mut package = addon("1", "one");
    let file = package.file.as_mut().unwrap();
    file.headers = Some(opamp_proto::v1::Headers {
        headers: vec![opamp_proto::v1::Header {
            key: "Authorization".to_owned(),
            value: "Bearer secret".to_owned(),
        }],
    });
    depot.offer("all", &[("plugin", package)]);
    depot.progress("plugin", 1, 3);
    let before = depot.fetch_of("plugin");
    assert!(!format!("{:?}", depot.saved).contains("secret"));
    let mut depot = depot.restart();
    let after = depot.fetch_of("plugin");
    assert_eq!((after.key, after.file), (before.key, before.file), "URL, headers and all");
    assert_eq!(depot.retained.len(), 1);
    depot.install("plugin", "one");
    assert_eq!(depot.state("plugin"), State::Installed);
    let saved = depot.saved.as_ref().unwrap();
    let file = saved.packages["plugin"].offered.as_ref().unwrap().file.as_ref().unwrap();
    assert_eq!(file.headers, None, "credentials are kept no longer than they are of use");
}

#[test]
fn a_package_that_was_handed_over_is_verified_and_handed_over_again() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-71"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for times in 1..=3 {
        depot.expect_nothing_handed();
        depot.fetched("plugin", "one");
        assert_eq!(depot.take_package().times(), times);
        depot = depot.restart();
    }
    // One that brings the agent down is not handed to it for ever.
    depot.fetched("plugin", "one");
    depot.expect_nothing_handed();
    let status = depot.status("plugin");
    assert_eq!(status.status, State::InstallFailed as i32);
    assert_eq!(status.error_message, "the agent was handed it 3 times without an outcome");
    let mut depot = depot.restart();
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    depot.expect_no_fetch();
    depot.offer("other", &[("plugin", addon("2", "two"))]);
    depot.install("plugin", "two");
}

#[test]
fn one_that_was_put_off_may_see_any_number_of_restarts() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for _ in 0..5 {
        depot.fetched("plugin", "one");
        let offer = depot.take_package();
        depot.resolve(offer.pending()).unwrap();
        depot = depot.restart();
    }
    depot.install("plugin", "one");
}

#[test]
fn a_file_that_changed_meanwhile_is_not_handed_over() {
    let _judged = opamp_spec::judges(&["PKG-71"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    drop(depot.take_package());
    let mut depot = depot.restart();
    depot.fetched("plugin", "tampered with");
    depot.expect_nothing_handed();
    depot.wait();
    depot.install("plugin", "one");
}

#[test]
fn a_removal_is_handed_over_again_after_a_restart() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    drop(depot.take_removal());
    let mut depot = depot.restart();
    assert_eq!(depot.state("plugin"), State::Installed);
    let removal = depot.take_removal();
    depot.resolve(removal.failed("in use")).unwrap();
    let mut depot = depot.restart();
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    let mut depot = depot.restart();
    assert_eq!(depot.listed(), [""; 0]);
    depot.expect_nothing_handed();
}

#[test]
fn what_failed_to_download_is_tried_again_after_a_restart_and_what_was_refused_is_not() {
    let mut depot = Depot::new();
    depot.offer("all", &[("gone", addon("1", "gone")), ("refused", addon("1", "refused"))]);
    depot.fetch_failed("gone", permanent());
    depot.fetched("refused", "refused");
    let offer = depot.take_package();
    depot.resolve(offer.failed("no")).unwrap();
    let mut depot = depot.restart();
    assert_eq!(depot.state("refused"), State::InstallFailed);
    assert_eq!(depot.fetches.len(), 1);
    depot.install("gone", "gone");
}

#[test]
fn attempts_do_not_add_up_over_restarts() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for _ in 0..10 {
        depot.fetch_failed("plugin", transient());
        depot.advance(seconds(60));
        depot = depot.restart();
    }
    depot.install("plugin", "one");
}

#[test]
fn a_removal_that_brings_the_agent_down_is_not_handed_over_for_ever() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-41"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    for _ in 0..3 {
        drop(depot.take_removal());
        depot = depot.restart();
    }
    for _ in 0..2 {
        depot.expect_nothing_handed();
        assert_eq!(depot.state("plugin"), State::Installed);
        assert_eq!(
            depot.told.as_ref().unwrap().error_message,
            "\"plugin\" could not be removed: the agent was handed it 3 times without an outcome"
        );
        depot = depot.restart();
    }
    // Wanted after all, it is installed anew: the agent may have removed it.
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.install("plugin", "one");
    depot.offer("fourth", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
}

/// What is saved is that another one is handed over.
#[test]
fn a_removal_that_overtakes_another_is_not_handed_over_before_it_is_recorded() {
    let mut depot = Depot::having(&[("b", addon("1", "b"))]);
    depot.offer("second", &[("a", addon("1", "a")), ("b", addon("1", "b"))]);
    depot.fetched("a", "a");
    let put_off = depot.take_package();
    depot.resolve(put_off.pending()).unwrap();
    depot.saves = false;
    depot.offer("third", &[]);
    depot.resolve(put_off.installed()).unwrap();
    depot.save();
    depot.settle();
    depot.expect_nothing_handed();
    depot.save();
    depot.settle();
    assert_eq!(depot.take_removal().name(), "a");
    assert_eq!(depot.saved.as_ref().unwrap().packages["a"].removals, 1);
}

#[test]
fn a_removal_that_was_given_up_is_tried_again_for_another_offer_alone() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    for _ in 0..3 {
        drop(depot.take_removal());
        depot = depot.restart();
    }
    // The same again, and one that does not say which it is.
    for hash in ["second", ""] {
        depot.offer(hash, &[]);
        depot.expect_nothing_handed();
    }
    depot.offer("third", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
}

#[test]
fn the_offer_of_before_the_restart_is_no_new_one() {
    let _judged = opamp_spec::judges(&["PKG-34"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    let mut depot = depot.restart();
    let removal = depot.take_removal();
    depot.resolve(removal.failed("busy")).unwrap();
    depot.offer("second", &[]);
    depot.expect_nothing_handed();
}

#[test]
fn what_may_have_been_removed_is_not_taken_for_installed() {
    let _judged = opamp_spec::judges(&["PKG-45", "PKG-46"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.saves = false;
    depot.offer("second", &[]);
    depot.expect_nothing_handed();
    depot.save();
    depot.saves = true;
    depot.settle();
    drop(depot.take_removal());
    // The agent removes it, the server wants it again, and the process stops at that.
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    let mut depot = depot.restart();
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.install("plugin", "one");
    assert_eq!(depot.state("plugin"), State::Installed);
}

#[test]
fn attempts_to_install_do_not_count_for_the_removal() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for _ in 0..3 {
        depot.fetched("plugin", "one");
        drop(depot.take_package());
        depot = depot.restart();
    }
    depot.offer("second", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
}

/// The agent may have installed it and stopped before it could say so. That it then refuses another
/// version says nothing of the one before.
#[test]
fn what_may_be_there_is_not_forgotten_over_a_refusal() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-27"]);
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    drop(depot.take_package());
    let mut depot = depot.restart();
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    let offer = depot.take_package();
    depot.resolve(offer.failed("no")).unwrap();
    assert!(depot.retained.iter().any(|key| key.contains("plugin")), "its file may be in use");
    let mut depot = depot.restart();
    depot.offer("none", &[]);
    let removal = depot.take_removal();
    assert_eq!((removal.name(), &*removal.package().version), ("plugin", "1"));
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
}

/// It was handed another version, and stopped; meanwhile the server has thought better of it. Which
/// of the two it has nobody knows.
#[test]
fn what_the_agent_may_have_replaced_is_installed_anew() {
    let _judged = opamp_spec::judges(&["PKG-15", "PKG-27"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    drop(depot.take_package());
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    assert_eq!(depot.state("plugin"), State::Installed, "as far as is known");
    let mut depot = depot.restart();
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.install("plugin", "one");
    let status = depot.status("plugin");
    assert_eq!((status.status, &*status.agent_has_version), (State::Installed as i32, "1"));
    depot.restart().expect_no_fetch();
}

/// The same without a stop: its deadline passes, and the agent has said nothing.
#[test]
fn what_the_agent_may_have_replaced_in_silence_is_installed_anew() {
    let _judged = opamp_spec::judges(&["PKG-15"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    drop(depot.take_package());
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    depot.advance(seconds(600));
    depot.install("plugin", "one");
    assert_eq!(depot.state("plugin"), State::Installed);
}

/// A server that says something new may have a human behind it who has mended something.
#[test]
fn a_removal_that_failed_too_often_is_tried_again_with_another_offer() {
    let _judged = opamp_spec::judges(&["PKG-14"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    for _ in 0..3 {
        drop(depot.take_removal());
        depot = depot.restart();
    }
    depot.offer("second", &[]);
    depot.expect_nothing_handed();
    depot.offer("third", &[]);
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
}
