//! Connections that are never established, and peers that fall silent.

use std::time::Duration;

use opamp_proto::v1;

use super::pair::{Pair, WebSocket};
use super::values::{acknowledgement, error, health, seconds, unavailable};
use crate::core::{
    ConnectionAction, Event, FailureKind, Parts, PeerMisbehaved, Received, Transmit,
};

const MOMENT: Duration = Duration::from_nanos(1);

/// Some servers answer reports and no heartbeats.
#[test]
fn what_nobody_asked_for_answers_no_heartbeat() {
    let mut pair = Pair::settled(WebSocket);
    pair.acknowledge();
    for _ in 0..5 {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
    assert!(pair.core.is_connected());
}

/// The core wants the connection dropped.
fn expect_abort(pair: &mut Pair) {
    let epoch = pair.epoch();
    let action = pair.core.poll_connection(pair.now);
    assert_eq!(action, Some(ConnectionAction::Abort { epoch }));
}

/// A settled agent that pings after 30 s of silence and gives up 20 s later, and sends nothing
/// else.
fn quiet() -> Pair {
    Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = None;
        config.ping_interval = Some(seconds(30));
        config.ping_timeout = seconds(20);
    })
}

#[test]
fn a_connection_that_takes_too_long_is_given_up() {
    let _judged = opamp_spec::judges(&["EST-03", "EST-04"]);
    let mut pair = Pair::new(WebSocket, |config| config.connect_timeout = seconds(15));
    let epoch = pair.expect_connect();
    pair.advance(seconds(15) - MOMENT);
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.advance(MOMENT);
    expect_abort(&mut pair);
    let events = pair.events();
    let [Event::ConnectFailed { failure, retry_in }] = &events[..] else {
        panic!("the attempt failed: {events:?}");
    };
    assert_eq!(failure.kind, FailureKind::Unreachable);
    // The connection that comes about after all is of no use.
    pair.core.handle_connected(epoch, pair.now);
    pair.expect_silence();
    assert!(!pair.core.is_connected());
    assert_eq!(pair.wait_for_retry(), *retry_in);
    pair.expect_connect();
}

#[test]
fn an_established_connection_is_not_given_up() {
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    assert_eq!(pair.until_timeout(), None);
    pair.advance(seconds(3600));
    assert!(pair.core.is_connected());
}

#[test]
fn a_silent_connection_is_pinged_once() {
    let mut pair = quiet();
    pair.advance(seconds(30) - MOMENT);
    pair.expect_silence();
    pair.advance(MOMENT);
    pair.expect_ping();
    pair.expect_silence();
}

#[test]
fn any_sign_of_life_answers_a_ping() {
    for sign in [
        Received::Control,
        Received::Text,
        Received::Binary(bytes::Bytes::from_static(b"junk")),
        Received::Binary(bytes::Bytes::from_static(b"\0")),
    ] {
        let mut pair = quiet();
        for _ in 0..3 {
            pair.advance(seconds(30));
            pair.expect_ping();
            pair.advance(seconds(20) - MOMENT);
            pair.receive_frame(sign.clone());
            assert_eq!(pair.until_timeout(), Some(seconds(30)));
        }
        assert!(pair.core.is_connected());
    }
}

#[test]
fn a_ping_that_is_not_needed_any_more_is_not_sent() {
    let mut pair = quiet();
    pair.advance(seconds(30));
    pair.receive_frame(Received::Control);
    pair.expect_silence();
}

/// W-19 of the reference: a silent peer was not noticed.
#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    let _judged = opamp_spec::judges(&["EST-06", "DELTA-04"]);
    let mut pair = quiet();
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(30));
    pair.expect_ping();
    pair.advance(seconds(20) - MOMENT);
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.advance(MOMENT);
    assert!(!pair.core.is_connected());
    let reason = "the server does not answer, not even a ping".to_owned();
    assert_eq!(pair.events(), [Event::Disconnected { reason }]);
    expect_abort(&mut pair);
    // This is a loss like any other: the next connection is made at once, and nothing is lost.
    pair.connect();
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn what_goes_out_proves_nothing_about_the_peer() {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = Some(seconds(10));
        config.ping_interval = Some(seconds(30));
        config.ping_timeout = seconds(20);
    });
    for _ in 0..2 {
        pair.advance(seconds(10));
        pair.expect_heartbeat();
    }
    pair.advance(seconds(10));
    pair.expect_heartbeat();
    pair.expect_ping();
    for _ in 0..2 {
        pair.advance(seconds(10));
        pair.poll();
    }
    assert!(!pair.core.is_connected());
}

#[test]
fn the_next_connection_is_watched_anew() {
    let mut pair = quiet();
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    pair.advance(seconds(30));
    pair.expect_ping();
    pair.core.set_health(Some(health("better")));
    pair.expect_parts(Parts::HEALTH);
    pair.lose();
    // What the old connection was waiting for does not concern the next one.
    assert_eq!(pair.until_timeout(), None);
    pair.connect();
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
    pair.reconnect();
    pair.expect_parts(Parts::empty());
    pair.acknowledge();
    pair.expect_silence();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
    pair.advance(seconds(30));
    pair.expect_ping();
}

#[test]
fn a_fresh_connection_is_watched_before_anything_came() {
    let mut pair = Pair::new(WebSocket, |config| {
        config.heartbeat_interval = None;
        config.ping_interval = Some(seconds(30));
    });
    pair.connect();
    pair.expect();
    pair.advance(seconds(30));
    pair.expect_ping();
    pair.advance(seconds(20));
    assert!(!pair.core.is_connected());
}

