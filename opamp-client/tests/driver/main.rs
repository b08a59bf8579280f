//! The drivers on real sockets: every peer is scripted by hand on the loopback interface.
//!
//! A test plays the server in its own task, step by step, so nothing waits for a length of time
//! where it can wait for what happens; [`support::soon`] turns a wait that never ends into a
//! failure.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn the driver and read the clock as an application does"
)]

mod coding;
mod credentials;
mod custom;
mod exchange;
mod faults;
mod features;
mod files;
mod large;
mod offer;
#[cfg(all(feature = "packages", feature = "file-store", feature = "minisign"))]
mod packages;
mod patience;
mod proxies;
mod redirects;
mod refusal;
mod report;
mod rotation;
mod secrets;
mod stop;
mod store;
mod support;
mod tls;
mod websocket;
