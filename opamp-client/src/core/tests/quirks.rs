//! What servers in the field do, named one by one: the client survives each, and each goes on to
//! serve the agent as far as the server lets it.

use std::time::Duration;

use bytes::Bytes;
use opamp_proto::frame::HeaderPolicy;
use opamp_proto::{Message, ServerCapabilities, v1};

use super::custom::list;
use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{EVERYTHING, acknowledgement, health, remote_config, seconds, unavailable};
use crate::core::{Event, FailureKind, Parts, PeerMisbehaved};

/// The server offers something, which is what an agent is connected for.
fn expect_to_be_served(pair: &mut Pair) {
    pair.receive(remote_config("served", "a: 1"));
    pair.expect_offer();
}

#[test]
fn replies_without_the_header_byte() {
    let _judged = opamp_spec::judges(&["WS-08"]);
    for tolerated in [false, true] {
        let mut pair = Pair::new(WebSocket, |config| {
            config.heartbeat_interval = None;
            if tolerated {
                config.header_policy = HeaderPolicy::Optional;
            }
        });
        pair.connect();
        pair.expect();
        pair.expect_silence();
        pair.receive_bytes(acknowledgement().encode_to_vec());
        let malformed = pair
            .events()
            .into_iter()
            .any(|event| matches!(event, Event::PeerMisbehaved(PeerMisbehaved::Malformed(_))));
        assert_eq!(malformed, !tolerated);
        // What the client cannot read is no answer: it says everything again on a new connection.
        pair.advance(seconds(60));
        assert_eq!(pair.poll().is_some_and(|it| it.agent_disconnect.is_some()), !tolerated);
    }
}

