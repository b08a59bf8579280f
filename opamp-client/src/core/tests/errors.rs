//! Error responses that refuse what was reported: `BAD_REQUEST` and `UNKNOWN`.

use opamp_proto::v1;
use opamp_proto::v1::ServerErrorResponseType::{BadRequest, Unavailable, Unknown};

use super::pair::{Http, LONG, Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, SERVER, description, error, health, other_uid, remote_config, retry_info, seconds,
    uid, unavailable,
};
use crate::core::{Event, Parts};

fn refused(parts: Parts, reason: &str) -> Event {
    Event::Refused { parts, reason: reason.to_owned() }
}

#[test]
fn refused_content_causes_no_report_but_goes_along_with_the_next() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "DELTA-04", "RETRY-08"]);
    for transport in TRANSPORTS {
        for kind in [BadRequest, Unknown] {
            let mut pair = Pair::settled(transport);
            pair.core.set_health(Some(health("one")));
            pair.expect_parts(Parts::HEALTH);
            pair.receive(error(kind, "not now"));
            assert_eq!(pair.events(), [refused(Parts::HEALTH, "not now")]);
            pair.expect_silence();
            pair.advance(seconds(30));
            pair.expect_heartbeat();
            pair.acknowledge();
            pair.core.set_description(description("2.0"));
            pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
            pair.acknowledge();
            // Then it is told.
            pair.core.set_description(description("3.0"));
            pair.expect_parts(Parts::DESCRIPTION);
        }
    }
}

#[test]
fn what_is_refused_twice_is_not_sent_until_it_changes_and_holds_nothing_up() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "STATUS-04"]);
    for transport in TRANSPORTS {
        for kind in [BadRequest, Unknown] {
            let mut pair = Pair::settled(transport);
            pair.core.set_health(Some(health("one")));
            pair.expect_parts(Parts::HEALTH);
            pair.receive(error(kind, "no such health"));
            pair.core.set_description(description("2.0"));
            pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
            pair.receive(error(kind, "no such health"));
            // The health is the likely reason: the description is told without it.
            pair.expect_parts(Parts::DESCRIPTION);
            pair.acknowledge();
            pair.events();
            // Neither the next report nor a lost exchange brings the health back.
            pair.core.set_description(description("3.0"));
            pair.expect_parts(Parts::DESCRIPTION);
            pair.acknowledge();
            pair.advance(seconds(30));
            pair.expect_heartbeat();
            pair.lose();
            pair.wait_for_retry();
            pair.connect();
            pair.expect_heartbeat();
            pair.acknowledge();
            pair.expect_silence();
            pair.core.set_health(Some(health("two")));
            pair.expect_parts(Parts::HEALTH);
        }
    }
}

#[test]
fn a_server_that_refuses_everything_is_told_each_value_twice_at_most() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("one")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(error(BadRequest, "no"));
        pair.core.set_description(description("2.0"));
        pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
        pair.receive(error(BadRequest, "no"));
        pair.expect_parts(Parts::DESCRIPTION);
        pair.receive(error(BadRequest, "no"));
        pair.expect_silence();
        pair.core.set_effective_config(None);
        pair.expect_heartbeat();
    }
}

#[test]
fn refused_content_that_went_along_once_does_not_go_along_again() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "STATUS-17", "STATUS-22"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(error(Unknown, "not now"));
    pair.core.set_description(description("2.0"));
    pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
    // This may have been the answer, and confirms nothing.
    pair.receive(remote_config("h1", "a: 1"));
    pair.core.set_description(description("3.0"));
    pair.expect_parts(Parts::DESCRIPTION);
}

#[test]
fn an_answer_to_an_earlier_message_does_not_excuse_refused_content() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "WS-12"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(error(BadRequest, "no such health"));
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.core.set_description(description("2.0"));
    pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
    // The heartbeat is answered, and then the report is refused, for the second time.
    pair.acknowledge();
    pair.receive(error(BadRequest, "no such health"));
    pair.expect_parts(Parts::DESCRIPTION);
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn another_value_has_not_been_refused_before() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "STATUS-04"]);
    let mut pair = Pair::settled(WebSocket);
    for value in ["one", "two"] {
        pair.core.set_health(Some(health(value)));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(error(Unknown, "not now"));
        pair.expect_silence();
    }
    pair.core.set_description(description("2.0"));
    pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
}

#[test]
fn a_new_session_starts_without_grudges() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "THR-13"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(error(Unknown, "not now"));
    pair.receive(unavailable(None));
    pair.expect_goodbye();
    pair.reconnect();
    pair.expect_parts(EVERYTHING);
    pair.receive(error(Unknown, "not now either"));
    // All of it was refused for the first time.
    pair.expect_silence();
    pair.core.set_description(description("2.0"));
    pair.expect_parts(EVERYTHING);
}

