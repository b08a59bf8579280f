//! Settings in force that are refused for long, or cannot be used.

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Failed};
use opamp_proto::v1::OpAmpConnectionSettings;

use super::stage::{ROUTES, away, status, taking, to};
use crate::core::tests::pair::{Pair, TRANSPORTS};
use crate::core::tests::values::seconds;
use crate::core::{Event, FailureKind, Transport};

/// An agent with accepted settings that starts and is not let in.
fn with_settings(from: Transport, towards: Transport, limit: Option<u64>) -> Pair {
    let mut pair = Pair::new(from, |config| {
        taking(from)(config);
        config.refusal_timeout = limit.map(seconds);
        config.state.settings_endpoint.clone_from(&config.endpoint);
        config.state.opamp_settings = Some(to(away(towards)));
        config.state.connection_settings_status = status("h1", Applied, "");
    });
    pair.save();
    pair
}

fn refuse(pair: &mut Pair) {
    let present = pair.core.settings.present();
    pair.fail_to_arrive(present.as_deref(), FailureKind::Unauthorized);
    pair.wait_for_retry();
}

#[test]
fn credentials_that_are_refused_for_long_do_not_cost_the_agent_its_server() {
    let _judged = opamp_spec::judges(&["CONN-18", "CONN-34"]);
    for (from, towards) in ROUTES {
        let mut pair = with_settings(from, towards, Some(900));
        let start = pair.now;
        while pair.core.settings.present().is_some() {
            refuse(&mut pair);
        }
        let waited = pair.now - start;
        assert!(waited >= seconds(900) && waited < seconds(1100), "{waited:?}");
        pair.arrive(None);
        pair.acknowledge();
        assert_eq!(pair.core.opamp_settings(), None);
        let why = "no server takes them any more: Unauthorized";
        assert_eq!(pair.expect().connection_settings_status, status("h1", Failed, why));
        let reason = why.to_owned();
        assert_eq!(pair.settings_events(), [Event::OpampSettingsFailed { reason }]);
        pair.save();
        Pair::restarted(pair.core.state(), from).arrive(None);
    }
}

#[test]
fn as_long_as_nobody_lets_it_in_an_agent_tries_both() {
    for (from, towards) in ROUTES {
        let mut pair = with_settings(from, towards, Some(900));
        let mut tried = [0, 0];
        let start = pair.now;
        while pair.now - start < seconds(3600) {
            tried[usize::from(pair.core.settings.present().is_some())] += 1;
            refuse(&mut pair);
        }
        assert!(tried.iter().all(|times| (10..200).contains(times)), "{tried:?}");
        while pair.core.settings.present().is_none() {
            refuse(&mut pair);
        }
        pair.arrive(Some(&to(away(towards))));
        pair.acknowledge();
        assert_eq!(pair.core.opamp_settings(), Some(&to(away(towards))));
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
        // The time begins anew.
        pair.core
            .settings_in_force_failed(&super::stage::failure(FailureKind::Unauthorized), pair.now);
        assert!(pair.core.settings.present().is_some());
    }
}

#[test]
fn an_outage_or_a_short_refusal_is_no_reason_to_go_back() {
    for (limit, kind) in [
        (Some(900), FailureKind::Unreachable),
        (Some(900), FailureKind::Throttled),
        (None, FailureKind::Unauthorized),
    ] {
        let (from, towards) = ROUTES[0];
        let mut pair = with_settings(from, towards, limit);
        let start = pair.now;
        while pair.now - start < seconds(7200) {
            pair.fail_to_arrive(Some(&to(away(towards))), kind);
            pair.wait_for_retry();
        }
    }
}

/// An agent whose settings in force have been unusable for long, at the server it is started with.
fn with_unusable_settings(from: Transport, towards: Transport) -> Pair {
    let mut pair = with_settings(from, towards, Some(900));
    let start = pair.now;
    while pair.core.settings.present().is_some() {
        pair.fail_to_arrive(Some(&to(away(towards))), FailureKind::UnusableSettings);
        pair.wait_for_retry();
    }
    let waited = pair.now - start;
    assert!(waited >= seconds(60) && waited < seconds(180), "{waited:?}");
    pair
}

#[test]
fn settings_that_no_connection_can_be_made_with_any_more_do_not_cost_the_agent_its_server() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    for (from, towards) in ROUTES {
        let mut pair = with_unusable_settings(from, towards);
        // They take turns.
        pair.fail_to_arrive(None, FailureKind::Unreachable);
        pair.wait_for_retry();
        pair.fail_to_arrive(Some(&to(away(towards))), FailureKind::UnusableSettings);
        pair.wait_for_retry();
        pair.arrive(None);
        pair.acknowledge();
        assert!(pair.events().contains(&Event::Connected));
        // Another build may be able to use them.
        assert!(pair.core.state().opamp_settings.is_some());
    }
}

