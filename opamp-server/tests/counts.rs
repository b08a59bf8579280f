//! What the registry counts, in virtual time.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, content_hash, v1};
use opamp_server::{ConnectionSettings, OperationError, Outcome, Packages};
use support::{Bench, config_status, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [1; 16];
const MASK: Does =
    Does::REPORTS_STATUS.union(Does::ACCEPTS_REMOTE_CONFIG).union(Does::REPORTS_REMOTE_CONFIG);

#[test]
fn messages_are_counted_by_transport() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.send(&mut route, &heartbeat(&UID, 2, MASK));
    bench.post(&full_report(&[2; 16], 1, MASK));
    let counters = bench.fleet.counters();
    assert_eq!((counters.websocket_messages, counters.http_messages), (2, 1));
    assert_eq!(counters.messages(), 3);
    assert!(counters.websocket_bytes > counters.http_bytes && counters.http_bytes > 20);
    let connected = bench.fleet.connected();
    assert_eq!((connected.websocket, connected.http), (1, 1));
}

#[test]
fn each_end_of_an_offer_is_counted_once() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let configs = ["a", "b", "c", "d"].map(remote_config);
    let mut number = 1;
    let mut report = |bench: &mut Bench, status: Option<(usize, v1::RemoteConfigStatuses)>| {
        let status =
            status.map(|(which, status)| config_status(configs[which].hash().as_bytes(), status));
        let message = v1::AgentToServer {
            remote_config_status: status,
            ..match number {
                1 => full_report(&UID, 1, MASK),
                _ => heartbeat(&UID, number, MASK),
            }
        };
        number += 1;
        bench.send(&mut route, &message)
    };
    report(&mut bench, None);
    let set = |bench: &Bench, which: usize| {
        bench.fleet.set_remote_config(wire(&UID), configs[which].clone()).unwrap();
    };

    set(&bench, 0);
    assert!(report(&mut bench, None).remote_config.is_some());
    report(&mut bench, Some((0, v1::RemoteConfigStatuses::Applying)));
    report(&mut bench, Some((0, v1::RemoteConfigStatuses::Applied)));
    // A status told again after that is no other end.
    report(&mut bench, Some((0, v1::RemoteConfigStatuses::Failed)));
    set(&bench, 1);
    report(&mut bench, None);
    report(&mut bench, Some((1, v1::RemoteConfigStatuses::Failed)));
    set(&bench, 2);
    report(&mut bench, None);
    set(&bench, 3);
    report(&mut bench, None);
    bench.advance(Duration::from_secs(700));
    let _ = bench.fleet.sweep(bench.now);
    let state = bench.fleet.agent(wire(&UID)).unwrap().remote_config().unwrap();
    assert_eq!(state.outcome(), Outcome::TimedOut);

    let counters = bench.fleet.counters();
    assert_eq!(counters.configs_offered, 4);
    assert_eq!((counters.configs_applied, counters.configs_failed), (1, 1));
    assert_eq!((counters.configs_superseded, counters.configs_timed_out), (1, 1));
    assert_eq!(counters.configs_unsupported, 0);
}

#[test]
fn what_failed_may_be_applied_yet() {
    let mut bench = Bench::new();
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut route = bench.websocket();
    assert!(bench.send(&mut route, &full_report(&UID, 1, MASK)).remote_config.is_some());
    let ends = [
        (v1::RemoteConfigStatuses::Failed, (0, 1)),
        (v1::RemoteConfigStatuses::Applying, (0, 1)),
        (v1::RemoteConfigStatuses::Applied, (1, 1)),
        (v1::RemoteConfigStatuses::Failed, (1, 1)),
        (v1::RemoteConfigStatuses::Applied, (1, 1)),
    ];
    for (number, (status, counted)) in (2..).zip(ends) {
        let status = Some(config_status(config.hash().as_bytes(), status));
        let message =
            v1::AgentToServer { remote_config_status: status, ..heartbeat(&UID, number, MASK) };
        bench.send(&mut route, &message);
        let counters = bench.fleet.counters();
        assert_eq!((counters.configs_applied, counters.configs_failed), counted, "{number}");
    }
}

#[test]
fn what_an_agent_does_not_take_is_counted_as_unsupported() {
    let mut bench = Bench::new();
    bench.post(&full_report(&UID, 1, Does::REPORTS_STATUS));
    let uid = wire(&UID);
    bench.fleet.set_remote_config(uid, remote_config("a")).unwrap();
    let refused = bench.fleet.restart(uid, bench.now.instant);
    assert_eq!(refused, Err(OperationError::NotAccepted));
    let counters = bench.fleet.counters();
    assert_eq!((counters.configs_unsupported, counters.commands_unsupported), (1, 1));
}

