//! A picture of the fleet that is kept by watching it, and Agents found by their attributes.

mod support;

use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, v1};
use opamp_server::fleet::{Route, Watch};
use opamp_server::{AgentKey, AgentSnapshot, Fleet};
use proptest::prelude::*;
use support::{Bench, description, fresh_uid, full_report, heartbeat, remote_config, wire};

const MASK: Does = Does::REPORTS_STATUS
    .union(Does::REPORTS_HEALTH)
    .union(Does::ACCEPTS_REMOTE_CONFIG)
    .union(Does::REPORTS_REMOTE_CONFIG);

fn uid(agent: u8) -> [u8; 16] {
    [agent + 1; 16]
}

fn health(value: u8) -> Option<v1::ComponentHealth> {
    Some(v1::ComponentHealth { status: value.to_string(), ..Default::default() })
}

/// What a watch is about, of an Agent.
type Seen = (bool, opamp_server::AgentState, Option<Vec<u8>>);

fn seen(agent: &AgentSnapshot) -> Seen {
    let wanted = agent.remote_config().map(|offer| offer.hash().as_bytes().to_vec());
    (agent.is_connected(), agent.state().clone(), wanted)
}

#[derive(Default)]
struct Picture(BTreeMap<AgentKey, Seen>);

impl Picture {
    fn look(&mut self, watch: &mut Watch<()>) {
        while let Some(changes) = watch.look() {
            if changes.anew {
                self.0.clear();
            }
            for key in changes.forgotten {
                self.0.remove(&key);
            }
            self.0.extend(changes.agents.iter().map(|agent| (*agent.key(), seen(agent))));
        }
    }
}

fn really(fleet: &Fleet) -> BTreeMap<AgentKey, Seen> {
    fleet.agents().iter().map(|agent| (*agent.key(), seen(agent))).collect()
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_watch_begins_with_all_and_goes_on_with_news() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    for agent in 0..3 {
        let _ = bench.send(&mut route, &full_report(&uid(agent), 1, MASK));
    }
    let mut watch = bench.fleet.watch();
    let first = watch.look().unwrap();
    assert!(first.anew && first.forgotten.is_empty());
    assert_eq!(first.agents.len(), 3);
    assert!(watch.look().is_none());
    let _ = bench.send(&mut route, &heartbeat(&uid(0), 2, MASK));
    assert!(watch.look().is_none(), "a heartbeat is no news");
    for number in 3..6 {
        let report =
            v1::AgentToServer { health: health(number), ..heartbeat(&uid(0), number.into(), MASK) };
        let _ = bench.send(&mut route, &report);
    }
    let news = watch.look().unwrap();
    assert!(!news.anew);
    let [agent] = &news.agents[..] else { panic!("one, whatever came together") };
    assert_eq!(agent.state().health(), health(5));
    let _ = bench.fleet.close_route(route);
    assert_eq!(watch.look().unwrap().agents.len(), 3);
    bench.advance(Duration::from_secs(48 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(watch.look().unwrap().forgotten.len(), 3);
    assert!(bench.fleet.watch().look().unwrap().anew, "also where nobody is known");
}

#[test]
fn a_watch_is_told_of_what_time_brings() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.post(&full_report(&uid(0), 1, MASK));
    let _ = bench.send(&mut route, &full_report(&uid(1), 1, MASK));
    bench.fleet.set_remote_config(wire(&uid(1)), remote_config("a")).unwrap();
    assert_eq!(bench.pushes(&route, &uid(1)).len(), 1);
    let mut watch = bench.fleet.watch();
    let _ = watch.look().unwrap();
    let mut seen = Vec::new();
    for second in 1..=600 {
        bench.advance(Duration::from_secs(1));
        let _ = bench.fleet.sweep(bench.now);
        let news = watch.look().into_iter().flat_map(|news| news.agents);
        seen.extend(news.map(|agent| (second, *agent.key())));
    }
    // The first one's polls have stopped, and the second one's offer has timed out.
    assert_eq!(seen, [(90, wire(&uid(0)).into()), (600, wire(&uid(1)).into())]);
}

#[test]
fn a_watch_is_woken_once_and_only_by_news() {
    let mut bench = Bench::new();
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&uid(0), 1, MASK));
    let mut watch = bench.fleet.watch();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    assert!(watch.poll_changed(&mut cx).is_ready());
    {
        // A look that is given up loses nothing.
        let mut changed = pin!(watch.changed());
        assert!(changed.as_mut().poll(&mut cx).is_pending());
    }
    let _ = bench.send(&mut route, &heartbeat(&uid(0), 2, MASK));
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    for number in 3..6 {
        let report =
            v1::AgentToServer { health: health(number), ..heartbeat(&uid(0), number.into(), MASK) };
        let _ = bench.send(&mut route, &report);
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let Poll::Ready(changes) = watch.poll_changed(&mut cx) else { panic!("there are news") };
    assert_eq!(changes.agents.len(), 1);
    bench.fleet.set_default_remote_config(remote_config("a")).unwrap();
    assert_eq!(woken.0.load(Ordering::Relaxed), 1, "nobody waits");
    assert!(watch.poll_changed(&mut cx).is_ready());
}

