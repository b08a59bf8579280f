//! Servers, stores and operators that do what nobody would want them to.

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Applying, Failed};
use opamp_proto::{Message, v1};

use super::stage::{ROUTES, away, failure, headers, home, offer, status, taking, to};
use crate::core::tests::pair::{Http, Pair, TRANSPORTS, WebSocket};
use crate::core::tests::values::{acknowledgement, seconds, unavailable};
use crate::core::{ClientConfig, ClientState, ConnectionKinds, Event, FailureKind, Transport};

/// What is saved when an agent has left home for another server.
fn saved_on_the_way(transport: Transport) -> ClientState {
    let mut pair = Pair::at_home(transport);
    pair.receive_offer("h1", to(away(transport)));
    pair.check_settings();
    pair.save().expect("the candidate is saved")
}

/// A token that cannot be fetched for once says nothing of the server.
#[test]
fn headers_that_cannot_be_had_do_not_lead_to_another_server() {
    let _judged = opamp_spec::judges(&["CONN-16"]);
    for (from, towards) in ROUTES {
        let settings = to(away(towards));
        let mut pair = Pair::new(from, |config| {
            taking(from)(config);
            config.state.settings_endpoint = home(from).into();
            config.state.opamp_settings = Some(settings.clone());
        });
        pair.fail_to_arrive(Some(&settings), FailureKind::Configuration);
        pair.wait_for_retry();
        pair.arrive(Some(&settings));
    }
}

#[test]
fn headers_that_cannot_be_had_do_not_fail_what_is_offered() {
    let _judged = opamp_spec::judges(&["CONN-17"]);
    for (from, towards) in ROUTES {
        let mut pair = Pair::at_home(from);
        pair.receive_offer("h1", to(away(towards)));
        let settings = pair.check_settings();
        pair.save();
        pair.leave();
        pair.fail_to_arrive(Some(&settings), FailureKind::Configuration);
        pair.wait_for_retry();
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    }
}

/// Neither is an offer APPLIED that was forgotten, nor is one tried that came from elsewhere.
#[test]
fn an_offer_of_another_server_than_the_agent_is_started_with_is_forgotten_altogether() {
    let _judged = opamp_spec::judges(&["CONN-31", "CONN-34"]);
    let mut offered = Pair::at_home(WebSocket);
    offered.receive_offer("h1", to(away(WebSocket)));
    let offered = offered.save().expect("the offer is saved");
    assert_eq!(offered.settings_candidate, None);
    let mut interval = Pair::at_home(WebSocket);
    interval.receive_offer("h1", to(home(WebSocket)));
    let interval = interval.save().expect("it is saved");
    assert_eq!(interval.heartbeat_interval_seconds, Some(0));
    for saved in [offered, saved_on_the_way(WebSocket), interval] {
        let mut pair = Pair::new(WebSocket, |config| {
            taking(WebSocket)(config);
            config.endpoint = "wss://moved.example.com".into();
            config.state = saved;
        });
        assert_eq!(pair.core.poll_settings_check(), None);
        let told = pair.arrive(None).connection_settings_status.unwrap_or_default();
        assert_eq!(told, v1::ConnectionSettingsStatus::default());
        pair.acknowledge();
        assert_eq!(pair.until_timeout(), Some(seconds(30)), "heartbeats are on");
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        // Whoever is the server now may make the same offer.
        pair.receive_offer("h1", to(away(WebSocket)));
        pair.check_settings();
    }
}

