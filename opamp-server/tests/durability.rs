//! What survives a restart of the Server, in virtual time: a store in memory that is slow, fails,
//! and loses what was not yet written when the Server crashes.

mod support;

use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, Message as _, ServerCapabilities, v1};
use opamp_server::fleet::{Received, Route};
use opamp_server::{AgentKey, ConnectionSettings, Fleet, Outcome};
use proptest::prelude::*;
use support::disk::{Disk, config, restart, save, saving, send_and_save, start};
use support::{
    Bench, FULL_STATE, config_status, description, fresh_uid, full_report, heartbeat,
    remote_config, wire,
};

const MASK: Does = Does::REPORTS_STATUS
    .union(Does::REPORTS_HEALTH)
    .union(Does::ACCEPTS_REMOTE_CONFIG)
    .union(Does::REPORTS_REMOTE_CONFIG)
    .union(Does::ACCEPTS_OPAMP_CONNECTION_SETTINGS)
    .union(Does::REPORTS_CONNECTION_SETTINGS_STATUS);

const UID: [u8; 16] = [7; 16];

fn settings(endpoint: &str) -> ConnectionSettings {
    ConnectionSettings::new(v1::ConnectionSettingsOffers {
        opamp: Some(v1::OpAmpConnectionSettings {
            destination_endpoint: endpoint.to_owned(),
            heartbeat_interval_seconds: 30,
            ..Default::default()
        }),
        ..Default::default()
    })
    .expect("valid settings")
}

