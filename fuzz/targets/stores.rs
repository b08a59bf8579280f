//! See `inputs/stores.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/stores.rs"]
mod stores;

fuzz_target!(|bytes: &[u8]| stores::run(bytes));
