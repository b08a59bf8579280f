//! What goes over the wire, as the tester writes and reads it: its own framing, ids and
//! compression, so that an error of the crates it may be testing cannot hide in it.

pub mod text;
