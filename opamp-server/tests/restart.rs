//! What an Agent and its operator notice of a restart of the Server, in virtual time.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _, content_hash, v1};
use opamp_server::{ConnectionSettings, Outcome, Packages, Transport};
use support::disk::{Disk, config, restart, save, saving, send_and_save, start};
use support::{Bench, bare, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const HOUR: Duration = Duration::from_secs(60 * 60);

const POLLS: Does = Does::REPORTS_STATUS
    .union(Does::REPORTS_HEARTBEAT)
    .union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS)
    .union(Does::REPORTS_CONNECTION_SETTINGS_STATUS);

fn settings(seconds: u64) -> ConnectionSettings {
    let opamp = v1::OpAmpConnectionSettings {
        destination_endpoint: "https://opamp.example/v1/opamp".to_owned(),
        heartbeat_interval_seconds: seconds,
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    ConnectionSettings::new(offers).expect("good settings")
}

/// An Agent that agreed to poll every ten minutes is not gone after the 90 seconds of one that
/// agreed to nothing, although it has no reason to tell its status again.
#[test]
fn an_interval_that_was_agreed_to_holds_after_a_restart() {
    let _judged = opamp_spec::judges(&["HB-08", "CLOSE-08"]);
    for transport in [Transport::Http, Transport::WebSocket] {
        let (mut bench, mut disk) = (saving(), Disk::default());
        let mut route = bench.fleet.open_route(transport, None, (), None);
        let settings = settings(600);
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, POLLS));
        bench.fleet.set_connection_settings(wire(&UID), settings.clone()).expect("accepted");
        save(&bench, &mut disk, false);
        let status = v1::ConnectionSettingsStatus {
            last_connection_settings_hash: settings.hash().as_bytes().to_vec().into(),
            status: v1::ConnectionSettingsStatuses::Applied.into(),
            ..Default::default()
        };
        let status = v1::AgentToServer {
            connection_settings_status: Some(status),
            ..heartbeat(&UID, 2, POLLS)
        };
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &status);
        restart(&mut bench, &disk);
        assert_eq!(bench.fleet.agent(wire(&UID)).expect("known").transport(), transport);

        let mut route = bench.fleet.open_route(transport, None, (), None);
        let _ = bench.send(&mut route, &heartbeat(&UID, 3, POLLS));
        let mut gone_after = None;
        for minute in 1..60 {
            bench.advance(Duration::from_secs(60));
            let _ = bench.fleet.sweep(bench.now);
            if !bench.fleet.agent(wire(&UID)).expect("known").is_connected() {
                gone_after = Some(minute);
                break;
            }
        }
        assert_eq!(gone_after, Some(31), "{transport:?}");
    }
}

/// Nobody can be heard by a Server that is down, be it for a weekend, or by a clock that was wrong.
#[test]
fn a_server_that_was_down_for_long_forgets_nobody() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&OTHER, 1, POLLS));
    let _ = bench.fleet.close_route(route);
    bench.advance(20 * HOUR);
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, POLLS));
    bench.fleet.set_remote_config(wire(&UID), remote_config("own")).expect("known");
    save(&bench, &mut disk, true);

    bench.advance(72 * HOUR);
    let restored = restart(&mut bench, &disk);
    assert_eq!((restored.agents, restored.forgotten), (2, 0));
    let _ = bench.fleet.sweep(bench.now);
    let agent = bench.fleet.agent(wire(&UID)).expect("it is known");
    assert!(agent.remote_config().expect("what was set").is_own());
    // When it was seen is told as it was.
    assert_eq!(agent.last_seen() + 72 * HOUR, bench.now.system);

    // What was left of the time of the one that is gone is left.
    bench.advance(4 * HOUR);
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.agent(wire(&OTHER)).is_none());
    assert!(bench.fleet.agent(wire(&UID)).is_some());
    bench.advance(20 * HOUR);
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.is_empty());
}

fn components(uid: &[u8], number: u64, whole: bool) -> v1::AgentToServer {
    let mask = Does::REPORTS_STATUS | Does::REPORTS_AVAILABLE_COMPONENTS;
    let receivers = ("receivers".to_owned(), v1::ComponentDetails::default());
    v1::AgentToServer {
        available_components: Some(v1::AvailableComponents {
            components: whole.then_some(receivers).into_iter().collect(),
            hash: "hash".into(),
        }),
        ..full_report(uid, number, mask)
    }
}

