//! When the next connection is made, after this one is over or could not be made.

use std::time::Duration;

use super::pair::{Pair, WebSocket, unreachable};
use super::values::{EVERYTHING, seconds};
use crate::core::{ConnectionAction, Event, Failure, FailureKind, Loss, Parts};

/// Makes the connection break, and makes the next one as soon as the core wants to. Returns how
/// long that took.
fn break_and_reconnect(pair: &mut Pair) -> Duration {
    pair.lose();
    let wait = pair.wait_for_retry();
    pair.connect();
    wait
}

#[test]
fn a_connection_that_worked_is_replaced_at_once() {
    let _judged = opamp_spec::judges(&["EST-06", "DUP-01"]);
    let mut pair = Pair::settled(WebSocket);
    assert_eq!(break_and_reconnect(&mut pair), Duration::ZERO);
    pair.expect_parts(Parts::empty());
}

#[test]
fn a_connection_that_never_worked_is_replaced_after_a_delay() {
    let _judged = opamp_spec::judges(&["EST-04", "EST-07"]);
    let mut pair = Pair::new(WebSocket, |config| config.backoff.jitter = 0.0);
    pair.connect();
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        pair.expect_parts(EVERYTHING);
        assert_eq!(break_and_reconnect(&mut pair), seconds(wait));
    }
}

#[test]
fn connections_are_replaced_at_once_only_once_in_a_while() {
    let _judged = opamp_spec::judges(&["EST-06", "EST-07"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.immediate_reconnect_interval = seconds(10);
        config.backoff.jitter = 0.0;
    });
    let work = |pair: &mut Pair| {
        pair.expect();
        pair.acknowledge();
    };
    assert_eq!(break_and_reconnect(&mut pair), Duration::ZERO);
    work(&mut pair);
    pair.advance(seconds(10) - Duration::from_nanos(1));
    assert_eq!(break_and_reconnect(&mut pair), seconds(1));
    work(&mut pair);
    // By now the interval is over.
    assert_eq!(break_and_reconnect(&mut pair), Duration::ZERO);
    work(&mut pair);
    pair.advance(seconds(10));
    assert_eq!(break_and_reconnect(&mut pair), Duration::ZERO);
}

#[test]
fn only_this_connection_counts_as_one_that_worked() {
    let _judged = opamp_spec::judges(&["EST-06", "EST-07"]);
    let mut pair = Pair::settled(WebSocket);
    assert_eq!(break_and_reconnect(&mut pair), Duration::ZERO);
    pair.expect();
    // The interval is long over, but nothing ever came on this one.
    pair.advance(seconds(60));
    assert!(!break_and_reconnect(&mut pair).is_zero());
}

#[test]
fn if_the_immediate_attempt_fails_further_ones_back_off() {
    let _judged = opamp_spec::judges(&["EST-03", "EST-04", "EST-07"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.backoff.jitter = 0.0);
    pair.events();
    pair.lose();
    pair.events();
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        let epoch = pair.expect_connect();
        pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
        let failure = unreachable();
        let retry_in = seconds(wait);
        assert_eq!(pair.events(), [Event::ConnectFailed { failure, retry_in }]);
        assert_eq!(pair.core.poll_connection(pair.now), None);
        assert_eq!(pair.wait_for_retry(), retry_in);
    }
    // An answer on a connection ends the backoff; the mere connection does not.
    pair.connect();
    pair.expect();
    pair.closed_by_server(1001);
    assert_eq!(pair.wait_for_retry(), seconds(60));
    pair.connect();
    pair.expect();
    pair.acknowledge();
    pair.closed_by_server(1001);
    assert_eq!(pair.wait_for_retry(), seconds(1));
}

#[test]
fn a_refused_handshake_is_tried_again() {
    let _judged = opamp_spec::judges(&["EST-03", "EST-04"]);
    for kind in [
        FailureKind::Unauthorized,
        FailureKind::NotFound,
        FailureKind::Tls,
        FailureKind::UnexpectedStatus(500),
        FailureKind::BadResponse,
        FailureKind::Configuration,
    ] {
        let mut pair = Pair::new(WebSocket, |config| config.backoff.jitter = 0.0);
        let epoch = pair.expect_connect();
        let failure = Failure { kind, message: String::new() };
        // What `Retry-After` says only counts where the server is overloaded.
        let asked = Some(seconds(600));
        pair.core.handle_connect_failed(epoch, failure, asked, pair.now);
        assert_eq!(pair.wait_for_retry(), seconds(1));
        pair.connect();
        pair.expect_parts(EVERYTHING);
    }
}

