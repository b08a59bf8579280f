//! See `inputs/conversation.rs`.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../inputs/conversation.rs"]
mod conversation;

fuzz_target!(|bytes: &[u8]| conversation::run(bytes));
