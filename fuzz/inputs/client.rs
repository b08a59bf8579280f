//! An agent, time, and a server that says anything, with the client core.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use opamp_client::core::{
    ClientConfig, ClientCore, ClientState, ConnectionAction, Epoch, Event, Failure, FailureKind,
    Loss, Received, RemoteConfigOffer, Response, Ticket, Transmit, Transport,
};
use opamp_proto::{InstanceUid, Message as _, frame, v1};

#[derive(Debug, Arbitrary)]
enum Operation {
    Health(u8),
    EffectiveConfig(Option<u8>),
    Accept(bool),
    Answer(u8),
    Say(Saying),
    Bytes(Vec<u8>),
    Text,
    TooLarge,
    Lose(Option<u16>),
    Fail { status: u16, retry_after: Option<u32> },
    Wait(u32),
    Stop,
}

/// A message of the server, well formed but not always sensible.
#[derive(Debug, Arbitrary)]
struct Saying {
    uid: Option<Vec<u8>>,
    flags: u64,
    capabilities: u64,
    config: Option<(Vec<u8>, Option<u8>)>,
    new_uid: Option<Vec<u8>>,
    error: Option<(i32, Option<u64>)>,
    command: Option<i32>,
}

impl Saying {
    fn message(self, uid: InstanceUid) -> v1::ServerToAgent {
        let file = |body: u8| v1::AgentConfigFile { body: vec![body].into(), ..Default::default() };
        v1::ServerToAgent {
            instance_uid: self.uid.map_or_else(|| uid.to_bytes(), Into::into),
            flags: self.flags,
            capabilities: self.capabilities,
            remote_config: self.config.map(|(hash, body)| v1::AgentRemoteConfig {
                config_hash: hash.into(),
                config: body.map(|body| v1::AgentConfigMap {
                    config_map: [(String::new(), file(body))].into(),
                }),
            }),
            agent_identification: self
                .new_uid
                .map(|uid| v1::AgentIdentification { new_instance_uid: uid.into() }),
            error_response: self.error.map(|(kind, pause)| v1::ServerErrorResponse {
                r#type: kind,
                details: pause.map(|nanos| {
                    v1::server_error_response::Details::RetryInfo(v1::RetryInfo {
                        retry_after_nanoseconds: nanos,
                    })
                }),
                ..Default::default()
            }),
            command: self.command.map(|kind| v1::ServerToAgentCommand { r#type: kind }),
            ..Default::default()
        }
    }
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok(input) = <(bool, Vec<Operation>)>::arbitrary_take_rest(input) {
        play(input);
    }
}

#[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn play(input: (bool, Vec<Operation>)) {
    let (http, operations) = input;
    let mut now = Instant::now();
    let description = v1::AgentDescription {
        identifying_attributes: vec![v1::KeyValue::new("service.name", "fuzzed")],
        ..Default::default()
    };
    let uid = InstanceUid::from_parts(1, [1; 10]);
    let mut config = ClientConfig::new(ClientState::new(uid), description);
    config.transport = if http { Transport::Http } else { Transport::WebSocket };
    config.accepts_remote_config = true;
    config.accepts_restart = true;
    let mut core = ClientCore::new(config, now).expect("the configuration works");
    let mut epoch: Option<Epoch> = None;
    let mut ticket: Option<Ticket> = None;
    let mut offer: Option<RemoteConfigOffer> = None;
    let mut last = 0;

    for operation in operations {
        match operation {
            Operation::Health(value) => core.set_health(Some(v1::ComponentHealth {
                status: value.to_string(),
                ..Default::default()
            })),
            Operation::EffectiveConfig(value) => {
                core.set_effective_config(value.map(|_| v1::EffectiveConfig::default()));
            }
            Operation::Accept(accept) => core.set_accepts_remote_config(accept),
            Operation::Answer(how) => {
                if let Some(offer) = offer.take() {
                    let _ = core.resolve(match how % 3 {
                        0 => offer.applying(),
                        1 => offer.applied(),
                        _ => offer.failed("fuzzed"),
                    });
                }
            }
            Operation::Say(saying) => {
                let message = saying.message(core.instance_uid());
                if let Some(ticket) = ticket.take() {
                    let body = message.encode_to_vec().into();
                    core.handle_response(
                        ticket,
                        Response { status: 200, retry_after: None, body },
                        now,
                    );
                } else if let Some(epoch) = epoch {
                    core.handle_received(epoch, Received::Binary(frame::encode(&message)), now);
                }
            }
            Operation::Bytes(bytes) => {
                if let Some(ticket) = ticket.take() {
                    let response = Response { status: 200, retry_after: None, body: bytes.into() };
                    core.handle_response(ticket, response, now);
                } else if let Some(epoch) = epoch {
                    core.handle_received(epoch, Received::Binary(bytes.into()), now);
                }
            }
            Operation::Text => {
                if let Some(epoch) = epoch {
                    core.handle_received(epoch, Received::Text, now);
                }
            }
            Operation::TooLarge => {
                if let Some(epoch) = epoch {
                    core.handle_received(epoch, Received::TooLarge, now);
                }
            }
            Operation::Lose(code) => {
                if let Some(epoch) = epoch {
                    let loss = Loss::Closed { code, reason: String::new() };
                    core.handle_connection_lost(epoch, loss, now);
                }
            }
            Operation::Fail { status, retry_after } => {
                if let Some(ticket) = ticket.take() {
                    let retry_after =
                        retry_after.map(|seconds| Duration::from_secs(seconds.into()));
                    let response = Response { status, retry_after, body: Default::default() };
                    core.handle_response(ticket, response, now);
                } else if let Some(epoch) = epoch {
                    let failure =
                        Failure { kind: FailureKind::Unreachable, message: String::new() };
                    core.handle_connect_failed(epoch, failure, None, now);
                }
            }
            Operation::Wait(millis) => now += Duration::from_millis(millis.into()),
            Operation::Stop => core.stop(now),
        }
        core.handle_timeout(now);
        let mut messages = 0;
        loop {
            while let Some(action) = core.poll_connection(now) {
                if let ConnectionAction::Connect { epoch: new, .. } = action {
                    epoch = Some(new);
                    core.handle_connected(new, now);
                }
                messages += 1;
                assert!(messages < 64, "settling ends");
            }
            let Some(transmit) = core.poll_transmit(now) else { break };
            messages += 1;
            assert!(messages < 64, "settling ends");
            let body = match transmit {
                Transmit::Message { message, .. } => message.slice(1..),
                Transmit::Request { ticket: new, body, .. } => {
                    assert!(ticket.is_none(), "one request at a time");
                    ticket = Some(new);
                    body
                }
                Transmit::Ping { .. } => continue,
            };
            let message = v1::AgentToServer::decode(body).expect("the client sends AgentToServer");
            assert_eq!(message.sequence_num, last + 1);
            last = message.sequence_num;
        }
        let mut events = 0;
        while let Some(event) = core.poll_event() {
            events += 1;
            assert!(events < 256, "events are bounded");
            if let Event::RemoteConfig(new) = event {
                offer = Some(new);
            }
        }
    }
}
