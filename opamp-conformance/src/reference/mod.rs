//! Peers for the selftest: a server and a client that conform, written for this purpose and simple,
//! and that break in one way when a fault is switched on. They run on a network in memory, so a
//! whole suite against one of them takes a moment of virtual time.

use std::collections::BTreeSet;

pub mod client;
pub mod server;

/// Name and meaning of a way to break.
pub type Fault = (&'static str, &'static str);

/// How many there are in all lists.
const fn count(lists: &[&[Fault]]) -> usize {
    let (mut count, mut at) = (0, 0);
    while at < lists.len() {
        count += lists[at].len();
        at += 1;
    }
    count
}

/// All lists as one of this length.
const fn concat<const N: usize>(lists: &[&[Fault]]) -> [Fault; N] {
    let mut all = [("", ""); N];
    let (mut list, mut at, mut to) = (0, 0, 0);
    while to < N {
        if at == lists[list].len() {
            (list, at) = (list + 1, 0);
        } else {
            all[to] = lists[list][at];
            (at, to) = (at + 1, to + 1);
        }
    }
    all
}

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
