//! Stopping: from any state, in bounded time, with the goodbye as the last message.

use std::time::Duration;

use opamp_proto::v1;
use opamp_proto::v1::ServerErrorResponseType::{BadRequest, Unknown};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket, unreachable};
use super::values::{
    EVERYTHING, effective_of, error, full_state_request, health, other_uid, remote_config, seconds,
    unavailable,
};
use crate::core::{ConnectionAction, Event, Parts, Received};

const CLOSE_TIMEOUT: Duration = seconds(5);

/// The client has stopped: for good, silently, and having said so as the last thing.
fn expect_stopped(pair: &mut Pair) {
    assert!(pair.core.is_stopped());
    assert!(!pair.core.is_connected());
    assert_eq!(pair.events().last(), Some(&Event::Stopped));
    assert_eq!(pair.until_timeout(), None);
    pair.expect_silence();
    assert_eq!(pair.core.poll_connection(pair.now), None);
    // Whatever happens now is of no interest.
    pair.core.stop(pair.now);
    pair.core.handle_timeout(pair.now + seconds(86_400));
    pair.core.set_health(Some(health("late")));
    pair.expect_silence();
    assert_eq!(pair.core.poll_connection(pair.now), None);
    assert_eq!(pair.events(), []);
}

fn expect_close(pair: &mut Pair) {
    let epoch = pair.epoch();
    let action = pair.core.poll_connection(pair.now);
    let close = ConnectionAction::Close { epoch, code: 1000, reason: "" };
    assert_eq!(action, Some(close));
    assert_eq!(pair.core.poll_connection(pair.now), None);
}

fn expect_abort(pair: &mut Pair) {
    let action = pair.core.poll_connection(pair.now);
    assert!(matches!(action, Some(ConnectionAction::Abort { .. })), "{action:?}");
}

#[test]
fn a_websocket_is_left_with_a_goodbye_and_a_close() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-02", "CLOSE-03"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.stop(pair.now);
    assert!(!pair.core.is_stopped());
    assert_eq!(pair.core.poll_connection(pair.now), None, "goodbye first");
    pair.expect_goodbye();
    pair.expect_silence();
    expect_close(&mut pair);
    // Answers to the goodbye change nothing.
    pair.acknowledge();
    pair.expect_silence();
    pair.closed_by_server(1000);
    expect_stopped(&mut pair);
}

#[test]
fn over_http_the_last_request_is_the_goodbye() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-05"]);
    let mut pair = Pair::settled(Http);
    pair.core.stop(pair.now);
    pair.expect_goodbye();
    pair.expect_silence();
    assert!(!pair.core.is_stopped());
    pair.acknowledge();
    expect_stopped(&mut pair);
}

#[test]
fn what_is_untold_is_told_before_the_goodbye() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-02", "CLOSE-05", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("stopping")));
        pair.core.stop(pair.now);
        let report = pair.expect_parts(Parts::HEALTH);
        assert_eq!(report.health, Some(health("stopping")));
        if transport == Http {
            pair.expect_silence();
            pair.acknowledge();
        }
        pair.expect_goodbye();
    }
}

#[test]
fn what_changes_while_stopping_is_told_too() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.stop(pair.now);
        pair.core.set_health(Some(health("stopping")));
        pair.expect_parts(Parts::HEALTH);
    }
}

