//! What an Agent's messages take in the client core: its driver's calls, and the bytes out and in.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_client::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Received,
    RemoteConfigOffer, Transmit,
};
use opamp_proto::{InstanceUid, ServerCapabilities, config_hash, frame, v1};

use crate::messages::{config, description, health, uid};
use crate::{Operation, Repeat};

/// Each is what the Agent says and the Server's answer, unless it says otherwise.
pub const OPERATIONS: [Operation; 4] = [
    Operation::new("heartbeat", |_| heartbeats()),
    Operation::new("report of another health", |_| changes()),
    Operation::new("full report that was asked for", |_| full_reports()),
    Operation::new("configuration offered, then applied", |_| offers()),
];

/// An Agent that has told everything.
struct Agent {
    core: ClientCore,
    epoch: Epoch,
    now: Instant,
    acknowledgement: Bytes,
}

fn from_server(message: v1::ServerToAgent) -> Bytes {
    frame::encode(&v1::ServerToAgent { instance_uid: uid(0).to_vec().into(), ..message })
}

impl Agent {
    fn new() -> Self {
        // Virtual time begins anywhere.
        let now = Instant::now();
        let state = ClientState::new(InstanceUid::from_bytes(uid(0)));
        let mut config = ClientConfig::new(state, description(0));
        config.health = Some(health("ready"));
        config.effective_config = Some(v1::EffectiveConfig { config_map: Some(self::config(0)) });
        config.accepts_remote_config = true;
        config.ping_interval = None;
        let mut core = ClientCore::new(config, now).expect("the configuration works");
        let Some(ConnectionAction::Connect { epoch, .. }) = core.poll_connection(now) else {
            unreachable!("a new client connects");
        };
        core.handle_connected(epoch, now);
        let acknowledgement = from_server(v1::ServerToAgent::default());
        let mut agent = Self { core, epoch, now, acknowledgement };
        let capabilities = ServerCapabilities::ACCEPTS_STATUS
            .union(ServerCapabilities::OFFERS_REMOTE_CONFIG)
            .union(ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG);
        agent.send();
        agent.receive(&from_server(v1::ServerToAgent {
            capabilities: capabilities.to_wire(),
            ..Default::default()
        }));
        agent
    }

    /// Sends what there is to send at the time of the next heartbeat, which is one message.
    fn send(&mut self) -> Bytes {
        self.now += Duration::from_secs(30);
        self.core.handle_timeout(self.now);
        let Some(Transmit::Message { message, .. }) = self.core.poll_transmit(self.now) else {
            unreachable!("a heartbeat is due at least");
        };
        assert_eq!(self.core.poll_transmit(self.now), None, "all is said at once");
        message
    }

    /// Takes an answer, and what it means for the application: an offer, if it is one.
    fn receive(&mut self, answer: &Bytes) -> Option<RemoteConfigOffer> {
        self.core.handle_received(self.epoch, Received::Binary(answer.clone()), self.now);
        let mut offered = None;
        while let Some(event) = self.core.poll_event() {
            if let Event::RemoteConfig(offer) = black_box(event) {
                offered = Some(offer);
            }
        }
        offered
    }

    fn exchange(&mut self) -> Bytes {
        let sent = self.send();
        let acknowledgement = self.acknowledgement.clone();
        self.receive(&acknowledgement);
        sent
    }

    fn apply(&mut self, offer: &Bytes) -> Bytes {
        let offered = self.receive(offer).expect("it is another configuration than the last");
        self.core.resolve(offered.applied()).expect("it is pending");
        self.exchange()
    }
}

/// A full report is asked for in answer to a heartbeat.
fn asking() -> Bytes {
    let flags = v1::ServerToAgentFlags::ReportFullState as u64;
    from_server(v1::ServerToAgent { flags, ..Default::default() })
}

fn offer(variant: u8) -> Bytes {
    let config = config(variant);
    let config_hash = config_hash(&config).to_bytes();
    let offer = v1::AgentRemoteConfig { config: Some(config), config_hash };
    from_server(v1::ServerToAgent { remote_config: Some(offer), ..Default::default() })
}

fn heartbeats() -> Repeat {
    let mut agent = Agent::new();
    Box::new(move || {
        black_box(agent.exchange());
    })
}

fn changes() -> Repeat {
    let mut agent = Agent::new();
    let healths = ["ready", "other"].map(health);
    let mut turn = 0;
    Box::new(move || {
        turn = 1 - turn;
        agent.core.set_health(Some(healths[turn].clone()));
        black_box(agent.exchange());
    })
}

fn full_reports() -> Repeat {
    let (mut agent, asking) = (Agent::new(), asking());
    Box::new(move || {
        agent.receive(&asking);
        black_box(agent.exchange());
    })
}

fn offers() -> Repeat {
    let (mut agent, offers) = (Agent::new(), [0, 1].map(offer));
    let mut turn = 0;
    Box::new(move || {
        turn = 1 - turn;
        black_box(agent.apply(&offers[turn]));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use opamp_proto::Message as _;
    use opamp_proto::frame::HeaderPolicy;

    /// Whether a message has a description, a health, a configuration, and what became of an offer.
    fn parts(message: Bytes) -> [bool; 4] {
        let frame = frame::decode(message, HeaderPolicy::Required).expect("a header");
        let message = v1::AgentToServer::decode(frame.body).expect("a message");
        [
            message.agent_description.is_some(),
            message.health.is_some(),
            message.effective_config.is_some(),
            message.remote_config_status.is_some(),
        ]
    }

    #[test]
    fn what_is_measured_does_what_it_says() {
        let mut agent = Agent::new();
        for turn in 0..4 {
            assert_eq!(parts(agent.exchange()), [false; 4]);
            agent.core.set_health(Some(health(&format!("turn {turn}"))));
            assert_eq!(parts(agent.exchange()), [false, true, false, false]);
            assert_eq!(agent.receive(&asking()), None);
            assert_eq!(parts(agent.exchange()), [true; 4]);
            assert_eq!(parts(agent.apply(&offer(turn % 2))), [false, false, false, true]);
        }
    }
}
