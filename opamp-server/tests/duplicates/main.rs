//! Two Agents with one instance uid, and Agents that only come back.

mod model;
mod server;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::{AgentKey, Authorizer, Changes, Claim, Denied, Fleet, Transport};
use server::{Server, new_uid, plain};
use support::{FULL_STATE, bare, description, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const COMPANION: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
/// The default time for a sign of life.
const PATIENCE: Duration = Duration::from_secs(5);

fn named(name: &str, number: u64) -> v1::AgentToServer {
    v1::AgentToServer {
        agent_description: Some(description(name)),
        ..full_report(&UID, number, MASK)
    }
}

#[test]
fn the_later_of_two_living_agents_is_renamed_and_the_first_goes_on_undisturbed() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08", "ID-14", "ID-15"]);
    let mut server = Server::new();
    let (mut first, mut second) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    let before = server.fleet.agent(wire(&UID));
    assert_eq!(server.send(&mut second, &named("second", 1)), plain(&UID));
    assert_eq!(server.send(&mut second, &heartbeat(&UID, 2, MASK)), plain(&UID));
    assert!(server.pushes(&second).is_empty(), "nothing is decided yet");

    assert!(server.answer(&first));
    let pushes = server.pushes(&second);
    let new = new_uid(&pushes[0]);
    let told = v1::AgentIdentification { new_instance_uid: new.to_bytes() };
    assert_eq!(pushes, [v1::ServerToAgent { agent_identification: Some(told), ..bare(&UID) }]);
    assert!(new.is_v7());
    assert_eq!(server.fleet.agent(wire(&UID)), before);
    let taken = server.fleet.take_changes(wire(&UID)).expect("changes");
    assert!(taken.changes.contains(Changes::DUPLICATE));

    // It takes it, and is an Agent of its own, which is asked for what it has not told.
    let reply = server.send(&mut second, &heartbeat(new.as_bytes(), 3, MASK));
    assert_eq!(reply.flags, FULL_STATE);
    assert_eq!(server.fleet.len(), 2);
    assert_eq!(second.route.agents(), [AgentKey::from(new)]);
    assert_eq!(server.send(&mut first, &heartbeat(&UID, 2, MASK)), bare(&UID));
    let _ = server.fleet.close_route(second.route);
    assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
    assert!(!server.fleet.agent(new).expect("known").is_connected());
}

#[test]
fn who_comes_back_while_the_old_connection_seems_open_keeps_its_uid() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    for closed in [false, true] {
        let mut server = Server::new();
        let (mut dead, mut again) = (server.websocket(), server.websocket());
        server.send(&mut dead, &named("before", 1));
        assert_eq!(server.send(&mut again, &named("after", 1_000)), plain(&UID));
        if closed {
            let _ = server.fleet.close_route(dead.route);
        } else {
            server.advance(PATIENCE - Duration::from_millis(1));
            assert!(server.pushes(&again).is_empty());
            server.advance(Duration::from_millis(1));
        }
        // It is served where it is, and asked to tell again what was not taken.
        let pushes = server.pushes(&again);
        assert_eq!(pushes.len(), 1, "{closed}");
        assert_eq!((pushes[0].flags, &pushes[0].agent_identification), (FULL_STATE, &None));
        let reply = server.send(&mut again, &named("after", 1_001));
        assert_eq!((reply.flags, reply.agent_identification), (0, None));
        let agent = server.fleet.agent(wire(&UID)).expect("known");
        assert_eq!(agent.state().agent_description(), Some(description("after")));
        assert!(agent.is_connected());
        assert_eq!((server.fleet.len(), server.fleet.counters().duplicates_replaced), (1, 1));
        let _ = server.fleet.close_route(again.route);
        assert!(!server.fleet.agent(wire(&UID)).expect("known").is_connected());
    }
}

#[test]
fn one_that_leaves_and_comes_back_on_its_connection_is_asked_anew() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    for alive in [true, false] {
        let mut server = Server::new();
        let (mut first, mut second) = (server.websocket(), server.websocket());
        server.send(&mut first, &named("first", 1));
        server.send(&mut second, &named("second", 1));
        server.advance(PATIENCE - Duration::from_secs(1));
        let goodbye = v1::AgentToServer {
            agent_disconnect: Some(v1::AgentDisconnect {}),
            ..heartbeat(&UID, 2, MASK)
        };
        server.send(&mut first, &goodbye);
        server.send(&mut first, &named("first", 3));
        server.advance(Duration::from_secs(1));
        assert!(server.pushes(&second).is_empty(), "it has just come");
        if alive {
            server.answer(&first);
            new_uid(&server.pushes(&second)[0]);
        } else {
            server.advance(PATIENCE);
            assert_eq!(server.pushes(&second)[0].flags, FULL_STATE);
        }
    }
}

