//! Offers that work, and offers that do not.

use std::time::Duration;

use opamp_proto::v1;
use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying, Failed};

use super::stage::{ROUTES, away, failure, headers, home, status, to};
use crate::core::tests::pair::{Http, Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::{acknowledgement, error, remote_config, seconds, unavailable};
use crate::core::{Event, FailureKind, Loss, Parts, Transport};

/// An agent that has left home and is about to connect with the offered settings.
fn on_its_way(from: Transport, towards: Transport) -> (Pair, v1::OpAmpConnectionSettings) {
    let mut pair = Pair::at_home(from);
    pair.receive_offer("h1", to(away(towards)));
    let settings = (*pair.check_settings()).clone();
    pair.save();
    assert_eq!(pair.leave(), status("h1", Applying, ""));
    pair.events();
    (pair, settings)
}

#[test]
fn settings_that_work_are_kept_and_the_old_ones_forgotten() {
    let _judged = opamp_spec::judges(&[
        "CLOSE-06", "CONN-07", "CONN-12", "CONN-13", "CONN-14", "CONN-16", "CONN-17", "CONN-23",
        "CONN-31", "CONN-34", "CONN-35",
    ]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        let first = pair.arrive(Some(&settings));
        assert_eq!(first.connection_settings_status, status("h1", Applying, ""));
        assert_eq!(pair.core.state().opamp_settings, None, "not before it is proven");
        pair.acknowledge();
        assert_eq!(pair.core.state().opamp_settings, Some(settings));
        assert_eq!(pair.core.state().settings_candidate, None);
        assert_eq!(pair.settings_events(), [Event::OpampSettingsApplied]);
        let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        assert_eq!(report.connection_settings_status, status("h1", Applied, ""));
        pair.acknowledge();
        pair.expect_silence();
        assert_eq!(pair.until_timeout(), Some(seconds(30)), "only the heartbeat is due");
    }
}

#[test]
fn tls_and_proxy_settings_that_were_replaced_are_forgotten() {
    let _judged = opamp_spec::judges(&["PROXY-01", "TLS-01"]);
    let with = |version: &str, proxy: &str| v1::OpAmpConnectionSettings {
        tls: Some(v1::TlsConnectionSettings {
            min_version: version.to_owned(),
            ..Default::default()
        }),
        proxy: Some(v1::ProxyConnectionSettings { url: proxy.to_owned(), ..Default::default() }),
        ..to(away(WebSocket))
    };
    let mut pair = Pair::at_home(WebSocket);
    for (hash, version, proxy) in
        [("h1", "TLSv1.2", "http://old.example:1"), ("h2", "TLSv1.3", "http://new.example:1")]
    {
        pair.receive_offer(hash, with(version, proxy));
        let settings = (*pair.check_settings()).clone();
        pair.save();
        pair.leave();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        assert_eq!(pair.core.state().opamp_settings, Some(settings));
    }
    let kept = format!("{:?}", pair.core.state());
    assert!(kept.contains("TLSv1.3") && kept.contains("new.example"), "{kept}");
    assert!(!kept.contains("TLSv1.2") && !kept.contains("old.example"), "{kept}");
}

#[test]
fn nothing_is_left_before_the_candidate_is_saved() {
    let _judged = opamp_spec::judges(&["CONN-11"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        pair.check_settings();
        let save = pair.core.poll_save().expect("the candidate is to be saved");
        let candidate = save.state.settings_candidate.clone().expect("a candidate");
        assert_eq!(candidate.settings, to(away(transport)));
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        pair.expect_silence();
        pair.core.handle_save_failed(save.version, "disk full", pair.now);
        pair.expect_silence();
        pair.save();
        pair.expect_silence();
        // The store works again.
        pair.advance(seconds(1));
        pair.save();
        pair.expect_goodbye();
    }
}

#[test]
fn a_store_that_does_not_take_the_candidate_costs_the_offer_and_nothing_else() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-11", "CONN-34"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        pair.check_settings();
        let save = pair.core.poll_save().expect("the candidate is to be saved");
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.acknowledge();
        pair.advance(seconds(30));
        let failed = status("h1", Failed, "the settings could not be saved within 30 s");
        assert_eq!(pair.settings_status(), failed);
        let report = pair.expect();
        assert_eq!(report.connection_settings_status, failed);
        pair.acknowledge();
        pair.core.handle_saved(save.version, pair.now);
        pair.expect_silence();
        assert_eq!(pair.save().expect("a newer version").settings_candidate, None);
    }
}

