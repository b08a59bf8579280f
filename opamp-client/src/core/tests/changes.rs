//! Changes of the status: told once, and no more than what changed.

use std::time::Duration;

use opamp_proto::{AgentCapabilities, v1};

use super::pair::{Pair, TRANSPORTS, WebSocket};
use super::values::{
    EVERYTHING, acknowledgement, description, effective, full_state_request, health, remote_config,
    seconds,
};
use crate::core::{ClientCore, Parts};

#[test]
fn only_what_changed_is_told() {
    let _judged = opamp_spec::judges(&[
        "STATUS-04",
        "STATUS-17",
        "STATUS-18",
        "STATUS-19",
        "STATUS-22",
        "DELTA-01",
        "DELTA-02",
        "CFG-04",
        "CFG-07",
        "CFG-08",
    ]);
    type Change = fn(&mut ClientCore);
    let changes: [(Parts, Change); 3] = [
        (Parts::DESCRIPTION, |core| {
            core.set_description(description("2.0"));
        }),
        (Parts::HEALTH, |core| core.set_health(Some(health("well")))),
        (Parts::EFFECTIVE_CONFIG, |core| {
            core.set_effective_config(Some(effective("b: 2")));
        }),
    ];
    for transport in TRANSPORTS {
        for (part, change) in changes {
            let mut pair = Pair::settled(transport);
            change(&mut pair.core);
            let report = pair.expect_parts(part);
            let mut whole = v1::AgentToServer::default();
            part.copy(pair.core.status(), &mut whole);
            let mut told = v1::AgentToServer::default();
            part.copy(&report, &mut told);
            assert_eq!(told, whole, "DELTA-02: the whole sub-message");
            pair.acknowledge();
            pair.expect_silence();
        }
    }
}

#[test]
fn health_travels_with_all_its_components() {
    let _judged = opamp_spec::judges(&["HEALTH-05", "HEALTH-07", "HEALTH-08", "DELTA-02"]);
    let whole = |deepest: &str| {
        (0..16).fold(health(deepest), |component, level| v1::ComponentHealth {
            healthy: false,
            start_time_unix_nano: 1_700_000_000_000_000_000,
            last_error: format!("a component at level {level} is not well"),
            status_time_unix_nano: 1_700_000_000_000_000_001,
            component_health_map: [("below".to_owned(), component)].into(),
            attributes: vec![v1::KeyValue::new("level", level)],
            ..health("degraded, in no words but the agent's own")
        })
    };
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        for deepest in ["well", "not well"] {
            pair.core.set_health(Some(whole(deepest)));
            let report = pair.expect_parts(Parts::HEALTH);
            assert_eq!(report.health, Some(whole(deepest)));
            pair.acknowledge();
        }
        pair.core.set_health(Some(whole("not well")));
        pair.expect_silence();
    }
}

