//! Peers for the selftest: a server and a client that conform, written for this purpose and simple,
//! and that break in one way when a fault is switched on. They run on a network in memory, so a
//! whole suite against one of them takes a moment of virtual time.

use std::collections::BTreeSet;

pub mod client;
pub mod server;

/// The faults that are switched on.
#[derive(Debug, Clone, Default)]
pub struct Faults(BTreeSet<&'static str>);

impl Faults {
    /// None: the peer conforms.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// This one alone.
    #[must_use]
    pub fn only(name: &'static str) -> Self {
        Self(BTreeSet::from([name]))
    }

    /// Whether this one is switched on.
    ///
    /// # Panics
    ///
    /// In a debug build, when no list of faults has the name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        debug_assert!(
            server::FAULTS.iter().chain(client::FAULTS).any(|(known, _)| *known == name),
            "{name} is in no list of faults"
        );
        self.0.contains(name)
    }
}
