//! Two Agents with one instance uid, and Agents that only come back.

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opamp_proto::{AgentCapabilities as Does, InstanceUid, Message as _, v1};
use opamp_server::core::Push;
use opamp_server::fleet::{Route, RouteWaker};
use opamp_server::{AgentKey, Authorizer, Changes, Claim, Denied, Fleet, Now, Transport};
use proptest::prelude::*;
use support::{Bench, FULL_STATE, SERVER_MASK, bare, description, full_report, heartbeat, wire};

const UID: [u8; 16] = [7; 16];
const COMPANION: [u8; 16] = [8; 16];
const MASK: Does = Does::REPORTS_STATUS.union(Does::REPORTS_HEALTH);
/// The default time for a sign of life.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection's end of the registry: what it is asked for, and answers if it is alive.
#[derive(Default)]
struct Line {
    probes: Mutex<Vec<(AgentKey, u64)>>,
    woken: Mutex<BTreeSet<AgentKey>>,
}

impl RouteWaker for Line {
    fn wake(&self, key: &AgentKey) {
        self.woken.lock().expect("unpoisoned").insert(*key);
    }

    fn probe(&self, key: &AgentKey, probe: u64) {
        self.probes.lock().expect("unpoisoned").push((*key, probe));
    }
}

struct Socket {
    route: Route<()>,
    line: Arc<Line>,
}

/// The Server's end of many sockets.
struct Server {
    fleet: Fleet,
    now: Now,
    made: u64,
}

impl Server {
    fn new() -> Self {
        let bench = Bench::new();
        Self { fleet: bench.fleet, now: bench.now, made: 0 }
    }

    fn open(&self, transport: Transport) -> Socket {
        let line = Arc::<Line>::default();
        let waker: Arc<dyn RouteWaker> = Arc::clone(&line) as _;
        let waker = (transport == Transport::WebSocket).then_some(waker);
        Socket { route: self.fleet.open_route(transport, None, (), waker), line }
    }

    fn websocket(&self) -> Socket {
        self.open(Transport::WebSocket)
    }

    fn send(&mut self, socket: &mut Socket, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let mut out = Vec::new();
        let made = &mut self.made;
        let mut fresh = || {
            *made += 1;
            InstanceUid::from_parts(*made, [0; 10])
        };
        let body = message.encode_to_vec();
        let received = self.fleet.receive(&mut socket.route, &body, self.now, &mut fresh, &mut out);
        out.extend_from_slice(received.tail.as_deref().unwrap_or_default());
        let reply = v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent");
        assert_eq!(reply.instance_uid, message.instance_uid, "addressed to who sent");
        reply
    }

    fn post(&mut self, message: &v1::AgentToServer) -> v1::ServerToAgent {
        let mut request = self.open(Transport::Http);
        self.send(&mut request, message)
    }

    /// A living connection answers what it was asked. True if that was anything.
    fn answer(&self, socket: &Socket) -> bool {
        let probes = std::mem::take(&mut *socket.line.probes.lock().expect("unpoisoned"));
        for (key, probe) in &probes {
            let _ = self.fleet.probe_answered(&socket.route, key, *probe);
        }
        !probes.is_empty()
    }

    /// What the registry pushes to a connection.
    fn pushes(&self, socket: &Socket) -> Vec<v1::ServerToAgent> {
        let woken = std::mem::take(&mut *socket.line.woken.lock().expect("unpoisoned"));
        let mut pushes = Vec::new();
        for key in woken {
            let mut out = Vec::new();
            while let Some(Push { tail, .. }) =
                self.fleet.poll_push(&socket.route, key, self.now, &mut out)
            {
                out.extend_from_slice(tail.as_deref().unwrap_or_default());
                pushes.push(v1::ServerToAgent::decode(&out[..]).expect("a ServerToAgent"));
                out.clear();
            }
        }
        pushes
    }

    fn advance(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.system += time;
        let _ = self.fleet.settle_duplicates(self.now);
    }
}

fn plain(uid: &[u8]) -> v1::ServerToAgent {
    v1::ServerToAgent { capabilities: SERVER_MASK, ..bare(uid) }
}

fn named(name: &str, number: u64) -> v1::AgentToServer {
    v1::AgentToServer {
        agent_description: Some(description(name)),
        ..full_report(&UID, number, MASK)
    }
}

fn new_uid(message: &v1::ServerToAgent) -> InstanceUid {
    let identification = message.agent_identification.as_ref().expect("a new uid");
    identification.new_instance_uid.as_ref().try_into().expect("16 bytes")
}

