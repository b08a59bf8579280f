//! Offers that come while another is on trial.

use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying};

use super::stage::{away, failure, offer, status, to};
use crate::core::tests::pair::{Http, Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::{acknowledgement, seconds};
use crate::core::{FailureKind, Parts};

const NEWER: &str = "wss://newer.example.com";

#[test]
fn a_newer_offer_supersedes_one_that_is_checked_or_saved() {
    let _judged = opamp_spec::judges(&["CONN-31", "CONN-34"]);
    for transport in TRANSPORTS {
        for checked in [false, true] {
            let mut pair = Pair::at_home(transport);
            pair.receive_offer("h1", to(away(transport)));
            let old = pair.core.poll_settings_check().expect("a check");
            if checked {
                pair.core.handle_settings_checked(old.id, Ok(()), pair.now);
            }
            let saving = pair.core.poll_save().expect("something to save");
            pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
            pair.receive(offer("h2", to(NEWER)));
            assert_eq!(pair.settings_status(), status("h2", Applying, ""));
            // What belongs to the old one has no effect any more.
            pair.core.handle_settings_checked(old.id, Ok(()), pair.now);
            pair.core.handle_saved(saving.version, pair.now);
            let settings = pair.check_settings();
            assert_eq!(settings.destination_endpoint, NEWER);
            pair.save();
            assert_eq!(pair.leave(), status("h2", Applying, ""));
            pair.arrive(Some(&settings));
            pair.acknowledge();
            assert_eq!(pair.settings_status(), status("h2", Applied, ""));
        }
    }
}

/// CONN-21: a server leaves out what it has said already.
#[test]
fn what_came_of_an_earlier_check_says_nothing_of_a_later_one() {
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to("wss://unusable.example.com"));
    let earlier = pair.core.poll_settings_check().expect("it is checked");
    pair.receive_offer("h2", to(away(WebSocket)));
    let later = pair.core.poll_settings_check().expect("it is checked");
    let unusable = Err(failure(FailureKind::Configuration));
    pair.core.handle_settings_checked(earlier.id, unusable, pair.now);
    assert_eq!(pair.settings_status(), status("h2", Applying, ""));
    pair.core.handle_settings_checked(later.id, Ok(()), pair.now);
    pair.save();
    pair.leave();
    pair.arrive(Some(&later.settings));
}

#[test]
fn a_newer_offer_is_laid_over_one_that_is_on_trial() {
    let _judged = opamp_spec::judges(&["CONN-31", "HB-04"]);
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    pair.check_settings();
    let headers = Some(super::stage::headers("new"));
    let newer = v1::OpAmpConnectionSettings { headers: headers.clone(), ..Default::default() };
    pair.receive(offer("h2", newer));
    let both = v1::OpAmpConnectionSettings { headers, ..to(away(WebSocket)) };
    assert_eq!(*pair.check_settings(), both);
    let interval =
        v1::OpAmpConnectionSettings { heartbeat_interval_seconds: 7, ..Default::default() };
    pair.receive(offer("h3", interval));
    assert_eq!(*pair.check_settings(), both);
    pair.save();
    pair.leave();
    pair.arrive(Some(&both));
    pair.acknowledge();
    assert_eq!(pair.settings_status(), status("h3", Applied, ""));
    assert_eq!(pair.core.heartbeat_interval(), Some(seconds(7)));
}

#[test]
fn an_agent_that_takes_no_settings_any_more_drops_what_it_does_not_try_yet() {
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    pair.core.set_accepted_settings(crate::core::ConnectionKinds::empty());
    assert_eq!(pair.core.poll_settings_check(), None);
    pair.save();
    pair.expect();
    pair.acknowledge();
    pair.expect_silence();
    assert!(!pair.core.opamp_settings_pending());

    // What is being tried has shown itself to the new server, so that goes on.
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    let settings = pair.check_settings();
    pair.save();
    pair.leave();
    pair.core.set_accepted_settings(crate::core::ConnectionKinds::empty());
    pair.arrive(Some(&settings));
    pair.acknowledge();
    assert_eq!(pair.core.opamp_settings(), Some(&*settings));
}

#[test]
fn a_newer_offer_of_a_server_that_is_being_left_supersedes_too() {
    let _judged = opamp_spec::judges(&["CONN-31"]);
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    pair.check_settings();
    pair.save();
    pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
    pair.receive(offer("h2", to(NEWER)));
    pair.leave();
    assert_eq!(pair.core.poll_connection(pair.now), None, "the newer one is not checked yet");
    let settings = pair.check_settings();
    pair.save();
    pair.arrive(Some(&settings));
    assert_eq!(settings.destination_endpoint, NEWER);
    pair.acknowledge();
    assert_eq!(pair.settings_status(), status("h2", Applied, ""));
}

#[test]
fn an_offer_with_the_good_reply_of_the_new_server_is_the_next_one() {
    let _judged = opamp_spec::judges(&["CONN-17", "CONN-31"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        let first = pair.check_settings();
        pair.save();
        pair.leave();
        pair.arrive(Some(&first));
        pair.receive(offer("h2", to(NEWER)));
        assert_eq!(pair.core.opamp_settings(), Some(&*first));
        let second = pair.check_settings();
        pair.save();
        pair.leave();
        pair.arrive(Some(&second));
        pair.acknowledge();
        assert_eq!(pair.core.opamp_settings(), Some(&*second));
    }
}

#[test]
fn what_a_server_offers_that_failed_the_trial_is_of_no_interest() {
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    let settings = pair.check_settings();
    pair.save();
    pair.leave();
    pair.arrive(Some(&settings));
    pair.advance(pair.core.config.settings_timeout);
    // Too late: the connection is being left.
    pair.receive(offer("h2", to(NEWER)));
    pair.receive(acknowledgement());
    pair.leave();
    pair.arrive(None);
    pair.acknowledge();
    assert_eq!(pair.core.opamp_settings(), None);
    assert_eq!(pair.settings_status().expect("a status").last_connection_settings_hash, "h1");
}

#[test]
fn a_connection_that_is_lost_meanwhile_changes_nothing() {
    let _judged = opamp_spec::judges(&["CONN-12", "CONN-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(Http)));
        if transport == Http {
            pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        }
        pair.lose();
        let settings = pair.check_settings();
        pair.save();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn a_goodbye_that_does_not_get_through_holds_nothing_up() {
    let _judged = opamp_spec::judges(&["CONN-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        let settings = pair.check_settings();
        pair.save();
        pair.expect();
        if transport == Http {
            drop(pair.take_ticket());
        }
        pair.advance(pair.core.config.close_timeout);
        assert!(pair.core.poll_connection(pair.now).is_some(), "the driver is to drop it");
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn the_next_offer_after_a_failure_is_tried() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-17"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        let settings = pair.check_settings();
        pair.save();
        pair.leave();
        pair.fail_to_arrive(Some(&settings), FailureKind::NotFound);
        pair.arrive(None);
        // The server offers something else with its first reply.
        pair.receive(offer("h2", to(NEWER)));
        let settings = pair.check_settings();
        assert_eq!(settings.destination_endpoint, NEWER);
        pair.save();
        assert_eq!(pair.leave(), status("h2", Applying, ""));
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h2", Applied, ""));
    }
}
