//! A load generator for OpAMP servers, of any make: the program `opamp-load` is its command line.
//!
//! It has to be much leaner than what it measures, since they share a machine: one thread drives tens
//! of thousands of connections with one poll and one pair of buffers; messages are encoded once and
//! patched; answers are scanned, not decoded; nothing but the generated messages of `opamp-proto` is
//! used of the crates it was made to measure.
//!
//! ```text
//!           steps ┌──────────┐ counts
//! conductor ─────►│ thread 0 │────────► report
//!   │       ─────►│ thread 1 │────────►   ▲
//!   │             └────┬─────┘            │
//!   └── /proc/PID      │ WebSocket, HTTP  │
//!          ▲           ▼                  │
//!          └──────── server      CPU, memory
//! ```

mod agent;
mod histogram;
mod http;
mod link;
mod options;
mod report;
mod run;
mod scan;
mod stage;
mod stats;
mod target;
mod template;
mod websocket;
mod worker;

pub use self::histogram::Histogram;
pub use self::options::{Header, Leave, Mix, Options};
pub use self::report::{Cost, Latency, MemoryAt, Report, StepReport};
pub use self::run::run;
pub use self::stats::{Stats, Trouble};
pub use self::target::Target;
pub use self::template::Kind;
