//! The bytes kept for all Agents together.
//!
//! Memory that Agents can fill is bounded twice: for each of them by the machine, and here for all.
//! What a report may add is reserved before anything of it is taken over, and settled afterwards
//! with what it did add; so shards need no common lock, and a report without news touches nothing
//! common.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Fleet;
use super::shard::PendingRename;
use crate::core::{AgentState, Refusal, Scan};

#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// Bytes set aside until they are settled; dropped, they are free again.
#[derive(Debug)]
#[must_use = "the bytes are free again when this is dropped"]
pub(super) struct Reservation<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Sets bytes aside; `None` if there is no room for them.
    pub(super) fn reserve(&self, bytes: usize) -> Option<Reservation<'_>> {
        if bytes > 0 {
            let with = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
            self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).ok()?;
        }
        Some(Reservation { budget: self, bytes })
    }

    /// What a message needs that leaves everything as it is.
    pub(super) const fn nothing(&self) -> Reservation<'_> {
        Reservation { budget: self, bytes: 0 }
    }

    /// What is kept again after a restart, whatever the limit says.
    pub(super) fn restore(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What was kept is no longer.
    pub(super) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Reservation<'_> {
    /// An Agent for which `before` bytes were kept has `after` now.
    pub(super) fn settle(mut self, before: usize, after: usize) {
        let reserved = std::mem::take(&mut self.bytes);
        // It may be less than nothing; the addition to the atomic wraps around just as these do.
        let more = after.wrapping_sub(before).wrapping_sub(reserved);
        if more != 0 {
            self.budget.used.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

impl<I> Fleet<I> {
    /// Sets aside what a message may add to the state of its Agent.
    pub(super) fn reserve(
        &self,
        state: &AgentState,
        scan: &Scan<'_>,
    ) -> Result<Reservation<'_>, Refusal> {
        if !scan.has_state() {
            return Ok(self.inner.budget.nothing());
        }
        let limit = self.inner.config.max_retained_bytes;
        // What is too much for one Agent is refused as that, when it comes to be taken over.
        let after = state.check_room(scan, limit).unwrap_or(0);
        let growth = after.saturating_sub(state.retained_bytes());
        if let Some(reserved) = self.inner.budget.reserve(growth) {
            return Ok(reserved);
        }
        // To send a malformed message again later would not help.
        scan.validate()?;
        self.inner.counting.over_budget.add();
        Err(Refusal::unavailable("the Server has no room for more reported state", None))
    }

    /// Sets aside what the first message under a new uid may add to the state that is about to
    /// move.
    pub(super) fn reserve_for_moved(
        &self,
        rename: &PendingRename,
        scan: &Scan<'_>,
    ) -> Result<Reservation<'_>, Refusal> {
        let shard = self.shard(&rename.old);
        match shard.slots.get(&rename.old).filter(|slot| slot.serial == rename.serial) {
            Some(slot) => self.reserve(slot.agent.state(), scan),
            None => self.reserve(&AgentState::default(), scan),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_settled_or_free_again() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        assert!(budget.reserve(usize::MAX).is_none());
        drop(budget.reserve(40).unwrap());
        first.settle(0, 50);
        assert_eq!(budget.used(), 50);
        budget.reserve(0).unwrap().settle(50, 20);
        assert_eq!(budget.used(), 20);
        // More than was reserved, as far as the count goes.
        budget.reserve(1).unwrap().settle(20, 30);
        assert_eq!(budget.used(), 30);
        budget.release(30);
        assert_eq!(budget.used(), 0);
    }
}
