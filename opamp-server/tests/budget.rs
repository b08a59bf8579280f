//! What is kept of reports is bounded for all Agents together, and counted right.

mod support;

use std::sync::Barrier;
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _, v1};
use opamp_server::fleet::Route;
use proptest::prelude::*;
use support::{Bench, bare, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const OTHER: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
const BAD_REQUEST: i32 = v1::ServerErrorResponseType::BadRequest as i32;
const UNAVAILABLE: i32 = v1::ServerErrorResponseType::Unavailable as i32;

/// A report with about this many bytes of state.
fn sized(uid: &[u8], number: u64, size: usize) -> v1::AgentToServer {
    let health = v1::ComponentHealth { status: "x".repeat(size), ..Default::default() };
    v1::AgentToServer { health: Some(health), ..heartbeat(uid, number, MASK) }
}

fn error(reply: &v1::ServerToAgent) -> Option<i32> {
    reply.error_response.as_ref().map(|error| error.r#type)
}

fn counted(bench: &Bench) -> usize {
    bench.fleet.agents().iter().map(|agent| agent.state().retained_bytes()).sum()
}

#[test]
fn a_report_beyond_what_is_kept_of_all_is_unavailable_and_changes_nothing() {
    let _judged = opamp_spec::judges(&["ERR-08"]);
    let mut bench = Bench::with(|config| config.max_fleet_bytes = 1000);
    let mut route = bench.websocket();
    assert_eq!(error(&bench.send(&mut route, &sized(&UID, 1, 900))), None);
    let before = bench.fleet.agent(wire(&UID));

    // A newcomer stays unknown, on this connection and on one of its own.
    let mut own = bench.websocket();
    for route in [&mut route, &mut own] {
        let reply = bench.send(route, &sized(&OTHER, 1, 200));
        assert_eq!(error(&reply), Some(UNAVAILABLE));
        assert_eq!(reply.instance_uid, &OTHER[..]);
        assert_eq!(bench.fleet.len(), 1);
        assert!(!route.agents().contains(&wire(&OTHER).into()));
    }
    // One that is known keeps what it had, and where it was.
    assert_eq!(error(&bench.send(&mut own, &sized(&UID, 2, 1100))), Some(UNAVAILABLE));
    assert!(own.agents().is_empty());
    assert_eq!(bench.fleet.agent(wire(&UID)), before);
    let counters = bench.fleet.counters();
    assert_eq!((counters.over_budget, counters.unavailable, counters.malformed), (3, 3, 0));

    // Whoever adds nothing is served, and what one gives up another may have.
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 2, MASK)), bare(&UID));
    assert_eq!(error(&bench.send(&mut route, &sized(&UID, 3, 100))), None);
    assert_eq!(error(&bench.send(&mut own, &sized(&OTHER, 1, 700))), None);
    assert_eq!(bench.fleet.retained_bytes(), counted(&bench));
}

#[test]
fn what_is_wrong_for_good_is_a_bad_request_even_if_there_is_no_room() {
    let _judged = opamp_spec::judges(&["ERR-12"]);
    let mut bench = Bench::with(|config| {
        config.max_fleet_bytes = 100;
        config.max_retained_bytes = 200;
    });
    let mut route = bench.websocket();
    assert_eq!(error(&bench.send(&mut route, &sized(&UID, 1, 80))), None);
    for uid in [&UID, &OTHER] {
        let reply = bench.send(&mut route, &sized(uid, 2, 300));
        assert_eq!(error(&reply), Some(BAD_REQUEST));
        let mut malformed = sized(uid, 3, 100).encode_to_vec();
        // An agent_description that ends too early.
        malformed.extend([3 << 3 | 2, 2, 0x0a, 9]);
        assert_eq!(error(&bench.send_bytes(&mut route, &malformed).0), Some(BAD_REQUEST));
    }
    let counters = bench.fleet.counters();
    assert_eq!((counters.over_limit, counters.malformed, counters.over_budget), (2, 2, 0));
    assert_eq!(bench.fleet.len(), 1, "neither makes an Agent known");
}