#[test]
fn a_connection_that_is_being_left_is_not_pinged() {
    let mut pair = quiet();
    pair.advance(seconds(28));
    pair.expect_silence();
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    assert_eq!(pair.until_timeout(), Some(seconds(2)));
    // From now on the connection is watched for the length of the close alone.
    pair.core.stop(pair.now);
    assert_eq!(pair.until_timeout(), Some(seconds(5)));

    let mut pair = quiet();
    pair.receive(unavailable(Some(seconds(600))));
    assert_eq!(pair.until_timeout(), Some(seconds(5)), "nothing but the close");
    pair.receive_frame(Received::Control);
    assert_eq!(pair.until_timeout(), Some(seconds(5)));
    pair.expect_goodbye();
    pair.expect_silence();
}

#[test]
fn pings_can_be_turned_off() {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = None;
        config.ping_interval = None;
    });
    pair.receive_frame(Received::Control);
    assert_eq!(pair.until_timeout(), None);
}

/// The core leaves in good order, and says why.
fn expect_to_leave(pair: &mut Pair) {
    pair.expect_goodbye();
    let what = PeerMisbehaved::NoAnswer { within: seconds(60) };
    assert!(pair.events().contains(&Event::PeerMisbehaved(what)));
    let action = pair.core.poll_connection(pair.now);
    assert!(matches!(action, Some(ConnectionAction::Close { .. })), "{action:?}");
    pair.closed_by_server(1000);
}

#[test]
fn a_server_that_answers_nothing_is_left_although_it_is_alive() {
    let _judged = opamp_spec::judges(&["EST-02", "EST-04"]);
    let mut pair = Pair::new(WebSocket, |config| config.ping_interval = Some(seconds(7)));
    let mut last_pause = Duration::ZERO;
    for attempt in 0..4 {
        pair.connect();
        let first = pair.expect();
        assert!(first.health.is_some(), "what was not answered is told again");
        pair.expect_silence();
        for _ in 0..59 {
            pair.advance(seconds(1));
            while let Some(transmit) = pair.core.poll_transmit(pair.now) {
                // Heartbeats and pings; the server's WebSocket answers the latter by itself.
                if matches!(transmit, Transmit::Ping { .. }) {
                    pair.receive_frame(Received::Control);
                } else {
                    pair.open(transmit);
                }
            }
        }
        pair.advance(seconds(1));
        expect_to_leave(&mut pair);
        let pause = pair.wait_for_retry();
        assert!(pause >= Duration::from_millis(500 << attempt), "no hot loop: {pause:?}");
        assert!(attempt == 0 || pause > last_pause / 2, "pauses grow");
        last_pause = pause;
    }
}

#[test]
fn anything_a_server_says_to_the_agent_is_better_than_nothing() {
    let _judged = opamp_spec::judges(&["EST-02"]);
    for answer in [
        acknowledgement(),
        error(v1::ServerErrorResponseType::BadRequest, "what?"),
        v1::ServerToAgent { flags: 1, ..acknowledgement() },
    ] {
        let mut pair = Pair::new(WebSocket, |config| config.heartbeat_interval = None);
        pair.connect();
        pair.expect();
        pair.advance(seconds(59));
        pair.receive(answer);
        pair.advance(seconds(59));
        assert!(pair.core.is_connected());
    }
}

/// W-19 of the reference: a silent peer was not noticed.
#[test]
fn a_server_that_falls_silent_is_left() {
    let _judged = opamp_spec::judges(&["EST-02", "RETRY-01"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    pair.advance(seconds(600));
    pair.core.set_health(Some(health("worse")));
    pair.expect_parts(Parts::HEALTH);
    pair.expect_silence();
    pair.advance(seconds(50));
    // Another report does not begin the wait anew.
    pair.core.set_health(Some(health("dying")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(10));
    expect_to_leave(&mut pair);
    // The connection had worked.
    assert_eq!(pair.wait_for_retry(), Duration::ZERO);
    pair.connect();
    assert_eq!(pair.expect().health, Some(health("dying")));
}

#[test]
fn a_server_is_expected_to_answer_heartbeats_if_it_has_answered_one() {
    let _judged = opamp_spec::judges(&["EST-02"]);
    // Servers that answer reports and no heartbeats are out there.
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..20 {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
    pair.acknowledge();
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.expect_silence();
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.advance(seconds(30));
    expect_to_leave(&mut pair);
}

#[test]
fn what_takes_long_to_be_sent_is_not_unanswered() {
    let _judged = opamp_spec::judges(&["EST-02"]);
    let mut pair = Pair::new(WebSocket, |config| config.heartbeat_interval = None);
    pair.connect();
    pair.expect();
    // The transport takes nothing else for minutes, so nothing is polled.
    pair.advance(seconds(600));
    pair.expect_silence();
    assert!(pair.core.is_connected());
    pair.advance(seconds(60));
    expect_to_leave(&mut pair);
}

#[test]
fn a_client_can_wait_for_an_answer_for_ever() {
    let _judged = opamp_spec::judges(&["EST-02"]);
    let mut pair = Pair::new(WebSocket, |config| {
        config.answer_timeout = None;
        config.heartbeat_interval = None;
    });
    pair.connect();
    pair.expect();
    pair.advance(seconds(3600));
    pair.expect_silence();
    assert!(pair.core.is_connected());
}
