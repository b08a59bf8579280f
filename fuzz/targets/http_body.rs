//! See `inputs/http_body.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/http_body.rs"]
mod http_body;

fuzz_target!(|bytes: &[u8]| http_body::run(bytes));
