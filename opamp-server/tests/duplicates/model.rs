//! Processes from one image that crash, lose messages and leave dead connections behind.

use std::collections::BTreeSet;
use std::time::Duration;

use opamp_proto::{InstanceUid, v1};
use proptest::prelude::*;

use super::server::{Server, Socket, new_uid};
use super::support::{FULL_STATE, full_report, heartbeat, wire};
use super::{MASK, UID};

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

    /// Who is alone keeps its uid, however it comes back; and of those who live all end with uids
    /// of their own, each served on its own connection.
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
