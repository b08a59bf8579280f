//! The registry: sessions, limits, and what an Agent's state keeps.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message, v1};
use opamp_server::core::Part;
use opamp_server::{Changes, Transport};
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
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
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
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
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
    let before = bench.fleet.agent(wire(&UID)).unwrap();
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
    assert_eq!(received.refusal.as_ref().map(|it| it.text()), Some(&*error(&reply).error_message));
    assert_eq!(received.changes, Changes::empty());
    let after = bench.fleet.agent(wire(&UID)).unwrap();
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
    let state = bench.fleet.agent(wire(&UID)).unwrap();
    assert!(state.state().retained_bytes() < 1000);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn what_is_kept_is_counted_exactly() {
    let described = full_report(&UID, 1, MASK);
    let base = described.agent_description.as_ref().map_or(0, Message::encoded_len);
    let sick = |length: usize, letter: &str| {
        let health = v1::ComponentHealth { status: letter.repeat(length), ..Default::default() };
        (health.encoded_len(), health)
    };
    let (size, first) = sick(500, "a");
    let (_, second) = sick(500, "b");
    let (_, third) = sick(501, "c");
    let mut bench = Bench::with(|config| config.max_retained_bytes = base + size);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &described);
    for (number, health, taken) in [(2, first, true), (3, second, true), (4, third, false)] {
        let report = v1::AgentToServer { health: Some(health), ..heartbeat(&UID, number, MASK) };
        let reply = bench.send(&mut route, &report);
        assert_eq!(reply.error_response.is_none(), taken, "{number}");
    }
    let state = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!(state.state().retained_bytes(), base + size);
}

#[test]
fn every_part_is_kept_and_decoded() {
    let _judged = opamp_spec::judges(&["HEALTH-05", "HEALTH-08"]);
    let report = v1::AgentToServer {
        effective_config: Some(v1::EffectiveConfig {
            config_map: Some(remote_config("effective").to_message()),
        }),
        remote_config_status: Some(config_status(b"hash", v1::RemoteConfigStatuses::Failed)),
        package_statuses: Some(v1::PackageStatuses {
            server_provided_all_packages_hash: "packages".into(),
            ..Default::default()
        }),
        custom_capabilities: Some(v1::CustomCapabilities { capabilities: vec!["a.b".into()] }),
        available_components: Some(v1::AvailableComponents {
            hash: "components".into(),
            ..Default::default()
        }),
        connection_settings_status: Some(v1::ConnectionSettingsStatus {
            last_connection_settings_hash: "settings".into(),
            ..Default::default()
        }),
        health: Some(v1::ComponentHealth {
            status: "fine, in no words but the agent's own".into(),
            attributes: vec![
                v1::KeyValue::new("text", "of any kind"),
                v1::KeyValue::new("number", -1_i64),
                v1::KeyValue::new("share", 0.5),
                v1::KeyValue::new("flag", true),
            ],
            ..Default::default()
        }),
        ..full_report(&UID, 1, MASK)
    };
    let mut bench = Bench::new();
    let (_, received) = {
        let mut route = bench.websocket();
        bench.send_bytes(&mut route, &report.encode_to_vec())
    };
    assert_eq!(
        received.changes,
        Changes::from_bits_truncate(0xff) | Changes::CONNECTED | Changes::CAPABILITIES
    );
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
    let state = agent.state();
    assert_eq!(state.agent_description(), report.agent_description);
    assert_eq!(state.health(), report.health);
    assert_eq!(state.effective_config(), report.effective_config);
    assert_eq!(state.remote_config_status(), report.remote_config_status);
    assert_eq!(state.package_statuses(), report.package_statuses);
    assert_eq!(state.custom_capabilities(), report.custom_capabilities);
    assert_eq!(state.available_components(), report.available_components);
    assert_eq!(state.connection_settings_status(), report.connection_settings_status);
    assert_eq!(state.encoded(Part::CustomMessage), None);
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
    let _judged = opamp_spec::judges(&[
        "CAP-09",
        "CAP-10",
        "CAP-13",
        "INTEROP-02",
        "INTEROP-07",
        "INTEROP-08",
    ]);
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
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
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
    assert!(!bench.fleet.agent(wire(&UID)).unwrap().is_connected());
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
    assert!(!bench.fleet.agent(wire(&UID)).unwrap().is_connected());
    assert!(bench.fleet.agent(wire(&OTHER)).unwrap().is_connected());
}

