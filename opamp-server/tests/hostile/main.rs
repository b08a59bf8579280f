//! Hostile and broken peers over real sockets. Beside each of them a well-behaved Agent is served
//! all the while; each test says what the hostile one is told, and that memory stays bounded.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks and tasks")]
#![allow(clippy::large_futures, reason = "a few clients' futures on the stack do no harm")]

mod bombs;
#[path = "../service/client.rs"]
#[allow(dead_code, reason = "shared with the tests of the service")]
mod client;
mod crowds;
mod floods;
mod requests;
mod shapes;
mod slow;
#[path = "../support/mod.rs"]
mod support;
mod witness;

use std::alloc::System;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;
