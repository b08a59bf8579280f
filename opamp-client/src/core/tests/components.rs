//! The components of an agent: the hash, and the components where they are asked for.

use std::collections::BTreeMap;

use opamp_proto::{AgentCapabilities, Message, components_hash, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{EVERYTHING, acknowledgement, full_state_request, health, seconds};
use crate::core::{Event, Parts, Transport};

type Components = BTreeMap<String, v1::ComponentDetails>;

fn components(names: &[&str]) -> Components {
    let one = |name: &str| v1::ComponentDetails {
        metadata: vec![v1::KeyValue::new("code.namespace", format!("com.example.{name}"))],
        ..Default::default()
    };
    names.iter().map(|name| ((*name).to_owned(), one(name))).collect()
}

fn hash_of(components: &Components) -> v1::AvailableComponents {
    v1::AvailableComponents { components: Components::new(), hash: components_hash(components) }
}

fn whole(components: &Components) -> v1::AvailableComponents {
    v1::AvailableComponents { components: components.clone(), ..hash_of(components) }
}

fn components_request() -> v1::ServerToAgent {
    let flags = v1::ServerToAgentFlags::ReportAvailableComponents as u64;
    v1::ServerToAgent { flags, ..acknowledgement() }
}

/// An agent with these components, whose first report is to be answered.
fn started(transport: Transport, components: &Components) -> (Pair, v1::AgentToServer) {
    let mut pair =
        Pair::new(transport, |config| config.available_components = Some(components.clone()));
    pair.connect();
    let first = pair.expect();
    (pair, first)
}

#[test]
fn the_first_report_has_the_hash_alone() {
    let _judged = opamp_spec::judges(&["COMP-01", "COMP-04", "COMP-07"]);
    for transport in TRANSPORTS {
        let all = components(&["tail", "json"]);
        let (mut pair, first) = started(transport, &all);
        assert_eq!(first.available_components, Some(hash_of(&all)));
        let capability = AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS;
        assert!(pair.core.capabilities().contains(capability));
        pair.acknowledge();
        pair.expect_silence();
        pair.core.set_health(Some(health("fine")));
        pair.expect_parts(Parts::HEALTH);
    }
}

#[test]
fn an_agent_that_has_none_says_nothing_of_them() {
    let _judged = opamp_spec::judges(&["COMP-02"]);
    let mut pair = Pair::settled(WebSocket);
    let capability = AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS;
    assert!(!pair.core.capabilities().contains(capability));
    pair.receive(components_request());
    pair.expect_silence();
    pair.receive(full_state_request());
    assert_eq!(pair.expect().available_components, None);
}

#[test]
fn the_components_are_told_once_per_request() {
    let _judged = opamp_spec::judges(&["COMP-03", "COMP-09"]);
    for transport in TRANSPORTS {
        let all = components(&["tail"]);
        let (mut pair, _) = started(transport, &all);
        pair.receive(components_request());
        for _ in 0..2 {
            let told = pair.expect_parts(Parts::AVAILABLE_COMPONENTS);
            assert_eq!(told.available_components, Some(whole(&all)));
            pair.expect_silence();
            pair.receive(components_request());
        }
        pair.expect_parts(Parts::AVAILABLE_COMPONENTS);
        pair.acknowledge();
        pair.expect_silence();
        // A full report needs the hash only (A30).
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(full_state_request());
        assert_eq!(pair.expect().available_components, Some(hash_of(&all)));
    }
}

#[test]
fn changed_components_have_another_hash_and_equal_ones_cause_nothing() {
    let _judged = opamp_spec::judges(&["CAP-03", "COMP-06", "COMP-11"]);
    for transport in TRANSPORTS {
        let (mut pair, _) = started(transport, &components(&["tail"]));
        pair.acknowledge();
        pair.core.set_available_components(Some(components(&["tail"])));
        pair.expect_silence();
        let more = components(&["tail", "json"]);
        pair.core.set_available_components(Some(more.clone()));
        let told = pair.expect_parts(Parts::AVAILABLE_COMPONENTS);
        assert_eq!(told.available_components, Some(hash_of(&more)));
        pair.receive(components_request());
        assert_eq!(pair.expect().available_components, Some(whole(&more)));
        pair.receive(components_request());
        // What was asked for is gone by the time it is told.
        pair.core.set_available_components(None);
        let withdrawn = pair.expect_parts(Parts::empty());
        let capability = AgentCapabilities::REPORTS_AVAILABLE_COMPONENTS.to_wire();
        assert_eq!(withdrawn.capabilities & capability, 0);
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn lost_components_are_asked_for_again_by_a_server_that_sees_the_hash_again() {
    let _judged = opamp_spec::judges(&["COMP-09", "DELTA-04"]);
    for transport in TRANSPORTS {
        let all = components(&["tail"]);
        let (mut pair, _) = started(transport, &all);
        pair.receive(components_request());
        pair.expect();
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        assert_eq!(pair.expect().available_components, Some(hash_of(&all)));
        pair.receive(components_request());
        assert_eq!(pair.expect().available_components, Some(whole(&all)));
    }
}

#[test]
fn components_tell_their_hash_too() {
    let _judged = opamp_spec::judges(&["COMP-09"]);
    let (mut pair, _) = started(WebSocket, &components(&["tail"]));
    pair.acknowledge();
    let more = components(&["tail", "json"]);
    pair.core.set_available_components(Some(more.clone()));
    pair.receive(components_request());
    assert_eq!(pair.expect().available_components, Some(whole(&more)));
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn a_request_that_is_repeated_before_it_is_answered_is_one() {
    let _judged = opamp_spec::judges(&["COMP-09"]);
    let all = components(&["tail"]);
    let (mut pair, _) = started(WebSocket, &all);
    for _ in 0..2 {
        for _ in 0..10 {
            pair.receive(components_request());
        }
        // Each counts for one of the three that are answered at once.
        assert_eq!(pair.expect().available_components, Some(whole(&all)));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn a_server_that_sets_every_flag_in_every_reply_is_told_everything_at_a_pace() {
    let _judged = opamp_spec::judges(&["COMP-09", "SEQ-07"]);
    for transport in TRANSPORTS {
        let (mut pair, _) = started(transport, &components(&["tail"]));
        let mut told = 0;
        for _ in 0..120 {
            loop {
                pair.receive(v1::ServerToAgent { flags: 3, ..acknowledgement() });
                let Some(message) = pair.poll() else { break };
                told += usize::from(message.available_components.is_some());
            }
            pair.advance(seconds(1));
            let polled = pair.poll();
            if polled.is_none() && transport == Transport::Http {
                // There is nothing to answer before the next poll.
                pair.advance(seconds(30));
                pair.expect();
            }
        }
        assert!((3..=3 + 120).contains(&told), "{told} reports");
        let elapsed = if transport == WebSocket { 120 } else { 120 * 31 };
        assert!(told <= 3 + elapsed / 30, "{told} reports in {elapsed} s");
    }
}

#[test]
fn components_too_large_to_send_do_not_silence_the_hash() {
    let _judged = opamp_spec::judges(&["COMP-04", "SIZE-16"]);
    let names: Vec<_> = (0..200).map(|n| format!("component-{n}")).collect();
    let all = components(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let size = whole(&all).encoded_len();
    let mut pair = Pair::new(WebSocket, |config| {
        config.limits = config.limits.with_max_send(size);
        config.available_components = Some(components(&["tail"]));
    });
    pair.connect();
    pair.expect();
    pair.core.set_available_components(Some(all.clone()));
    pair.receive(components_request());
    let told = pair.expect_parts(Parts::AVAILABLE_COMPONENTS);
    assert_eq!(told.available_components, Some(hash_of(&all)));
    let part = Parts::AVAILABLE_COMPONENTS;
    let too_large = |event: &Event| matches!(event, Event::TooLargeToSend { part: which, .. } if *which == part);
    assert!(pair.events().iter().any(too_large));
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn components_that_do_not_fit_beside_the_rest_go_alone() {
    let _judged = opamp_spec::judges(&["COMP-09", "SIZE-16"]);
    let names: Vec<_> = (0..200).map(|n| format!("component-{n}")).collect();
    let all = components(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let size = whole(&all).encoded_len();
    let mut pair = Pair::new(WebSocket, |config| {
        config.limits = config.limits.with_max_send(size + 60);
        config.available_components = Some(all.clone());
    });
    pair.connect();
    pair.expect();
    let flags = 3;
    pair.receive(v1::ServerToAgent { flags, ..acknowledgement() });
    let rest = pair.expect();
    assert_eq!(rest.available_components, None);
    pair.acknowledge();
    assert_eq!(pair.expect().available_components, Some(whole(&all)));
}

/// Two requests at the end of the ration: what one message tells is not told again with the other.
#[test]
fn full_state_that_is_owed_is_not_told_again_with_the_components() {
    let _judged = opamp_spec::judges(&["SEQ-08", "STATUS-15", "COMP-07"]);
    let components = components(&["receiver"]);
    let (mut pair, _) = started(Http, &components);
    pair.receive(full_state_request());
    for _ in 0..3 {
        pair.expect();
        pair.receive(full_state_request());
    }
    pair.expect_silence();
    pair.core.set_health(Some(health("well")));
    let all = EVERYTHING | Parts::AVAILABLE_COMPONENTS;
    pair.expect_parts(Parts::HEALTH);
    // Its turn comes while this request waits for its response, which asks once more.
    pair.advance(seconds(30));
    let mut both = components_request();
    both.flags |= full_state_request().flags;
    pair.receive(both);
    let full = pair.expect_parts(all);
    assert_eq!(full.available_components, Some(hash_of(&components)));
    pair.acknowledge();
    pair.advance(seconds(30));
    let told = pair.expect_parts(Parts::AVAILABLE_COMPONENTS);
    assert_eq!(told.available_components, Some(whole(&components)));
}
