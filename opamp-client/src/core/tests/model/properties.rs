//! What holds whatever happens.

use opamp_proto::v1;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::super::values::seconds;
use super::op::{Op, agent, application, network, refusals, server, silence};
use super::server::Server;
use super::world::{QUIET, World};
use crate::core::{ClientConfig, Event, Parts, Transport};

/// Runs `test` with 256 generated values, or as many as `PROPTEST_CASES` says. A failing value is
/// written down as a scenario, not kept as a seed.
pub(in crate::core::tests) fn check<S: Strategy>(strategy: S, test: impl Fn(S::Value)) {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let result = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn run(agent: ClientConfig, server: Server, ops: Vec<Op>) -> World {
    let mut world = World::new(agent, server);
    for op in ops {
        world.apply(op);
    }
    world
}

/// Everything the core says, the server knows.
fn assert_in_step(world: &World) {
    let status = world.core.status();
    let view = world.server.view().expect("the server knows the agent");
    let told = |parts: Parts, from: &v1::AgentToServer| {
        let mut told = v1::AgentToServer::default();
        parts.copy(from, &mut told);
        told
    };
    // What was withdrawn cannot be untold.
    let present = Parts::all().present_in(status);
    assert_eq!(told(present, view), told(present, status));
    assert_eq!(view.instance_uid, world.core.instance_uid().to_bytes());
    assert_eq!(view.sequence_num, world.core.sequence_num());
}

fn assert_no_offer_hangs(world: &World) {
    assert_eq!(world.core.state().pending_remote_config, None);
    let status = world.core.status().remote_config_status.as_ref();
    let applying = v1::RemoteConfigStatuses::Applying;
    assert!(status.is_none_or(|status| status.status() != applying));
}

#[test]
fn nothing_is_lost_on_the_way_to_a_server_that_notices_gaps() {
    let _judged = opamp_spec::judges(&[
        "SEQ-01",
        "SEQ-02",
        "SEQ-07",
        "SEQ-08",
        "STATUS-04",
        "STATUS-14",
        "STATUS-15",
        "DELTA-01",
        "DELTA-04",
        "RETRY-08",
        "CAP-01",
        "CAP-06",
        "INTEROP-04",
        "CFG-08",
        "CFG-21",
    ]);
    let ops = vec(prop_oneof![3 => application(), 4 => network(), 4 => server()], 0..100);
    check((agent(), ops), |(agent, ops)| {
        let mut world = run(agent, Server::new(true), ops);
        world.recover(QUIET);
        assert_in_step(&world);
        assert_no_offer_hangs(&world);
        world.last_events();
    });
}

#[test]
fn nothing_is_lost_on_the_way_to_a_server_that_notices_nothing() {
    let _judged = opamp_spec::judges(&["STATUS-04", "DELTA-04", "RETRY-03", "RETRY-08"]);
    let ops = vec(prop_oneof![6 => application(), 8 => network(), 1 => silence()], 0..100);
    check((agent(), ops), |(agent, ops)| {
        let mut world = run(agent, Server::new(false), ops);
        world.recover(QUIET);
        assert_in_step(&world);
    });
}

#[test]
fn a_server_that_never_answers_is_told_everything() {
    let _judged = opamp_spec::judges(&["STATUS-04", "RETRY-02", "STATUS-14"]);
    let ops = vec(prop_oneof![2 => application(), 3 => network()], 0..100);
    check((agent(), ops), |(agent, ops)| {
        // A client that leaves says goodbye, and the server forgets it.
        let agent = ClientConfig { answer_timeout: None, ..agent };
        let mut server = Server::new(false);
        server.silent = true;
        let mut world = run(agent, server, ops);
        world.apply(Op::Block(false));
        world.apply(Op::Break(0));
        // As long as a pause, and an answer that does not come, can hold up a report.
        for _ in 0..200 {
            world.wait(seconds(1));
            world.apply(Op::Deliver);
        }
        assert_in_step(&world);
    });
}

#[test]
fn refused_content_is_told_when_full_state_is_asked_for() {
    let _judged = opamp_spec::judges(&[
        "ERR-06",
        "ERR-14",
        "SIZE-24",
        "THR-13",
        "SEQ-07",
        "STATUS-04",
        "DELTA-04",
    ]);
    let ops = prop_oneof![3 => application(), 4 => network(), 2 => server(), 3 => refusals()];
    check((agent(), vec(ops, 0..100)), |(agent, ops)| {
        let mut world = run(agent, Server::new(true), ops);
        world.server.wants_full_state = world.refused;
        world.recover(QUIET);
        assert_in_step(&world);
        assert_no_offer_hangs(&world);
    });
}

#[test]
fn a_quiet_client_beats_and_polls_and_does_nothing_else() {
    let _judged = opamp_spec::judges(&["HB-12", "HB-13", "HB-14", "HTTP-05", "STATUS-14"]);
    let ops = vec(prop_oneof![application(), network(), server(), refusals()], 0..60);
    check((agent(), ops), |(agent, ops)| {
        let beats = agent.heartbeat_interval.is_some() || agent.transport == Transport::Http;
        let mut world = run(agent, Server::new(true), ops);
        world.recover(QUIET);
        let before = world.messages();
        for _ in 0..600 {
            world.wait(seconds(1));
            world.apply(Op::Deliver);
        }
        let expected = if beats { 600 / 30 } else { 0 };
        assert_eq!(world.messages() - before, expected);
    });
}

#[test]
fn stopping_ends_in_time_and_for_good() {
    let _judged = opamp_spec::judges(&["CLOSE-01", "CLOSE-02", "CLOSE-05"]);
    let ops = vec(prop_oneof![application(), network(), server(), refusals()], 0..60);
    let last_op = prop_oneof![
        4 => Just(Op::Deliver),
        1 => Just(Op::ToServer),
        1 => Just(Op::ToClient),
        2 => application(),
        2 => server(),
        2 => refusals(),
    ];
    check((agent(), ops, vec(last_op, 0..20)), |(agent, ops, last_ops)| {
        let mut world = run(agent, Server::new(true), ops);
        world.stop();
        for op in last_ops {
            world.apply(op);
        }
        world.wait(seconds(5));
        assert!(world.core.is_stopped());
        let messages = world.messages();
        world.last_events();
        assert!(world.events.contains(&Event::Stopped));
        world.apply(Op::Health(Some(9)));
        world.wait(seconds(3600));
        world.apply(Op::Deliver);
        assert_eq!(world.messages(), messages);
        assert_eq!(world.core.poll_timeout(), None);
        assert_eq!(world.last_events(), 0);
    });
}