#[test]
fn an_equal_value_is_no_change() {
    let _judged =
        opamp_spec::judges(&["STATUS-14", "STATUS-17", "STATUS-18", "STATUS-22", "CFG-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_description(description("1.0"));
        pair.core.set_health(Some(health("starting")));
        pair.core.set_effective_config(Some(effective("receivers: {}")));
        pair.core.set_accepts_remote_config(true);
        pair.core.set_accepts_restart(false);
        pair.expect_silence();
    }
}

#[test]
fn a_number_that_is_not_one_equals_itself() {
    let _judged = opamp_spec::judges(&["STATUS-17"]);
    let load = |load: f64| v1::AgentDescription {
        non_identifying_attributes: vec![v1::KeyValue::new("host.load", load)],
        ..description("1.0")
    };
    let mut pair = Pair::settled_with(WebSocket, |config| config.description = load(f64::NAN));
    pair.core.set_description(load(f64::NAN));
    pair.expect_silence();
    pair.core.set_description(load(0.0));
    pair.expect_parts(Parts::DESCRIPTION);
}

/// W-43 of the reference: each made a message.
#[test]
fn changes_coalesce_into_one_report_with_the_newest_values() {
    let _judged = opamp_spec::judges(&["RETRY-07", "RETRY-08", "STATUS-11"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        for version in ["2.0", "3.0", "4.0"] {
            pair.core.set_description(description(version));
            pair.core.set_health(Some(health(version)));
        }
        let report = pair.expect_parts(Parts::DESCRIPTION | Parts::HEALTH);
        assert_eq!(report.agent_description, Some(description("4.0")));
        assert_eq!(report.health, Some(health("4.0")));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn a_change_waits_for_the_answer_to_the_report_before() {
    let _judged = opamp_spec::judges(&["HTTP-11", "HTTP-12", "RETRY-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("well")));
        pair.expect_parts(Parts::HEALTH);
        pair.core.set_description(description("2.0"));
        pair.expect_silence();
        pair.acknowledge();
        pair.expect_parts(Parts::DESCRIPTION);
    }
}

#[test]
fn without_an_answer_the_next_report_goes_out_after_a_while() {
    let _judged = opamp_spec::judges(&["RETRY-01", "RETRY-02", "STATUS-04", "DELTA-04"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.reply_timeout = seconds(7));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_description(description("2.0"));
    pair.advance(seconds(7) - Duration::from_nanos(1));
    pair.expect_silence();
    pair.advance(Duration::from_nanos(1));
    // What was not answered goes along …
    pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
    // … and again on the next connection: nothing says that it arrived.
    pair.reconnect();
    pair.expect_parts(Parts::HEALTH | Parts::DESCRIPTION);
}

#[test]
fn an_overdue_answer_alone_is_no_reason_for_a_report() {
    let _judged = opamp_spec::judges(&["STATUS-14", "RETRY-01"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.heartbeat_interval = None;
        config.answer_timeout = None;
    });
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.advance(seconds(600));
    pair.expect_silence();
    // An answer that comes late is still one.
    pair.acknowledge();
    pair.core.set_description(description("2.0"));
    pair.expect_parts(Parts::DESCRIPTION);
}

#[test]
fn an_answer_ends_the_wait() {
    let _judged = opamp_spec::judges(&["RETRY-02"]);
    let mut pair = Pair::settled_with(WebSocket, |config| {
        config.reply_timeout = seconds(7);
        config.heartbeat_interval = None;
    });
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    assert_eq!(pair.until_timeout(), Some(seconds(7)));
    pair.acknowledge();
    assert_eq!(pair.until_timeout(), None);
}

#[test]
fn an_answer_to_an_earlier_message_does_not_end_the_wait() {
    let _judged = opamp_spec::judges(&["WS-12", "RETRY-02", "STATUS-04"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.reply_timeout = seconds(7));
    // Pushes while there is nothing to answer are no answers kept in stock.
    for hash in ["h1", "h1", "h1"] {
        pair.receive(remote_config(hash, "a: 1"));
    }
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_description(description("2.0"));
    for last in [false, true] {
        pair.expect_silence();
        pair.receive(if last { acknowledgement() } else { remote_config("h1", "a: 1") });
    }
    pair.expect_parts(Parts::DESCRIPTION);
    // And the wait has an end, whatever was answered before.
    pair.acknowledge();
    pair.advance(seconds(30));
    pair.expect_heartbeat();
    pair.core.set_health(Some(health("better")));
    pair.expect();
    pair.acknowledge();
    pair.core.set_description(description("3.0"));
    pair.expect_silence();
    pair.advance(seconds(7));
    pair.expect();
}

#[test]
fn a_value_that_changed_while_it_was_under_way_is_told_again() {
    let _judged = opamp_spec::judges(&["STATUS-04", "DELTA-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("one")));
        pair.expect_parts(Parts::HEALTH);
        pair.core.set_health(Some(health("two")));
        pair.acknowledge();
        let report = pair.expect_parts(Parts::HEALTH);
        assert_eq!(report.health, Some(health("two")));
        pair.acknowledge();
        pair.expect_silence();
    }
}

#[test]
fn what_was_withdrawn_before_it_was_told_is_not_told() {
    let _judged = opamp_spec::judges(&["CAP-03", "CAP-08"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_health(Some(health("well")));
        pair.core.set_health(None);
        let report = pair.expect_parts(Parts::empty());
        let capabilities = AgentCapabilities::from_bits_retain(report.capabilities);
        assert!(!capabilities.contains(AgentCapabilities::REPORTS_HEALTH));
        pair.acknowledge();
        pair.expect_silence();
        pair.core.set_health(Some(health("well")));
        let report = pair.expect_parts(Parts::HEALTH);
        let capabilities = AgentCapabilities::from_bits_retain(report.capabilities);
        assert!(capabilities.contains(AgentCapabilities::REPORTS_HEALTH));
    }
}

#[test]
fn what_was_withdrawn_while_under_way_causes_no_report_after_a_loss() {
    let _judged = opamp_spec::judges(&["STATUS-14"]);
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_effective_config(Some(effective("b: 2")));
    pair.expect_parts(Parts::EFFECTIVE_CONFIG);
    pair.core.set_effective_config(None);
    pair.receive(full_state_request());
    pair.lose();
    pair.connect();
    pair.expect_parts(EVERYTHING - Parts::EFFECTIVE_CONFIG);
    pair.acknowledge();
    pair.expect_silence();
}

/// W-15 of the reference: any mask could be set, or none.
#[test]
fn each_capability_follows_from_what_the_agent_has() {
    let _judged = opamp_spec::judges(&["CAP-03", "CFG-02", "CFG-05", "CFG-23", "HEALTH-10"]);
    let remote =
        AgentCapabilities::ACCEPTS_REMOTE_CONFIG | AgentCapabilities::REPORTS_REMOTE_CONFIG;
    type Change = fn(&mut ClientCore, bool);
    let changes: [(AgentCapabilities, Parts, Change); 4] = [
        (AgentCapabilities::REPORTS_HEALTH, Parts::HEALTH, |core, on| {
            core.set_health(on.then(|| health("well")));
        }),
        (AgentCapabilities::REPORTS_EFFECTIVE_CONFIG, Parts::EFFECTIVE_CONFIG, |core, on| {
            core.set_effective_config(on.then(|| effective("a: 1")))
        }),
        (remote, Parts::REMOTE_CONFIG_STATUS, |core, on| {
            core.set_accepts_remote_config(on);
        }),
        (
            AgentCapabilities::ACCEPTS_RESTART_COMMAND,
            Parts::empty(),
            ClientCore::set_accepts_restart,
        ),
    ];
    for transport in TRANSPORTS {
        for (capability, part, set) in changes {
            let mut pair = Pair::settled_with(transport, |config| {
                config.health = None;
                config.effective_config = None;
                config.accepts_remote_config = false;
            });
            let before = pair.core.capabilities();
            set(&mut pair.core, true);
            let report = pair.expect_parts(part);
            assert_eq!(report.capabilities, (before | capability).to_wire());
            pair.acknowledge();
            set(&mut pair.core, false);
            let report = pair.expect_parts(Parts::empty());
            assert_eq!(report.capabilities, before.to_wire());
            pair.acknowledge();
            pair.expect_silence();
        }
    }
}

#[test]
fn a_capability_that_a_heartbeat_told_is_not_told_again() {
    let _judged = opamp_spec::judges(&["CAP-02", "CAP-03", "STATUS-14"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.reply_timeout = seconds(60));
    pair.core.set_health(Some(health("well")));
    pair.expect_parts(Parts::HEALTH);
    pair.core.set_accepts_restart(true);
    pair.expect_silence();
    // The report is not answered for so long that a heartbeat overtakes the change.
    pair.advance(seconds(30));
    let heartbeat = pair.expect_heartbeat();
    let capabilities = AgentCapabilities::from_bits_retain(heartbeat.capabilities);
    assert!(capabilities.contains(AgentCapabilities::ACCEPTS_RESTART_COMMAND));
    pair.acknowledge();
    pair.acknowledge();
    pair.expect_silence();
}

#[test]
fn a_capability_whose_report_was_lost_is_told_by_the_next_connection() {
    let _judged = opamp_spec::judges(&["CAP-02", "CAP-03", "DELTA-04"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.core.set_accepts_restart(true);
        pair.expect_parts(Parts::empty());
        pair.lose();
        pair.wait_for_retry();
        pair.connect();
        let report = pair.expect_parts(Parts::empty());
        assert_eq!(report.capabilities, pair.core.capabilities().to_wire());
    }
}

/// It equals nothing, not even itself.
#[test]
fn what_is_no_number_is_no_change_of_itself() {
    let sick = || v1::ComponentHealth {
        attributes: vec![v1::KeyValue::new("load", f64::NAN)],
        ..health("sick")
    };
    let mut pair = Pair::settled(WebSocket);
    pair.core.set_health(Some(sick()));
    pair.expect_parts(Parts::HEALTH);
    pair.acknowledge();
    pair.core.set_health(Some(sick()));
    pair.expect_silence();
}