#[test]
fn an_agent_is_known_after_a_restart_as_it_was_and_asked_for_nothing() {
    let _judged = opamp_spec::judges(&["SEQ-03", "SEQ-05", "DELTA-03"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    report.connection_settings_status = Some(v1::ConnectionSettingsStatus::default());
    let reply = send_and_save(&mut bench, &mut disk, &mut route, &report);
    assert_eq!(reply.flags, 0);
    bench.fleet.set_remote_config(wire(&UID), remote_config("own")).unwrap();
    bench.fleet.set_default_connection_settings(settings("wss://all.example/")).unwrap();
    save(&bench, &mut disk, false);
    bench.advance(Duration::from_secs(5));
    let beat = bench.send(&mut route, &heartbeat(&UID, 2, MASK));
    assert!(beat.remote_config.is_some() && beat.connection_settings.is_some());
    let hash = beat.remote_config.unwrap().config_hash;
    let status = config_status(&hash, v1::RemoteConfigStatuses::Applying);
    let applying =
        v1::AgentToServer { remote_config_status: Some(status), ..heartbeat(&UID, 3, MASK) };
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &applying);
    let before = bench.fleet.agent(wire(&UID)).unwrap();
    save(&bench, &mut disk, true);

    bench.advance(Duration::from_secs(60));
    let restored = restart(&mut bench, &disk);
    assert_eq!((restored.agents, restored.forgotten), (1, 0));
    let after = bench.fleet.agent(wire(&UID)).unwrap();
    assert!(!after.is_connected());
    assert_eq!(after.state(), before.state());
    assert_eq!(after.sequence_num(), 3);
    assert_eq!(after.last_seen(), before.last_seen());
    assert_eq!(after.remote_config(), before.remote_config());
    assert_eq!(after.remote_config().unwrap().outcome(), Outcome::Applying);
    assert_eq!(after.connection_settings(), before.connection_settings());
    assert_eq!(bench.fleet.retained_bytes(), after.state().retained_bytes());

    // It goes on where it was; the settings that it has not answered are offered again.
    let mut route = bench.websocket();
    let reply = bench.send(&mut route, &heartbeat(&UID, 4, MASK));
    assert_eq!(reply.flags, 0);
    assert!(reply.remote_config.is_none() && reply.connection_settings.is_some());
    // What was offered before the restart times out as it would have.
    bench.advance(Duration::from_secs(600));
    let _ = bench.fleet.sweep(bench.now);
    let after = bench.fleet.agent(wire(&UID)).unwrap();
    assert_eq!(after.remote_config().unwrap().outcome(), Outcome::TimedOut);
}

#[test]
fn settings_are_stored_before_they_are_offered() {
    let _judged = opamp_spec::judges(&["CONN-09"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let (mut route, woken) = bench.woken_websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    for (number, all) in [(2, false), (4, true)] {
        let _ = woken.take();
        let wanted = settings(&format!("wss://{number}.example/"));
        match all {
            false => drop(bench.fleet.set_connection_settings(wire(&UID), wanted).unwrap()),
            true => {
                bench.fleet.clear_connection_settings(wire(&UID)).unwrap();
                bench.fleet.set_default_connection_settings(wanted).unwrap();
            }
        }
        let _ = woken.take();
        assert_eq!(bench.pushes(&route, &UID), []);
        let reply = bench.send(&mut route, &heartbeat(&UID, number, MASK));
        assert_eq!(reply.connection_settings, None);
        assert!(!bench.fleet.is_saved(bench.fleet.settings_held_until(wire(&UID))));
        // A batch is under way, and the operator wants something else.
        let batch = bench.fleet.take_unsaved(bench.now, false, 1_000_000).unwrap();
        bench.fleet.set_remote_config(wire(&UID), remote_config(&number.to_string())).unwrap();
        disk.write(&batch);
        bench.fleet.saved(batch);
        save(&bench, &mut disk, false);
        assert_eq!(
            woken.take().last(),
            Some(&wire(&UID).into()),
            "it is told when they are stored"
        );
        let pushed = bench.pushes(&route, &UID);
        assert!(pushed.iter().any(|push| push.connection_settings.is_some()), "{pushed:?}");
        assert!(bench.fleet.is_saved(bench.fleet.settings_held_until(wire(&UID))));
    }
    let mut again = saving();
    let _ = restart(&mut again, &disk);
    assert_eq!(
        again.fleet.connection_settings(wire(&UID)),
        bench.fleet.connection_settings(wire(&UID))
    );
}

#[test]
fn a_heartbeat_waits_for_nothing_and_is_written_when_all_are() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    let written = disk.clone();
    for number in 2..10 {
        let (_, received) =
            bench.send_bytes(&mut route, &heartbeat(&UID, number, MASK).encode_to_vec());
        assert!(received.unsaved.is_none());
    }
    save(&bench, &mut disk, false);
    assert_eq!(disk, written);
    save(&bench, &mut disk, true);
    restart(&mut bench, &disk);
    assert_eq!(bench.fleet.agent(wire(&UID)).unwrap().sequence_num(), 9);

    // After a crash, one that ran ahead is asked, and no one else.
    restart(&mut bench, &written);
    let mut route = bench.websocket();
    assert_eq!(bench.send(&mut route, &heartbeat(&UID, 10, MASK)).flags, FULL_STATE);
}

#[test]
fn a_repetition_of_what_is_not_saved_waits_as_well() {
    let _judged = opamp_spec::judges(&["RETRY-05"]);
    let mut bench = saving();
    let mut disk = Disk::default();
    let mut route = bench.websocket();
    let report = full_report(&UID, 1, MASK).encode_to_vec();
    let first = bench.send_bytes(&mut route, &report).1.unsaved.expect("news");
    let batch = bench.fleet.take_unsaved(bench.now, false, 1_000_000).expect("a batch");
    let again = bench.send_bytes(&mut route, &report).1.unsaved.expect("not yet saved");
    assert_eq!(first.unsaved, again.unsaved);
    // It takes too long.
    let mut out = Vec::new();
    bench.fleet.answer_unsaved(*again, Duration::from_secs(30), &mut out);
    let refused = v1::ServerToAgent::decode(&out[..]).unwrap().error_response.unwrap();
    assert_eq!(refused.r#type(), v1::ServerErrorResponseType::Unavailable);
    let Some(v1::server_error_response::Details::RetryInfo(retry)) = refused.details else {
        panic!("{refused:?}")
    };
    assert_eq!(retry.retry_after_nanoseconds, 30_000_000_000);
    assert_eq!(bench.fleet.counters().unsaved, 1);

    disk.write(&batch);
    bench.fleet.saved(batch);
    assert!(bench.send_bytes(&mut route, &report).1.unsaved.is_none());
}

#[test]
fn a_rename_survives_and_takes_everything_along() {
    let _judged = opamp_spec::judges(&["ID-09", "ID-14"]);
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let mut asks = full_report(&UID, 1, MASK);
    asks.flags = v1::AgentToServerFlags::RequestInstanceUid as u64;
    let reply = send_and_save(&mut bench, &mut disk, &mut route, &asks);
    let new = fresh_uid(1);
    assert_eq!(reply.agent_identification.unwrap().new_instance_uid, new.to_bytes());
    bench.fleet.set_remote_config(wire(&UID), remote_config("own")).unwrap();
    save(&bench, &mut disk, false);

    // A crash, before the Agent spoke under its new uid.
    restart(&mut bench, &disk);
    assert_eq!(bench.fleet.agent(wire(&UID)).unwrap().new_instance_uid(), Some(new));
    let mut route = bench.websocket();
    let report = full_report(new.as_bytes(), 2, MASK);
    let reply = send_and_save(&mut bench, &mut disk, &mut route, &report);
    assert!(reply.remote_config.is_some() && reply.flags == 0);

    restart(&mut bench, &disk);
    assert!(bench.fleet.agent(wire(&UID)).is_none());
    let agent = bench.fleet.agent(new).unwrap();
    assert!(agent.remote_config().unwrap().is_own());
    assert_eq!(agent.new_instance_uid(), None);
    assert_eq!(bench.fleet.len(), 1);
}

#[test]
fn a_certificate_request_waits_for_its_decision_over_a_restart() {
    let asking = || {
        let mut config = config();
        config.capabilities |= ServerCapabilities::ACCEPTS_CONNECTION_SETTINGS_REQUEST;
        config
    };
    let mut disk = Disk::default();
    let mut bench = Bench::new();
    bench.fleet = start(&disk, bench.now, asking()).0;
    let mut route = bench.websocket();
    let mut report = full_report(&UID, 1, MASK);
    let request = v1::CertificateRequest { csr: b"a request".to_vec().into() };
    report.connection_settings_request = Some(v1::ConnectionSettingsRequest {
        opamp: Some(v1::OpAmpConnectionSettingsRequest { certificate_request: Some(request) }),
    });
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &report);
    bench.fleet = start(&disk, bench.now, asking()).0;
    let pending = bench.fleet.pending_certificate(wire(&UID)).expect("it is pending");
    assert_eq!(&pending.csr[..], b"a request");
}

#[test]
fn a_value_is_written_once_and_goes_when_nobody_wants_it() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let body = "x".repeat(10_000);
    for number in 0..50_u8 {
        let uid = [number + 1; 16];
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&uid, 1, MASK));
    }
    let size = |disk: &Disk| disk.0.values().map(Vec::len).sum::<usize>();
    let without = size(&disk);
    for number in 0..50_u8 {
        bench.fleet.set_remote_config(wire(&[number + 1; 16]), remote_config(&body)).unwrap();
    }
    save(&bench, &mut disk, true);
    assert!(size(&disk) < without + 15_000, "{} of {without}", size(&disk));
    restart(&mut bench, &disk);
    for number in 0..50_u8 {
        let key = wire(&[number + 1; 16]);
        assert!(bench.fleet.agent(key).unwrap().remote_config().unwrap().is_own());
        bench.fleet.clear_remote_config(key).unwrap();
    }
    save(&bench, &mut disk, true);
    assert!(size(&disk) <= without, "{} of {without}", size(&disk));
    bench.fleet.set_default_remote_config(remote_config("all")).unwrap();
    save(&bench, &mut disk, false);
    restart(&mut bench, &disk);
    assert_eq!(bench.fleet.default_remote_config(), Some(remote_config("all")));
    bench.fleet.clear_default_remote_config();
    save(&bench, &mut disk, false);
    restart(&mut bench, &disk);
    assert_eq!(bench.fleet.default_remote_config(), None);
    assert!(size(&disk) <= without);
}

