//! HTTP status codes other than 200, and exchanges that fail.

use opamp_proto::v1;

use super::pair::{Http, Pair, unreachable};
use super::values::{EVERYTHING, description, error, health, seconds};
use crate::core::{Event, Failure, FailureKind, Parts};

/// W-2 and W-9 of the reference: what a failed request had told was lost and nobody heard of it, or
/// it was repeated as it was although something newer was true.
#[test]
fn content_of_a_failed_exchange_is_told_again() {
    let _judged = opamp_spec::judges(&["DELTA-04", "RETRY-03", "RETRY-08", "EST-03"]);
    for (status, kind) in [
        (401, FailureKind::Unauthorized),
        (403, FailureKind::Unauthorized),
        (404, FailureKind::NotFound),
        (429, FailureKind::Throttled),
        (503, FailureKind::Throttled),
        (500, FailureKind::UnexpectedStatus(500)),
        (502, FailureKind::UnexpectedStatus(502)),
        (301, FailureKind::UnexpectedStatus(301)),
        (202, FailureKind::UnexpectedStatus(202)),
        (204, FailureKind::UnexpectedStatus(204)),
        (415, FailureKind::UnexpectedStatus(415)),
    ] {
        let mut pair = Pair::settled(Http);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.core.set_description(description("2.0"));
        pair.respond(status, None, "");
        assert!(!pair.core.is_connected());
        pair.expect_silence();
        let wait = pair.wait_for_retry();
        let failure =
            Failure { kind, message: format!("the server answered with status {status}") };
        let retry_in = wait;
        assert_eq!(pair.events(), [Event::ConnectFailed { failure, retry_in }]);
        let most = match kind {
            FailureKind::Throttled => seconds(45),
            _ => seconds(1),
        };
        assert!(wait <= most, "{status}: {wait:?}");
        pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
        pair.acknowledge();
        assert!(pair.core.is_connected());
        pair.expect_silence();
    }
}

#[test]
fn a_request_without_a_response_is_made_again_with_backoff() {
    let _judged = opamp_spec::judges(&["EST-03", "EST-04", "DELTA-04", "HTTP-05"]);
    let mut pair = Pair::settled_with(Http, |config| config.backoff.jitter = 0.0);
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    for longest in [1, 2, 4, 8, 16, 32, 60, 60] {
        pair.lose();
        pair.expect_silence();
        let retry_in = pair.wait_for_retry();
        assert_eq!(retry_in, seconds(longest));
        let failure = unreachable();
        assert_eq!(pair.events(), [Event::ConnectFailed { failure, retry_in }]);
        pair.expect_heartbeat();
    }
    // A good response ends the backoff, and the polls go on.
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.lose();
    assert_eq!(pair.wait_for_retry(), seconds(1));
}

#[test]
fn a_body_that_is_no_message_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["DELTA-04"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.respond(200, None, "<html>It works!</html>");
    let events = pair.events();
    let [Event::PeerMisbehaved(_), Event::ConnectFailed { failure, .. }] = &events[..] else {
        panic!("a malformed response is a failure: {events:?}");
    };
    assert_eq!(failure.kind, FailureKind::BadResponse);
    assert_eq!(failure.message, "the response is not a ServerToAgent message");
    pair.wait_for_retry();
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn an_oversized_response_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["SIZE-27", "SIZE-29", "DELTA-04"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    let failure =
        Failure { kind: FailureKind::BadResponse, message: "the response is too large".to_owned() };
    let ticket = pair.take_ticket();
    pair.core.handle_request_failed(ticket, failure.clone(), pair.now);
    pair.expect_silence();
    let retry_in = pair.wait_for_retry();
    assert_eq!(pair.events(), [Event::ConnectFailed { failure, retry_in }]);
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn an_empty_body_is_an_answer() {
    let _judged = opamp_spec::judges(&["HTTP-13"]);
    let mut pair = Pair::new(Http, |_| {});
    pair.expect_parts(EVERYTHING);
    pair.respond(200, None, "");
    pair.expect_silence();
    assert!(pair.core.is_connected());
    assert_eq!(pair.core.server_capabilities(), None);
}

#[test]
fn a_400_is_a_refusal() {
    let _judged = opamp_spec::judges(&["ERR-14"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(10));
    pair.respond(400, None, "");
    let reason = "the server calls the message malformed (status 400)".to_owned();
    let parts = Parts::HEALTH;
    assert_eq!(pair.events(), [Event::Refused { parts, reason }]);
    // The same content is not sent again, but the polls go on.
    pair.expect_silence();
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.acknowledge();
    pair.core.set_health(Some(health("two")));
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn a_refused_poll_is_made_again_with_backoff() {
    let _judged = opamp_spec::judges(&["SIZE-24", "ERR-14", "EST-04"]);
    for status in [400, 413] {
        let mut pair = Pair::settled_with(Http, |config| config.backoff.jitter = 0.0);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        for longest in [1, 2, 4] {
            pair.respond(status, None, "");
            pair.expect_silence();
            assert_eq!(pair.wait_for_retry(), seconds(longest));
            pair.expect_heartbeat();
        }
    }
}

#[test]
fn a_poll_that_came_due_while_its_refusal_was_under_way_is_not_made_at_once() {
    let _judged = opamp_spec::judges(&["HTTP-05"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(40));
    pair.respond(400, None, "");
    pair.expect_silence();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
}

#[test]
fn an_error_response_in_a_good_http_response_is_an_error() {
    let _judged = opamp_spec::judges(&["ERR-14", "HTTP-13"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(error(v1::ServerErrorResponseType::BadRequest, "no"));
    pair.expect_silence();
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
}

#[test]
fn what_never_left_uses_up_no_number() {
    let _judged = opamp_spec::judges(&["SEQ-01", "DELTA-04"]);
    let mut pair = Pair::settled(Http);
    let before = pair.core.sequence_num();
    pair.core.set_health(Some(health("well")));
    for _ in 0..3 {
        pair.expect_parts(Parts::HEALTH);
        assert_eq!(pair.core.sequence_num(), before + 1);
        pair.fail_to_send();
        assert_eq!(pair.core.sequence_num(), before);
        pair.wait_for_retry();
    }
    // One that may have arrived has a number of its own.
    pair.expect_parts(Parts::HEALTH);
    pair.lose();
    pair.wait_for_retry();
    pair.expect_parts(Parts::HEALTH);
    assert_eq!(pair.core.sequence_num(), before + 2);
}