#[test]
fn a_command_is_sent_or_dropped_and_a_request_for_full_state_is_a_reply_or_a_push() {
    let mut bench = Bench::new();
    let (mut route, _woken) = bench.woken_websocket();
    let mask = Does::REPORTS_STATUS | Does::ACCEPTS_RESTART_COMMAND;
    let uid = wire(&UID);
    bench.send(&mut route, &heartbeat(&UID, 1, mask));
    bench.fleet.request_full_state(uid).unwrap();
    bench.fleet.restart(uid, bench.now.instant).unwrap();
    assert_eq!(bench.pushes(&route, &UID).len(), 2);
    bench.fleet.restart(uid, bench.now.instant).unwrap();
    bench.advance(Duration::from_secs(61));
    let _ = bench.fleet.sweep(bench.now);
    let counters = bench.fleet.counters();
    assert_eq!((counters.commands_sent, counters.commands_dropped), (1, 1));
    assert_eq!((counters.full_state_replies, counters.full_state_pushes), (1, 1));
}

/// Settings and packages go the way of configurations, and so do their counts.
#[test]
fn each_end_of_settings_and_packages_is_counted_once() {
    use v1::ConnectionSettingsStatuses as Settings;
    use v1::PackageStatusEnum as Package;

    let mask = Does::REPORTS_STATUS
        | Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS
        | Does::REPORTS_CONNECTION_SETTINGS_STATUS
        | Does::ACCEPTS_PACKAGES
        | Does::REPORTS_PACKAGE_STATUSES;
    let (mut bench, uid) = (Bench::new(), wire(&UID));
    let mut route = bench.websocket();
    bench.send(&mut route, &full_report(&UID, 1, mask));
    let ends = [
        Some((Settings::Applied, Package::Installed)),
        Some((Settings::Failed, Package::InstallFailed)),
        None,
        None,
    ];
    for (number, end) in (2..).zip(ends) {
        let settings = settings(number);
        let packages = packages(number);
        bench.fleet.set_connection_settings(uid, settings.clone()).unwrap();
        bench.fleet.set_packages(uid, packages.clone()).unwrap();
        assert_eq!(bench.pushes(&route, &UID).len(), 1);
        let Some((applied, installed)) = end else { continue };
        let status = v1::PackageStatus {
            server_offered_hash: "offered".into(),
            status: installed.into(),
            ..Default::default()
        };
        let message = v1::AgentToServer {
            connection_settings_status: Some(v1::ConnectionSettingsStatus {
                last_connection_settings_hash: settings.hash().as_bytes().to_vec().into(),
                status: applied.into(),
                ..Default::default()
            }),
            package_statuses: Some(v1::PackageStatuses {
                packages: [("main".to_owned(), status)].into(),
                server_provided_all_packages_hash: packages.hash().as_bytes().to_vec().into(),
                ..Default::default()
            }),
            ..heartbeat(&UID, number, mask)
        };
        bench.send(&mut route, &message);
    }
    bench.advance(Duration::from_secs(600));
    let _ = bench.fleet.sweep(bench.now);

    let counters = bench.fleet.counters();
    assert_eq!((counters.settings_offered, counters.packages_offered), (4, 4));
    assert_eq!((counters.settings_applied, counters.packages_applied), (1, 1));
    assert_eq!((counters.settings_failed, counters.packages_failed), (1, 1));
    assert_eq!((counters.settings_superseded, counters.packages_superseded), (1, 1));
    assert_eq!((counters.settings_timed_out, counters.packages_timed_out), (1, 1));
}

fn settings(number: u64) -> ConnectionSettings {
    let opamp = v1::OpAmpConnectionSettings {
        destination_endpoint: format!("wss://opamp.example/v1/opamp/{number}"),
        heartbeat_interval_seconds: 3600,
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    ConnectionSettings::new(offers).expect("good settings")
}

fn packages(number: u64) -> Packages {
    let file = v1::DownloadableFile {
        download_url: format!("https://packages.example/{number}"),
        content_hash: content_hash(b"content"),
        ..Default::default()
    };
    let package =
        v1::PackageAvailable { version: "1.0".into(), file: Some(file), ..Default::default() };
    let packages = v1::PackagesAvailable {
        packages: [("main".to_owned(), package)].into(),
        ..Default::default()
    };
    Packages::new(packages).expect("good packages")
}
