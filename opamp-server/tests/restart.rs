//! What an Agent and its operator notice of a restart of the Server, in virtual time.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::{ConnectionSettings, Transport};
use support::disk::{Disk, restart, save, saving, send_and_save};
use support::{full_report, heartbeat, remote_config, wire};

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

/// An Agent that agreed to poll every ten minutes is not gone after the 90 seconds of one that agreed
/// to nothing, although it has no reason to tell its status again.
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
