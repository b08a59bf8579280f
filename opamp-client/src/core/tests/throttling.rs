//! An overloaded server: `UNAVAILABLE`, and 429 or 503 with `Retry-After`.

use std::time::Duration;

use super::pair::{Http, Pair, TRANSPORTS, WebSocket, unreachable};
use super::values::{EVERYTHING, health, seconds, unavailable};
use crate::core::{ConnectionAction, Event, Failure, FailureKind, Parts, Transport};

const DAY: Duration = seconds(86_400);

/// The client leaves because of `UNAVAILABLE`, and the driver completes the close.
fn complete_close(pair: &mut Pair) {
    let epoch = pair.epoch();
    let action = pair.core.poll_connection(pair.now);
    let close = ConnectionAction::Close { epoch, code: 1000, reason: "" };
    assert_eq!(action, Some(close));
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.closed_by_server(1000);
}

/// Sends a report that the server is too busy for. Returns what the client waits.
fn throttle(pair: &mut Pair, transport: Transport, asked: Option<Duration>) -> Duration {
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(unavailable(asked));
    if transport == WebSocket {
        pair.expect_goodbye();
        pair.expect_silence();
        complete_close(pair);
    }
    pair.expect_silence();
    pair.wait_for_retry()
}

fn between(wait: Duration, least: Duration, most: Duration) -> bool {
    least <= wait && wait <= most
}

