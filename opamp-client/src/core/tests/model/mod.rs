//! Generated operations on the core, a virtual network and a model server, and what holds whatever
//! happens.
//!
//! ```text
//!   op ──► World ──┬── ClientCore ◄──► to_server, to_client ◄──► Server
//!                  │                                               │ what it was told, folded
//!                  └── Witness: has every message a reason?        ▼
//!                                                 equals what the core says, after quiet time
//! ```
//!
//! A run that fails shrinks to a short list of operations; it then becomes a scenario beside this
//! folder, so that it is run for ever.

mod op;
mod properties;
mod server;
mod sizes;
mod witness;
mod world;

pub(super) use self::properties::check;