/// The new server may have seen the new credentials, and the old ones be void.
#[test]
fn a_restarted_agent_that_cannot_save_or_check_does_not_forget_the_candidate() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-18"]);
    for transport in TRANSPORTS {
        for checks in [true, false] {
            let mut pair = Pair::restarted(&saved_on_the_way(transport), transport);
            let settings = if checks {
                let settings = pair.check_settings();
                pair.advance(seconds(30));
                settings
            } else {
                let check = pair.core.poll_settings_check().expect("something to check");
                let unusable = failure(FailureKind::Configuration);
                pair.core.handle_settings_checked(check.id, Err(unusable), pair.now);
                check.settings
            };
            pair.fail_to_arrive(None, FailureKind::Unauthorized);
            pair.wait_for_retry();
            let first = pair.arrive(Some(&settings));
            assert_eq!(first.connection_settings_status, status("h1", Applying, ""));
            pair.acknowledge();
            assert_eq!(pair.settings_status(), status("h1", Applied, ""));
            assert_eq!(pair.core.opamp_settings(), Some(&*settings));
        }
    }
}

#[test]
fn settings_that_policy_does_not_allow_any_more_are_not_used_after_a_restart() {
    let _judged = opamp_spec::judges(&["TLS-05", "CONN-08"]);
    let unverified = v1::OpAmpConnectionSettings {
        tls: Some(v1::TlsConnectionSettings { insecure_skip_verify: true, ..Default::default() }),
        ..Default::default()
    };
    for settings in [unverified, to("ws://away.example.com"), to("http://away.example.com")] {
        for allowed in [true, false] {
            for candidate in [true, false] {
                let mut pair = Pair::new(WebSocket, |config| {
                    taking(WebSocket)(config);
                    config.allow_insecure_endpoint = allowed;
                    config.allow_insecure_skip_verify = allowed;
                    config.state.settings_endpoint = home(WebSocket).into();
                    if candidate {
                        config.state.settings_candidate = Some(crate::core::SettingsCandidate {
                            settings: settings.clone(),
                            ..Default::default()
                        });
                    } else {
                        config.state.opamp_settings = Some(settings.clone());
                    }
                });
                if allowed && candidate {
                    pair.check_settings();
                    pair.save();
                }
                if pair.core.transport() == Http {
                    assert!(allowed);
                    pair.expect();
                    assert_eq!(pair.requested_with.as_deref(), Some(&settings));
                    continue;
                }
                let (_, with) = pair.expect_connect_with();
                assert_eq!(with.as_deref(), allowed.then_some(&settings));
                assert_eq!(pair.core.state().settings_candidate.is_some(), allowed && candidate);
                let told = pair.settings_events();
                assert_eq!(told.is_empty(), allowed, "{told:?}");
            }
        }
    }
}

#[test]
fn settings_of_any_size_are_not_kept() {
    let mut pair = Pair::at_home(WebSocket);
    let huge = headers(&"x".repeat(2 * 1024 * 1024));
    pair.receive_offer(
        "h1",
        v1::OpAmpConnectionSettings { headers: Some(huge), ..to(away(WebSocket)) },
    );
    assert_eq!(pair.core.poll_settings_check(), None);
    let told = pair.settings_status().expect("a status");
    assert_eq!(told.status, Failed as i32);
    assert!(pair.core.state().to_bytes().len() < 1024);
    let sized = |len: usize| v1::OpAmpConnectionSettings {
        headers: Some(headers(&"x".repeat(len))),
        ..to(away(WebSocket))
    };
    let most = 1024 * 1024;
    let len = most - (sized(most).encoded_len() - most);
    assert_eq!(sized(len).encoded_len(), most);
    for (len, allowed) in [(len + 1, false), (len, true)] {
        pair.receive_offer(&format!("{len}"), sized(len));
        assert_eq!(pair.core.poll_settings_check().is_some(), allowed);
    }
}

