//! What an Agent's machine did since somebody last looked: for counts, never for decisions.

use bitflags::bitflags;

use super::agent::Agent;

bitflags! {
    /// What happened to offers of one kind.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct OfferEvents: u8 {
        /// One was made.
        const OFFERED = 1;
        /// The Agent has reported the one made last as applied, perhaps after it had failed.
        const APPLIED = 1 << 1;
        /// The Agent has reported the one made last as failed.
        const FAILED = 1 << 2;
        /// Nothing final was heard in time.
        const TIMED_OUT = 1 << 3;
        /// Another was made before the end of the last one was known.
        const SUPERSEDED = 1 << 4;
    }
}

/// What happened, each at most once between two looks but for custom messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) config: OfferEvents,
    pub(crate) settings: OfferEvents,
    pub(crate) packages: OfferEvents,
    /// The full state was asked for.
    pub(crate) full_state: bool,
    pub(crate) command_sent: bool,
    pub(crate) command_dropped: bool,
    pub(crate) custom_sent: u16,
    pub(crate) custom_expired: u16,
    pub(crate) custom_unsupported: u16,
}

impl Agent {
    /// Takes what happened since the last look; `None` if that is nothing.
    pub(crate) fn take_tally(&mut self) -> Option<Tally> {
        if self.tally == Tally::default() {
            return None;
        }
        Some(std::mem::take(&mut self.tally))
    }
}
