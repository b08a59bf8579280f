//! `ReportFullState`: answered once, and at a pace that the client sets.

use std::time::Duration;

use opamp_proto::v1;

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, acknowledgement, effective, error, full_state_request, health, remote_config,
    seconds,
};
use crate::core::Parts;

#[test]
fn a_request_for_full_state_is_answered_once() {
    let _judged = opamp_spec::judges(&["SEQ-07", "SEQ-08", "STATUS-15"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
        pair.expect_silence();
        pair.acknowledge();
        pair.expect_silence();
    }
}

/// W-14 of the reference: parts were sent without their capabilities.
#[test]
fn full_state_is_what_there_is_now() {
    let _judged = opamp_spec::judges(&["SEQ-07", "CAP-08"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(full_state_request());
    pair.core.set_health(Some(health("well")));
    pair.core.set_effective_config(None);
    let report = pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
    assert_eq!(report.health, Some(health("well")));
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn requests_that_come_together_are_answered_together() {
    let _judged = opamp_spec::judges(&["SEQ-08"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..10 {
        pair.receive(full_state_request());
    }
    pair.expect_parts(EVERYTHING);
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_silence();
    // And the ten took one from the ration: two more may follow at once.
    for _ in 0..2 {
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
        pair.acknowledge();
    }
    pair.receive(full_state_request());
    pair.expect_silence();
}

#[test]
fn a_full_report_waits_for_the_answer_to_the_report_before() {
    let _judged = opamp_spec::judges(&["SEQ-07"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(full_state_request());
    // This may have been the answer.
    pair.expect_parts(EVERYTHING);
    pair.acknowledge();
    pair.acknowledge();
    pair.receive(full_state_request());
    pair.expect_parts(EVERYTHING);
    pair.core.set_health(Some(health("better")));
    pair.expect_silence();
}

#[test]
fn a_server_that_always_asks_gets_three_and_then_one_per_interval() {
    let _judged = opamp_spec::judges(&["SEQ-07", "SEQ-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| {
            config.heartbeat_interval = Some(seconds(40));
            config.polling_interval = seconds(40);
        });
        let start = pair.now;
        pair.advance(seconds(40));
        pair.expect_heartbeat();
        pair.receive(full_state_request());
        for _ in 0..3 {
            pair.expect_parts(EVERYTHING);
            pair.receive(full_state_request());
        }
        for _ in 0..5 {
            pair.expect_silence();
            pair.advance(seconds(40) - Duration::from_nanos(1));
            pair.expect_silence();
            pair.advance(Duration::from_nanos(1));
            pair.expect_parts(EVERYTHING);
            pair.receive(full_state_request());
        }
        assert_eq!(pair.now - start, seconds(240));
    }
}

#[test]
fn the_ration_holds_over_reconnects() {
    let _judged = opamp_spec::judges(&["SEQ-08", "STATUS-03"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..3 {
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
        pair.acknowledge();
    }
    pair.reconnect();
    pair.expect_parts(Parts::empty());
    pair.receive(full_state_request());
    pair.expect_silence();
    pair.advance(seconds(30));
    pair.expect_parts(EVERYTHING);
}

#[test]
fn a_request_that_is_granted_early_does_not_wait_any_more() {
    let _judged = opamp_spec::judges(&["SEQ-08"]);
    let mut pair = Pair::settled(WebSocket);
    for _ in 0..3 {
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
        pair.acknowledge();
    }
    pair.receive(full_state_request());
    pair.expect_silence();
    // Its turn has come, and it is repeated before the core is told that time has passed.
    pair.now += seconds(30);
    pair.receive(full_state_request());
    pair.expect_parts(EVERYTHING);
    pair.acknowledge();
    for _ in 0..3 {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn a_request_outlives_the_connection() {
    let _judged = opamp_spec::judges(&["SEQ-07"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(full_state_request());
    pair.reconnect();
    pair.expect_parts(EVERYTHING);
    pair.expect_silence();
}

#[test]
fn without_heartbeats_the_polling_interval_sets_the_pace() {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = None;
        config.polling_interval = seconds(15);
    });
    for _ in 0..3 {
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
        pair.acknowledge();
    }
    pair.receive(full_state_request());
    assert_eq!(pair.until_timeout(), Some(seconds(15)));
}

#[test]
fn an_interval_below_a_second_does_not_make_the_pace_any_faster() {
    let mut pair = Pair::settled_with(Http, |config| {
        config.heartbeat_interval = Some(Duration::from_millis(1));
        config.polling_interval = Duration::from_millis(1);
    });
    for _ in 0..3 {
        pair.advance(Duration::from_millis(1));
        pair.expect();
        pair.receive(full_state_request());
    }
    pair.expect_parts(EVERYTHING);
    pair.receive(full_state_request());
    pair.advance(Duration::from_millis(990));
    pair.expect_heartbeat();
}

#[test]
fn refused_content_is_part_of_full_state() {
    let _judged = opamp_spec::judges(&["SEQ-07", "ERR-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(error(v1::ServerErrorResponseType::BadRequest, "no"));
        pair.expect_silence();
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
    }
}

#[test]
fn other_flags_ask_for_nothing() {
    let _judged = opamp_spec::judges(&["STATUS-15", "INTEROP-11"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(v1::ServerToAgent {
            flags: !(v1::ServerToAgentFlags::ReportFullState as u64),
            ..acknowledgement()
        });
        pair.expect_silence();
    }
}

#[test]
fn full_state_and_an_offer_in_one_message_are_both_heeded() {
    let _judged = opamp_spec::judges(&["SEQ-07", "STATUS-10"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        flags: v1::ServerToAgentFlags::ReportFullState as u64,
        ..remote_config("h", "a: 1")
    });
    let offer = pair.take_offer();
    pair.core.resolve(offer.applied_with(effective("a: 1"))).expect("the offer is pending");
    let report = pair.expect_parts(EVERYTHING);
    assert_eq!(report.effective_config, Some(effective("a: 1")));
    pair.acknowledge();
    pair.expect_silence();
}
