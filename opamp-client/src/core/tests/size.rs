//! Messages that are too large: for this client to send, for the server to take, or to receive.

use bytes::Bytes;
use opamp_proto::{Message, MessageLimits, frame, v1};

use super::custom;
use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, description, effective_of, error, full_state_request, health, parts, seconds, uid,
};
use crate::core::{
    ClientConfig, ConnectionAction, Event, Loss, Parts, PeerMisbehaved, Received, Transport,
};

/// How many bytes the report of this effective configuration has, alone and with all framing.
fn report_len(transport: Transport, config: &v1::EffectiveConfig) -> usize {
    let mut pair = Pair::settled(transport);
    pair.core.set_effective_config(Some(config.clone()));
    let report = pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    match transport {
        WebSocket => frame::encoded_len(&report),
        Http => report.encoded_len(),
    }
}

fn with_max_send(bytes: usize) -> impl FnOnce(&mut ClientConfig) {
    move |config| config.limits = MessageLimits::new().with_max_send(bytes)
}

fn too_large(part: Parts, size: usize, limit: usize) -> Event {
    Event::TooLargeToSend { part, size, limit }
}

#[test]
fn a_message_of_exactly_the_limit_is_sent_and_one_of_a_byte_more_is_not() {
    let _judged = opamp_spec::judges(&[
        "SIZE-01", "SIZE-03", "SIZE-15", "SIZE-16", "SIZE-17", "SIZE-18", "SIZE-20", "SIZE-33",
        "SIZE-34", "SIZE-35",
    ]);
    for transport in TRANSPORTS {
        let config = effective_of(2000);
        let limit = report_len(transport, &config);

        let mut pair = Pair::settled_with(transport, with_max_send(limit));
        pair.core.set_effective_config(Some(config.clone()));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);

        let mut pair = Pair::settled_with(transport, with_max_send(limit - 1));
        pair.core.set_effective_config(Some(config));
        pair.expect_silence();
        let event = too_large(Parts::EFFECTIVE_CONFIG, 2000, limit - 1);
        assert_eq!(pair.events(), [event]);
        // It stays unreported until it changes, and is not complained about for ever.
        pair.expect_silence();
        assert_eq!(pair.events(), []);
        pair.core.set_effective_config(Some(effective_of(1000)));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    }
}

#[test]
fn what_fits_is_told_without_what_does_not() {
    let _judged = opamp_spec::judges(&["SIZE-16", "SIZE-34", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            with_max_send(1000)(config);
            config.effective_config = Some(effective_of(1000));
        });
        pair.connect();
        pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
        let event = too_large(Parts::EFFECTIVE_CONFIG, 1000, 1000);
        assert!(pair.events().contains(&event));
        pair.acknowledge();
        pair.expect_silence();
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
    }
}

#[test]
fn an_agent_of_which_nothing_fits_still_opens_and_beats() {
    let _judged = opamp_spec::judges(&["SIZE-16", "SIZE-34", "STATUS-01", "HB-12"]);
    for transport in TRANSPORTS {
        let long = "x".repeat(1000);
        let mut pair = Pair::new(transport, |config| {
            with_max_send(256)(config);
            config.description = description(&long);
            config.health = Some(health(&long));
            config.effective_config = Some(effective_of(1000));
        });
        pair.connect();
        pair.expect_parts(Parts::REMOTE_CONFIG_STATUS);
        pair.acknowledge();
        pair.expect_silence();
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
}

#[test]
fn parts_that_only_together_are_too_large_are_told_one_after_the_other() {
    let _judged = opamp_spec::judges(&["SIZE-16", "SIZE-34", "STATUS-04", "DELTA-02"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            with_max_send(1200)(config);
            config.description = description(&"x".repeat(700));
            config.health = Some(health(&"x".repeat(600)));
            config.effective_config = Some(effective_of(1000));
        });
        pair.connect();
        let mut told = Parts::empty();
        for _ in 0..3 {
            told |= parts(&pair.expect());
            pair.acknowledge();
        }
        assert_eq!(told, EVERYTHING);
        pair.expect_silence();
        let too_large = |event: &Event| matches!(event, Event::TooLargeToSend { .. });
        assert!(!pair.events().iter().any(too_large));
    }
}

/// A description of some 700 bytes is told and not answered, and a configuration that fits only without
/// it is new.
fn pair_with_two_that_do_not_fit_together(transport: Transport) -> Pair {
    let mut pair = Pair::new(transport, |config| {
        with_max_send(1200)(config);
        config.reply_timeout = seconds(5);
        config.description = description(&"x".repeat(700));
    });
    pair.connect();
    assert!(parts(&pair.expect()).contains(Parts::DESCRIPTION));
    pair.core.set_effective_config(Some(effective_of(1000)));
    pair
}