#[test]
fn what_is_long_gone_is_forgotten_in_the_store_too() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    for uid in [[1; 16], [2; 16]] {
        let mut route = bench.websocket();
        let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&uid, 1, MASK));
        bench.fleet.set_remote_config(wire(&uid), remote_config("own")).unwrap();
        save(&bench, &mut disk, true);
        let _ = bench.fleet.close_route(route);
        bench.advance(Duration::from_secs(60 * 60));
    }
    // One while the Server runs, the other with a restart.
    bench.advance(Duration::from_secs(23 * 60 * 60 - 30 * 60));
    let _ = bench.fleet.sweep(bench.now);
    assert_eq!(bench.fleet.len(), 1);
    save(&bench, &mut disk, true);
    bench.advance(Duration::from_secs(60 * 60));
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&[3; 16], 1, MASK));
    bench.advance(Duration::from_secs(12 * 60 * 60));
    let restored = restart(&mut bench, &disk);
    assert_eq!((restored.agents, restored.forgotten), (1, 1));
    assert_eq!(bench.fleet.len(), 1);
    // While it runs, time counts again.
    bench.advance(Duration::from_secs(24 * 60 * 60));
    let _ = bench.fleet.sweep(bench.now);
    save(&bench, &mut disk, true);
    assert_eq!(bench.fleet.retained_bytes(), 0);
    assert_eq!(disk.0.len(), 1, "nothing but the version: {disk:?}");
}

