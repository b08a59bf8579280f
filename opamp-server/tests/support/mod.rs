//! A Server in virtual time: a registry without I/O, and hand-made messages.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "the one look at the clock that virtual time starts from"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use opamp_proto::{AgentCapabilities, InstanceUid, Message, WireUid, v1};
use opamp_server::core::Push;
use opamp_server::fleet::{Received, Route, RouteWaker};
use opamp_server::{AgentKey, Fleet, Now, RemoteConfig, ServerConfig, Transport};

pub(crate) mod disk;

pub(crate) struct Bench {
    pub(crate) fleet: Fleet,
    pub(crate) now: Now,
    made: u8,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let mut config = ServerConfig::default();
        config.shards = 4;
        adjust(&mut config);
        let now = Now { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
        Self { fleet: Fleet::new(config), now, made: 0 }
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.system += time;
    }

    pub(crate) fn websocket(&self) -> Route<()> {
        self.fleet.open_route(Transport::WebSocket, None, (), None)
    }

    pub(crate) fn woken_websocket(&self) -> (Route<()>, Arc<Woken>) {
        let woken = Arc::new(Woken::default());
        let waker: Arc<dyn RouteWaker> = Arc::clone(&woken) as _;
        (self.fleet.open_route(Transport::WebSocket, None, (), Some(waker)), woken)
    }

    pub(crate) fn http(&self) -> Route<()> {
        self.fleet.open_route(Transport::Http, None, (), None)
    }

    /// Sends a message on a connection, and decodes the reply.
    pub(crate) fn send(
        &mut self,
        route: &mut Route<()>,
        message: &v1::AgentToServer,
    ) -> v1::ServerToAgent {
        self.send_bytes(route, &message.encode_to_vec()).0
    }

    pub(crate) fn send_bytes(
        &mut self,
        route: &mut Route<()>,
        bytes: &[u8],
    ) -> (v1::ServerToAgent, Received) {
        let mut out = Vec::new();
        let made = &mut self.made;
        let mut fresh = || {
            *made += 1;
            fresh_uid(*made)
        };
        let received = self.fleet.receive(route, bytes, self.now, &mut fresh, &mut out);
        out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
        (v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent"), received)
    }

    /// Sends a message in an HTTP request.
    pub(crate) fn post(&mut self, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let mut route = self.http();
        self.send(&mut route, message)
    }

    /// Everything there is to push to an Agent.
    pub(crate) fn pushes(&self, route: &Route<()>, uid: &[u8]) -> Vec<v1::ServerToAgent> {
        let uid = wire(uid);
        let mut expected = true;
        let pushes: Vec<_> = std::iter::from_fn(|| {
            let mut out = Vec::new();
            let Push { tail, more, .. } = self.fleet.poll_push(route, uid, self.now, &mut out)?;
            assert!(expected, "the one before said that there was no more");
            expected = more;
            out.extend_from_slice(tail.as_deref().unwrap_or_default());
            Some(v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent"))
        })
        .take(10)
        .collect();
        assert!(pushes.len() < 10, "pushing comes to an end");
        pushes
    }
}

/// The instance uids that the test Server makes, in order from 1.
pub(crate) fn fresh_uid(made: u8) -> InstanceUid {
    InstanceUid::from_parts(1_700_000_000_000, [made; 10])
}

/// Which Agents a connection was told to push to.
#[derive(Default)]
pub(crate) struct Woken(Mutex<BTreeSet<AgentKey>>);

impl Woken {
    pub(crate) fn take(&self) -> Vec<AgentKey> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().collect()
    }
}

impl RouteWaker for Woken {
    fn wake(&self, key: &AgentKey) {
        self.0.lock().unwrap().insert(*key);
    }
}

pub(crate) fn wire(uid: &[u8]) -> WireUid {
    WireUid::new(uid).unwrap()
}

/// A heartbeat: uid, number and mask, nothing else.
pub(crate) fn heartbeat(
    uid: &[u8],
    sequence_num: u64,
    mask: AgentCapabilities,
) -> v1::AgentToServer {
    v1::AgentToServer {
        instance_uid: uid.to_vec().into(),
        sequence_num,
        capabilities: mask.bits(),
        ..Default::default()
    }
}

/// A full report of everything the mask promises, with an empty config hash.
pub(crate) fn full_report(
    uid: &[u8],
    sequence_num: u64,
    mask: AgentCapabilities,
) -> v1::AgentToServer {
    use AgentCapabilities as Does;
    v1::AgentToServer {
        agent_description: Some(description("agent")),
        health: mask.contains(Does::REPORTS_HEALTH).then(v1::ComponentHealth::default),
        effective_config: mask
            .contains(Does::REPORTS_EFFECTIVE_CONFIG)
            .then(v1::EffectiveConfig::default),
        remote_config_status: mask
            .contains(Does::REPORTS_REMOTE_CONFIG)
            .then(v1::RemoteConfigStatus::default),
        ..heartbeat(uid, sequence_num, mask)
    }
}

pub(crate) fn description(name: &str) -> v1::AgentDescription {
    v1::AgentDescription {
        identifying_attributes: vec![v1::KeyValue::new("service.name", name)],
        ..Default::default()
    }
}

/// A report of what became of a configuration.
pub(crate) fn config_status(
    hash: &[u8],
    status: v1::RemoteConfigStatuses,
) -> v1::RemoteConfigStatus {
    v1::RemoteConfigStatus {
        last_remote_config_hash: hash.to_vec().into(),
        status: status.into(),
        ..Default::default()
    }
}

pub(crate) fn remote_config(body: &str) -> RemoteConfig {
    let file = v1::AgentConfigFile { body: body.to_owned().into(), ..Default::default() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

/// A reply that only acknowledges.
pub(crate) fn bare(uid: &[u8]) -> v1::ServerToAgent {
    v1::ServerToAgent { instance_uid: uid.to_vec().into(), ..Default::default() }
}

pub(crate) const FULL_STATE: u64 = v1::ServerToAgentFlags::ReportFullState as u64;
pub(crate) const SERVER_MASK: u64 = 0b11_1111;
