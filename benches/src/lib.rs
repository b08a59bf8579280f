//! Speed and cost of the OpAMP crates, and of other implementations beside them.
//!
//! - [`load`] and the program `opamp-load`: a load generator for any OpAMP server.
//! - `cargo bench -p opamp-benches`: what a message costs in the protocol cores, without any I/O. Figures
//!   are for comparison within one run on one machine; `decode_and_encode` is the floor that a plain
//!   use of the generated messages would have.
//!
//! `benches/README.md` says how to use them.

pub mod certificate;
pub mod load;
pub mod process;
pub mod sim;
