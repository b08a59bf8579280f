//! What one message costs in the protocol cores, without any I/O.

use std::time::{Duration, Instant, SystemTime};

use divan::Bencher;
use opamp_client::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Received, Transmit,
};
use opamp_proto::{InstanceUid, Message as _, frame, v1};
use opamp_server::fleet::{Fleet, Now, Route};
use opamp_server::{ServerConfig, Transport};

fn main() {
    divan::main();
}

fn now() -> Now {
    Now { instant: Instant::now(), system: SystemTime::now() }
}

fn description() -> v1::AgentDescription {
    let attribute = |n: usize| v1::KeyValue::new(format!("key.{n}"), format!("value {n}"));
    v1::AgentDescription {
        identifying_attributes: (0..4).map(attribute).collect(),
        non_identifying_attributes: (4..10).map(attribute).collect(),
    }
}

/// A full report whose effective configuration has 8 KiB.
fn report(sequence_num: u64, variant: u8) -> v1::AgentToServer {
    let body = vec![b'a' + variant; 8 * 1024].into();
    let file = v1::AgentConfigFile { body, content_type: "text/yaml".into() };
    v1::AgentToServer {
        instance_uid: vec![1; 16].into(),
        sequence_num,
        capabilities: 0x2805,
        agent_description: Some(description()),
        health: Some(v1::ComponentHealth { healthy: true, ..Default::default() }),
        effective_config: Some(v1::EffectiveConfig {
            config_map: Some(v1::AgentConfigMap { config_map: [(String::new(), file)].into() }),
        }),
        ..Default::default()
    }
}

fn heartbeat(sequence_num: u64) -> v1::AgentToServer {
    v1::AgentToServer {
        instance_uid: vec![1; 16].into(),
        sequence_num,
        capabilities: 0x2805,
        ..Default::default()
    }
}

fn connected() -> (Fleet<()>, Route<()>) {
    let fleet = Fleet::new(ServerConfig::default());
    let mut route = fleet.open_route(Transport::WebSocket, None, (), None);
    serve(&fleet, &mut route, &report(0, 0).encode_to_vec(), &mut Vec::new());
    (fleet, route)
}

fn serve(fleet: &Fleet<()>, route: &mut Route<()>, body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let uid = &mut || InstanceUid::from_bytes([7; 16]);
    let _ = divan::black_box(fleet.receive(route, body, now(), uid, out));
}

/// Messages with running numbers, encoded beforehand.
fn encoded(message: impl Fn(u64) -> v1::AgentToServer) -> Vec<Vec<u8>> {
    (1..=1024).map(|n| message(n).encode_to_vec()).collect()
}

#[divan::bench_group(sample_size = 1000)]
mod server {
    use super::*;

    fn bench(bencher: Bencher<'_, '_>, messages: &[Vec<u8>]) {
        let (fleet, mut route) = connected();
        let mut out = Vec::new();
        let mut next = messages.iter().cycle();
        bencher.bench_local(|| {
            serve(&fleet, &mut route, next.next().expect("it cycles"), &mut out);
        });
    }

    #[divan::bench]
    fn heartbeat(bencher: Bencher<'_, '_>) {
        bench(bencher, &encoded(super::heartbeat));
    }

    #[divan::bench]
    fn unchanged_full_report(bencher: Bencher<'_, '_>) {
        bench(bencher, &encoded(|n| report(n, 0)));
    }

    #[divan::bench]
    fn changed_full_report(bencher: Bencher<'_, '_>) {
        bench(bencher, &encoded(|n| report(n, (n % 2) as u8)));
    }
}

#[divan::bench_group(sample_size = 1000)]
mod decode_and_encode {
    use super::*;

    fn bench(bencher: Bencher<'_, '_>, body: Vec<u8>) {
        let body = bytes_of(body);
        bencher.bench_local(|| {
            let message = v1::AgentToServer::decode(body.clone()).expect("it is well formed");
            let reply =
                v1::ServerToAgent { instance_uid: message.instance_uid, ..Default::default() };
            frame::encode(&reply)
        });
    }

    fn bytes_of(body: Vec<u8>) -> std::io::Cursor<Vec<u8>> {
        std::io::Cursor::new(body)
    }

    #[divan::bench]
    fn heartbeat(bencher: Bencher<'_, '_>) {
        bench(bencher, super::heartbeat(1).encode_to_vec());
    }

    #[divan::bench]
    fn full_report(bencher: Bencher<'_, '_>) {
        bench(bencher, report(1, 0).encode_to_vec());
    }
}

#[divan::bench_group(sample_size = 1000)]
mod client {
    use super::*;

    #[divan::bench]
    fn heartbeat_and_its_reply(bencher: Bencher<'_, '_>) {
        let mut now = Instant::now();
        let uid = InstanceUid::from_parts(1, [1; 10]);
        let mut config = ClientConfig::new(ClientState::new(uid), description());
        config.ping_interval = None;
        let mut core = ClientCore::new(config, now).expect("the configuration works");
        let Some(ConnectionAction::Connect { epoch, .. }) = core.poll_connection(now) else {
            unreachable!("a new client connects");
        };
        core.handle_connected(epoch, now);
        let reply = frame::encode(&v1::ServerToAgent {
            instance_uid: uid.to_bytes(),
            ..Default::default()
        });
        bencher.bench_local(|| {
            core.handle_timeout(now);
            while let Some(Transmit::Message { message, .. }) = core.poll_transmit(now) {
                divan::black_box(message);
            }
            core.handle_received(epoch, Received::Binary(reply.clone()), now);
            now += Duration::from_secs(30);
        });
    }
}
