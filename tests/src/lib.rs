//! Tests that need both ends of OpAMP.
//!
//! [`world`] joins real client cores and a real fleet over a virtual network in virtual time; the
//! network loses, delays and reorders, servers forget, agents restart, and every run is reproducible
//! from its seed. [`tap`] checks what goes over the wire against the rules that hold for any single
//! conversation.

pub mod random;
pub mod tap;
pub mod world;
