//! An agent, its driver, time, and a server that says anything, with the client core.

use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use opamp_client::core::packages::FetchProgress;
use opamp_client::core::{ConnectionKinds, Received};
use opamp_proto::{Message as _, frame, v1};

#[path = "client/saying.rs"]
mod saying;
#[path = "client/setup.rs"]
mod setup;
#[path = "client/world.rs"]
mod world;

use self::saying::{Saying, custom_message};
use self::setup::{Job, Pace, Setup};
use self::world::World;

#[derive(Debug, Arbitrary)]
enum Operation {
    // Of the agent.
    Describe(u8),
    Health(Option<u8>),
    EffectiveConfig(Option<u8>),
    Components(Option<u8>),
    CustomCapabilities(u8),
    Accept(bool),
    AcceptRestart(bool),
    AcceptSettings(u8),
    HeartbeatInterval(u8),
    RequestUid,
    RequestCertificate,
    SendCustomMessage(u8, u8),
    Answer(u8, u8),
    AnswerSettings(u8, u8),
    AnswerPackage(u8, u8),
    Stop,
    /// The process ends, and another one goes on with what was saved.
    Restart(Option<Setup>),
    // Of the driver.
    Finish(Job, u8),
    Progress(u8, u32),
    CertificateDue,
    Network(u8, u8),
    Connected,
    Lose(Option<u16>),
    Break,
    Fail {
        status: u16,
        retry_after: Option<u32>,
    },
    FailRequest {
        kind: u8,
        unsent: bool,
    },
    // Of the server.
    Say(Saying),
    Insist(Saying),
    Live(u8, Option<Saying>),
    Message(Vec<u8>),
    Bytes(Vec<u8>),
    Text,
    Control,
    TooLarge,
    // Of time.
    Wait(u32),
}

impl Operation {
    /// Whether it can happen when the client has stopped: nobody has a handle or a connection then.
    fn may_follow_the_stop(&self) -> bool {
        matches!(self, Self::Restart(_) | Self::Finish(..) | Self::Wait(_))
    }
}

/// One input.
pub(crate) fn run(bytes: &[u8]) {
    let input = Unstructured::new(bytes);
    if let Ok((setup, operations)) = <(Setup, Vec<Operation>)>::arbitrary_take_rest(input) {
        let mut world = World::new(setup);
        world.drive();
        for operation in operations {
            operate(&mut world, operation);
            world.drive();
        }
    }
}

fn operate(world: &mut World, operation: Operation) {
    if world.core.is_stopped() && !operation.may_follow_the_stop() {
        return;
    }
    let now = world.now;
    let core = &mut world.core;
    match operation {
        Operation::Describe(value) => core.set_description(setup::description(value)),
        Operation::Health(value) => core.set_health(value.map(setup::health)),
        Operation::EffectiveConfig(value) => core.set_effective_config(value.map(setup::effective)),
        Operation::Components(value) => {
            core.set_available_components(value.map(setup::components));
        }
        Operation::CustomCapabilities(mask) => {
            core.set_custom_capabilities(setup::capabilities(mask));
        }
        Operation::Accept(accept) => core.set_accepts_remote_config(accept),
        Operation::AcceptRestart(accept) => core.set_accepts_restart(accept),
        Operation::AcceptSettings(kinds) => {
            core.set_accepted_settings(ConnectionKinds::from_bits_truncate(kinds));
        }
        Operation::HeartbeatInterval(value) => {
            core.set_heartbeat_interval(setup::seconds(value), now);
        }
        Operation::RequestUid => core.request_instance_uid(),
        Operation::RequestCertificate => core.request_certificate(),
        Operation::SendCustomMessage(name, size) => world.send(custom_message(name, size)),
        Operation::Answer(which, how) => world.answer(which, how),
        Operation::AnswerSettings(which, how) => world.answer_settings(which, how),
        Operation::AnswerPackage(which, how) => world.answer_package(which, how),
        Operation::Stop => core.stop(now),
        Operation::Restart(setup) => world.restart(setup),
        Operation::Finish(job, how) => world.finish(job, how),
        Operation::Progress(which, received) => {
            if let Some(ticket) = world.download(which) {
                let received = received.into();
                let total = (which > 127).then_some(1 << 20);
                let progress = FetchProgress { received, total };
                world.core.handle_fetch_progress(ticket, progress, now);
            }
        }
        Operation::CertificateDue => core.handle_certificate_due(),
        Operation::Network(reachable, how) => world.network = (reachable, how),
        Operation::Connected => world.connected(),
        Operation::Lose(code) => world.lose(Some(code)),
        Operation::Break => world.lose(None),
        Operation::Fail { status, retry_after } => {
            let retry_after = retry_after.map(|seconds| Duration::from_secs(seconds.into()));
            world.fail(status, retry_after);
        }
        Operation::FailRequest { kind, unsent } => world.fail_request(kind, unsent),
        Operation::Say(saying) => {
            let message = saying.message(core.instance_uid());
            world.say(&message);
        }
        Operation::Insist(saying) => insist(world, Some(&saying)),
        Operation::Live(times, saying) => live(world, times, saying.as_ref()),
        Operation::Message(bytes) => {
            if let Ok(message) = v1::ServerToAgent::decode(&*bytes) {
                let instance_uid = core.instance_uid().to_bytes();
                world.say(&v1::ServerToAgent { instance_uid, ..message });
            }
        }
        Operation::Bytes(bytes) => world.receive_bytes(bytes.into()),
        Operation::Text => world.receive(Received::Text),
        Operation::Control => world.receive(Received::Control),
        Operation::TooLarge => world.receive(Received::TooLarge),
        Operation::Wait(millis) => world.now += Duration::from_millis(millis.into()),
    }
}

/// The server says the same to everything, or acknowledges it, until there is nothing to answer.
fn insist(world: &mut World, saying: Option<&Saying>) {
    let acknowledgement = v1::ServerToAgent::default();
    let mut exchanges = 0;
    while world.is_answer_owed() {
        exchanges += 1;
        assert!(exchanges < 256, "the client and the server go on for ever");
        let uid = world.core.instance_uid();
        let message = saying.map_or_else(|| acknowledgement.clone(), |said| said.message(uid));
        world.say(&message);
        world.drive();
    }
}

/// The server answers everything, from one deadline to the next.
fn live(world: &mut World, times: u8, saying: Option<&Saying>) {
    let start = world.now;
    for step in 0..u32::from(times) {
        insist(world, saying);
        let Some(due) = world.core.poll_timeout() else { return };
        assert!(due > world.now, "what is due is done");
        world.now = due;
        world.drive();
        let elapsed = world.now.saturating_duration_since(start).as_secs();
        let often = u64::from(step) > 150 + 50 * elapsed;
        assert!(!often || world.setup.pace != Pace::Usual, "deadlines do not follow each other so");
    }
}

/// Any instant will do as an origin.
#[allow(clippy::disallowed_methods, reason = "any instant will do as an origin")]
fn origin() -> Instant {
    Instant::now()
}

fn framed(message: &v1::ServerToAgent) -> Received {
    Received::Binary(frame::encode(message))
}
