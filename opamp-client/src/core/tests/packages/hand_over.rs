//! What the agent is handed, and what it says of it.

use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::depot::{Depot, addon, transient};
use crate::core::NotPending;
use crate::core::tests::values::seconds;

/// An agent that was just handed the package.
fn handed() -> (Depot, crate::core::packages::PackageOffer) {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    (depot, offer)
}

#[test]
fn one_package_is_handed_over_at_a_time() {
    let mut depot = Depot::new();
    depot.offer("all", &[("a", addon("1", "a")), ("b", addon("1", "b"))]);
    depot.fetched("b", "b");
    depot.fetched("a", "a");
    let first = depot.take_package();
    assert_eq!(first.name(), "b");
    assert_eq!((depot.state("a"), depot.state("b")), (State::InstallPending, State::Installing));
    depot.expect_nothing_handed();
    depot.resolve(first.installed()).unwrap();
    assert_eq!(depot.take_package().name(), "a");
}

#[test]
fn an_installation_can_be_put_off() {
    let _judged = opamp_spec::judges(&["PKG-56", "PKG-57", "PKG-58"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("a", addon("1", "a")), ("b", addon("1", "b"))]);
    depot.fetched("a", "a");
    depot.fetched("b", "b");
    let first = depot.take_package();
    assert!(!first.pending().is_final() && !first.installing().is_final());
    assert!(first.clone().installed().is_final() && first.clone().failed("").is_final());
    assert_eq!(depot.resolve(first.pending()), Ok(()));
    assert_eq!(depot.state("a"), State::InstallPending);
    // Others take their turn.
    let second = depot.take_package();
    assert_eq!(second.name(), "b");
    depot.resolve(second.installed()).unwrap();
    depot.advance(seconds(80_000));
    assert_eq!(depot.resolve(first.installing()), Ok(()));
    assert_eq!(depot.state("a"), State::Installing);
    depot.advance(seconds(599));
    assert_eq!(depot.resolve(first.installed()), Ok(()));
    assert_eq!(depot.state("a"), State::Installed);
    depot.expect_quiet();
}

#[test]
fn what_has_no_outcome_by_its_deadline_fails() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-60"]);
    for (pending, timeout) in [(false, 600), (true, 86_400)] {
        let (mut depot, offer) = handed();
        if pending {
            depot.resolve(offer.pending()).unwrap();
        }
        depot.advance(seconds(timeout - 1));
        assert_ne!(depot.state("plugin"), State::InstallFailed);
        depot.advance(seconds(1));
        let status = depot.status("plugin");
        assert_eq!(status.status, State::InstallFailed as i32);
        assert_eq!(status.error_message, format!("no outcome within {timeout} s"));
        assert_eq!(depot.resolve(offer.pending()), Err(NotPending));
        assert_eq!(depot.resolve(offer.clone().failed("late")), Err(NotPending));
        assert_eq!(depot.status("plugin").error_message, status.error_message);
        // What the agent has is true however late it says so.
        assert_eq!(depot.resolve(offer.clone().installed()), Ok(()));
        assert_eq!(depot.state("plugin"), State::Installed);
        assert_eq!(depot.resolve(offer.installed()), Err(NotPending), "and once");
        depot.expect_quiet();
    }
}

#[test]
fn the_deadline_runs_also_when_nobody_takes_the_package() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    depot.advance(seconds(600));
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    depot.expect_nothing_handed();
}

#[test]
fn an_outcome_counts_once() {
    let (mut depot, offer) = handed();
    depot.resolve(offer.clone().installed()).unwrap();
    assert_eq!(depot.resolve(offer.clone().failed("no")), Err(NotPending));
    assert_eq!(depot.resolve(offer.pending()), Err(NotPending));
    assert_eq!(depot.state("plugin"), State::Installed);
}

#[test]
fn a_newer_version_waits_until_the_agent_is_done_with_the_older() {
    let (mut depot, old) = handed();
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    depot.expect_nothing_handed();
    assert_eq!(depot.state("plugin"), State::InstallPending);
    assert_eq!(depot.retained.len(), 2, "the agent may still be reading the old file");
    depot.resolve(old.installed()).unwrap();
    let new = depot.take_package();
    assert_eq!((new.version(), new.previous().map(|p| &*p.version)), ("2", Some("1")));
    depot.resolve(new.installed()).unwrap();
    assert_eq!(depot.status("plugin").agent_has_version, "2");
}

