//! A server that makes the agent's status change with every reply.

use super::pair::{Pair, TRANSPORTS, WebSocket};
use super::values::{health, seconds};
use crate::core::Parts;

#[test]
fn an_agent_whose_status_changes_with_every_reply_does_not_spin() {
    let _judged = opamp_spec::judges(&["STATUS-04", "RETRY-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        let mut reports = 0;
        let mut change = 0;
        let mut next = |pair: &mut Pair| {
            change += 1;
            pair.core.set_health(Some(health(&change.to_string())));
        };
        // As many as a lively agent may want to send at once.
        next(&mut pair);
        while pair.until_timeout() != Some(seconds(0)) && reports < 49 {
            pair.expect_parts(Parts::HEALTH);
            pair.acknowledge();
            reports += 1;
            next(&mut pair);
        }
        assert_eq!(reports, 49);
        pair.expect_silence();
        // Then ten a second, each with what is true by then.
        for _ in 0..3 {
            next(&mut pair);
            pair.expect_silence();
            let wait = pair.until_timeout().expect("the report has its turn");
            assert!(wait <= seconds(1) / 10, "{wait:?}");
            pair.advance(wait);
            pair.expect_parts(Parts::HEALTH);
            pair.acknowledge();
            next(&mut pair);
            pair.expect_silence();
        }
        // A rest earns it all back.
        pair.advance(seconds(1));
        pair.expect_parts(Parts::HEALTH);
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn the_first_message_of_a_connection_never_waits() {
    let _judged = opamp_spec::judges(&["STATUS-01", "EST-01"]);
    let mut pair = Pair::settled(WebSocket);
    for change in 0.. {
        pair.core.set_health(Some(health(&change.to_string())));
        if pair.poll().is_none() {
            break;
        }
        pair.acknowledge();
    }
    pair.lose();
    pair.connect();
    pair.expect_parts(Parts::HEALTH);
}
