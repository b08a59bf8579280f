//! Fuzzing a server: conversations of an agent.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use opamp_proto::v1::{
    AgentDisconnect, AgentToServer, CertificateRequest, ComponentDetails, ComponentHealth,
    ConnectionSettingsRequest, CustomCapabilities, CustomMessage, OpAmpConnectionSettingsRequest,
    PackageStatus, PackageStatuses, RemoteConfigStatus,
};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Options, Send, Step, Trouble};
use crate::judge::Stop;
use crate::log::Log;
use crate::mask::agent as mask;
use crate::pace::Pace;
use crate::report::{Side, Transport};
use crate::server::ServerUnderTest;
use crate::server::agent::{Agent, Heard, PROTOBUF};
use crate::wire::http_client::Dialer;
use crate::wire::mutate::mutate;
use crate::wire::{body, uid};

/// A conversation in which some messages are changed.
pub(super) fn conversation(transport: Transport, rng: &mut StdRng) -> Vec<Step> {
    let uid = uid::fresh(rng, 1_700_000_000_000);
    let mut number = rng.random_range(0..3);
    let mut steps = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        number += 1;
        let message = message(&uid, number, rng).encode_to_vec();
        let (changed, send) = match rng.random_range(0..20) {
            0..8 => (String::new(), Send::Message(message)),
            8..15 => {
                let (bytes, what) = mutate("AgentToServer", &message, rng);
                (what, Send::Message(bytes.to_vec()))
            }
            15 => Send::random_header(&message, rng),
            16 => {
                let payload = [body::padded_zero(rng.random_range(1..12)), message].concat();
                ("a padded header".to_owned(), Send::Payload(payload))
            }
            17 => Send::random_bytes(rng),
            18 if transport == Transport::Http => Send::damaged_gzip(&message, rng),
            _ => (String::new(), Send::Reconnect),
        };
        steps.push(Step { changed, send });
    }
    steps
}