#[test]
fn the_instance_uid_as_text() {
    let _judged = opamp_spec::judges(&["ID-10", "ID-16"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect();
        let text = pair.core.instance_uid().to_string();
        assert_eq!(text.len(), 36);
        pair.receive(v1::ServerToAgent { instance_uid: text.into(), ..acknowledgement() });
        let what = Event::PeerMisbehaved(PeerMisbehaved::ForeignInstanceUid);
        assert!(pair.events().contains(&what));
        if transport == Http {
            pair.wait_for_retry();
            pair.expect();
        }
        expect_to_be_served(&mut pair);
    }
}

#[test]
fn capability_masks_that_are_wrong_sums_or_have_unknown_bits() {
    let _judged = opamp_spec::judges(&["CAP-11", "INTEROP-04"]);
    for transport in TRANSPORTS {
        for bits in [10 + 20 + 40, u64::MAX, 1 << 63] {
            let mut pair = Pair::new(transport, |_| {});
            pair.connect();
            pair.expect();
            pair.receive(v1::ServerToAgent { capabilities: bits, ..acknowledgement() });
            let known = pair.core.server_capabilities().map(ServerCapabilities::to_wire);
            assert!(known.is_some_and(|known| known & !bits == 0), "nothing is made up");
            pair.core.set_health(Some(health("fine")));
            pair.expect_parts(Parts::HEALTH);
            expect_to_be_served(&mut pair);
        }
    }
}

#[test]
fn bodies_that_are_no_protobuf() {
    let _judged = opamp_spec::judges(&["EST-03", "INTEROP-06"]);
    let page = &b"<html>It works!</html>"[..];
    let mut pair = Pair::new(Http, |_| {});
    pair.expect();
    pair.respond(200, None, page);
    let failed = |event: &Event| matches!(event, Event::ConnectFailed { failure, .. } if failure.kind == FailureKind::BadResponse);
    assert!(pair.events().iter().any(failed));
    pair.wait_for_retry();
    pair.expect_parts(EVERYTHING);
    expect_to_be_served(&mut pair);
    let mut pair = Pair::settled(WebSocket);
    pair.receive_bytes(page);
    expect_to_be_served(&mut pair);
}

#[test]
fn capabilities_never_set() {
    let _judged = opamp_spec::judges(&["CAP-11", "CAP-12"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect();
        pair.receive(v1::ServerToAgent { capabilities: 0, ..acknowledgement() });
        assert_eq!(pair.core.server_capabilities(), None);
        // Nobody knows what it cannot take, so it is told everything.
        pair.core.set_effective_config(Some(super::values::effective("b: 2")));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
        expect_to_be_served(&mut pair);
    }
}

#[test]
fn every_flag_in_every_reply() {
    let _judged = opamp_spec::judges(&["SEQ-07", "STATUS-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect();
        let mut reports = 0;
        for _ in 0..100 {
            pair.receive(v1::ServerToAgent { flags: 3, ..acknowledgement() });
            match pair.poll() {
                Some(_) => reports += 1,
                None => break,
            }
        }
        assert_eq!(reports, 3, "then it is paced");
    }
}

#[test]
fn a_200_with_an_empty_body() {
    let _judged = opamp_spec::judges(&["HTTP-12", "ID-10"]);
    let mut pair = Pair::new(Http, |_| {});
    pair.expect();
    pair.respond(200, None, Bytes::new());
    // It decodes, and it is an answer.
    assert!(pair.core.is_connected());
    pair.expect_silence();
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    expect_to_be_served(&mut pair);
}

#[test]
fn no_instance_uid_in_pushes() {
    let _judged = opamp_spec::judges(&["ID-10"]);
    let mut pair = Pair::settled(WebSocket);
    let push = remote_config("h1", "a: 1");
    pair.receive(v1::ServerToAgent { instance_uid: Bytes::new(), ..push });
    pair.expect_offer();
}

#[test]
fn no_reply_to_most_reports() {
    let _judged = opamp_spec::judges(&["RETRY-02", "STATUS-04"]);
    // Servers whose handler returns nothing answer nothing; a push now and then is all they say.
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    for n in 0..10 {
        pair.core.set_health(Some(health(&n.to_string())));
        let report = pair.expect();
        assert_eq!(report.health, Some(health(&n.to_string())));
        pair.advance(seconds(10));
        if n % 3 == 2 {
            pair.receive(remote_config(&n.to_string(), "a: 1"));
            pair.expect_offer();
        }
    }
    assert!(pair.core.is_connected());
}

#[test]
fn waits_of_any_size() {
    let _judged = opamp_spec::judges(&["THR-02", "THR-05"]);
    for transport in TRANSPORTS {
        for asked in [0, 1, 1_000_000_000, u64::MAX].map(Duration::from_nanos) {
            let mut pair = Pair::settled(transport);
            pair.core.set_health(Some(health("worse")));
            pair.expect();
            pair.receive(unavailable(Some(asked)));
            if transport == WebSocket {
                pair.expect_goodbye();
                pair.closed_by_server(1000);
            }
            let wait = pair.wait_for_retry();
            let day = Duration::from_secs(24 * 60 * 60);
            assert!(wait >= seconds(1).min(asked) && wait <= day.mul_f64(1.1), "{wait:?}");
            pair.connect();
            assert_eq!(pair.expect().health, Some(health("worse")));
        }
    }
}

#[test]
fn custom_capabilities_in_every_reply_or_never_again() {
    let _judged = opamp_spec::judges(&["CUST-02", "CUST-03"]);
    for transport in TRANSPORTS {
        for repeats in [true, false] {
            let mut pair = Pair::new(transport, |config| {
                config.custom_capabilities = super::custom::capabilities(&["com.example.chat"]);
            });
            pair.connect();
            pair.expect();
            let chatty = v1::ServerToAgent {
                custom_capabilities: Some(list(&["com.example.chat"])),
                ..acknowledgement()
            };
            pair.receive(chatty.clone());
            pair.events();
            for n in 0..3 {
                let message = super::custom::message("com.example.chat", &n.to_string());
                pair.core.send_custom_message(message, pair.now).expect("both have it");
                pair.expect();
                pair.receive(if repeats { chatty.clone() } else { acknowledgement() });
                assert_eq!(pair.events(), [], "nothing new");
            }
        }
    }
}