/// Who told the components that a hash stands for may be forgotten over a restart. Those who have
/// told the hash alone are asked then.
#[test]
fn components_that_nobody_knows_any_more_are_asked_for_again() {
    let _judged = opamp_spec::judges(&["COMP-08", "COMP-10"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &components(&OTHER, 1, true));
    let _ = bench.fleet.close_route(route);
    bench.advance(23 * HOUR);
    let mut route = bench.websocket();
    let asks = v1::ServerToAgentFlags::ReportAvailableComponents as u64;
    let told = send_and_save(&mut bench, &mut disk, &mut route, &components(&UID, 1, false));
    assert_eq!(told.flags & asks, 0);
    save(&bench, &mut disk, true);

    // As long as somebody knows, nobody is asked.
    let mask = Does::REPORTS_STATUS | Does::REPORTS_AVAILABLE_COMPONENTS;
    restart(&mut bench, &disk);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, mask)).flags, 0);
    bench.advance(2 * HOUR);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(bench.fleet.len(), 1);
    save(&bench, &mut disk, true);

    restart(&mut bench, &disk);
    let snapshot = bench.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(bench.fleet.available_components(&snapshot), None);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, mask)).flags, asks);
    let again = bench.send(&mut route, &heartbeat(&UID, 4, mask));
    assert_eq!(v1::ServerToAgent { custom_capabilities: None, ..again }, bare(&UID));
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &components(&UID, 5, true));
    let snapshot = bench.fleet.agent(wire(&UID)).expect("known");
    assert!(bench.fleet.available_components(&snapshot).is_some());
}

/// However much a few Agents report, it is written a little at a time.
#[test]
fn a_batch_ends_with_the_agent_that_makes_it_large() {
    let mut bench = saving();
    let mut route = bench.websocket();
    let size = 100_000;
    for number in 0..50 {
        let file = v1::AgentConfigFile { body: vec![b'x'; size].into(), ..Default::default() };
        let map = v1::AgentConfigMap { config_map: [(String::new(), file)].into() };
        let report = v1::AgentToServer {
            effective_config: Some(v1::EffectiveConfig { config_map: Some(map) }),
            ..full_report(&[number; 16], 1, POLLS)
        };
        let _ = bench.send_bytes(&mut route, &report.encode_to_vec());
    }
    let mut agents = 0;
    while let Some(batch) = bench.fleet.take_unsaved(bench.now, false, 2 * size) {
        let written: usize = batch.changes().iter().map(|change| change.size()).sum();
        assert!(written < 4 * size, "{written}");
        agents += batch.changes().iter().filter(|change| change.size() > size).count();
        bench.fleet.saved(batch);
    }
    assert_eq!(agents, 50);
}

/// As what is revoked, which lies beside the registry in the same store.
#[test]
fn what_others_keep_in_the_store_is_left_alone() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, POLLS));
    let beside = [&[0x50][..], &[7; 32]].concat();
    disk.0.insert(beside.clone(), b"somebody's".to_vec());
    restart(&mut bench, &disk);
    assert!(bench.fleet.agent(wire(&UID)).is_some());
    save(&bench, &mut disk, true);
    assert_eq!(disk.0.get(&beside), Some(&b"somebody's".to_vec()));
}

#[test]
fn what_has_timed_out_has_timed_out_after_a_restart() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let mask = Does::REPORTS_STATUS | Does::ACCEPTS_REMOTE_CONFIG | Does::REPORTS_REMOTE_CONFIG;
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, mask));
    bench.fleet.set_remote_config(wire(&UID), remote_config("own")).unwrap();
    assert_eq!(bench.pushes(&route, &UID).len(), 1);
    save(&bench, &mut disk, true);
    bench.advance(Duration::from_secs(600));
    let _ = bench.fleet.sweep(bench.now);
    save(&bench, &mut disk, true);
    restart(&mut bench, &disk);
    let state = bench.fleet.agent(wire(&UID)).unwrap().remote_config().unwrap();
    assert_eq!(state.outcome(), Outcome::TimedOut);
    // So it is told and counted once.
    assert_eq!(bench.fleet.sweep(bench.now), []);
    assert_eq!(bench.fleet.counters().configs_timed_out, 0);
}

