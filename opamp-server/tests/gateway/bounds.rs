//! Nothing is unbounded, and nobody has to suffer for another.

use opamp_proto::{Message as _, v1};
use opamp_server::gateway::{Closing, DownstreamId, Ready, ToAgent};
use opamp_spec::judges;

use crate::support::{Bench, ack, goodbye, masked, offer, pause, report};

fn large(uid: u8, number: u64, len: usize) -> v1::AgentToServer {
    let health = v1::ComponentHealth { last_error: "x".repeat(len), ..Default::default() };
    v1::AgentToServer { health: Some(health), ..report(uid, number) }
}

fn large_offer(uid: u8, len: usize) -> v1::ServerToAgent {
    let config = v1::AgentRemoteConfig { config_hash: vec![0; len].into(), ..Default::default() };
    v1::ServerToAgent { remote_config: Some(config), ..ack(uid) }
}

fn ready(bench: &mut Bench) -> Vec<Ready> {
    std::iter::from_fn(|| bench.gateway.poll_ready()).collect()
}

#[test]
fn agents_spread_over_the_connections_and_who_finds_no_room_is_refused() {
    let _judged = judges(&["THR-01"]);
    let mut bench = Bench::new(|config| {
        config.connections = 3;
        config.max_agents_per_upstream = 2;
    });
    let agents: Vec<_> = (1..=6).map(|uid| bench.connect(uid)).collect();
    for slot in 0..3 {
        assert_eq!(bench.gateway.upstream(slot).unwrap().agents, 2);
    }
    let late = bench.gateway.open_websocket();
    bench.send(late, &report(7, 1));
    pause(&bench.received(late)[0]);
    assert_eq!(bench.gateway.agents(), 6, "it is not known for that");
    // Those who are on a lost connection stay, as nobody has room for them.
    bench.gateway.upstream_lost(0, None, bench.now);
    assert_eq!(bench.gateway.upstream(0).unwrap().agents, 2);
    // A place is free when somebody leaves.
    bench.gateway.close(agents[1], bench.now);
    bench.send(late, &report(7, 2));
    let agents = [0, 1, 2].map(|slot| bench.gateway.upstream(slot).unwrap().agents);
    assert_eq!(agents, [2, 2, 2]);
}

#[test]
fn a_connection_carries_no_more_agents_than_it_may() {
    let mut bench = Bench::new(|config| config.max_agents_per_connection = 2);
    let shared = bench.connect(1);
    bench.send(shared, &report(2, 1));
    bench.send(shared, &report(3, 1));
    pause(&bench.received(shared)[0]);
    bench.send(shared, &goodbye(2, 2));
    bench.send(shared, &report(3, 2));
    assert_eq!(bench.at_server(0), [report(2, 1), goodbye(2, 2), report(3, 2)]);
}

