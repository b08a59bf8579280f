//! The first report of a session, and of a connection that replaces a lost one.

use opamp_proto::{AgentCapabilities, v1};

use super::pair::{Http, Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, acknowledgement, description, effective, health, parts, remote_config, seconds, uid,
};
use crate::core::{Event, Parts};

#[test]
fn the_first_report_is_full() {
    let _judged = opamp_spec::judges(&[
        "STATUS-01",
        "STATUS-02",
        "STATUS-05",
        "CAP-02",
        "CAP-06",
        "CAP-07",
        "CAP-08",
        "EST-01",
        "ID-01",
        "CFG-02",
        "CFG-05",
        "CFG-23",
        "HEALTH-10",
        "HB-01",
        "INTEROP-02",
    ]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |_| {});
        pair.connect();
        let first = pair.expect_parts(EVERYTHING);
        let capabilities = AgentCapabilities::REPORTS_STATUS
            | AgentCapabilities::ACCEPTS_REMOTE_CONFIG
            | AgentCapabilities::REPORTS_REMOTE_CONFIG
            | AgentCapabilities::REPORTS_EFFECTIVE_CONFIG
            | AgentCapabilities::REPORTS_HEALTH
            | AgentCapabilities::REPORTS_HEARTBEAT;
        let expected = v1::AgentToServer {
            instance_uid: uid().to_bytes(),
            sequence_num: 1,
            capabilities: capabilities.to_wire(),
            agent_description: Some(description("1.0")),
            health: Some(health("starting")),
            effective_config: Some(effective("receivers: {}")),
            remote_config_status: Some(v1::RemoteConfigStatus::default()),
            ..Default::default()
        };
        assert_eq!(first, expected);
        pair.expect_silence();
        pair.acknowledge();
        pair.expect_silence();
    }
}

