//! What the server is told in every state.

use opamp_proto::v1::{self, PackageStatusEnum as State};

use super::depot::{Depot, addon};
use crate::core::tests::values::{full_state_request, health};

#[test]
fn every_report_lists_everything() {
    let _judged = opamp_spec::judges(&["PKG-26", "PKG-27", "PKG-03"]);
    let mut depot = Depot::having(&[("old", addon("1", "old"))]);
    let packages = [
        ("old", addon("1", "old")),
        ("good", addon("1", "good")),
        ("bad", addon("1", "bad")),
        ("waits", addon("1", "waits")),
    ];
    depot.offer("second", &packages);
    depot.fetch_failed("bad", super::depot::permanent());
    depot.progress("good", 1, 4);
    assert_eq!(depot.listed(), ["bad", "good", "old", "waits"]);
    let states = ["bad", "good", "old", "waits"].map(|name| depot.state(name));
    use State::{Downloading, InstallFailed, InstallPending, Installed};
    assert_eq!(states, [InstallFailed, Downloading, Installed, InstallPending]);
    depot.install("good", "good");
    depot.install("waits", "waits");
    let states = ["bad", "good", "old", "waits"].map(|name| depot.state(name));
    assert_eq!(states, [InstallFailed, Installed, Installed, Installed]);
}

#[test]
fn statuses_are_told_when_they_change_and_in_full_reports() {
    let _judged = opamp_spec::judges(&["PKG-73", "STATUS-20", "DELTA-01"]);
    let mut depot = Depot::having(&[("plugin", addon("1", "one"))]);
    let told = depot.told.take();
    depot.pair.core.set_health(Some(health("well")));
    depot.settle();
    assert_eq!(depot.told, None);
    depot.pair.receive(full_state_request());
    depot.settle();
    assert_eq!(depot.told, told);
}

/// W-24 of the reference: Installing came with the message of the failure before.
#[test]
fn an_error_is_told_as_long_as_it_is_one() {
    let _judged = opamp_spec::judges(&["PKG-55", "PKG-58", "PKG-62", "PKG-63"]);
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.resolve(offer.failed("does not start")).unwrap();
    assert_eq!(depot.status("plugin").error_message, "does not start");
    // `check` looks at every status on the way.
    depot.offer("second", &[("plugin", addon("2", "two"))]);
    depot.progress("plugin", 1, 3);
    depot.install("plugin", "two");
    assert_eq!(depot.status("plugin").error_message, "");
}

#[test]
fn a_reason_of_any_length_is_cut() {
    let mut depot = Depot::new();
    depot.offer("first", &[("plugin", addon("1", "one"))]);
    depot.fetched("plugin", "one");
    let offer = depot.take_package();
    depot.resolve(offer.failed("é".repeat(100_000))).unwrap();
    assert!(depot.status("plugin").error_message.len() <= 4099);
}

#[test]
fn hashes_are_told_as_they_came() {
    let _judged = opamp_spec::judges(&["PKG-31", "PKG-36", "PKG-47", "PKG-52"]);
    let mut depot = Depot::new();
    let hash = bytes::Bytes::from_static(&[0xff, 0, 0xfe, 1]);
    let package = v1::PackageAvailable { hash: hash.clone(), ..addon("1", "one") };
    let mut offer = super::depot::offer("", &[("plugin", package)]);
    offer.all_packages_hash = bytes::Bytes::from_static(&[0, 0xc3, 0x28]);
    depot.send(offer.clone());
    depot.install("plugin", "one");
    let told = depot.told.clone().unwrap();
    assert_eq!(told.server_provided_all_packages_hash, offer.all_packages_hash);
    let status = depot.status("plugin");
    assert_eq!((status.agent_has_hash, status.server_offered_hash), (hash.clone(), hash));
}