#[test]
fn a_slow_server_stops_the_reading_of_those_who_send_to_it() {
    let mut bench = Bench::new(|config| {
        config.connections = 2;
        config.upstream_high_water = 10_000;
        config.connection_high_water = 3_000;
    });
    let slow = bench.connect(1);
    let other = bench.connect(2);
    bench.send(slow, &large(1, 2, 2_000));
    assert!(!bench.gateway.is_held_up(slow));
    bench.send(slow, &large(1, 3, 2_000));
    assert!(bench.gateway.is_held_up(slow), "it has its share waiting");
    let many: Vec<_> = (3..12)
        .map(|uid| {
            let agent = bench.gateway.open_websocket();
            bench.send(agent, &large(uid, 1, 2_000));
            agent
        })
        .collect();
    let held: Vec<DownstreamId> =
        many.iter().copied().filter(|id| bench.gateway.is_held_up(*id)).collect();
    assert!(!held.is_empty() && !bench.gateway.is_held_up(other));
    ready(&mut bench);

    while bench.gateway.poll_upstream(0).is_some() {}
    while bench.gateway.poll_upstream(1).is_some() {}
    let woken = ready(&mut bench);
    for id in held.iter().chain([&slow]) {
        assert!(!bench.gateway.is_held_up(*id));
        assert!(woken.contains(&Ready::Downstream(*id)), "it is read again");
    }
    assert_eq!(bench.gateway.waiting_bytes(), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_not_dropped() {
    let mut bench = Bench::new(|config| config.max_waiting_bytes = 3_000);
    let one = bench.gateway.open_websocket();
    // A single one is taken whatever its size.
    bench.send(one, &large(1, 1, 5_000));
    bench.send(one, &report(1, 2));
    pause(&bench.received(one)[0]);
    assert_eq!(bench.at_server(0), [large(1, 1, 5_000)]);
    bench.send(one, &report(1, 3));
    assert_eq!(bench.at_server(0), [report(1, 3)]);
}

#[test]
fn a_slow_agent_is_closed_and_the_server_told() {
    let mut bench = Bench::new(|config| config.max_unread_bytes = 10_000);
    let slow = bench.connect(1);
    let other = bench.connect(2);
    bench.reply(0, &large_offer(1, 20_000));
    bench.reply(0, &large_offer(2, 20_000));
    assert_eq!(bench.received(other).len(), 1, "a single message may be larger");
    bench.reply(0, &offer(1, 1));
    assert_eq!(bench.polled(slow), [ToAgent::Close(Closing::Slow)]);
    assert_eq!(bench.at_server(0), [goodbye(1, 2)]);
    assert_eq!((bench.gateway.unread_bytes(), bench.gateway.counters().slow), (0, 1));
    // Nothing it says counts any more; on its next connection it begins anew.
    bench.send(slow, &report(1, 2));
    assert!(bench.at_server(0).is_empty());
    bench.gateway.close(slow, bench.now);
    let again = bench.gateway.open_websocket();
    bench.send(again, &report(1, 2));
    assert_eq!(bench.at_server(0), [report(1, 2)]);
    bench.reply(0, &masked(2));
    assert_eq!(bench.received(other), [masked(2)]);
}

#[test]
fn when_all_are_slow_the_slowest_is_closed_first() {
    let mut bench = Bench::new(|config| config.max_unread_bytes_in_all = 10_000);
    let agents: Vec<_> = (1..=4).map(|uid| bench.connect(uid)).collect();
    let sizes = [2_000, 5_000, 1_000, 2_500];
    for (uid, size) in (1..).zip(sizes) {
        bench.reply(0, &large_offer(uid, size));
    }
    assert_eq!(bench.polled(agents[1]), [ToAgent::Close(Closing::Slow)]);
    for agent in [0, 2, 3] {
        assert_eq!(bench.received(agents[agent]).len(), 1);
    }
    assert_eq!(bench.gateway.unread_bytes(), 0);
}

#[test]
fn what_an_agent_that_polls_leaves_unread_ends_its_session() {
    let mut bench = Bench::new(|config| config.max_unread_bytes = 3_000);
    let request = bench.post(&report(1, 1));
    bench.reply(0, &masked(1));
    bench.gateway.close(request, bench.now);
    bench.at_server(0);
    for _ in 0..2 {
        let message = v1::CustomMessage { data: vec![0; 2_000].into(), ..Default::default() };
        bench.reply(0, &v1::ServerToAgent { custom_message: Some(message), ..ack(1) });
    }
    assert_eq!(bench.at_server(0), [goodbye(1, 2)], "so that it is offered anew");
    assert_eq!(bench.gateway.unread_bytes(), 0);
    let request = bench.post(&report(1, 2));
    bench.reply(0, &ack(1));
    bench.reply(0, &masked(1));
    assert_eq!(bench.received(request), [masked(1)]);
}

#[test]
fn everybody_is_named_once_until_taken() {
    let mut bench = Bench::new(|_| {});
    let agent = bench.connect(1);
    ready(&mut bench);
    for number in 2..10 {
        bench.send(agent, &report(1, number));
        bench.reply(0, &offer(1, 1));
    }
    assert_eq!(ready(&mut bench), [Ready::Upstream(0), Ready::Downstream(agent)]);
}

#[test]
fn what_is_too_large_for_the_server_does_not_get_onto_a_shared_connection() {
    let _judged = judges(&["SIZE-06", "SIZE-07", "SIZE-23"]);
    let largest = report(1, 2).encode_to_vec().len() + 1;
    let mut bench = Bench::new(|config| config.max_message_bytes = largest);
    let agent = bench.connect(1);
    bench.send(agent, &report(1, 2));
    bench.send(agent, &large(1, 3, 1));
    assert_eq!(bench.polled(agent), [ToAgent::Close(Closing::TooLarge)]);
    assert_eq!(bench.at_server(0), [report(1, 2), goodbye(1, 3)]);
    let request = bench.post(&large(2, 1, 1));
    assert_eq!(bench.polled(request), [ToAgent::TooLarge]);
    assert_eq!(bench.gateway.counters().too_large, 2);
}
