//! See `inputs/values.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/values.rs"]
mod values;

fuzz_target!(|bytes: &[u8]| values::run(bytes));