#[test]
fn a_refused_first_report_leaves_a_client_that_polls_and_beats() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "HTTP-05", "HB-12"]);
    for transport in TRANSPORTS {
        for kind in [BadRequest, Unknown] {
            let mut pair = Pair::new(transport, |_| {});
            pair.connect();
            pair.expect_parts(EVERYTHING);
            pair.receive(error(kind, ""));
            let refusal = refused(EVERYTHING, "the server gave no reason");
            assert!(pair.events().contains(&refusal));
            for _ in 0..3 {
                pair.expect_silence();
                assert_eq!(pair.until_timeout(), Some(seconds(30)));
                pair.advance(seconds(30));
                pair.expect_heartbeat();
                pair.receive(error(kind, ""));
            }
        }
    }
}

#[test]
fn content_that_changed_before_it_was_refused_is_sent() {
    let _judged = opamp_spec::judges(&["ERR-06", "ERR-14", "STATUS-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("one")));
        pair.core.set_description(description("2.0"));
        pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
        pair.core.set_health(Some(health("two")));
        pair.receive(error(BadRequest, "no"));
        assert_eq!(pair.events(), [refused(Parts::DESCRIPTION, "no")]);
        pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
    }
}

#[test]
fn an_error_ends_the_wait_for_an_answer() {
    let _judged = opamp_spec::judges(&["ERR-14", "HTTP-12"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.heartbeat_interval = None);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    assert!(pair.until_timeout().is_some());
    pair.receive(error(BadRequest, "no"));
    assert_eq!(pair.until_timeout(), None);
}

#[test]
fn a_mask_that_travelled_with_refused_content_is_told() {
    let _judged = opamp_spec::judges(&["CAP-02", "CAP-03", "ERR-14"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_accepts_restart(true);
    pair.expect_parts(Parts::empty());
    pair.receive(error(BadRequest, "no"));
    assert_eq!(pair.events(), [refused(Parts::empty(), "no")]);
    pair.expect_silence();
}

#[test]
fn with_an_error_the_rest_of_the_message_is_ignored() {
    let _judged = opamp_spec::judges(&["ERR-04", "STATUS-15"]);
    for transport in TRANSPORTS {
        for kind in [BadRequest, Unknown, Unavailable] {
            let mut pair = Pair::new(transport, |config| config.accepts_restart = true);
            pair.connect();
            pair.expect();
            pair.events();
            pair.receive(v1::ServerToAgent {
                error_response: error(kind, "no").error_response,
                agent_identification: Some(v1::AgentIdentification {
                    new_instance_uid: other_uid().to_bytes(),
                }),
                command: Some(v1::ServerToAgentCommand::default()),
                flags: v1::ServerToAgentFlags::ReportFullState as u64,
                capabilities: SERVER.to_wire(),
                ..remote_config("h1", "a: 1")
            });
            assert_eq!(pair.events().len(), 1, "the error alone");
            assert_eq!(pair.core.server_capabilities(), None);
            assert_eq!(pair.core.instance_uid(), uid());
            assert!(!pair.core.full_state_asked && !pair.core.report.full_owed());
        }
    }
}

#[test]
fn retry_info_is_not_used_with_other_errors() {
    let _judged = opamp_spec::judges(&["ERR-15", "THR-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("one")));
        pair.expect_parts(Parts::HEALTH);
        let mut message = error(BadRequest, "no");
        if let Some(error) = &mut message.error_response {
            error.details = Some(retry_info(LONG));
        }
        pair.receive(message);
        pair.core.set_health(Some(health("two")));
        pair.expect_parts(Parts::HEALTH);
    }
}

#[test]
fn an_error_of_a_later_version_is_a_refusal() {
    let _judged = opamp_spec::judges(&["INTEROP-11"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    let mut message = error(Unknown, "new");
    if let Some(error) = &mut message.error_response {
        error.r#type = 99;
    }
    pair.receive(message);
    assert_eq!(pair.events(), [refused(Parts::HEALTH, "new")]);
    pair.expect_silence();
}

#[test]
fn the_words_of_the_server_are_kept_to_a_bounded_length() {
    let mut pair = Pair::settled(WebSocket);
    pair.receive(error(Unknown, &"x".repeat(1_000_000)));
    let events = pair.events();
    let [Event::Refused { reason, .. }] = &events[..] else {
        panic!("a refusal: {events:?}");
    };
    assert_eq!(reason.len(), 4096 + '…'.len_utf8());
}

#[test]
fn an_error_to_a_heartbeat_does_not_refuse_what_is_answered() {
    let _judged = opamp_spec::judges(&["ERR-14"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(error(Unknown, "no"));
        assert_eq!(pair.events(), [refused(Parts::empty(), "no")]);
        pair.expect_silence();
    }
}

#[test]
fn errors_do_not_count_as_a_good_answer() {
    let _judged = opamp_spec::judges(&["EST-07", "ERR-04"]);
    // A server that accepts, refuses and drops is not reconnected to at once.
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.expect();
    pair.receive(error(Unknown, "no"));
    pair.lose();
    assert!(!pair.wait_for_retry().is_zero());
    // Over HTTP, one that only refuses does not count as connected.
    let mut pair = Pair::new(Http, |_| {});
    pair.expect();
    pair.receive(error(Unknown, "no"));
    assert!(!pair.core.is_connected());
}