#[test]
fn an_unanswered_report_does_not_hold_up_the_goodbye_of_a_websocket() {
    let _judged = opamp_spec::judges(&["CLOSE-02"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_health(Some(health("two")));
    pair.expect_silence();
    pair.core.stop(pair.now);
    pair.expect_parts(Parts::HEALTH);
    pair.expect_goodbye();
}

#[test]
fn an_outstanding_request_is_waited_for() {
    let _judged = opamp_spec::judges(&["HTTP-11", "CLOSE-05"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.stop(pair.now);
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_goodbye();
    pair.acknowledge();
    expect_stopped(&mut pair);
}

#[test]
fn a_fresh_connection_is_reported_to_and_left() {
    let _judged = opamp_spec::judges(&["STATUS-02", "CLOSE-02"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.core.stop(pair.now);
    pair.expect_parts(EVERYTHING);
    pair.expect_goodbye();
    expect_close(&mut pair);
    pair.closed_by_server(1000);
    expect_stopped(&mut pair);
}

/// W-8 of the reference: the goodbye stayed behind for a later start.
#[test]
fn a_client_without_a_connection_stops_at_once() {
    // Never connected.
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.core.stop(pair.now);
    expect_stopped(&mut pair);
    // Between two attempts.
    let mut pair = Pair::new(WebSocket, |_| {});
    let epoch = pair.expect_connect();
    pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
    pair.core.stop(pair.now);
    expect_stopped(&mut pair);
    // Over HTTP, never asked.
    let mut pair = Pair::new(Http, |_| {});
    pair.core.stop(pair.now);
    expect_stopped(&mut pair);
    // Over HTTP, between two attempts.
    let mut pair = Pair::new(Http, |_| {});
    pair.expect();
    pair.lose();
    pair.core.stop(pair.now);
    expect_stopped(&mut pair);
}

#[test]
fn an_attempt_to_connect_is_dropped() {
    let mut pair = Pair::new(WebSocket, |_| {});
    let epoch = pair.expect_connect();
    pair.core.stop(pair.now);
    let action = pair.core.poll_connection(pair.now);
    assert_eq!(action, Some(ConnectionAction::Abort { epoch }));
    expect_stopped(&mut pair);
    pair.core.handle_connected(epoch, pair.now);
    pair.expect_silence();
    assert!(pair.core.is_stopped());
}

#[test]
fn stopping_takes_bounded_time_wherever_it_stalls() {
    // How far the driver gets: nowhere, to the goodbye, to the Close frame.
    for progress in 0..3 {
        let mut pair = Pair::settled(WebSocket);
        pair.core.stop(pair.now);
        if progress > 0 {
            pair.expect_goodbye();
        }
        if progress > 1 {
            expect_close(&mut pair);
        }
        pair.advance(CLOSE_TIMEOUT - Duration::from_nanos(1));
        assert!(!pair.core.is_stopped());
        pair.advance(Duration::from_nanos(1));
        expect_abort(&mut pair);
        expect_stopped(&mut pair);
    }
    // Over HTTP: no response to a report, or to the goodbye.
    for report in [true, false] {
        let mut pair = Pair::settled(Http);
        if report {
            pair.core.set_health(Some(health("stopping")));
        }
        pair.core.stop(pair.now);
        pair.expect();
        pair.advance(CLOSE_TIMEOUT - Duration::from_nanos(1));
        assert!(!pair.core.is_stopped());
        pair.advance(Duration::from_nanos(1));
        expect_abort(&mut pair);
        let ticket = pair.take_ticket();
        pair.core.handle_request_failed(ticket, unreachable(), pair.now);
        expect_stopped(&mut pair);
    }
}

#[test]
fn a_trickle_of_messages_does_not_prolong_the_stop() {
    let mut pair = Pair::settled(WebSocket);
    pair.core.stop(pair.now);
    pair.core.stop(pair.now);
    pair.expect_goodbye();
    expect_close(&mut pair);
    for _ in 0..5 {
        pair.advance(seconds(1));
        pair.receive_frame(Received::Control);
        pair.acknowledge();
        pair.core.stop(pair.now);
    }
    expect_abort(&mut pair);
    expect_stopped(&mut pair);
}

#[test]
fn a_websocket_that_breaks_while_it_is_left_is_left() {
    for goodbye in [false, true] {
        let mut pair = Pair::settled(WebSocket);
        pair.core.stop(pair.now);
        if goodbye {
            pair.expect_goodbye();
        }
        pair.lose();
        expect_stopped(&mut pair);
    }
}

#[test]
fn failed_exchanges_end_the_stop() {
    let _judged = opamp_spec::judges(&["CLOSE-05", "THR-04"]);
    type Failure = fn(&mut Pair);
    let failures: [Failure; 6] = [
        Pair::lose,
        |pair| pair.respond(500, None, ""),
        |pair| pair.respond(503, Some(seconds(60)), ""),
        |pair| pair.respond(200, None, "junk"),
        |pair| pair.receive(unavailable(None)),
        |pair| pair.receive(unavailable(Some(seconds(60)))),
    ];
    for failure in failures {
        for report in [true, false] {
            let mut pair = Pair::settled(Http);
            if report {
                pair.core.set_health(Some(health("stopping")));
            }
            pair.core.stop(pair.now);
            pair.expect();
            failure(&mut pair);
            // The server is not there, or is overloaded: it is not bothered any more.
            expect_stopped(&mut pair);
        }
    }
}

#[test]
fn a_refused_goodbye_ends_the_stop_too() {
    let _judged = opamp_spec::judges(&["CLOSE-05", "ERR-14"]);
    type Refusal = fn(&mut Pair);
    let refusals: [Refusal; 5] = [
        |pair| pair.respond(400, None, ""),
        |pair| pair.respond(413, None, ""),
        |pair| pair.receive(error(BadRequest, "no")),
        |pair| pair.receive(error(Unknown, "no")),
        |pair| {
            pair.receive(v1::ServerToAgent {
                instance_uid: other_uid().to_bytes(),
                ..Default::default()
            });
        },
    ];
    for refusal in refusals {
        let mut pair = Pair::settled(Http);
        pair.core.stop(pair.now);
        pair.expect_goodbye();
        refusal(&mut pair);
        expect_stopped(&mut pair);
    }
}

#[test]
fn a_refused_last_report_is_followed_by_the_goodbye() {
    let _judged = opamp_spec::judges(&["CLOSE-05", "SIZE-24", "ERR-14"]);
    type Refusal = fn(&mut Pair);
    let refusals: [(Refusal, bool); 3] = [
        (|pair| pair.respond(400, None, ""), false),
        (|pair| pair.receive(error(BadRequest, "no")), false),
        // After a 413 the rest is told.
        (|pair| pair.respond(413, None, ""), true),
    ];
    for (refusal, rest) in refusals {
        let mut pair = Pair::settled(Http);
        pair.core.set_health(Some(health("stopping")));
        pair.core.set_effective_config(Some(effective_of(1000)));
        pair.core.stop(pair.now);
        pair.expect_parts(Parts::HEALTH | Parts::EFFECTIVE_CONFIG);
        refusal(&mut pair);
        if rest {
            pair.expect_parts(Parts::HEALTH);
            pair.acknowledge();
        }
        pair.expect_goodbye();
        pair.acknowledge();
        expect_stopped(&mut pair);
    }
}

#[test]
fn a_client_that_is_leaving_to_come_back_can_be_stopped() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-02", "THR-02"]);
    // Before the goodbye, after it, and while the close is under way.
    for progress in 0..3 {
        let mut pair = Pair::settled(WebSocket);
        pair.receive(unavailable(Some(seconds(60))));
        if progress > 0 {
            pair.expect_goodbye();
        }
        if progress > 1 {
            expect_close(&mut pair);
        }
        pair.core.stop(pair.now);
        if progress == 0 {
            pair.expect_goodbye();
        }
        pair.expect_silence();
        if progress < 2 {
            expect_close(&mut pair);
        }
        pair.closed_by_server(1000);
        expect_stopped(&mut pair);
    }
    // And afterwards.
    let mut pair = Pair::settled(WebSocket);
    pair.receive(unavailable(Some(seconds(60))));
    pair.expect_goodbye();
    expect_close(&mut pair);
    pair.closed_by_server(1000);
    pair.core.stop(pair.now);
    expect_stopped(&mut pair);
}

#[test]
fn a_client_that_leaves_for_an_oversized_message_can_be_stopped() {
    let _judged = opamp_spec::judges(&["SIZE-11", "CLOSE-01"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive_frame(Received::TooLarge);
    pair.core.stop(pair.now);
    pair.expect_silence();
    let action = pair.core.poll_connection(pair.now);
    assert!(matches!(action, Some(ConnectionAction::Close { code: 1009, .. })));
    pair.closed_by_server(1009);
    expect_stopped(&mut pair);
}

#[test]
fn an_offer_that_comes_too_late_waits_for_the_next_start() {
    for taken in [false, true] {
        let mut pair = Pair::settled(WebSocket);
        pair.core.stop(pair.now);
        pair.receive(remote_config("h1", "a: 1"));
        if taken {
            pair.expect_offer();
        }
        pair.expect_goodbye();
        expect_close(&mut pair);
        pair.closed_by_server(1000);
        let saved = pair.core.state().pending_remote_config.clone();
        assert!(saved.is_some(), "it is offered again after a restart");
        expect_stopped(&mut pair);
    }
}

#[test]
fn the_server_may_ask_for_full_state_to_the_last() {
    let _judged = opamp_spec::judges(&["SEQ-07", "CLOSE-01"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.stop(pair.now);
    pair.receive(full_state_request());
    pair.expect_parts(EVERYTHING);
    pair.expect_goodbye();
    pair.receive(full_state_request());
    pair.expect_silence();
}