#[test]
fn what_cannot_be_read_is_named_with_what_to_do() {
    let (mut bench, mut disk) = (saving(), Disk::default());
    let mut route = bench.websocket();
    let _ = send_and_save(&mut bench, &mut disk, &mut route, &full_report(&UID, 1, MASK));
    let fails = |disk: &Disk| {
        let fleet = Fleet::<()>::new(config());
        let mut restore = fleet.restore(bench.now);
        let error = disk.0.iter().try_for_each(|(key, value)| restore.add(key, value));
        error.unwrap_err().to_string()
    };
    for key in disk.0.keys().filter(|key| key.len() > 1) {
        let mut damaged = disk.clone();
        damaged.0.insert(key.clone(), vec![0xff; 3]);
        let error = fails(&damaged);
        assert!(error.contains("cannot be read") && error.contains("move it away"), "{error}");
    }
    let version = disk.0.keys().next().unwrap().clone();
    let mut later = disk.clone();
    later.0.insert(version.clone(), b"opamp-server 2".to_vec());
    assert!(fails(&later).contains("opamp-server 2"));
    let mut headless = disk.clone();
    headless.0.remove(&version);
    assert!(fails(&headless).contains("first"));
}

/// An Agent of the model.
#[derive(Debug, Clone, Default)]
struct Modelled {
    number: u64,
    /// The value of its description, as it stands and as it was acknowledged last.
    value: u32,
    acknowledged: Option<u32>,
    /// What the operator wants, and what of that is on the disk for certain.
    wanted: Option<u32>,
    safe: Option<u32>,
}

#[derive(Debug, Clone)]
enum Step {
    Change(usize),
    Beat(usize),
    /// The operator sets a configuration, the same for some.
    Want(usize, u32),
    /// A batch is taken, and fails to be written so many times before it is.
    Write {
        lagging: bool,
        failures: usize,
    },
    /// Some batches are written and replies sent. The Server crashes with the next: it is written,
    /// and the Server does not hear of it, or it is lost.
    Crash {
        batches: usize,
        writes: bool,
    },
    CleanRestart,
    Sweep,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let agent = 0..6_usize;
    let step = prop_oneof![
        6 => agent.clone().prop_map(Step::Change),
        6 => agent.clone().prop_map(Step::Beat),
        2 => (agent, 0..3_u32).prop_map(|(agent, value)| Step::Want(agent, value)),
        6 => (any::<bool>(), 0..3_usize)
            .prop_map(|(lagging, failures)| Step::Write { lagging, failures }),
        3 => (0..4_usize, any::<bool>())
            .prop_map(|(batches, writes)| Step::Crash { batches, writes }),
        1 => Just(Step::CleanRestart),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 1..80)
}

