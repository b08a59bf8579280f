//! Remote configuration offers, from the message to the status.

use std::time::Duration;

use bytes::Bytes;
use opamp_proto::v1::RemoteConfigStatuses::{Applied, Applying, Failed};
use opamp_proto::{Message, frame, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    acknowledgement, config_map, effective, remote_config, remote_config_status, seconds,
};
use crate::core::{Event, NotPending, Parts, PeerMisbehaved, Transport};

/// The next message is a report of nothing but this status.
fn expect_status(
    pair: &mut Pair,
    hash: &str,
    status: v1::RemoteConfigStatuses,
    error_message: &str,
) {
    let report = pair.expect_parts(Parts::REMOTE_CONFIG_STATUS);
    let expected = remote_config_status(hash, status, error_message);
    assert_eq!(report.remote_config_status, Some(expected));
}

/// Makes the server offer something: as a push, or in the response to a poll.
fn offer(pair: &mut Pair, transport: Transport, hash: &str, body: &str) {
    if transport == Http {
        pair.advance(seconds(30));
        pair.expect_heartbeat();
    }
    pair.receive(remote_config(hash, body));
}

#[test]
fn an_applied_offer_is_reported_as_applied() {
    let _judged = opamp_spec::judges(&["CFG-20", "CFG-21", "CFG-23", "STATUS-10", "STATUS-16"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        offer(&mut pair, transport, "h1", "a: 1");
        let taken = pair.take_offer();
        assert_eq!(*taken.config(), config_map("a: 1"));
        assert_eq!(taken.hash().as_ref(), b"h1");
        // The offer itself changes nothing, so there is nothing to report.
        pair.expect_silence();
        assert_eq!(pair.core.resolve(taken.applied()), Ok(()));
        expect_status(&mut pair, "h1", Applied, "");
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn progress_is_reported_before_the_outcome() {
    let _judged = opamp_spec::judges(&["CFG-21", "STATUS-11"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        offer(&mut pair, transport, "h1", "a: 1");
        let taken = pair.take_offer();
        assert!(!taken.applying().is_final() && taken.clone().applied().is_final());
        assert_eq!(pair.core.resolve(taken.applying()), Ok(()));
        expect_status(&mut pair, "h1", Applying, "");
        pair.acknowledge();
        assert_eq!(pair.core.resolve(taken.applying()), Ok(()));
        pair.expect_silence();
        assert_eq!(pair.core.resolve(taken.applied()), Ok(()));
        expect_status(&mut pair, "h1", Applied, "");
    }
}

#[test]
fn the_effective_config_travels_with_the_outcome() {
    let _judged = opamp_spec::judges(&["CFG-04", "CFG-07", "CFG-21"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        offer(&mut pair, transport, "h1", "a: 1");
        let taken = pair.take_offer();
        let resolution = taken.applied_with(effective("a: 1"));
        assert_eq!(pair.core.resolve(resolution), Ok(()));
        let both = Parts::EFFECTIVE_CONFIG | Parts::REMOTE_CONFIG_STATUS;
        let report = pair.expect_parts(both);
        assert_eq!(report.effective_config, Some(effective("a: 1")));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn a_failed_offer_is_reported_with_the_reason() {
    let _judged = opamp_spec::judges(&["CFG-20", "CFG-21", "CFG-22"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        offer(&mut pair, transport, "h1", "a: [");
        let taken = pair.take_offer();
        let resolution = taken.failed("unclosed bracket in line 1");
        assert_eq!(pair.core.resolve(resolution), Ok(()));
        expect_status(&mut pair, "h1", Failed, "unclosed bracket in line 1");
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn a_reason_of_any_length_is_cut_to_a_bounded_one() {
    let _judged = opamp_spec::judges(&["CFG-22"]);
    let mut pair = Pair::settled(WebSocket);
    for (hash, length, expected) in [("h1", 4096, 4096), ("h2", 4097, 4099)] {
        pair.receive(remote_config(hash, "a: 1"));
        let taken = pair.take_offer();
        let reason = format!("x{}", "é".repeat(length / 2 - 1) + &"y".repeat(length % 2 + 1));
        assert_eq!(reason.len(), length);
        pair.core.resolve(taken.failed(reason.clone())).expect("pending");
        let status = pair.expect().remote_config_status.expect("a status");
        assert_eq!(status.error_message.len(), expected);
        assert_eq!(status.error_message == reason, length == 4096);
        pair.acknowledge();
    }
}

#[test]
fn an_offer_is_new_only_once() {
    let _judged = opamp_spec::judges(&["STATUS-14", "STATUS-15", "CFG-20"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        for outcome in [Applied, Failed] {
            let hash = outcome.as_str_name();
            offer(&mut pair, transport, hash, "a: 1");
            // While it is pending …
            pair.expect_silence();
            let taken = pair.take_offer();
            offer(&mut pair, transport, hash, "a: 1");
            pair.expect_no_offer();
            pair.core
                .resolve(match outcome {
                    Applied => taken.applied(),
                    _ => taken.failed("no"),
                })
                .expect("a repetition changes nothing");
            expect_status(&mut pair, hash, outcome, if outcome == Failed { "no" } else { "" });
            pair.acknowledge();
            // … and when it is done, failed or not.
            offer(&mut pair, transport, hash, "a: 1");
            pair.expect_no_offer();
            pair.expect_silence();
        }
    }
}

#[test]
fn an_earlier_offer_is_new_again_after_another() {
    let _judged = opamp_spec::judges(&["CFG-20", "CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    for hash in ["h1", "h2", "h1"] {
        pair.receive(remote_config(hash, hash));
        let taken = pair.take_offer();
        pair.core.resolve(taken.applied()).expect("pending");
        expect_status(&mut pair, hash, Applied, "");
        pair.acknowledge();
    }
}

#[test]
fn without_a_hash_the_content_tells_offers_apart() {
    let _judged = opamp_spec::judges(&["STATUS-15", "CFG-20"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("", "a: 1"));
    let taken = pair.take_offer();
    assert_eq!(taken.hash(), &Bytes::new());
    pair.core.resolve(taken.applied()).expect("pending");
    expect_status(&mut pair, "", Applied, "");
    pair.acknowledge();
    for _ in 0..3 {
        pair.receive(remote_config("", "a: 1"));
        pair.expect_no_offer();
        pair.expect_silence();
    }
    pair.receive(remote_config("", "a: 2"));
    assert_eq!(*pair.take_offer().config(), config_map("a: 2"));
}

#[test]
fn a_newer_offer_supersedes_a_pending_one() {
    let _judged = opamp_spec::judges(&["CFG-20", "CFG-21", "CFG-22", "STATUS-13"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        offer(&mut pair, transport, "h1", "a: 1");
        let old = pair.take_offer();
        offer(&mut pair, transport, "h2", "a: 2");
        expect_status(&mut pair, "h1", Failed, "superseded by a newer offer");
        pair.acknowledge();
        let new = pair.take_offer();
        assert!(old.id() < new.id());
        assert_eq!(pair.core.resolve(old.applying()), Err(NotPending));
        assert_eq!(pair.core.resolve(old.applied()), Err(NotPending));
        pair.expect_silence();
        assert_eq!(pair.core.resolve(new.applied()), Ok(()));
        expect_status(&mut pair, "h2", Applied, "");
    }
}

#[test]
fn of_offers_that_nobody_took_the_newest_is_told() {
    let _judged = opamp_spec::judges(&["STATUS-13"]);
    let mut pair = Pair::settled(WebSocket);
    for hash in ["h1", "h2", "h3"] {
        pair.receive(remote_config(hash, hash));
    }
    assert_eq!(pair.take_offer().hash().as_ref(), b"h3");
    // What was superseded is one report, not one each.
    expect_status(&mut pair, "h2", Failed, "superseded by a newer offer");
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn an_outcome_is_told_once() {
    let _judged = opamp_spec::judges(&["CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    assert_eq!(pair.core.resolve(taken.clone().applied()), Ok(()));
    assert_eq!(pair.core.resolve(taken.applying()), Err(NotPending));
    assert_eq!(pair.core.resolve(taken.failed("late")), Err(NotPending));
    expect_status(&mut pair, "h1", Applied, "");
}

#[test]
fn an_offer_without_an_outcome_fails_at_its_deadline() {
    let _judged = opamp_spec::judges(&["CFG-21", "CFG-22"]);
    for begun in [false, true] {
        let mut pair = Pair::settled_with(WebSocket, |config| {
            config.offer_timeout = seconds(60);
            config.heartbeat_interval = None;
        });
        pair.receive(remote_config("h1", "a: 1"));
        let taken = pair.take_offer();
        if begun {
            pair.core.resolve(taken.applying()).expect("pending");
            expect_status(&mut pair, "h1", Applying, "");
            pair.acknowledge();
        }
        pair.advance(seconds(60) - Duration::from_nanos(1));
        pair.expect_silence();
        pair.advance(Duration::from_nanos(1));
        expect_status(&mut pair, "h1", Failed, "no outcome within 60 s");
        assert_eq!(pair.core.resolve(taken.applied()), Err(NotPending));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn an_outcome_ends_the_deadline() {
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    pair.receive(remote_config("h1", "a: 1"));
    assert_eq!(pair.until_timeout(), Some(seconds(300)));
    let taken = pair.take_offer();
    pair.core.resolve(taken.applied()).expect("pending");
    assert_eq!(pair.until_timeout(), None);
}

#[test]
fn the_deadline_is_that_of_the_newest_offer() {
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    pair.receive(remote_config("h1", "a: 1"));
    pair.advance(seconds(200));
    pair.receive(remote_config("h2", "a: 2"));
    expect_status(&mut pair, "h1", Failed, "superseded by a newer offer");
    pair.acknowledge();
    pair.advance(seconds(299));
    pair.expect_silence();
    pair.advance(seconds(1));
    expect_status(&mut pair, "h2", Failed, "no outcome within 300 s");
}

#[test]
fn a_hash_without_a_config_is_no_offer() {
    let _judged = opamp_spec::judges(&["STATUS-15"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        remote_config: Some(v1::AgentRemoteConfig {
            config: None,
            config_hash: Bytes::from_static(b"h1"),
        }),
        ..acknowledgement()
    });
    assert_eq!(pair.events(), []);
    pair.expect_silence();
    // Nor does it make the offer that follows look known.
    pair.receive(remote_config("h1", "a: 1"));
    pair.expect_offer();
}

#[test]
fn an_empty_config_is_an_offer() {
    let _judged = opamp_spec::judges(&["STATUS-10"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        remote_config: Some(v1::AgentRemoteConfig {
            config: Some(v1::AgentConfigMap::default()),
            config_hash: Bytes::from_static(b"h1"),
        }),
        ..acknowledgement()
    });
    assert_eq!(*pair.take_offer().config(), v1::AgentConfigMap::default());
}

#[test]
fn an_agent_that_takes_no_configuration_ignores_offers() {
    let _judged = opamp_spec::judges(&["CAP-05", "CFG-10"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| config.accepts_remote_config = false);
        offer(&mut pair, transport, "h1", "a: 1");
        let what = PeerMisbehaved::NotAnnounced("remote_config");
        assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
        pair.expect_silence();
        assert_eq!(pair.core.state().pending_remote_config, None);
    }
}

#[test]
fn an_offer_of_several_files_is_told_whole() {
    let _judged = opamp_spec::judges(&["CFG-13", "CFG-16", "CFG-17"]);
    let file = |body: &'static [u8], content_type: &str| v1::AgentConfigFile {
        body: Bytes::from_static(body),
        content_type: content_type.to_owned(),
    };
    let map = v1::AgentConfigMap {
        config_map: [
            (String::new(), file(b"a: 1", "")),
            ("b.bin".to_owned(), file(&[0, 0xff], "application/octet-stream")),
        ]
        .into(),
    };
    let mut pair = Pair::settled(WebSocket);
    pair.receive(v1::ServerToAgent {
        remote_config: Some(v1::AgentRemoteConfig {
            config: Some(map.clone()),
            config_hash: Bytes::from_static(b"h1"),
        }),
        ..acknowledgement()
    });
    assert_eq!(*pair.take_offer().config(), map);
}

#[test]
fn an_offer_does_not_keep_the_message_it_came_in() {
    let mut pair = Pair::settled(WebSocket);
    let message = frame::encode(&remote_config("a hash", "a: 1"));
    let range = message.as_ptr_range();
    let inside = |bytes: &Bytes| range.contains(&bytes.as_ptr());
    let decoded = v1::ServerToAgent::decode(message.slice(1..)).expect("as encoded");
    let decoded = decoded.remote_config.expect("an offer");
    assert!(inside(&decoded.config_hash), "decoding alone copies nothing");
    pair.receive_bytes(message.clone());
    let taken = pair.take_offer();
    assert!(!inside(taken.hash()));
    assert!(taken.config().config_map.values().all(|file| !inside(&file.body)));
    let saved = pair.core.state().pending_remote_config.clone();
    assert!(!inside(&saved.expect("it is pending").config_hash));
    pair.core.resolve(taken.applied()).expect("pending");
    let status = pair.core.status().remote_config_status.clone();
    assert!(!inside(&status.expect("a status").last_remote_config_hash));
    assert!(pair.core.remote_config.identity.as_ref().is_some_and(|identity| !inside(identity)));
}

#[test]
fn turning_remote_configuration_off_drops_a_pending_offer() {
    let _judged = opamp_spec::judges(&["CAP-03", "CAP-05", "CFG-10"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.set_accepts_remote_config(false);
    assert_eq!(pair.core.resolve(taken.applied()), Err(NotPending));
    pair.expect_parts(Parts::empty());
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), None, "the deadline is off too");
    assert_eq!(pair.core.state().pending_remote_config, None);
    // No outcome was told, so the server offers it again, and it is taken.
    pair.core.set_accepts_remote_config(true);
    let report = pair.expect_parts(Parts::REMOTE_CONFIG_STATUS);
    assert_eq!(report.remote_config_status, Some(v1::RemoteConfigStatus::default()));
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.resolve(taken.applied()).expect("pending");
    expect_status(&mut pair, "h1", Applied, "");
}

#[test]
fn what_a_superseded_offer_left_the_agent_with_is_told() {
    let _judged = opamp_spec::judges(&["CFG-04", "CFG-07"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let first = pair.take_offer();
    pair.receive(remote_config("h2", "a: 2"));
    let second = pair.take_offer();
    let runs = super::values::effective("a: 1");
    assert_eq!(pair.core.resolve(first.applied_with(runs.clone())), Err(NotPending));
    pair.core.resolve(second.failed("no")).expect("pending");
    assert_eq!(pair.core.status().effective_config, Some(runs));
}

#[test]
fn an_offer_in_the_first_answer_is_taken() {
    let _judged = opamp_spec::judges(&["STATUS-10"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        pair.expect();
        pair.receive(remote_config("h1", "a: 1"));
        let taken = pair.take_offer();
        pair.core.resolve(taken.applied()).expect("pending");
        expect_status(&mut pair, "h1", Applied, "");
    }
}

#[test]
fn an_outcome_while_there_is_no_connection_is_told_later() {
    let _judged = opamp_spec::judges(&["STATUS-16", "RETRY-08", "CFG-21"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.lose();
    pair.core.resolve(taken.applied()).expect("pending");
    pair.connect();
    expect_status(&mut pair, "h1", Applied, "");
}

#[test]
fn turning_on_what_is_on_changes_nothing() {
    let _judged = opamp_spec::judges(&["STATUS-15", "CAP-03"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.set_accepts_remote_config(true);
    pair.receive(remote_config("h1", "a: 1"));
    pair.expect_no_offer();
    assert_eq!(pair.core.resolve(taken.applied()), Ok(()));
}

#[test]
fn an_offer_that_has_an_outcome_is_no_news_after_remote_configuration_was_off() {
    let _judged = opamp_spec::judges(&["STATUS-15", "CAP-03", "CFG-20"]);
    let mut pair = Pair::settled(WebSocket);
    pair.receive(remote_config("h1", "a: 1"));
    let taken = pair.take_offer();
    pair.core.resolve(taken.applied()).expect("pending");
    expect_status(&mut pair, "h1", Applied, "");
    pair.acknowledge();
    pair.core.set_accepts_remote_config(false);
    pair.expect_parts(Parts::empty());
    pair.acknowledge();
    pair.core.set_accepts_remote_config(true);
    expect_status(&mut pair, "h1", Applied, "");
    pair.receive(remote_config("h1", "a: 1"));
    pair.expect_no_offer();
    pair.expect_silence();
}
