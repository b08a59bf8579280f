//! See `inputs/frame.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/frame.rs"]
mod frame;

fuzz_target!(|bytes: &[u8]| frame::run(bytes));
