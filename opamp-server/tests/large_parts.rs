//! Parts of a message that are so large that they are looked at before the lock is taken.

mod support;

use opamp_proto::{AgentCapabilities as Does, ServerCapabilities, content_hash, v1};
use opamp_server::{Changes, CustomCapabilities, Outcome, Packages};
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

#[test]
fn a_large_custom_message_arrives_and_one_that_is_too_large_is_dropped() {
    let _judged = opamp_spec::judges(&["CUST-06"]);
    const CHAT: &str = "org.example.chat";
    let mut bench = Bench::with(|config| {
        config.custom_capabilities = CustomCapabilities::new([CHAT]).expect("a name");
    });
    let mut route = bench.websocket();
    bench.send(&mut route, &full_report(&UID, 1, MASK));
    let sizes = [20_000, 100_000, 300_000];
    for (number, size) in (2..).zip(sizes) {
        for (capability, number) in [(CHAT, number), ("org.example.other", number + 10)] {
            let message = v1::CustomMessage {
                capability: capability.to_owned(),
                data: vec![1; size].into(),
                ..Default::default()
            };
            let message = v1::AgentToServer {
                custom_message: Some(message),
                ..heartbeat(&UID, number, MASK)
            };
            bench.send(&mut route, &message);
        }
    }
    let taken = bench.fleet.take_changes(wire(&UID)).expect("there is news");
    let lengths: Vec<_> = taken.custom_messages.iter().map(|message| message.data.len()).collect();
    assert_eq!(lengths, sizes[..2]);
    assert!(taken.custom_messages.iter().all(|message| message.capability == CHAT));
    assert_eq!(bench.fleet.counters().custom_messages_dropped, 1);
}

#[test]
fn a_certificate_request_that_is_far_too_large_is_refused_as_one_that_is_too_large() {
    let _judged = opamp_spec::judges(&["CSR-15", "ERR-07"]);
    let mask = MASK | Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS;
    let mut bench = Bench::with(|config| {
        config.capabilities |= ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
    });
    let mut route = bench.websocket();
    bench.send(&mut route, &full_report(&UID, 1, mask));
    let limit = bench.fleet.config().max_certificate_request;
    for (number, (size, is_taken)) in
        (2..).zip([(limit, true), (limit + 1, false), (limit + 1_000, false), (4 << 20, false)])
    {
        let request = v1::CertificateRequest { csr: vec![b'x'; size].into() };
        let opamp = v1::OpAmpConnectionSettingsRequest { certificate_request: Some(request) };
        let request = v1::ConnectionSettingsRequest { opamp: Some(opamp) };
        let message = v1::AgentToServer {
            connection_settings_request: Some(request),
            ..heartbeat(&UID, number, mask)
        };
        let error = bench.send(&mut route, &message).error_response;
        assert_eq!(error.is_none(), is_taken, "{size}: {error:?}");
        let text = error.map(|error| error.error_message).unwrap_or_default();
        assert!(is_taken || text.contains("certificate_request.csr"), "{text}");
    }
    assert_eq!(bench.fleet.pending_certificates().len(), 1);
}
