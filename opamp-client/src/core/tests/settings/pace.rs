//! How often an agent can be sent elsewhere.

use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::Applied;

use super::stage::{headers, status, to};
use crate::core::tests::pair::{Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::seconds;

/// Two servers that send the agent to each other, or one that gives each connection a new token.
#[test]
fn servers_that_offer_on_every_connection_cannot_make_a_storm() {
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        let start = pair.now;
        let mut moves = 0;
        while pair.now - start < seconds(3600) && moves < 100 {
            moves += 1;
            let token = headers(&format!("token {moves}"));
            let offered = v1::OpAmpConnectionSettings { headers: Some(token), ..to("") };
            pair.receive_offer(&format!("h{moves}"), offered);
            let settings = pair.check_settings();
            pair.save();
            if pair.core.settings.leaving() {
                pair.leave();
            } else {
                // It reports as ever until it is its turn.
                pair.expect();
                pair.acknowledge();
                while !pair.core.settings.leaving() {
                    let next = pair.until_timeout().expect("the trial begins some time");
                    pair.advance(next);
                    if !pair.core.settings.leaving() {
                        pair.expect_heartbeat();
                        pair.acknowledge();
                    }
                }
                pair.leave();
            }
            pair.arrive(Some(&settings));
            pair.acknowledge();
            pair.events();
            pair.save();
            while pair.poll().is_some() {
                pair.acknowledge();
            }
        }
        assert!((10..=70).contains(&moves), "neither stuck nor hot: {moves}");
    }
}

#[test]
fn a_newer_offer_takes_the_place_of_one_that_waits_for_its_turn() {
    let mut pair = Pair::at_home(WebSocket);
    for moves in 0..3 {
        pair.receive_offer(&format!("h{moves}"), to(&format!("wss://{moves}.example.com")));
        let settings = pair.check_settings();
        pair.save();
        pair.leave();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        pair.expect();
        pair.acknowledge();
        pair.save();
    }
    pair.receive_offer("h4", to("wss://4.example.com"));
    pair.check_settings();
    pair.save();
    pair.expect();
    pair.acknowledge();
    pair.expect_silence();
    pair.receive_offer("h5", to("wss://2.example.com"));
    assert_eq!(pair.settings_status(), status("h5", Applied, ""), "that is where it is");
    pair.expect();
    pair.acknowledge();
    pair.advance(seconds(20));
    pair.expect_silence();
}