/// W-13 of the reference: such an answer was ignored.
#[test]
fn an_unavailable_server_is_left_and_told_everything_later() {
    let _judged = opamp_spec::judges(&[
        "THR-02", "THR-04", "THR-13", "RETRY-04", "DELTA-04", "CLOSE-01", "CLOSE-02", "CLOSE-03",
        "DUP-02", "EST-05",
    ]);
    let mut pair = Pair::settled(WebSocket);
    let wait = throttle(&mut pair, WebSocket, Some(seconds(7)));
    assert!(between(wait, seconds(7), seconds(8)), "{wait:?}");
    pair.connect();
    // The goodbye ended the session: the server may know nothing of this agent (A12).
    pair.expect_parts(EVERYTHING);
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn an_answer_to_the_goodbye_is_no_sign_that_the_server_is_well() {
    let _judged = opamp_spec::judges(&["THR-05", "THR-12"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    for least in [30, 60, 120].map(seconds) {
        pair.receive(unavailable(None));
        pair.expect_goodbye();
        pair.acknowledge();
        complete_close(&mut pair);
        let wait = pair.wait_for_retry();
        assert!(between(wait, least, least.mul_f64(1.5)), "{wait:?} of {least:?}");
        pair.connect();
        pair.expect_parts(EVERYTHING);
    }
}

#[test]
fn over_http_requests_pause() {
    let _judged = opamp_spec::judges(&["THR-04", "THR-13", "RETRY-04", "DELTA-04", "HTTP-13"]);
    let mut pair = Pair::settled(Http);
    let wait = throttle(&mut pair, Http, Some(seconds(7)));
    assert!(between(wait, seconds(7), seconds(8)), "{wait:?}");
    assert!(!pair.core.is_connected());
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    assert!(pair.core.is_connected());
}

#[test]
fn a_throttled_client_says_when_it_will_be_back() {
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        let wait = throttle(&mut pair, transport, Some(seconds(7)));
        let retry_in = wait;
        let mut expected = vec![Event::Throttled { retry_in }];
        if transport == WebSocket {
            expected.push(Event::Disconnected { reason: "closed by the client".to_owned() });
        }
        assert_eq!(pair.events(), expected);
    }
}

#[test]
fn without_a_stated_wait_it_is_half_a_minute_or_more() {
    let _judged = opamp_spec::judges(&["THR-05", "THR-12", "EST-05"]);
    for transport in TRANSPORTS {
        // 0 counts as absent (A11).
        for asked in [None, Some(Duration::ZERO)] {
            let mut pair = Pair::settled(transport);
            let wait = throttle(&mut pair, transport, asked);
            assert!(between(wait, seconds(30), seconds(45)), "{wait:?}");
        }
    }
}

#[test]
fn a_stated_wait_of_any_length_is_bounded() {
    let _judged = opamp_spec::judges(&["THR-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        let wait = throttle(&mut pair, transport, Some(Duration::MAX));
        assert!(between(wait, DAY, DAY.mul_f64(1.1)), "{wait:?}");
    }
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| {
            config.backoff.max_retry_after = seconds(60);
        });
        let wait = throttle(&mut pair, transport, Some(DAY));
        assert!(between(wait, seconds(60), seconds(66)), "{wait:?}");
    }
}

#[test]
fn leaving_an_unavailable_server_takes_bounded_time() {
    let _judged = opamp_spec::judges(&["THR-02"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(unavailable(Some(seconds(7))));
    // The transport takes no goodbye, and the close is never completed.
    pair.advance(seconds(5) - Duration::from_nanos(1));
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.advance(Duration::from_nanos(1));
    let epoch = pair.epoch();
    let abort = ConnectionAction::Abort { epoch };
    assert_eq!(pair.core.poll_connection(pair.now), Some(abort));
    assert_eq!(pair.core.poll_connection(pair.now), None);
    let wait = pair.wait_for_retry();
    assert!(between(wait, seconds(7), seconds(8)), "{wait:?}");
    pair.connect();
    pair.expect_parts(EVERYTHING);
}

#[test]
fn changes_while_throttled_wait() {
    let _judged = opamp_spec::judges(&["THR-04", "RETRY-08"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(unavailable(Some(seconds(60))));
    pair.core.set_health(Some(health("two")));
    pair.expect_silence();
    pair.advance(seconds(59));
    pair.expect_silence();
    pair.wait_for_retry();
    assert_eq!(pair.expect_parts(Parts::HEALTH).health, Some(health("two")));
}

#[test]
fn a_handshake_refused_for_overload_is_repeated_when_the_server_says() {
    let _judged = opamp_spec::judges(&["THR-09", "THR-10", "THR-11", "THR-12", "EST-05"]);
    for (asked, least, most) in [
        (Some(seconds(5)), seconds(5), seconds(6)),
        (Some(seconds(600)), seconds(600), seconds(660)),
        (Some(Duration::MAX), DAY, DAY.mul_f64(1.1)),
        (None, seconds(30), seconds(45)),
        (Some(Duration::ZERO), seconds(30), seconds(45)),
    ] {
        let mut pair = Pair::new(WebSocket, |_| {});
        let epoch = pair.expect_connect();
        let failure = Failure { kind: FailureKind::Throttled, message: "503".to_owned() };
        pair.core.handle_connect_failed(epoch, failure.clone(), asked, pair.now);
        let wait = pair.wait_for_retry();
        assert!(between(wait, least, most), "{asked:?}: {wait:?}");
        let retry_in = wait;
        assert_eq!(pair.events(), [Event::ConnectFailed { failure, retry_in }]);
        pair.connect();
        pair.expect_parts(EVERYTHING);
    }
}

#[test]
fn a_wait_of_a_second_is_a_wish_and_less_is_a_slip() {
    let _judged = opamp_spec::judges(&["THR-09", "EST-04"]);
    let wait_after_failures = |asked| {
        let mut pair = Pair::new(WebSocket, |config| config.backoff.jitter = 0.0);
        for _ in 0..4 {
            let epoch = pair.expect_connect();
            pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
            pair.wait_for_retry();
        }
        let epoch = pair.expect_connect();
        let failure = Failure { kind: FailureKind::Throttled, message: String::new() };
        pair.core.handle_connect_failed(epoch, failure, Some(asked), pair.now);
        pair.wait_for_retry()
    };
    let wait = wait_after_failures(seconds(1));
    assert!(between(wait, seconds(1), Duration::from_millis(1100)), "{wait:?}");
    assert_eq!(wait_after_failures(Duration::from_millis(999)), seconds(16));
}

#[test]
fn a_request_refused_for_overload_is_repeated_when_the_server_says() {
    let _judged = opamp_spec::judges(&["THR-09", "THR-10", "THR-12", "DELTA-04"]);
    for status in [429, 503] {
        for (asked, least, most) in [
            (Some(seconds(5)), seconds(5), seconds(6)),
            (None, seconds(30), seconds(45)),
            (Some(Duration::MAX), DAY, DAY.mul_f64(1.1)),
        ] {
            let mut pair = Pair::settled(Http);
            pair.core.set_health(Some(health("well")));
            pair.expect_parts(Parts::HEALTH);
            pair.respond(status, asked, "");
            let wait = pair.wait_for_retry();
            assert!(between(wait, least, most), "{status} {asked:?}: {wait:?}");
            pair.expect_parts(Parts::HEALTH);
        }
    }
}

#[test]
fn retry_after_means_nothing_with_other_failures() {
    let mut pair = Pair::settled(Http);
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.respond(500, Some(seconds(600)), "");
    assert!(pair.wait_for_retry() <= seconds(1));
}

#[test]
fn unavailable_again_while_leaving_changes_nothing() {
    let _judged = opamp_spec::judges(&["THR-02", "CLOSE-01"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(unavailable(Some(seconds(7))));
    pair.receive(unavailable(Some(seconds(70))));
    pair.expect_goodbye();
    complete_close(&mut pair);
    let wait = pair.wait_for_retry();
    assert!(between(wait, seconds(7), seconds(8)), "{wait:?}");
}

#[test]
fn a_server_that_stays_unavailable_is_asked_ever_more_rarely() {
    let _judged = opamp_spec::judges(&["THR-05", "EST-04"]);
    let mut pair = Pair::settled_with(Http, |config| {
        config.backoff.jitter = 0.0;
        config.backoff.max = seconds(3600);
    });
    let mut waits = Vec::new();
    for _ in 0..12 {
        pair.core.set_health(Some(health("well")));
        pair.expect();
        pair.receive(unavailable(None));
        waits.push(pair.wait_for_retry());
    }
    assert!(waits[0] <= seconds(45), "{waits:?}");
    assert_eq!(waits[11], seconds(2048), "{waits:?}");
}
