//! When an Agent counts as gone, and how one that is silent is asked for what it owes, in virtual
//! time.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::fleet::Route;
use opamp_server::{Changes, ConnectionSettings, ServerConfig};
use proptest::prelude::*;
use support::{Bench, FULL_STATE, bare, full_report, heartbeat, wire};

const UID: [u8; 16] = [1; 16];
const OTHER: [u8; 16] = [2; 16];
const MASK: Does = Does::REPORTS_STATUS
    .union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS)
    .union(Does::REPORTS_CONNECTION_SETTINGS_STATUS);
const BEATS: Does = MASK.union(Does::REPORTS_HEARTBEAT);

const MINUTE: Duration = Duration::from_secs(60);

fn settings(seconds: u64) -> ConnectionSettings {
    settings_at(seconds, 0)
}

/// Settings that differ from all others with another number.
fn settings_at(seconds: u64, number: usize) -> ConnectionSettings {
    let opamp = v1::OpAmpConnectionSettings {
        destination_endpoint: format!("wss://opamp.example/v1/opamp/{number}"),
        heartbeat_interval_seconds: seconds,
        ..Default::default()
    };
    let offers = v1::ConnectionSettingsOffers { opamp: Some(opamp), ..Default::default() };
    ConnectionSettings::new(offers).expect("good settings")
}

fn metrics() -> ConnectionSettings {
    let own_metrics = v1::TelemetryConnectionSettings {
        destination_endpoint: "https://metrics.example/v1/metrics".to_owned(),
        ..Default::default()
    };
    let offers =
        v1::ConnectionSettingsOffers { own_metrics: Some(own_metrics), ..Default::default() };
    ConnectionSettings::new(offers).expect("good settings")
}

use v1::ConnectionSettingsStatuses::{self as Status, Applied, Applying, Failed};

/// An Agent of a test, with its number.
struct Agent {
    uid: [u8; 16],
    mask: Does,
    number: u64,
}

impl Agent {
    fn new(uid: [u8; 16], mask: Does) -> Self {
        Self { uid, mask, number: 0 }
    }

    fn full(&mut self) -> v1::AgentToServer {
        self.number += 1;
        let status = v1::ConnectionSettingsStatus::default();
        v1::AgentToServer {
            connection_settings_status: Some(status),
            ..full_report(&self.uid, self.number, self.mask)
        }
    }

    fn beat(&mut self) -> v1::AgentToServer {
        self.number += 1;
        heartbeat(&self.uid, self.number, self.mask)
    }

    fn status(&mut self, settings: &ConnectionSettings, status: Status) -> v1::AgentToServer {
        let status = v1::ConnectionSettingsStatus {
            last_connection_settings_hash: settings.hash().as_bytes().to_vec().into(),
            status: status.into(),
            ..Default::default()
        };
        v1::AgentToServer { connection_settings_status: Some(status), ..self.beat() }
    }
}

fn is_connected(bench: &Bench, uid: &[u8]) -> bool {
    bench.fleet.agent(wire(uid)).expect("the Agent").is_connected()
}

/// Lets time pass, with a sweep each second, until the Agent is gone, and says after how long;
/// `None` if that does not happen in a day.
fn gone_after(bench: &mut Bench, uid: &[u8]) -> Option<u64> {
    for second in 0..24 * 3600 {
        if !is_connected(bench, uid) {
            return Some(second);
        }
        bench.advance(Duration::from_secs(1));
        let _ = bench.fleet.sweep(bench.now);
    }
    None
}

/// Connects an Agent, and has it take an interval.
fn agree(bench: &mut Bench, route: &mut Route<()>, agent: &mut Agent, seconds: u64) {
    bench.send(route, &agent.full());
    let settings = settings(seconds);
    bench.fleet.set_connection_settings(wire(&agent.uid), settings.clone()).unwrap();
    let offer = bench.send(route, &agent.beat()).connection_settings.expect("an offer");
    assert_eq!(offer.hash, settings.hash().as_bytes().to_vec());
    bench.send(route, &agent.status(&settings, Applying));
    bench.send(route, &agent.status(&settings, Applied));
}

fn with_a_long_memory(config: &mut ServerConfig) {
    config.retain_disconnected = Duration::MAX;
}