#[test]
fn the_later_of_two_living_agents_is_renamed_and_the_first_goes_on_undisturbed() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08", "ID-14", "ID-15"]);
    let mut server = Server::new();
    let (mut first, mut second) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    let before = server.fleet.agent(wire(&UID));
    assert_eq!(server.send(&mut second, &named("second", 1)), plain(&UID));
    assert_eq!(server.send(&mut second, &heartbeat(&UID, 2, MASK)), plain(&UID));
    assert!(server.pushes(&second).is_empty(), "nothing is decided yet");

    assert!(server.answer(&first));
    let pushes = server.pushes(&second);
    let new = new_uid(&pushes[0]);
    let told = v1::AgentIdentification { new_instance_uid: new.to_bytes() };
    assert_eq!(pushes, [v1::ServerToAgent { agent_identification: Some(told), ..bare(&UID) }]);
    assert!(new.is_v7());
    assert_eq!(server.fleet.agent(wire(&UID)), before);
    let taken = server.fleet.take_changes(wire(&UID)).expect("changes");
    assert!(taken.changes.contains(Changes::DUPLICATE));

    // It takes it, and is an Agent of its own, which is asked for what it has not told.
    let reply = server.send(&mut second, &heartbeat(new.as_bytes(), 3, MASK));
    assert_eq!(reply.flags, FULL_STATE);
    assert_eq!(server.fleet.len(), 2);
    assert_eq!(second.route.agents(), [AgentKey::from(new)]);
    assert_eq!(server.send(&mut first, &heartbeat(&UID, 2, MASK)), bare(&UID));
    let _ = server.fleet.close_route(second.route);
    assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
    assert!(!server.fleet.agent(new).expect("known").is_connected());
}

#[test]
fn who_comes_back_while_the_old_connection_seems_open_keeps_its_uid() {
    let _judged = opamp_spec::judges(&["DUP-05"]);
    for closed in [false, true] {
        let mut server = Server::new();
        let (mut dead, mut again) = (server.websocket(), server.websocket());
        server.send(&mut dead, &named("before", 1));
        assert_eq!(server.send(&mut again, &named("after", 1_000)), plain(&UID));
        if closed {
            let _ = server.fleet.close_route(dead.route);
        } else {
            server.advance(PATIENCE - Duration::from_millis(1));
            assert!(server.pushes(&again).is_empty());
            server.advance(Duration::from_millis(1));
        }
        // It is served where it is, and asked to tell again what was not taken.
        let pushes = server.pushes(&again);
        assert_eq!(pushes.len(), 1, "{closed}");
        assert_eq!((pushes[0].flags, &pushes[0].agent_identification), (FULL_STATE, &None));
        let reply = server.send(&mut again, &named("after", 1_001));
        assert_eq!((reply.flags, reply.agent_identification), (0, None));
        let agent = server.fleet.agent(wire(&UID)).expect("known");
        assert_eq!(agent.state().agent_description(), Some(description("after")));
        assert!(agent.is_connected());
        assert_eq!((server.fleet.len(), server.fleet.counters().duplicates_replaced), (1, 1));
        let _ = server.fleet.close_route(again.route);
        assert!(!server.fleet.agent(wire(&UID)).expect("known").is_connected());
    }
}

#[test]
fn who_goes_on_counting_takes_over_without_ado() {
    let _judged = opamp_spec::judges(&["DUP-03", "DUP-05"]);
    let mut server = Server::new();
    let (mut old, mut again) = (server.websocket(), server.websocket());
    server.send(&mut old, &named("agent", 1));
    assert_eq!(server.send(&mut again, &heartbeat(&UID, 2, MASK)), plain(&UID));
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 2);
    assert!(old.line.probes.lock().expect("unpoisoned").is_empty());

    // What the old connection still brings changes nothing, a goodbye least of all.
    let goodbye =
        v1::AgentToServer { agent_disconnect: Some(v1::AgentDisconnect {}), ..named("late", 2) };
    assert_eq!(server.send(&mut old, &named("late", 1)), plain(&UID));
    assert_eq!(server.send(&mut old, &goodbye), plain(&UID));
    assert!(old.route.agents().is_empty());
    server.answer(&again);
    assert!(server.pushes(&old).is_empty(), "who has said goodbye is not told anything");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("agent")));
    let _ = server.fleet.close_route(old.route);
    assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
    assert_eq!(server.send(&mut again, &heartbeat(&UID, 3, MASK)), bare(&UID));
}

