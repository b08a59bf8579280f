//! Heartbeats over WebSocket.

use std::time::Duration;

use super::pair::{LONG, Pair, WebSocket, unreachable};
use super::values::{health, seconds};
use crate::core::Parts;

const MOMENT: Duration = Duration::from_nanos(1);

#[test]
fn a_heartbeat_follows_an_interval_of_silence() {
    let _judged =
        opamp_spec::judges(&["HB-02", "HB-03", "HB-06", "HB-12", "HB-13", "HB-17", "HB-20"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..5 {
        assert_eq!(pair.until_timeout(), Some(seconds(30)));
        pair.advance(seconds(30) - MOMENT);
        pair.expect_silence();
        pair.advance(MOMENT);
        pair.expect_heartbeat();
        pair.expect_silence();
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn heartbeats_go_on_without_answers() {
    let _judged = opamp_spec::judges(&["HB-12", "HB-13"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..5 {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.expect_silence();
    }
}

#[test]
fn the_interval_is_that_of_the_configuration() {
    let _judged = opamp_spec::judges(&["HB-12"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = Some(seconds(7));
        config.polling_interval = seconds(3);
    });
    pair.advance(seconds(7) - MOMENT);
    pair.expect_silence();
    pair.advance(MOMENT);
    pair.expect_heartbeat();
}

#[test]
fn the_interval_counts_from_the_last_message_of_any_kind() {
    let _judged = opamp_spec::judges(&["HB-09"]);
    let mut pair = Pair::settled(WebSocket);
    pair.advance(seconds(29));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    pair.advance(seconds(30) - MOMENT);
    pair.expect_silence();
    pair.advance(MOMENT);
    pair.expect_heartbeat();
}

#[test]
fn a_report_that_goes_out_in_time_takes_the_place_of_a_heartbeat() {
    let _judged = opamp_spec::judges(&["HB-09"]);
    let mut pair = Pair::settled(WebSocket);
    pair.advance(seconds(30));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn a_heartbeat_that_could_not_be_sent_is_sent_once() {
    let _judged = opamp_spec::judges(&["HB-09", "HB-12"]);
    let mut pair = Pair::settled(WebSocket);
    pair.advance(seconds(600));
    pair.expect_heartbeat();
    pair.expect_silence();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
}

/// W-11 of the reference: there were.
#[test]
fn there_are_no_heartbeats_without_the_capability() {
    let _judged = opamp_spec::judges(&["HB-14"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    assert_eq!(pair.until_timeout(), None);
    pair.advance(LONG * 100);
    pair.expect_silence();
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    pair.advance(LONG * 100);
    pair.expect_silence();
}

#[test]
fn there_are_no_heartbeats_while_reconnecting() {
    let _judged = opamp_spec::judges(&["HB-19"]);
    let mut pair = Pair::settled(WebSocket);
    pair.lose();
    let epoch = pair.expect_connect();
    pair.advance(seconds(29));
    pair.expect_silence();
    // The retry, too, may take longer than an interval.
    pair.core.handle_connect_failed(epoch, unreachable(), None, pair.now);
    pair.advance(LONG);
    pair.expect_silence();
}

#[test]
fn a_heartbeat_due_before_a_loss_is_not_sent_after_it() {
    let _judged = opamp_spec::judges(&["HB-09", "HB-19"]);
    let mut pair = Pair::settled(WebSocket);
    pair.advance(seconds(30));
    pair.reconnect();
    pair.expect_parts(Parts::empty());
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_silence();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
}