#[test]
fn a_websocket_agent_that_agreed_to_an_interval_is_gone_when_heartbeats_stop() {
    let _judged = opamp_spec::judges(&["HB-08", "HB-11"]);
    let mut bench = Bench::with(with_a_long_memory);
    let mut route = bench.websocket();
    let mut agent = Agent::new(UID, BEATS);
    agree(&mut bench, &mut route, &mut agent, 20);
    let _ = bench.fleet.take_changes(wire(&UID));

    // Three intervals, and half of one for the way.
    assert_eq!(gone_after(&mut bench, &UID), Some(70));
    assert_eq!(bench.fleet.counters().silent_websockets, 1);
    // Any message counts, and begins another session on the same connection.
    let reply = bench.send(&mut route, &agent.beat());
    assert_eq!(reply.error_response, None);
    assert!(is_connected(&bench, &UID));
    for _ in 0..20 {
        bench.advance(MINUTE);
        let _ = bench.fleet.sweep(bench.now);
        assert!(is_connected(&bench, &UID));
        bench.send(&mut route, &agent.beat());
    }
}

#[test]
fn the_handler_is_told_of_a_silent_agent() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let mut agent = Agent::new(UID, BEATS);
    agree(&mut bench, &mut route, &mut agent, 1);
    let taken = bench.fleet.take_changes(wire(&UID)).expect("what was reported");
    assert!(!taken.changes.contains(Changes::SILENT));
    assert_eq!(bench.fleet.finish_changes(taken.token), None);
    bench.advance(Duration::from_secs(4));
    assert_eq!(bench.fleet.sweep(bench.now), [wire(&UID).into()]);
    let taken = bench.fleet.take_changes(wire(&UID)).expect("the end of the session");
    assert_eq!(taken.changes, Changes::SILENT | Changes::DISCONNECTED);
}

#[test]
fn nobody_else_is_gone_for_its_silence_on_a_websocket() {
    let _judged = opamp_spec::judges(&["HB-10", "HB-18"]);
    // An Agent without ReportsHeartbeat, though it took the interval.
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    agree(&mut bench, &mut route, &mut Agent::new(UID, MASK), 10);
    assert_eq!(gone_after(&mut bench, &UID), None);

    // One that sends heartbeats at an interval nobody knows.
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    bench.send(&mut route, &Agent::new(UID, BEATS).full());
    assert_eq!(gone_after(&mut bench, &UID), None);

    // One that was offered an interval and has not applied it, or could not.
    for status in [None, Some(Applying), Some(Failed)] {
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let mut agent = Agent::new(UID, BEATS);
        bench.send(&mut route, &agent.full());
        let settings = settings(10);
        bench.fleet.set_connection_settings(wire(&UID), settings.clone()).unwrap();
        assert!(bench.send(&mut route, &agent.beat()).connection_settings.is_some());
        if let Some(status) = status {
            bench.send(&mut route, &agent.status(&settings, status));
        }
        assert_eq!(gone_after(&mut bench, &UID), None, "{status:?}");
    }

    // Nor does anybody expect anything where that is configured.
    let mut bench = Bench::with(|config| config.missed_heartbeats = 0);
    let mut route = bench.websocket();
    agree(&mut bench, &mut route, &mut Agent::new(UID, BEATS), 10);
    assert_eq!(gone_after(&mut bench, &UID), None);
}

#[test]
fn on_a_shared_connection_the_silent_agent_alone_is_gone() {
    let _judged = opamp_spec::judges(&["HB-08"]);
    let mut bench = Bench::with(with_a_long_memory);
    let mut route = bench.websocket();
    let (mut silent, mut lively) = (Agent::new(UID, BEATS), Agent::new(OTHER, BEATS));
    agree(&mut bench, &mut route, &mut silent, 30);
    agree(&mut bench, &mut route, &mut lively, 30);
    for _ in 0..20 {
        bench.advance(Duration::from_secs(30));
        bench.send(&mut route, &lively.beat());
        let _ = bench.fleet.sweep(bench.now);
    }
    assert!(!is_connected(&bench, &UID));
    assert!(is_connected(&bench, &OTHER));
    // Nothing is pushed to it, and the end of the connection is no second end of its session.
    bench.fleet.set_connection_settings(wire(&UID), settings(60)).unwrap();
    assert_eq!(bench.pushes(&route, &UID), []);
    for uid in [UID, OTHER] {
        let taken = bench.fleet.take_changes(wire(&uid)).expect("changes");
        assert_eq!(bench.fleet.finish_changes(taken.token), None);
    }
    assert_eq!(bench.fleet.close_route(route), [wire(&OTHER).into()]);
}