/// A file that somebody is just writing, a token that could not be fetched.
#[test]
fn settings_that_cannot_be_used_for_a_moment_stay_in_use() {
    for (from, towards) in ROUTES {
        let mut pair = with_settings(from, towards, Some(900));
        let settings = to(away(towards));
        for _ in 0..100 {
            pair.fail_to_arrive(Some(&settings), FailureKind::Configuration);
            pair.wait_for_retry();
        }
        // Not one moment after another makes long, either.
        for _ in 0..10 {
            pair.fail_to_arrive(Some(&settings), FailureKind::UnusableSettings);
            pair.wait_for_retry();
            pair.fail_to_arrive(Some(&settings), FailureKind::Unreachable);
            pair.wait_for_retry();
        }
        pair.arrive(Some(&settings));
        pair.acknowledge();
        assert_eq!(pair.settings_events(), []);
    }
}

#[test]
fn an_agent_without_settings_has_none_to_forget() {
    for (transport, more) in TRANSPORTS.into_iter().flat_map(|it| [(it, 0), (it, 1)]) {
        let mut pair = Pair::new(transport, taking(transport));
        let start = pair.now;
        while pair.now - start < seconds(1200) {
            refuse(&mut pair);
        }
        for _ in 0..more {
            refuse(&mut pair);
        }
        pair.arrive(None);
        pair.acknowledge();
        assert_eq!(pair.settings_events(), []);
    }
}

/// An agent at the server of its settings, these settings, and an offer that just turned out
/// unusable.
fn with_an_unusable_offer(from: Transport, towards: Transport) -> (Pair, OpAmpConnectionSettings) {
    let mut pair = with_settings(from, towards, Some(900));
    let settings = to(away(towards));
    pair.arrive(Some(&settings));
    pair.acknowledge();
    pair.receive_offer("h2", to("wss://elsewhere.example.com"));
    let offered = pair.check_settings();
    pair.save();
    pair.leave();
    pair.fail_to_arrive(Some(&offered), FailureKind::UnusableSettings);
    (pair, settings)
}

#[test]
fn an_offer_that_cannot_be_used_says_nothing_of_the_settings_in_force() {
    for (from, towards) in ROUTES {
        let (mut pair, settings) = with_an_unusable_offer(from, towards);
        pair.arrive(Some(&settings));
        pair.acknowledge();
        let why = "UnusableSettings";
        assert_eq!(pair.settings_status(), status("h2", Failed, why));
        pair.advance(seconds(120));
        let failure = super::stage::failure(FailureKind::UnusableSettings);
        pair.core.settings_in_force_failed(&failure, pair.now);
        assert_eq!(pair.core.settings.present().as_deref(), Some(&settings));
    }
}

#[test]
fn what_was_wrong_with_an_offer_is_no_time_of_the_settings_in_force() {
    for (from, towards) in ROUTES {
        let (mut pair, settings) = with_an_unusable_offer(from, towards);
        let failure = super::stage::failure(FailureKind::UnusableSettings);
        pair.core.settings_in_force_failed(&failure, pair.now + seconds(120));
        assert_eq!(pair.core.settings.present().as_deref(), Some(&settings));
    }
}

#[test]
fn settings_that_can_be_used_again_are() {
    for (from, towards) in ROUTES {
        let mut pair = with_unusable_settings(from, towards);
        pair.arrive(None);
        pair.acknowledge();
        let look = |pair: &mut Pair| {
            let start = pair.now;
            loop {
                if let Some(check) = pair.core.poll_settings_check() {
                    assert_eq!(*check.settings, to(away(towards)));
                    assert!(pair.now - start <= seconds(300));
                    return check.id;
                }
                let wait = pair.until_timeout().expect("something is due");
                pair.advance(wait);
                if pair.poll().is_some() {
                    pair.acknowledge();
                }
            }
        };
        let unusable = Err(super::stage::failure(FailureKind::UnusableSettings));
        let id = look(&mut pair);
        pair.core.handle_settings_checked(id, unusable, pair.now);
        let id = look(&mut pair);
        pair.core.handle_settings_checked(id, Ok(()), pair.now);
        pair.leave();
        pair.arrive(Some(&to(away(towards))));
        pair.acknowledge();
        assert_eq!(pair.settings_events(), []);
        assert_eq!(pair.settings_status(), status("h1", Applied, ""));
        assert_eq!(pair.core.poll_settings_check(), None);
    }
}

/// An offer is checked meanwhile: the look comes later, and not never.
#[test]
fn an_offer_does_not_end_the_looking() {
    let (from, towards) = ROUTES[0];
    let mut pair = with_unusable_settings(from, towards);
    pair.arrive(None);
    pair.acknowledge();
    pair.core.look_at_unusable_settings();
    let look = pair.core.poll_settings_check().expect("they are looked at");
    pair.receive_offer("h2", to("wss://elsewhere.example.com"));
    let check = pair.core.poll_settings_check().expect("the offer is checked");
    assert_ne!(*check.settings, *look.settings);
    let unusable = super::stage::failure(FailureKind::UnusableSettings);
    pair.core.handle_settings_checked(check.id, Err(unusable), pair.now);
    pair.core.handle_settings_checked(look.id, Ok(()), pair.now);
    assert_eq!(pair.core.settings.present(), None, "that look was given up");
    pair.advance(seconds(300));
    assert!(pair.core.poll_settings_check().is_some());
}
