//! `sequence_num`: one more with every message, whatever the message is and whatever happened.
//!
//! That each number is one more than the last is checked by [`Pair`] for every message of every
//! scenario; here are the occasions at which a number could be lost, repeated or spent in vain.

use std::collections::BTreeSet;

use opamp_proto::{MessageLimits, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{EVERYTHING, effective_of, health, other_uid, seconds, uid, unavailable};
use crate::core::{ConnectionAction, Parts};

#[test]
fn messages_of_all_kinds_are_numbered_in_one_row() {
    let _judged = opamp_spec::judges(&["SEQ-01", "SEQ-02", "HB-20", "CLOSE-01", "ID-04"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    assert_eq!(pair.core.sequence_num(), 0);
    let expect = |message: v1::AgentToServer, number| {
        assert_eq!(message.sequence_num, number);
        assert_eq!(message.instance_uid, uid().to_bytes());
    };
    pair.connect();
    expect(pair.expect_parts(EVERYTHING), 1);
    pair.acknowledge();
    pair.advance(seconds(30));
    expect(pair.expect_heartbeat(), 2);
    pair.reconnect();
    expect(pair.expect_parts(Parts::empty()), 3);
    pair.receive(unavailable(None));
    expect(pair.expect_goodbye(), 4);
    let action = pair.core.poll_connection(pair.now);
    assert!(matches!(action, Some(ConnectionAction::Close { .. })));
    pair.reconnect();
    expect(pair.expect_parts(EVERYTHING), 5);
    pair.acknowledge();
    pair.core.stop(pair.now);
    expect(pair.expect_goodbye(), 6);
    assert_eq!(pair.core.sequence_num(), 6);
}

#[test]
fn a_failed_exchange_does_not_take_its_number_back() {
    let _judged = opamp_spec::judges(&["SEQ-01", "RETRY-03"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    assert_eq!(pair.expect_parts(Parts::HEALTH).sequence_num, 2);
    pair.lose();
    pair.wait_for_retry();
    assert_eq!(pair.expect_parts(Parts::HEALTH).sequence_num, 3);
}

#[test]
fn a_new_instance_uid_does_not_restart_the_count() {
    let _judged = opamp_spec::judges(&["SEQ-01", "ID-12"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        assert_eq!(pair.expect().sequence_num, 1);
        pair.receive(v1::ServerToAgent {
            instance_uid: uid().to_bytes(),
            agent_identification: Some(v1::AgentIdentification {
                new_instance_uid: other_uid().to_bytes(),
            }),
            ..Default::default()
        });
        pair.core.set_health(Some(health("well")));
        assert_eq!(pair.expect().sequence_num, 2);
    }
}

#[test]
fn a_message_that_is_not_sent_has_no_number() {
    let _judged = opamp_spec::judges(&["SEQ-01", "SIZE-16", "SIZE-34"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| {
            config.limits = MessageLimits::new().with_max_send(1024);
        });
        pair.expect_silence();
        pair.core.set_effective_config(Some(effective_of(2000)));
        pair.expect_silence();
        assert_eq!(pair.core.sequence_num(), 1);
        pair.core.set_health(Some(health("well")));
        assert_eq!(pair.expect_parts(Parts::HEALTH).sequence_num, 2);
    }
}

/// Or what one process sent and comes late would pass for the next message of another.
#[test]
fn processes_begin_to_count_at_short_numbers_of_their_own() {
    let first = |seed| Pair::new(WebSocket, |config| config.seed = seed).core.sequence_num();
    let numbers: BTreeSet<_> = (0..1000).map(|process| first(u64::MAX - process)).collect();
    assert_eq!(numbers.len(), 1000);
    assert!(numbers.iter().all(|number| *number < 1 << 24), "{numbers:?}");
}
