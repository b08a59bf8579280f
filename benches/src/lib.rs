//! Benchmarks of the OpAMP crates: `cargo bench -p opamp-benches`.
//!
//! Figures are for comparison within one run on one machine; `decode_and_encode` is the floor that a
//! plain use of the generated messages would have.
