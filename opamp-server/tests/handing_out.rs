//! Changes on their way to whoever handles them.

mod support;

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message, v1};
use opamp_server::Changes;
use support::{Bench, description, fresh_uid, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);

#[test]
fn changes_are_handed_out_to_one_at_a_time_and_add_up() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let (_, first) = bench.send_bytes(&mut route, &full_report(&UID, 1, MASK).encode_to_vec());
    assert!(first.queue);
    let taken = bench.fleet.take_changes(wire(&UID)).expect("changes");
    assert_eq!(taken.changes, first.changes);
    assert!(bench.fleet.take_changes(wire(&UID)).is_none());

    // While they are handled, more come in; nobody else is told to handle them.
    for (number, name) in [(2, "a"), (3, "b")] {
        let report = v1::AgentToServer {
            agent_description: Some(description(name)),
            ..heartbeat(&UID, number, MASK)
        };
        let (_, received) = bench.send_bytes(&mut route, &report.encode_to_vec());
        assert!(!received.queue);
    }
    assert!(bench.fleet.take_changes(wire(&UID)).is_none());
    assert_eq!(bench.fleet.finish_changes(taken.token), Some(wire(&UID).into()));
    let taken = bench.fleet.take_changes(wire(&UID)).expect("more changes");
    assert_eq!(taken.changes, Changes::AGENT_DESCRIPTION);
    assert_eq!(taken.agent.state().agent_description(), Some(description("b")));
    assert_eq!(bench.fleet.finish_changes(taken.token), None);
    assert!(bench.fleet.take_changes(wire(&UID)).is_none(), "there is nothing new");
    let (_, heartbeat) = bench.send_bytes(&mut route, &heartbeat(&UID, 4, MASK).encode_to_vec());
    assert!(!heartbeat.queue);
}

#[test]
fn who_waits_for_the_handling_is_told_when_his_changes_were_handled() {
    let bench = Bench::new();
    let mut route = bench.http();
    let mut cx = Context::from_waker(Waker::noop());
    let mut fresh = || fresh_uid(1);
    let bytes = full_report(&UID, 1, MASK).encode_to_vec();
    let accepted = bench.fleet.accept(&mut route, &bytes, bench.now, &mut fresh);
    let ticket = accepted.ticket;
    let uid = wire(&UID);
    assert_eq!(bench.fleet.poll_handled(uid, ticket, &mut cx), Poll::Pending);
    let taken = bench.fleet.take_changes(uid).expect("changes");
    assert_eq!(bench.fleet.poll_handled(uid, ticket, &mut cx), Poll::Pending);
    bench.fleet.set_remote_config(uid, remote_config("from the handler")).unwrap();
    let _ = bench.fleet.finish_changes(taken.token);
    assert_eq!(bench.fleet.poll_handled(uid, ticket, &mut cx), Poll::Ready(()));
    assert_eq!(bench.fleet.poll_handled(wire(&OTHER), 9, &mut cx), Poll::Ready(()));
    let mut out = Vec::new();
    let _ = bench.fleet.reply(accepted, bench.now, &mut out);
    assert!(!out.is_empty());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn who_waits_is_woken_for_his_own_changes_and_when_the_agent_is_gone() {
    let mut bench = Bench::new();
    let wakes = std::sync::Arc::new(Wakes::default());
    let waker = Waker::from(std::sync::Arc::clone(&wakes));
    let mut cx = Context::from_waker(&waker);
    let woken = || wakes.0.load(std::sync::atomic::Ordering::SeqCst);
    let uid = wire(&UID);
    let accept = |bench: &Bench, report: &v1::AgentToServer| {
        let mut route = bench.http();
        let bytes = report.encode_to_vec();
        bench.fleet.accept(&mut route, &bytes, bench.now, &mut || fresh_uid(1)).ticket
    };
    let first = accept(&bench, &full_report(&UID, 1, MASK));
    let taken = bench.fleet.take_changes(uid).expect("changes");
    let report = v1::AgentToServer {
        agent_description: Some(description("second")),
        ..heartbeat(&UID, 2, MASK)
    };
    let second = accept(&bench, &report);
    for _ in 0..3 {
        assert_eq!(bench.fleet.poll_handled(uid, second, &mut cx), Poll::Pending);
    }
    assert_eq!(bench.fleet.finish_changes(taken.token), Some(uid.into()));
    assert_eq!(woken(), 1, "once, however often it was polled");
    assert_eq!(bench.fleet.poll_handled(uid, first, &mut cx), Poll::Ready(()));
    assert_eq!(bench.fleet.poll_handled(uid, second, &mut cx), Poll::Pending);
    // Nobody handles the second; the Agent is forgotten.
    bench.advance(Duration::from_secs(100));
    let _ = bench.fleet.sweep(bench.now);
    bench.advance(Duration::from_secs(100_000));
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(woken(), 2);
    assert_eq!(bench.fleet.poll_handled(uid, second, &mut cx), Poll::Ready(()));
}
