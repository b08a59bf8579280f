//! Tests any OpAMP server or client, in any language, against the specification.

pub mod baseline;
pub mod case;
pub mod client;
pub mod fuzz;
pub mod hook;
pub mod judge;
pub mod log;
pub mod mask;
pub mod net;
pub mod pace;
pub mod preflight;
pub mod program;
pub mod reference;
pub mod report;
pub mod run;
pub mod select;
pub mod selftest;
pub mod server;
pub mod suite;
pub mod verdict;
pub mod wire;