#[test]
fn an_agent_that_is_refused_under_its_new_uid_is_not_moved() {
    let mut bench = Bench::with(|config| config.max_fleet_bytes = 100);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &sized(&UID, 1, 80));
    let new = wire(&OTHER).instance_uid().unwrap();
    bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
    assert_eq!(error(&bench.send(&mut route, &sized(&OTHER, 2, 120))), Some(UNAVAILABLE));
    let mut malformed = heartbeat(&OTHER, 2, MASK).encode_to_vec();
    malformed.extend([3 << 3 | 2, 2, 0x0a, 9]);
    assert_eq!(error(&bench.send_bytes(&mut route, &malformed).0), Some(BAD_REQUEST));
    assert!(bench.fleet.agent(wire(&UID)).unwrap().is_connected());
    assert_eq!(route.agents(), [wire(&UID).into()]);
    // It may have as much as it had.
    assert_eq!(error(&bench.send(&mut route, &sized(&OTHER, 2, 81))), None);
    assert_eq!(route.agents(), [wire(&OTHER).into()]);
    assert_eq!(bench.fleet.retained_bytes(), counted(&bench));
    let _ = bench.fleet.close_route(route);
    assert!(!bench.fleet.agent(wire(&OTHER)).unwrap().is_connected());
}

/// The Agent's old and new connection both bring a first message under its new uid.
#[test]
fn the_count_is_right_when_two_connections_move_an_agent_at_once() {
    for _ in 0..200 {
        let mut bench = Bench::new();
        let mut routes = [bench.websocket(), bench.websocket()];
        let _ = bench.send(&mut routes[0], &sized(&UID, 1, 80));
        let new = wire(&OTHER).instance_uid().unwrap();
        bench.fleet.rename(wire(&UID), new, bench.now.instant).unwrap();
        let (fleet, now, start) = (&bench.fleet, bench.now, &Barrier::new(2));
        std::thread::scope(|scope| {
            for (number, route) in (2..).zip(&mut routes) {
                scope.spawn(move || {
                    let bytes = sized(&OTHER, number, 50).encode_to_vec();
                    start.wait();
                    let mut fresh = || new;
                    let _ = fleet.receive(route, &bytes, now, &mut fresh, &mut Vec::new());
                });
            }
        });
        assert_eq!((fleet.len(), fleet.agents().len()), (1, 1));
        assert_eq!(fleet.retained_bytes(), counted(&bench));
    }
}

const UIDS: u8 = 5;
const BUDGET: usize = 300;

#[derive(Debug, Clone)]
enum Step {
    Report { uid: u8, route: bool, size: usize, full: bool },
    Post { uid: u8, size: usize },
    Malformed { uid: u8, route: bool, size: usize },
    Goodbye { uid: u8, route: bool, size: usize },
    AskForUid { uid: u8, route: bool },
    Rename { uid: u8, new: u8 },
    Reconnect,
    Sweep { hours: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let (uid, route, size) = (1..=UIDS, any::<bool>(), 0_usize..170);
    let report = (uid.clone(), route, size.clone(), any::<bool>())
        .prop_map(|(uid, route, size, full)| Step::Report { uid, route, size, full });
    let post = (uid.clone(), size.clone()).prop_map(|(uid, size)| Step::Post { uid, size });
    let malformed = (uid.clone(), route, size.clone())
        .prop_map(|(uid, route, size)| Step::Malformed { uid, route, size });
    let goodbye = (uid.clone(), route, size).prop_map(|(uid, route, size)| Step::Goodbye {
        uid,
        route,
        size,
    });
    let ask = (uid.clone(), route).prop_map(|(uid, route)| Step::AskForUid { uid, route });
    let rename = (uid.clone(), uid).prop_map(|(uid, new)| Step::Rename { uid, new });
    prop_oneof![
        6 => report,
        2 => post,
        1 => malformed,
        1 => goodbye,
        1 => ask,
        2 => rename,
        1 => Just(Step::Reconnect),
        1 => (0_u64..30).prop_map(|hours| Step::Sweep { hours }),
    ]
}

/// A Server with two connections, and messages that are numbered through.
struct World {
    bench: Bench,
    routes: [Route<()>; 2],
    number: u64,
}

impl World {
    fn new() -> Self {
        let bench = Bench::with(|config| {
            config.max_fleet_bytes = BUDGET;
            config.max_retained_bytes = 160;
        });
        let routes = [bench.websocket(), bench.websocket()];
        Self { bench, routes, number: 0 }
    }

