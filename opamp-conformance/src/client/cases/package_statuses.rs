//! What has to hold of every report of packages, whatever the case was.

use std::collections::{BTreeMap, BTreeSet};

use opamp_proto::v1::{PackageStatus, PackageStatusEnum, PackageStatuses};

use crate::case::{Case, Observed, Script};
use crate::client::depot::{PREFIX, is, told};
use crate::judge::Judge;
use crate::log::Entry;
use crate::report::By;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "client/package-statuses/names",
        judges: &["PKG-40", "PKG-43", "PKG-44"],
        transports: &[],
        does: "looks at every entry of package_statuses in the run",
        expects: "its name is set and is its key in the map",
        alone: false,
        broken_by: &["package-name-is-not-told", "status-key-differs-from-name"],
        script: Script::Observer(names),
    },
    Case {
        name: "client/package-statuses/states",
        judges: &["PKG-55", "PKG-56", "PKG-57", "PKG-58", "PKG-59", "PKG-61", "PKG-62", "PKG-63"],
        transports: &[],
        does: "looks at the state of every package in the run",
        expects: "what has to come with the state is there, and what must not is not",
        alone: false,
        broken_by: &[
            "installed-has-an-error",
            "installing-has-an-error",
            "downloading-has-an-error",
            "installing-lacks-the-offered-hash",
            "downloading-lacks-the-offered-hash",
            "failed-install-lacks-the-offered-hash",
            "installed-package-is-called-pending",
            "package-hash-is-ignored",
            "failed-install-tells-a-hash",
        ],
        script: Script::Observer(states),
    },
    Case {
        name: "client/package-statuses/local",
        judges: &["PKG-28", "PKG-50", "PKG-53"],
        transports: &[],
        does: "looks at the entries of packages that were never offered",
        expects: "they have no version and hash of an offer",
        alone: false,
        broken_by: &["local-package-looks-offered"],
        script: Script::Observer(local),
    },
    Case {
        name: "client/package-statuses/downloads",
        judges: &["PKG-64", "PKG-65"],
        transports: &[],
        does: "looks at every download_details in the run",
        expects: "the package is being downloaded, the percentage is one and the speed not negative",
        alone: false,
        broken_by: &["download-details-stay", "download-percent-is-unbounded"],
        script: Script::Observer(downloads),
    },
];

/// Every report of package statuses, with the event it is in.
fn reports(observed: &Observed) -> impl Iterator<Item = (&Entry, PackageStatuses)> {
    let by_client = observed.entries().filter(|entry| entry.by == By::Subject);
    by_client.filter_map(|entry| Some((entry, entry.agent_to_server()?.package_statuses?)))
}

/// Judges each status with `rule`: the row, whether it holds, what is expected.
fn each(
    observed: &Observed,
    judge: &mut Judge,
    rule: impl Fn(&str, &PackageStatus) -> Vec<(&'static str, bool, &'static str)>,
) {
    for (entry, statuses) in reports(observed) {
        let findings: BTreeMap<_, _> = statuses
            .packages
            .iter()
            .map(|(key, status)| (key, (status, rule(key, status))))
            .collect();
        let missed = findings.values().flat_map(|(_, all)| all).any(|(_, holds, _)| !holds);
        judge.quote(entry, missed);
        for (key, (status, all)) in findings {
            for (row, holds, expected) in all {
                let actual = format!("{key:?} (name {:?}): {}", status.name, told(Some(status)));
                judge.expect(row, holds, expected, actual);
            }
        }
    }
}

fn names(observed: &Observed, judge: &mut Judge) {
    each(observed, judge, |key, status| {
        let same = status.name == key;
        vec![
            ("PKG-40", same, "the key is the name"),
            ("PKG-44", same, "the name is the key"),
            // The empty name is one where the key is empty as well (A39).
            ("PKG-43", !status.name.is_empty() || key.is_empty(), "the name is set"),
        ]
    });
}

fn states(observed: &Observed, judge: &mut Judge) {
    each(observed, judge, |_, status| {
        let offered = !status.server_offered_hash.is_empty();
        let silent = status.error_message.is_empty();
        let erroneous = ("PKG-63", silent, "no error_message, as the status is none of an error");
        match PackageStatusEnum::try_from(status.status) {
            Ok(PackageStatusEnum::Installed) => {
                vec![("PKG-55", silent, "no error_message with Installed"), erroneous]
            }
            Ok(PackageStatusEnum::InstallPending) => {
                // What the client has already is not waiting for its installation to begin.
                let begun = offered && status.agent_has_hash == status.server_offered_hash;
                let expected = "the package is not the one the client has";
                vec![("PKG-56", !begun, expected), erroneous]
            }
            Ok(PackageStatusEnum::Installing) => vec![
                ("PKG-57", offered, "server_offered_hash with Installing"),
                ("PKG-58", silent, "no error_message with Installing"),
                erroneous,
            ],
            Ok(PackageStatusEnum::InstallFailed) => {
                vec![("PKG-59", offered, "server_offered_hash with InstallFailed")]
            }
            Ok(PackageStatusEnum::Downloading) => vec![
                ("PKG-61", offered, "server_offered_hash with Downloading"),
                ("PKG-62", silent, "no error_message with Downloading"),
                erroneous,
            ],
            Err(_) => Vec::new(),
        }
    });
}

fn local(observed: &Observed, judge: &mut Judge) {
    let by_tester = observed.entries().filter(|entry| entry.by == By::Tester);
    let offers = by_tester.filter_map(|entry| entry.server_to_agent()?.packages_available);
    let offered: BTreeSet<_> = offers.flat_map(|offer| offer.packages.into_keys()).collect();
    // What begins like the tester's own may come from a run before.
    let is_local = |name: &str| !offered.contains(name) && !name.starts_with(PREFIX);
    each(observed, judge, |key, status| {
        if !is_local(key) {
            return Vec::new();
        }
        let no_version = status.server_offered_version.is_empty();
        let no_hash = status.server_offered_hash.is_empty();
        vec![
            ("PKG-50", no_version, "no server_offered_version of a local package"),
            ("PKG-53", no_hash, "no server_offered_hash of a local package"),
        ]
    });
    let mut listed = reports(observed).flat_map(|(_, statuses)| statuses.packages.into_keys());
    let seen = listed.any(|name| is_local(&name));
    let what = if seen { "local packages are listed" } else { "no local package is listed" };
    judge.note("PKG-28", what);
}

fn downloads(observed: &Observed, judge: &mut Judge) {
    each(observed, judge, |_, status| {
        let Some(details) = status.download_details else { return Vec::new() };
        let downloading = is(status, PackageStatusEnum::Downloading);
        // Agents that know no Downloading call a download Installing (A23).
        let is_fit = downloading || is(status, PackageStatusEnum::Installing);
        let speed = details.download_bytes_per_second;
        let plausible =
            (0.0..=100.0).contains(&details.download_percent) && speed.is_finite() && speed >= 0.0;
        vec![
            ("PKG-64", is_fit, "download_details only while downloading"),
            ("PKG-65", plausible, "0 to 100 percent, and a speed that is not negative"),
        ]
    });
}
