//! Remote configurations and commands: what is offered to whom, and how often (reading A32).

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opamp_proto::v1::RemoteConfigStatuses::{Applied, Applying, Failed, Unset};
use opamp_proto::{AgentCapabilities as Does, Message, v1};
use opamp_server::fleet::RouteWaker;
use opamp_server::{
    AgentKey, CustomCapabilities, OperationError, Outcome, RemoteConfig, Transport,
};
use proptest::prelude::*;
use support::{Bench, bare, config_status, full_report, heartbeat, remote_config, wire};

const UID: [u8; 16] = [7; 16];
const MASK: Does = Does::REPORTS_STATUS
    .union(Does::ACCEPTS_REMOTE_CONFIG)
    .union(Does::REPORTS_REMOTE_CONFIG)
    .union(Does::ACCEPTS_RESTART_COMMAND);
/// Accepts configurations but never says which it has.
const MUTE: Does = Does::REPORTS_STATUS.union(Does::ACCEPTS_REMOTE_CONFIG);

fn status_report(number: u64, hash: &[u8], status: v1::RemoteConfigStatuses) -> v1::AgentToServer {
    v1::AgentToServer {
        remote_config_status: Some(config_status(hash, status)),
        ..heartbeat(&UID, number, MASK)
    }
}

fn offers(reply: &v1::ServerToAgent, config: &RemoteConfig) -> bool {
    match &reply.remote_config {
        None => false,
        Some(offer) => {
            assert_eq!(offer.config_hash, config.hash().to_bytes());
            assert_eq!(offer.config, Some(config.to_message()));
            true
        }
    }
}

#[test]
fn a_differing_hash_gets_the_config_and_an_equal_one_gets_nothing() {
    let _judged = opamp_spec::judges(&["CFG-01", "CFG-18", "CFG-19", "CFG-24", "CFG-25"]);
    let mut bench = Bench::new();
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut route = bench.websocket();
    assert!(offers(&bench.send(&mut route, &full_report(&UID, 1, MASK)), &config));
    let hash = config.hash().to_bytes();
    for (number, status) in [(2, Applying), (3, Failed), (4, Applied)] {
        assert_eq!(bench.send(&mut route, &status_report(number, &hash, status)), bare(&UID));
    }
    assert!(offers(&bench.send(&mut route, &status_report(5, b"other", Applied)), &config));
    // The status is omitted: the last one counts.
    bench.advance(Duration::from_secs(60));
    assert!(offers(&bench.send(&mut route, &heartbeat(&UID, 6, MASK)), &config));
}

/// Agents in the order in which their connections were told to push.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<AgentKey>>>);

impl RouteWaker for Order {
    fn wake(&self, key: &AgentKey) {
        self.0.lock().unwrap().push(*key);
    }
}

#[test]
fn a_config_for_all_goes_to_connections_in_the_order_they_came_in() {
    let mut bench = Bench::new();
    let order = Order::default();
    let agents: Vec<_> = (0..100).map(|number| [number; 16]).collect();
    let routes: Vec<_> = agents
        .iter()
        .map(|uid| {
            let waker: Arc<dyn RouteWaker> = Arc::new(order.clone());
            let mut route = bench.fleet.open_route(Transport::WebSocket, None, (), Some(waker));
            bench.send(&mut route, &full_report(uid, 1, MASK));
            route
        })
        .collect();
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    let expected: Vec<_> = agents.iter().map(|uid| AgentKey::from(wire(uid))).collect();
    assert_eq!(*order.0.lock().unwrap(), expected);
    drop(routes);
}

#[test]
fn an_agent_that_does_not_accept_configs_gets_none() {
    let _judged = opamp_spec::judges(&["CFG-03", "CAP-04", "INTEROP-03"]);
    let mut bench = Bench::new();
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut route = bench.websocket();
    let without = MASK.difference(Does::ACCEPTS_REMOTE_CONFIG);
    let reply = bench.send(&mut route, &full_report(&UID, 1, without));
    assert_eq!(reply.remote_config, None);
    assert_eq!(bench.pushes(&route, &UID), []);
    // It can change its mind at run time, both ways.
    assert!(offers(&bench.send(&mut route, &heartbeat(&UID, 2, MASK)), &config));
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, without)), bare(&UID));
}

#[test]
fn an_offer_is_repeated_after_a_pause_only() {
    let mut bench = Bench::new();
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut route = bench.websocket();
    assert!(offers(&bench.send(&mut route, &full_report(&UID, 1, MASK)), &config));
    bench.advance(Duration::from_millis(59_999));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
    bench.advance(Duration::from_millis(1));
    assert!(offers(&bench.send(&mut route, &heartbeat(&UID, 3, MASK)), &config));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 4, MASK)), bare(&UID));
}

