//! Connection settings are stored before they are offered (CONN-09): a Server that has offered
//! credentials and forgets them over a crash could lock its Agents out.
//!
//! ```text
//!   operator: set, issue ──▶ held ──────── generation is saved ───────▶ offered
//!                             │ ▲                                         │
//!                             └─┘ replies and pushes go without them      └─▶ pushed, or with the next reply
//! ```
//!
//! Everything else that is wanted is offered at once: an Agent that applied a configuration which
//! the Server has forgotten is offered the earlier one again, and nothing is lost.

use std::sync::atomic::Ordering;

use super::saving::Saving;
use super::shard::Slot;
use super::{AgentKey, Fleet};

impl<I> Slot<I> {
    /// Whether settings are held back: the Agent's own, and those for all.
    pub(super) fn holds_settings(&self, saving: &Saving) -> bool {
        self.held_until(saving) > saving.saved.load(Ordering::Acquire)
    }

    fn held_until(&self, saving: &Saving) -> u64 {
        let own = self.written.as_ref().map_or(0, |written| written.wanted);
        own.max(saving.default_settings.load(Ordering::Acquire))
    }
}

impl<I> Fleet<I> {
    /// The generation that has to be [saved](Self::is_saved) before connection settings are offered
    /// to an Agent; 0 for none. A reply that can wait for it has them with it; without, they
    /// follow.
    #[must_use]
    pub fn settings_held_until(&self, key: impl Into<AgentKey>) -> u64 {
        // Asked for each request, and hardly ever is anything held: that takes no lock.
        if self.inner.saving.is_settled() {
            return 0;
        }
        let key = key.into();
        self.shard(&key).slots.get(&key).map_or(0, |slot| slot.held_until(&self.inner.saving))
    }

    /// A generation is saved: Agents on a WebSocket get what was held back for it.
    pub(super) fn release_settings(&self, generation: u64) {
        let saving = &self.inner.saving;
        if saving.default_settings.load(Ordering::Acquire) == generation {
            for shard in self.shards() {
                let on_defaults = shard
                    .slots
                    .values()
                    .filter(|slot| slot.agent.own().connection_settings.is_none());
                on_defaults.for_each(|slot| slot.wake());
            }
        }
        let mut held = std::mem::take(&mut saving.collector().held);
        held.retain(|key| match self.shard(key).slots.get(key) {
            // Something else was wanted of it after it had been handed out.
            Some(slot) if slot.holds_settings(saving) => true,
            Some(slot) => {
                slot.wake();
                false
            }
            None => false,
        });
        saving.collector().held.append(&mut held);
    }
}
