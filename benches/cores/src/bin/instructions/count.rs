//! The operations as they are counted.

use opamp_core_benches::{GROUPS, Operation, Repeat};
use stats_alloc::Region;

use super::ALLOCATOR;

/// Agents of a fleet, where an operation is about one. Few, as valgrind is slow.
const AGENTS: usize = 1_000;

/// An even number, as some operations go back and forth.
const TIMES: usize = 100;

/// Those on a whole fleet take much longer than the differences between two.
const TIMES_WITH_ALL: usize = 4;

/// An operation under the name it has in the record.
pub(crate) struct Counted {
    pub(crate) name: String,
    operation: &'static Operation,
    pub(crate) times: usize,
}

impl Counted {
    /// Done as often as it is counted after: an allocator tidies up now and then behind those who made
    /// everything ready.
    fn prepare(&self) -> Repeat {
        let mut repeat = self.operation.prepare(AGENTS);
        (0..self.times).for_each(|_| repeat());
        repeat
    }
}

pub(crate) fn operations() -> Vec<Counted> {
    let groups = GROUPS.into_iter().flat_map(|(group, operations)| {
        operations.iter().map(move |operation| Counted {
            name: format!("{group}: {}", operation.name),
            operation,
            times: if operation.with_all { TIMES_WITH_ALL } else { TIMES },
        })
    });
    groups.collect()
}

/// Does each operation some times, for callgrind.
pub(crate) fn all() {
    operations().iter().for_each(dumped_by_callgrind);
}

/// When this returns, callgrind writes down what it has counted: it is told the name.
#[inline(never)]
fn dumped_by_callgrind(operation: &Counted) {
    counted_by_callgrind(&mut operation.prepare(), operation.times);
}

/// What callgrind counts is what happens in here: it is told the name, too.
#[inline(never)]
fn counted_by_callgrind(repeat: &mut Repeat, times: usize) {
    (0..times).for_each(|_| repeat());
}

/// The allocations of each operation, reallocations included, in order.
pub(crate) fn allocations() -> Vec<f64> {
    let count = |operation: Counted| {
        let mut repeat = operation.prepare();
        let region = Region::new(ALLOCATOR);
        (0..operation.times).for_each(|_| repeat());
        let stats = region.change();
        (stats.allocations + stats.reallocations) as f64 / operation.times as f64
    };
    operations().into_iter().map(count).collect()
}
