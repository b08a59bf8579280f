//! When what has changed is saved, and who is told that it is.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::ConnectionSettings;
use opamp_server::fleet::SaveWaker;
use support::disk::{Disk, save, saving, send_and_save};
use support::{Bench, FULL_STATE, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS);

fn settings() -> ConnectionSettings {
    let opamp = v1::OpAmpConnectionSettings {
        destination_endpoint: "wss://a.example/".to_owned(),
        heartbeat_interval_seconds: 30,
        ..Default::default()
    };
    let settings = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    ConnectionSettings::new(settings).expect("valid settings")
}

#[test]
fn settings_of_one_agent_follow_as_soon_as_they_are_stored() {
    let _judged = opamp_spec::judges(&["CONN-09"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let (mut route, woken) = bench.woken_websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    bench.fleet.set_connection_settings(wire(&UID), settings()).unwrap();
    let _ = woken.take();
    save(&bench, &mut disk, false);
    assert_eq!(woken.take(), [wire(&UID).into()]);
    // Once: what is saved afterwards is nothing to it.
    let mut other = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut other, &full_report(&[8; 16], 1, MASK));
    assert_eq!(woken.take(), []);
}

/// Counts how often the writer is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl SaveWaker for Wakes {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_writer_is_woken_once_for_all_that_it_writes_together() {
    let mut bench = Bench::new();
    let wakes = Arc::<Wakes>::default();
    bench.fleet.begin_saving(Arc::clone(&wakes) as _);
    let woken = || wakes.0.swap(0, Ordering::Relaxed);
    let mut route = bench.websocket();
    for agents in [0..10_u8, 10..20] {
        for agent in agents {
            let report = full_report(&[agent; 16], 1, MASK).encode_to_vec();
            let (_, received) = bench.send_bytes(&mut route, &report);
            assert!(received.unsaved.is_some());
        }
        assert_eq!(woken(), 1);
        save(&bench, &mut Disk::default(), false);
    }
}

#[test]
fn an_agent_that_was_told_to_come_back_is_asked_then_for_what_it_owes() {
    let _judged = opamp_spec::judges(&["SEQ-05"]);
    let mask = MASK | Does::REPORTS_HEALTH;
    for (number, flags) in [(2, 0), (3, FULL_STATE)] {
        let (mut bench, mut disk) = (saving(), Disk::default());
        let mut route = bench.websocket();
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, mask));
        let report = v1::AgentToServer {
            health: Some(v1::ComponentHealth { healthy: true, ..Default::default() }),
            ..heartbeat(&UID, number, mask)
        };
        let received = bench.send_bytes(&mut route, &report.encode_to_vec()).1;
        let unsaved = received.unsaved.expect("news");
        bench.fleet.answer_unsaved(*unsaved, Duration::from_secs(30), &mut Vec::new());
        save(&bench, &mut disk, false);
        let reply = bench.send(&mut route, &heartbeat(&UID, number + 1, mask));
        assert_eq!(reply.flags, flags, "{number}");
    }
}