#[test]
fn an_http_agent_is_gone_after_the_configured_time_or_the_polls_it_agreed_to() {
    let _judged = opamp_spec::judges(&["CLOSE-08"]);
    let mut bench = Bench::with(with_a_long_memory);
    let mut agent = Agent::new(UID, MASK);
    bench.post(&agent.full());
    assert_eq!(gone_after(&mut bench, &UID), Some(90));

    // With or without ReportsHeartbeat: it polls anyway.
    for (mask, seconds, gone) in [(MASK, 10, 35), (BEATS, 10, 35), (MASK, 300, 910)] {
        let mut bench = Bench::with(with_a_long_memory);
        let mut agent = Agent::new(UID, mask);
        let mut route = bench.http();
        agree(&mut bench, &mut route, &mut agent, seconds);
        assert_eq!(gone_after(&mut bench, &UID), Some(gone));
        assert_eq!(bench.fleet.counters().silent_http, 1);
        // It stays present between polls.
        for _ in 0..50 {
            bench.post(&agent.beat());
            bench.advance(Duration::from_secs(seconds * 3));
            let _ = bench.fleet.sweep(bench.now);
            assert!(is_connected(&bench, &UID));
        }
    }
}

#[test]
fn what_was_agreed_holds_until_something_else_is() {
    let mut bench = Bench::with(with_a_long_memory);
    let mut route = bench.websocket();
    let mut agent = Agent::new(UID, BEATS);
    agree(&mut bench, &mut route, &mut agent, 20);

    // Over a longer one that is offered, at once, as it may be in use before that is told.
    let longer = settings(100);
    bench.fleet.set_connection_settings(wire(&UID), longer.clone()).unwrap();
    assert!(bench.send(&mut route, &agent.beat()).connection_settings.is_some());
    // To repeat what it has said of the earlier one is nothing new.
    bench.send(&mut route, &agent.status(&settings(20), Applied));
    assert_eq!(gone_after(&mut bench, &UID), Some(310));
    // After a failure it is the earlier one.
    bench.send(&mut route, &agent.status(&longer, Failed));
    assert_eq!(gone_after(&mut bench, &UID), Some(70));

    // Settings for something else change nothing.
    let other = metrics();
    agent.mask |= Does::REPORTS_OWN_METRICS;
    bench.send(&mut route, &agent.beat());
    bench.fleet.set_connection_settings(wire(&UID), other.clone()).unwrap();
    bench.send(&mut route, &agent.status(&other, Applied));
    assert_eq!(gone_after(&mut bench, &UID), Some(70));

    // An Agent that says that it has none of these settings keeps to nothing.
    bench.send(&mut route, &agent.full());
    assert_eq!(gone_after(&mut bench, &UID), None);
}

/// A process of the Server that knows the settings by what is wanted, and has not offered them
/// itself.
#[test]
fn what_another_process_of_the_server_offered_is_agreed_as_well() {
    let mut bench = Bench::with(with_a_long_memory);
    let settings = settings(20);
    bench.fleet.set_default_connection_settings(settings.clone()).unwrap();
    let mut route = bench.websocket();
    let mut agent = Agent::new(UID, BEATS);
    let status = agent.status(&settings, Applied).connection_settings_status;
    let report = v1::AgentToServer { connection_settings_status: status, ..agent.full() };
    assert_eq!(bench.send(&mut route, &report).connection_settings, None);
    assert_eq!(gone_after(&mut bench, &UID), Some(70));
}