/// A server that has not proven itself and is being left says nothing of what is on trial.
#[test]
fn an_offer_of_a_server_that_is_left_before_its_good_reply_is_of_no_interest() {
    let mut pair = Pair::at_home(WebSocket);
    let offered =
        v1::OpAmpConnectionSettings { headers: Some(headers("new")), ..to(away(WebSocket)) };
    pair.receive_offer("h1", offered);
    let settings = pair.check_settings();
    pair.save();
    pair.leave();
    pair.arrive(Some(&settings));
    pair.receive(unavailable(Some(seconds(1))));
    pair.receive(offer("h2", to("")));
    pair.receive(acknowledgement());
    pair.leave();
    pair.wait_for_retry();
    pair.arrive(Some(&settings));
    pair.acknowledge();
    assert_eq!(pair.settings_status(), status("h1", Applied, ""));
    assert!(pair.events().contains(&Event::OpampSettingsApplied));
}

/// Under the newer hash the server would take for applied what it never heard the failure of.
#[test]
fn a_newer_offer_does_not_hide_that_settings_failed() {
    let _judged = opamp_spec::judges(&["CONN-34", "CONN-35"]);
    let telemetry = |endpoint: &str| v1::TelemetryConnectionSettings {
        destination_endpoint: endpoint.to_owned(),
        ..Default::default()
    };
    let offers = |hash: &str, offers: v1::ConnectionSettingsOffers| v1::ServerToAgent {
        connection_settings: Some(v1::ConnectionSettingsOffers {
            hash: hash.as_bytes().to_vec().into(),
            ..offers
        }),
        ..acknowledgement()
    };
    for repeats in [false, true] {
        let mut pair = Pair::settled_with(WebSocket, |config| {
            taking(WebSocket)(config);
            config.accepted_settings |= ConnectionKinds::OWN_METRICS | ConnectionKinds::OWN_LOGS;
        });
        let first = v1::ConnectionSettingsOffers {
            opamp: Some(to("ws://insecure.example.com")),
            own_metrics: Some(telemetry("https://m")),
            ..Default::default()
        };
        pair.receive(offers("h1", first));
        assert_eq!(pair.settings_status(), status("h1", Applying, ""));
        let newer = v1::ConnectionSettingsOffers {
            opamp: repeats.then(|| to(home(WebSocket))),
            own_logs: Some(telemetry("https://l")),
            ..Default::default()
        };
        pair.receive(offers("h2", newer));
        let taken = pair.events().into_iter().find_map(|event| match event {
            Event::ConnectionSettings(offer) => Some(offer),
            _ => None,
        });
        let taken = taken.expect("an offer");
        pair.core.resolve_connection_settings(taken.applied()).expect("pending");
        let told = pair.settings_status().expect("a status");
        assert_eq!(told.status, if repeats { Applied } else { Failed } as i32);
        assert_eq!(told.error_message.contains("encrypted"), !repeats, "{told:?}");
    }
}

/// Under the newer hash the server would take for applied what it never heard the failure of: it
/// was told APPLYING, as the settings of the connection itself were on trial.
#[test]
fn a_newer_offer_does_not_hide_that_telemetry_settings_failed() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-34", "CONN-35"]);
    let telemetry = |endpoint: &str| {
        Some(v1::TelemetryConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            ..Default::default()
        })
    };
    let take = |pair: &mut Pair| {
        pair.events().into_iter().find_map(|event| match event {
            Event::ConnectionSettings(offer) => Some(offer),
            _ => None,
        })
    };
    let adapt = |config: &mut ClientConfig| {
        taking(WebSocket)(config);
        config.accepted_settings |= ConnectionKinds::OWN_METRICS | ConnectionKinds::OWN_LOGS;
    };
    let say = |offers| v1::ServerToAgent { connection_settings: Some(offers), ..acknowledgement() };
    for repeats in [false, true] {
        let mut pair = Pair::settled_with(WebSocket, adapt);
        let first = v1::ConnectionSettingsOffers {
            hash: "h1".into(),
            opamp: Some(to(away(WebSocket))),
            own_metrics: telemetry("https://m"),
            ..Default::default()
        };
        pair.receive(say(first));
        let taken = take(&mut pair).expect("an offer");
        pair.core.resolve_connection_settings(taken.failed("no room")).expect("pending");
        assert_eq!(pair.settings_status(), status("h1", Applying, ""));

        let saved = ClientState::from_bytes(&pair.core.state().to_bytes()).unwrap();
        let mut next = Pair::new(WebSocket, |config| {
            adapt(config);
            config.state = saved;
        });
        let settings = next.check_settings();
        next.save();
        next.arrive(Some(&settings));
        next.acknowledge();
        assert_eq!(next.settings_status(), status("h1", Failed, "no room"));

        let newer = v1::ConnectionSettingsOffers {
            hash: "h2".into(),
            own_metrics: if repeats { telemetry("https://m") } else { None },
            own_logs: telemetry("https://l"),
            ..Default::default()
        };
        pair.receive(say(newer));
        let taken = take(&mut pair).expect("an offer");
        pair.core.resolve_connection_settings(taken.applied()).expect("pending");
        pair.core.opamp_settings_resolved(Ok(()));
        let expected = match repeats {
            false => status("h2", Failed, "no room"),
            true => status("h2", Applied, ""),
        };
        assert_eq!(pair.core.status().connection_settings_status, expected);
    }
}