#[test]
fn an_agent_without_a_status_is_offered_once_a_session_and_on_change() {
    let mut bench = Bench::new();
    let (first, second) = (remote_config("a"), remote_config("b"));
    bench.fleet.set_default_remote_config(first.clone()).unwrap();
    let mut route = bench.websocket();
    assert!(offers(&bench.send(&mut route, &full_report(&UID, 1, MUTE)), &first));
    bench.advance(Duration::from_secs(3600));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MUTE)), bare(&UID));
    bench.fleet.set_default_remote_config(second.clone()).unwrap();
    assert!(offers(&bench.send(&mut route, &heartbeat(&UID, 3, MUTE)), &second));
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    assert!(offers(&bench.send(&mut route, &heartbeat(&UID, 4, MUTE)), &second));
}

#[test]
fn a_new_config_is_pushed_at_once_and_once() {
    let _judged = opamp_spec::judges(&["CFG-09", "STATUS-09", "ID-10"]);
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    assert_eq!(woken.take(), [wire(&UID).into()]);
    let pushes = bench.pushes(&route, &UID);
    assert_eq!(pushes.len(), 1);
    assert!(offers(&pushes[0], &config));
    assert_eq!(pushes[0].instance_uid, &UID[..]);
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
}

#[test]
fn an_agents_own_config_goes_before_the_one_for_all() {
    let mut bench = Bench::new();
    let (all, own) = (remote_config("all"), remote_config("own"));
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    bench.fleet.set_remote_config(wire(&UID), own.clone()).unwrap();
    bench.fleet.set_default_remote_config(all.clone()).unwrap();
    assert!(offers(&bench.pushes(&route, &UID)[0], &own));
    let agent = bench.fleet.agent(wire(&UID)).unwrap();
    let state = agent.remote_config().unwrap();
    assert_eq!(state.hash(), own.hash().into());
    assert!(state.is_own());
    bench.fleet.clear_remote_config(wire(&UID)).unwrap();
    assert!(offers(&bench.pushes(&route, &UID)[0], &all));
    bench.fleet.clear_default_remote_config();
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
}

#[test]
fn over_http_the_offer_waits_for_the_next_request() {
    let _judged = opamp_spec::judges(&["HTTP-10"]);
    let mut bench = Bench::new();
    let _ = bench.post(&full_report(&UID, 1, MASK));
    let config = remote_config("a");
    bench.fleet.set_remote_config(wire(&UID), config.clone()).unwrap();
    assert_eq!(bench.pushes(&bench.http(), &UID), []);
    let reply = bench.post(&heartbeat(&UID, 2, MASK));
    assert!(offers(&reply, &config));
    assert_eq!(reply.capabilities, support::SERVER_MASK, "in every response");
    assert!(!offers(&bench.post(&heartbeat(&UID, 3, MASK)), &config));
    // The same number again: the response with the offer did not arrive.
    assert!(offers(&bench.post(&heartbeat(&UID, 3, MASK)), &config));
}

#[test]
fn an_agent_that_answers_every_offer_wrongly_is_not_fed_in_a_loop() {
    let mut bench = Bench::new();
    let config = remote_config("a");
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 0, MASK));
    let answers = (1..1000).map(|number| {
        let status = if number % 2 == 0 { Applying } else { Failed };
        offers(&bench.send(&mut route, &status_report(number, b"wrong", status)), &config)
    });
    assert_eq!(answers.filter(|offered| *offered).count(), 7, "eight with the first");
    // After a pause there are as many again, and no more.
    bench.advance(Duration::from_secs(60));
    let answers = (1000..2000).map(|number| {
        let status = if number % 2 == 0 { Applying } else { Failed };
        offers(&bench.send(&mut route, &status_report(number, b"wrong", status)), &config)
    });
    assert_eq!(answers.filter(|offered| *offered).count(), 8);
}

#[test]
fn an_outcome_is_final_when_nothing_more_is_to_be_expected() {
    let last = [Outcome::Applied, Outcome::Failed, Outcome::Superseded];
    let open = [
        Outcome::Pending,
        Outcome::Sent,
        Outcome::Applying,
        Outcome::NotAccepted,
        Outcome::TimedOut,
    ];
    assert!(last.into_iter().all(Outcome::is_final));
    assert!(!open.into_iter().any(Outcome::is_final));
}

