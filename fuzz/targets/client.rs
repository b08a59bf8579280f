//! See `inputs/client.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/client.rs"]
mod client;

fuzz_target!(|bytes: &[u8]| client::run(bytes));
