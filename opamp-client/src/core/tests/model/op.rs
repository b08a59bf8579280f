//! What can happen: to the application, the network, the server.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use opamp_proto::{Message, ServerCapabilities, frame, v1};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::core::{BackoffConfig, ClientConfig, CustomCapabilities, Received, Transport};

use super::super::pair;
use super::super::values::{effective, health};

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// The application changes what is reported; equal numbers are equal values.
    Describe(u8),
    Health(Option<u8>),
    Effective(Option<u8>),
    /// The components the agent has; there is one at least.
    Components(Option<u8>),
    /// Whether the agent announces a custom capability.
    Custom(bool),
    /// The application has a custom message to send.
    Send,
    AcceptConfig(bool),
    AcceptRestart(bool),
    /// The application takes its events, and keeps the offers among them.
    TakeEvents,
    /// The application answers one of the offers it has, old ones included.
    Resolve(prop::sample::Index, Outcome),
    /// The agent crashes and is started again with what it saved.
    Crash,
    Wait(Duration),
    /// One message reaches the server, and its reply is under way.
    ToServer,
    /// One message of the server reaches the client.
    ToClient,
    /// Everything that is under way arrives.
    Deliver,
    /// The connection breaks, or the response is lost, after this many messages reached the server.
    Break(usize),
    /// The server closes the WebSocket.
    Close(u16),
    /// What becomes of the next attempt to connect.
    Dial(Dial),
    /// Whether the transport takes messages.
    Block(bool),
    /// The request gets a response without a message.
    Status(u16, Option<Duration>),
    /// The server has something to say.
    Push(Push),
    /// Something that is no message of the server reaches the client.
    Junk(Received),
    /// Whether the server answers at all, and whether it asks for full state in every answer.
    Behave {
        silent: bool,
        always_full: bool,
    },
    /// The server restarts and has forgotten the agent.
    Forget,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Applying,
    Applied,
    AppliedWith(u8),
    Failed,
}

#[derive(Debug, Clone)]
pub(super) enum Dial {
    Hang,
    Refused,
    Throttled(Option<Duration>),
}

#[derive(Debug, Clone)]
pub(super) enum Push {
    Nothing,
    Offer {
        hash: u8,
        body: u8,
    },
    Flags(u64),
    Mask(u64),
    NewUid(Vec<u8>),
    Command(i32),
    CustomMessage,
    /// The server announces the custom capability, or takes it back.
    Announce(bool),
    /// A message for another agent.
    Foreign,
    /// An error in place of the next answer.
    Error(i32, Option<Duration>),
}

fn seconds(longest: u64) -> impl Strategy<Value = Duration> {
    (0..longest * 1000).prop_map(Duration::from_millis)
}

/// What the application does.
pub(super) fn application() -> impl Strategy<Value = Op> + Clone {
    let outcome = prop_oneof![
        Just(Outcome::Applying),
        Just(Outcome::Applied),
        (0..3_u8).prop_map(Outcome::AppliedWith),
        Just(Outcome::Failed),
    ];
    prop_oneof![
        3 => (0..3_u8).prop_map(Op::Describe),
        6 => option::weighted(0.9, 0..4_u8).prop_map(Op::Health),
        4 => option::weighted(0.8, 0..3_u8).prop_map(Op::Effective),
        3 => option::weighted(0.8, 0..3_u8).prop_map(Op::Components),
        1 => any::<bool>().prop_map(Op::Custom),
        3 => Just(Op::Send),
        1 => any::<bool>().prop_map(Op::AcceptConfig),
        1 => any::<bool>().prop_map(Op::AcceptRestart),
        2 => Just(Op::TakeEvents),
        4 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Op::Resolve(which, outcome)),
    ]
    .boxed()
}

/// What time and the network do, without anything being refused.
pub(super) fn network() -> impl Strategy<Value = Op> + Clone {
    let dial = prop_oneof![
        Just(Dial::Hang),
        Just(Dial::Refused),
        option::of(seconds(100)).prop_map(Dial::Throttled),
    ];
    let status = prop_oneof![Just(401), Just(404), Just(429), Just(500), Just(503), Just(202)];
    prop_oneof![
        8 => seconds(40).prop_map(Op::Wait),
        1 => seconds(400).prop_map(Op::Wait),
        4 => Just(Op::ToServer),
        4 => Just(Op::ToClient),
        8 => Just(Op::Deliver),
        3 => (0..3_usize).prop_map(Op::Break),
        1 => prop_oneof![Just(1000), Just(1001), Just(1011)].prop_map(Op::Close),
        2 => dial.prop_map(Op::Dial),
        1 => any::<bool>().prop_map(Op::Block),
        2 => (status, option::of(seconds(100))).prop_map(|(status, after)| Op::Status(status, after)),
        1 => Just(Op::Crash),
    ]
    .boxed()
}

/// A server that does not always answer.
pub(super) fn silence() -> impl Strategy<Value = Op> + Clone {
    any::<bool>().prop_map(|silent| Op::Behave { silent, always_full: false }).boxed()
}

