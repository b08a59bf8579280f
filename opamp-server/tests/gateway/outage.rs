//! Upstream connections that are lost, and come back.

use std::time::Duration;

use opamp_proto::v1;
use opamp_server::gateway::ToAgent;
use opamp_spec::judges;

use crate::support::{Bench, ack, goodbye, masked, pause, report};

const FULL_STATE: u64 = v1::ServerToAgentFlags::ReportFullState as u64;

#[test]
fn agents_move_to_another_connection_with_what_was_not_sent() {
    let _judged = judges(&["CLOSE-11", "SEQ-06"]);
    let mut bench = Bench::new(|config| config.connections = 2);
    let one = bench.connect(1);
    let two = bench.connect(2);
    let polling = bench.post(&report(3, 1));
    assert_eq!(bench.at_server(0).len(), 1);
    bench.send(one, &report(1, 2));
    bench.gateway.upstream_lost(0, None, bench.now);
    assert_eq!(bench.at_server(0), []);
    assert_eq!(bench.at_server(1), [report(1, 2)]);
    assert_eq!(bench.gateway.upstream(1).unwrap().agents, 3);
    // The request's message was on its way, nobody knows how far.
    assert!(matches!(bench.polled(polling)[..], [ToAgent::Unavailable { .. }]));
    // What the Server still had to say on the lost connection is for nobody.
    bench.reply(0, &ack(1));
    bench.pass(Duration::ZERO);
    assert!(bench.received(one).is_empty(), "it has spoken on the new connection by itself");
    assert!(bench.received(two).is_empty(), "it was not concerned");
}

#[test]
fn who_is_silent_on_the_new_connection_is_asked_for_the_full_state_at_a_pace() {
    let mut bench = Bench::new(|config| config.full_state_per_second = 10);
    let agents: Vec<_> = (1..=30).map(|uid| bench.connect(uid)).collect();
    bench.send(agents[3], &report(4, 2));
    bench.gateway.upstream_lost(0, None, bench.now);
    bench.pass(Duration::from_secs(1));
    let asked = |bench: &mut Bench| -> usize {
        agents.iter().map(|agent| bench.received(*agent).len()).sum()
    };
    assert_eq!(asked(&mut bench), 0, "not before there is a connection");
    bench.gateway.upstream_opened(0, bench.now);
    bench.pass(Duration::ZERO);
    let first = bench.received(agents[0]);
    assert_eq!(first, [v1::ServerToAgent { flags: FULL_STATE, ..ack(1) }]);
    bench.pass(Duration::from_secs(1));
    assert!((9..=11).contains(&asked(&mut bench)));
    bench.pass(Duration::from_secs(10));
    asked(&mut bench);
    assert_eq!(bench.gateway.counters().full_state, 29, "one had spoken by itself");
    assert_eq!(bench.gateway.poll_timeout(), None);
}

#[test]
fn an_agent_whose_last_message_may_be_lost_is_asked_even_if_it_speaks() {
    let mut bench = Bench::new(|config| config.connections = 2);
    let agent = bench.connect(1);
    bench.send(agent, &report(1, 2));
    bench.at_server(0);
    bench.send(agent, &report(1, 3));
    bench.gateway.upstream_lost(0, None, bench.now);
    bench.pass(Duration::ZERO);
    assert_eq!(bench.received(agent)[0].flags, FULL_STATE);
}

#[test]
fn messages_wait_for_a_while_and_are_then_refused() {
    let _judged = judges(&["THR-01", "THR-07", "STATUS-07"]);
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    bench.gateway.upstream_lost(0, Some(Duration::from_secs(120)), bench.now);
    bench.send(agent, &report(1, 2));
    let request = bench.post(&report(2, 1));
    assert!(bench.gateway.admit(bench.now).is_ok());
    bench.pass(Duration::from_secs(9));
    assert!(bench.polled(agent).is_empty() && bench.polled(request).is_empty());

    bench.pass(Duration::from_secs(1));
    let refused = bench.received(agent);
    assert_eq!(refused.len(), 1);
    // As long as the Server wants, and up to half as much more.
    let waits = Duration::from_secs(110)..Duration::from_secs(165);
    assert!(waits.contains(&pause(&refused[0])), "{:?}", pause(&refused[0]));
    assert!(matches!(bench.polled(request)[..], [ToAgent::Unavailable { retry_after }]
        if waits.contains(&retry_after)));
    assert!(waits.contains(&bench.gateway.admit(bench.now).unwrap_err()));
    bench.send(agent, &report(1, 3));
    assert_eq!(bench.received(agent).len(), 1, "and so is every other");
    assert_eq!(bench.gateway.waiting_bytes(), 0);

    bench.gateway.upstream_opened(0, bench.now);
    assert!(bench.gateway.admit(bench.now).is_ok());
    bench.send(agent, &report(1, 4));
    assert_eq!(bench.at_server(0), [report(1, 4)]);
}

#[test]
fn a_short_loss_is_not_noticed_by_who_says_nothing() {
    let mut bench = Bench::new(|_| {});
    let polling = bench.post(&report(1, 1));
    bench.at_server(0);
    bench.reply(0, &masked(1));
    bench.received(polling);
    bench.gateway.upstream_lost(0, None, bench.now);
    let polling = bench.post(&report(1, 2));
    bench.pass(Duration::from_secs(2));
    bench.gateway.upstream_opened(0, bench.now);
    assert_eq!(bench.at_server(0), [report(1, 2)]);
    bench.reply(0, &masked(1));
    assert_eq!(bench.received(polling), [masked(1)]);
}

#[test]
fn who_leaves_during_an_outage_was_never_there() {
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    bench.gateway.upstream_lost(0, None, bench.now);
    bench.send(agent, &report(1, 2));
    bench.gateway.close(agent, bench.now);
    bench.gateway.upstream_opened(0, bench.now);
    assert_eq!(bench.at_server(0), [], "the Server has forgotten it with the connection");
    let agent = bench.gateway.open_websocket();
    bench.send(agent, &report(1, 3));
    bench.gateway.close(agent, bench.now);
    assert_eq!(bench.at_server(0), [report(1, 3), goodbye(1, 4)]);
}

#[test]
fn refused_agents_do_not_all_return_at_once() {
    let mut bench = Bench::closed(|_| {});
    bench.pass(Duration::from_secs(10));
    let pauses: std::collections::BTreeSet<_> =
        (0..16).map(|_| bench.gateway.admit(bench.now).unwrap_err()).collect();
    assert_eq!(pauses.len(), 16);
    assert!(*pauses.first().unwrap() >= Duration::from_secs(30));
    assert!(*pauses.last().unwrap() < Duration::from_secs(45));
}