#[test]
fn on_a_shared_connection_the_agent_itself_has_to_be_alive() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    for alive in [true, false] {
        let mut server = Server::new();
        let (mut shared, mut second) = (server.websocket(), server.websocket());
        server.send(&mut shared, &named("first", 1));
        server.send(&mut shared, &full_report(&COMPANION, 1, MASK));
        server.send(&mut second, &named("second", 1));
        assert!(server.answer(&shared));
        assert!(server.pushes(&second).is_empty(), "a pong proves the connection alone");
        let asked = server.pushes(&shared);
        let expected = v1::ServerToAgent { flags: FULL_STATE, ..bare(&UID) };
        assert_eq!(asked, [expected]);
        server.send(&mut shared, &heartbeat(&COMPANION, 2, MASK));
        assert!(server.pushes(&second).is_empty(), "nor does another Agent");
        if alive {
            server.send(&mut shared, &named("first", 2));
            new_uid(&server.pushes(&second)[0]);
        } else {
            server.advance(PATIENCE);
            assert_eq!(server.pushes(&second)[0].flags, FULL_STATE);
            let _ = server.fleet.close_route(shared.route);
            assert!(server.fleet.agent(wire(&UID)).expect("known").is_connected());
        }
    }
}

#[test]
fn one_that_ignores_its_new_uid_is_told_at_a_pace_and_disturbs_nobody() {
    let _judged = opamp_spec::judges(&["DUP-06", "DUP-08"]);
    let mut server = Server::new();
    let (mut first, mut stubborn) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    server.send(&mut stubborn, &named("stubborn", 1));
    server.answer(&first);
    let new = new_uid(&server.pushes(&stubborn)[0]);
    let mut told = 0;
    for number in 2..122 {
        server.advance(Duration::from_secs(1));
        let reply = server.send(&mut stubborn, &named("stubborn", number));
        if reply.agent_identification.is_some() {
            assert_eq!(new_uid(&reply), new, "the same again");
            told += 1;
        }
        assert!(server.pushes(&stubborn).is_empty());
    }
    assert_eq!(told, 2, "once a minute");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("first")));
    assert_eq!((agent.sequence_num(), server.fleet.len()), (1, 1));

    // When the other one leaves, the uid is free; and should it then take the new one after all, it
    // is still the same Agent.
    let _ = server.fleet.close_route(first.route);
    let _ = server.send(&mut stubborn, &named("stubborn", 200));
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 200);
    let _ = server.send(&mut stubborn, &heartbeat(new.as_bytes(), 201, MASK));
    assert_eq!(server.fleet.len(), 1);
    let agent = server.fleet.agent(new).expect("moved");
    assert_eq!(agent.state().agent_description(), Some(description("stubborn")));
}

#[test]
fn a_whole_fleet_from_one_image_gets_uids_of_its_own() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    let mut server = Server::new();
    let mut first = server.websocket();
    server.send(&mut first, &named("first", 1));
    let mut copies: Vec<_> = (0..100).map(|_| (server.websocket(), 1_000_u64)).collect();
    for round in 0..20 {
        if copies.is_empty() {
            assert!(round > 1, "they are looked at a few at a time");
            break;
        }
        server.advance(Duration::from_secs(1));
        for (socket, number) in &mut copies {
            *number += 1;
            server.send(socket, &named("copy", *number));
        }
        server.answer(&first);
        copies.retain_mut(|(socket, number)| {
            let pushes = server.pushes(socket);
            let Some(told) = pushes.first() else { return true };
            let new = new_uid(told);
            *number += 1;
            server.send(socket, &full_report(new.as_bytes(), *number, MASK));
            false
        });
    }
    assert_eq!((copies.len(), server.fleet.len()), (0, 101));
}

#[test]
fn over_http_a_newcomer_waits_for_the_sign_of_a_websocket() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06", "DUP-08"]);
    for alive in [true, false] {
        let mut server = Server::new();
        let mut first = server.websocket();
        server.send(&mut first, &named("first", 100));
        assert_eq!(server.post(&named("second", 1)), plain(&UID));
        if alive {
            server.answer(&first);
        }
        server.advance(PATIENCE);
        let reply = server.post(&named("second", 2));
        let agent = server.fleet.agent(wire(&UID)).expect("known");
        if alive {
            let new = new_uid(&reply);
            assert_eq!(agent.state().agent_description(), Some(description("first")));
            server.post(&full_report(new.as_bytes(), 3, MASK));
            assert_eq!(server.fleet.len(), 2);
        } else {
            assert_eq!(reply.agent_identification, None);
            assert_eq!(agent.transport(), Transport::Http);
            assert_eq!(agent.state().agent_description(), Some(description("second")));
        }
    }
}

