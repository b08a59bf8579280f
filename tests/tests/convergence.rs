//! Both cores against each other: whatever happens to the network, the server and the agents, when
//! it is over the server knows of each agent what the agent would say of itself, and then nobody
//! says anything more than heartbeats.

use std::time::Duration;

use opamp_client::core::Transport;
use opamp_proto::v1;
use opamp_server::ServerConfig;
use opamp_spec::judges;
use opamp_tests::world::{Weather, World, config_file};
use proptest::prelude::*;

const HEARTBEAT: Duration = Duration::from_secs(30);

/// Something that happens; the first number chooses an agent.
#[derive(Debug, Clone)]
enum Operation {
    Health(usize, u8),
    Description(usize, u8),
    EffectiveConfig(usize, u8),
    AcceptRemoteConfig(usize, bool),
    Offer(u8),
    OfferOne(usize, u8),
    OfferTelemetry(u8),
    OfferPackages([u8; 2]),
    RequestFullState(usize),
    Rename(usize),
    Restart(usize),
    Cut(usize),
    Crash(usize),
    RestartServer,
    ServerDown(u16),
    Calm,
    Storm,
    Wait(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation as Op;
    let agent = 0..4_usize;
    prop_oneof![
        4 => (agent.clone(), 0..4_u8).prop_map(|(agent, value)| Op::Health(agent, value)),
        2 => (agent.clone(), 0..4_u8).prop_map(|(agent, value)| Op::Description(agent, value)),
        2 => (agent.clone(), 0..8_u8).prop_map(|(agent, value)| Op::EffectiveConfig(agent, value)),
        1 => (agent.clone(), any::<bool>()).prop_map(|(agent, on)| Op::AcceptRemoteConfig(agent, on)),
        2 => (0..8_u8).prop_map(Op::Offer),
        2 => (agent.clone(), 0..8_u8).prop_map(|(agent, value)| Op::OfferOne(agent, value)),
        1 => (0..4_u8).prop_map(Op::OfferTelemetry),
        2 => [0..4_u8, 0..4_u8].prop_map(Op::OfferPackages),
        1 => agent.clone().prop_map(Op::RequestFullState),
        1 => agent.clone().prop_map(Op::Rename),
        1 => agent.clone().prop_map(Op::Restart),
        3 => agent.clone().prop_map(Op::Cut),
        1 => agent.prop_map(Op::Crash),
        2 => Just(Op::RestartServer),
        1 => (0..60_000_u16).prop_map(Op::ServerDown),
        1 => Just(Op::Calm),
        1 => Just(Op::Storm),
        6 => (0..5_000_u32).prop_map(Op::Wait),
        1 => (5_000..200_000_u32).prop_map(Op::Wait),
    ]
}

/// Two agents on each transport, two of them with a small receive of their own wishes.
const TRANSPORTS: [Transport; 4] =
    [Transport::WebSocket, Transport::Http, Transport::WebSocket, Transport::Http];

fn health(value: u8) -> v1::ComponentHealth {
    v1::ComponentHealth {
        healthy: value.is_multiple_of(2),
        last_error: if value.is_multiple_of(2) { String::new() } else { format!("error {value}") },
        status: format!("status {value}"),
        ..Default::default()
    }
}

fn description(value: u8) -> v1::AgentDescription {
    v1::AgentDescription {
        identifying_attributes: vec![v1::KeyValue::new("service.name", "simulated")],
        non_identifying_attributes: vec![v1::KeyValue::new("value", i64::from(value))],
    }
}

fn happen(world: &mut World, operation: &Operation) {
    let agents = world.agents.len();
    match *operation {
        Operation::Health(agent, value) => {
            world.agents[agent % agents].core.set_health(Some(health(value)));
        }
        Operation::Description(agent, value) => {
            world.agents[agent % agents].core.set_description(description(value));
        }
        Operation::EffectiveConfig(agent, value) => {
            let config = v1::EffectiveConfig { config_map: Some(config_file(value)) };
            world.agents[agent % agents].core.set_effective_config(Some(config));
        }
        Operation::AcceptRemoteConfig(agent, accepts) => {
            world.agents[agent % agents].core.set_accepts_remote_config(accepts);
        }
        Operation::Offer(number) => world.offer_to_all(number),
        Operation::OfferOne(agent, number) => world.operate(agent % agents, |fleet, uid, _| {
            let config = opamp_server::RemoteConfig::new(config_file(number));
            // An agent the server does not know cannot be offered anything.
            let _ = fleet.set_remote_config(uid, config);
        }),
        Operation::OfferTelemetry(number) => world.offer_telemetry(number),
        Operation::OfferPackages(versions) => world.offer_packages(versions),
        Operation::RequestFullState(agent) => world.operate(agent % agents, |fleet, uid, _| {
            let _ = fleet.request_full_state(uid);
        }),
        Operation::Rename(agent) => world.rename(agent % agents),
        Operation::Restart(agent) => world.operate(agent % agents, |fleet, uid, now| {
            let _ = fleet.restart(uid, now);
        }),
        Operation::Cut(agent) => world.cut_agent(agent % agents),
        Operation::Crash(agent) => {
            let agent = agent % agents;
            world.crash_and_restart(agent, TRANSPORTS[agent]);
        }
        Operation::RestartServer => world.restart_server(),
        Operation::ServerDown(millis) => {
            world.server_up = false;
            world.restart_server();
            world.run_for(Duration::from_millis(millis.into()));
            world.server_up = true;
        }
        Operation::Calm => world.weather = Weather::CALM,
        Operation::Storm => world.weather = Weather::STORM,
        Operation::Wait(millis) => world.run_for(Duration::from_millis(millis.into())),
    }
    world.run_for(Duration::ZERO);
}

fn world(seed: u64) -> World {
    let mut world = World::new(seed, ServerConfig::default());
    for transport in TRANSPORTS {
        world.start(transport, |config| {
            config.heartbeat_interval = Some(HEARTBEAT);
            config.polling_interval = HEARTBEAT;
        });
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 192,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_ends_agree_once_the_storm_is_over(
        seed in any::<u64>(),
        operations in prop::collection::vec(operation(), 0..60),
    ) {
        let _judged = judges(&[
            "STATUS-04", "STATUS-14", "STATUS-15", "DELTA-03", "DELTA-04", "SEQ-01", "SEQ-02",
            "SEQ-03", "SEQ-04", "SEQ-05", "SEQ-07", "CFG-18", "CFG-19", "CFG-24", "CFG-25",
            "RETRY-08", "RETRY-09", "PKG-26", "CONN-31", "CAP-09", "CAP-10", "CMD-01", "ID-10",
            "ID-12", "ID-13", "DUP-01", "EST-03", "INTEROP-07",
        ]);
        let mut world = world(seed);
        for operation in &operations {
            happen(&mut world, operation);
        }

        // Every deadline, back-off and pause has room to pass.
        world.weather = Weather::CALM;
        world.run_for(Duration::from_secs(15 * 60));
        for agent in 0..world.agents.len() {
            prop_assert_eq!(world.disagreement(agent), None, "agent {}", agent);
        }

        // Then there is nothing left to say.
        let (reports, heartbeats) = (world.tap.reports, world.tap.heartbeats);
        world.run_for(10 * HEARTBEAT);
        prop_assert_eq!(world.tap.reports, reports, "no report without a change");
        let more = world.tap.heartbeats - heartbeats;
        let expected = 10 * world.agents.len() as u64;
        prop_assert!(more <= expected && more >= expected * 9 / 10, "{} heartbeats", more);
    }

    #[test]
    fn the_number_of_messages_is_bounded_by_what_happened(
        seed in any::<u64>(),
        operations in prop::collection::vec(operation(), 0..60),
    ) {
        let _judged = judges(&["STATUS-14", "STATUS-15", "CFG-08", "EST-04"]);
        let mut world = world(seed);
        let start = world.now;
        for operation in &operations {
            happen(&mut world, operation);
        }
        world.run_for(Duration::from_secs(60));
        let elapsed = world.now.duration_since(start).as_secs();
        let agents = world.agents.len() as u64;
        // An operation may concern every agent and lead to a handful of messages of each: an offer is
        // applying, then applied; a restarted server asks everyone for the full state; an unreachable
        // one is tried with back-off. The rest are heartbeats, some of them in vain.
        let heartbeats = elapsed / HEARTBEAT.as_secs();
        let allowed = agents * (8 + 8 * operations.len() as u64 + 2 * heartbeats);
        let sent = world.tap.reports + world.tap.heartbeats;
        prop_assert!(sent <= allowed, "{} messages, {} allowed", sent, allowed);
    }
}

#[test]
fn a_quiet_fleet_says_nothing_but_heartbeats() {
    let _judged = judges(&["STATUS-14", "STATUS-15", "HB-09", "HTTP-05"]);
    let mut world = world(1);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.tap.reports, 4, "one full report of each");
    world.run_for(Duration::from_secs(3600));
    assert_eq!(world.tap.reports, 4);
    assert_eq!(world.tap.heartbeats, 4 * 120);
    assert_eq!(world.tap.replies, 4 + 4 * 120, "each message has its reply (STATUS-07)");
}

#[test]
fn a_restarted_server_learns_everything_again() {
    let _judged = judges(&["SEQ-06", "SEQ-07", "SEQ-08", "STATUS-03", "EST-06"]);
    let mut world = world(2);
    world.run_for(Duration::from_secs(5));
    world.restart_server();
    world.run_for(Duration::from_secs(60));
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
    }
    assert_eq!(world.tap.reports, 8, "two full reports of each, no more");
}