/// A failure that is the settings' own fault ends the trial; others are tried again meanwhile.
#[test]
fn settings_that_do_not_work_are_taken_back() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19", "CONN-23", "CONN-34", "CONN-35"]);
    for (from, towards) in ROUTES {
        for kind in [
            FailureKind::Tls,
            FailureKind::Unauthorized,
            FailureKind::NotFound,
            FailureKind::BadResponse,
            FailureKind::UnusableSettings,
            FailureKind::UnexpectedStatus(418),
        ] {
            let (mut pair, settings) = on_its_way(from, towards);
            pair.fail_to_arrive(Some(&settings), kind);
            pair.arrive(None);
            assert!(pair.core.state().settings_candidate.is_some(), "the old server is not back");
            pair.acknowledge();
            let failed = status("h1", Failed, &format!("{kind:?}"));
            let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
            assert_eq!(report.connection_settings_status, failed);
            assert_eq!(pair.core.state().settings_candidate, None);
            assert_eq!(pair.core.state().opamp_settings, None);
            let reason = format!("{kind:?}");
            assert_eq!(pair.settings_events(), [Event::OpampSettingsFailed { reason }]);
            pair.acknowledge();
            pair.expect_silence();
        }
    }
}

#[test]
fn a_server_that_cannot_be_reached_yet_is_tried_again_until_the_deadline() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19"]);
    for (from, towards) in ROUTES {
        for kind in [
            FailureKind::Unreachable,
            FailureKind::UnexpectedStatus(500),
            FailureKind::UnexpectedStatus(502),
            FailureKind::Configuration,
        ] {
            let (mut pair, settings) = on_its_way(from, towards);
            let start = pair.now;
            let mut attempts = 0;
            while pair.now - start < seconds(30) {
                pair.fail_to_arrive(Some(&settings), kind);
                attempts += 1;
                pair.wait_for_retry();
            }
            assert!((3..=8).contains(&attempts), "{attempts}");
            assert_eq!(pair.now - start, seconds(30));
            pair.arrive(None);
            pair.acknowledge();
            let failed = status("h1", Failed, &format!("{kind:?}"));
            assert_eq!(pair.expect().connection_settings_status, failed);
        }
    }
}

#[test]
fn a_server_that_comes_up_in_time_is_good_enough() {
    let _judged = opamp_spec::judges(&["CONN-14", "CONN-17"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        pair.fail_to_arrive(Some(&settings), FailureKind::Unreachable);
        pair.wait_for_retry();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn a_server_that_does_not_reply_is_left() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        pair.arrive(Some(&settings));
        pair.advance(seconds(30));
        if towards == WebSocket {
            pair.leave();
        } else {
            let action = pair.core.poll_connection(pair.now);
            assert!(matches!(action, Some(crate::core::ConnectionAction::Abort { .. })));
            // The driver has dropped it.
            drop(pair.take_ticket());
        }
        pair.arrive(None);
        pair.acknowledge();
        let failed = status("h1", Failed, "no reply within 30 s");
        assert_eq!(pair.expect().connection_settings_status, failed);
    }
}

#[test]
fn an_error_is_no_good_reply() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-19"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        pair.arrive(Some(&settings));
        pair.receive(error(v1::ServerErrorResponseType::BadRequest, "who are you?"));
        if towards == WebSocket {
            pair.leave();
        }
        pair.arrive(None);
        pair.acknowledge();
        let why = "the server answered with an error: who are you?";
        assert_eq!(pair.expect().connection_settings_status, status("h1", Failed, why));
    }
}