#[test]
fn two_agents_on_http_are_told_apart_by_their_numbers() {
    let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
    let mut server = Server::new();
    server.post(&named("first", 100));
    let mut uid = None;
    for number in 1..=6 {
        let reply = server.post(&named("second", number));
        if reply.agent_identification.is_some() {
            assert_eq!(uid.replace(new_uid(&reply)), None, "told once in a minute");
        }
        let reply = server.post(&named("first", 100 + number));
        assert_eq!(reply.agent_identification, None, "it was there first");
    }
    let new = uid.expect("it was seen");
    let agent = server.fleet.agent(wire(&UID)).expect("known");
    assert_eq!(agent.state().agent_description(), Some(description("first")));
    server.post(&full_report(new.as_bytes(), 7, MASK));
    server.post(&named("first", 107));
    assert_eq!(server.fleet.len(), 2);

    // A copy that was told long ago is forgotten: its next number may be anybody's.
    server.advance(Duration::from_secs(100));
    let reply = server.post(&named("first", 7));
    assert_eq!(reply.agent_identification, None);
    assert_eq!(server.fleet.agent(wire(&UID)).expect("known").sequence_num(), 7);

    // One that starts anew, and whose last request of before comes late, is one.
    let mut server = Server::new();
    for number in [100, 1, 101, 2, 3, 1, 2, 4, 5] {
        assert_eq!(server.post(&named("agent", number)).agent_identification, None);
    }
}

/// Nobody may speak under another uid than this.
struct Pinned;

impl Authorizer<()> for Pinned {
    fn authorize(&self, claim: Claim<'_, ()>) -> Result<(), Denied> {
        claim.only(wire(&UID))
    }
}

#[test]
fn a_duplicate_that_may_have_no_other_uid_is_refused() {
    let _judged = opamp_spec::judges(&["DUP-03", "DUP-04", "DUP-07"]);
    let mut server = Server::new();
    server.fleet = Fleet::with_authorizer(server.fleet.config().clone(), Pinned);
    let (mut first, mut second) = (server.websocket(), server.websocket());
    server.send(&mut first, &named("first", 1));
    assert_eq!(server.send(&mut second, &named("second", 1)), plain(&UID));
    server.answer(&first);
    assert!(server.pushes(&second).is_empty());
    let error = server.send(&mut second, &named("second", 2)).error_response.expect("an error");
    assert!(error.error_message.contains("another Agent"), "{}", error.error_message);
    assert_eq!(server.fleet.counters().denied, 1);
    assert_eq!(server.send(&mut first, &heartbeat(&UID, 2, MASK)), bare(&UID));
}

/// A process that runs, or ran: an Agent as the protocol wants it.
struct Process {
    uid: [u8; 16],
    number: u64,
    socket: Option<Socket>,
}

/// Connections of processes that left them without a word, with what may still arrive on them.
struct Ghost {
    socket: Socket,
    late: Option<v1::AgentToServer>,
}

struct World {
    server: Server,
    processes: Vec<Process>,
    ghosts: Vec<Ghost>,
    /// Each connection carries another Agent as well.
    shared: bool,
    companions: u64,
}

#[derive(Debug, Clone)]
enum Step {
    /// Another process starts from the image.
    Start {
        number: u64,
    },
    /// A process connects, if it is not.
    Connect {
        process: usize,
    },
    /// A process says something.
    Speak {
        process: usize,
        full: bool,
    },
    /// A process loses its connection, or its machine: a message may be lost, or arrive late.
    Lose {
        process: usize,
        lost: u64,
        late: bool,
        restart: Option<u64>,
    },
    /// A dead connection brings what it still had.
    Late {
        ghost: usize,
    },
    /// The Server sees that a dead connection is dead.
    Notice {
        ghost: usize,
    },
    Wait {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let process = 0_usize..3;
    prop_oneof![
        1 => (0_u64..4).prop_map(|number| Step::Start { number }),
        4 => process.clone().prop_map(|process| Step::Connect { process }),
        6 => (process.clone(), any::<bool>())
            .prop_map(|(process, full)| Step::Speak { process, full }),
        4 => (process, 0_u64..3, any::<bool>(), proptest::option::of(0_u64..4))
            .prop_map(|(process, lost, late, restart)| Step::Lose { process, lost, late, restart }),
        2 => (0_usize..3).prop_map(|ghost| Step::Late { ghost }),
        2 => (0_usize..3).prop_map(|ghost| Step::Notice { ghost }),
        3 => (0_u64..7_000).prop_map(|millis| Step::Wait { millis }),
    ]
}

impl World {
    fn new(shared: bool) -> Self {
        let first = Process { uid: UID, number: 0, socket: None };
        let server = Server::new();
        Self { server, processes: vec![first], ghosts: Vec::new(), shared, companions: 0 }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start { number } if self.processes.len() < 3 => {
                self.processes.push(Process { uid: UID, number, socket: None });
            }
            Step::Start { .. } => {}
            Step::Connect { process } => self.connect(process),
            Step::Speak { process, full } => self.speak(process, full),
            Step::Lose { process, lost, late, restart } => {
                let Some(process) = self.processes.get_mut(process) else { return };
                let Some(socket) = process.socket.take() else { return };
                process.number += lost;
                let late = late.then(|| heartbeat(&process.uid, process.number, MASK));
                process.number = restart.unwrap_or(process.number);
                self.ghosts.push(Ghost { socket, late });
            }
            Step::Late { ghost } => {
                let ghost = self.ghosts.get_mut(ghost);
                if let Some((ghost, late)) =
                    ghost.and_then(|ghost| ghost.late.take().map(|late| (ghost, late)))
                {
                    self.server.send(&mut ghost.socket, &late);
                }
            }
            Step::Notice { ghost } => {
                if ghost < self.ghosts.len() {
                    let ghost = self.ghosts.swap_remove(ghost);
                    let _ = self.server.fleet.close_route(ghost.socket.route);
                }
            }
            Step::Wait { millis } => self.server.advance(Duration::from_millis(millis)),
        }
        self.settle();
    }