#[test]
fn what_was_too_large_and_is_offered_anew_is_no_failure() {
    let _judged = opamp_spec::judges(&["CONN-34"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.accepted_settings |= ConnectionKinds::OTHERS;
    });
    let offer = |hash: &str, opamp: Option<v1::OpAmpConnectionSettings>, size: usize| {
        let other = v1::OtherConnectionSettings {
            destination_endpoint: "x".repeat(size),
            ..Default::default()
        };
        v1::ConnectionSettingsOffers {
            hash: hash.as_bytes().to_vec().into(),
            opamp,
            other_connections: [("sink".to_owned(), other)].into(),
            ..Default::default()
        }
    };
    let too_large = offer("h1", Some(to(away(WebSocket))), 2 * 1024 * 1024);
    for connection_settings in [too_large, offer("h2", None, 1)].map(Some) {
        pair.receive(v1::ServerToAgent { connection_settings, ..acknowledgement() });
    }
    let taken = pair.events().into_iter().find_map(|event| match event {
        Event::ConnectionSettings(offer) => Some(offer),
        _ => None,
    });
    pair.core.resolve_connection_settings(taken.expect("an offer").applied()).expect("pending");
    pair.core.opamp_settings_resolved(Ok(()));
    assert_eq!(pair.settings_status(), status("h2", Applied, ""));
}

/// A status has no room for more, and what is kept is bounded.
#[test]
fn failures_that_wait_to_be_told_do_not_pile_up() {
    let mut pair = Pair::settled_with(WebSocket, |config| {
        taking(WebSocket)(config);
        config.accepted_settings |= ConnectionKinds::OTHERS;
    });
    pair.receive_offer("h", to(away(WebSocket)));
    let mut failures = Vec::new();
    for n in 0..40 {
        let other = v1::OtherConnectionSettings {
            destination_endpoint: "x:1".to_owned(),
            ..Default::default()
        };
        let connection_settings = Some(v1::ConnectionSettingsOffers {
            hash: format!("h{n}").into(),
            other_connections: [(n.to_string(), other)].into(),
            ..Default::default()
        });
        pair.receive(v1::ServerToAgent { connection_settings, ..acknowledgement() });
        let taken = pair.events().into_iter().find_map(|event| match event {
            Event::ConnectionSettings(offer) => Some(offer),
            _ => None,
        });
        let why = format!("no connection {n}");
        let resolution = taken.expect("an offer").failed(why.clone());
        pair.core.resolve_connection_settings(resolution).expect("pending");
        failures.push(why);
    }
    let pending = pair.core.state().pending_connection_settings.clone().expect("on trial");
    let kept: Vec<_> = pending.failures.into_iter().map(|failure| failure.why).collect();
    assert_eq!(kept, failures[8..]);
}
