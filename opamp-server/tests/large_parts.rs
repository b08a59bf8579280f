//! Parts of a message that are so large that they are looked at before the lock is taken.

mod support;

use opamp_proto::{AgentCapabilities as Does, content_hash, v1};
use opamp_server::{Changes, Outcome, Packages};
use support::{Bench, full_report, heartbeat, wire};

const MASK: Does = Does::REPORTS_STATUS
    .union(Does::ACCEPTS_PACKAGES)
    .union(Does::REPORTS_PACKAGE_STATUSES)
    .union(Does::REPORTS_AVAILABLE_COMPONENTS);
const UID: [u8; 16] = [7; 16];

/// Statuses of the offered package and many of the Agent's own, in some 40 kB.
fn statuses(all: &[u8], status: v1::PackageStatusEnum) -> v1::PackageStatuses {
    let package = |number: usize| {
        let name = format!("package-{number:0>30}");
        let offered = if number == 0 { "offered".into() } else { Default::default() };
        let status = v1::PackageStatus {
            name: name.clone(),
            server_offered_hash: offered,
            status: if number == 0 { status.into() } else { Default::default() },
            ..Default::default()
        };
        (name, status)
    };
    v1::PackageStatuses {
        packages: (0..500).map(package).collect(),
        server_provided_all_packages_hash: all.to_vec().into(),
        ..Default::default()
    }
}

#[test]
fn a_large_status_counts_as_a_small_one_does() {
    let _judged = opamp_spec::judges(&["PKG-38", "DELTA-03"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    bench.send(&mut route, &full_report(&UID, 1, MASK));
    let file = v1::DownloadableFile {
        download_url: "https://packages.example/a".to_owned(),
        content_hash: content_hash(b"a"),
        ..Default::default()
    };
    let package = v1::PackageAvailable { file: Some(file), ..Default::default() };
    let packages = Packages::new(v1::PackagesAvailable {
        packages: [("a".to_owned(), package)].into(),
        ..Default::default()
    })
    .expect("a good package");
    let hash = packages.hash();
    bench.fleet.set_packages(wire(&UID), packages).expect("it accepts packages");
    assert_eq!(bench.pushes(&route, &UID).len(), 1);

    let outcome = |bench: &Bench| {
        let agent = bench.fleet.agent(wire(&UID)).expect("known");
        agent.packages().expect("wanted").outcome()
    };
    use v1::PackageStatusEnum as Status;
    let mut number = 1;
    for (status, expected) in [
        (Status::Installing, Outcome::Applying),
        (Status::InstallFailed, Outcome::Failed),
        (Status::Installed, Outcome::Applied),
    ] {
        for again in [false, true] {
            number += 1;
            let report = v1::AgentToServer {
                package_statuses: Some(statuses(hash.as_bytes(), status)),
                ..heartbeat(&UID, number, MASK)
            };
            let bytes = opamp_proto::Message::encode_to_vec(&report);
            assert!(bytes.len() > 32 * 1024);
            let (_, received) = bench.send_bytes(&mut route, &bytes);
            assert_eq!(received.changes == Changes::PACKAGE_STATUSES, !again);
            assert_eq!(outcome(&bench), expected);
        }
    }
    assert_eq!(bench.fleet.counters().packages_failed, 1);
}
