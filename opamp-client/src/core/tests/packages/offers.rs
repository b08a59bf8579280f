//! Offers that cannot be used, and offers that take the place of others.

use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::depot::{Depot, addon, content_hash, permanent, top_level};
use crate::core::tests::values::seconds;

/// W-20 of the reference: a package without a file brought the agent down.
#[test]
fn a_package_that_cannot_be_had_fails_and_no_other_does() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-27", "PKG-46", "PKG-48", "PKG-59", "PKG-63"]);
    let broken = |change: fn(&mut v1::PackageAvailable)| {
        let mut package = addon("1", "broken");
        change(&mut package);
        package
    };
    let with_url = |url: &str| {
        let mut package = addon("1", "broken");
        package.file.as_mut().unwrap().download_url = url.to_owned();
        package
    };
    let mut depot = Depot::new();
    depot.offer(
        "all",
        &[
            ("no file", broken(|package| package.file = None)),
            ("no url", with_url("")),
            ("no such url", with_url("this is no URL")),
            ("other scheme", with_url("file:///etc/passwd")),
            ("long url", with_url(&format!("http://{}", "x".repeat(20_000)))),
            ("no type", broken(|package| package.r#type = 7)),
            ("long hash", broken(|package| package.hash = vec![1; 257].into())),
            ("good", addon("1", "good")),
        ],
    );
    assert_eq!(depot.fetches.len(), 1);
    depot.install("good", "good");
    assert_eq!(depot.listed().len(), 8);
    for (name, why) in [
        ("no file", "the offer has no file"),
        ("no url", "the offer has no download_url"),
        ("no such url", "download_url is not an http or https URL"),
        ("other scheme", "download_url is not an http or https URL"),
        ("long url", "download_url is longer than 16384 bytes"),
        ("no type", "the package has the unknown type 7"),
        ("long hash", "hash is longer than 256 bytes"),
    ] {
        let status = depot.status(name);
        assert_eq!((status.status, &*status.error_message), (State::InstallFailed as i32, why));
        assert_eq!((&*status.agent_has_version, status.agent_has_hash.len()), ("", 0));
        assert_eq!(status.server_offered_version, "1");
    }
    assert_eq!(depot.state("good"), State::Installed);
    assert_eq!(depot.told.as_ref().unwrap().error_message, "");
    depot.expect_quiet();
}

#[test]
fn an_offer_that_is_too_large_is_refused_as_a_whole() {
    let _judged = opamp_spec::judges(&["PKG-41", "PKG-42"]);
    let mut depot = Depot::configured(|config| config.max_packages = 1);
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.install("plugin", "one");
    depot.offer("second", &[("a", addon("1", "a")), ("b", addon("1", "b"))]);
    let told = depot.told.clone().unwrap();
    assert_eq!(told.error_message, "the offer has 2 packages, and 1 are the most");
    assert_eq!(told.server_provided_all_packages_hash, "second");
    assert_eq!(depot.listed(), ["plugin"], "everything stays as it was");
    depot.expect_nothing_handed();
    depot.offer("third", &[("plugin", addon("1", "one"))]);
    assert_eq!(depot.told.as_ref().unwrap().error_message, "");
}

#[test]
fn an_empty_name_is_for_a_sole_top_level_package() {
    let _judged = opamp_spec::judges(&["PKG-04", "PKG-40", "PKG-43", "PKG-44"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("", top_level("1", "agent")), ("plugin", addon("1", "one"))]);
    depot.install("", "agent");
    assert_eq!(depot.listed(), ["", "plugin"]);
    assert_eq!(depot.state(""), State::Installed);

    for (hash, rest) in [("3", addon("2", "two")), ("4", top_level("2", "two"))] {
        let nameless = match hash {
            "3" => addon("2", "nameless"),
            _ => top_level("2", "nameless"),
        };
        let mut depot = Depot::new();
        depot.offer(hash, &[("", nameless), ("rest", rest)]);
        assert_eq!(depot.listed(), ["rest"]);
        let error = &depot.told.as_ref().unwrap().error_message;
        assert!(error.starts_with("1 packages have names that cannot be used"), "{error}");
        assert_eq!(depot.fetches.len(), 1, "the rest is done");
    }
}

#[test]
fn a_name_of_any_length_is_bounded() {
    let mut depot = Depot::new();
    let long = "n".repeat(1025);
    depot.offer("all", &[(&long, addon("1", "a")), (&long[1..], addon("1", "b"))]);
    assert_eq!(depot.listed(), [&long[1..]]);
    assert!(!depot.told.as_ref().unwrap().error_message.is_empty());
}

/// W-25 of the reference: a second offer waited for the first to end, and nothing was cancelled.
#[test]
fn a_newer_offer_supersedes_a_download() {
    let _judged = opamp_spec::judges(&["PKG-15", "PKG-36"]);
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one")), ("other", addon("1", "other"))]);
    let old = depot.fetch_of("plugin").ticket;
    depot.progress("plugin", 1, 3);
    depot.offer("second", &[("plugin", addon("2", "two")), ("other", addon("1", "other"))]);
    assert_eq!(depot.cancelled, [old], "and the other goes on");
    assert_eq!(depot.state("plugin"), State::InstallPending);
    assert_eq!(depot.status("plugin").server_offered_version, "2");
    assert!(!depot.retained.iter().any(|key| key.contains("one")));
    // An answer to the old one comes too late for anything.
    let request = depot.fetch_of("plugin");
    assert_ne!(request.ticket, old);
    depot.pair.core.handle_fetched(old, Err(permanent()), depot.pair.now);
    depot.expect_quiet();
    depot.install("plugin", "two");
    assert_eq!(depot.status("plugin").agent_has_version, "2");
    assert_eq!(depot.told.as_ref().unwrap().server_provided_all_packages_hash, "second");
}

#[test]
fn a_package_that_is_withdrawn_is_not_downloaded_any_more() {
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.offer("second", &[]);
    assert_eq!(depot.cancelled.len(), 1);
    assert_eq!(depot.listed(), [""; 0]);
    assert_eq!(depot.retained, [""; 0]);
    depot.expect_nothing_handed();
    depot.expect_quiet();
}

#[test]
fn a_download_goes_on_when_only_the_rest_of_the_package_changes() {
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.progress("plugin", 1, 3);
    depot.offer("second", &[("plugin", addon("1.1", "one"))]);
    assert_eq!(depot.cancelled, []);
    assert_eq!(depot.state("plugin"), State::Downloading);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    assert_eq!(offer.version(), "1.1");
    depot.resolve(offer.installed()).unwrap();
    assert_eq!(depot.status("plugin").agent_has_version, "1.1");
}

#[test]
fn what_failed_to_download_is_tried_again_with_a_new_offer_and_not_before() {
    let _judged = opamp_spec::judges(&["PKG-60", "PKG-67"]);
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.fetch_failed("plugin", permanent());
    let status = depot.status("plugin");
    assert_eq!(
        (status.status, &*status.error_message),
        (State::InstallFailed as i32, "status 404")
    );
    depot.advance(seconds(100_000));
    depot.expect_no_fetch();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.expect_no_fetch();
    depot.offer("second", &[("plugin", addon("1", "one"))]);
    depot.install("plugin", "one");
    // W-24: no word of the earlier failure is left.
    assert_eq!(depot.status("plugin").error_message, "");
}

#[test]
fn what_the_agent_refused_is_not_handed_over_again() {
    let _judged = opamp_spec::judges(&["PKG-51", "PKG-54", "PKG-60", "PKG-67"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.fetched("plugin", "two");
    let offer = depot.take_package();
    depot.resolve(offer.failed("does not start")).unwrap();
    for hash in ["third", "fourth"] {
        let status = depot.status("plugin");
        assert_eq!(status.status, State::InstallFailed as i32);
        assert_eq!(status.error_message, "does not start");
        assert_eq!((&*status.agent_has_version, &*status.server_offered_version), ("1", "2"));
        assert_ne!(status.agent_has_hash, status.server_offered_hash);
        depot.offer(hash, &[("plugin", addon("2", "two")), (hash, addon("1", hash))]);
        assert_eq!(depot.fetches.values().filter(|f| f.key.package() == "plugin").count(), 0);
    }
    // Another one is another matter.
    depot.offer("fifth", &[("plugin", addon("3", "three"))]);
    assert_eq!(depot.state("plugin"), State::InstallPending);
    depot.install("plugin", "three");
}

#[test]
fn a_server_that_offers_anew_in_every_reply_makes_no_hot_loop() {
    let mut depot = Depot::new();
    let mut fetches = 0;
    let start = depot.pair.now;
    for round in 0..600 {
        depot.offer(&round.to_string(), &[("plugin", addon("1", "one"))]);
        if !depot.fetches.is_empty() {
            fetches += 1;
            depot.fetch_failed("plugin", permanent());
        }
        depot.advance(seconds(1));
    }
    let elapsed = depot.pair.now - start;
    assert!(fetches < 40, "{fetches} downloads in {elapsed:?}");
    assert!(fetches > 8, "it is tried again all the same: {fetches}");
}

#[test]
fn what_a_server_makes_too_long_is_neither_repeated_nor_kept() {
    let long = || vec![b'x'; 1_000_000];
    let broken = |break_it: fn(&mut v1::PackageAvailable, Vec<u8>)| {
        let mut package = addon("1", "x");
        break_it(&mut package, long());
        package
    };
    let packages = [
        ("hash", broken(|package, long| package.hash = long.into())),
        ("version", broken(|package, long| package.version = String::from_utf8(long).unwrap())),
        (
            "content",
            broken(|package, long| package.file.as_mut().unwrap().content_hash = long.into()),
        ),
        (
            "url",
            broken(|package, long| {
                let url = format!("http://é{}", String::from_utf8(long).unwrap());
                package.file.as_mut().unwrap().download_url = url;
            }),
        ),
    ];
    let mut depot = Depot::new();
    depot.offer("all", &packages);
    depot.expect_no_fetch();
    for (name, _) in &packages {
        let status = depot.status(name);
        assert_eq!(status.status, State::InstallFailed as i32, "{name}");
        assert!(status.error_message.contains("is longer than"), "{status:?}");
    }
    let told = opamp_proto::Message::encoded_len(depot.told.as_ref().unwrap());
    assert!(told < 10_000, "{told}");
    let saved = depot.saved.as_ref().unwrap().to_bytes().len();
    assert!(saved < 50_000, "{saved}");
    depot.offer("again", &packages);
    depot.expect_no_fetch();
}

#[test]
fn what_is_as_long_as_it_may_be_is_taken() {
    let package = |more: usize| {
        let mut package = addon("1", "x");
        package.version = "v".repeat(1024 + more);
        package.hash = vec![b'h'; 256 + more].into();
        let file = package.file.as_mut().unwrap();
        file.content_hash = content_hash("x");
        file.download_url.push_str(&"u".repeat(16 * 1024 + more - file.download_url.len()));
        package
    };
    for (more, taken) in [(0, true), (1, false)] {
        let mut depot = Depot::new();
        depot.offer("all", &[("plugin", package(more))]);
        assert_eq!(depot.fetches.len(), usize::from(taken));
        let saved = &depot.saved.as_ref().unwrap().packages["plugin"];
        assert_eq!(saved.offered, Some(package(more)), "nothing is cut");
    }
    for hash_len in [256, 257] {
        let mut depot = Depot::new();
        let hash = "h".repeat(hash_len);
        depot.offer(&hash, &[("plugin", addon("1", "one"))]);
        assert_eq!(depot.fetches.len(), 257 - hash_len, "{hash_len}");
    }
}

#[test]
fn a_package_whose_name_became_unusable_is_not_removed() {
    let mut depot = Depot::new();
    depot.offer("first", &[("", top_level("1", "one"))]);
    depot.install("", "one");
    depot.offer("second", &[("", top_level("2", "two")), ("b", top_level("1", "b"))]);
    depot.install("b", "b");
    depot.expect_nothing_handed();
    assert_eq!(depot.listed(), ["", "b"]);
    assert_eq!(depot.status("").agent_has_version, "1");
    assert!(depot.told.as_ref().unwrap().error_message.contains("names that cannot be used"));
}
