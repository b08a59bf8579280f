//! See `inputs/websocket.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/websocket.rs"]
mod websocket;

fuzz_target!(|bytes: &[u8]| websocket::run(bytes));