#[test]
fn who_goes_on_counting_takes_over_without_ado() {
    let _judged = opamp_spec::judges(&["DUP-03", "DUP-05"]);
    let mut server = Server::new();
    let (mut old, mut again) = (server.websocket(), server.websocket());
    server.send(&mut old, &named("agent", 1));
    assert_eq!(server.send(&mut again, &heartbeat(&UID, 2, MASK)), plain(&UID));
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 2);
    assert!(old.line.probes.lock().expect("unpoisoned").is_empty());

    // What the old connection still brings changes nothing, a goodbye least of all.
    let goodbye =
        v1::AgentToServer { agent_disconnect: Some(v1::AgentDisconnect {}), ..named("late", 2) };
    assert_eq!(server.send(&mut old, &named("late", 1)), plain(&UID));
    assert_eq!(server.send(&mut old, &goodbye), plain(&UID));
    assert!(old.route.agents().is_empty());
    server.answer(&again);
    assert!(server.pushes(&old).is_empty(), "who has said goodbye is not told anything");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
    let _ = server.fleet.close_route(old.route);
    assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
    assert_eq!(server.send(&mut again, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn who_goes_on_counting_over_http_is_not_taken_for_a_newcomer_who_asks_over_http() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    let mut server = Server::new();
    let mut first = server.websocket();
    server.send(&mut first, &named("first", 5));
    server.post(&named("second", 100));
    // The first one's connection is lost on its way, and it goes on with requests.
    server.post(&named("moved", 6));
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!((agent.transport(), agent.sequence_num()), (Transport::Http, 6));
    assert_eq!(agent.state().agent_description(), Some(description("moved")));
}

#[test]
fn on_a_shared_connection_the_agent_itself_has_to_be_alive() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    for alive in [true, false] {
        let mut server = Server::new();
        let (mut shared, mut second) = (server.websocket(), server.websocket());
        server.send(&mut shared, &named("first", 1));
        server.send(&mut shared, &full_report(&COMPANION, 1, MASK));
        server.send(&mut second, &named("second", 1));
        assert!(server.answer(&shared));
        assert!(server.pushes(&second).is_empty(), "a pong proves the connection alone");
        let asked = server.pushes(&shared);
        let expected = v1::ServerToAgent { flags: FULL_STATE, ..bare(&UID) };
        assert_eq!(asked, [expected]);
        server.send(&mut shared, &heartbeat(&COMPANION, 2, MASK));
        assert!(server.pushes(&second).is_empty(), "nor does another Agent");
        if alive {
            server.send(&mut shared, &named("first", 2));
            new_uid(&server.pushes(&second)[0]);
        } else {
            server.advance(PATIENCE);
            assert_eq!(server.pushes(&second)[0].flags, FULL_STATE);
            let _ = server.fleet.close_route(shared.route);
            assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
        }
    }
}

#[test]
fn one_that_ignores_its_new_uid_is_told_at_a_pace_and_disturbs_nobody() {
    let _judged = opamp_spec::judges(&["DUP-06", "DUP-08"]);
    let mut server = Server::new();
    let (mut first, mut stubborn) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    server.send(&mut stubborn, &named("stubborn", 1));
    server.answer(&first);
    let new = new_uid(&server.pushes(&stubborn)[0]);
    let mut told = 0;
    for number in 2..122 {
        server.advance(Duration::from_secs(1));
        let reply = server.send(&mut stubborn, &named("stubborn", number));
        if reply.agent_identification.is_some() {
            assert_eq!(new_uid(&reply), new, "the same again");
            told += 1;
        }
        assert!(server.pushes(&stubborn).is_empty());
    }
    assert_eq!(told, 2, "once a minute");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("first")));
    assert_eq!((agent.sequence_num(), server.fleet.len()), (1, 1));

    // When the other one leaves, the uid is free; and should it then take the new one after all, it
    // is still the same Agent.
    let _ = server.fleet.close_route(first.route);
    let _ = server.send(&mut stubborn, &named("stubborn", 200));
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 200);
    let _ = server.send(&mut stubborn, &heartbeat(new.as_bytes(), 201, MASK));
    assert_eq!(server.fleet.len(), 1);
    let agent = server.fleet.agent(new).expect("moved");
    assert_eq!(agent.state().agent_description(), Some(description("stubborn")));
}