/// The Server, its disk, and Agents that hold it to what it has acknowledged.
struct World {
    bench: Bench,
    disk: Disk,
    agents: Vec<Modelled>,
    routes: Vec<Option<Route<()>>>,
    /// Replies that are held back: whose, for which value.
    held: Vec<(usize, u32, Received)>,
}

impl World {
    fn new() -> Self {
        Self {
            bench: saving(),
            disk: Disk::default(),
            agents: vec![Modelled::default(); 6],
            routes: (0..6).map(|_| None).collect(),
            held: Vec::new(),
        }
    }

    fn key(agent: usize) -> AgentKey {
        wire(&[agent as u8 + 1; 16]).into()
    }

    fn message(&mut self, agent: usize, changes: bool) {
        let uid = [agent as u8 + 1; 16];
        let modelled = &mut self.agents[agent];
        modelled.number += 1;
        modelled.value += u32::from(changes);
        let mut message =
            heartbeat(&uid, modelled.number, Does::REPORTS_STATUS | Does::ACCEPTS_REMOTE_CONFIG);
        let arrives = self.routes[agent].is_none();
        if changes || modelled.acknowledged != Some(modelled.value) {
            message.agent_description = Some(description(&modelled.value.to_string()));
        }
        let value = modelled.value;
        if arrives {
            self.routes[agent] = Some(self.bench.websocket());
        }
        let mut route = self.routes[agent].take().unwrap();
        let (reply, received) = self.bench.send_bytes(&mut route, &message.encode_to_vec());
        self.routes[agent] = Some(route);
        match &received.unsaved {
            Some(_) => self.held.push((agent, value, received)),
            None => self.acknowledge(agent, value, &reply),
        }
    }

    fn acknowledge(&mut self, agent: usize, value: u32, reply: &v1::ServerToAgent) {
        assert!(reply.error_response.is_none(), "{reply:?}");
        if reply.flags & FULL_STATE == 0 {
            self.agents[agent].acknowledged = self.agents[agent].acknowledged.max(Some(value));
        } else {
            // It tells everything with its next message.
            self.agents[agent].acknowledged = None;
        }
    }

    fn deliver(&mut self) {
        let held = std::mem::take(&mut self.held);
        for (agent, value, mut received) in held {
            let accepted = received.unsaved.take().expect("held");
            if !self.bench.fleet.is_saved(accepted.unsaved) {
                received.unsaved = Some(accepted);
                self.held.push((agent, value, received));
                continue;
            }
            let mut out = Vec::new();
            let tail = self.bench.fleet.reply(*accepted, self.bench.now, &mut out);
            out.extend_from_slice(tail.as_deref().unwrap_or_default());
            let reply = v1::ServerToAgent::decode(&out[..]).unwrap();
            self.acknowledge(agent, value, &reply);
        }
    }

    fn write(&mut self, lagging: bool, failures: usize) {
        let wanted: Vec<_> = self.agents.iter().map(|agent| agent.wanted).collect();
        let mut first = lagging;
        while let Some(batch) = self.bench.fleet.take_unsaved(self.bench.now, first, 200) {
            first = false;
            // A batch that fails is tried again, and nothing is taken for saved meanwhile.
            for _ in 0..failures {
                self.deliver();
            }
            self.disk.write(&batch);
            self.bench.fleet.saved(batch);
            self.deliver();
        }
        for (agent, wanted) in self.agents.iter_mut().zip(wanted) {
            agent.safe = wanted;
        }
    }