#[test]
fn an_oversized_config_is_refused_when_it_is_set() {
    let _judged = opamp_spec::judges(&["SIZE-12", "SIZE-30"]);
    let limit = 1000;
    let bench = Bench::with(|config| config.limits = config.limits.with_max_send(limit));
    let fits = remote_config(&"x".repeat(800));
    bench.fleet.set_default_remote_config(fits.clone()).unwrap();
    let error = bench.fleet.set_default_remote_config(remote_config(&"x".repeat(900)));
    assert!(matches!(error, Err(OperationError::TooLarge { limit: 1000, size }) if size > 1000));
    assert_eq!(bench.fleet.default_remote_config(), Some(fits));
}

#[test]
fn a_config_that_just_fits_is_taken() {
    let config = remote_config(&"x".repeat(500));
    let limit = config.encoded_len() + opamp_server::core::MAX_HEAD;
    let set = |limit| {
        let bench = Bench::with(|server| server.limits = server.limits.with_max_send(limit));
        bench.fleet.set_default_remote_config(config.clone())
    };
    assert_eq!(set(limit), Ok(()));
    assert_eq!(set(limit - 1), Err(OperationError::TooLarge { size: limit, limit: limit - 1 }));
}

#[test]
fn a_config_leaves_room_for_the_custom_capabilities_that_are_announced() {
    let _judged = opamp_spec::judges(&["SIZE-12"]);
    let names: Vec<_> = (0..60).map(|number| format!("org.example.capability{number}")).collect();
    let config = remote_config(&"x".repeat(500));
    let start = |limit| {
        Bench::with(|server| {
            server.limits = server.limits.with_max_send(limit);
            server.custom_capabilities = CustomCapabilities::new(&names).unwrap();
        })
    };
    let announced = v1::ServerToAgent {
        custom_capabilities: Some(v1::CustomCapabilities { capabilities: names.clone() }),
        ..Default::default()
    };
    let limit = config.encoded_len() + opamp_server::core::MAX_HEAD + announced.encoded_len();
    let refused = start(limit - 1).fleet.set_default_remote_config(config.clone());
    assert_eq!(refused, Err(OperationError::TooLarge { size: limit, limit: limit - 1 }));
    let mut bench = start(limit);
    bench.fleet.set_default_remote_config(config.clone()).unwrap();
    let reply = bench.post(&full_report(&UID, 5, MASK));
    assert!(offers(&reply, &config) && reply.custom_capabilities.is_some());
    assert!(reply.encoded_len() <= limit);
}

#[test]
fn a_config_is_not_shown_when_it_is_debugged() {
    let config = remote_config("password: secret");
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains(&config.hash().to_string()) && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_restart_is_pushed_alone_and_once() {
    let _judged = opamp_spec::judges(&["CMD-01"]);
    let mut bench = Bench::new();
    let (mut route, _woken) = bench.woken_websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, MASK));
    let config = remote_config("a");
    bench.fleet.set_remote_config(wire(&UID), config.clone()).unwrap();
    bench.fleet.restart(wire(&UID), bench.now.instant).unwrap();
    let pushes = bench.pushes(&route, &UID);
    let command = Some(v1::ServerToAgentCommand::default());
    assert_eq!(pushes[0], v1::ServerToAgent { command, ..bare(&UID) });
    assert!(offers(&pushes[1], &config));
    assert_eq!(pushes.len(), 2);
}

#[test]
fn a_restart_that_waits_follows_the_next_reply() {
    let _judged = opamp_spec::judges(&["CMD-01"]);
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let (_, received) = bench.send_bytes(&mut route, &full_report(&UID, 1, MASK).encode_to_vec());
    assert!(!received.push);
    let _ = bench.fleet.close_route(route);
    bench.fleet.restart(wire(&UID), bench.now.instant).unwrap();
    let mut route = bench.websocket();
    let (reply, received) = bench.send_bytes(&mut route, &heartbeat(&UID, 2, MASK).encode_to_vec());
    assert!(reply.command.is_none() && received.push);
    let command = Some(v1::ServerToAgentCommand::default());
    assert_eq!(bench.pushes(&route, &UID), [v1::ServerToAgent { command, ..bare(&UID) }]);
    let (_, received) = bench.send_bytes(&mut route, &heartbeat(&UID, 3, MASK).encode_to_vec());
    assert!(!received.push);
}

