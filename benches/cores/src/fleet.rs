//! What is done with a whole fleet at once.

use std::hint::black_box;

use opamp_proto::{WireUid, v1};
use opamp_server::fleet::{Fleet, Now, Route};
use opamp_server::{RemoteConfig, ServerConfig, Transport};

use crate::messages::{Numbered, config, host, short_report, uid, zone};
use crate::server::{receive, start_of_time};
use crate::{Operation, Repeat};

/// Each is done once with all Agents, unless it is about one.
pub const OPERATIONS: [Operation; 6] = [
    Operation::new("look one Agent up by its uid", look_up),
    Operation::new("find one Agent by an attribute", |agents| {
        find(agents, "host.name", host(agents / 2))
    })
    .with_all(),
    Operation::new("find one in a hundred by an attribute", |agents| {
        find(agents, "cloud.availability_zone", zone(agents / 2))
    })
    .with_all(),
    Operation::new("take a snapshot of all", snapshot).with_all(),
    Operation::new("sweep", sweep).with_all(),
    Operation::new("set a configuration for all and push it", offer).with_all(),
];

/// Agents that have told all they have, each on a connection of its own.
struct Crowd {
    fleet: Fleet,
    routes: Vec<Route<()>>,
    now: Now,
}

impl Crowd {
    fn new(agents: usize) -> Self {
        let fleet = Fleet::new(ServerConfig::default());
        let (now, mut out) = (start_of_time(), Vec::new());
        let connect = |agent| {
            let mut route = fleet.open_route(Transport::WebSocket, None, (), None);
            let mut message = Numbered::new(short_report(agent));
            let message = message.with(Numbered::FIRST);
            let received = receive(&fleet, &mut route, message, now, &mut out);
            assert_eq!(received.refusal, None, "there is room");
            route
        };
        let routes = (0..agents).map(connect).collect();
        Self { fleet, routes, now }
    }

    fn find(&self, attribute: &v1::KeyValue) -> usize {
        self.fleet.find(std::slice::from_ref(attribute)).len()
    }

    /// Sets a configuration for all and composes each push, as their connections would: how many.
    fn offer(&self, config: &RemoteConfig, out: &mut Vec<u8>) -> usize {
        self.fleet.set_default_remote_config(config.clone()).expect("it can be offered");
        let pushed = self.routes.iter().enumerate().filter(|(agent, route)| {
            out.clear();
            let push = self.fleet.poll_push(route, wire(*agent), self.now, out);
            push.is_some_and(|push| push.tail.is_some())
        });
        pushed.count()
    }
}

fn wire(agent: usize) -> WireUid {
    WireUid::new(&uid(agent)).expect("it is not empty")
}

fn look_up(agents: usize) -> Repeat {
    let crowd = Crowd::new(agents);
    let mut agent = 0;
    Box::new(move || {
        // Neighbours are not looked up one after the other; the number is prime.
        agent = (agent + 7919) % agents;
        black_box(crowd.fleet.agent(wire(agent)));
    })
}

fn find(agents: usize, key: &str, value: String) -> Repeat {
    let (crowd, attribute) = (Crowd::new(agents), v1::KeyValue::new(key, value));
    Box::new(move || {
        black_box(crowd.find(&attribute));
    })
}

fn snapshot(agents: usize) -> Repeat {
    let crowd = Crowd::new(agents);
    Box::new(move || drop(black_box(crowd.fleet.agents())))
}

fn sweep(agents: usize) -> Repeat {
    let crowd = Crowd::new(agents);
    Box::new(move || drop(black_box(crowd.fleet.sweep(crowd.now))))
}

fn offer(agents: usize) -> Repeat {
    let (crowd, mut out) = (Crowd::new(agents), Vec::new());
    let configs = [0, 1].map(|variant| RemoteConfig::new(config(variant)));
    let mut turn = 0;
    Box::new(move || {
        turn = 1 - turn;
        black_box(crowd.offer(&configs[turn], &mut out));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_does_what_it_says() {
        let crowd = Crowd::new(500);
        assert_eq!(crowd.fleet.len(), 500);
        assert!(crowd.fleet.agent(wire(499)).is_some_and(|agent| agent.is_connected()));
        assert_eq!(crowd.find(&v1::KeyValue::new("host.name", host(7))), 1);
        assert_eq!(crowd.find(&v1::KeyValue::new("cloud.availability_zone", zone(7))), 5);
        assert_eq!(crowd.fleet.sweep(crowd.now), []);
        for variant in [0, 1, 0, 1] {
            assert_eq!(crowd.offer(&RemoteConfig::new(config(variant)), &mut Vec::new()), 500);
        }
    }
}
