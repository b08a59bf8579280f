//! Agents that are given another instance uid: ID-09, ID-14, ID-15.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message, v1};
use opamp_server::{Changes, OperationError, Transport};
use support::{Bench, bare, description, fresh_uid, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);

#[test]
fn a_requested_uid_is_made_and_taken_over() {
    let _judged = opamp_spec::judges(&["ID-09", "ID-10", "ID-14", "ID-15"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let reply = bench.send(&mut route, &report);
    let new = fresh_uid(1);
    assert!(new.is_v7());
    assert_eq!(reply.instance_uid, &UID[..], "still addressed to the old id");
    let identification = reply.agent_identification.expect("a new uid");
    assert_eq!(identification.new_instance_uid, new.to_bytes());
    assert_eq!(bench.fleet.agent(wire(&UID)).unwrap().new_instance_uid(), Some(new));

    // Asked again, the answer is the same; unasked there is none.
    report.sequence_num = 2;
    let again = bench.send(&mut route, &report).agent_identification;
    assert_eq!(again.expect("a new uid").new_instance_uid, new.to_bytes());
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)), bare(&UID));

    // Under the new id the sequence goes on, and so does the state.
    let (reply, received) =
        bench.send_bytes(&mut route, &heartbeat(new.as_bytes(), 4, MASK).encode_to_vec());
    assert_eq!(reply, bare(new.as_bytes()));
    assert_eq!(received.changes, Changes::INSTANCE_UID);
    assert_eq!(bench.fleet.len(), 1);
    assert_eq!(bench.fleet.agent(wire(&UID)), None);
    let agent = bench.fleet.agent(new).unwrap();
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
    assert_eq!(agent.new_instance_uid(), None);
    assert!(agent.is_connected());
    let _ = bench.fleet.close_route(route);
    assert!(!bench.fleet.agent(new).unwrap().is_connected());
}

#[test]
fn an_agent_that_keeps_its_uid_is_served_and_told_on_each_session() {
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let new = fresh_uid(99);
    bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
    assert_eq!(woken.take(), [wire(&UID).into()]);
    let told = |reply: &v1::ServerToAgent| reply.agent_identification.is_some();
    assert!(told(&bench.pushes(&route, &UID)[0]));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
    let mut route = bench.websocket();
    assert!(told(&bench.send(&mut route, &heartbeat(&UID, 3, MASK))));
    // Until the rename expires.
    bench.advance(Duration::from_secs(24 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    let mut route = bench.websocket();
    assert!(!told(&bench.send(&mut route, &heartbeat(&UID, 4, MASK))));
    let reply = bench.send(&mut route, &full_report(new.as_bytes(), 5, MASK));
    assert_eq!(reply.error_response, None);
    assert_eq!(bench.fleet.len(), 2, "an Agent of its own by now");
}

#[test]
fn an_expired_rename_is_neither_pushed_nor_told() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.fleet.rename(wire(&UID), fresh_uid(9), bench.now.instant).unwrap();
    bench.advance(Duration::from_secs(24 * 60 * 60));
    assert_eq!(bench.pushes(&route, &UID), []);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
}

#[test]
fn a_uid_whose_rename_has_expired_is_free() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let _ = bench.send(&mut route, &report);
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, MASK));
    bench.advance(Duration::from_secs(24 * 60 * 60));
    let now = bench.now.instant;
    assert_eq!(bench.fleet.rename(wire(&OTHER), fresh_uid(1), now), Ok(()));
    // Asked again, the Agent gets another.
    report.sequence_num = 2;
    let identification = bench.send(&mut route, &report).agent_identification;
    assert_eq!(identification.expect("a uid").new_instance_uid, fresh_uid(2).to_bytes());
}

