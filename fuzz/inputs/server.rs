//! Conversations of several agents with the registry.

use std::time::{Duration, Instant, SystemTime};

use arbitrary::{Arbitrary, Unstructured};
use opamp_proto::{InstanceUid, Message as _, WireUid, v1};
use opamp_server::fleet::{Fleet, Now, Route};
use opamp_server::{RemoteConfig, ServerConfig, Transport};

#[derive(Debug, Arbitrary)]
enum Operation {
    Report { route: u8, uid: u8, sequence_num: u64, capabilities: u64, flags: u8, parts: Vec<u8> },
    Bytes { route: u8, bytes: Vec<u8> },
    Reopen { route: u8, http: bool },
    Offer { body: u8 },
    OfferOne { uid: u8, body: u8 },
    Restart { uid: u8 },
    Rename { uid: u8, to: u8 },
    FullState { uid: u8 },
    Wait { seconds: u16 },
}

const ROUTES: usize = 3;

fn uid(number: u8) -> [u8; 16] {
    [number % 4; 16]
}

fn agent(number: u8) -> WireUid {
    WireUid::from(InstanceUid::from_bytes(uid(number)))
}

fn config(body: u8) -> RemoteConfig {
    let file = v1::AgentConfigFile { body: vec![body].into(), ..Default::default() };
    RemoteConfig::new(v1::AgentConfigMap { config_map: [(String::new(), file)].into() })
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok(operations) = <Vec<Operation>>::arbitrary_take_rest(input) {
        play(operations);
    }
}

#[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn play(operations: Vec<Operation>) {
    let mut server = ServerConfig::default();
    server.max_agents = 5;
    server.max_agents_per_connection = 3;
    server.max_retained_bytes = 4096;
    let fleet: Fleet<()> = Fleet::new(server);
    let mut now = Now { instant: Instant::now(), system: SystemTime::UNIX_EPOCH };
    let mut transports = [Transport::WebSocket; ROUTES];
    let open = |transport| fleet.open_route(transport, None, (), None);
    let mut routes: Vec<Route<()>> = transports.iter().map(|transport| open(*transport)).collect();
    for operation in operations {
        match operation {
            Operation::Report { route, uid: number, sequence_num, capabilities, flags, parts } => {
                let mut body = v1::AgentToServer {
                    instance_uid: uid(number).to_vec().into(),
                    sequence_num,
                    capabilities,
                    flags: u64::from(flags),
                    ..Default::default()
                }
                .encode_to_vec();
                body.extend_from_slice(&parts);
                receive(&fleet, &mut routes[route as usize % ROUTES], &body, now);
            }
            Operation::Bytes { route, bytes } => {
                receive(&fleet, &mut routes[route as usize % ROUTES], &bytes, now);
            }
            Operation::Reopen { route, http } => {
                let place = route as usize % ROUTES;
                transports[place] = if http { Transport::Http } else { Transport::WebSocket };
                let old = std::mem::replace(&mut routes[place], open(transports[place]));
                let _ = fleet.close_route(old);
            }
            Operation::Offer { body } => {
                fleet.set_default_remote_config(config(body)).expect("small")
            }
            Operation::OfferOne { uid: number, body } => {
                let _ = fleet.set_remote_config(agent(number), config(body));
            }
            Operation::Restart { uid: number } => {
                let _ = fleet.restart(agent(number), now.instant);
            }
            Operation::Rename { uid: number, to } => {
                let old = agent(number);
                let _ = fleet.rename(old, InstanceUid::from_bytes(uid(to)), now.instant);
            }
            Operation::FullState { uid: number } => {
                let _ = fleet.request_full_state(agent(number));
            }
            Operation::Wait { seconds } => {
                let passed = Duration::from_secs(seconds.into());
                now = Now { instant: now.instant + passed, system: now.system + passed };
                let _ = fleet.sweep(now);
            }
        }
        for route in &routes {
            for key in route.agents().to_vec() {
                let mut out = Vec::new();
                let mut pushes = 0;
                while let Some(push) = fleet.poll_push(route, key, now, &mut out) {
                    judge(&out, push.tail.as_deref());
                    out.clear();
                    pushes += 1;
                    assert!(pushes < 8, "pushing ends");
                }
            }
        }
        assert!(fleet.len() <= 5);
    }
}

fn receive(fleet: &Fleet<()>, route: &mut Route<()>, body: &[u8], now: Now) {
    let mut out = Vec::new();
    let mut fresh = || InstanceUid::from_parts(7, [7; 10]);
    let received = fleet.receive(route, body, now, &mut fresh, &mut out);
    judge(&out, received.tail.as_deref());
    let refused = v1::AgentToServer::decode(body).is_err();
    assert!(!refused || received.refusal.is_some(), "what does not decode is refused");
}

fn judge(head: &[u8], tail: Option<&[u8]>) {
    let message = [head, tail.unwrap_or_default()].concat();
    let message = v1::ServerToAgent::decode(message.as_slice()).expect("the reply decodes");
    if message.error_response.is_some() {
        assert!(message.remote_config.is_none() && message.flags == 0 && message.capabilities == 0);
    }
    if message.command.is_some() {
        assert!(message.remote_config.is_none() && message.flags == 0);
    }
}
