//! Agents and a server, both with the real cores, on a virtual network that loses and reorders, while
//! anything happens to either.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use opamp_client::core::Transport;
use opamp_proto::v1;
use opamp_server::{RemoteConfig, ServerConfig};
use opamp_tests::world::{Weather, World, config_file};

/// What can happen; a number chooses the agent.
#[derive(Debug, Arbitrary)]
enum Happening {
    Health(u8, u8),
    EffectiveConfig(u8, u8),
    AcceptRemoteConfig(u8, bool),
    Offer(u8),
    OfferOne(u8, u8),
    RequestFullState(u8),
    Rename(u8),
    Restart(u8),
    Cut(u8),
    Crash(u8),
    RestartServer,
    ServerDown(u16),
    Weather(bool),
    Wait(u16),
}

const TRANSPORTS: [Transport; 2] = [Transport::WebSocket, Transport::Http];

/// More would make an input take seconds.
const MAX_HAPPENINGS: usize = 64;

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok((seed, happenings)) = <(u64, Vec<Happening>)>::arbitrary_take_rest(input) {
        play(seed, &happenings);
    }
}

fn play(seed: u64, happenings: &[Happening]) {
    let mut world = World::new(seed, ServerConfig::default());
    for transport in TRANSPORTS {
        world.start(transport, |_| {});
    }
    for happening in happenings.iter().take(MAX_HAPPENINGS) {
        happen(&mut world, happening);
        world.run_for(Duration::ZERO);
    }
    // Every deadline, back-off and pause has room to pass.
    world.weather = Weather::CALM;
    world.run_for(Duration::from_secs(15 * 60));
    for agent in 0..world.agents.len() {
        assert_eq!(world.disagreement(agent), None, "agent {agent}");
    }
}

fn happen(world: &mut World, happening: &Happening) {
    let place = |agent: u8| usize::from(agent) % TRANSPORTS.len();
    match *happening {
        Happening::Health(agent, value) => {
            world.agents[place(agent)].core.set_health(Some(v1::ComponentHealth {
                healthy: value.is_multiple_of(2),
                status: value.to_string(),
                ..Default::default()
            }));
        }
        Happening::EffectiveConfig(agent, value) => {
            let config = v1::EffectiveConfig { config_map: Some(config_file(value)) };
            world.agents[place(agent)].core.set_effective_config(Some(config));
        }
        Happening::AcceptRemoteConfig(agent, accepts) => {
            world.agents[place(agent)].core.set_accepts_remote_config(accepts);
        }
        Happening::Offer(number) => world.offer_to_all(number),
        Happening::OfferOne(agent, number) => world.operate(place(agent), |fleet, uid, _| {
            // An agent the server does not know cannot be offered anything.
            let _ = fleet.set_remote_config(uid, RemoteConfig::new(config_file(number)));
        }),
        Happening::RequestFullState(agent) => world.operate(place(agent), |fleet, uid, _| {
            let _ = fleet.request_full_state(uid);
        }),
        Happening::Rename(agent) => world.rename(place(agent)),
        Happening::Restart(agent) => world.operate(place(agent), |fleet, uid, now| {
            let _ = fleet.restart(uid, now);
        }),
        Happening::Cut(agent) => world.cut_agent(place(agent)),
        Happening::Crash(agent) => {
            world.crash_and_restart(place(agent), TRANSPORTS[place(agent)]);
        }
        Happening::RestartServer => world.restart_server(),
        Happening::ServerDown(millis) => {
            world.server_up = false;
            world.restart_server();
            world.run_for(Duration::from_millis(millis.into()));
            world.server_up = true;
        }
        Happening::Weather(storm) => {
            world.weather = if storm { Weather::STORM } else { Weather::CALM };
        }
        Happening::Wait(millis) => world.run_for(Duration::from_millis(millis.into())),
    }
}