fn message(uid: &Bytes, sequence_num: u64, rng: &mut StdRng) -> AgentToServer {
    let dialer_free = || AgentToServer {
        instance_uid: uid.clone(),
        sequence_num,
        capabilities: mask::ALL,
        ..Default::default()
    };
    let deep = |levels: usize| {
        (0..levels).fold(ComponentHealth::default(), |inner, level| ComponentHealth {
            healthy: true,
            component_health_map: BTreeMap::from([(format!("level {level}"), inner)]),
            ..Default::default()
        })
    };
    let base = dialer_free();
    match rng.random_range(0..9) {
        0 => AgentToServer { health: Some(deep(rng.random_range(0..14))), ..base },
        1 => AgentToServer {
            remote_config_status: Some(RemoteConfigStatus {
                last_remote_config_hash: Bytes::from_static(b"hash"),
                status: rng.random_range(-1..6),
                error_message: "no reason".to_owned(),
            }),
            ..base
        },
        2 => {
            let status = PackageStatus {
                name: "p".to_owned(),
                agent_has_version: "1".to_owned(),
                status: rng.random_range(-1..7),
                ..Default::default()
            };
            let packages = BTreeMap::from([("p".to_owned(), status)]);
            let all = PackageStatuses { packages, ..Default::default() };
            AgentToServer { package_statuses: Some(all), ..base }
        }
        3 => AgentToServer {
            custom_capabilities: Some(CustomCapabilities {
                capabilities: vec!["com.example.fuzz/v1".to_owned()],
            }),
            custom_message: Some(CustomMessage {
                capability: "com.example.fuzz/v1".to_owned(),
                r#type: "any".to_owned(),
                data: Bytes::from_static(b"data"),
            }),
            ..base
        },
        4 => {
            let csr = Bytes::from_static(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n");
            let opamp = OpAmpConnectionSettingsRequest {
                certificate_request: Some(CertificateRequest { csr }),
            };
            let request = ConnectionSettingsRequest { opamp: Some(opamp) };
            AgentToServer { connection_settings_request: Some(request), ..base }
        }
        5 => AgentToServer { agent_disconnect: Some(AgentDisconnect {}), ..base },
        6 => base,
        _ => {
            let mut report = full_report(uid, sequence_num);
            if let Some(components) = &mut report.available_components {
                components.components =
                    BTreeMap::from([("receivers".to_owned(), ComponentDetails::default())]);
            }
            report
        }
    }
}

fn full_report(uid: &Bytes, sequence_num: u64) -> AgentToServer {
    let mut report = AgentToServer {
        health: Some(ComponentHealth { healthy: true, ..Default::default() }),
        effective_config: Some(crate::server::agent::effective("a: 1\n")),
        ..Default::default()
    };
    report.instance_uid = uid.clone();
    report.sequence_num = sequence_num;
    report.capabilities = mask::ALL;
    report.available_components = Some(Default::default());
    report.agent_description = Some(Default::default());
    report
}

/// Plays conversations with a server and sees whether it is well afterwards.
pub(super) struct Player {
    target: ServerUnderTest,
    pace: Pace,
    rng: StdRng,
}

impl Player {
    pub(super) async fn new(target: ServerUnderTest, options: &Options) -> Result<Self, Stop> {
        let rng = StdRng::seed_from_u64(options.seed);
        let mut player = Self { target, pace: options.pace, rng };
        for transport in &options.transports {
            player.probe(*transport).await?;
        }
        Ok(player)
    }

    pub(super) async fn play(
        &mut self,
        transport: Transport,
        steps: &[Step],
    ) -> Option<(Trouble, String)> {
        let mut agent = self.agent(transport);
        let mut found = None;
        if agent.connect().await.is_ok() {
            for step in steps {
                if let Some(how) = self.step(&mut agent, step).await {
                    found.get_or_insert((Trouble::Dropped, how));
                }
            }
        }
        // One slow moment is no trouble, two are.
        if self.probe(transport).await.is_err()
            && let Err(stop) = self.probe(transport).await
        {
            let network = &self.target.network;
            let (host, port) = (&self.target.url.host, self.target.url.port);
            let gone = network.connect(host, port).await.is_err();
            let trouble = if gone { Trouble::Crash } else { Trouble::Hang };
            return Some((trouble, format!("a good agent afterwards: {stop}")));
        }
        found
    }

    /// Does a step; says how the connection was dropped without a word, if it was.
    async fn step(&self, agent: &mut Agent, step: &Step) -> Option<String> {
        let heard = match &step.send {
            Send::Reconnect => {
                agent.vanish();
                agent.connect().await.ok()?;
                return None;
            }
            Send::Message(bytes) if step.changed.is_empty() => {
                agent.ask_bytes(Bytes::copy_from_slice(bytes)).await.ok()?
            }
            Send::Message(bytes) => {
                let bytes = Bytes::copy_from_slice(bytes);
                if agent.dialer.url.transport == Transport::Http {
                    agent.post(bytes).await
                } else {
                    agent.send_bytes(bytes).await.ok()?;
                    agent.next(self.pace.poll()).await
                }
            }
            Send::Payload(bytes) | Send::Raw(bytes) => {
                let bytes = Bytes::copy_from_slice(bytes);
                if agent.dialer.url.transport == Transport::Http {
                    let mut headers = HeaderMap::new();
                    headers.insert(header::CONTENT_TYPE, PROTOBUF);
                    if matches!(step.send, Send::Raw(_)) {
                        let gzip = HeaderValue::from_static("gzip");
                        headers.insert(header::CONTENT_ENCODING, gzip);
                    }
                    return agent
                        .request(Method::POST, &headers, bytes)
                        .await
                        .err()
                        .and_then(|stop| dropped(&step.changed, &stop.to_string()));
                }
                let websocket = agent.websocket().ok()?;
                let sent = match &step.send {
                    Send::Raw(_) => websocket.send_raw(bytes).await,
                    _ => websocket.send(bytes).await,
                };
                if sent.is_err() {
                    return None;
                }
                agent.next(self.pace.poll()).await
            }
        };
        let is_raw = matches!(step.send, Send::Raw(_));
        let (code, how) = match heard {
            Heard::Closed(code, how) => (code, how),
            // The bytes may be the beginning of a frame, so nothing can follow them.
            _ if is_raw => (None, String::new()),
            _ => return None,
        };
        agent.vanish();
        let reconnected = agent.connect().await.is_ok();
        // Below WebSocket nothing has to be explained.
        if code.is_some() || is_raw || !reconnected {
            return None;
        }
        dropped(&step.changed, &how)
    }

    /// A good agent: it connects, reports and is answered.
    async fn probe(&mut self, transport: Transport) -> Result<(), Stop> {
        let mut agent = self.agent(transport);
        agent.connect().await?;
        let report = agent.full_report();
        let reply = agent.exchange(report).await?;
        match reply.error_response {
            None => Ok(()),
            Some(error) => Err(Stop::Unreached(format!(
                "a good report was answered with {:?}",
                error.error_message
            ))),
        }
    }

    fn agent(&mut self, transport: Transport) -> Agent {
        let dialer = Dialer {
            network: self.target.network.clone(),
            url: self.target.url.over(transport),
            via: None,
            tls: self.target.tls.clone(),
            headers: self.target.headers.clone(),
            log: Log::new(Side::Server),
        };
        let uid = uid::fresh(&mut self.rng, uid::now_ms());
        Agent::new(dialer, uid, mask::REPORTS_STATUS | mask::REPORTS_HEALTH, self.pace)
    }
}

fn dropped(changed: &str, how: &str) -> Option<String> {
    let what = if changed.is_empty() { "a good message" } else { "a message" };
    let how = if how.contains("no HTTP response in time") { "no response" } else { how };
    Some(format!("after {what} the connection ended without a word: {how}"))
}
