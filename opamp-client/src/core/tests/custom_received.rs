//! Custom messages from the server to the application, and what the server announces.

use opamp_proto::v1;

use super::custom::{CHAT, LOGS, announcement, message, settled, settled_with};
use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{acknowledgement, seconds};
use crate::core::{Event, PeerMisbehaved, Transport};

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
    pair.receive(announcement(&many));
    let known = pair.core.server_custom_capabilities().expect("announced");
    assert_eq!(known.len(), 1024);
    let what = PeerMisbehaved::TooManyCustomCapabilities { count: 2000 };
    assert_eq!(pair.events()[0], Event::PeerMisbehaved(what));
}