/// What a server does that talks a lot, and everything it should not do.
pub(super) fn server() -> impl Strategy<Value = Op> + Clone {
    let all = ServerCapabilities::all().to_wire();
    let lacking = all & !ServerCapabilities::ACCEPTS_EFFECTIVE_CONFIG.to_wire();
    let mask = prop_oneof![Just(0), Just(all), Just(lacking), any::<u64>()];
    let uid = prop_oneof![vec(0..3_u8, 16), vec(any::<u8>(), 0..40)];
    let push = prop_oneof![
        2 => Just(Push::Nothing),
        6 => (0..4_u8, 0..3_u8).prop_map(|(hash, body)| Push::Offer { hash, body }),
        4 => (0..4_u64).prop_map(Push::Flags),
        2 => mask.prop_map(Push::Mask),
        1 => uid.prop_map(Push::NewUid),
        1 => (0..3_i32).prop_map(Push::Command),
        1 => Just(Push::CustomMessage),
        2 => any::<bool>().prop_map(Push::Announce),
        1 => Just(Push::Foreign),
    ];
    prop_oneof![
        8 => push.prop_map(Op::Push),
        2 => junk().prop_map(Op::Junk),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(silent, always_full)| Op::Behave { silent, always_full }),
        1 => Just(Op::Forget),
    ]
    .boxed()
}

/// A server that refuses what it is told.
pub(super) fn refusals() -> impl Strategy<Value = Op> + Clone {
    let error = (0..4_i32, option::of(seconds(100)));
    prop_oneof![
        4 => error.prop_map(|(kind, after)| Op::Push(Push::Error(kind, after))),
        2 => prop_oneof![Just(400), Just(413)].prop_map(|status| Op::Status(status, None)),
        1 => Just(Op::Close(1009)),
    ]
    .boxed()
}

fn junk() -> impl Strategy<Value = Received> {
    let bytes = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 0..40).prop_map(|mut bytes| {
            bytes.insert(0, 0);
            bytes
        }),
        // A good message with one byte that is not.
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
            let message = v1::ServerToAgent {
                capabilities: 7,
                remote_config: Some(v1::AgentRemoteConfig {
                    config: Some(v1::AgentConfigMap::default()),
                    config_hash: Bytes::from_static(b"junk"),
                }),
                ..Default::default()
            };
            let mut bytes = Vec::with_capacity(frame::encoded_len(&message));
            bytes.push(frame::HEADER);
            bytes.extend(message.encode_to_vec());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
    ];
    prop_oneof![
        4 => bytes.prop_map(|bytes| Received::Binary(bytes.into())),
        1 => Just(Received::Text),
        1 => Just(Received::Control),
        1 => Just(Received::TooLarge),
    ]
}

/// Agents of all sorts. What a server can impose is kept short, so that runs end.
pub(super) fn agent() -> impl Strategy<Value = ClientConfig> {
    (any::<bool>(), any::<[bool; 7]>(), any::<[bool; 2]>(), any::<u64>()).prop_map(
        |(websocket, given, [has_components, has_custom], seed)| {
            let [has_health, has_effective, accepts, restarts, beats, pings, asks] = given;
            let transport = if websocket { Transport::WebSocket } else { Transport::Http };
            let config = pair::config(transport);
            ClientConfig {
                health: has_health.then(|| health("starting")),
                available_components: has_components.then(|| components(0)),
                custom_capabilities: capabilities(has_custom),
                effective_config: has_effective.then(|| effective("receivers: {}")),
                accepts_remote_config: accepts,
                accepts_restart: restarts,
                heartbeat_interval: beats.then_some(Duration::from_secs(30)),
                ping_interval: pings.then_some(Duration::from_secs(30)),
                request_instance_uid: asks,
                backoff: BackoffConfig {
                    max_retry_after: Duration::from_secs(90),
                    ..BackoffConfig::default()
                },
                seed,
                ..config
            }
        },
    )
}

/// The one custom capability of these agents, where they have it.
const CUSTOM: &str = "com.example.custom";

pub(super) fn capabilities(has: bool) -> CustomCapabilities {
    CustomCapabilities::new(has.then_some(CUSTOM)).expect("a good name")
}

pub(super) fn custom_list(has: bool) -> v1::CustomCapabilities {
    v1::CustomCapabilities { capabilities: has.then(|| CUSTOM.to_owned()).into_iter().collect() }
}

/// A custom message that differs from the others.
pub(super) fn custom_message(number: u64) -> v1::CustomMessage {
    v1::CustomMessage {
        capability: CUSTOM.to_owned(),
        r#type: "number".to_owned(),
        data: number.to_string().into(),
    }
}

pub(super) fn components(n: u8) -> BTreeMap<String, v1::ComponentDetails> {
    let component = v1::ComponentDetails {
        metadata: vec![v1::KeyValue::new("version", n.to_string())],
        ..Default::default()
    };
    [("receiver".to_owned(), component)].into()
}
