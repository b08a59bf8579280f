//! Custom messages from the server to the application, and what the server announces.

use bytes::Bytes;
use opamp_proto::{Message, frame, v1};

use super::custom::{CHAT, LOGS, announcement, message, settled, settled_with};
use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{acknowledgement, seconds};
use crate::core::{ConnectionAction, Event, PeerMisbehaved, Transport};

#[test]
fn received_messages_reach_the_application_unchanged_and_in_order() {
    let _judged = opamp_spec::judges(&["CUST-11", "CUST-12", "CUST-13"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let sent = [message(CHAT, "\0\u{1}"), message(LOGS, ""), message(CHAT, "3")];
        for message in sent.clone() {
            receive(&mut pair, transport, message);
        }
        assert_eq!(pair.events(), sent.map(Event::CustomMessage));
    }
}

fn receive(pair: &mut Pair, transport: Transport, message: v1::CustomMessage) {
    if transport == Http {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
    pair.receive(v1::ServerToAgent { custom_message: Some(message), ..acknowledgement() });
}

#[test]
fn messages_of_what_the_agent_lacks_are_ignored_and_seen() {
    let _judged = opamp_spec::judges(&["CUST-06"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        receive(&mut pair, transport, message("com.example.other", "x"));
        let ignored = PeerMisbehaved::NotAnnounced("custom_message");
        assert_eq!(pair.events(), [Event::PeerMisbehaved(ignored)]);
        pair.expect_silence();
    }
}

#[test]
fn a_received_message_does_not_keep_what_it_came_in() {
    let mut pair = settled(WebSocket);
    let sent =
        v1::ServerToAgent { custom_message: Some(message(CHAT, "hello")), ..acknowledgement() };
    let bytes = frame::encode(&sent);
    let range = bytes.as_ptr_range();
    let inside = |data: &Bytes| range.contains(&data.as_ptr());
    let decoded = v1::ServerToAgent::decode(bytes.slice(1..)).expect("as encoded");
    assert!(inside(&decoded.custom_message.expect("there").data), "decoding alone copies nothing");
    pair.receive_bytes(bytes.clone());
    let [Event::CustomMessage(received)] = &pair.events()[..] else { panic!("it came") };
    assert!(!inside(&received.data));
}

#[test]
fn received_messages_that_have_no_room_are_missed_visibly() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let mut pair = settled_with(WebSocket, |config| {
        config.max_custom_messages = 3;
        config.max_custom_bytes = 100;
    });
    // Any size is taken where nothing waits.
    let huge = "x".repeat(200);
    for data in [&*huge, "1", "2"] {
        receive(&mut pair, WebSocket, message(CHAT, data));
    }
    let lost = Event::CustomMessagesLost { count: 2 };
    assert_eq!(pair.events(), [Event::CustomMessage(message(CHAT, &huge)), lost]);
    for data in ["1", "2", "3", "4"] {
        receive(&mut pair, WebSocket, message(CHAT, data));
    }
    let taken = pair.core.poll_event();
    assert_eq!(taken, Some(Event::CustomMessage(message(CHAT, "1"))));
    receive(&mut pair, WebSocket, message(CHAT, "5"));
    let events = pair.events();
    assert_eq!(events.last(), Some(&Event::CustomMessagesLost { count: 2 }));
    assert_eq!(events.len(), 3);
}

#[test]
fn room_for_received_messages_is_counted_in_bytes_and_given_back() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let half = message(CHAT, &"x".repeat(30));
    let more = message(CHAT, &"x".repeat(31));
    let size = half.capability.len() + half.r#type.len() + half.data.len();
    let mut pair = settled_with(WebSocket, |config| config.max_custom_bytes = 2 * size);
    for sent in [&half, &half] {
        receive(&mut pair, WebSocket, sent.clone());
    }
    assert_eq!(pair.core.poll_event(), Some(Event::CustomMessage(half.clone())));
    for sent in [&half, &message(CHAT, "")] {
        receive(&mut pair, WebSocket, sent.clone());
    }
    let taken = || Event::CustomMessage(half.clone());
    assert_eq!(pair.events(), [taken(), taken(), Event::CustomMessagesLost { count: 1 }]);
    receive(&mut pair, WebSocket, half.clone());
    receive(&mut pair, WebSocket, more);
    assert_eq!(pair.events(), [taken(), Event::CustomMessagesLost { count: 1 }]);
}

#[test]
fn another_server_has_announced_nothing() {
    let _judged = opamp_spec::judges(&["CUST-04"]);
    let mut pair = settled(WebSocket);
    assert!(pair.core.server_custom_capabilities().is_some());
    pair.core.leave_for_other_settings(pair.now);
    pair.expect_goodbye();
    let close = pair.core.poll_connection(pair.now);
    assert!(matches!(close, Some(ConnectionAction::Close { .. })));
    pair.closed_by_server(1000);
    pair.connect();
    assert_eq!(pair.core.server_custom_capabilities(), None);
}

#[test]
fn the_servers_capabilities_are_known_and_bounded() {
    let _judged = opamp_spec::judges(&["CUST-03"]);
    let mut pair = settled(WebSocket);
    pair.receive(announcement(&[LOGS]));
    let known = pair.core.server_custom_capabilities().expect("announced").clone();
    assert_eq!(known, [LOGS.to_owned()].into());
    assert_eq!(pair.events(), [Event::ServerCustomCapabilities(known)]);
    pair.receive(announcement(&[LOGS]));
    assert_eq!(pair.events(), []);
    let many: Vec<_> = (0..2000).map(|n| format!("com.example.{n}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    pair.receive(announcement(&many[976..]));
    let all = pair.core.server_custom_capabilities().expect("announced").clone();
    assert_eq!(pair.events(), [Event::ServerCustomCapabilities(all)]);
    pair.receive(announcement(&many));
    let known = pair.core.server_custom_capabilities().expect("announced");
    assert_eq!(known.len(), 1024);
    let what = PeerMisbehaved::TooManyCustomCapabilities { count: 2000 };
    assert_eq!(pair.events()[0], Event::PeerMisbehaved(what));
}
