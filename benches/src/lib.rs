//! Speed and cost of the OpAMP crates, and of other implementations beside them.
//!
//! - [`load`] and the program `opamp-load`: a load generator for any OpAMP server.
//! - The programs behind `benches/run`, which measures servers side by side.
//!
//! What the protocol cores take without any I/O is measured by the package `opamp-core-benches`.
//!
//! `benches/README.md` says how to use them.

pub mod certificate;
pub mod load;
pub mod process;
pub mod sim;