    fn crash(&mut self, batches: usize, writes: bool) {
        for _ in 0..batches {
            let Some(batch) = self.bench.fleet.take_unsaved(self.bench.now, false, 200) else {
                break;
            };
            self.disk.write(&batch);
            self.bench.fleet.saved(batch);
            self.deliver();
        }
        if let Some(batch) = self.bench.fleet.take_unsaved(self.bench.now, false, 200)
            && writes
        {
            self.disk.write(&batch);
        }
        self.restart();
        (0..self.agents.len()).for_each(|agent| self.goes_on(agent));
    }

    /// After a restart, however it came about, an Agent is asked for its full state only if its
    /// number ran ahead of the one that was written, or it owed something anyway.
    fn goes_on(&mut self, agent: usize) {
        let found = self.bench.fleet.agent(Self::key(agent));
        let modelled = &self.agents[agent];
        let ahead = found.is_none_or(|it| it.sequence_num() != modelled.number);
        let owed = modelled.acknowledged != Some(modelled.value);
        if !ahead && !owed {
            self.message(agent, false);
            assert_eq!(self.agents[agent].acknowledged, Some(self.agents[agent].value));
        }
    }

    /// Every reply that was held back is lost with its connection.
    fn restart(&mut self) {
        self.held.clear();
        self.routes.iter_mut().for_each(|route| *route = None);
        restart(&mut self.bench, &self.disk);
        for (number, agent) in self.agents.iter_mut().enumerate() {
            let found = self.bench.fleet.agent(Self::key(number));
            let value = found.as_ref().and_then(|it| {
                let told = it.state().agent_description()?;
                let value = told.identifying_attributes[0].value.clone()?;
                value.as_str()?.parse::<u32>().ok()
            });
            // No acknowledged change is lost; one that was not acknowledged may be there or not.
            assert!(value >= agent.acknowledged, "{number}: {value:?} of {agent:?}");
            assert!(value <= Some(agent.value));
            let own = found.and_then(|it| it.remote_config()).filter(|it| it.is_own());
            if let Some(safe) = agent.safe {
                let hash = |value: u32| remote_config(&value.to_string()).hash().into();
                let own = own.expect("what was set and saved is there").hash();
                let may = [Some(safe), agent.wanted].into_iter().flatten();
                assert!(may.clone().any(|value| own == hash(value)), "{number}: {agent:?}");
                agent.wanted = may.into_iter().find(|value| own == hash(*value));
                agent.safe = agent.wanted;
            } else {
                agent.wanted = None;
                assert!(own.is_none() || agent.safe.is_none());
            }
        }
    }

    fn step(&mut self, step: &Step) {
        self.bench.advance(Duration::from_millis(700));
        match step {
            Step::Change(agent) => self.message(*agent, true),
            Step::Beat(agent) => self.message(*agent, false),
            Step::Want(agent, value) => {
                let config = remote_config(&value.to_string());
                if self.bench.fleet.set_remote_config(Self::key(*agent), config).is_ok() {
                    self.agents[*agent].wanted = Some(*value);
                }
            }
            Step::Write { lagging, failures } => self.write(*lagging, *failures),
            Step::Crash { batches, writes } => self.crash(*batches, *writes),
            Step::CleanRestart => {
                self.write(true, 0);
                // What was offered with the last replies.
                self.write(true, 0);
                let before: Vec<_> =
                    (0..6).map(|it| self.bench.fleet.agent(Self::key(it))).collect();
                self.restart();
                for (number, before) in before.into_iter().enumerate() {
                    let after = self.bench.fleet.agent(Self::key(number));
                    assert_eq!(after.is_some(), before.is_some());
                    let (Some(before), Some(after)) = (before, after) else { continue };
                    assert_eq!(after.state(), before.state());
                    assert_eq!(after.sequence_num(), before.sequence_num());
                    assert_eq!(after.remote_config(), before.remote_config());
                    self.goes_on(number);
                }
            }
            Step::Sweep => {
                let _ = self.bench.fleet.sweep(self.bench.now);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_acknowledged_is_there_after_any_restart(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.crash(1, true);
        world.step(&Step::CleanRestart);
    }
}