    fn connect(&mut self, process: usize) {
        let Some(process) = self.processes.get_mut(process) else { return };
        if process.socket.is_some() {
            return;
        }
        let mut socket = self.server.websocket();
        if self.shared {
            self.companions += 1;
            let uid = InstanceUid::from_parts(self.companions, [1; 10]);
            self.server.send(&mut socket, &full_report(uid.as_bytes(), 1, MASK));
        }
        process.socket = Some(socket);
    }

    /// A process says something, and does what it is told.
    fn speak(&mut self, index: usize, full: bool) {
        let Some(process) = self.processes.get_mut(index) else { return };
        let Some(socket) = &mut process.socket else { return };
        process.number += 1;
        let message = match full {
            true => full_report(&process.uid, process.number, MASK),
            false => heartbeat(&process.uid, process.number, MASK),
        };
        let reply = self.server.send(socket, &message);
        self.obey(index, &reply);
    }

    fn obey(&mut self, index: usize, message: &v1::ServerToAgent) {
        assert_eq!(message.error_response, None);
        if message.instance_uid != self.processes[index].uid.as_slice() {
            return;
        }
        if message.agent_identification.is_some() {
            let uid = self.processes[index].uid;
            let others = self.processes.iter().enumerate().filter(|(other, _)| *other != index);
            let living = others.filter(|(_, other)| other.uid == uid && other.socket.is_some());
            assert_ne!(living.count(), 0, "nobody is renamed who is alone");
            self.processes[index].uid = *new_uid(message).as_bytes();
        }
        if message.flags & FULL_STATE != 0 {
            self.speak(index, true);
        }
    }

    /// Living connections answer, and processes do what they are told, until there is nothing more.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut quiet = true;
            for index in 0..self.processes.len() {
                let Some(socket) = &self.processes[index].socket else { continue };
                quiet &= !self.server.answer(socket);
                let pushes = self.server.pushes(socket);
                quiet &= pushes.is_empty();
                for push in pushes {
                    self.obey(index, &push);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("it comes to rest");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..Default::default() })]

    /// Who is alone keeps its uid, however it comes back; and of those who live all end with uids of
    /// their own, each served on its own connection.
    #[test]
    fn who_is_alone_keeps_its_uid_and_who_is_not_gets_one(
        shared in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let _judged = opamp_spec::judges(&["DUP-05", "DUP-06"]);
        let mut world = World::new(shared);
        for step in steps {
            world.take(step);
        }
        for _ in 0..8 {
            for process in 0..world.processes.len() {
                world.take(Step::Connect { process });
                world.take(Step::Speak { process, full: false });
            }
            world.take(Step::Wait { millis: 5_000 });
        }
        let uids: BTreeSet<_> = world.processes.iter().map(|process| process.uid).collect();
        prop_assert_eq!(uids.len(), world.processes.len());
        prop_assert!(uids.contains(&UID), "the first of them keeps it");
        for process in &world.processes {
            let agent = world.server.fleet.agent(wire(&process.uid)).expect("known");
            prop_assert!(agent.is_connected());
            prop_assert_eq!(agent.sequence_num(), process.number);
            let socket = process.socket.as_ref().expect("connected");
            prop_assert!(socket.route.agents().contains(agent.key()));
        }
    }
}
