//! When what has changed is saved, and who is told that it is.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::ConnectionSettings;
use opamp_server::fleet::SaveWaker;
use support::disk::{Disk, config, restart, save, saving, send_and_save, start};
use support::{Bench, FULL_STATE, full_report, heartbeat, remote_config, wire};

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

/// Over HTTP a reply is composed at once, where nothing has changed; not before that is saved.
#[test]
fn a_repetition_over_http_of_what_is_not_saved_is_answered_when_it_is() {
    let _judged = opamp_spec::judges(&["RETRY-05"]);
    let mut bench = saving();
    let report = full_report(&UID, 1, MASK).encode_to_vec();
    let mut route = bench.http();
    let first = bench.send_bytes(&mut route, &report).1.unsaved.expect("news");
    let batch = bench.fleet.take_unsaved(bench.now, false, 1_000_000).expect("a batch");
    let mut route = bench.http();
    let again = bench.send_bytes(&mut route, &report).1.unsaved.expect("not yet saved");
    assert_eq!(first.unsaved, again.unsaved);
    bench.fleet.saved(batch);
    let mut out = Vec::new();
    let tail = bench.fleet.reply(*again, bench.now, &mut out);
    out.extend_from_slice(tail.as_deref().unwrap_or_default());
    let reply = v1::ServerToAgent::decode(&out[..]).expect("a reply");
    assert_eq!((&reply.instance_uid[..], reply.error_response), (&UID[..], None));
    assert!(bench.send_bytes(&mut route, &report).1.unsaved.is_none());
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mask = MASK | Does::REPORTS_HEALTH | Does::REPORTS_EFFECTIVE_CONFIG;
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, mask));
    let health = Some(v1::ComponentHealth { healthy: true, ..Default::default() });
    let report = v1::AgentToServer { health, ..full_report(&UID, 2, mask) };
    let _ = bench.send_bytes(&mut route, &report.encode_to_vec());
    let batch = bench.fleet.take_unsaved(bench.now, false, 1_000_000).expect("a batch");
    // The Agent's number and its health.
    assert_eq!(batch.changes().len(), 2, "{batch:?}");
    bench.fleet.saved(batch);
    assert!(bench.fleet.take_unsaved(bench.now, false, 1_000_000).is_none());
}

#[test]
fn an_agent_that_announces_more_is_written_before_it_is_answered() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    let mask = MASK | Does::REPORTS_HEARTBEAT;
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &heartbeat(&UID, 2, mask));
    restart(&mut bench, &disk);
    assert_eq!(bench.fleet.agent(wire(&UID)).expect("known").capabilities(), mask);
}

#[test]
fn who_asks_for_a_save_is_told_when_it_is_done() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    assert!(bench.fleet.take_unsaved(bench.now, false, 1_000_000).is_none());
    let generation = bench.fleet.request_save();
    assert!(!bench.fleet.is_saved(generation));
    let batch = bench.fleet.take_unsaved(bench.now, false, 1_000_000).expect("it was asked for");
    assert!(batch.changes().is_empty());
    assert!(!bench.fleet.is_saved(generation));
    bench.fleet.saved(batch);
    assert!(bench.fleet.is_saved(generation));
}

/// What is handed out in several batches may change between them.
#[test]
fn settings_that_are_wanted_while_a_generation_is_handed_out_follow_with_the_next() {
    let _judged = opamp_spec::judges(&["CONN-09"]);
    let mut disk = Disk::default();
    let mut bench = Bench::new();
    let mut config = config();
    config.shards = 1;
    bench.fleet = start(&disk, bench.now, config).0;
    let (mut route, woken) = bench.woken_websocket();
    for uid in [UID, [8; 16]] {
        let _ = bench.send_bytes(&mut route, &full_report(&uid, 1, MASK).encode_to_vec());
    }
    // The one that came last is written first.
    let batch = bench.fleet.take_unsaved(bench.now, false, 1).expect("a batch");
    bench.fleet.set_connection_settings(wire(&UID), settings()).expect("accepted");
    let _ = woken.take();
    let offered = |bench: &Bench| {
        bench.pushes(&route, &UID).iter().any(|push| push.connection_settings.is_some())
    };
    let mut batch = Some(batch);
    let held = bench.fleet.settings_held_until(wire(&UID));
    while let Some(written) = batch {
        disk.write(&written);
        bench.fleet.saved(written);
        let saved = bench.fleet.is_saved(held);
        assert_eq!(woken.take().contains(&wire(&UID).into()), saved);
        assert_eq!(offered(&bench), saved);
        batch = bench.fleet.take_unsaved(bench.now, false, 1);
        assert_eq!(batch.is_none(), saved);
    }
}

#[test]
fn settings_for_all_are_stored_before_they_are_offered_and_wait_for_nothing_else() {
    let _judged = opamp_spec::judges(&["CONN-09"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let (mut route, woken) = bench.woken_websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    bench.fleet.set_default_connection_settings(settings()).expect("they fit");
    let _ = woken.take();
    assert_eq!(bench.pushes(&route, &UID), []);
    assert!(!bench.fleet.is_saved(bench.fleet.settings_held_until(wire(&UID))));
    bench.fleet.set_default_remote_config(remote_config("all")).expect("it fits");
    let _ = woken.take();
    save(&bench, &mut disk, false);
    assert_eq!(woken.take(), [wire(&UID).into()]);

    bench.fleet.set_default_remote_config(remote_config("another")).expect("it fits");
    assert!(bench.fleet.is_saved(bench.fleet.settings_held_until(wire(&UID))));
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes[0].connection_settings, Some(settings().to_message()));
}
