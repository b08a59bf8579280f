//! The Server's end of many sockets, in virtual time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opamp_proto::{InstanceUid, Message as _, v1};
use opamp_server::core::Push;
use opamp_server::fleet::{Route, RouteWaker};
use opamp_server::{AgentKey, Fleet, Now, Transport};

use super::support::{Bench, SERVER_MASK, bare};

/// A connection's end of the registry: what it is asked for, and answers if it is alive.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) probes: Mutex<Vec<(AgentKey, u64)>>,
    woken: Mutex<BTreeSet<AgentKey>>,
}

impl RouteWaker for Line {
    fn wake(&self, key: &AgentKey) {
        self.woken.lock().expect("unpoisoned").insert(*key);
    }

    fn probe(&self, key: &AgentKey, probe: u64) {
        self.probes.lock().expect("unpoisoned").push((*key, probe));
    }
}

pub(crate) struct Socket {
    pub(crate) route: Route<()>,
    pub(crate) line: Arc<Line>,
}

/// The Server's end of many sockets.
pub(crate) struct Server {
    pub(crate) fleet: Fleet,
    now: Now,
    made: u64,
}

impl Server {
    pub(crate) fn new() -> Self {
        let bench = Bench::new();
        Self { fleet: bench.fleet, now: bench.now, made: 0 }
    }

    pub(crate) fn open(&self, transport: Transport) -> Socket {
        let line = Arc::<Line>::default();
        let waker: Arc<dyn RouteWaker> = Arc::clone(&line) as _;
        let waker = (transport == Transport::WebSocket).then_some(waker);
        Socket { route: self.fleet.open_route(transport, None, (), waker), line }
    }

    pub(crate) fn websocket(&self) -> Socket {
        self.open(Transport::WebSocket)
    }

    pub(crate) fn send(
        &mut self,
        socket: &mut Socket,
        message: &v1::AgentToServer,
    ) -> v1::ServerToAgent {
        let mut out = Vec::new();
        let made = &mut self.made;
        let mut fresh = || {
            *made += 1;
            InstanceUid::from_parts(*made, [0; 10])
        };
        let body = message.encode_to_vec();
        let received = self.fleet.receive(&mut socket.route, &body, self.now, &mut fresh, &mut out);
        out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
        let reply = v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent");
        assert_eq!(reply.instance_uid, message.instance_uid, "addressed to who sent");
        reply
    }

    pub(crate) fn post(&mut self, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let mut request = self.open(Transport::Http);
        self.send(&mut request, message)
    }

    /// A living connection answers what it was asked. True if that was anything.
    pub(crate) fn answer(&self, socket: &Socket) -> bool {
        let probes = std::mem::take(&mut *socket.line.probes.lock().expect("unpoisoned"));
        for (key, probe) in &probes {
            let _ = self.fleet.probe_answered(&socket.route, key, *probe);
        }
        !probes.is_empty()
    }

    /// What the registry pushes to a connection.
    pub(crate) fn pushes(&self, socket: &Socket) -> Vec<v1::ServerToAgent> {
        let woken = std::mem::take(&mut *socket.line.woken.lock().expect("unpoisoned"));
        let mut pushes = Vec::new();
        for key in woken {
            let mut out = Vec::new();
            while let Some(Push { tail, .. }) =
                self.fleet.poll_push(&socket.route, key, self.now, &mut out)
            {
                out.extend_from_slice(tail.as_deref().unwrap_or_default());
                pushes.push(v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent"));
                out.clear();
            }
        }
        pushes
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.system += time;
        let _ = self.fleet.settle_duplicates(self.now);
    }
}

pub(crate) fn plain(uid: &[u8]) -> v1::ServerToAgent {
    v1::ServerToAgent { capabilities: SERVER_MASK, ..bare(uid) }
}

pub(crate) fn new_uid(message: &v1::ServerToAgent) -> InstanceUid {
    let identification = message.agent_identification.as_ref().expect("a new uid");
    identification.new_instance_uid.as_ref().try_into().expect("16 bytes")
}
