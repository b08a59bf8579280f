//! Agents and a server with a gateway between them: whatever happens to either network, the server,
//! the gateway and the agents, when it is over the server knows of each agent what the agent would
//! say of itself, as it does without a gateway. On the way every message is compared with what was
//! sent: none is changed, and none reaches anybody but whom it is for.

use std::time::Duration;

use opamp_client::core::Transport;
use opamp_proto::v1;
use opamp_server::ServerConfig;
use opamp_server::gateway::GatewayConfig;
use opamp_spec::judges;
use opamp_tests::world::{Weather, World, config_file};
use proptest::prelude::*;

const HEARTBEAT: Duration = Duration::from_secs(30);
const AGENTS: usize = 12;

/// Something that happens; the first number chooses an agent or a connection.
#[derive(Debug, Clone)]
enum Operation {
    Health(usize, u8),
    Offer(u8),
    OfferOne(usize, u8),
    Rename(usize),
    Restart(usize),
    Cut(usize),
    Crash(usize),
    CutUpstream(usize),
    RestartServer,
    ServerDown(u16),
    RestartGateway,
    Calm,
    Storm,
    Wait(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as Op;
    let agent = 0..AGENTS;
    prop_oneof![
        4 => (agent.clone(), 0..4_u8).prop_map(|(agent, value)| Op::Health(agent, value)),
        2 => (0..8_u8).prop_map(Op::Offer),
        2 => (agent.clone(), 0..8_u8).prop_map(|(agent, value)| Op::OfferOne(agent, value)),
        1 => agent.clone().prop_map(Op::Rename),
        1 => agent.clone().prop_map(Op::Restart),
        3 => agent.clone().prop_map(Op::Cut),
        2 => agent.prop_map(Op::Crash),
        3 => (0..3_usize).prop_map(Op::CutUpstream),
        1 => Just(Op::RestartServer),
        1 => (0..60_000_u16).prop_map(Op::ServerDown),
        1 => Just(Op::RestartGateway),
        1 => Just(Op::Calm),
        1 => Just(Op::Storm),
        6 => (0..5_000_u32).prop_map(Op::Wait),
        1 => (5_000..200_000_u32).prop_map(Op::Wait),
    ]
}

/// Every third agent polls.
fn transport(agent: usize) -> Transport {
    match agent % 3 {
        1 => Transport::Http,
        _ => Transport::WebSocket,
    }
}

fn health(value: u8) -> v1::ComponentHealth {
    let status = format!("status {value}");
    v1::ComponentHealth { healthy: value.is_multiple_of(2), status, ..Default::default() }
}

fn happen(world: &mut World, operation: &Operation) {
    match *operation {
        Operation::Health(agent, value) => {
            world.agents[agent].core.set_health(Some(health(value)));
        }
        Operation::Offer(number) => world.offer_to_all(number),
        Operation::OfferOne(agent, number) => world.operate(agent, |fleet, uid, _| {
            let config = opamp_server::RemoteConfig::new(config_file(number));
            // An agent the server does not know cannot be offered anything.
            let _ = fleet.set_remote_config(uid, config);
        }),
        Operation::Rename(agent) => world.rename(agent),
        Operation::Restart(agent) => world.operate(agent, |fleet, uid, now| {
            let _ = fleet.restart(uid, now);
        }),
        Operation::Cut(agent) => world.cut_agent(agent),
        Operation::Crash(agent) => world.crash_and_restart(agent, transport(agent)),
        Operation::CutUpstream(slot) => world.cut_upstream(slot),
        Operation::RestartServer => world.restart_server(),
        Operation::ServerDown(millis) => {
            world.server_up = false;
            world.restart_server();
            world.run_for(Duration::from_millis(millis.into()));
            world.server_up = true;
        }
        Operation::RestartGateway => world.restart_gateway(),
        Operation::Calm => world.weather = Weather::CALM,
        Operation::Storm => world.weather = Weather::STORM,
        Operation::Wait(millis) => world.run_for(Duration::from_millis(millis.into())),
    }
    world.run_for(Duration::ZERO);
}

fn world(seed: u64, adjust: impl FnOnce(&mut GatewayConfig)) -> World {
    let mut world = World::new(seed, ServerConfig::default());
    let mut config = GatewayConfig::default();
    config.connections = 3;
    // With one of them lost there is still room for all.
    config.max_agents_per_upstream = AGENTS / 2;
    adjust(&mut config);
    world.put_gateway(config);
    for agent in 0..AGENTS {
        world.start(transport(agent), |config| {
            config.heartbeat_interval = Some(HEARTBEAT);
            config.polling_interval = HEARTBEAT;
        });
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_ends_agree_through_a_gateway_once_the_storm_is_over(
        seed in any::<u64>(),
        operations in prop::collection::vec(operation(), 0..60),
    ) {
        let _judged = judges(&["ID-10", "ID-11", "ID-12", "CLOSE-11", "DELTA-04", "INTEROP-06"]);
        let mut world = world(seed, |_| {});
        for operation in &operations {
            happen(&mut world, operation);
        }

        // Every deadline, back-off and pause has room to pass.
        world.weather = Weather::CALM;
        world.run_for(Duration::from_secs(20 * 60));
        for agent in 0..AGENTS {
            prop_assert_eq!(world.disagreement(agent), None, "agent {}", agent);
        }

        // Then there is nothing left to say, and nothing is kept.
        let (reports, heartbeats) = (world.tap.reports, world.tap.heartbeats);
        let (passed, replies) = (world.middle().passed, world.tap.replies);
        world.run_for(10 * HEARTBEAT);
        prop_assert_eq!(world.tap.reports, reports, "no report without a change");
        let more = world.tap.heartbeats - heartbeats;
        let expected = 10 * AGENTS as u64;
        prop_assert!(more <= expected && more >= expected * 9 / 10, "{} heartbeats", more);
        prop_assert!(world.middle().passed - passed >= more * 9 / 10);
        prop_assert!(world.tap.replies - replies >= more * 9 / 10, "each is answered (STATUS-07)");
        let gateway = &world.middle().gateway;
        prop_assert_eq!(gateway.agents(), AGENTS, "who left is forgotten");
        prop_assert_eq!((gateway.waiting_bytes(), gateway.unread_bytes()), (0, 0));
        let on_upstreams = (0..3).map(|slot| gateway.upstream(slot).unwrap().agents);
        prop_assert_eq!(on_upstreams.sum::<usize>(), AGENTS);
    }
}

#[test]
fn a_quiet_fleet_says_nothing_but_heartbeats() {
    let _judged = judges(&["STATUS-14", "STATUS-15"]);
    let mut world = world(1, |_| {});
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.tap.reports, AGENTS as u64, "one full report of each");
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.tap.reports, AGENTS as u64);
    assert_eq!(world.tap.replies, AGENTS as u64 * 121, "each message has its reply");
    assert_eq!(world.middle().gateway.counters().goodbyes, 0);
}

