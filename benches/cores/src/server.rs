//! What one Agent's messages take in the server core: bytes in, registry included, bytes out.

use std::hint::black_box;
use std::time::{Duration, Instant, SystemTime};

use opamp_proto::{InstanceUid, WireUid};
use opamp_server::fleet::{Fleet, Now, Received, Route};
use opamp_server::{RemoteConfig, ServerConfig, Transport};

use crate::messages::{Numbered, config, full_report, heartbeat, uid};
use crate::{Operation, Repeat};

/// Each is a message and its reply, unless it says otherwise.
pub const OPERATIONS: [Operation; 6] = [
    Operation::new("heartbeat", |_| heartbeats()).goal("< 200 ns"),
    Operation::new("unchanged full report", |_| full_reports(&[0])).goal("< 500 ns"),
    Operation::new("full report, other configuration", |_| full_reports(&[0, 1])).goal("< 9 µs"),
    Operation::new("heartbeat after a gap, full state asked", |_| gaps()),
    Operation::new("reconnect, unchanged full report", |_| reconnects()),
    Operation::new("set a configuration and push it", |_| pushes()),
];

/// A server to whom one Agent has told everything.
struct Server {
    fleet: Fleet,
    route: Route<()>,
    now: Now,
    number: u64,
    out: Vec<u8>,
}

pub(crate) fn start_of_time() -> Now {
    // Virtual time begins anywhere.
    Now { instant: Instant::now(), system: SystemTime::UNIX_EPOCH }
}

pub(crate) fn receive(
    fleet: &Fleet,
    route: &mut Route<()>,
    message: &[u8],
    now: Now,
    out: &mut Vec<u8>,
) -> Received {
    out.clear();
    fleet.receive(route, message, now, &mut || InstanceUid::from_bytes([7; 16]), out)
}

impl Server {
    fn new() -> Self {
        let fleet = Fleet::new(ServerConfig::default());
        let route = fleet.open_route(Transport::WebSocket, None, (), None);
        let (now, number) = (start_of_time(), Numbered::FIRST);
        let mut server = Self { fleet, route, now, number, out: Vec::new() };
        let _ = server.receive(&mut Numbered::new(full_report(0, 0)));
        server
    }

    /// Takes the next message in, a second after the last.
    fn receive(&mut self, message: &mut Numbered) -> Received {
        self.number += 1;
        self.now.instant += Duration::from_secs(1);
        self.now.system += Duration::from_secs(1);
        let message = message.with(self.number);
        receive(&self.fleet, &mut self.route, message, self.now, &mut self.out)
    }

    fn reconnect(&mut self) {
        let route = self.fleet.open_route(Transport::WebSocket, None, (), None);
        let _ = self.fleet.close_route(std::mem::replace(&mut self.route, route));
    }

    /// Sets a configuration for the Agent, and composes what is pushed to it: the bytes after the head.
    fn push(&mut self, config: &RemoteConfig) -> Option<usize> {
        let uid = WireUid::new(&uid(0)).expect("it is not empty");
        self.fleet.set_remote_config(uid, config.clone()).expect("the Agent accepts it");
        self.out.clear();
        self.now.instant += Duration::from_secs(1);
        let push = self.fleet.poll_push(&self.route, uid, self.now, &mut self.out)?;
        push.tail.map(|tail| tail.len())
    }
}

fn heartbeats() -> Repeat {
    let (mut server, mut message) = (Server::new(), Numbered::new(heartbeat(0)));
    Box::new(move || drop(black_box(server.receive(&mut message))))
}

/// One variant after the other, again and again.
fn full_reports(variants: &[u8]) -> Repeat {
    let mut server = Server::new();
    let messages = variants.iter().map(|variant| Numbered::new(full_report(0, *variant)));
    let mut messages: Vec<_> = messages.collect();
    let mut turn = 0;
    Box::new(move || {
        turn = (turn + 1) % messages.len();
        drop(black_box(server.receive(&mut messages[turn])));
    })
}

fn gaps() -> Repeat {
    let (mut server, mut message) = (Server::new(), Numbered::new(heartbeat(0)));
    Box::new(move || {
        server.number += 1;
        drop(black_box(server.receive(&mut message)));
    })
}

fn reconnects() -> Repeat {
    let (mut server, mut message) = (Server::new(), Numbered::new(full_report(0, 0)));
    Box::new(move || {
        server.reconnect();
        drop(black_box(server.receive(&mut message)));
    })
}

fn pushes() -> Repeat {
    let mut server = Server::new();
    let configs = [0, 1].map(|variant| RemoteConfig::new(config(variant)));
    let mut turn = 0;
    Box::new(move || {
        turn = 1 - turn;
        black_box(server.push(&configs[turn]));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opamp_proto::{Message as _, v1};
    use opamp_server::Changes;

    fn reply(server: &Server, received: &Received) -> v1::ServerToAgent {
        assert_eq!((&received.refusal, &received.tail), (&None, &None));
        v1::ServerToAgent::decode(&server.out[..]).expect("a reply")
    }

    #[test]
    fn what_is_measured_does_what_it_says() {
        let mut server = Server::new();
        let mut expect = |message: &mut Numbered, skip: u64, changes: Changes, flags: u64| {
            for _ in 0..4 {
                server.number += skip;
                let received = server.receive(message);
                assert_eq!(received.changes, changes);
                assert_eq!(reply(&server, &received).flags, flags);
            }
        };
        expect(&mut Numbered::new(heartbeat(0)), 0, Changes::empty(), 0);
        expect(&mut Numbered::new(full_report(0, 0)), 0, Changes::empty(), 0);
        let asked = v1::ServerToAgentFlags::ReportFullState as u64;
        expect(&mut Numbered::new(heartbeat(0)), 1, Changes::empty(), asked);
        expect(&mut Numbered::new(full_report(0, 0)), 0, Changes::empty(), 0);

        for variant in [1, 0, 1, 0] {
            let received = server.receive(&mut Numbered::new(full_report(0, variant)));
            assert_eq!(received.changes, Changes::EFFECTIVE_CONFIG);
            assert_eq!(reply(&server, &received).flags, 0);
        }
        for _ in 0..4 {
            server.reconnect();
            let received = server.receive(&mut Numbered::new(full_report(0, 0)));
            assert_eq!(received.changes, Changes::CONNECTED);
            assert_eq!(reply(&server, &received).flags, 0);
        }
    }

    #[test]
    fn each_push_is_a_whole_offer() {
        let mut server = Server::new();
        for variant in [1, 0, 1, 0] {
            let offered = server.push(&RemoteConfig::new(config(variant)));
            assert!(offered.is_some_and(|bytes| bytes > 8 * 1024));
        }
    }
}
