//! The registry: identities, sessions, routes, limits, and what an Agent's state keeps.

mod support;

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message, v1};
use opamp_server::core::Part;
use opamp_server::{Changes, OperationError, Transport};
use support::{
    Bench, bare, config_status, description, fresh_uid, full_report, heartbeat, remote_config, wire,
};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
const BAD_REQUEST: i32 = v1::ServerErrorResponseType::BadRequest as i32;
const UNAVAILABLE: i32 = v1::ServerErrorResponseType::Unavailable as i32;

fn error(reply: &v1::ServerToAgent) -> &v1::ServerErrorResponse {
    let error = reply.error_response.as_ref().expect("an error");
    let only = v1::ServerToAgent {
        instance_uid: reply.instance_uid.clone(),
        error_response: Some(error.clone()),
        ..Default::default()
    };
    assert_eq!(*reply, only, "nothing goes with an error but the uid");
    error
}

#[test]
fn an_omitted_part_keeps_its_value() {
    let _judged = opamp_spec::judges(&["DELTA-03", "STATUS-06", "CAP-15"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mask = MASK | Does::from_bits_retain(1 << 40);
    let _ = bench.send(&mut route, &full_report(&UID, 1, mask));
    let health = v1::ComponentHealth { status: "new".into(), ..Default::default() };
    let report = v1::AgentToServer { health: Some(health.clone()), ..heartbeat(&UID, 2, mask) };
    let _ = bench.send(&mut route, &report);
    // A mask of 0 is no change.
    let _ = bench.send(&mut route, &heartbeat(&UID, 3, Does::empty()));
    let agent = bench.fleet.agent(&wire(&UID)).unwrap();
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
    assert_eq!(agent.state().health(), Some(health));
    assert_eq!(agent.capabilities(), mask);
    assert_eq!(agent.sequence_num(), 3);
}

#[test]
fn changes_say_what_is_new_and_nothing_else() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let report = full_report(&UID, 1, MASK).encode_to_vec();
    let (_, first) = bench.send_bytes(&mut route, &report);
    assert_eq!(
        first.changes,
        Changes::CONNECTED | Changes::CAPABILITIES | Changes::AGENT_DESCRIPTION | Changes::HEALTH
    );
    let (_, same) = bench.send_bytes(&mut route, &full_report(&UID, 2, MASK).encode_to_vec());
    assert_eq!(same.changes, Changes::empty());
    let report = v1::AgentToServer {
        agent_description: Some(description("new")),
        ..full_report(&UID, 3, MASK)
    };
    let (_, changed) = bench.send_bytes(&mut route, &report.encode_to_vec());
    assert_eq!(changed.changes, Changes::AGENT_DESCRIPTION);
}

#[test]
fn unknown_fields_and_values_survive() {
    let _judged = opamp_spec::judges(&["INTEROP-06", "INTEROP-11"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.health = None;
    let mut status = config_status(b"hash", v1::RemoteConfigStatuses::Applied);
    status.status = 99;
    report.remote_config_status = Some(status.clone());
    let mut bytes = report.encode_to_vec();
    // A health with a field of a later version, and such a field beside it.
    let health = [0x08, 0x01, 0xf8, 0x07, 0x2a];
    bytes.extend([5 << 3 | 2, health.len() as u8]);
    bytes.extend(health);
    bytes.extend([0xf8, 0x07, 0x2a]);
    let (reply, _) = bench.send_bytes(&mut route, &bytes);
    assert_eq!(reply.error_response, None);
    let agent = bench.fleet.agent(&wire(&UID)).unwrap();
    assert!(agent.state().health().unwrap().healthy);
    assert_eq!(agent.state().encoded(Part::Health).unwrap()[..], health);
    assert_eq!(agent.state().remote_config_status(), Some(status));
}

#[test]
fn a_malformed_part_is_named_and_changes_nothing() {
    let _judged = opamp_spec::judges(&["ERR-01", "ERR-03", "ERR-11", "ERR-12", "ERR-13", "ID-10"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let before = bench.fleet.agent(&wire(&UID)).unwrap();
    let report = v1::AgentToServer {
        agent_description: Some(description("new")),
        ..heartbeat(&UID, 2, MASK | Does::REPORTS_OWN_LOGS)
    };
    let mut bytes = report.encode_to_vec();
    bytes.extend([5 << 3 | 2, 2, 0x22, 9]);
    let (reply, received) = bench.send_bytes(&mut route, &bytes);
    assert_eq!(reply.instance_uid, &UID[..]);
    assert_eq!(error(&reply).r#type, BAD_REQUEST);
    assert!(error(&reply).error_message.contains("AgentToServer.health"), "{reply:?}");
    assert_eq!(received.changes, Changes::empty());
    let after = bench.fleet.agent(&wire(&UID)).unwrap();
    assert_eq!(after.state(), before.state());
    assert_eq!(bench.fleet.counters().malformed, 1);
    // The session goes on.
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn what_is_kept_of_a_large_report_is_bounded() {
    let mut bench = Bench::with(|config| config.max_retained_bytes = 1000);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let health = v1::ComponentHealth { status: "x".repeat(1000), ..Default::default() };
    let report = v1::AgentToServer { health: Some(health), ..heartbeat(&UID, 2, MASK) };
    let reply = bench.send(&mut route, &report);
    assert_eq!(error(&reply).r#type, BAD_REQUEST);
    let state = bench.fleet.agent(&wire(&UID)).unwrap();
    assert!(state.state().retained_bytes() < 1000);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn a_missing_or_odd_uid_is_malformed() {
    let _judged = opamp_spec::judges(&["ERR-11", "ERR-12", "ID-10"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    for (uid, echo) in [
        (&[][..], &[][..]),
        (&[1; 15], &[1; 15]),
        (&[1; 17], &[1; 17]),
        (b"01H455VB4PEX5VSKNK084SN02Q", b"01H455VB4PEX5VSKNK084SN02Q"),
        (&[1; 37], &[]),
    ] {
        let reply = bench.send(&mut route, &full_report(uid, 1, MASK));
        assert_eq!(error(&reply).r#type, BAD_REQUEST);
        assert!(error(&reply).error_message.contains("instance_uid"));
        assert_eq!(reply.instance_uid, echo);
    }
    assert!(bench.fleet.is_empty());
}

#[test]
fn a_legacy_uid_is_served_under_its_own_bytes_when_tolerated() {
    let mut bench = Bench::with(|config| config.tolerances.legacy_instance_uid = true);
    let mut route = bench.websocket();
    let forms: [&[u8]; 3] = [
        b"01H455VB4PEX5VSKNK084SN02Q",
        b"0123456789abcdef0123456789abcdef",
        b"01234567-89ab-cdef-0123-456789abcdef",
    ];
    for uid in forms {
        let reply = bench.send(&mut route, &full_report(uid, 1, MASK));
        assert_eq!((reply.instance_uid.as_ref(), reply.error_response), (uid, None));
    }
    assert_eq!(bench.fleet.len(), 3);
    assert_eq!(bench.fleet.counters().legacy_instance_uids, 3);
    let reply = bench.send(&mut route, &full_report(&[1; 26], 1, MASK));
    assert_eq!(error(&reply).r#type, BAD_REQUEST);
}

#[test]
fn bytes_that_are_no_message_are_answered_too() {
    let _judged = opamp_spec::judges(&["STATUS-07", "ERR-11", "ERR-12"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let (reply, _) = bench.send_bytes(&mut route, &[0xff; 40]);
    assert_eq!((error(&reply).r#type, reply.instance_uid.len()), (BAD_REQUEST, 0));
    let mut bytes = heartbeat(&UID, 1, MASK).encode_to_vec();
    bytes.push(0xff);
    let (reply, _) = bench.send_bytes(&mut route, &bytes);
    assert_eq!((error(&reply).r#type, &reply.instance_uid[..]), (BAD_REQUEST, &UID[..]));
}

#[test]
fn the_mask_is_in_the_first_good_reply_to_each_agent_on_each_connection() {
    let _judged = opamp_spec::judges(&["CAP-09", "CAP-10", "CAP-13", "INTEROP-02", "INTEROP-08"]);
    let mut bench = Bench::with(|config| {
        config.capabilities = opamp_proto::ServerCapabilities::from_bits_retain(0x8000_0002);
    });
    let mut route = bench.websocket();
    let mut bytes = full_report(&UID, 1, MASK).encode_to_vec();
    bytes.extend([5 << 3 | 2, 1, 0xff]);
    let (reply, _) = bench.send_bytes(&mut route, &bytes);
    assert_eq!(reply.capabilities, 0, "an error goes alone");
    assert_eq!(bench.send(&mut route, &full_report(&UID, 2, MASK)).capabilities, 3);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)).capabilities, 0);
    assert_eq!(bench.send(&mut route, &full_report(&OTHER, 1, MASK)).capabilities, 3);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 4, MASK)).capabilities, 3);
    assert_eq!(bench.post(&full_report(&[9; 16], 1, MASK)).capabilities, 3);
    assert_eq!(bench.post(&heartbeat(&[9; 16], 2, MASK)).capabilities, 3);
}

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
    assert_eq!(bench.fleet.agent(&wire(&UID)).unwrap().new_instance_uid(), Some(new));

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
    assert_eq!(bench.fleet.agent(&wire(&UID)), None);
    let agent = bench.fleet.agent(&new.into()).unwrap();
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
    assert_eq!(agent.new_instance_uid(), None);
    assert!(agent.is_connected());
    let _ = bench.fleet.close_route(route);
    assert!(!bench.fleet.agent(&new.into()).unwrap().is_connected());
}

#[test]
fn an_agent_that_keeps_its_uid_is_served_and_told_on_each_session() {
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let new = fresh_uid(99);
    bench.fleet.rename(&wire(&UID), new, bench.now.instant).unwrap();
    assert_eq!(woken.take(), [wire(&UID)]);
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
fn a_uid_is_given_to_one_agent_only() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut route, &full_report(&OTHER, 1, MASK));
    let now = bench.now.instant;
    let rename =
        |uid: &[u8], new: opamp_proto::InstanceUid| bench.fleet.rename(&wire(uid), new, now);
    assert_eq!(rename(&UID, OTHER.into()), Err(OperationError::UidInUse));
    let new = fresh_uid(1);
    assert_eq!(rename(&UID, new), Ok(()));
    assert_eq!(rename(&OTHER, new), Err(OperationError::UidInUse));
    // Given another one, the Agent leaves the first one free.
    assert_eq!(rename(&UID, fresh_uid(2)), Ok(()));
    assert_eq!(rename(&OTHER, new), Ok(()));
    assert_eq!(rename(&[1; 16], fresh_uid(3)), Err(OperationError::UnknownAgent));
    assert_eq!(rename(&UID, fresh_uid(3)), Ok(()), "which is free as well");
}

#[test]
fn goodbye_ends_the_session_at_once_and_is_answered() {
    let _judged = opamp_spec::judges(&["CLOSE-07", "CLOSE-10", "STATUS-07"]);
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let goodbye = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        agent_description: Some(description("last words")),
        ..heartbeat(&UID, 2, MASK)
    };
    let (reply, received) = bench.send_bytes(&mut route, &goodbye.encode_to_vec());
    assert_eq!(reply, bare(&UID));
    assert_eq!(received.changes, Changes::AGENT_DESCRIPTION | Changes::DISCONNECTED);
    let agent = bench.fleet.agent(&wire(&UID)).unwrap();
    assert!(!agent.is_connected());
    assert_eq!(agent.state().agent_description(), Some(description("last words")));
    assert!(route.agents().is_empty());
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    assert!(woken.take().is_empty());
    // A later message begins a new session.
    let (reply, received) = bench.send_bytes(&mut route, &heartbeat(&UID, 3, MASK).encode_to_vec());
    assert_eq!(reply.capabilities, support::SERVER_MASK);
    assert_eq!(received.changes, Changes::CONNECTED);
}

#[test]
fn a_goodbye_can_be_the_first_message() {
    let mut bench = Bench::new();
    let goodbye = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        ..heartbeat(&UID, 1, MASK)
    };
    let mut route = bench.websocket();
    let reply = bench.send(&mut route, &goodbye);
    assert_eq!(reply, v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&UID) });
    assert!(!bench.fleet.agent(&wire(&UID)).unwrap().is_connected());
}

#[test]
fn the_loss_of_a_connection_ends_the_sessions_of_its_agents() {
    let _judged = opamp_spec::judges(&["CLOSE-11", "ID-11"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    for uid in [UID, OTHER] {
        let _ = bench.send(&mut route, &full_report(&uid, 1, MASK));
    }
    // One of them has moved on.
    let mut next = bench.websocket();
    let _ = bench.send(&mut next, &heartbeat(&OTHER, 2, MASK));
    let _ = bench.fleet.close_route(route);
    assert!(!bench.fleet.agent(&wire(&UID)).unwrap().is_connected());
    assert!(bench.fleet.agent(&wire(&OTHER)).unwrap().is_connected());
}

#[test]
fn what_an_old_connection_still_brings_cannot_hurt() {
    let mut bench = Bench::new();
    let mut old = bench.websocket();
    let mut new = bench.websocket();
    let _ = bench.send(&mut old, &full_report(&UID, 1, MASK));
    let fresh = v1::AgentToServer {
        agent_description: Some(description("fresh")),
        ..full_report(&UID, 3, MASK)
    };
    let _ = bench.send(&mut new, &fresh);
    let stale = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        ..full_report(&UID, 2, MASK)
    };
    let reply = bench.send(&mut old, &stale);
    assert_eq!((reply.flags, reply.error_response), (0, None));
    let agent = bench.fleet.agent(&wire(&UID)).unwrap();
    assert!(agent.is_connected());
    assert_eq!(agent.state().agent_description(), Some(description("fresh")));
    assert_eq!(bench.fleet.counters().stale, 1);
    // Nothing goes to the old connection but the acknowledgement.
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    bench.fleet.request_full_state(&wire(&UID)).unwrap();
    bench.fleet.rename(&wire(&UID), fresh_uid(1), bench.now.instant).unwrap();
    let stale = full_report(&UID, 2, MASK | Does::ACCEPTS_REMOTE_CONFIG);
    let reply = bench.send(&mut old, &stale);
    assert_eq!(reply, v1::ServerToAgent { capabilities: support::SERVER_MASK, ..bare(&UID) });
    assert_eq!(bench.pushes(&old, &UID), []);
    assert_eq!(bench.pushes(&new, &UID).len(), 1);
    let _ = bench.fleet.close_route(old);
    assert!(bench.fleet.agent(&wire(&UID)).unwrap().is_connected());
}

#[test]
fn an_agent_that_goes_on_counting_may_return_to_an_older_connection() {
    let mut bench = Bench::new();
    let mut first = bench.websocket();
    let mut second = bench.websocket();
    let _ = bench.send(&mut first, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut second, &heartbeat(&UID, 2, MASK));
    let report = v1::AgentToServer {
        agent_description: Some(description("back")),
        ..heartbeat(&UID, 3, MASK)
    };
    let _ = bench.send(&mut first, &report);
    let agent = bench.fleet.agent(&wire(&UID)).unwrap();
    assert_eq!(agent.state().agent_description(), Some(description("back")));
}

#[test]
fn an_http_agent_has_one_session_over_many_requests_until_it_is_silent() {
    let mut bench = Bench::new();
    let send = |bench: &mut Bench, number| {
        let mut route = bench.http();
        let bytes = heartbeat(&UID, number, MASK).encode_to_vec();
        bench.send_bytes(&mut route, &bytes).1.changes
    };
    assert!(send(&mut bench, 1).contains(Changes::CONNECTED));
    bench.advance(Duration::from_millis(89_999));
    assert_eq!(bench.fleet.sweep(bench.now), []);
    assert_eq!(send(&mut bench, 2), Changes::empty());
    bench.advance(Duration::from_secs(90));
    let _ =
        bench.fleet.take_changes(&wire(&UID)).map(|taken| bench.fleet.finish_changes(taken.token));
    assert_eq!(bench.fleet.sweep(bench.now), [wire(&UID)]);
    assert!(!bench.fleet.agent(&wire(&UID)).unwrap().is_connected());
    assert_eq!(send(&mut bench, 3), Changes::CONNECTED);
}

#[test]
fn a_silent_websocket_agent_stays_connected_and_a_lost_one_is_forgotten() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.advance(Duration::from_secs(100_000));
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.agent(&wire(&UID)).unwrap().is_connected());
    let _ = bench.fleet.close_route(route);
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.is_empty());
}

#[test]
fn a_full_registry_is_unavailable_for_newcomers_only() {
    let _judged = opamp_spec::judges(&["ERR-08", "THR-01"]);
    let mut bench = Bench::with(|config| config.max_agents = 1);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let reply = bench.send(&mut route, &full_report(&OTHER, 1, MASK));
    assert_eq!(error(&reply).r#type, UNAVAILABLE);
    assert_eq!(reply.instance_uid, &OTHER[..]);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
    // Room again.
    let _ = bench.fleet.close_route(route);
    bench.advance(Duration::from_secs(24 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &full_report(&OTHER, 1, MASK)).error_response, None);
}

#[test]
fn a_connection_carries_a_bounded_number_of_agents() {
    let mut bench = Bench::with(|config| config.max_agents_per_connection = 2);
    let mut route = bench.websocket();
    for number in 1..=2 {
        let reply = bench.send(&mut route, &full_report(&[number; 16], 1, MASK));
        assert_eq!(reply.error_response, None);
    }
    let reply = bench.send(&mut route, &full_report(&[3; 16], 1, MASK));
    assert_eq!(error(&reply).r#type, BAD_REQUEST);
    assert_eq!(bench.fleet.len(), 2);
    let goodbye = v1::AgentToServer {
        agent_disconnect: Some(v1::AgentDisconnect {}),
        ..heartbeat(&[1; 16], 2, MASK)
    };
    let _ = bench.send(&mut route, &goodbye);
    let reply = bench.send(&mut route, &full_report(&[3; 16], 2, MASK));
    assert_eq!(reply.error_response, None);
}

#[test]
fn an_overloaded_server_says_so_and_for_how_long() {
    let _judged = opamp_spec::judges(&["THR-01", "THR-03", "ERR-08", "ERR-10"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    bench.fleet.set_unavailable(Some(Duration::from_secs(40)));
    let reply = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(error(&reply).r#type, UNAVAILABLE);
    let Some(v1::server_error_response::Details::RetryInfo(info)) = &error(&reply).details else {
        panic!("no retry info: {reply:?}");
    };
    assert_eq!(info.retry_after_nanoseconds, 40_000_000_000);
    bench.fleet.set_unavailable(None);
    let reply = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!((error(&reply).r#type, error(&reply).details.as_ref()), (UNAVAILABLE, None));
    bench.fleet.set_available();
    assert_eq!(bench.send(&mut route, &full_report(&UID, 1, MASK)).error_response, None);
}

#[test]
fn changes_are_handed_out_to_one_at_a_time_and_add_up() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let (_, first) = bench.send_bytes(&mut route, &full_report(&UID, 1, MASK).encode_to_vec());
    assert!(first.queue);
    let taken = bench.fleet.take_changes(&wire(&UID)).expect("changes");
    assert_eq!(taken.changes, first.changes);
    assert!(bench.fleet.take_changes(&wire(&UID)).is_none());

    // While they are handled, more come in; nobody else is told to handle them.
    for (number, name) in [(2, "a"), (3, "b")] {
        let report = v1::AgentToServer {
            agent_description: Some(description(name)),
            ..heartbeat(&UID, number, MASK)
        };
        let (_, received) = bench.send_bytes(&mut route, &report.encode_to_vec());
        assert!(!received.queue);
    }
    assert!(bench.fleet.take_changes(&wire(&UID)).is_none());
    assert_eq!(bench.fleet.finish_changes(taken.token), Some(wire(&UID)));
    let taken = bench.fleet.take_changes(&wire(&UID)).expect("more changes");
    assert_eq!(taken.changes, Changes::AGENT_DESCRIPTION);
    assert_eq!(taken.agent.state().agent_description(), Some(description("b")));
    assert_eq!(bench.fleet.finish_changes(taken.token), None);
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
    assert_eq!(bench.fleet.poll_handled(&uid, ticket, &mut cx), Poll::Pending);
    let taken = bench.fleet.take_changes(&uid).expect("changes");
    assert_eq!(bench.fleet.poll_handled(&uid, ticket, &mut cx), Poll::Pending);
    bench.fleet.set_remote_config(&uid, remote_config("from the handler")).unwrap();
    let _ = bench.fleet.finish_changes(taken.token);
    assert_eq!(bench.fleet.poll_handled(&uid, ticket, &mut cx), Poll::Ready(()));
    assert_eq!(bench.fleet.poll_handled(&wire(&OTHER), 9, &mut cx), Poll::Ready(()));
    let mut out = Vec::new();
    let _ = bench.fleet.reply(accepted, bench.now, &mut out);
    assert!(!out.is_empty());
}

#[test]
fn a_rename_while_its_changes_are_handled_loses_nothing() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let _ = bench.send(&mut route, &report);
    let taken = bench.fleet.take_changes(&wire(&UID)).expect("changes");
    let new = fresh_uid(1);
    let (_, received) =
        bench.send_bytes(&mut route, &heartbeat(new.as_bytes(), 2, MASK).encode_to_vec());
    assert!(!received.queue, "the one who handles the Agent will be told");
    // An Agent that takes the old uid meanwhile is another one.
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(bench.fleet.finish_changes(taken.token), Some(new.into()));
    let taken = bench.fleet.take_changes(&new.into()).expect("the rename");
    assert_eq!(taken.changes, Changes::INSTANCE_UID);
}

/// Threads that send, rename, configure and sweep at the same time: nobody waits for ever, and in the
/// end the registry has counted right.
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
                        && let Some(taken) = fleet.take_changes(&uid)
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
}

#[test]
fn spans_of_any_length_are_taken() {
    let mut bench = Bench::with(|config| {
        config.command_expiry = Duration::MAX;
        config.rename_expiry = Duration::MAX;
        config.offer_pause = Duration::MAX;
        config.full_state_pause = Duration::MAX;
        config.http_offline_after = Duration::MAX;
        config.retain_disconnected = Duration::MAX;
    });
    let mut report = full_report(&UID, 1, MASK | Does::ACCEPTS_RESTART_COMMAND);
    report.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let _ = bench.post(&report);
    bench.fleet.restart(&wire(&UID), bench.now.instant).unwrap();
    bench.fleet.rename(&wire(&UID), fresh_uid(9), bench.now.instant).unwrap();
    bench.advance(Duration::from_secs(1_000_000_000));
    let _ = bench.fleet.sweep(bench.now);
    assert!(
        bench.post(&heartbeat(&UID, 2, MASK | Does::ACCEPTS_RESTART_COMMAND)).command.is_some()
    );
}

#[test]
fn snapshots_say_where_and_when_an_agent_was_seen() {
    let mut bench = Bench::new();
    let _ = bench.post(&full_report(&UID, 5, MASK));
    let seen = bench.now.system;
    bench.advance(Duration::from_secs(10));
    let agents = bench.fleet.agents();
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0].uid(), &wire(&UID));
    assert_eq!(agents[0].transport(), Transport::Http);
    assert_eq!(agents[0].last_seen(), seen);
    assert_eq!(agents[0].remote_addr(), None);
    assert_eq!(agents[0].desired_config_hash(), None);
}
