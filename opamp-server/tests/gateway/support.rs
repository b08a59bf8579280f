//! A gateway in virtual time, and hand-made messages.
#![allow(
    clippy::disallowed_methods,
    reason = "the one look at the clock that virtual time starts from"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use opamp_proto::{Message as _, v1};
use opamp_server::gateway::{DownstreamId, FromAgent, Gateway, GatewayConfig, ToAgent};

pub(crate) struct Bench {
    pub(crate) gateway: Gateway,
    pub(crate) now: Instant,
}

impl Bench {
    /// A gateway with all its upstream connections open.
    pub(crate) fn new(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut bench = Self::closed(adjust);
        for slot in 0..bench.gateway.config().connections {
            bench.gateway.upstream_opened(slot, bench.now);
        }
        bench
    }

    pub(crate) fn closed(adjust: impl FnOnce(&mut GatewayConfig)) -> Self {
        let mut config = GatewayConfig::default();
        adjust(&mut config);
        let now = Instant::now();
        Self { gateway: Gateway::new(config, now), now }
    }

    /// Lets time pass, doing what becomes due on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.gateway.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.gateway.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub(crate) fn send(&mut self, from: DownstreamId, message: &v1::AgentToServer) {
        self.send_bytes(from, &message.encode_to_vec());
    }

    pub(crate) fn send_bytes(&mut self, from: DownstreamId, message: &[u8]) {
        let message = FromAgent::read(Bytes::copy_from_slice(message));
        self.gateway.receive(from, message, self.now);
    }

    /// An Agent connects and reports; the Server acknowledges.
    pub(crate) fn connect(&mut self, uid: u8) -> DownstreamId {
        let agent = self.gateway.open_websocket();
        self.send(agent, &report(uid, 1));
        let slot = (0..self.gateway.config().connections).find(|slot| {
            let sent = self.gateway.poll_upstream(*slot);
            sent.is_some_and(|sent| sent == report(uid, 1).encode_to_vec())
        });
        self.reply(slot.expect("it was passed on"), &masked(uid));
        assert_eq!(self.received(agent), [masked(uid)]);
        agent
    }

    pub(crate) fn post(&mut self, message: &v1::AgentToServer) -> DownstreamId {
        let request = self.gateway.open_request();
        self.send(request, message);
        request
    }

    /// What the Server got on a connection.
    pub(crate) fn at_server(&mut self, slot: usize) -> Vec<v1::AgentToServer> {
        let sent = std::iter::from_fn(|| self.gateway.poll_upstream(slot));
        sent.map(|sent| v1::AgentToServer::decode(sent).unwrap()).collect()
    }

    /// The Server says something on a connection.
    pub(crate) fn reply(&mut self, slot: usize, message: &v1::ServerToAgent) {
        self.gateway.receive_upstream(slot, message.encode_to_vec().into(), self.now);
    }

    pub(crate) fn polled(&mut self, id: DownstreamId) -> Vec<ToAgent> {
        std::iter::from_fn(|| self.gateway.poll_downstream(id)).collect()
    }

    /// The messages an Agent got, and nothing else.
    pub(crate) fn received(&mut self, id: DownstreamId) -> Vec<v1::ServerToAgent> {
        let decode = |polled| match polled {
            ToAgent::Message(message) => v1::ServerToAgent::decode(message).unwrap(),
            other => panic!("{other:?}"),
        };
        self.polled(id).into_iter().map(decode).collect()
    }
}

pub(crate) fn uid(uid: u8) -> Bytes {
    vec![uid; 16].into()
}

/// A heartbeat.
pub(crate) fn report(of: u8, sequence_num: u64) -> v1::AgentToServer {
    v1::AgentToServer {
        instance_uid: uid(of),
        sequence_num,
        capabilities: 0x2005,
        ..Default::default()
    }
}

pub(crate) fn goodbye(of: u8, sequence_num: u64) -> v1::AgentToServer {
    v1::AgentToServer { agent_disconnect: Some(v1::AgentDisconnect {}), ..report(of, sequence_num) }
}

/// A bare acknowledgement.
pub(crate) fn ack(of: u8) -> v1::ServerToAgent {
    v1::ServerToAgent { instance_uid: uid(of), ..Default::default() }
}

/// The first message of a session.
pub(crate) fn masked(of: u8) -> v1::ServerToAgent {
    v1::ServerToAgent { capabilities: 7, ..ack(of) }
}

/// An offer that can be told from others.
pub(crate) fn offer(of: u8, number: u8) -> v1::ServerToAgent {
    let remote_config =
        v1::AgentRemoteConfig { config_hash: vec![number; 32].into(), ..Default::default() };
    v1::ServerToAgent { remote_config: Some(remote_config), ..ack(of) }
}

/// The pause of a message that says no more than UNAVAILABLE.
pub(crate) fn pause(message: &v1::ServerToAgent) -> Duration {
    let error = message.error_response.as_ref().expect("an error");
    let rest = v1::ServerToAgent {
        instance_uid: message.instance_uid.clone(),
        error_response: message.error_response.clone(),
        ..Default::default()
    };
    assert_eq!(*message, rest, "ERR-03");
    assert_eq!(error.r#type(), v1::ServerErrorResponseType::Unavailable);
    match &error.details {
        Some(v1::server_error_response::Details::RetryInfo(info)) => {
            Duration::from_nanos(info.retry_after_nanoseconds)
        }
        None => panic!("no pause"),
    }
}