#[test]
fn a_uid_is_given_to_one_agent_only() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, MASK));
    let now = bench.now.instant;
    let rename =
        |uid: &[u8], new: opamp_proto::InstanceUid| bench.fleet.rename(wire(uid), new, now);
    assert_eq!(rename(&UID, OTHER.into()), Err(OperationError::UidInUse));
    let new = fresh_uid(1);
    assert_eq!(rename(&UID, new), Ok(()));
    assert_eq!(rename(&OTHER, new), Err(OperationError::UidInUse));
    // Given another one, the Agent may still take the first.
    assert_eq!(rename(&UID, fresh_uid(2)), Ok(()));
    assert_eq!(rename(&OTHER, new), Err(OperationError::UidInUse));
    assert_eq!(rename(&UID, fresh_uid(2)), Ok(()));
    assert_eq!(rename(&[1; 16], fresh_uid(3)), Err(OperationError::UnknownAgent));
    assert_eq!(rename(&UID, fresh_uid(3)), Ok(()), "which is free");
}

#[test]
fn an_agent_may_take_the_uid_it_was_given_first_and_then_the_second() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let (first, second) = (fresh_uid(1), fresh_uid(2));
    for new in [first, second] {
        bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
        assert_eq!(bench.pushes(&route, &UID).len(), 1);
    }
    assert_eq!(
        bench.send(&mut route, &heartbeat(first.as_bytes(), 2, MASK)),
        bare(first.as_bytes())
    );
    assert_eq!(bench.fleet.agent(first).unwrap().new_instance_uid(), Some(second));
    let reply = bench.send(&mut route, &heartbeat(second.as_bytes(), 3, MASK));
    assert_eq!(reply, bare(second.as_bytes()));
    assert_eq!(bench.fleet.len(), 1);
    let agent = bench.fleet.agent(second).unwrap();
    assert_eq!((agent.new_instance_uid(), agent.sequence_num()), (None, 3));
}

#[test]
fn of_many_uids_an_agent_was_given_it_may_take_the_last_four() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, MASK));
    let now = bench.now.instant;
    for made in 1..=5 {
        bench.fleet.rename(wire(&UID), fresh_uid(made), now).unwrap();
    }
    assert_eq!(bench.fleet.rename(wire(&OTHER), fresh_uid(1), now), Ok(()), "it is free again");
    for (made, number) in [(2, 2), (4, 3), (3, 4), (5, 5)] {
        let uid = fresh_uid(made);
        let _ = bench.send(&mut route, &heartbeat(uid.as_bytes(), number, MASK));
        assert_eq!(bench.fleet.agent(uid).unwrap().sequence_num(), number);
        assert_eq!(bench.fleet.len(), 2);
    }
}

#[test]
fn a_uid_given_to_one_agent_is_not_taken_by_its_successor_under_the_old_uid() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.fleet.rename(wire(&UID), fresh_uid(1), bench.now.instant).unwrap();
    bench.fleet.rename(wire(&UID), fresh_uid(2), bench.now.instant).unwrap();
    let _ = bench.send(&mut route, &heartbeat(fresh_uid(2).as_bytes(), 2, MASK));
    // A newcomer has the old uid; the uid that was left over is still the other one's.
    let newcomer = v1::AgentToServer {
        agent_description: Some(description("newcomer")),
        ..full_report(&UID, 1, MASK)
    };
    let _ = bench.send(&mut route, &newcomer);
    let _ = bench.send(&mut route, &full_report(fresh_uid(1).as_bytes(), 3, MASK));
    assert_eq!(bench.fleet.len(), 2);
    assert_eq!(bench.fleet.agent(fresh_uid(1)).unwrap().sequence_num(), 3);
    let newcomer = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!(newcomer.state().agent_description(), Some(description("newcomer")));
}

#[test]
fn a_rename_while_its_changes_are_queued_queues_them_anew() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let (_, received) = bench.send_bytes(&mut route, &report.encode_to_vec());
    assert!(received.queue);
    let new = fresh_uid(1);
    let (_, received) =
        bench.send_bytes(&mut route, &heartbeat(new.as_bytes(), 2, MASK).encode_to_vec());
    assert!(received.queue, "who has the old uid in a queue will find nothing");
    assert!(bench.fleet.take_changes(wire(&UID)).is_none());
    let taken = bench.fleet.take_changes(new).expect("changes");
    assert!(taken.changes.contains(Changes::INSTANCE_UID | Changes::AGENT_DESCRIPTION));
}