#[test]
fn what_was_not_answered_does_not_keep_away_what_is_new() {
    let _judged = opamp_spec::judges(&["SIZE-16", "STATUS-04"]);
    let mut pair = pair_with_two_that_do_not_fit_together(WebSocket);
    pair.expect_silence();
    pair.advance(seconds(5));
    // What is small and not answered goes along.
    pair.expect_parts(EVERYTHING - Parts::DESCRIPTION);
    // What went out first is told again beside the next that leaves room for it.
    pair.core.set_health(Some(health("well")));
    pair.advance(seconds(5));
    assert!(parts(&pair.expect()).contains(Parts::DESCRIPTION | Parts::HEALTH));
}

#[test]
fn a_stop_tells_what_fits_only_alone_and_says_goodbye() {
    let _judged = opamp_spec::judges(&["SIZE-16", "CLOSE-01", "CLOSE-05"]);
    let mut pair = pair_with_two_that_do_not_fit_together(WebSocket);
    pair.core.stop(pair.now);
    pair.expect_parts(EVERYTHING - Parts::DESCRIPTION);
    pair.expect_goodbye();
    pair.expect_silence();
}

#[test]
fn a_full_report_that_does_not_fit_is_told_in_several_messages() {
    let _judged = opamp_spec::judges(&["SEQ-07", "SEQ-08", "SIZE-16", "SIZE-34"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| {
            with_max_send(1200)(config);
            config.health = Some(health(&"x".repeat(600)));
        });
        pair.core.set_effective_config(Some(effective_of(1000)));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
        pair.receive(full_state_request());
        let mut told = Parts::empty();
        for _ in 0..2 {
            told |= parts(&pair.expect());
            pair.acknowledge();
        }
        assert_eq!(told, EVERYTHING);
        pair.expect_silence();
    }
}

#[test]
fn full_state_tries_again_what_was_too_large() {
    let _judged = opamp_spec::judges(&["SEQ-07", "SIZE-16"]);
    let mut pair = Pair::settled_with(WebSocket, with_max_send(1000));
    pair.core.set_effective_config(Some(effective_of(1000)));
    pair.expect_silence();
    pair.events();
    pair.receive(full_state_request());
    pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
    let event = too_large(Parts::EFFECTIVE_CONFIG, 1000, 1000);
    assert_eq!(pair.events(), [event]);
}

/// The server refuses the last message for its size.
fn refuse(pair: &mut Pair, transport: Transport) {
    match transport {
        WebSocket => pair.closed_by_server(1009),
        Http => pair.respond(413, None, ""),
    }
}

#[test]
fn what_the_server_finds_too_large_shrinks_by_its_largest_part() {
    let _judged = opamp_spec::judges(&["SIZE-24", "DELTA-04", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            config.effective_config = Some(effective_of(5000));
            config.description = description(&"x".repeat(1000));
        });
        pair.connect();
        let mut left = EVERYTHING;
        for part in [Parts::EFFECTIVE_CONFIG, Parts::DESCRIPTION] {
            pair.expect_parts(left);
            pair.events();
            refuse(&mut pair, transport);
            let events = pair.events();
            let Event::Refused { parts, .. } = &events[0] else {
                panic!("the largest part is refused: {events:?}");
            };
            assert_eq!(*parts, part);
            left -= part;
            pair.wait_for_retry();
            pair.connect();
        }
        pair.expect_parts(left);
        pair.acknowledge();
        pair.expect_silence();
        // What was refused is sent when it changes.
        pair.core.set_effective_config(Some(effective_of(100)));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    }
}

#[test]
fn a_smaller_request_is_made_at_once() {
    let _judged = opamp_spec::judges(&["SIZE-24", "HTTP-12"]);
    let mut pair = Pair::new(Http, |_| {});
    pair.expect_parts(EVERYTHING);
    pair.respond(413, None, "");
    let smaller = parts(&pair.expect());
    assert!(EVERYTHING.contains(smaller) && smaller != EVERYTHING);
}

#[test]
fn a_part_that_changed_meanwhile_is_not_what_was_too_large() {
    let _judged = opamp_spec::judges(&["SIZE-24", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_effective_config(Some(effective_of(5000)));
        pair.core.set_health(Some(health("one")));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG | Parts::HEALTH);
        pair.core.set_effective_config(Some(effective_of(100)));
        refuse(&mut pair, transport);
        pair.wait_for_retry();
        pair.connect();
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    }
}

