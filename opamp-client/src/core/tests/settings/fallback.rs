//! Settings in force that are refused for long, or cannot be used.

use opamp_proto::v1::ConnectionSettingsStatuses::{Applied, Failed};

use super::stage::{ROUTES, away, status, taking, to};
use crate::core::tests::pair::Pair;
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

#[test]
fn settings_that_no_connection_can_be_made_with_any_more_do_not_cost_the_agent_its_server() {
    let _judged = opamp_spec::judges(&["CONN-18"]);
    for (from, towards) in ROUTES {
        let mut pair = with_settings(from, towards, Some(900));
        // A token that could not be fetched is no reason to go anywhere else.
        pair.fail_to_arrive(Some(&to(away(towards))), FailureKind::Configuration);
        pair.wait_for_retry();
        pair.fail_to_arrive(Some(&to(away(towards))), FailureKind::UnusableSettings);
        pair.wait_for_retry();
        pair.fail_to_arrive(None, FailureKind::Unreachable);
        pair.wait_for_retry();
        pair.arrive(None);
        pair.acknowledge();
        assert!(pair.events().contains(&Event::Connected));
        // Another build may be able to use them.
        assert!(pair.core.state().opamp_settings.is_some());
    }
}
