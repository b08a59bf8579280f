//! Processes that end while settings are on trial, and what the next one does.

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying, Failed};

use super::stage::{ROUTES, away, status, taking, to};
use crate::core::tests::pair::{Http, Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::seconds;
use crate::core::{ClientState, ConnectionKinds, FailureKind, Transport};

/// What is saved when an agent has left home for another server.
fn saved_on_the_way(from: Transport, towards: Transport) -> ClientState {
    let mut pair = Pair::at_home(from);
    pair.receive_offer("h1", to(away(towards)));
    pair.check_settings();
    pair.save().expect("the candidate is saved")
}

#[test]
fn a_candidate_is_tried_by_the_next_process() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-17"]);
    for (from, towards) in ROUTES {
        let saved = saved_on_the_way(from, towards);
        let mut pair = Pair::restarted(&saved, from);
        assert_eq!(pair.core.poll_connection(pair.now), None, "home would have to be left again");
        pair.expect_silence();
        let settings = pair.check_settings();
        pair.save();
        let first = pair.arrive(Some(&settings));
        assert_eq!(first.connection_settings_status, status("h1", Applying, ""));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
        pair.save();
        let mut next = Pair::restarted(pair.core.state(), from);
        next.arrive(Some(&settings));
    }
}

#[test]
fn a_candidate_that_does_not_work_is_taken_back_by_the_next_process() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19", "CONN-23"]);
    for (from, towards) in ROUTES {
        let saved = saved_on_the_way(from, towards);
        let mut pair = Pair::restarted(&saved, from);
        let settings = pair.check_settings();
        pair.save();
        pair.fail_to_arrive(Some(&settings), FailureKind::Unauthorized);
        pair.arrive(None);
        pair.acknowledge();
        let failed = status("h1", Failed, "Unauthorized");
        assert_eq!(pair.expect().connection_settings_status, failed);
        assert_eq!(pair.save().expect("saved").settings_candidate, None);
    }
}

#[test]
fn an_offer_that_was_not_yet_a_candidate_is_tried_by_the_next_process() {
    let _judged = opamp_spec::judges(&["CONN-11"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        let saved = pair.save().expect("the offer is saved");
        assert_eq!(saved.settings_candidate, None);
        let mut pair = Pair::restarted(&saved, transport);
        assert_eq!(pair.core.poll_connection(pair.now), None);
        pair.expect_silence();
        let settings = pair.check_settings();
        pair.save();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn a_candidate_that_brings_the_agent_down_fails_after_three_starts() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-34"]);
    for (from, towards) in ROUTES {
        let mut saved = saved_on_the_way(from, towards);
        for starts in 1..=3 {
            let mut pair = Pair::restarted(&saved, from);
            pair.check_settings();
            saved = pair.save().expect("counted before it is tried");
            assert_eq!(saved.settings_candidate.as_ref().expect("kept").starts, starts);
        }
        let mut pair = Pair::restarted(&saved, from);
        assert_eq!(pair.core.poll_settings_check(), None);
        let first = pair.arrive(None);
        assert_eq!(first.connection_settings_status, status("h1", Applying, ""));
        pair.acknowledge();
        let failed = status("h1", Failed, "the agent started 4 times without an outcome");
        assert_eq!(pair.expect().connection_settings_status, failed);
        assert_eq!(pair.core.state().settings_candidate, None);
        // Where the old server does not let it in any more, it is tried all the same.
        let mut pair = Pair::restarted(&saved, from);
        pair.fail_to_arrive(None, FailureKind::Unauthorized);
        pair.wait_for_retry();
        pair.arrive(Some(&to(away(towards))));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn a_store_that_does_not_count_the_starts_has_the_old_server_tried_first() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    let saved = saved_on_the_way(WebSocket, WebSocket);
    let mut pair = Pair::restarted(&saved, WebSocket);
    pair.check_settings();
    pair.advance(seconds(30));
    let why = "the settings could not be saved within 30 s";
    pair.arrive(None);
    assert!(pair.core.state().settings_candidate.is_some(), "the old server is not back");
    pair.acknowledge();
    assert_eq!(pair.expect().connection_settings_status, status("h1", Failed, why));
}

#[test]
fn a_candidate_is_nothing_to_an_agent_that_takes_no_settings_any_more() {
    let saved = saved_on_the_way(WebSocket, Http);
    let mut pair = Pair::new(WebSocket, |config| {
        taking(WebSocket)(config);
        config.accepted_settings = ConnectionKinds::empty();
        config.state = saved;
    });
    pair.arrive(None);
    assert_eq!(pair.core.state().settings_candidate, None);
}

#[test]
fn whoever_starts_the_agent_with_another_server_means_that_one() {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.state.settings_endpoint = "wss://another.example.com".into();
        config.state.opamp_settings = Some(to(away(Http)));
        config.state.heartbeat_interval_seconds = Some(1);
        config.state.connection_settings_status = status("h1", Applied, "");
    });
    assert_eq!(pair.core.opamp_settings(), None);
    assert_eq!(pair.settings_status(), None);
    assert_eq!(pair.until_timeout(), Some(seconds(30)));
    pair.receive_offer("h1", to(away(WebSocket)));
    pair.check_settings();
}

#[test]
fn stopping_leaves_the_candidate_for_the_next_process() {
    let _judged = opamp_spec::judges(&["CONN-11"]);
    for (from, towards) in ROUTES {
        let mut pair = Pair::at_home(from);
        pair.receive_offer("h1", to(away(towards)));
        let settings = pair.check_settings();
        pair.core.stop(pair.now);
        pair.save();
        pair.advance(seconds(10));
        assert!(pair.core.is_stopped());
        pair.save();
        let mut next = Pair::restarted(pair.core.state(), from);
        assert_eq!(next.check_settings(), settings);
        next.save();
        next.arrive(Some(&settings));
    }
}

/// What brings the agent down may be the check itself, before there is a candidate to count starts
/// of.
#[test]
fn an_offer_whose_check_brings_the_agent_down_is_not_checked_for_ever() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-34"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        for start in 1..=4 {
            let saved = pair.core.state().clone();
            pair = Pair::restarted(&saved, transport);
            assert_eq!(pair.core.poll_settings_check().is_some(), start < 4, "start {start}");
        }
        let first = pair.arrive(None);
        let why = "the agent started 4 times without an outcome";
        assert_eq!(first.connection_settings_status, status("h1", Failed, why));
        assert_eq!(pair.core.state().pending_connection_settings, None);
    }
}
