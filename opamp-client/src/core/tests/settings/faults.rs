//! The process ends, or the disk fails, at every single operation of a change of servers. The agent
//! always comes back, as who it was, and every offer has an outcome.

use super::world::{Faults, WAYS, Way, World};
use crate::core::Transport;
use crate::core::tests::values::seconds;

const LONG: u64 = 3600;

/// An agent is offered another server, which is in some way, while something goes wrong; then
/// nothing does any more.
fn story(transports: [Transport; 3], way: Way, revoking: bool, faults: Faults) -> World {
    let mut world = World::new(transports, true).with(faults);
    world.ways[1] = way;
    world.revoking = revoking;
    world.run(seconds(5));
    world.offer(1);
    world.run(seconds(LONG));
    world
}

/// How many operations there are until nothing but heartbeats is left.
fn operations(transports: [Transport; 3], way: Way) -> usize {
    let mut world = World::new(transports, true);
    world.ways[1] = way;
    world.run(seconds(5));
    world.offer(1);
    world.run(seconds(120));
    world.operations
}

#[test]
fn an_undisturbed_change_of_servers_has_the_outcome_it_should() {
    let _judged = opamp_spec::judges(&["CONN-17", "CONN-18", "CONN-19", "CONN-23"]);
    for transports in World::transports() {
        for way in WAYS {
            let world = story(transports, way, false, Faults::default());
            world.assert_well();
            assert_eq!(world.is_applied(), way == Way::Good, "{way:?}");
            assert_eq!(world.at, Some(usize::from(way == Way::Good)), "{way:?}");
        }
    }
}

#[test]
fn the_process_may_end_at_any_operation() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-16", "CONN-18", "CONN-23", "ID-04"]);
    for transports in World::transports() {
        for way in WAYS {
            for crash in 0..operations(transports, way) {
                let faults = Faults { crashes: [Some(crash), None], disk: None };
                let world = story(transports, way, false, faults);
                world.assert_well();
                assert_eq!(world.is_applied(), way == Way::Good, "{way:?} {crash}");
            }
        }
    }
}

#[test]
fn the_process_may_end_twice_while_the_old_credentials_become_void() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-16"]);
    for transports in World::transports() {
        let count = operations(transports, Way::Good);
        for first in 0..count {
            for second in first + 1..count + 10 {
                let faults = Faults { crashes: [Some(first), Some(second)], disk: None };
                let world = story(transports, Way::Good, true, faults);
                world.assert_well();
                assert!(world.is_applied(), "{first} {second}");
                assert_eq!(world.at, Some(1));
            }
        }
    }
}

#[test]
fn the_disk_may_fail_at_any_operation_for_any_time() {
    let _judged = opamp_spec::judges(&["CONN-08", "CONN-11", "CONN-18"]);
    for transports in World::transports() {
        for way in [Way::Good, Way::Unauthorized, Way::Silent] {
            let count = operations(transports, way);
            for from in 0..count {
                for length in [1, 2, 5, 20] {
                    let disk = Some((from, from + length));
                    let world = story(transports, way, false, Faults { disk, ..Faults::default() });
                    world.assert_well();
                }
            }
        }
    }
}

#[test]
fn the_process_may_end_while_the_disk_fails() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-18", "ID-04"]);
    for transports in World::transports() {
        for (way, revoking) in [(Way::Good, true), (Way::Refuses, false)] {
            let count = operations(transports, way);
            // The identity is saved by then: an agent that never could save has none to keep.
            for from in 4..count {
                for after in [1, 3, 6, 12] {
                    let disk = Some((from, from + after + 6));
                    let faults = Faults { crashes: [Some(from + after), None], disk };
                    let world = story(transports, way, revoking, faults);
                    world.assert_well();
                }
            }
        }
    }
}

/// The answers of the new server get lost for a while, but it has seen the new credentials.
#[test]
fn a_lost_reply_does_not_cost_the_agent_both_servers() {
    let _judged = opamp_spec::judges(&["CONN-11", "CONN-16"]);
    for transports in World::transports() {
        for outage in [10, 29, 31, 45, 600, 3600] {
            for crash in 0..operations(transports, Way::Good) {
                let faults = Faults { crashes: [Some(crash), None], disk: None };
                let mut world = World::new(transports, false).with(faults);
                world.revoking = true;
                world.ways[1] = Way::Mute;
                world.run(seconds(5));
                world.offer(1);
                world.run(seconds(outage));
                world.ways[1] = Way::Good;
                world.run(seconds(LONG));
                world.assert_well();
            }
        }
    }
}

#[test]
fn a_certificate_request_survives_the_end_of_the_process_at_any_operation() {
    let _judged = opamp_spec::judges(&["CSR-04"]);
    for transports in World::transports() {
        for crash in 0..40 {
            let faults = Faults { crashes: [Some(crash), Some(crash + 7)], disk: None };
            let mut world = World::new(transports, true).with(faults);
            world.run(seconds(300));
            let request = world.core.state().certificate_request.clone();
            let key = request.expect("asked for by now").private_key;
            world.crash();
            world.run(seconds(300));
            let request = world.core.state().certificate_request.clone();
            assert_eq!(request.expect("kept").private_key, key, "the same key");
            world.assert_well();
        }
    }
}
