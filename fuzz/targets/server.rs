//! See `inputs/server.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/server.rs"]
mod server;

fuzz_target!(|bytes: &[u8]| server::run(bytes));
