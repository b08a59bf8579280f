//! Custom capabilities and messages, and the components of Agents.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::{Changes, CustomCapabilities, OperationError, ServerConfig};
use support::{Bench, bare, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const MASK: Does = Does::REPORTS_STATUS;
const CHAT: &str = "org.example.chat";

fn able(config: &mut ServerConfig) {
    config.custom_capabilities = CustomCapabilities::new([CHAT, "org.example.log"]).unwrap();
    config.max_custom_messages = 3;
    config.max_custom_bytes = 1000;
}

fn announcing(number: u64, names: &[&str]) -> v1::AgentToServer {
    let capabilities = names.iter().map(|name| (*name).to_owned()).collect();
    v1::AgentToServer {
        custom_capabilities: Some(v1::CustomCapabilities { capabilities }),
        ..full_report(&UID, number, MASK)
    }
}

fn message(capability: &str, data: &[u8]) -> v1::CustomMessage {
    v1::CustomMessage {
        capability: capability.to_owned(),
        r#type: "hello".to_owned(),
        data: data.to_vec().into(),
    }
}

fn saying(number: u64, capability: &str, data: &[u8]) -> v1::AgentToServer {
    let custom_message = Some(message(capability, data));
    v1::AgentToServer { custom_message, ..heartbeat(&UID, number, MASK) }
}

fn send(bench: &Bench, data: &[u8]) -> Result<u64, OperationError> {
    bench.fleet.send_custom_message(wire(&UID), message(CHAT, data), bench.now.instant)
}

fn texts(messages: &[v1::ServerToAgent]) -> Vec<&[u8]> {
    messages.iter().map(|it| &it.custom_message.as_ref().unwrap().data[..]).collect()
}

#[test]
fn the_capabilities_are_told_once_a_session() {
    let _judged = opamp_spec::judges(&["CUST-01", "CUST-02"]);
    let mut bench = Bench::with(able);
    let list = Some(v1::CustomCapabilities {
        capabilities: vec![CHAT.to_owned(), "org.example.log".to_owned()],
    });
    for _ in 0..2 {
        let mut route = bench.websocket();
        let number = 10 * u64::from(bench.fleet.len() as u8);
        assert_eq!(bench.send(&mut route, &announcing(number, &[])).custom_capabilities, list);
        assert_eq!(bench.send(&mut route, &heartbeat(&UID, number + 1, MASK)), bare(&UID));
        let _ = bench.fleet.close_route(route);
    }
    let uid = [8; 16];
    assert_eq!(bench.post(&full_report(&uid, 1, MASK)).custom_capabilities, list);
    assert_eq!(bench.post(&heartbeat(&uid, 2, MASK)).custom_capabilities, None);
    // The same number again: the response did not arrive.
    assert_eq!(bench.post(&heartbeat(&uid, 2, MASK)).custom_capabilities, list);
    // A Server that has none says nothing.
    assert_eq!(Bench::new().post(&full_report(&uid, 1, MASK)).custom_capabilities, None);
}

#[test]
fn messages_go_in_order_to_agents_that_announce_their_capability() {
    let _judged =
        opamp_spec::judges(&["CUST-03", "CUST-04", "CUST-09", "CUST-10", "CUST-12", "CUST-13"]);
    let mut bench = Bench::with(able);
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    assert_eq!(send(&bench, b"a"), Err(OperationError::NotAccepted));
    let _ = bench.send(&mut route, &announcing(2, &[CHAT, "org.example.other"]));
    let other = message("org.example.other", b"a");
    let refused = bench.fleet.send_custom_message(wire(&UID), other, bench.now.instant);
    assert_eq!(refused, Err(OperationError::NotOffered));
    assert_eq!(send(&bench, b"\xff\0"), Ok(1));
    assert_eq!(send(&bench, b"b"), Ok(2));
    assert_eq!(woken.take(), [wire(&UID).into()]);
    assert_eq!(bench.fleet.agent(wire(&UID)).unwrap().custom_messages().waiting, 2);
    assert_eq!(texts(&bench.pushes(&route, &UID)), [&b"\xff\0"[..], b"b"]);
    let counts = bench.fleet.agent(wire(&UID)).unwrap().custom_messages();
    assert_eq!((counts.waiting, counts.sent, counts.last_sent), (0, 2, Some(2)));

    // A list replaces the one before.
    send(&bench, b"c").unwrap();
    let reply = bench.send(&mut route, &announcing(3, &["org.example.log"]));
    assert_eq!(reply.custom_message, None);
    assert_eq!(bench.pushes(&route, &UID), []);
    let counts = bench.fleet.agent(wire(&UID)).unwrap().custom_messages();
    assert_eq!((counts.waiting, counts.sent, counts.not_accepted), (0, 2, 1));
}

#[test]
fn over_http_each_response_has_one_and_what_waits_too_long_is_given_up() {
    let _judged = opamp_spec::judges(&["HTTP-10", "CUST-13"]);
    let mut bench = Bench::with(able);
    let _ = bench.post(&announcing(1, &[CHAT]));
    for data in [b"a", b"b", b"c"] {
        send(&bench, data).unwrap();
    }
    assert_eq!(send(&bench, b"d"), Err(OperationError::QueueFull));
    let replies = [bench.post(&heartbeat(&UID, 2, MASK)), bench.post(&heartbeat(&UID, 3, MASK))];
    assert_eq!(texts(&replies), [b"a", b"b"]);
    // At most once: not again for a message that is repeated.
    bench.advance(Duration::from_secs(300));
    assert_eq!(bench.post(&heartbeat(&UID, 3, MASK)).custom_message, None);
    let counts = bench.fleet.agent(wire(&UID)).unwrap().custom_messages();
    assert_eq!((counts.waiting, counts.sent, counts.expired), (0, 2, 1));
    assert_eq!(send(&bench, &[0; 990]), Err(OperationError::QueueFull), "of too many bytes");
    let counters = bench.fleet.counters();
    assert_eq!((counters.custom_messages_sent, counters.custom_messages_expired), (2, 1));
    assert_eq!(counters.custom_messages_refused, 2);
}

#[test]
fn messages_of_agents_reach_the_handler_in_order_and_bounded() {
    let _judged = opamp_spec::judges(&["CUST-06", "CUST-07", "CUST-11", "CUST-12", "CUST-13"]);
    let mut bench = Bench::with(able);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let finish = |bench: &Bench| {
        let taken = bench.fleet.take_changes(wire(&UID))?;
        assert_eq!(bench.fleet.finish_changes(taken.token), None);
        Some((taken.changes, taken.custom_messages))
    };
    let _ = finish(&bench);
    let retained = bench.fleet.retained_bytes();
    // One the Server does not have is ignored, without an error.
    assert_eq!(bench.send(&mut route, &saying(2, "org.example.none", b"x")), bare(&UID));
    assert!(finish(&bench).is_none());
    for (number, data) in [(3, b"a"), (4, b"b"), (5, b"c"), (6, b"d")] {
        assert_eq!(bench.send(&mut route, &saying(number, CHAT, data)), bare(&UID));
    }
    assert_eq!(bench.fleet.counters().custom_messages_dropped, 1);
    assert!(bench.fleet.retained_bytes() > retained);
    let (changes, messages) = finish(&bench).unwrap();
    assert_eq!(changes, Changes::CUSTOM_MESSAGES);
    assert_eq!(messages, [b"a", b"b", b"c"].map(|data| message(CHAT, data)));
    assert_eq!(bench.fleet.retained_bytes(), retained);
    // A message that is repeated is the same one.
    for _ in 0..2 {
        let _ = bench.send(&mut route, &saying(7, CHAT, b"e"));
    }
    assert_eq!(finish(&bench).unwrap().1, [message(CHAT, b"e")]);
}

#[test]
fn what_agents_sent_counts_and_is_free_again_when_they_are_forgotten() {
    let mut bench = Bench::with(|config| {
        able(config);
        config.max_fleet_bytes = 200;
    });
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let _ = bench.send(&mut route, &saying(2, CHAT, &[0; 100]));
    let _ = bench.send(&mut route, &saying(3, CHAT, &[0; 100]));
    assert_eq!(bench.fleet.counters().custom_messages_dropped, 1);
    let _ = bench.fleet.close_route(route);
    bench.advance(Duration::from_secs(48 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!((bench.fleet.len(), bench.fleet.retained_bytes()), (0, 0));
}

const COMPONENTS: Does = Does::REPORTS_STATUS.union(Does::REPORTS_AVAILABLE_COMPONENTS);
const ASKS: u64 = v1::ServerToAgentFlags::ReportAvailableComponents as u64;

fn components(uid: &[u8], number: u64, hash: &[u8], whole: bool) -> v1::AgentToServer {
    let map = [("receivers".to_owned(), v1::ComponentDetails::default())];
    let components = v1::AvailableComponents {
        components: if whole { map.into() } else { Default::default() },
        hash: hash.to_vec().into(),
    };
    v1::AgentToServer {
        available_components: Some(components),
        ..full_report(uid, number, COMPONENTS)
    }
}

#[test]
fn components_are_asked_for_once_in_all() {
    let _judged = opamp_spec::judges(&["COMP-05", "COMP-08", "COMP-10"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &components(&UID, 1, b"\0h", false)).flags, ASKS);
    // Not again on this session, but on the next.
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, COMPONENTS)).flags, 0);
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, COMPONENTS)).flags, ASKS);
    let snapshot = |bench: &Bench, uid: &[u8]| bench.fleet.agent(wire(uid)).unwrap();
    assert_eq!(bench.fleet.available_components(&snapshot(&bench, &UID)), None);
    assert_eq!(bench.send(&mut route, &components(&UID, 4, b"\0h", true)).flags, 0);
    // The hash alone again, and another Agent with it.
    assert_eq!(bench.send(&mut route, &components(&UID, 5, b"\0h", false)).flags, 0);
    let other = [8; 16];
    assert_eq!(bench.send(&mut route, &components(&other, 1, b"\0h", false)).flags, 0);
    for uid in [UID, other] {
        let known = bench.fleet.available_components(&snapshot(&bench, &uid)).unwrap();
        assert!(known.components.contains_key("receivers"));
    }
    // New components, and an Agent that reports none.
    assert_eq!(bench.send(&mut route, &components(&other, 2, b"new", false)).flags, ASKS);
    let unable = v1::AgentToServer {
        capabilities: Does::REPORTS_STATUS.bits(),
        ..components(&[9; 16], 1, b"unknown", false)
    };
    assert_eq!(bench.send(&mut route, &unable).flags, 0);
}

#[test]
fn components_that_another_agent_has_told_meanwhile_are_not_asked_for() {
    let _judged = opamp_spec::judges(&["COMP-10"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &components(&UID, 1, b"h", false)).flags, ASKS);
    let _ = bench.fleet.close_route(route);
    bench.post(&components(&[8; 16], 1, b"h", true));
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, COMPONENTS)).flags, 0);
    let snapshot = bench.fleet.agent(wire(&UID)).unwrap();
    assert!(bench.fleet.available_components(&snapshot).is_some());
}

#[test]
fn a_server_that_remembers_none_asks_for_none() {
    let mut bench = Bench::with(|config| config.max_remembered_components = 0);
    assert_eq!(bench.post(&components(&UID, 1, b"h", false)).flags, 0);
}
