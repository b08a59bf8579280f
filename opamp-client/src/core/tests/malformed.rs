//! What is not a message of a server: it is dropped, and nothing comes of it.

use bytes::Bytes;
use opamp_proto::frame::HeaderPolicy;
use opamp_proto::{Message, frame, v1};

use super::pair::{Http, Pair, WebSocket, unreachable};
use super::values::{acknowledgement, full_state_request, health, remote_config};
use crate::core::{Event, Loss, Parts, PeerMisbehaved, Received};

/// A connection on which a report waits for its answer, with another change behind it.
fn waiting() -> Pair {
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_health(Some(health("two")));
    pair
}

#[test]
fn malformed_messages_are_dropped() {
    let _judged = opamp_spec::judges(&["WS-05", "WS-07", "WS-08", "STATUS-15"]);
    let good = remote_config("h1", "a: 1").encode_to_vec();
    let with_header = |header: &[u8]| Bytes::from([header, &good].concat());
    for bytes in [
        Bytes::new(),
        with_header(&[]),
        with_header(&[1]),
        with_header(&[0x80; 10]),
        Bytes::from_static(&[0x80]),
        Bytes::from_static(&[0, 0xff]),
        Bytes::from_static(b"\0<html>It works!</html>"),
        frame::encode(&remote_config("h1", "a: 1")).slice(..20),
    ] {
        let mut pair = waiting();
        pair.receive_bytes(bytes);
        let events = pair.events();
        let [Event::PeerMisbehaved(PeerMisbehaved::Malformed(why))] = &events[..] else {
            panic!("the message is malformed: {events:?}");
        };
        assert!(!why.is_empty());
        assert!(pair.core.is_connected());
        // It is no answer.
        pair.expect_silence();
        pair.acknowledge();
        pair.expect_parts(Parts::HEALTH);
    }
}

/// Small enough for the wire, but not once decoded.
#[test]
fn a_message_of_millions_of_headers_is_dropped_undecoded() {
    let _judged = opamp_spec::judges(&["DELTA-04"]);
    let mut message = [0x0a, 0x00].repeat(4_000_000);
    // The headers are in `opamp`, and that is in `connection_settings`.
    for tag in [2, 2, 4] {
        let mut around = vec![tag << 3 | 2];
        prost::encoding::encode_varint(message.len() as u64, &mut around);
        around.append(&mut message);
        message = around;
    }
    let why = || PeerMisbehaved::Malformed("more than 100000 elements".to_owned());

    let mut pair = waiting();
    pair.receive_bytes([&[0], &message[..]].concat());
    assert_eq!(pair.events(), [Event::PeerMisbehaved(why())]);
    pair.acknowledge();
    pair.expect_parts(Parts::HEALTH);

    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.respond(200, None, message);
    let events = pair.events();
    let [Event::PeerMisbehaved(what), Event::ConnectFailed { .. }] = &events[..] else {
        panic!("too much is a failure: {events:?}");
    };
    assert_eq!(*what, why());
    pair.wait_for_retry();
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn text_messages_are_dropped() {
    let _judged = opamp_spec::judges(&["WS-01"]);
    let mut pair = waiting();
    pair.receive_frame(Received::Text);
    let what = PeerMisbehaved::TextMessage;
    assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
    assert!(pair.core.is_connected());
    pair.expect_silence();
}

#[test]
fn pings_and_pongs_are_no_messages() {
    let mut pair = waiting();
    pair.receive_frame(Received::Control);
    assert_eq!(pair.events(), []);
    pair.expect_silence();
}

#[test]
fn a_message_without_any_field_is_an_answer() {
    let _judged = opamp_spec::judges(&["WS-10"]);
    let mut pair = waiting();
    pair.receive_bytes(Bytes::from_static(&[0]));
    assert_eq!(pair.events(), []);
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn a_zero_header_may_be_padded() {
    let _judged = opamp_spec::judges(&["WS-05"]);
    let mut pair = Pair::settled(WebSocket);
    let mut bytes = vec![0x80; 9];
    bytes.push(0);
    bytes.extend(remote_config("h1", "a: 1").encode_to_vec());
    pair.receive_bytes(bytes);
    pair.expect_offer();
}

#[test]
fn a_server_without_the_header_is_tolerated_when_that_is_asked_for() {
    let _judged = opamp_spec::judges(&["WS-08"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.header_policy = HeaderPolicy::Optional;
    });
    pair.receive_bytes(remote_config("h1", "a: 1").encode_to_vec());
    pair.expect_offer();
    pair.receive(remote_config("h2", "a: 1"));
    pair.expect_offer();
}

#[test]
fn unknown_fields_and_values_are_survived() {
    let _judged = opamp_spec::judges(&["INTEROP-06", "INTEROP-11"]);
    let mut pair = Pair::settled(WebSocket);
    let mut bytes = vec![0];
    bytes.extend(full_state_request().encode_to_vec());
    // Field 1000, a string.
    bytes.extend([0xc2, 0x3e, 3, b'n', b'e', b'w']);
    pair.receive_bytes(bytes);
    assert_eq!(pair.events(), []);
    pair.expect();
}

#[test]
fn messages_of_another_connection_are_ignored() {
    let offer = || Received::Binary(frame::encode(&remote_config("h1", "a: 1")));
    let mut pair = Pair::settled(WebSocket);
    let old = pair.epoch();
    pair.lose();
    pair.events();
    // The old connection is gone, and the new one is not there yet.
    pair.core.handle_received(old, offer(), pair.now);
    let new = pair.expect_connect();
    pair.core.handle_received(old, offer(), pair.now);
    pair.core.handle_received(new, offer(), pair.now);
    assert_eq!(pair.events(), []);
    pair.core.handle_connected(new, pair.now);
    pair.events();
    pair.core.handle_received(old, offer(), pair.now);
    let loss = Loss::Broken("late news".to_owned());
    pair.core.handle_connection_lost(old, loss, pair.now);
    pair.core.handle_connected(old, pair.now);
    pair.core.handle_connect_failed(old, unreachable(), None, pair.now);
    assert_eq!(pair.events(), []);
    assert!(pair.core.is_connected());
    pair.core.handle_received(new, offer(), pair.now);
    pair.expect_offer();
}

#[test]
fn inputs_that_do_not_fit_the_state_are_ignored() {
    let mut pair = Pair::settled(WebSocket);
    let epoch = pair.epoch();
    pair.core.handle_connected(epoch, pair.now);
    pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
    assert_eq!(pair.events(), []);
    pair.expect_silence();
    pair.lose();
    pair.events();
    let loss = Loss::Broken("again".to_owned());
    pair.core.handle_connection_lost(epoch, loss, pair.now);
    pair.core.handle_connected(epoch, pair.now);
    assert_eq!(pair.events(), []);
    assert!(!pair.core.is_connected());
}

#[test]
fn many_messages_at_once_are_no_reason_to_talk() {
    let _judged = opamp_spec::judges(&["STATUS-13", "STATUS-14", "STATUS-15"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..1000 {
        pair.receive(acknowledgement());
        pair.receive(v1::ServerToAgent::default());
    }
    pair.expect_silence();
    assert_eq!(pair.events(), []);
}