#[test]
fn an_overloaded_server_is_given_the_time_it_asks_for_if_that_is_in_time() {
    let _judged = opamp_spec::judges(&["CONN-17", "THR-04"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        pair.arrive(Some(&settings));
        pair.receive(unavailable(Some(seconds(10))));
        if towards == WebSocket {
            pair.leave();
        }
        let waited = pair.wait_for_retry();
        assert!(waited >= seconds(10) && waited <= seconds(11), "{waited:?}");
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn a_connection_that_breaks_before_the_reply_proves_nothing() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    let (mut pair, settings) = on_its_way(WebSocket, WebSocket);
    pair.arrive(Some(&settings));
    pair.lose_with(Loss::Broken("tls alert: bad certificate".to_owned()));
    assert!(pair.wait_for_retry() > Duration::ZERO, "no hot loop");
    let (epoch, _) = pair.expect_connect_with();
    pair.core.handle_connect_failed(epoch, failure(FailureKind::Unauthorized), None, pair.now);
    pair.arrive(None);
    pair.acknowledge();
    assert_eq!(pair.settings_status(), status("h1", Failed, "Unauthorized"));
}

#[test]
fn the_server_is_told_why_connections_to_the_new_one_broke() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-18"]);
    let (mut pair, settings) = on_its_way(WebSocket, WebSocket);
    while pair.core.settings.present().is_some() {
        pair.arrive(Some(&settings));
        pair.lose_with(Loss::Broken("reset by the firewall".to_owned()));
        pair.wait_for_retry();
    }
    pair.arrive(None);
    pair.acknowledge();
    assert_eq!(pair.settings_status(), status("h1", Failed, "reset by the firewall"));
}

/// A server that has seen the new credentials forgets the old ones (CONN-15), whether its reply
/// arrived or not.
#[test]
fn an_agent_whom_neither_server_takes_tries_both_in_turn() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-18"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        let start = pair.now;
        let mut attempts = 0;
        // The new server has lost its reply, and the old one knows the old credentials no more.
        while pair.now - start < seconds(3600) {
            let present = pair.core.settings.present();
            let kind = match present {
                Some(_) => FailureKind::Unreachable,
                None => FailureKind::Unauthorized,
            };
            pair.fail_to_arrive(present.as_deref(), kind);
            pair.wait_for_retry();
            attempts += 1;
        }
        assert!((30..=400).contains(&attempts), "neither idle nor hot: {attempts}");
        assert!(pair.core.state().settings_candidate.is_some());
        while pair.core.settings.present().is_none() {
            pair.fail_to_arrive(None, FailureKind::Unauthorized);
            pair.wait_for_retry();
        }
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
        assert_eq!(pair.core.state().opamp_settings, Some(settings));
    }
}

#[test]
fn an_agent_whose_old_server_is_gone_goes_on_to_try_the_new_one() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    for (from, towards) in ROUTES {
        let (mut pair, settings) = on_its_way(from, towards);
        let start = pair.now;
        let mut tried = [0, 0];
        while pair.now - start < seconds(600) {
            let present = pair.core.settings.present();
            tried[usize::from(present.is_some())] += 1;
            pair.fail_to_arrive(present.as_deref(), FailureKind::Unreachable);
            pair.wait_for_retry();
        }
        assert!(tried.iter().all(|times| *times >= 4), "{tried:?}");
        while pair.core.settings.present().is_none() {
            pair.fail_to_arrive(None, FailureKind::Unreachable);
            pair.wait_for_retry();
        }
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

#[test]
fn unusable_settings_fail_without_the_server_being_left() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-34", "CONN-35"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        pair.receive_offer("h1", to(away(transport)));
        let check = pair.core.poll_settings_check().expect("something to check");
        let unusable = failure(FailureKind::Configuration);
        pair.core.handle_settings_checked(check.id, Err(unusable), pair.now);
        let report = pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        let failed = status("h1", Failed, "Configuration");
        assert_eq!(report.connection_settings_status, failed);
        pair.acknowledge();
        pair.expect_silence();
        // A late answer to the same check changes nothing.
        pair.core.handle_settings_checked(check.id, Ok(()), pair.now);
        pair.expect_silence();
        assert_eq!(pair.settings_status(), failed);
    }
}

