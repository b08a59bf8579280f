//! Downloads: how many at a time, how often, and what of them is told.

use std::time::Duration;

use opamp_proto::v1::{PackageDownloadDetails, PackageStatusEnum as State};

use super::depot::{Depot, addon, permanent, transient};
use crate::core::Event;
use crate::core::packages::{FetchFailure, FetchFailureKind, FetchProgress};
use crate::core::tests::values::seconds;

fn details(depot: &Depot, name: &str) -> PackageDownloadDetails {
    depot.status(name).download_details.expect("the package is being downloaded")
}

#[test]
fn no_more_than_so_many_are_under_way() {
    let mut depot = Depot::new();
    let packages: Vec<_> =
        ["a", "b", "c", "d", "e"].map(|name| (name, addon("1", name))).into_iter().collect();
    depot.offer("all", &packages);
    for name in ["a", "b", "c", "d", "e"] {
        assert!(depot.fetches.len() <= 2, "{:?}", depot.fetches);
        depot.install(name, name);
    }
    depot.expect_no_fetch();
}

#[test]
fn progress_is_told_at_intervals() {
    let _judged = opamp_spec::judges(&["PKG-24", "PKG-25", "PKG-61", "PKG-62", "PKG-64", "PKG-65"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.progress("plugin", 250, 1000);
    let told = PackageDownloadDetails { download_percent: 25.0, download_bytes_per_second: 0.0 };
    assert_eq!(details(&depot, "plugin"), told);
    let number = depot.pair.core.sequence_num();
    for received in [300, 400, 500] {
        depot.advance(seconds(3));
        depot.progress("plugin", received, 1000);
        assert_eq!(details(&depot, "plugin"), told);
    }
    assert_eq!(depot.pair.core.sequence_num(), number, "not yet");
    depot.advance(seconds(1));
    let told = PackageDownloadDetails { download_percent: 50.0, download_bytes_per_second: 25.0 };
    assert_eq!(details(&depot, "plugin"), told);
    // A download that hangs has no speed, and that is told once.
    depot.advance(seconds(10));
    let told = PackageDownloadDetails { download_percent: 50.0, download_bytes_per_second: 0.0 };
    assert_eq!(details(&depot, "plugin"), told);
    let number = depot.pair.core.sequence_num();
    depot.advance(seconds(60));
    assert_eq!(depot.pair.core.sequence_num(), number);
    // W-24 of the reference: the details stayed.
    depot.fetched("plugin", "one");
    assert_eq!(depot.status("plugin").download_details, None);
}

#[test]
fn progress_is_told_after_a_pause_too() {
    let _judged = opamp_spec::judges(&["PKG-24", "PKG-65"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.progress("plugin", 250, 1000);
    let kind = FetchFailureKind::Transient { retry_after: Some(seconds(60)) };
    depot.fetch_failed("plugin", FetchFailure { kind, received: 250, ..transient() });
    assert_eq!(retried(&mut depot, "plugin"), seconds(60));
    depot.progress("plugin", 500, 1000);
    depot.advance(seconds(10));
    assert!((details(&depot, "plugin").download_percent - 50.0).abs() < 1e-9);
}

#[test]
fn what_a_download_server_says_makes_no_nonsense() {
    let _judged = opamp_spec::judges(&["PKG-65"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    // More than there is, of nothing, less than before: `check` looks at every status.
    for (received, total) in [(5, 0), (u64::MAX, 1), (0, u64::MAX), (7, 3)] {
        depot.progress("plugin", received, total);
        depot.advance(seconds(10));
    }
    assert_eq!(details(&depot, "plugin").download_percent, 100.0);
    let ticket = depot.fetch_of("plugin").ticket;
    let unknown = FetchProgress { received: 9, total: None };
    depot.pair.core.handle_fetch_progress(ticket, unknown, depot.pair.now);
    depot.advance(seconds(10));
    assert_eq!(details(&depot, "plugin").download_percent, 0.0);
}

#[test]
fn no_interval_makes_a_hot_loop() {
    let mut depot = Depot::configured(|config| config.progress_interval = Duration::from_nanos(1));
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    let number = depot.pair.core.sequence_num();
    for received in 0..100 {
        depot.progress("plugin", received, 1000);
        depot.advance(seconds(1) / 10);
    }
    assert!(depot.pair.core.sequence_num() - number <= 11);
}

#[test]
fn a_failed_attempt_is_followed_by_others_with_growing_waits() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-59", "PKG-63"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.progress("plugin", 0, 3);
    let mut longest = seconds(1);
    for _ in 0..4 {
        depot.fetch_failed("plugin", transient());
        assert_eq!(depot.state("plugin"), State::Downloading, "it is still to come");
        depot.expect_no_fetch();
        let start = depot.pair.now;
        while depot.fetches.is_empty() {
            depot.wait();
        }
        let waited = depot.pair.now - start;
        assert!(waited <= longest && waited >= longest / 2, "{waited:?} of {longest:?}");
        longest *= 2;
    }
    depot.pair.events();
    depot.fetch_failed("plugin", transient());
    let status = depot.status("plugin");
    assert_eq!(status.status, State::InstallFailed as i32);
    assert_eq!(status.error_message, "connection reset; it is tried again");
    assert_eq!(depot.pair.events(), [failed()]);
}

fn failed() -> Event {
    Event::PackageFailed { name: "plugin".to_owned(), why: "connection reset".to_owned() }
}

/// Waits until the download is tried again.
fn retried(depot: &mut Depot, name: &str) -> Duration {
    let start = depot.pair.now;
    while depot.fetches.values().all(|fetch| fetch.key.package() != name) {
        depot.wait();
    }
    depot.pair.now - start
}

/// A download server that is down for hours does not cost the agent the update.
#[test]
fn an_outage_is_sat_out() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-60", "PKG-63"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    let start = depot.pair.now;
    let mut attempts = 0;
    while depot.pair.now - start < seconds(6 * 3600) {
        depot.fetch_failed("plugin", transient());
        attempts += 1;
        assert!(retried(&mut depot, "plugin") <= seconds(300));
    }
    assert!(attempts < 200, "{attempts}");
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    let mut events = depot.pair.events();
    events.retain(|event| matches!(event, Event::PackageFailed { .. }));
    assert_eq!(events, [failed()], "once");
    depot.progress("plugin", 0, 3);
    assert_eq!(depot.state("plugin"), State::InstallFailed, "an answer alone is no progress");
    depot.progress("plugin", 1, 3);
    assert_eq!(depot.state("plugin"), State::Downloading, "there it is");
    depot.install("plugin", "one");
    assert_eq!(depot.state("plugin"), State::Installed);
}

#[test]
fn what_stays_away_for_a_day_is_given_up_until_it_is_offered_anew() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    let start = depot.pair.now;
    loop {
        depot.fetch_failed("plugin", transient());
        if depot.pair.until_timeout().is_none() {
            break;
        }
        retried(&mut depot, "plugin");
    }
    let waited = depot.pair.now - start;
    assert!(waited >= seconds(86_400) && waited < seconds(87_000), "{waited:?}");
    assert_eq!(depot.status("plugin").error_message, "connection reset", "that was the last");
    depot.offer("again", &[("plugin", addon("1", "one"))]);
    retried(&mut depot, "plugin");
    depot.install("plugin", "one");
}

#[test]
fn without_time_for_more_a_few_attempts_are_all() {
    let mut depot = Depot::configured(|config| config.retry_for = Duration::ZERO);
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for _ in 0..4 {
        depot.fetch_failed("plugin", transient());
        retried(&mut depot, "plugin");
    }
    depot.fetch_failed("plugin", transient());
    assert_eq!(depot.status("plugin").error_message, "connection reset");
    assert_eq!(depot.pair.until_timeout(), None);
}

#[test]
fn what_failed_lately_is_tried_again_when_its_pause_is_over() {
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetch_failed("plugin", transient());
    let pause = depot.pair.until_timeout().expect("it is tried again");
    depot.offer("back", &[("plugin", addon("1", "one"))]);
    depot.advance(pause);
    depot.expect_no_fetch();
    depot.offer("third", &[("plugin", addon("2", "two"))]);
    assert_eq!(depot.fetches.len(), 1);
}

/// The operator finds the URL wrong, and corrects it.
#[test]
fn a_stuck_download_that_is_offered_anew_starts_the_count_anew() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    for _ in 0..7 {
        depot.fetch_failed("plugin", transient());
        retried(&mut depot, "plugin");
    }
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    let mut corrected = addon("1", "one");
    corrected.hash = "another".into();
    corrected.file.as_mut().unwrap().download_url = "http://elsewhere.example/one".to_owned();
    depot.offer("corrected", &[("plugin", corrected)]);
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.fetch_failed("plugin", transient());
    retried(&mut depot, "plugin");
    let url = depot.fetch_of("plugin").file.download_url;
    assert_eq!(url, "http://elsewhere.example/one");
    depot.install("plugin", "one");
}

/// Neither the packages of the same offer, nor removals, nor slots wait for what may never come.
#[test]
fn a_stuck_download_holds_up_nothing() {
    let mut depot = Depot::having(&[("old", addon("1", "old"))]);
    let packages = [("a", addon("1", "a")), ("z", super::depot::top_level("1", "z"))];
    depot.offer("all", &packages);
    depot.fetched("a", "a");
    for _ in 0..5 {
        depot.expect_nothing_handed();
        retried(&mut depot, "z");
        depot.fetch_failed("z", transient());
    }
    let offer = depot.take_package();
    assert_eq!(offer.name(), "a");
    depot.resolve(offer.installed()).unwrap();
    let removal = depot.take_removal();
    assert_eq!(removal.name(), "old");
    depot.resolve(removal.removed()).unwrap();
    retried(&mut depot, "z");
    depot.install("z", "z");
    assert_eq!(depot.listed(), ["a", "z"]);
}

#[test]
fn an_attempt_that_got_further_starts_the_count_anew() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    let upto = |received| FetchFailure { received, ..transient() };
    for received in 1..=20 {
        depot.fetch_failed("plugin", upto(received));
        assert_eq!(depot.state("plugin"), State::InstallPending);
        depot.wait();
    }
    for _ in 0..3 {
        depot.fetch_failed("plugin", upto(20));
        depot.wait();
    }
    depot.fetch_failed("plugin", upto(20));
    assert_eq!(depot.state("plugin"), State::InstallFailed);
}

#[test]
fn a_wait_that_was_asked_for_is_kept_within_reason() {
    let asking = |wait| FetchFailure {
        kind: FetchFailureKind::Transient { retry_after: Some(wait) },
        ..transient()
    };
    for (asked, expected) in [(seconds(120), seconds(120)), (Duration::MAX, seconds(86_400))] {
        let mut depot = Depot::new();
        depot.offer("all", &[("plugin", addon("1", "one"))]);
        depot.fetch_failed("plugin", asking(asked));
        assert_eq!(depot.pair.until_timeout(), Some(expected));
    }
}

#[test]
fn a_pause_without_end_is_a_long_one() {
    let mut depot = Depot::configured(|config| {
        config.backoff.initial = Duration::MAX;
        config.backoff.max = Duration::MAX;
    });
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetch_failed("plugin", transient());
    assert!(depot.pair.until_timeout() > Some(seconds(365 * 86_400)));
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.fetch_failed("plugin", permanent());
    assert_eq!(depot.state("plugin"), State::InstallFailed);
    assert_eq!(depot.pair.until_timeout(), None);
}

/// W-22 of the reference: a lost connection ended the download, for good.
#[test]
fn a_download_goes_on_over_reconnects() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-27"]);
    let mut depot = Depot::new();
    depot.offer("all", &[("plugin", addon("1", "one"))]);
    depot.progress("plugin", 1, 3);
    let ticket = depot.fetch_of("plugin").ticket;
    for _ in 0..3 {
        depot.pair.reconnect();
        depot.settle();
    }
    assert_eq!(depot.cancelled, []);
    assert_eq!(depot.fetch_of("plugin").ticket, ticket);
    assert_eq!(depot.state("plugin"), State::Downloading);
    // And what is done while there is no connection is told when there is one.
    depot.pair.lose();
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.resolve(offer.installed()).unwrap();
    depot.pair.wait_for_retry();
    depot.pair.connect();
    depot.settle();
    assert_eq!(depot.state("plugin"), State::Installed);
}
