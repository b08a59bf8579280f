//! The restart command.

use opamp_proto::v1;

use super::pair::{Pair, TRANSPORTS, WebSocket};
use super::values::{health, other_uid, remote_config, seconds, uid};
use crate::core::{Event, Parts, PeerMisbehaved};

fn command(kind: i32) -> v1::ServerToAgent {
    v1::ServerToAgent {
        command: Some(v1::ServerToAgentCommand { r#type: kind }),
        flags: v1::ServerToAgentFlags::ReportFullState as u64,
        agent_identification: Some(v1::AgentIdentification {
            new_instance_uid: other_uid().to_bytes(),
        }),
        custom_message: Some(v1::CustomMessage::default()),
        ..remote_config("h1", "a: 1")
    }
}

#[test]
fn a_restart_is_told_and_what_came_with_it_is_ignored() {
    let _judged = opamp_spec::judges(&["CMD-02", "CMD-03", "STATUS-15"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled_with(transport, |config| config.accepts_restart = true);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(command(v1::CommandType::Restart.into()));
        assert_eq!(pair.events(), [Event::Restart]);
        assert_eq!(pair.core.instance_uid(), uid());
        pair.expect_silence();
    }
}

#[test]
fn a_command_counts_as_a_possible_answer() {
    let _judged = opamp_spec::judges(&["CMD-02", "WS-12"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.accepts_restart = true);
    pair.core.set_health(Some(health("one")));
    pair.expect_parts(Parts::HEALTH);
    pair.receive(command(v1::CommandType::Restart.into()));
    pair.core.set_health(Some(health("two")));
    pair.expect_parts(Parts::HEALTH);
}

#[test]
fn an_agent_that_cannot_restart_ignores_the_command() {
    let _judged = opamp_spec::judges(&["CMD-04", "CAP-05"]);
    for transport in TRANSPORTS {
        let mut pair = Pair::settled(transport);
        pair.advance(seconds(30));
        pair.expect_heartbeat();
        pair.receive(command(v1::CommandType::Restart.into()));
        let events = pair.events();
        assert!(!events.contains(&Event::Restart));
        let what = PeerMisbehaved::NotAnnounced("command");
        assert!(events.contains(&Event::PeerMisbehaved(what)));
    }
}

#[test]
fn a_command_of_a_later_version_is_survived() {
    let _judged = opamp_spec::judges(&["INTEROP-11", "CMD-02"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.accepts_restart = true);
    pair.receive(command(7));
    let what = PeerMisbehaved::UnknownCommand(7);
    assert_eq!(pair.events(), [Event::PeerMisbehaved(what)]);
    pair.expect_silence();
}

#[test]
fn the_restart_command_can_be_turned_off_and_on() {
    let _judged = opamp_spec::judges(&["CAP-03", "CMD-03", "CMD-04"]);
    let mut pair = Pair::settled_with(WebSocket, |config| config.accepts_restart = true);
    pair.core.set_accepts_restart(false);
    pair.receive(command(v1::CommandType::Restart.into()));
    assert!(!pair.events().contains(&Event::Restart));
    pair.core.set_accepts_restart(true);
    pair.receive(command(v1::CommandType::Restart.into()));
    assert!(pair.events().contains(&Event::Restart));
}