#[test]
fn a_server_that_takes_nothing_at_all_is_tried_with_backoff() {
    let _judged = opamp_spec::judges(&["SIZE-24", "EST-04", "HTTP-05"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        let start = pair.now;
        let mut messages = 0;
        while pair.now < start + seconds(600) {
            pair.expect();
            messages += 1;
            refuse(&mut pair, transport);
            pair.wait_for_retry();
            pair.connect();
        }
        // Doubling from 1 s to 60 s, less half of it at most, and one for each part before that.
        assert!(messages <= 4 + 7 + 20, "{transport:?}: {messages}");
    }
}

#[test]
fn a_close_for_size_of_an_answered_connection_refuses_nothing() {
    let _judged = opamp_spec::judges(&["SIZE-24", "STATUS-03"]);
    let mut pair = Pair::settled(WebSocket);
    pair.closed_by_server(1009);
    let reason = "closed by the server: 1009".to_owned();
    assert_eq!(pair.events(), [Event::Disconnected { reason }]);
    pair.wait_for_retry();
    pair.connect();
    pair.expect_parts(Parts::empty());
}

#[test]
fn an_oversized_message_ends_the_connection_with_1009() {
    let _judged = opamp_spec::judges(&["SIZE-10", "SIZE-11"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.limits = MessageLimits::new().with_max_receive(1000);
    });
    pair.receive_frame(Received::TooLarge);
    let what = PeerMisbehaved::TooLarge { limit: 1000 };
    assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
    pair.expect_silence();
    let epoch = pair.epoch();
    let close = ConnectionAction::Close { epoch, code: 1009, reason: "message too big" };
    assert_eq!(pair.core.poll_connection(pair.now), Some(close));
    // What still comes in is none of its business.
    pair.receive_frame(Received::TooLarge);
    assert_eq!(pair.events(), []);
    pair.lose_with(Loss::Closed { code: Some(1009), reason: String::new() });
    let wait = pair.wait_for_retry();
    assert!(wait >= std::time::Duration::from_millis(500), "{wait:?}");
    pair.connect();
    pair.expect_parts(EVERYTHING);
}

#[test]
fn oversized_messages_make_reconnects_slower_each_time() {
    let _judged = opamp_spec::judges(&["SIZE-11", "EST-04", "EST-07"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.backoff.jitter = 0.0);
    let too_large = |pair: &mut Pair| {
        pair.receive_frame(Received::TooLarge);
        let action = pair.core.poll_connection(pair.now);
        assert!(matches!(action, Some(ConnectionAction::Close { code: 1009, .. })));
        pair.closed_by_server(1009);
        let wait = pair.wait_for_retry();
        pair.connect();
        // The same offer would be all that is wrong with this server.
        pair.expect_parts(EVERYTHING);
        pair.acknowledge();
        wait
    };
    for longest in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(too_large(&mut pair), seconds(longest));
    }
    // A connection that ends otherwise shows that the offer is gone.
    pair.lose();
    pair.connect();
    pair.expect();
    pair.acknowledge();
    assert_eq!(too_large(&mut pair), seconds(1));
}

#[test]
fn a_binary_message_above_the_limit_is_oversized_whoever_measures_it() {
    let _judged = opamp_spec::judges(&["SIZE-08", "SIZE-10"]);
    let message = v1::ServerToAgent {
        error_response: error(v1::ServerErrorResponseType::Unknown, &"x".repeat(1000))
            .error_response,
        ..Default::default()
    };
    let bytes: Bytes = frame::encode(&message);
    for (limit, oversized) in [(bytes.len(), false), (bytes.len() - 1, true)] {
        let mut pair = Pair::settled_with(WebSocket, |config| {
            config.limits = MessageLimits::new().with_max_receive(limit);
        });
        pair.receive_bytes(bytes.clone());
        let what = PeerMisbehaved::TooLarge { limit };
        let events = pair.events();
        assert_eq!(events.contains(&Event::PeerMisbehaved(what)), oversized);
        let refused = |event: &Event| matches!(event, Event::Refused { .. });
        assert_eq!(events.iter().any(refused), !oversized);
    }
}

#[test]
fn whatever_a_custom_message_travels_in_it_is_within_the_limit() {
    let _judged = opamp_spec::judges(&["SIZE-16"]);
    let data = "x".repeat(2 * 1024 * 1024);
    let pair = custom::settled_with(WebSocket, |config| config.max_custom_bytes = usize::MAX);
    let limit = pair.core.config.limits.max_send();
    let carrier = v1::AgentToServer {
        instance_uid: uid().to_bytes(),
        sequence_num: u64::MAX,
        capabilities: u64::MAX,
        flags: u64::MAX,
        custom_message: Some(custom::message(custom::CHAT, &data)),
        ..Default::default()
    };
    let strings = custom::CHAT.len() + "line".len() + data.len();
    // A length takes five bytes at most: here two take four, and two take one.
    let overhead = frame::encoded_len(&carrier) - strings + 2 + 2 * 4;
    assert_eq!(pair.core.config.max_custom_message(), limit - overhead);
}
