//! The service on real sockets of the loopback interface, and on virtual ones where time matters.
#![allow(clippy::disallowed_methods, reason = "tests are drivers: they have clocks and tasks")]
#![allow(clippy::large_futures, reason = "a few clients' futures on the stack do no harm")]

mod admission;
#[cfg(feature = "ca")]
mod certificates;
mod client;
mod duplicates;
mod faults;
mod flows;
mod handling;
mod http;
#[cfg(feature = "http2")]
mod http2;
mod identity;
mod logs;
mod mount;
mod proxies;
mod quirks;
mod reference_defects;
#[cfg(feature = "ca")]
mod revocations;
mod shutdown;
mod store;
#[path = "../support/mod.rs"]
mod support;
mod times;
mod tls;
mod tls_reload;
mod websocket;
