//! Custom messages from the application to an outcome.

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::ServerErrorResponseType::{BadRequest, Unknown};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket, unreachable};
use super::values::{acknowledgement, error, full_state_request, health, seconds, unavailable};
use crate::core::{
    ClientConfig, CustomCapabilities, CustomMessageId, CustomOutcome, Event, Failure, FailureKind,
    NotSent, Parts, Transport,
};

pub(super) const CHAT: &str = "com.example.chat";
pub(super) const LOGS: &str = "com.example.logs/v2";

pub(super) fn capabilities(names: &[&str]) -> CustomCapabilities {
    CustomCapabilities::new(names.iter().copied()).expect("valid names")
}

pub(super) fn list(names: &[&str]) -> v1::CustomCapabilities {
    v1::CustomCapabilities { capabilities: names.iter().map(|name| (*name).to_owned()).collect() }
}

pub(super) fn announcement(names: &[&str]) -> v1::ServerToAgent {
    v1::ServerToAgent { custom_capabilities: Some(list(names)), ..acknowledgement() }
}

pub(super) fn message(capability: &str, data: &str) -> v1::CustomMessage {
    v1::CustomMessage {
        capability: capability.to_owned(),
        r#type: "line".to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

/// Both ends have both capabilities, and everything is told.
pub(super) fn settled(transport: Transport) -> Pair {
    settled_with(transport, |_| {})
}

pub(super) fn settled_with(transport: Transport, adapt: impl FnOnce(&mut ClientConfig)) -> Pair {
    let mut pair = Pair::new(transport, |config| {
        config.custom_capabilities = capabilities(&[CHAT, LOGS]);
        adapt(config);
    });
    pair.connect();
    pair.expect();
    pair.receive(announcement(&[CHAT, LOGS]));
    pair.expect_silence();
    pair.events();
    pair
}

fn send(pair: &mut Pair, data: &str) -> CustomMessageId {
    let sent = pair.core.send_custom_message(message(CHAT, data), pair.now);
    sent.expect("there is room")
}

/// The custom message with this data has to go out now, in a message of its own.
fn expect_custom(pair: &mut Pair, data: &str) {
    let sent = pair.expect_parts(Parts::empty());
    assert_eq!(sent.custom_message, Some(message(CHAT, data)));
}

fn outcomes(pair: &mut Pair) -> Vec<(CustomMessageId, CustomOutcome)> {
    std::iter::from_fn(|| pair.core.poll_custom_outcome()).collect()
}

/// The message has this outcome now, and no other has one.
fn expect_outcome(pair: &mut Pair, id: CustomMessageId, outcome: CustomOutcome) {
    assert_eq!(outcomes(pair), [(id, outcome)]);
}

fn expect_none(pair: &mut Pair) {
    assert_eq!(outcomes(pair), []);
}

#[test]
fn names_are_checked() {
    let _judged = opamp_spec::judges(&["CUST-05"]);
    let long = format!("com.example.{}", "x".repeat(244));
    for good in [
        "com.example.chat",
        "io.opamp.a.b-c",
        "com.example.chat/v2",
        "com.example.chat/a/b",
        &long[..255],
    ] {
        assert!(CustomCapabilities::new([good]).is_ok(), "{good}");
    }
    for bad in [
        "",
        "chat",
        "example.chat",
        "com..chat",
        "com.example.",
        "com.example.chat/",
        "com.example.my chat",
        &long,
    ] {
        let error = CustomCapabilities::new([bad]).expect_err(bad);
        assert_eq!(error.name, bad);
    }
    assert!(capabilities(&[LOGS, CHAT, LOGS]).iter().eq([CHAT, LOGS]), "each once, in order");
}

#[test]
fn capabilities_are_told_at_first_when_they_change_and_in_full_reports() {
    let _judged = opamp_spec::judges(&["CUST-01", "CUST-02", "CUST-03", "CUST-10"]);
    for transport in TRANSPORTS {
        let mut pair =
            Pair::new(transport, |config| config.custom_capabilities = capabilities(&[LOGS, CHAT]));
        pair.connect();
        assert_eq!(pair.expect().custom_capabilities, Some(list(&[CHAT, LOGS])));
        pair.acknowledge();
        pair.core.set_health(Some(health("fine")));
        pair.expect_parts(Parts::HEALTH);
        pair.acknowledge();
        pair.core.set_custom_capabilities(capabilities(&[CHAT, LOGS]));
        pair.expect_silence();
        pair.core.set_custom_capabilities(capabilities(&[CHAT]));
        let report = pair.expect_parts(Parts::CUSTOM_CAPABILITIES);
        assert_eq!(report.custom_capabilities, Some(list(&[CHAT])));
        pair.receive(full_state_request());
        assert_eq!(pair.expect().custom_capabilities, Some(list(&[CHAT])));
        pair.acknowledge();
        // An empty list takes back the one before.
        pair.core.set_custom_capabilities(CustomCapabilities::default());
        let report = pair.expect_parts(Parts::CUSTOM_CAPABILITIES);
        assert_eq!(report.custom_capabilities, Some(list(&[])));
    }
}

#[test]
fn an_agent_without_custom_capabilities_does_not_mention_them() {
    let _judged = opamp_spec::judges(&["CUST-02", "CUST-04"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    assert_eq!(pair.expect().custom_capabilities, None);
    pair.acknowledge();
    pair.core.set_custom_capabilities(CustomCapabilities::default());
    pair.expect_silence();
}

#[test]
fn a_message_goes_out_at_once_and_is_delivered_by_the_reply() {
    let _judged = opamp_spec::judges(&["CUST-09", "CUST-12", "CUST-13"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let id = send(&mut pair, "\0\u{7f}any bytes");
        expect_custom(&mut pair, "\0\u{7f}any bytes");
        expect_none(&mut pair);
        pair.expect_silence();
        pair.acknowledge();
        expect_outcome(&mut pair, id, CustomOutcome::Delivered);
        pair.expect_silence();
        pair.advance(seconds(3600));
        expect_none(&mut pair);
    }
}

#[test]
fn messages_go_one_after_the_other_in_order() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let ids = ["1", "2", "3"].map(|data| send(&mut pair, data));
        // A report that is due goes first: it may say something about them.
        pair.core.set_health(Some(health("busy")));
        pair.expect_parts(Parts::HEALTH);
        pair.expect_silence();
        pair.acknowledge();
        for (id, data) in ids.into_iter().zip(["1", "2", "3"]) {
            expect_custom(&mut pair, data);
            pair.expect_silence();
            pair.acknowledge();
            expect_outcome(&mut pair, id, CustomOutcome::Delivered);
        }
    }
}

#[test]
fn what_may_be_a_push_confirms_no_message_but_lets_the_next_go() {
    let _judged = opamp_spec::judges(&["CUST-13", "WS-12"]);
    let mut pair = settled(WebSocket);
    let first = send(&mut pair, "1");
    let second = send(&mut pair, "2");
    expect_custom(&mut pair, "1");
    // The answer may well be this one; but it may also be on its way still.
    let custom_message = Some(message(CHAT, "echo"));
    pair.receive(v1::ServerToAgent { custom_message, ..acknowledgement() });
    expect_none(&mut pair);
    expect_custom(&mut pair, "2");
    pair.acknowledge();
    expect_outcome(&mut pair, first, CustomOutcome::Delivered);
    pair.lose();
    expect_outcome(&mut pair, second, CustomOutcome::Unconfirmed);
}

/// W-7 of the reference: the sender was told that it was delivered.
#[test]
fn what_may_have_arrived_is_not_sent_again() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let sent = send(&mut pair, "sent");
        let waiting = send(&mut pair, "waiting");
        expect_custom(&mut pair, "sent");
        pair.lose();
        expect_outcome(&mut pair, sent, CustomOutcome::Unconfirmed);
        pair.wait_for_retry();
        pair.connect();
        // The server may be another now: the next message waits for what it says of itself.
        let first = pair.expect();
        assert_eq!(first.custom_message, None);
        pair.expect_silence();
        pair.acknowledge();
        expect_custom(&mut pair, "waiting");
        pair.acknowledge();
        expect_outcome(&mut pair, waiting, CustomOutcome::Delivered);
    }
}

#[test]
fn a_refusal_is_the_messages_outcome_and_harms_no_status() {
    let _judged = opamp_spec::judges(&["CUST-13", "ERR-06"]);
    for transport in TRANSPORTS {
        for kind in [BadRequest, Unknown] {
            let mut pair = settled(transport);
            let first = send(&mut pair, "1");
            let second = send(&mut pair, "2");
            expect_custom(&mut pair, "1");
            pair.receive(error(kind, "what is this?"));
            let refused = CustomOutcome::Refused("what is this?".to_owned());
            expect_outcome(&mut pair, first, refused);
            assert_eq!(pair.events(), []);
            expect_custom(&mut pair, "2");
            pair.acknowledge();
            expect_outcome(&mut pair, second, CustomOutcome::Delivered);
            pair.expect_silence();
        }
    }
}

#[test]
fn a_refused_report_is_not_a_refused_message() {
    let _judged = opamp_spec::judges(&["ERR-06"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        pair.core.set_health(Some(health("odd")));
        let id = send(&mut pair, "1");
        pair.expect_parts(Parts::HEALTH);
        pair.receive(error(BadRequest, "no"));
        assert!(matches!(pair.events()[..], [Event::Refused { parts: Parts::HEALTH, .. }]));
        expect_custom(&mut pair, "1");
        pair.acknowledge();
        expect_outcome(&mut pair, id, CustomOutcome::Delivered);
    }
}

#[test]
fn http_statuses_are_outcomes_or_reasons_to_try_again() {
    let _judged = opamp_spec::judges(&["CUST-13", "HTTP-12", "SIZE-24"]);
    let refused = |what: &str| Some(CustomOutcome::Refused(what.to_owned()));
    for (status, retry_after, expected) in [
        (400, None, refused("the server calls the message malformed (status 400)")),
        (413, None, refused("the server takes no message of that size (status 413)")),
        (500, None, Some(CustomOutcome::Unconfirmed)),
        (502, None, Some(CustomOutcome::Unconfirmed)),
        (503, None, Some(CustomOutcome::Unconfirmed)),
        // Turned away unread.
        (503, Some(seconds(30)), None),
        (429, Some(seconds(30)), None),
        (401, None, None),
        (404, None, None),
    ] {
        let mut pair = settled(Http);
        let id = send(&mut pair, "1");
        expect_custom(&mut pair, "1");
        pair.respond(status, retry_after, Bytes::new());
        let again = expected.is_none();
        if let Some(outcome) = expected {
            expect_outcome(&mut pair, id, outcome);
        }
        pair.wait_for_retry();
        let next = pair.poll();
        if next.is_some() {
            pair.acknowledge();
        }
        if again {
            expect_custom(&mut pair, "1");
            pair.acknowledge();
            expect_outcome(&mut pair, id, CustomOutcome::Delivered);
        }
        pair.expect_silence();
        expect_none(&mut pair);
    }
}

#[test]
fn a_message_a_server_was_too_busy_for_is_sent_later() {
    let _judged = opamp_spec::judges(&["CUST-13", "THR-02"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let first = send(&mut pair, "1");
        let second = send(&mut pair, "2");
        expect_custom(&mut pair, "1");
        pair.receive(unavailable(Some(seconds(30))));
        expect_none(&mut pair);
        if transport == WebSocket {
            pair.expect_goodbye();
            pair.closed_by_server(1000);
        }
        pair.wait_for_retry();
        pair.connect();
        pair.expect();
        pair.acknowledge();
        for (id, data) in [(first, "1"), (second, "2")] {
            expect_custom(&mut pair, data);
            pair.acknowledge();
            expect_outcome(&mut pair, id, CustomOutcome::Delivered);
        }
    }
}

#[test]
fn a_message_that_was_turned_away_is_not_sent_without_consent() {
    let _judged = opamp_spec::judges(&["CUST-09"]);
    let mut pair = settled(Http);
    let id = send(&mut pair, "1");
    expect_custom(&mut pair, "1");
    pair.core.set_custom_capabilities(capabilities(&[LOGS]));
    pair.respond(401, None, Bytes::new());
    expect_outcome(&mut pair, id, CustomOutcome::Dropped(NotSent::NotAnnounced));
}

#[test]
fn an_error_that_may_be_the_messages_is_no_refusal_of_it() {
    let _judged = opamp_spec::judges(&["ERR-06"]);
    let mut pair = settled(WebSocket);
    pair.core.set_health(Some(health("odd")));
    pair.expect_parts(Parts::HEALTH);
    let custom_message = Some(message(CHAT, "push"));
    pair.receive(v1::ServerToAgent { custom_message, ..acknowledgement() });
    let id = send(&mut pair, "1");
    expect_custom(&mut pair, "1");
    // To the report, if what came was a push, or to the message, if it was the reply.
    pair.receive(error(BadRequest, "no"));
    expect_outcome(&mut pair, id, CustomOutcome::Unconfirmed);
}

#[test]
fn a_message_too_big_for_the_server_is_refused_and_not_repeated() {
    let _judged = opamp_spec::judges(&["SIZE-24"]);
    let mut pair = settled(WebSocket);
    let id = send(&mut pair, "big");
    expect_custom(&mut pair, "big");
    pair.closed_by_server(1009);
    let reason = "the server takes no message of that size (close 1009)".to_owned();
    expect_outcome(&mut pair, id, CustomOutcome::Refused(reason));
    pair.wait_for_retry();
    pair.connect();
    pair.expect();
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn nothing_is_sent_without_the_consent_of_both_ends() {
    let _judged = opamp_spec::judges(&["CUST-03", "CUST-04", "CUST-09"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            config.custom_capabilities = capabilities(&[CHAT]);
        });
        let now = pair.now;
        let unannounced = pair.core.send_custom_message(message(LOGS, "x"), now);
        assert_eq!(unannounced, Err(NotSent::NotAnnounced));
        // Nobody knows yet what the server can do.
        let id = send(&mut pair, "early");
        pair.connect();
        pair.expect();
        pair.acknowledge();
        pair.expect_silence();
        pair.core.set_health(Some(health("fine")));
        pair.expect();
        pair.receive(announcement(&[LOGS]));
        expect_outcome(&mut pair, id, CustomOutcome::Dropped(NotSent::NotSupported));
        pair.expect_silence();
        let refused = pair.core.send_custom_message(message(CHAT, "late"), now);
        assert_eq!(refused, Err(NotSent::NotSupported));
        pair.core.set_health(Some(health("well")));
        pair.expect();
        pair.receive(announcement(&[CHAT]));
        send(&mut pair, "now");
        expect_custom(&mut pair, "now");
    }
}

#[test]
fn a_message_that_waits_is_dropped_when_an_end_withdraws_the_capability() {
    let _judged = opamp_spec::judges(&["CUST-03", "CUST-09"]);
    for by_server in [true, false] {
        let mut pair = settled(WebSocket);
        let sent = send(&mut pair, "sent");
        let waiting = send(&mut pair, "waiting");
        expect_custom(&mut pair, "sent");
        let why = if by_server {
            pair.receive(announcement(&[LOGS]));
            NotSent::NotSupported
        } else {
            pair.core.set_custom_capabilities(capabilities(&[LOGS]));
            NotSent::NotAnnounced
        };
        expect_outcome(&mut pair, waiting, CustomOutcome::Dropped(why));
        pair.acknowledge();
        expect_outcome(&mut pair, sent, CustomOutcome::Delivered);
    }
}

#[test]
fn a_new_capability_is_told_before_its_first_message() {
    let _judged = opamp_spec::judges(&["CUST-09", "CUST-10"]);
    for transport in TRANSPORTS {
        let mut pair = settled_with(transport, |config| {
            config.custom_capabilities = capabilities(&[LOGS]);
        });
        pair.core.set_custom_capabilities(capabilities(&[CHAT]));
        send(&mut pair, "1");
        pair.expect_parts(Parts::CUSTOM_CAPABILITIES);
        pair.expect_silence();
        pair.acknowledge();
        expect_custom(&mut pair, "1");
    }
}

#[test]
fn a_message_has_an_outcome_in_time_whatever_the_server_does() {
    let _judged = opamp_spec::judges(&["CUST-04", "CUST-13"]);
    let mut pair = Pair::new(WebSocket, |config| {
        config.custom_capabilities = capabilities(&[CHAT]);
    });
    let waiting = send(&mut pair, "never sent");
    pair.advance(seconds(59));
    expect_none(&mut pair);
    pair.advance(seconds(1));
    expect_outcome(&mut pair, waiting, CustomOutcome::Dropped(NotSent::Expired));

    let mut pair = settled_with(WebSocket, |config| config.heartbeat_interval = None);
    let sent = send(&mut pair, "never answered");
    expect_custom(&mut pair, "never answered");
    pair.advance(seconds(59));
    expect_none(&mut pair);
    pair.advance(seconds(1));
    expect_outcome(&mut pair, sent, CustomOutcome::Unconfirmed);
    // The late answer is to no message any more.
    pair.acknowledge();
    expect_none(&mut pair);
}

#[test]
fn an_overdue_answer_does_not_hold_up_the_next_message() {
    let _judged = opamp_spec::judges(&["RETRY-02"]);
    let mut pair = settled(WebSocket);
    let ids = [send(&mut pair, "1"), send(&mut pair, "2")];
    expect_custom(&mut pair, "1");
    pair.advance(seconds(9));
    pair.expect_silence();
    pair.advance(seconds(1));
    expect_custom(&mut pair, "2");
    for id in ids {
        pair.acknowledge();
        expect_outcome(&mut pair, id, CustomOutcome::Delivered);
    }
}

#[test]
fn room_is_bounded_by_number_and_bytes_until_outcomes_are_taken() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let one = CHAT.len() + "line".len() + 10;
    for (messages, bytes) in [(2, 10_000), (64, 2 * one)] {
        let mut pair = settled_with(WebSocket, |config| {
            config.max_custom_messages = messages;
            config.max_custom_bytes = bytes;
        });
        let try_send =
            |pair: &mut Pair| pair.core.send_custom_message(message(CHAT, "ten bytes!"), pair.now);
        try_send(&mut pair).expect("room for one");
        pair.expect();
        try_send(&mut pair).expect("room for two");
        assert_eq!(try_send(&mut pair), Err(NotSent::Full));
        pair.acknowledge();
        if messages == 2 {
            assert_eq!(try_send(&mut pair), Err(NotSent::Full), "an outcome takes room too");
        }
        outcomes(&mut pair);
        try_send(&mut pair).expect("room again");
    }
}

#[test]
fn a_message_that_can_never_be_sent_is_refused_at_once() {
    let _judged = opamp_spec::judges(&["SIZE-16"]);
    for transport in TRANSPORTS {
        let mut pair = settled_with(transport, |config| {
            config.limits = config.limits.with_max_send(1000);
        });
        let mut largest = 1000;
        while let Err(error) =
            pair.core.send_custom_message(message(CHAT, &"x".repeat(largest)), pair.now)
        {
            let NotSent::TooLarge { limit, size } = error else { panic!("{error}") };
            assert!(limit < 1000 && size > limit);
            largest -= 1;
        }
        assert!(largest > 800, "no more is refused than has to be");
        // That what is sent is within the limit is checked for every message.
        pair.expect();
    }
}

#[test]
fn stopping_sends_what_waits_and_leaves_nothing_without_an_outcome() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CUST-13"]);
    for transport in TRANSPORTS {
        let mut pair = settled(transport);
        let ids = [send(&mut pair, "1"), send(&mut pair, "2")];
        let now = pair.now;
        pair.core.stop(now);
        for data in ["1", "2"] {
            expect_custom(&mut pair, data);
            if transport == Http {
                pair.acknowledge();
            }
        }
        pair.expect_goodbye();
        match transport {
            WebSocket => {
                pair.acknowledge();
                pair.closed_by_server(1000);
                let expected =
                    [(ids[0], CustomOutcome::Delivered), (ids[1], CustomOutcome::Unconfirmed)];
                assert_eq!(outcomes(&mut pair), expected);
            }
            Http => {
                pair.acknowledge();
                assert_eq!(outcomes(&mut pair), ids.map(|id| (id, CustomOutcome::Delivered)));
            }
        }
        assert!(pair.core.is_stopped());
        let late = pair.core.send_custom_message(message(CHAT, "late"), now);
        assert_eq!(late, Err(NotSent::Stopped));
        assert_eq!(pair.core.poll_timeout(), None);
    }
}

#[test]
fn stopping_without_a_connection_drops_what_waits() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let mut pair = Pair::new(WebSocket, |config| {
        config.custom_capabilities = capabilities(&[CHAT]);
    });
    let id = send(&mut pair, "1");
    let now = pair.now;
    pair.core.stop(now);
    expect_outcome(&mut pair, id, CustomOutcome::Dropped(NotSent::Stopped));
}

#[test]
fn a_request_that_could_not_be_made_leaves_the_message_unconfirmed() {
    let _judged = opamp_spec::judges(&["CUST-13"]);
    let mut pair = settled(Http);
    let id = send(&mut pair, "1");
    expect_custom(&mut pair, "1");
    let failure = Failure { kind: FailureKind::BadResponse, ..unreachable() };
    let ticket = pair.take_ticket();
    let now = pair.now;
    pair.core.handle_request_failed(ticket, failure, now);
    expect_outcome(&mut pair, id, CustomOutcome::Unconfirmed);
}