#[test]
fn the_server_sees_who_lost_its_connection_before_it_returns() {
    let _judged = judges(&["CLOSE-11"]);
    let mut world = world(2, |_| {});
    world.run_for(Duration::from_secs(5));
    world.cut_agent(0);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.disagreement(0), None);
    assert_eq!(world.middle().gateway.counters().goodbyes, 1);
    assert_eq!(world.tap.reports, AGENTS as u64 + 1, "a full report more");
}

#[test]
fn a_lost_upstream_connection_costs_its_agents_one_report_each() {
    let mut world = world(3, |_| {});
    world.run_for(Duration::from_secs(5));
    let concerned = world.middle().gateway.upstream(0).unwrap().agents as u64;
    let before = world.tap.reports;
    world.cut_upstream(0);
    // The server does not have to wait for a heartbeat to know where they are.
    world.run_for(Duration::from_secs(10));
    for agent in (0..AGENTS).filter(|agent| transport(*agent) == Transport::WebSocket) {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
    }
    world.run_for(Duration::from_secs(60));
    for agent in 0..AGENTS {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
    }
    let more = world.tap.reports - before;
    assert!(concerned > 0 && more <= concerned, "{more} reports of {concerned} agents");
}

#[test]
fn agents_beyond_what_the_connections_take_are_told_so() {
    let _judged = judges(&["THR-01", "THR-06"]);
    let mut world = world(4, |config| config.max_agents_per_upstream = 3);
    world.run_for(Duration::from_secs(300));
    let connected =
        |world: &World| world.fleet.agents().iter().filter(|agent| agent.is_connected()).count();
    assert_eq!(connected(&world), 9);
    assert!(world.middle().gateway.counters().unavailable > 0);
}