#[test]
fn over_http_a_restart_goes_alone_and_the_rest_waits() {
    let _judged = opamp_spec::judges(&["CMD-01"]);
    let mut bench = Bench::new();
    let _ = bench.post(&full_report(&UID, 1, MASK));
    let config = remote_config("a");
    bench.fleet.set_remote_config(wire(&UID), config.clone()).unwrap();
    bench.fleet.restart(wire(&UID), bench.now.instant).unwrap();
    // Even a gap has to wait.
    let reply = bench.post(&heartbeat(&UID, 5, MASK));
    assert_eq!(
        reply,
        v1::ServerToAgent {
            command: Some(v1::ServerToAgentCommand::default()),
            capabilities: support::SERVER_MASK,
            ..bare(&UID)
        }
    );
    let reply = bench.post(&heartbeat(&UID, 6, MASK));
    assert!(offers(&reply, &config));
    assert_eq!(reply.flags, support::FULL_STATE);
    assert_eq!(reply.command, None);
}

#[test]
fn a_restart_is_refused_or_dropped_without_the_capability_and_expires() {
    let _judged = opamp_spec::judges(&["CMD-05", "CAP-04"]);
    let mut bench = Bench::new();
    let without = MASK.difference(Does::ACCEPTS_RESTART_COMMAND);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&UID, 1, without));
    let restart = |bench: &Bench| bench.fleet.restart(wire(&UID), bench.now.instant);
    assert_eq!(restart(&bench), Err(OperationError::NotAccepted));

    let _ = bench.send(&mut route, &heartbeat(&UID, 2, MASK));
    restart(&bench).unwrap();
    let _ = bench.send(&mut route, &heartbeat(&UID, 3, without));
    assert_eq!(bench.pushes(&route, &UID), []);

    let _ = bench.send(&mut route, &heartbeat(&UID, 4, MASK));
    restart(&bench).unwrap();
    bench.advance(Duration::from_secs(60));
    assert_eq!(bench.pushes(&route, &UID), []);
    assert_eq!(
        bench.fleet.restart(wire(&[1; 16]), bench.now.instant),
        Err(OperationError::UnknownAgent)
    );
}

/// An Agent that applies what it is offered.
#[derive(Debug, Clone)]
enum Step {
    SetAll(u8),
    SetOwn(u8),
    ClearOwn,
    Heartbeat,
    /// Reports the configuration it has.
    Report,
    Reconnect,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..3).prop_map(Step::SetAll),
        (0_u8..3).prop_map(Step::SetOwn),
        Just(Step::ClearOwn),
        Just(Step::Heartbeat),
        Just(Step::Report),
        Just(Step::Reconnect),
        (1_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// Whatever happens, offers are of the configuration that is wanted, never of the one the Agent
    /// reported, and in the end the Agent has it.
    #[test]
    fn an_agent_that_applies_offers_ends_with_the_wanted_config(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let configs: Vec<_> = ["a", "b", "c"].map(remote_config).into();
        let (mut all, mut own) = (None, None);
        let mut has = Vec::new();
        let mut reported = Vec::new();
        let mut number = 0;
        let _ = bench.send(&mut route, &full_report(&UID, number, MASK));
        let last = [Step::Report, Step::Wait(60), Step::Heartbeat, Step::Report];
        for step in steps.into_iter().chain(last) {
            let mut messages = Vec::new();
            match step {
                Step::SetAll(index) => {
                    all = Some(usize::from(index));
                    bench.fleet.set_default_remote_config(configs[usize::from(index)].clone()).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::SetOwn(index) => {
                    own = Some(usize::from(index));
                    bench.fleet.set_remote_config(wire(&UID), configs[usize::from(index)].clone()).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::ClearOwn => {
                    own = None;
                    bench.fleet.clear_remote_config(wire(&UID)).unwrap();
                    messages = bench.pushes(&route, &UID);
                }
                Step::Heartbeat => {
                    number += 1;
                    messages.push(bench.send(&mut route, &heartbeat(&UID, number, MASK)));
                }
                Step::Report => {
                    number += 1;
                    reported = has.clone();
                    let status = if has.is_empty() { Unset } else { Applied };
                    messages.push(bench.send(&mut route, &status_report(number, &has, status)));
                }
                Step::Reconnect => {
                    let _ = bench.fleet.close_route(route);
                    route = bench.websocket();
                }
                Step::Wait(seconds) => bench.advance(Duration::from_secs(seconds)),
            }
            for message in messages {
                prop_assert!(message.encoded_len() < 1000);
                if let Some(offer) = message.remote_config {
                    let wanted = own.or(all).map(|index| configs[index].hash().to_bytes());
                    prop_assert_eq!(Some(&offer.config_hash), wanted.as_ref());
                    prop_assert_ne!(&offer.config_hash[..], &reported[..]);
                    has = offer.config_hash.to_vec();
                }
            }
        }
        let wanted = own.or(all).map(|index| configs[index].hash().to_bytes().to_vec());
        if let Some(wanted) = wanted {
            prop_assert_eq!(has, wanted);
        }
    }
}