#[test]
fn a_silent_agent_that_owes_its_state_is_asked_again_three_times() {
    let _judged = opamp_spec::judges(&["SEQ-05"]);
    let mut bench = Bench::new();
    let (mut route, woken) = bench.woken_websocket();
    // Its first message has no description, and then it says nothing more.
    let reply = bench.send(&mut route, &heartbeat(&UID, 2, MASK));
    assert_eq!(reply.flags, FULL_STATE);
    let mut asked = 0;
    for second in 1..24 * 3600 {
        bench.advance(Duration::from_secs(1));
        let _ = bench.fleet.sweep(bench.now);
        if woken.take().is_empty() {
            assert_eq!(bench.pushes(&route, &UID), []);
            continue;
        }
        asked += 1;
        assert_eq!(second, asked * 60, "a pause of a minute");
        let push = v1::ServerToAgent { flags: FULL_STATE, ..bare(&UID) };
        assert_eq!(bench.pushes(&route, &UID), [push]);
    }
    assert_eq!(asked, 3);
    assert_eq!(bench.fleet.counters().full_state_pushes, 3);
    // On another session it begins anew.
    let _ = bench.fleet.close_route(route);
    let (mut route, woken) = bench.woken_websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 3, MASK)).flags, FULL_STATE);
    bench.advance(MINUTE);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(woken.take(), [wire(&UID).into()]);
    assert_eq!(bench.pushes(&route, &UID).len(), 1);
    // Once it has delivered, nobody asks.
    bench.send(&mut route, &full_report(&UID, 4, MASK));
    for _ in 0..10 {
        bench.advance(MINUTE);
        let _ = bench.fleet.sweep(bench.now);
        assert_eq!(woken.take(), []);
    }
}

#[test]
fn nobody_is_asked_by_push_over_http_or_after_it_has_gone() {
    let mut bench = Bench::new();
    assert_eq!(bench.post(&heartbeat(&UID, 2, MASK)).flags, FULL_STATE);
    let (mut route, woken) = bench.woken_websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&OTHER, 2, MASK)).flags, FULL_STATE);
    let _ = bench.fleet.close_route(route);
    for _ in 0..10 {
        bench.advance(MINUTE);
        let _ = bench.fleet.sweep(bench.now);
    }
    assert_eq!(woken.take(), []);
    assert_eq!(bench.fleet.counters().full_state_pushes, 0);
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    Beat,
    Wait(u64),
    /// The operator wants this interval.
    Offer(u64),
    Tell(Status),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Beat),
        4 => (1..200_u64).prop_map(Step::Wait),
        1 => (1..60_u64).prop_map(Step::Offer),
        2 => prop_oneof![Just(Applying), Just(Applied), Just(Failed)].prop_map(Step::Tell),
    ]
}

/// What is to be expected, said as simply as can be.
#[derive(Debug, Default)]
struct Model {
    connected: bool,
    silent_for: u64,
    agreed: Option<u64>,
    /// Wanted, and not answered for good.
    open: Option<u64>,
    /// The open one was sent.
    sent: bool,
}

impl Model {
    fn spoke(&mut self) {
        (self.connected, self.silent_for) = (true, 0);
    }

    fn waited(&mut self, seconds: u64) {
        self.silent_for += seconds;
        if let Some(agreed) = self.agreed {
            let longest = agreed.max(self.open.filter(|_| self.sent).unwrap_or(0));
            // In half seconds.
            self.connected &= 2 * self.silent_for < 6 * longest + longest.min(20);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn an_agent_is_connected_when_the_model_says_so(steps in prop::collection::vec(step(), 1..80)) {
        let mut bench = Bench::with(|config| {
            with_a_long_memory(config);
            config.offer_deadline = Duration::MAX;
        });
        let mut route = bench.websocket();
        let mut agent = Agent::new(UID, BEATS);
        bench.send(&mut route, &agent.full());
        let (mut model, mut wanted) = (Model::default(), None);
        model.spoke();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Beat => {
                    bench.send(&mut route, &agent.beat());
                    model.spoke();
                    model.sent = true;
                }
                Step::Wait(seconds) => {
                    bench.advance(Duration::from_secs(seconds));
                    let _ = bench.fleet.sweep(bench.now);
                    model.waited(seconds);
                }
                Step::Offer(seconds) => {
                    let settings = settings_at(seconds, number);
                    bench.fleet.set_connection_settings(wire(&UID), settings.clone()).unwrap();
                    let pushed = !bench.pushes(&route, &UID).is_empty();
                    prop_assert_eq!(pushed, model.connected);
                    (model.open, model.sent) = (Some(seconds), pushed);
                    wanted = Some(settings);
                }
                Step::Tell(status) => {
                    let Some(settings) = wanted.as_ref().filter(|_| model.sent) else { continue };
                    bench.send(&mut route, &agent.status(settings, status));
                    model.spoke();
                    match status {
                        Applied => model.agreed = model.open.take().or(model.agreed),
                        Failed => model.open = None,
                        _ => {}
                    }
                    if status != Applying {
                        wanted = None;
                    }
                }
            }
            prop_assert_eq!(is_connected(&bench, &UID), model.connected, "{:?}", model);
        }
    }
}