/// They may be credentials, and are forgotten when they are of no more use.
#[test]
fn the_headers_of_a_download_stay_as_long_as_it_is_to_be_made() {
    let (mut depot, old) = handed();
    let mut newer = addon("2", "two");
    let header = v1::Header { key: "Authorization".to_owned(), value: "secret".to_owned() };
    newer.file.as_mut().unwrap().headers = Some(v1::Headers { headers: vec![header] });
    let headers = newer.file.as_ref().unwrap().headers.clone();
    depot.offer("second", &[("plugin", newer)]);
    depot.resolve(old.installed()).unwrap();
    depot.fetch_failed("plugin", transient());
    depot.wait();
    assert_eq!(depot.fetch_of("plugin").file.headers, headers);
    depot.install("plugin", "two");
    let saved = &depot.saved.as_ref().unwrap().packages["plugin"];
    assert_eq!(saved.offered.as_ref().unwrap().file.as_ref().unwrap().headers, None);
}

#[test]
fn a_newer_version_takes_the_place_of_one_that_was_put_off() {
    let (mut depot, old) = handed();
    depot.resolve(old.pending()).unwrap();
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    let new = depot.take_package();
    assert_eq!(new.version(), "2");
    assert_eq!(depot.resolve(old.pending()), Err(NotPending));
    // The agent installed the old one all the same.
    assert_eq!(depot.resolve(old.installed()), Ok(()));
    let status = depot.status("plugin");
    assert_eq!((&*status.agent_has_version, status.status), ("1", State::Installing as i32));
    depot.resolve(new.installed()).unwrap();
    assert_eq!(depot.status("plugin").agent_has_version, "2");
}

#[test]
fn an_older_word_does_not_undo_a_newer() {
    let (mut depot, old) = handed();
    depot.resolve(old.pending()).unwrap();
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.install("plugin", "two");
    assert_eq!(depot.resolve(old.installed()), Err(NotPending));
    assert_eq!(depot.status("plugin").agent_has_version, "2");
}

#[test]
fn a_package_that_is_withdrawn_while_it_is_installed_is_removed_then() {
    let _judged = opamp_spec::judges(&["PKG-14", "PKG-27"]);
    let (mut depot, offer) = handed();
    depot.offer("second", &[]);
    assert_eq!(depot.state("plugin"), State::Installing, "it is still being worked on");
    depot.resolve(offer.installed()).unwrap();
    let removal = depot.take_removal();
    depot.resolve(removal.removed()).unwrap();
    assert_eq!(depot.listed(), [""; 0]);

    let (mut depot, offer) = handed();
    depot.offer("second", &[]);
    depot.resolve(offer.failed("no")).unwrap();
    assert_eq!(depot.listed(), [""; 0]);
    depot.expect_nothing_handed();
}

#[test]
fn nothing_is_handed_over_after_the_stop() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    depot.pair.core.stop(depot.pair.now);
    depot.pair.expect_goodbye();
    assert!(depot.pair.core.poll_connection(depot.pair.now).is_some());
    depot.pair.closed_by_server(1000);
    assert!(depot.pair.core.is_stopped());
    depot.expect_nothing_handed();
    assert_eq!(depot.pair.core.poll_package_action(depot.pair.now), None);
    assert_eq!(depot.pair.until_timeout(), None);
}

#[test]
fn the_file_of_a_package_that_may_be_installed_stays() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.advance(seconds(600));
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    assert_eq!(depot.retained.len(), 1, "the agent may still be at it");
    depot.resolve(offer.installed()).unwrap();
    assert_eq!(depot.state("plugin"), State::Installed);
    assert_eq!(depot.retained.len(), 1);
}

#[test]
fn a_late_word_does_not_make_a_newer_hand_over_forgotten() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    let removal = depot.take_removal();
    depot.advance(seconds(600));
    depot.offer("third", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    drop(depot.take_package());
    depot.resolve(removal.removed()).unwrap();
    let mut depot = depot.restart();
    depot.offer("fourth", &[]);
    assert_eq!(depot.take_removal().package().version, "2", "the agent may have it");
}