/// Of each kind, for one Agent and for all.
#[test]
fn what_is_wanted_is_wanted_after_a_restart() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let mask = POLLS | Does::ACCEPTS_REMOTE_CONFIG | Does::ACCEPTS_PACKAGES;
    for uid in [UID, OTHER] {
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&uid, 1, mask));
    }
    let fleet = &bench.fleet;
    fleet.set_default_remote_config(remote_config("all")).expect("it fits");
    fleet.set_default_connection_settings(settings(10)).expect("they fit");
    fleet.set_default_packages(packages("all")).expect("they fit");
    fleet.set_remote_config(wire(&UID), remote_config("own")).expect("accepted");
    fleet.set_connection_settings(wire(&UID), settings(20)).expect("accepted");
    fleet.set_packages(wire(&UID), packages("own")).expect("accepted");
    save(&bench, &mut disk, false);
    restart(&mut bench, &disk);
    for (uid, text, seconds, own) in [(UID, "own", 20, true), (OTHER, "all", 10, false)] {
        let agent = bench.fleet.agent(wire(&uid)).expect("known");
        let wanted = [agent.remote_config(), agent.connection_settings(), agent.packages()];
        let wanted = wanted.map(|state| state.map(|state| (state.hash(), state.is_own())));
        let hashes =
            [remote_config(text).hash().into(), settings(seconds).hash(), packages(text).hash()];
        assert_eq!(wanted, hashes.map(|hash| Some((hash, own))));
        assert_eq!(bench.fleet.connection_settings(wire(&uid)), Some(settings(seconds)));
        let mut route = bench.websocket();
        let offer = bench.send(&mut route, &heartbeat(&uid, 2, mask));
        assert_eq!(offer.packages_available, Some(packages(text).to_message()));
        assert_eq!(offer.connection_settings, Some(settings(seconds).to_message()));
        assert_eq!(
            offer.remote_config.and_then(|it| it.config),
            Some(remote_config(text).to_message())
        );
    }
}

fn packages(content: &str) -> Packages {
    let file = v1::DownloadableFile {
        download_url: "https://packages.example/file".to_owned(),
        content_hash: content_hash(content.as_bytes()),
        ..Default::default()
    };
    let package =
        v1::PackageAvailable { version: "1.0".into(), file: Some(file), ..Default::default() };
    let packages = [("main".to_owned(), package)].into();
    Packages::new(v1::PackagesAvailable { packages, ..Default::default() }).expect("good packages")
}

#[test]
fn an_agent_is_remembered_for_as_long_as_is_configured_also_by_a_restart() {
    for (longer, known) in [(Duration::ZERO, false), (Duration::from_millis(1), true)] {
        let (mut bench, mut disk) = (saving(), Disk::default());
        let mut route = bench.websocket();
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&OTHER, 1, POLLS));
        bench.advance(24 * HOUR - longer);
        let mut route = bench.websocket();
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, POLLS));
        let restored = restart(&mut bench, &disk);
        assert_eq!(
            (restored.agents, restored.forgotten),
            (1 + usize::from(known), usize::from(!known))
        );
        assert_eq!(bench.fleet.agent(wire(&OTHER)).is_some(), known);
    }
}

/// An Agent that was forgotten, and comes back before the store has heard of that.
#[test]
fn who_comes_back_as_another_has_nothing_of_what_was_forgotten() {
    let polls = POLLS | Does::REPORTS_HEALTH | Does::ACCEPTS_REMOTE_CONFIG;
    for gone_again in [false, true] {
        let mut disk = Disk::default();
        let mut bench = Bench::new();
        let mut config = config();
        config.shards = 1;
        bench.fleet = start(&disk, bench.now, config).0;
        let mut route = bench.websocket();
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, polls));
        bench.fleet.set_remote_config(wire(&UID), remote_config("own")).expect("known");
        save(&bench, &mut disk, true);
        let _ = bench.fleet.close_route(route);
        bench.advance(24 * HOUR);
        let _ = bench.fleet.sweep(bench.now);
        assert!(bench.fleet.is_empty());

        let mut route = bench.websocket();
        let report = v1::AgentToServer { health: None, ..full_report(&UID, 1, POLLS) };
        let _ = bench.send_bytes(&mut route, &report.encode_to_vec());
        let mut other = bench.websocket();
        let _ = bench.send_bytes(&mut other, &full_report(&OTHER, 1, POLLS).encode_to_vec());
        if gone_again {
            // The other one is written, and then it is forgotten once more.
            let batch = bench.fleet.take_unsaved(bench.now, false, 1).expect("a batch");
            disk.write(&batch);
            bench.fleet.saved(batch);
            let _ = bench.fleet.close_route(route);
            bench.advance(24 * HOUR);
            let _ = bench.fleet.sweep(bench.now);
            assert_eq!(bench.fleet.len(), 1);
        }
        save(&bench, &mut disk, true);
        save(&bench, &mut disk, true);
        // The version, and of each Agent its vitals and its description.
        assert_eq!(disk.0.len(), if gone_again { 3 } else { 5 }, "{disk:?}");
        restart(&mut bench, &disk);
        match bench.fleet.agent(wire(&UID)) {
            Some(agent) => {
                assert!(!gone_again);
                assert_eq!((agent.state().health(), agent.remote_config()), (None, None));
            }
            None => assert!(gone_again),
        }
    }
}