#[test]
fn requests_of_an_http_agent_may_overtake_each_other() {
    let mut bench = Bench::new();
    let (mut first, mut second) = (bench.http(), bench.http());
    let _ = bench.send(&mut second, &full_report(&UID, 2, MASK));
    let late = v1::AgentToServer {
        agent_description: Some(description("late")),
        ..full_report(&UID, 1, MASK)
    };
    let _ = bench.send(&mut first, &late);
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!(agent.state().agent_description(), Some(description("late")));
    assert_eq!(bench.fleet.counters().stale, 0);
}

#[test]
fn a_request_from_before_the_websocket_cannot_hurt_nor_the_other_way_round() {
    for (old, new) in
        [(Transport::Http, Transport::WebSocket), (Transport::WebSocket, Transport::Http)]
    {
        let mut bench = Bench::new();
        let mut old = bench.fleet.open_route(old, None, (), None);
        let mut newer = bench.fleet.open_route(new, None, (), None);
        let _ = bench.send(&mut newer, &full_report(&UID, 5, MASK));
        let _ = bench.send(&mut old, &full_report(&UID, 1, MASK));
        let agent = bench.fleet.agent(wire(&UID)).unwrap();
        assert_eq!((agent.transport(), agent.sequence_num()), (new, 5));
        assert_eq!(bench.fleet.counters().stale, 1);
    }
}

#[test]
fn an_older_connection_that_repeats_the_last_number_does_not_get_the_agent_back() {
    let mut bench = Bench::new();
    let mut old = bench.websocket();
    let _ = bench.post(&full_report(&UID, 5, MASK));
    let late = v1::AgentToServer {
        agent_description: Some(description("late")),
        ..full_report(&UID, 5, MASK)
    };
    let _ = bench.send(&mut old, &late);
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!(agent.transport(), Transport::Http);
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
}

#[test]
fn a_newer_connection_is_a_new_session_though_the_older_one_is_open() {
    let mut bench = Bench::new();
    let mut old = bench.websocket();
    let _ = bench.send(&mut old, &full_report(&UID, 1, MASK));
    let mut new = bench.websocket();
    let (reply, received) = bench.send_bytes(&mut new, &heartbeat(&UID, 2, MASK).encode_to_vec());
    assert_eq!(reply.capabilities, support::SERVER_MASK);
    assert_eq!(received.changes, Changes::CONNECTED);
    assert_eq!(bench.fleet.clone().len(), 1, "a clone is the same registry");
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
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
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
        bench.fleet.take_changes(wire(&UID)).map(|taken| bench.fleet.finish_changes(taken.token));
    assert_eq!(bench.fleet.sweep(bench.now), [wire(&UID).into()]);
    assert!(!bench.fleet.agent(wire(&UID)).unwrap().is_connected());
    assert_eq!(send(&mut bench, 3), Changes::CONNECTED);
}

#[test]
fn a_silent_websocket_agent_stays_connected_and_a_lost_one_is_forgotten() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.advance(Duration::from_secs(100_000));
    let _ = bench.fleet.sweep(bench.now);
    assert!(bench.fleet.agent(wire(&UID)).unwrap().is_connected());
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
    assert_eq!(error(&reply).r#type, UNAVAILABLE);
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
    bench.fleet.set_unavailable(Some(Duration::MAX));
    assert!(bench.fleet.unavailable().is_some());
    let reply = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(error(&reply).r#type, UNAVAILABLE);
    bench.fleet.set_available();
    assert_eq!(bench.send(&mut route, &full_report(&UID, 1, MASK)).error_response, None);
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
    bench.fleet.restart(wire(&UID), bench.now.instant).unwrap();
    bench.fleet.rename(wire(&UID), fresh_uid(9), bench.now.instant).unwrap();
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
    assert_eq!(agents[0].remote_config(), None);
}
