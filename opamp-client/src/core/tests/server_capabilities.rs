//! What the server can do, and what the client therefore does.

use opamp_proto::{ServerCapabilities, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, SERVER, acknowledgement, effective, error, full_state_request, health,
    remote_config, seconds,
};
use crate::core::{Event, Parts, PeerMisbehaved};

const MODEST: ServerCapabilities =
    ServerCapabilities::ACCEPTS_STATUS.union(ServerCapabilities::OFFERS_REMOTE_CONFIG);

fn mask(bits: u64) -> v1::ServerToAgent {
    v1::ServerToAgent { capabilities: bits, ..acknowledgement() }
}

#[test]
fn the_mask_of_the_server_is_told_when_it_changes() {
    let _judged = opamp_spec::judges(&["CAP-12", "CAP-15", "INTEROP-01"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.expect();
    pair.events();
    assert_eq!(pair.core.server_capabilities(), None);
    pair.receive(mask(0));
    assert_eq!(pair.core.server_capabilities(), None, "0 says nothing");
    assert_eq!(pair.events(), []);
    // A bit of a later version is kept, and harms nothing.
    let received = MODEST.to_wire() | 1 << 40;
    for _ in 0..2 {
        pair.receive(mask(received));
    }
    let modest = ServerCapabilities::from_bits_retain(received);
    assert_eq!(pair.events(), [Event::ServerCapabilities(modest)]);
    pair.receive(mask(0));
    assert_eq!(pair.events(), []);
    assert_eq!(pair.core.server_capabilities(), Some(modest), "CAP-12");
    pair.receive(mask(SERVER.to_wire()));
    assert_eq!(pair.events(), [Event::ServerCapabilities(SERVER)]);
}

#[test]
fn an_unknown_mask_restricts_nothing() {
    let _judged = opamp_spec::judges(&["CAP-12", "INTEROP-01"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect_parts(EVERYTHING);
        pair.receive(v1::ServerToAgent::default());
        pair.core.set_effective_config(Some(effective("b: 2")));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    }
}

#[test]
fn what_the_server_cannot_take_is_withheld() {
    let _judged = opamp_spec::judges(&["INTEROP-04", "INTEROP-01", "SEQ-07"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        // The first report precedes the mask (A25).
        pair.expect_parts(EVERYTHING);
        pair.receive(mask(MODEST.to_wire()));
        pair.expect_silence();
        pair.core.set_effective_config(Some(effective("b: 2")));
        pair.expect_silence();
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(full_state_request());
        pair.expect_parts(EVERYTHING);
    }
}

#[test]
fn a_full_report_leaves_out_what_the_server_cannot_take() {
    let _judged = opamp_spec::judges(&["INTEROP-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect_parts(EVERYTHING);
        pair.receive(v1::ServerToAgent {
            flags: v1::ServerToAgentFlags::ReportFullState as u64,
            ..mask(MODEST.to_wire())
        });
        pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
        pair.receive(mask(MODEST.to_wire()));
        pair.expect_silence();
    }
}

#[test]
fn what_was_withheld_is_told_when_the_server_can_take_it() {
    let _judged = opamp_spec::judges(&["INTEROP-04", "STATUS-04", "CAP-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |_| {});
        pair.core.set_health(Some(health("one")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(mask(MODEST.to_wire()));
        pair.core.set_effective_config(Some(effective("b: 2")));
        pair.core.set_health(Some(health("two")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(mask(SERVER.to_wire()));
        let report = pair.expect_parts(Parts::EFFECTIVE_CONFIG);
        assert_eq!(report.effective_config, Some(effective("b: 2")));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn what_the_server_had_to_ignore_is_told_when_it_can_take_it() {
    let _judged = opamp_spec::judges(&["INTEROP-04", "DELTA-04"]);
    let everything_was_sent_before_the_mask_was_known = |pair: &mut Pair| {
        pair.connect();
        pair.expect_parts(EVERYTHING);
        pair.receive(mask(MODEST.to_wire()));
    };
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        everything_was_sent_before_the_mask_was_known(&mut pair);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(mask(SERVER.to_wire()));
        pair.expect_parts(Parts::EFFECTIVE_CONFIG);
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn what_was_refused_and_then_withheld_is_told_in_the_end() {
    let _judged = opamp_spec::judges(&["INTEROP-04", "SEQ-07"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_effective_config(Some(effective("b: 2")));
    pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    pair.receive(error(v1::ServerErrorResponseType::BadRequest, "no"));
    pair.receive(v1::ServerToAgent {
        flags: v1::ServerToAgentFlags::ReportFullState as u64,
        ..mask(MODEST.to_wire())
    });
    pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
    pair.receive(mask(SERVER.to_wire()));
    pair.expect_parts(Parts::EFFECTIVE_CONFIG);
}

#[test]
fn withheld_content_that_never_changes_back_stays_withheld_over_reconnects() {
    let _judged = opamp_spec::judges(&["INTEROP-04"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.expect_parts(EVERYTHING);
    pair.receive(mask(MODEST.to_wire()));
    pair.core.set_effective_config(Some(effective("b: 2")));
    pair.reconnect();
    pair.expect_parts(Parts::empty());
}

#[test]
fn parts_of_messages_that_the_agent_did_not_ask_for_are_ignored() {
    let _judged = opamp_spec::judges(&["CAP-05", "INTEROP-01"]);
    let cases: [(&'static str, v1::ServerToAgent); 3] = [
        (
            "connection_settings",
            v1::ServerToAgent {
                connection_settings: Some(v1::ConnectionSettingsOffers::default()),
                ..acknowledgement()
            },
        ),
        (
            "packages_available",
            v1::ServerToAgent {
                packages_available: Some(v1::PackagesAvailable::default()),
                ..acknowledgement()
            },
        ),
        (
            "custom_message",
            v1::ServerToAgent {
                custom_message: Some(v1::CustomMessage::default()),
                ..acknowledgement()
            },
        ),
    ];
    for transport in TRANSPORTS {
        for (part, message) in cases.clone() {
            let mut pair = Pair::settled(transport);
            pair.advance(seconds(30));
            pair.expect_heartbeat();
            pair.receive(message);
            let what = PeerMisbehaved::NotAnnounced(part);
            assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
            pair.expect_silence();
        }
    }
}

#[test]
fn the_rest_of_a_message_with_an_ignored_part_counts() {
    let _judged = opamp_spec::judges(&["CAP-05", "STATUS-10"]);
    let mut pair = Pair::settled(Http);
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.receive(v1::ServerToAgent {
        packages_available: Some(v1::PackagesAvailable::default()),
        ..remote_config("h1", "a: 1")
    });
    pair.expect_offer();
}