/// W-14 of the reference: parts were sent without their capabilities.
#[test]
fn an_agent_without_extras_reports_its_description() {
    let _judged = opamp_spec::judges(&["CAP-08", "HB-14", "CFG-10", "CMD-04", "INTEROP-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::new(transport, |config| {
            config.health = None;
            config.effective_config = None;
            config.accepts_remote_config = false;
            config.heartbeat_interval = None;
        });
        pair.connect();
        let first = pair.expect_parts(Parts::DESCRIPTION);
        assert_eq!(first.capabilities, AgentCapabilities::REPORTS_STATUS.to_wire());
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn nothing_goes_out_before_the_websocket_is_open() {
    let _judged = opamp_spec::judges(&["STATUS-02"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.expect_silence();
    let epoch = pair.expect_connect();
    pair.expect_silence();
    pair.core.handle_connected(epoch, pair.now);
    pair.expect_parts(EVERYTHING);
}

#[test]
fn a_reconnect_begins_with_an_empty_report() {
    let _judged = opamp_spec::judges(&["STATUS-01", "STATUS-02", "STATUS-03", "DELTA-01"]);
    let mut pair = Pair::settled(WebSocket);
    pair.reconnect();
    pair.expect_heartbeat();
    pair.expect_silence();
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn a_reconnect_tells_what_changed_meanwhile_and_no_more() {
    let _judged =
        opamp_spec::judges(&["STATUS-03", "STATUS-04", "DELTA-01", "RETRY-07", "RETRY-08"]);
    let mut pair = Pair::settled(WebSocket);
    pair.lose();
    pair.core.set_health(Some(health("degraded")));
    pair.core.set_description(description("2.0"));
    pair.core.set_health(Some(health("well")));
    pair.expect_silence();
    pair.connect();
    let first = pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
    assert_eq!(first.health, Some(health("well")));
    assert_eq!(first.agent_description, Some(description("2.0")));
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn content_without_an_answer_is_told_again() {
    let _judged = opamp_spec::judges(&["DELTA-04", "RETRY-03", "RETRY-08"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.reconnect();
    pair.expect_parts(Parts::HEALTH);
    // And again: the second connection brought no answer either.
    pair.reconnect();
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    pair.reconnect();
    pair.expect_parts(Parts::empty());
}

/// W-3 of the reference: after a first connection that broke early most of the first report was
/// never sent.
#[test]
fn a_first_report_without_an_answer_is_told_again_in_full() {
    let _judged = opamp_spec::judges(&["DELTA-04", "STATUS-01"]);
    let mut pair = Pair::new(WebSocket, |_| {});
    pair.connect();
    pair.expect_parts(EVERYTHING);
    pair.reconnect();
    pair.expect_parts(EVERYTHING);

    let mut pair = Pair::new(Http, |_| {});
    pair.expect_parts(EVERYTHING);
    pair.lose();
    pair.expect_silence();
    pair.wait_for_retry();
    pair.expect_parts(EVERYTHING);
}

#[test]
fn content_that_a_mere_push_may_have_answered_is_told_again() {
    let _judged = opamp_spec::judges(&["DELTA-04", "WS-12"]);
    let pushes = [
        remote_config("h", "a: 1"),
        v1::ServerToAgent {
            command: Some(v1::ServerToAgentCommand::default()),
            ..acknowledgement()
        },
        v1::ServerToAgent {
            custom_message: Some(v1::CustomMessage::default()),
            ..acknowledgement()
        },
        v1::ServerToAgent {
            agent_identification: Some(v1::AgentIdentification {
                new_instance_uid: uid().to_bytes(),
            }),
            ..acknowledgement()
        },
        v1::ServerToAgent {
            connection_settings: Some(v1::ConnectionSettingsOffers::default()),
            ..acknowledgement()
        },
        v1::ServerToAgent {
            packages_available: Some(v1::PackagesAvailable::default()),
            ..acknowledgement()
        },
        v1::ServerToAgent {
            flags: v1::ServerToAgentFlags::ReportAvailableComponents as u64,
            ..acknowledgement()
        },
    ];
    for push in pushes {
        let mut pair = Pair::settled(WebSocket);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.receive(push);
        // It may have been the answer, so it holds back nothing …
        pair.core.set_description(description("2.0"));
        pair.expect_parts(Parts::DESCRIPTION);
        pair.acknowledge();
        // … and it may not have been, so it proves nothing about the second report.
        pair.reconnect();
        let first = pair.expect();
        assert_eq!(parts(&first), Parts::DESCRIPTION);
    }
}

#[test]
fn a_second_answer_proves_that_the_first_report_arrived_too() {
    let _judged = opamp_spec::judges(&["DELTA-01", "WS-12"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(remote_config("h", "a: 1"));
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.acknowledge();
    pair.reconnect();
    pair.expect_parts(Parts::empty());
}

#[test]
fn more_answers_than_messages_prove_nothing_about_later_messages() {
    let _judged = opamp_spec::judges(&["DELTA-04"]);
    let mut pair = Pair::settled(WebSocket);
    pair.acknowledge();
    pair.acknowledge();
    pair.receive(remote_config("h", "a: 1"));
    pair.receive(remote_config("h", "a: 1"));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_description(description("2.0"));
    pair.expect_silence();
    pair.reconnect();
    pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
}

#[test]
fn over_http_any_good_response_proves_that_its_request_arrived() {
    let _judged = opamp_spec::judges(&["DELTA-01", "HTTP-13"]);
    let mut pair = Pair::settled(Http);
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(remote_config("h", "a: 1"));
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.lose();
    pair.wait_for_retry();
    pair.expect_heartbeat();
}

#[test]
fn connections_are_announced() {
    let mut pair = Pair::new(WebSocket, |_| {});
    assert!(!pair.core.is_connected());
    pair.connect();
    assert!(pair.core.is_connected());
    assert_eq!(pair.events(), [Event::Connected]);
    pair.lose();
    assert!(!pair.core.is_connected());
    let reason = "reset by peer".to_owned();
    assert_eq!(pair.events(), [Event::Disconnected { reason }]);

    let mut pair = Pair::new(Http, |_| {});
    pair.expect();
    assert!(!pair.core.is_connected());
    assert_eq!(pair.events(), []);
    pair.receive(v1::ServerToAgent::default());
    assert!(pair.core.is_connected());
    assert_eq!(pair.events(), [Event::Connected]);
    pair.advance(seconds(30));
    pair.expect();
    pair.receive(v1::ServerToAgent::default());
    assert_eq!(pair.events(), []);
    pair.advance(seconds(30));
    pair.expect();
    pair.lose();
    assert!(!pair.core.is_connected());
    pair.events();
    pair.wait_for_retry();
    pair.expect();
    pair.receive(v1::ServerToAgent::default());
    assert_eq!(pair.events(), [Event::Connected]);
}