#[test]
fn an_offer_reaches_everyone_and_a_refused_one_keeps_the_old() {
    let _judged = judges(&["CFG-01", "CFG-09", "CFG-20", "CFG-21", "CFG-22", "HTTP-10", "CFG-24"]);
    let mut world = world(3);
    world.run_for(Duration::from_secs(5));
    world.offer_to_all(2);
    world.run_for(Duration::from_secs(120));
    let good = Some(v1::EffectiveConfig { config_map: Some(config_file(2)) });
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
        assert_eq!(world.agents[agent].core.status().effective_config, good);
        assert_eq!(world.agents[agent].offers.len(), 1, "offered once");
    }
    world.offer_to_all(3);
    world.run_for(Duration::from_secs(120));
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
        let status = world.agents[agent].core.status();
        assert_eq!(status.effective_config, good, "the old one stays");
        let remote = status.remote_config_status.clone().unwrap();
        assert_eq!(remote.status(), v1::RemoteConfigStatuses::Failed);
        assert_eq!(remote.error_message, "odd");
        assert_eq!(world.agents[agent].offers.len(), 2, "a failed offer is not offered again");
    }
}

#[test]
fn packages_and_settings_reach_everyone_and_outcomes_come_back() {
    let _judged = judges(&["PKG-26", "CONN-31", "CONN-34", "TEL-07"]);
    let mut world = world(6);
    world.run_for(Duration::from_secs(5));
    world.offer_packages([2, 1]);
    world.offer_telemetry(2);
    world.run_for(Duration::from_secs(120));
    world.restart_server();
    for (agent, transport) in TRANSPORTS.into_iter().enumerate() {
        world.crash_and_restart(agent, transport);
    }
    world.run_for(Duration::from_secs(120));
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
        let status = world.agents[agent].core.status();
        let packages = &status.package_statuses.as_ref().unwrap().packages;
        let state = |name: &str| packages[name].status();
        assert_eq!(state("one"), v1::PackageStatusEnum::Installed);
        assert_eq!(state("two"), v1::PackageStatusEnum::InstallFailed);
        assert_eq!(packages["two"].error_message, "odd");
        let settings = status.connection_settings_status.as_ref().unwrap();
        assert_eq!(settings.status(), v1::ConnectionSettingsStatuses::Applied);
    }
    world.offer_telemetry(3);
    world.offer_packages([0, 0]);
    world.run_for(Duration::from_secs(120));
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
        let status = world.agents[agent].core.status();
        assert!(status.package_statuses.as_ref().unwrap().packages.is_empty());
        let settings = status.connection_settings_status.as_ref().unwrap();
        assert_eq!(settings.error_message, "odd");
        let kept = world.agents[agent].core.connections().own_metrics.as_ref().unwrap();
        assert_eq!(kept.destination_endpoint, "https://metrics.example/2");
    }
}