#[test]
fn a_whole_fleet_from_one_image_gets_uids_of_its_own() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    let mut server = Server::new();
    let mut first = server.websocket();
    server.send(&mut first, &named("first", 1));
    let mut copies: Vec<_> = (0..100).map(|_| (server.websocket(), 1_000_u64)).collect();
    for round in 0..20 {
        if copies.is_empty() {
            assert!(round > 1, "they are looked at a few at a time");
            break;
        }
        server.advance(Duration::from_secs(1));
        for (socket, number) in &mut copies {
            *number += 1;
            server.send(socket, &named("copy", *number));
        }
        server.answer(&first);
        copies.retain_mut(|(socket, number)| {
            let pushes = server.pushes(socket);
            let Some(told) = pushes.first() else { return true };
            let new = new_uid(told);
            *number += 1;
            server.send(socket, &full_report(new.as_bytes(), *number, MASK));
            false
        });
    }
    assert_eq!((copies.len(), server.fleet.len()), (0, 101));
}

#[test]
fn over_http_a_newcomer_waits_for_the_sign_of_a_websocket() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08"]);
    for alive in [true, false] {
        let mut server = Server::new();
        let mut first = server.websocket();
        server.send(&mut first, &named("first", 100));
        assert_eq!(server.post(&named("second", 1)), plain(&UID));
        if alive {
            server.answer(&first);
        }
        server.advance(PATIENCE);
        let reply = server.post(&named("second", 2));
        let agent = server.fleet.agent(wire(&UID)).expect("known");
        if alive {
            let new = new_uid(&reply);
            assert_eq!(agent.state().agent_description(), Some(description("first")));
            server.post(&full_report(new.as_bytes(), 3, MASK));
            assert_eq!(server.fleet.len(), 2);
        } else {
            assert_eq!(reply.agent_identification, None);
            assert_eq!(agent.transport(), Transport::Http);
            assert_eq!(agent.state().agent_description(), Some(description("second")));
        }
    }
}

#[test]
fn two_agents_on_http_are_told_apart_by_their_numbers() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    let mut server = Server::new();
    server.post(&named("first", 100));
    let mut uid = None;
    for number in 1..=6 {
        let reply = server.post(&named("second", number));
        if reply.agent_identification.is_some() {
            assert_eq!(uid.replace(new_uid(&reply)), None, "told once in a minute");
        }
        let reply = server.post(&named("first", 100 + number));
        assert_eq!(reply.agent_identification, None, "it was there first");
    }
    let new = uid.expect("it was seen");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("first")));
    server.post(&full_report(new.as_bytes(), 7, MASK));
    server.post(&named("first", 107));
    assert_eq!(server.fleet.len(), 2);

    // A copy that was told long ago is forgotten: its next number may be anybody's.
    server.advance(Duration::from_secs(100));
    let reply = server.post(&named("first", 7));
    assert_eq!(reply.agent_identification, None);
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 7);

    // One that starts anew, and whose last request of before comes late, is one.
    let mut server = Server::new();
    for number in [100, 1, 101, 2, 3, 1, 2, 4, 5] {
        assert_eq!(server.post(&named("agent", number)).agent_identification, None);
    }
}

/// What a connection still brings that is older than the Agent's requests may have been on its way
/// since before.
#[test]
fn who_goes_back_to_an_older_websocket_is_served_there_when_it_has_told_everything_anew() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    let mut server = Server::new();
    let mut older = server.websocket();
    server.post(&named("requests", 10));
    let asked = v1::ServerToAgent { flags: FULL_STATE, ..plain(&UID) };
    let transport = |server: &Server| server.fleet.agent(wire(&UID)).expect("known").transport();
    // Neither what is complete and was not asked for, nor what was and is not complete.
    for message in [named("late", 5), heartbeat(&UID, 6, MASK)] {
        assert_eq!(server.send(&mut older, &message), asked);
        assert_eq!(transport(&server), Transport::Http);
    }
    assert_eq!(server.send(&mut older, &named("back", 7)).flags, 0);
    assert_eq!(transport(&server), Transport::WebSocket);
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("back")));
}

/// Nobody may speak under another uid than this.
struct Pinned;

impl Authorizer<()> for Pinned {
    fn authorize(&self, claim: Claim<'_, ()>) -> Result<(), Denied> {
        claim.only(wire(&UID))
    }
}

#[test]
fn a_duplicate_that_may_have_no_other_uid_is_refused() {
    let _judged = opamp_spec::judges(&["DUP-03", "DUP-04", "DUP-07"]);
    let mut server = Server::new();
    server.fleet = Fleet::with_authorizer(server.fleet.config().clone(), Pinned);
    let (mut first, mut second) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    assert_eq!(server.send(&mut second, &named("second", 1)), plain(&UID));
    server.answer(&first);
    assert!(server.pushes(&second).is_empty());
    let error = server.send(&mut second, &named("second", 2)).error_response.expect("an error");
    assert!(error.error_message.contains("another Agent"), "{}", error.error_message);
    assert_eq!(server.fleet.counters().denied, 1);
    assert_eq!(server.send(&mut first, &heartbeat(&UID, 2, MASK)), bare(&UID));
}
