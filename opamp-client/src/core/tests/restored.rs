//! What survives a restart of the agent.

use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1;
use opamp_proto::v1::RemoteConfigStatuses::{Applied, Applying, Failed};

use super::pair::{Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, config_map, health, other_uid, remote_config, remote_config_status, seconds,
};
use crate::core::{ClientState, Event, Parts, Transport};

/// The agent ends as in a crash, and is started again with what was last saved.
fn restart(crashed: &Pair, transport: Transport) -> Pair {
    let saved = crashed.core.state().to_bytes();
    Pair::new(transport, |config| {
        config.state = ClientState::from_bytes(&saved).expect("as it was saved");
    })
}

#[test]
fn a_new_process_tells_everything_under_the_same_uid() {
    let _judged = opamp_spec::judges(&["STATUS-01", "CFG-20", "CFG-21"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(WebSocket);
        pair.receive(remote_config("h1", "a: 1"));
        let taken = pair.take_offer();
        pair.core.resolve(taken.applied()).expect("pending");
        let mut restarted = restart(&pair, transport);
        restarted.connect();
        let first = restarted.expect_parts(EVERYTHING);
        assert_eq!(first.instance_uid, pair.core.instance_uid().to_bytes());
        let applied = remote_config_status("h1", Applied, "");
        assert_eq!(first.remote_config_status, Some(applied));
        // The offer that was applied before is not new work now.
        restarted.receive(remote_config("h1", "a: 1"));
        restarted.expect_no_offer();
        restarted.expect_silence();
    }
}

#[test]
fn an_offer_without_an_outcome_is_offered_again() {
    let _judged = opamp_spec::judges(&["CFG-20", "CFG-21"]);
    for begun in [false, true] {
        let mut pair = Pair::settled(WebSocket);
        pair.receive(remote_config("h1", "a: 1"));
        let taken = pair.take_offer();
        if begun {
            pair.core.resolve(taken.applying()).expect("pending");
        }
        let mut restarted = restart(&pair, WebSocket);
        let taken = restarted.take_offer();
        assert_eq!(*taken.config(), config_map("a: 1"));
        assert_eq!(taken.hash().as_ref(), b"h1");
        restarted.connect();
        let first = restarted.expect_parts(EVERYTHING);
        let expected = match begun {
            true => remote_config_status("h1", Applying, ""),
            false => v1::RemoteConfigStatus::default(),
        };
        assert_eq!(first.remote_config_status, Some(expected));
        // The server, which has heard of no outcome, may well offer it again.
        restarted.receive(remote_config("h1", "a: 1"));
        restarted.expect_no_offer();
        restarted.core.resolve(taken.applied()).expect("pending");
        let report = restarted.expect_parts(Parts::REMOTE_CONFIG_STATUS);
        let applied = remote_config_status("h1", Applied, "");
        assert_eq!(report.remote_config_status, Some(applied));
        assert_eq!(restarted.core.state().pending_remote_config, None);
    }
}

#[test]
fn a_restored_offer_has_a_deadline_too() {
    let _judged = opamp_spec::judges(&["CFG-21", "CFG-22"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let mut restarted = restart(&pair, WebSocket);
    assert_eq!(restarted.until_timeout(), Some(seconds(300)));
    restarted.advance(seconds(300) - Duration::from_nanos(1));
    assert!(restarted.core.state().pending_remote_config.is_some());
    restarted.advance(Duration::from_nanos(1));
    assert_eq!(restarted.core.state().pending_remote_config, None);
    restarted.expect_no_offer();
    restarted.connect();
    let failed = remote_config_status("h1", Failed, "no outcome within 300 s");
    assert_eq!(restarted.expect().remote_config_status, Some(failed));
}

#[test]
fn a_restored_offer_without_a_hash_is_known_by_its_content() {
    let _judged = opamp_spec::judges(&["STATUS-15"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("", "a: 1"));
    let mut restarted = restart(&pair, WebSocket);
    let taken = restarted.take_offer();
    restarted.connect();
    restarted.expect();
    restarted.receive(remote_config("", "a: 1"));
    restarted.expect_no_offer();
    restarted.core.resolve(taken.applied()).expect("still pending");
}

#[test]
fn a_newer_offer_supersedes_a_restored_one() {
    let _judged = opamp_spec::judges(&["CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let mut restarted = restart(&pair, WebSocket);
    let old = restarted.take_offer();
    restarted.connect();
    restarted.expect();
    restarted.receive(remote_config("h2", "a: 2"));
    let new = restarted.take_offer();
    assert!(old.id() < new.id());
    let report = restarted.expect_parts(Parts::REMOTE_CONFIG_STATUS);
    let failed = remote_config_status("h1", Failed, "superseded by a newer offer");
    assert_eq!(report.remote_config_status, Some(failed));
}

#[test]
fn an_offer_that_brings_the_agent_down_fails_after_three_starts() {
    let _judged = opamp_spec::judges(&["CFG-21", "CFG-22"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    for starts in 1..=3 {
        pair = restart(&pair, WebSocket);
        assert_eq!(pair.core.state().pending_starts, starts);
        assert!(pair.events().contains(&Event::StateChanged), "the count has to be saved");
    }
    let mut pair = restart(&pair, WebSocket);
    pair.expect_no_offer();
    pair.connect();
    let why = "the agent started 4 times without an outcome";
    let failed = remote_config_status("h1", Failed, why);
    assert_eq!(pair.expect().remote_config_status, Some(failed));
    assert_eq!(pair.core.state().pending_remote_config, None);
    assert_eq!(pair.core.state().pending_starts, 0);
}

#[test]
fn each_offer_has_its_own_starts() {
    let _judged = opamp_spec::judges(&["CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let mut pair = restart(&restart(&pair, WebSocket), WebSocket);
    assert_eq!(pair.core.state().pending_starts, 2);
    pair.connect();
    pair.expect();
    pair.receive(remote_config("h2", "a: 2"));
    assert_eq!(pair.core.state().pending_starts, 0);
    let mut pair = restart(&pair, WebSocket);
    assert_eq!(pair.take_offer().hash().as_ref(), b"h2");
}

#[test]
fn applying_without_the_offer_is_a_failure() {
    let _judged = opamp_spec::judges(&["CFG-21"]);
    for pending in [
        None,
        // An offer without content cannot be offered again either.
        Some(v1::AgentRemoteConfig { config: None, config_hash: Bytes::from_static(b"h1") }),
    ] {
        let mut pair = Pair::new(WebSocket, |config| {
            config.state.remote_config_status = Some(remote_config_status("h1", Applying, ""));
            config.state.pending_remote_config = pending;
        });
        assert_eq!(pair.events(), [Event::StateChanged]);
        pair.connect();
        let status = pair.expect().remote_config_status;
        let why = "interrupted by a restart of the agent";
        let failed = remote_config_status("h1", Failed, why);
        assert_eq!(status, Some(failed.clone()));
        assert_eq!(pair.core.state().remote_config_status, Some(failed));
    }
}

#[test]
fn an_agent_that_takes_no_configuration_any_more_has_none_pending() {
    let _judged = opamp_spec::judges(&["CAP-05", "CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.resolve(taken.applying()).expect("pending");
    let saved = pair.core.state().clone();
    let mut restarted = Pair::new(WebSocket, |config| {
        config.state = saved;
        config.accepts_remote_config = false;
    });
    restarted.expect_no_offer();
    restarted.connect();
    restarted.expect_parts(EVERYTHING - Parts::REMOTE_CONFIG_STATUS);
    restarted.acknowledge();
    assert_eq!(restarted.core.state().pending_remote_config, None);
    // When it takes some again, the server offers it again: the status knows nothing of it.
    restarted.core.set_accepts_remote_config(true);
    let report = restarted.expect_parts(Parts::REMOTE_CONFIG_STATUS);
    assert_eq!(report.remote_config_status, Some(v1::RemoteConfigStatus::default()));
}

#[test]
fn an_offer_that_brings_the_agent_down_fails_in_the_end() {
    let _judged = opamp_spec::judges(&["CFG-21", "CFG-22"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.resolve(taken.applying()).expect("pending");
    let mut saved = pair.core.state().clone();
    for _ in 0..3 {
        let mut restarted = Pair::new(WebSocket, |config| config.state = saved);
        // The agent crashes as soon as it has the offer.
        let _ = restarted.take_offer();
        saved = restarted.core.state().clone();
    }
    let mut restarted = Pair::new(WebSocket, |config| config.state = saved);
    restarted.expect_no_offer();
    restarted.connect();
    let report = restarted.expect_parts(EVERYTHING);
    let why = "the agent started 4 times without an outcome";
    let failed = remote_config_status("h1", Failed, why);
    assert_eq!(report.remote_config_status, Some(failed));
}

/// W-17 of the reference: nothing said when to save.
#[test]
fn every_change_of_what_has_to_be_saved_is_announced() {
    let mut pair = Pair::settled(WebSocket);
    let mut saved = pair.core.state().clone();
    let mut version = pair.core.state_version();
    let mut expect_change = |pair: &mut Pair| {
        let announced = pair.events().contains(&Event::StateChanged);
        assert!(announced);
        assert_ne!(*pair.core.state(), saved);
        saved = pair.core.state().clone();
        assert!(pair.core.state_version() > version);
        version = pair.core.state_version();
    };
    pair.receive(remote_config("h1", "a: 1"));
    let offer = pair.core.remote_config.pending.clone().expect("an offer");
    expect_change(&mut pair);
    pair.core.resolve(offer.applying()).expect("pending");
    expect_change(&mut pair);
    pair.core.resolve(offer.failed("no")).expect("pending");
    expect_change(&mut pair);
    pair.receive(v1::ServerToAgent {
        agent_identification: Some(v1::AgentIdentification {
            new_instance_uid: other_uid().to_bytes(),
        }),
        ..Default::default()
    });
    expect_change(&mut pair);
    // Other changes are not worth a write.
    let version = pair.core.state_version();
    pair.core.set_health(Some(health("well")));
    pair.expect();
    pair.acknowledge();
    assert_eq!(pair.events(), []);
    assert_eq!(pair.core.state_version(), version);
}
