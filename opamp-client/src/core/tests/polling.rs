//! Plain HTTP: polls, and one request at a time.

use std::time::Duration;

use super::pair::{Http, LONG, Pair, unreachable};
use super::values::{EVERYTHING, health, seconds};
use crate::core::{Parts, Response, Ticket, Transmit};

const MOMENT: Duration = Duration::from_nanos(1);

fn ok() -> Response {
    Response { status: 200, retry_after: None, body: bytes::Bytes::new() }
}

#[test]
fn who_obeys_no_wait_still_polls_no_faster_than_a_server_can_ask_for() {
    let _judged = opamp_spec::judges(&["HB-07"]);
    let mut pair =
        Pair::settled_with(Http, |config| config.backoff.max_retry_after = Duration::ZERO);
    pair.core.state.heartbeat_interval_seconds = Some(60);
    assert_eq!(pair.core.polling_interval(), seconds(1));
}

#[test]
fn a_client_with_nothing_to_tell_polls() {
    let _judged = opamp_spec::judges(&["HTTP-05", "HTTP-06", "HTTP-07", "HB-20"]);
    let mut pair = Pair::settled(Http);
    for _ in 0..5 {
        assert_eq!(pair.until_timeout(), Some(seconds(30)));
        pair.advance(seconds(30) - MOMENT);
        pair.expect_silence();
        pair.advance(MOMENT);
        pair.expect_heartbeat();
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn the_polling_interval_is_that_of_the_configuration() {
    let _judged = opamp_spec::judges(&["HTTP-08"]);
    for heartbeats in [None, Some(seconds(3))] {
        let mut pair = Pair::settled_with(Http, |config| {
            config.polling_interval = seconds(7);
            config.heartbeat_interval = heartbeats;
        });
        pair.advance(seconds(7) - MOMENT);
        pair.expect_silence();
        pair.advance(MOMENT);
        pair.expect_heartbeat();
    }
}

#[test]
fn the_polling_interval_counts_from_the_last_request() {
    let _judged = opamp_spec::judges(&["HTTP-05", "HTTP-09"]);
    let mut pair = Pair::settled(Http);
    pair.advance(seconds(20));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(8));
    pair.acknowledge();
    pair.advance(seconds(22) - MOMENT);
    pair.expect_silence();
    pair.advance(MOMENT);
    pair.expect_heartbeat();
}

#[test]
fn something_to_tell_does_not_wait_for_the_next_poll() {
    let _judged = opamp_spec::judges(&["HTTP-12", "STATUS-04"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_health(Some(health("two")));
    pair.acknowledge();
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn there_is_one_request_at_a_time() {
    let _judged = opamp_spec::judges(&["HTTP-11"]);
    let mut pair = Pair::new(Http, |_| {});
    pair.expect_parts(EVERYTHING);
    pair.core.set_health(Some(health("well")));
    pair.expect_silence();
    pair.advance(LONG);
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_parts(Parts::HEALTH);
    pair.advance(LONG);
    pair.expect_silence();
    // The poll that came due meanwhile is made as soon as it may be.
    pair.acknowledge();
    pair.expect_heartbeat();
}

#[test]
fn a_ticket_is_good_for_its_own_request() {
    let _judged = opamp_spec::judges(&["HTTP-11"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    let transmit = pair.core.poll_transmit(pair.now);
    let Some(Transmit::Request { ticket, .. }) = transmit else {
        panic!("a request is due, not {transmit:?}");
    };
    let stale = || Ticket(ticket.0 - 1);
    pair.core.handle_response(stale(), ok(), pair.now);
    pair.core.handle_request_failed(stale(), unreachable(), pair.now);
    let event = pair.core.poll_event();
    assert_eq!(event, None);
    pair.core.set_health(Some(health("better")));
    pair.expect_silence();
    pair.core.handle_response(ticket, ok(), pair.now);
    assert!(pair.core.poll_transmit(pair.now).is_some());
}

#[test]
fn over_http_there_is_no_connection_to_make() {
    let mut pair = Pair::new(Http, |_| {});
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.expect_parts(EVERYTHING);
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.lose();
    assert_eq!(pair.core.poll_connection(pair.now), None);
    pair.wait_for_retry();
    assert_eq!(pair.core.poll_connection(pair.now), None);
}

#[test]
fn the_body_of_a_request_has_no_header() {
    let _judged = opamp_spec::judges(&["HTTP-02"]);
    let mut pair = Pair::new(Http, |_| {});
    let transmit = pair.core.poll_transmit(pair.now);
    let Some(Transmit::Request { instance_uid, body, .. }) = transmit else {
        panic!("a request is due, not {transmit:?}");
    };
    // The first field of the message: number 1, 16 bytes.
    assert_eq!(body[..2], [0x0a, 16]);
    assert_eq!(body[2..18], instance_uid.as_bytes()[..]);
}