#[test]
fn a_rename_while_its_changes_are_handled_loses_nothing() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let _ = bench.send(&mut route, &report);
    let taken = bench.fleet.take_changes(wire(&UID)).expect("changes");
    let new = fresh_uid(1);
    let (_, received) =
        bench.send_bytes(&mut route, &heartbeat(new.as_bytes(), 2, MASK).encode_to_vec());
    assert!(!received.queue, "the one who handles the Agent will be told");
    // An Agent that takes the old uid meanwhile is another one.
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(bench.fleet.finish_changes(taken.token), Some(new.into()));
    let taken = bench.fleet.take_changes(new).expect("the rename");
    assert_eq!(taken.changes, Changes::INSTANCE_UID);
}

/// Threads that send, rename, configure and sweep at the same time: nobody waits for ever, and in
/// the end the registry has counted right.
#[test]
fn the_registry_serves_many_threads() {
    let bench = Bench::with(|config| config.shards = 2);
    let now = bench.now;
    let fleet = &bench.fleet;
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                let mut route = fleet.open_route(Transport::WebSocket, None, (), None);
                let mut made = 0_u16;
                let mut fresh = || {
                    made += 1;
                    let [high, low] = made.to_be_bytes();
                    let random = [thread, high, low, 0, 0, 0, 0, 0, 0, 0];
                    opamp_proto::InstanceUid::from_parts(1, random)
                };
                let mut uid = wire(&[thread; 16]);
                for number in 0..500 {
                    let mut report = full_report(uid.as_bytes(), number, MASK);
                    report.flags = u64::from(number % 3 == 0);
                    let mut out = Vec::new();
                    let bytes = report.encode_to_vec();
                    let received = fleet.receive(&mut route, &bytes, now, &mut fresh, &mut out);
                    assert_eq!(received.refusal, None);
                    if received.queue
                        && let Some(taken) = fleet.take_changes(uid)
                    {
                        let _ = fleet.finish_changes(taken.token);
                    }
                    let reply = v1::ServerToAgent::decode(&out[..]).expect("a reply");
                    if let Some(identification) = reply.agent_identification {
                        uid = wire(&identification.new_instance_uid);
                    }
                }
            });
        }
        scope.spawn(|| {
            for number in 0..200 {
                fleet.set_default_remote_config(remote_config(&number.to_string())).unwrap();
                for agent in fleet.agents() {
                    let _ = fleet.request_full_state(agent.uid());
                    let _ = fleet.rename(agent.uid(), fresh_uid(200), now.instant);
                }
                let _ = fleet.sweep(now);
            }
        });
    });
    assert_eq!(fleet.len(), fleet.agents().len());
    assert_eq!(fleet.agents().iter().filter(|agent| agent.is_connected()).count(), 4);
    let retained = fleet.agents().iter().map(|agent| agent.state().retained_bytes()).sum::<usize>();
    assert_eq!(fleet.retained_bytes(), retained);
}

#[test]
fn a_successor_under_the_old_uid_stays_on_its_route_when_the_new_uid_is_used() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.fleet.close_route(route);
    let new = fresh_uid(1);
    bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
    bench.advance(Duration::from_secs(24 * 60 * 60 - 1));
    bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
    bench.advance(Duration::from_secs(1));
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.is_empty(), "forgotten, while its rename is not");

    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut route, &full_report(new.as_bytes(), 1, MASK));
    assert_eq!(route.agents().len(), 2);
    let _ = bench.fleet.close_route(route);
    assert!(bench.fleet.agents().iter().all(|agent| !agent.is_connected()));
}
