//! The instance uid: whose messages are taken, and how another uid is adopted.

use opamp_proto::{InstanceUid, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    acknowledgement, full_state_request, health, other_uid, remote_config, seconds, uid,
};
use crate::core::{ClientState, Event, FailureKind, Parts, PeerMisbehaved};

const REQUEST_INSTANCE_UID: u64 = v1::AgentToServerFlags::RequestInstanceUid as u64;

fn identification(new: impl Into<bytes::Bytes>) -> v1::ServerToAgent {
    v1::ServerToAgent {
        agent_identification: Some(v1::AgentIdentification { new_instance_uid: new.into() }),
        ..acknowledgement()
    }
}

fn addressed_to(uid: impl Into<bytes::Bytes>) -> v1::ServerToAgent {
    v1::ServerToAgent { instance_uid: uid.into(), ..remote_config("h1", "a: 1") }
}

#[test]
fn a_new_uid_is_used_from_the_next_message_on() {
    let _judged = opamp_spec::judges(&["ID-12", "ID-13", "STATUS-15"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(identification(other_uid().to_bytes()));
        let (old, new) = (uid(), other_uid());
        let changed = Event::InstanceUidChanged { old, new };
        assert_eq!(pair.events(), [changed, Event::StateChanged]);
        assert_eq!(pair.core.instance_uid(), new);
        assert_eq!(pair.core.state().instance_uid, new);
        // No report is due for it (A33).
        pair.expect_silence();
        pair.advance(seconds(30));
        let heartbeat = pair.expect_heartbeat();
        assert_eq!(heartbeat.instance_uid, new.to_bytes());
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        assert_eq!(pair.expect().instance_uid, new.to_bytes());
    }
}

#[test]
fn the_uid_an_agent_has_is_no_news() {
    let _judged = opamp_spec::judges(&["ID-12", "STATUS-15"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(identification(uid().to_bytes()));
    assert_eq!(pair.events(), []);
    pair.expect_silence();
}

#[test]
fn a_new_uid_of_another_length_is_ignored() {
    let _judged = opamp_spec::judges(&["ID-05", "ID-16"]);
    for transport in TRANSPORTS {
        for wrong in [&[][..], &[1; 15], &[1; 17], b"01890a5d-ac96-774b-bcce-b302099a8057"] {
            let mut pair = Pair::settled_with(transport, |config| {
                config.request_instance_uid = true;
            });
            pair.core.set_health(Some(health("one")));
            pair.expect();
            pair.receive(identification(wrong.to_vec()));
            let what = PeerMisbehaved::BadNewInstanceUid;
            assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
            assert_eq!(pair.core.instance_uid(), uid());
            pair.core.set_health(Some(health("two")));
            let report = pair.expect();
            assert_eq!(report.flags, REQUEST_INSTANCE_UID, "it is still wanted");
        }
    }
}

#[test]
fn an_agent_can_ask_for_a_uid() {
    let _judged = opamp_spec::judges(&["ID-07", "ID-08", "ID-12"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| config.request_instance_uid = true);
        pair.connect();
        let first = pair.expect();
        assert_eq!(first.flags, REQUEST_INSTANCE_UID);
        assert_eq!(first.instance_uid, uid().to_bytes(), "a temporary one");
        pair.receive(identification(other_uid().to_bytes()));
        pair.core.set_health(Some(health("well")));
        let second = pair.expect();
        assert_eq!((second.flags, &*second.instance_uid), (0, &other_uid().as_bytes()[..]));
    }
}

#[test]
fn a_uid_that_was_asked_for_may_be_the_present_one() {
    let _judged = opamp_spec::judges(&["ID-08", "ID-12"]);
    let mut pair = Pair::new(WebSocket, |config| config.request_instance_uid = true);
    pair.connect();
    pair.expect();
    pair.receive(identification(uid().to_bytes()));
    pair.receive(full_state_request());
    assert_eq!(pair.expect().flags, 0);
}

/// W-16 of the reference: the request was forgotten before it was sent.
#[test]
fn a_request_for_a_uid_that_was_lost_is_made_again() {
    let _judged = opamp_spec::judges(&["ID-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| config.request_instance_uid = true);
        pair.connect();
        pair.expect();
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        assert_eq!(pair.expect().flags, REQUEST_INSTANCE_UID);
    }
}

#[test]
fn an_agent_with_an_identity_of_its_own_asks_for_none() {
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    assert_eq!(pair.expect().flags, 0);
}

#[test]
fn messages_for_this_agent_or_for_none_in_particular_are_taken() {
    let _judged = opamp_spec::judges(&["ID-11"]);
    for transport in TRANSPORTS {
        for address in [bytes::Bytes::new(), uid().to_bytes()] {
            let mut pair = Pair::settled(transport);
            pair.advance(seconds(30));
            pair.expect_heartbeat();
            pair.receive(addressed_to(address));
            pair.expect_offer();
        }
    }
}

#[test]
fn messages_for_another_agent_are_ignored() {
    let _judged = opamp_spec::judges(&["ID-11"]);
    let text = b"01890a5d-ac96-774b-bcce-b302099a8057".to_vec();
    for address in [other_uid().to_bytes(), text.into(), vec![0; 16].into()] {
        let mut pair = Pair::settled(WebSocket);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.core.set_health(Some(health("better")));
        pair.receive(addressed_to(address));
        let what = PeerMisbehaved::ForeignInstanceUid;
        assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
        // They answer nothing of this agent.
        pair.expect_silence();
    }
}

#[test]
fn an_http_response_for_another_agent_is_a_failed_exchange() {
    let _judged = opamp_spec::judges(&["ID-11", "DELTA-04"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(addressed_to(other_uid().to_bytes()));
    let events = pair.events();
    let what = PeerMisbehaved::ForeignInstanceUid;
    assert_eq!(events[0], Event::PeerMisbehaved(what));
    let [_, Event::ConnectFailed { failure, .. }] = &events[..] else {
        panic!("the exchange failed: {events:?}");
    };
    assert_eq!(failure.kind, FailureKind::BadResponse);
    pair.expect_silence();
    pair.wait_for_retry();
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn messages_to_the_uids_that_were_just_replaced_are_taken() {
    let _judged = opamp_spec::judges(&["ID-12"]);
    let uids: Vec<_> =
        (0..6).map(|n| InstanceUid::from_parts(1_700_000_000_000, [n; 10])).collect();
    let mut pair = Pair::settled(WebSocket);
    for new in &uids {
        let old = pair.core.instance_uid();
        pair.receive(v1::ServerToAgent {
            instance_uid: old.to_bytes(),
            ..identification(new.to_bytes())
        });
        assert_eq!(pair.core.instance_uid(), *new);
        pair.receive(v1::ServerToAgent { instance_uid: old.to_bytes(), ..acknowledgement() });
    }
    let foreign =
        |event: &Event| *event == Event::PeerMisbehaved(PeerMisbehaved::ForeignInstanceUid);
    assert!(!pair.events().iter().any(foreign));
    // Those that were replaced long ago are not this agent's any more.
    for (uid, taken) in [(uids[0], false), (uids[1], true), (uids[4], true), (uids[5], true)] {
        pair.receive(v1::ServerToAgent { instance_uid: uid.to_bytes(), ..acknowledgement() });
        assert_eq!(pair.events().iter().any(foreign), !taken, "{uid}");
    }
}

#[test]
fn an_adopted_uid_survives_a_restart() {
    let _judged = opamp_spec::judges(&["ID-13"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(identification(other_uid().to_bytes()));
    let saved = pair.core.state().to_bytes();
    let mut restarted = Pair::new(WebSocket, |config| {
        config.state = ClientState::from_bytes(&saved).expect("as it was saved");
    });
    restarted.connect();
    assert_eq!(restarted.expect().instance_uid, other_uid().to_bytes());
}

#[test]
fn an_agent_can_ask_for_a_uid_while_it_runs() {
    let _judged = opamp_spec::judges(&["ID-07", "ID-08", "STATUS-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.request_instance_uid();
        pair.core.request_instance_uid();
        let asking = pair.expect_parts(Parts::empty());
        assert_eq!(asking.flags, REQUEST_INSTANCE_UID);
        pair.expect_silence();
        // What was asked in vain is asked again.
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        assert_eq!(pair.expect().flags, REQUEST_INSTANCE_UID);
        pair.acknowledge();
        pair.expect_silence();
        pair.core.set_health(Some(health("two")));
        assert_eq!(pair.expect().flags, REQUEST_INSTANCE_UID);
        pair.receive(identification(other_uid().to_bytes()));
        pair.expect_silence();
        pair.core.set_health(Some(health("three")));
        assert_eq!(pair.expect().flags, 0);
    }
}

#[test]
fn a_uid_that_is_asked_for_while_the_agent_runs_is_asked_for_at_once_and_once() {
    let _judged = opamp_spec::judges(&["ID-07"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.request_instance_uid();
        let flag = v1::AgentToServerFlags::RequestInstanceUid as u64;
        assert_eq!(pair.expect_parts(Parts::empty()).flags, flag);
        pair.acknowledge();
        pair.core.request_instance_uid();
        pair.expect_silence();
    }
}
