//! Primitives that keep an OpAMP-managed agent process alive, configured and updated.
//!
//! This crate is a place, not yet a thing: it holds no code so far. What belongs here, standing on
//! `opamp-client` towards the server and on `opamp-server` for the agent's own local endpoint:
//!
//! - state machines without I/O that start, stop, restart, configure, roll back and update an agent
//!   process, and that say what to report of it;
//! - a process backend, and a durable store for what has to survive a crash of the supervisor;
//! - what a replacement of the Collector's `opampsupervisor` needs on top of that.
