//! The event queue, and what a log may show.

use bytes::Bytes;
use opamp_proto::{Message, frame, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{acknowledgement, effective, other_uid, remote_config, uid};
use crate::core::event::MAX_EVENTS;
use crate::core::{ClientConfig, Event, PeerMisbehaved, Received, Response, Transmit};

fn misbehave(pair: &mut Pair, times: usize) {
    for _ in 0..times {
        pair.receive_frame(Received::Text);
    }
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    let text = || Event::PeerMisbehaved(PeerMisbehaved::TextMessage);
    let mut pair = Pair::settled(WebSocket);
    misbehave(&mut pair, MAX_EVENTS);
    assert_eq!(pair.events(), vec![text(); MAX_EVENTS]);
    // The oldest gives way: what is left is what happened last.
    pair.receive_bytes(Bytes::from_static(&[1]));
    misbehave(&mut pair, MAX_EVENTS + 6);
    let events = pair.events();
    assert_eq!(events[0], Event::Missed { count: 7 });
    assert_eq!(events[1..], vec![text(); MAX_EVENTS]);
    // The count starts anew.
    misbehave(&mut pair, 1);
    assert_eq!(pair.events(), [text()]);
    misbehave(&mut pair, MAX_EVENTS + 1);
    assert_eq!(pair.events()[0], Event::Missed { count: 1 });
}

#[test]
fn the_number_of_missed_events_is_told_while_events_keep_coming() {
    let mut pair = Pair::settled(WebSocket);
    misbehave(&mut pair, MAX_EVENTS + 1);
    assert!(pair.core.has_events());
    assert_eq!(pair.core.poll_event(), Some(Event::Missed { count: 1 }));
    misbehave(&mut pair, 2);
    assert_eq!(pair.core.poll_event(), Some(Event::Missed { count: 2 }));
    assert!(pair.core.has_events());
}

#[test]
fn an_offer_is_never_missed() {
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    misbehave(&mut pair, 10 * MAX_EVENTS);
    assert_eq!(pair.take_offer().hash().as_ref(), b"h1");
    assert!(!pair.core.has_events());
}

#[test]
fn a_change_of_what_has_to_be_saved_is_never_missed() {
    let _judged = opamp_spec::judges(&["ID-13"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        agent_identification: Some(v1::AgentIdentification {
            new_instance_uid: other_uid().to_bytes(),
        }),
        ..acknowledgement()
    });
    misbehave(&mut pair, 10 * MAX_EVENTS);
    let events = pair.events();
    assert!(events.len() <= MAX_EVENTS + 1);
    let changes = events.iter().filter(|event| matches!(event, Event::StateChanged));
    assert_eq!(changes.count(), 1);
}

#[test]
fn the_stop_is_never_missed() {
    let mut pair = Pair::settled(WebSocket);
    misbehave(&mut pair, 10 * MAX_EVENTS);
    pair.core.stop(pair.now);
    pair.expect_goodbye();
    misbehave(&mut pair, 10 * MAX_EVENTS);
    pair.lose();
    assert_eq!(pair.events().last(), Some(&Event::Stopped));
}

#[test]
fn changes_that_wait_to_be_saved_are_one_event() {
    let mut pair = Pair::settled(WebSocket);
    for hash in ["h1", "h2", "h3"] {
        pair.receive(remote_config(hash, "a: 1"));
    }
    let events = pair.events();
    let [Event::StateChanged, Event::RemoteConfig(_)] = &events[..] else {
        panic!("one of each: {events:?}");
    };
}

#[test]
fn a_log_shows_no_configuration() {
    const SECRET: &str = "password: hunter2";
    // As text, or byte by byte.
    let leaks = |shown: &str| shown.contains("hunter2") || shown.contains("104, 117, 110, 116");
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            config.effective_config = Some(effective(SECRET));
        });
        let config = super::pair::config(transport);
        let config = ClientConfig { effective_config: Some(effective(SECRET)), ..config };
        pair.connect();
        let transmit = pair.core.poll_transmit(pair.now).expect("the first report");
        let message = remote_config("h1", SECRET);
        let received = Received::Binary(frame::encode(&message));
        let response =
            Response { status: 200, retry_after: None, body: message.encode_to_vec().into() };
        let mut shown = vec![
            format!("{config:?}"),
            format!("{transmit:?}"),
            format!("{received:?}"),
            format!("{response:?}"),
        ];
        match transmit {
            Transmit::Request { ticket, .. } => {
                pair.core.handle_response(ticket, response, pair.now);
            }
            _ => pair.receive_frame(received),
        }
        shown.push(format!("{:?}", pair.core));
        shown.push(format!("{:?}", pair.core.state()));
        let offer = pair.take_offer();
        shown.push(format!("{offer:?}"));
        shown.push(format!("{:?}", Event::RemoteConfig(offer.clone())));
        let resolution = offer.applied_with(effective(SECRET));
        shown.push(format!("{resolution:?}"));
        for shown in shown {
            assert!(!leaks(&shown), "{shown}");
        }
    }
}

#[test]
fn a_log_shows_what_kind_of_message_it_was_and_how_large() {
    let mut http = Pair::new(Http, |_| {});
    let request = http.core.poll_transmit(http.now).expect("the first report");
    let Transmit::Request { body, .. } = &request else {
        panic!("a request: {request:?}");
    };
    let body = body.len();
    let mut websocket = Pair::new(WebSocket, |_| {});
    websocket.connect();
    let message = websocket.core.poll_transmit(websocket.now).expect("the first report");
    let ping = Transmit::Ping { epoch: websocket.epoch() };
    let response =
        Response { status: 200, retry_after: None, body: Bytes::from_static(b"response") };
    for (shown, expected) in [
        (format!("{request:?}"), vec!["Request", &uid().to_string(), &format!("{body} bytes")]),
        (format!("{message:?}"), vec!["Message", &format!("{} bytes", body + 1)]),
        (format!("{ping:?}"), vec!["Ping", "Epoch(1)"]),
        (format!("{response:?}"), vec!["Response", "200", "8 bytes"]),
        (format!("{:?}", Received::Binary(Bytes::from_static(b"abc"))), vec!["Binary", "3 bytes"]),
        (format!("{:?}", Received::Text), vec!["Text"]),
        (format!("{:?}", Received::TooLarge), vec!["TooLarge"]),
        (format!("{:?}", Received::Control), vec!["Control"]),
    ] {
        for expected in expected {
            assert!(shown.contains(expected), "{shown} without {expected}");
        }
    }
}