#[test]
fn a_check_that_is_not_answered_fails() {
    let mut pair = Pair::at_home(WebSocket);
    pair.receive_offer("h1", to(away(WebSocket)));
    pair.advance(seconds(30));
    let why = "the settings could not be checked within 30 s";
    assert_eq!(pair.settings_status(), status("h1", Failed, why));
}

#[test]
fn other_headers_are_proven_by_a_new_connection_to_the_same_server() {
    let _judged = opamp_spec::judges(&["CONN-14", "CONN-30"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::at_home(transport);
        let offered =
            v1::OpAmpConnectionSettings { headers: Some(headers("new")), ..to(home(transport)) };
        pair.receive_offer("h1", offered);
        let checked = pair.check_settings();
        assert_eq!(checked.headers, Some(headers("new")));
        pair.save();
        pair.leave();
        pair.arrive(Some(&checked));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

/// W-12 of the reference: what was applied before a restart was new work after it.
#[test]
fn an_offer_that_was_handled_is_no_new_work() {
    let _judged = opamp_spec::judges(&["STATUS-15", "CONN-31"]);
    for transport in TRANSPORTS {
        let (mut pair, settings) = on_its_way(transport, transport);
        pair.arrive(Some(&settings));
        pair.acknowledge();
        pair.expect_parts(Parts::CONNECTION_SETTINGS_STATUS);
        pair.receive(super::stage::offer("h1", to(away(transport))));
        pair.expect_silence();
        assert_eq!(pair.core.poll_settings_check(), None);
        pair.save();
        let mut next = Pair::restarted(pair.core.state(), transport);
        let first = next.arrive(Some(&settings));
        assert_eq!(first.connection_settings_status, status("h1", Applied, ""));
        next.receive(super::stage::offer("h1", to(away(transport))));
        assert_eq!(next.core.poll_settings_check(), None);
        next.expect_silence();
    }
}

/// What an agent was told before it left is not lost on the way.
#[test]
fn everything_is_told_anew_to_another_server() {
    let _judged = opamp_spec::judges(&["STATUS-01"]);
    for (from, towards) in ROUTES {
        let mut pair = Pair::at_home(from);
        pair.receive_offer("h1", to(away(towards)));
        let settings = pair.check_settings();
        pair.expect();
        pair.receive(remote_config("c1", "a: 1"));
        let taken = pair.take_offer();
        pair.save();
        pair.leave();
        pair.core.resolve(taken.applied()).expect("pending");
        let first = pair.arrive(Some(&settings));
        let applied = v1::RemoteConfigStatuses::Applied as i32;
        assert_eq!(first.remote_config_status.expect("a status").status, applied);
        assert_eq!(pair.core.server_capabilities(), None, "nothing is known of it yet");
        pair.receive(acknowledgement());
        assert!(pair.core.server_capabilities().is_some());
    }
}

#[test]
fn a_trial_over_http_ends_with_the_status_400_too() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    let (mut pair, settings) = on_its_way(WebSocket, Http);
    pair.arrive(Some(&settings));
    pair.respond(400, None, "");
    pair.arrive(None);
    pair.acknowledge();
    let status = pair.settings_status().expect("a status");
    assert_eq!(status.status, Failed as i32);
    assert!(status.error_message.contains("400"), "{}", status.error_message);
}