#[test]
fn a_watch_that_ends_takes_nobody_else_s_wake_up_along() {
    let mut bench = Bench::new();
    let wait = |watch: &mut Watch<()>| {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(watch.poll_changed(&mut cx).is_ready(), "it begins with what there is");
        assert!(watch.poll_changed(&mut cx).is_pending());
        woken
    };
    let (mut stays, mut ends) = (bench.fleet.watch(), bench.fleet.watch());
    let (waits, gone) = (wait(&mut stays), wait(&mut ends));
    drop(ends);
    let _ = bench.post(&full_report(&uid(0), 1, MASK));
    assert_eq!(waits.0.load(Ordering::Relaxed), 1);
    assert_eq!(gone.0.load(Ordering::Relaxed), 0);
}

#[test]
fn a_watch_that_is_too_far_behind_begins_anew() {
    let mut bench = Bench::with(|config| config.shards = 1);
    let mut watch = bench.fleet.watch();
    let mut picture = Picture::default();
    for agent in 0..1_500_u16 {
        let mut uid = [8; 16];
        uid[..2].copy_from_slice(&agent.to_le_bytes());
        let mut route = bench.websocket();
        let _ = bench.send(&mut route, &full_report(&uid, 1, MASK));
        let _ = bench.fleet.close_route(route);
    }
    picture.look(&mut watch);
    bench.advance(Duration::from_secs(48 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    // More than a shard remembers.
    let changes = watch.look().unwrap();
    assert!(changes.anew && changes.agents.is_empty() && changes.forgotten.is_empty());
}

#[test]
fn a_watch_that_is_as_far_behind_as_a_shard_remembers_is_told_of_each() {
    let mut bench = Bench::with(|config| config.shards = 1);
    let mut route = bench.websocket();
    let _ = bench.send(&mut route, &full_report(&[9; 16], 1, MASK));
    let _ = bench.fleet.close_route(route);
    let mut route = bench.websocket();
    for agent in 0..1_024_u16 {
        let mut uid = [8; 16];
        uid[..2].copy_from_slice(&agent.to_le_bytes());
        let _ = bench.send(&mut route, &full_report(&uid, 1, MASK));
    }
    let mut watch = bench.fleet.watch();
    while watch.look().is_some() {}
    let day = Duration::from_secs(24 * 60 * 60);
    bench.advance(day);
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(watch.look().unwrap().forgotten, [AgentKey::from(wire(&[9; 16]))]);
    let _ = bench.fleet.close_route(route);
    bench.advance(day);
    let _ = bench.fleet.sweep(bench.now);
    let changes = watch.look().unwrap();
    assert!(!changes.anew && changes.agents.is_empty());
    assert_eq!(changes.forgotten.len(), 1_024);
}

#[test]
fn agents_are_found_by_their_attributes() {
    let _judged = opamp_spec::judges(&["DESC-01", "DESC-02"]);
    let mut bench = Bench::new();
    for (agent, name, os, cores) in
        [(0, "collector", "linux", 4), (1, "collector", "windows", 4), (2, "java", "linux", 8)]
    {
        let description = v1::AgentDescription {
            non_identifying_attributes: vec![
                v1::KeyValue::new("os.type", os),
                v1::KeyValue::new("cores", i64::from(cores)),
            ],
            ..description(name)
        };
        let report = v1::AgentToServer {
            agent_description: Some(description),
            ..full_report(&uid(agent), 1, MASK)
        };
        let _ = bench.post(&report);
    }
    let found = |attributes: &[v1::KeyValue]| {
        let found = bench.fleet.find(attributes);
        let mut uids: Vec<_> = found.iter().map(|agent| *agent.uid()).collect();
        uids.sort();
        uids
    };
    let one = |agent| wire(&uid(agent));
    let name = |name: &str| v1::KeyValue::new("service.name", name);
    assert_eq!(found(&[name("collector")]), [one(0), one(1)]);
    assert_eq!(found(&[name("collector"), v1::KeyValue::new("os.type", "linux")]), [one(0)]);
    assert_eq!(found(&[v1::KeyValue::new("cores", 4_i64)]), [one(0), one(1)]);
    assert_eq!(found(&[v1::KeyValue::new("cores", "4")]), [], "a text is no number");
    assert_eq!(found(&[v1::KeyValue::new("os.type", "collector")]), [], "of another attribute");
    assert_eq!(found(&[]).len(), 3);

    // A description that is looked at without a lock.
    let report = v1::AgentToServer {
        agent_description: Some(v1::AgentDescription {
            non_identifying_attributes: vec![v1::KeyValue::new("notes", "x".repeat(20_000))],
            ..description("large")
        }),
        ..full_report(&uid(3), 1, MASK)
    };
    let _ = bench.post(&report);
    let found = |name: &str| bench.fleet.find(&[v1::KeyValue::new("service.name", name)]).len();
    assert_eq!([found("large"), found("java"), found("none")], [1, 1, 0]);
}

#[derive(Debug, Clone)]
enum Step {
    Report(u8, u8),
    Heartbeat(u8),
    Close,
    Rename(u8, u8),
    TakeName(u8),
    Config(Option<u8>),
    ConfigOfOne(u8, Option<u8>),
    Wait(u32),
    Look,
    Another,
}

fn step() -> impl Strategy<Value = Step> {
    let agent = 0..6_u8;
    prop_oneof![
        4 => (agent.clone(), 0..3_u8).prop_map(|(agent, value)| Step::Report(agent, value)),
        2 => agent.clone().prop_map(Step::Heartbeat),
        1 => Just(Step::Close),
        1 => (agent.clone(), 0..3_u8).prop_map(|(agent, new)| Step::Rename(agent, new)),
        1 => (0..3_u8).prop_map(Step::TakeName),
        1 => prop::option::of(0..3_u8).prop_map(Step::Config),
        1 => (agent, prop::option::of(0..3_u8)).prop_map(|(agent, value)| Step::ConfigOfOne(agent, value)),
        1 => (0..100_000_u32).prop_map(Step::Wait),
        3 => Just(Step::Look),
        1 => Just(Step::Another),
    ]
}

fn happen(bench: &mut Bench, route: &mut Route<()>, number: &mut u64, step: &Step) {
    *number += 1;
    match *step {
        Step::Report(agent, value) => {
            let report = full_report(&uid(agent), *number, MASK);
            let _ = bench.send(route, &v1::AgentToServer { health: health(value), ..report });
        }
        Step::Heartbeat(agent) => {
            let _ = bench.send(route, &heartbeat(&uid(agent), *number, MASK));
        }
        Step::Close => {
            let fresh = bench.websocket();
            let _ = bench.fleet.close_route(std::mem::replace(route, fresh));
        }
        Step::Rename(agent, new) => {
            let _ = bench.fleet.rename(wire(&uid(agent)), fresh_uid(new), bench.now.instant);
        }
        Step::TakeName(new) => {
            let _ = bench.send(route, &heartbeat(fresh_uid(new).as_bytes(), *number, MASK));
        }
        Step::Config(Some(value)) => {
            bench.fleet.set_default_remote_config(remote_config(&value.to_string())).unwrap();
        }
        Step::Config(None) => bench.fleet.clear_default_remote_config(),
        Step::ConfigOfOne(agent, Some(value)) => {
            let config = remote_config(&value.to_string());
            let _ = bench.fleet.set_remote_config(wire(&uid(agent)), config);
        }
        Step::ConfigOfOne(agent, None) => {
            let _ = bench.fleet.clear_remote_config(wire(&uid(agent)));
        }
        Step::Wait(seconds) => {
            bench.advance(Duration::from_secs(seconds.into()));
            let _ = bench.fleet.sweep(bench.now);
        }
        Step::Look | Step::Another => {}
    }
}

proptest! {
    /// Whenever it looks, what a watch has told by then is what is so.
    #[test]
    fn a_picture_kept_by_watching_is_true(steps in prop::collection::vec(step(), 0..80)) {
        let mut bench = Bench::new();
        let mut route = bench.websocket();
        let mut number = 0;
        let mut watches = vec![(bench.fleet.watch(), Picture::default())];
        for step in &steps {
            happen(&mut bench, &mut route, &mut number, step);
            match step {
                Step::Look => {
                    let (watch, picture) = &mut watches[0];
                    picture.look(watch);
                    prop_assert_eq!(&picture.0, &really(&bench.fleet));
                }
                Step::Another if watches.len() < 3 => {
                    watches.push((bench.fleet.watch(), Picture::default()));
                }
                _ => {}
            }
        }
        for (watch, picture) in &mut watches {
            picture.look(watch);
            prop_assert_eq!(&picture.0, &really(&bench.fleet));
        }
    }
}