    fn send(&mut self, route: bool, message: &v1::AgentToServer) -> Option<i32> {
        error(&self.bench.send(&mut self.routes[usize::from(route)], message))
    }

    /// Returns the type of the error in the reply, if there is one.
    fn take(&mut self, step: &Step) -> Option<i32> {
        self.number += 1;
        let number = self.number;
        match *step {
            Step::Report { uid, route, size, full } => {
                let sized = sized(&[uid; 16], number, size);
                let message = if full {
                    v1::AgentToServer {
                        health: sized.health,
                        ..full_report(&[uid; 16], number, MASK)
                    }
                } else {
                    sized
                };
                self.send(route, &message)
            }
            Step::Post { uid, size } => error(&self.bench.post(&sized(&[uid; 16], number, size))),
            Step::Malformed { uid, route, size } => {
                let mut bytes = sized(&[uid; 16], number, size).encode_to_vec();
                bytes.extend([3 << 3 | 2, 2, 0x0a, 9]);
                error(&self.bench.send_bytes(&mut self.routes[usize::from(route)], &bytes).0)
            }
            Step::Goodbye { uid, route, size } => {
                let agent_disconnect = Some(v1::AgentDisconnect {});
                let message =
                    v1::AgentToServer { agent_disconnect, ..sized(&[uid; 16], number, size) };
                self.send(route, &message)
            }
            Step::AskForUid { uid, route } => {
                let flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
                let message = v1::AgentToServer { flags, ..heartbeat(&[uid; 16], number, MASK) };
                self.send(route, &message)
            }
            Step::Rename { uid, new } => {
                let new = wire(&[new; 16]).instance_uid().expect("16 bytes");
                // It may well be in use.
                let _ = self.bench.fleet.rename(wire(&[uid; 16]), new, self.bench.now.instant);
                None
            }
            Step::Reconnect => {
                let new = self.bench.websocket();
                let old = std::mem::replace(&mut self.routes[0], new);
                let _ = self.bench.fleet.close_route(old);
                None
            }
            Step::Sweep { hours } => {
                self.bench.advance(Duration::from_secs(hours * 60 * 60));
                let _ = self.bench.fleet.sweep(self.bench.now);
                None
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    /// The count is the sum of what is kept, never above the budget, and a refusal leaves it alone.
    #[test]
    fn the_count_is_what_is_kept_of_all(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            let before = (world.bench.fleet.retained_bytes(), world.bench.fleet.len());
            let refused = world.take(&step);
            let fleet = &world.bench.fleet;
            let after = (fleet.retained_bytes(), fleet.len());
            prop_assert_eq!(after, (counted(&world.bench), fleet.agents().len()), "{:?}", step);
            prop_assert!(after.0 <= BUDGET);
            if refused.is_some() {
                prop_assert_eq!(after, before, "{:?}", step);
            }
        }
        // When all are gone and forgotten, nothing is left.
        let World { mut bench, routes, .. } = world;
        for route in routes {
            let _ = bench.fleet.close_route(route);
        }
        for _ in 0..2 {
            bench.advance(Duration::from_secs(24 * 60 * 60));
            let _ = bench.fleet.sweep(bench.now);
        }
        prop_assert_eq!((bench.fleet.retained_bytes(), bench.fleet.len()), (0, 0));
    }
}