#[test]
fn attempts_are_spread_by_their_seed() {
    let _judged = opamp_spec::judges(&["EST-04"]);
    let wait = |seed| {
        let mut pair = Pair::new(WebSocket, |config| config.seed = seed);
        let epoch = pair.expect_connect();
        pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
        pair.wait_for_retry()
    };
    let waits: std::collections::BTreeSet<_> = (0..50).map(wait).collect();
    assert_eq!(waits.len(), 50);
    assert!(waits.iter().all(|wait| *wait >= seconds(1) / 2 && *wait <= seconds(1)));
    assert!(waits.first() < Some(&Duration::from_millis(600)));
    assert!(waits.last() > Some(&Duration::from_millis(900)));
}

#[test]
fn jitter_is_drawn_as_documented() {
    let _judged = opamp_spec::judges(&["EST-04"]);
    // The first numbers of SplitMix64 from this seed, made by another implementation of it.
    let numbers = [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973];
    let mut pair = Pair::new(WebSocket, |config| {
        config.seed = 1_234_567;
        config.backoff.jitter = 1.0;
        config.backoff.initial = seconds(1_000_000);
        config.backoff.max = seconds(1_000_000);
    });
    for number in numbers {
        let epoch = pair.expect_connect();
        pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
        let wait = pair.wait_for_retry().as_secs_f64();
        let expected = 1e6 * (1.0 - number as f64 / 2_f64.powi(64));
        assert!((wait - expected).abs() < 1e-6, "{wait} is not {expected}");
    }
}

#[test]
fn after_a_close_frame_the_next_connection_comes_after_a_delay() {
    let _judged = opamp_spec::judges(&["EST-04", "EST-03"]);
    for code in [1000, 1001, 1002, 1008, 1009, 1011, 1012, 1013, 4000] {
        let mut pair = Pair::settled_with(WebSocket, |config| config.backoff.jitter = 0.0);
        let reason = "maintenance".to_owned();
        pair.lose_with(Loss::Closed { code: Some(code), reason });
        let reason = format!("closed by the server: {code} maintenance");
        assert_eq!(pair.events(), [Event::Disconnected { reason }]);
        assert_eq!(pair.wait_for_retry(), seconds(1));
        pair.connect();
        pair.expect_parts(Parts::empty());
    }
}

#[test]
fn a_close_frame_need_not_have_a_code() {
    let mut pair = Pair::settled(WebSocket);
    let (code, reason) = (None, String::new());
    pair.lose_with(Loss::Closed { code, reason });
    let reason = "closed by the server".to_owned();
    assert_eq!(pair.events(), [Event::Disconnected { reason }]);
}

#[test]
fn content_that_a_close_frame_leaves_unanswered_is_told_again() {
    let _judged = opamp_spec::judges(&["DELTA-04", "RETRY-03"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.expect_parts(EVERYTHING);
    pair.closed_by_server(1001);
    pair.wait_for_retry();
    pair.connect();
    pair.expect_parts(EVERYTHING);
}

#[test]
fn there_is_one_connection_at_a_time() {
    let _judged = opamp_spec::judges(&["DUP-01"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.expect();
    pair.acknowledge();
    pair.advance(seconds(3600));
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.lose();
    let action = pair.core.poll_connection(pair.now);
    assert!(matches!(action, Some(ConnectionAction::Connect { .. })));
    assert_eq!(pair.core.poll_connection(pair.now), None);
}

#[test]
fn a_server_that_accepts_and_drops_makes_no_hot_loop() {
    let _judged = opamp_spec::judges(&["EST-07"]);
    // With and without an answer before the drop.
    for answers in [false, true] {
        let mut pair = Pair::new(WebSocket, |_| {});
        pair.connect();
        let (start, mut connections) = (pair.now, 0);
        while pair.now < start + seconds(600) {
            connections += 1;
            assert!(connections < 2000, "the time stands still");
            pair.expect();
            if answers {
                pair.acknowledge();
            }
            break_and_reconnect(&mut pair);
        }
        let most = if answers { 600 / 10 + 2 * 600 } else { 40 };
        assert!(connections <= most, "{connections}");
    }
}
