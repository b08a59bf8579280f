//! How often the cores allocate for a message: in the end, for what is kept and what is handed over.

use std::alloc::System;

use opamp_core_benches::{GROUPS, Operation};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const AGENTS: usize = 200;

fn find(group: &str, name: &str) -> Operation {
    let operations = GROUPS.into_iter().filter(|(known, _)| *known == group);
    let mut operations = operations.flat_map(|(_, operations)| operations);
    *operations.find(|operation| operation.name == name).expect("an operation of this name")
}

/// Allocations and reallocations of an operation that is done so many times. The least of three
/// counts: what the rest of the process allocates meanwhile can only add.
fn allocations(operation: Operation, times: usize) -> usize {
    let count = || {
        let mut repeat = operation.prepare(AGENTS);
        let region = Region::new(ALLOCATOR);
        (0..times).for_each(|_| repeat());
        let stats = region.change();
        stats.allocations + stats.reallocations
    };
    (0..3).map(|_| count()).min().unwrap_or_default()
}

/// What is counted is the whole process: so there is one test here.
#[test]
fn a_message_allocates_for_nothing_but_what_is_kept_or_handed_over() {
    const TIMES: usize = 1000;
    for (group, name, each) in [
        ("server", "heartbeat", 0),
        ("server", "unchanged full report", 0),
        ("server", "heartbeat after a gap, full state asked", 0),
        // What is kept of the offer.
        ("server", "set a configuration and push it", 1),
        // The message for the transport, which owns it; for the answer nothing.
        ("client", "heartbeat", 1),
    ] {
        let counted = allocations(find(group, name), TIMES);
        assert_eq!(counted, each * TIMES, "{group}: {name}");
    }
    assert_eq!(allocations(find("fleet", "sweep"), 1), 0, "a sweep without news");
    let offered = allocations(find("fleet", "set a configuration for all and push it"), 1);
    // One for what is kept of the offer by each, and those for a growing list of all.
    let most = AGENTS + AGENTS.next_power_of_two().ilog2() as usize;
    assert!(offered <= most, "{offered} allocations for {AGENTS} Agents");
}
