//! What the protocol cores do, one operation after the other, prepared to be measured.
//!
//! - `cargo bench -p opamp-core-benches`: how long each operation takes. Figures are for comparison
//!   within one run on one machine; the group `floor` has what a plain use of the generated messages
//!   would take.
//! - `benches/run instructions`: how many instructions and allocations each takes, compared with those
//!   of the last change.
//!
//! An operation goes from bytes in to bytes out and reads no clock: time advances with each message. So
//! the same is done each time it is repeated.

use std::fmt;

pub mod client;
pub mod fleet;
pub mod floor;
mod messages;
pub mod server;

/// Something the cores do.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// What is done.
    pub name: &'static str,
    /// How long it may take, for a reader of the measured times.
    pub goal: Option<&'static str>,
    /// It is done with all Agents of a fleet at once.
    pub with_all: bool,
    prepare: fn(agents: usize) -> Repeat,
}

/// Does an operation once more.
pub type Repeat = Box<dyn FnMut()>;

impl Operation {
    const fn new(name: &'static str, prepare: fn(agents: usize) -> Repeat) -> Self {
        Self { name, goal: None, with_all: false, prepare }
    }

    const fn goal(self, goal: &'static str) -> Self {
        Self { goal: Some(goal), ..self }
    }

    const fn with_all(self) -> Self {
        Self { with_all: true, ..self }
    }

    /// Makes everything ready, the operation done some times included, so that buffers have their size
    /// and the first time is like any other. Operations on a whole fleet are made for so many Agents.
    #[must_use]
    pub fn prepare(&self, agents: usize) -> Repeat {
        let mut repeat = (self.prepare)(agents);
        (0..4).for_each(|_| repeat());
        repeat
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.goal.map_or(Ok(()), |goal| write!(f, " (goal: {goal})"))
    }
}

/// All operations, by the name of their group.
pub const GROUPS: [(&str, &[Operation]); 4] = [
    ("floor", &floor::OPERATIONS),
    ("server", &server::OPERATIONS),
    ("fleet", &fleet::OPERATIONS),
    ("client", &client::OPERATIONS),
];
