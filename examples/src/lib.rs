//! The parts of the example programs.
//!
//! The programs themselves are the binaries `demo`, `server`, `agent` and `gateway`; each is a thin
//! shell around a module here, so that `demo` runs the same server and the same agents in one
//! process.

pub mod agent;
pub mod file;
pub mod gateway;
pub mod program;
pub mod server;
pub mod tls;

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