#[test]
fn a_command_is_carried_out_once_on_either_transport() {
    let _judged = judges(&["CMD-01", "CMD-03", "CMD-05"]);
    let mut world = world(4);
    world.run_for(Duration::from_secs(5));
    for agent in 0..4 {
        world.operate(agent, |fleet, uid, now| fleet.restart(uid, now).unwrap());
    }
    world.run_for(Duration::from_secs(300));
    for agent in 0..4 {
        assert_eq!(world.agents[agent].restarts, 1, "agent {agent}");
    }
}

#[test]
fn a_renamed_agent_keeps_its_place_and_its_state() {
    let _judged = judges(&["ID-10", "ID-12", "ID-13", "ID-14"]);
    let mut world = world(5);
    world.run_for(Duration::from_secs(5));
    for agent in 0..4 {
        world.rename(agent);
    }
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.fleet.len(), 4, "no one is there twice");
    for agent in 0..4 {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
        world.cut_agent(agent);
    }
    world.run_for(Duration::from_secs(120));
    assert_eq!(world.fleet.len(), 4);
    assert_eq!(world.tap.reports, 4, "a rename and a reconnect change no status");
}

#[test]
fn one_seed_is_one_story() {
    let run = |seed| {
        let mut world = world(seed);
        world.weather = Weather::STORM;
        world.offer_to_all(4);
        for _ in 0..20 {
            world.cut_agent(0);
            world.run_for(Duration::from_secs(7));
        }
        (world.tap.reports, world.tap.heartbeats, world.tap.replies)
    };
    assert_eq!(run(11), run(11));
}
