//! The bytes of messages that have arrived in part, on all connections together.
//!
//! Each connection may bring one message up to the limit of a message, and a peer that never brings
//! the end of it keeps what it sent. So all of them share a budget, by a rule that needs one
//! number: nobody may hold more than is left free. Alone, a message may be as large as half of the
//! budget; with a hundred that try to fill it, each ends up with a hundredth, and a message of
//! usual size still finds room.
//!
//! ```text
//!   holders            0      1      3      100
//!   each may hold      1/2    1/3    1/5    1/102   of the budget
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What every connection may hold without being asked. With HTTP/2 it has many requests, so there
/// is nothing that goes without.
pub(super) const FREE: usize = 4 * 1024;

/// The budget of all.
#[derive(Debug)]
pub(super) struct InProgress {
    limit: usize,
    used: AtomicUsize,
}

/// What one connection holds of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<InProgress>,
    /// What does not count.
    free: usize,
    bytes: usize,
}

/// There is not enough left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exhausted;

impl InProgress {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Nothing of it, to begin with, and a little beside for a connection of its own.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), free: FREE, bytes: 0 }
    }

    /// Nothing of it, to begin with, for one of many on a connection: everything counts.
    pub(super) fn share_of_many(self: &Arc<Self>) -> Share {
        Share { budget: Arc::clone(self), free: 0, bytes: 0 }
    }
}

impl Share {
    /// The holder has so many bytes now.
    ///
    /// # Errors
    ///
    /// [`Exhausted`] if that is more than would be left for others; then it still counts for what
    /// it had.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes.saturating_sub(self.free);
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let with = |used: usize| {
                let used = used.checked_add(more)?;
                (bytes <= self.budget.limit.checked_sub(used)?).then_some(used)
            };
            let used = &self.budget.used;
            used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with).map_err(|_| Exhausted)?;
        } else if bytes < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// The most the holder could have now, in all.
    pub(super) fn most(&self) -> usize {
        let others = self.budget.used().saturating_sub(self.bytes);
        self.budget.limit.saturating_sub(others) / 2 + self.free
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // Mostly there is nothing, and who shares the count need not hear of it.
        if self.bytes > 0 {
            self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1000 * FREE;

    /// Holders that take as much as they get, in turns: what each has in the end.
    fn fill(budget: &Arc<InProgress>, holders: usize) -> Vec<Share> {
        let mut shares: Vec<_> = (0..holders).map(|_| budget.share()).collect();
        let mut grew = true;
        while std::mem::take(&mut grew) {
            for share in &mut shares {
                grew |= share.set(share.bytes + FREE + FREE / 4).is_ok();
            }
        }
        shares
    }

    #[test]
    fn those_who_take_all_they_get_leave_as_much_for_the_next() {
        for holders in [1, 3, 100, 900] {
            let budget = Arc::new(InProgress::new(LIMIT));
            let shares = fill(&budget, holders);
            let fair = LIMIT / (holders + 1);
            let largest = shares.iter().map(|share| share.bytes).max().unwrap();
            assert!(largest <= fair + FREE, "{holders}: {largest} of {fair}");
            let mut next = budget.share();
            assert!(next.most() + FREE >= fair / 2, "{holders}");
            assert_eq!(next.set(fair / 2), Ok(()), "{holders}");
            drop((shares, next));
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_little_is_free() {
        let budget = Arc::new(InProgress::new(0));
        let mut share = budget.share();
        assert_eq!((share.set(FREE), share.set(FREE + 1)), (Ok(()), Err(Exhausted)));
        assert_eq!(share.most(), FREE);
        let mut one_of_many = budget.share_of_many();
        assert_eq!((one_of_many.set(1), one_of_many.most()), (Err(Exhausted), 0));
    }

    proptest! {
        #[test]
        fn what_is_used_is_what_is_held(
            steps in prop::collection::vec((0..5_usize, 0..LIMIT), 1..100),
        ) {
            let budget = Arc::new(InProgress::new(LIMIT));
            let mut shares: Vec<_> = (0..5).map(|_| budget.share()).collect();
            for (holder, bytes) in steps {
                let (most, before) = (shares[holder].most(), shares[holder].bytes);
                let set = shares[holder].set(bytes);
                if bytes <= most {
                    prop_assert_eq!(set, Ok(()));
                } else if bytes > before + FREE + 1 && bytes > most + 1 {
                    prop_assert_eq!(set, Err(Exhausted));
                }
                let held: usize = shares.iter().map(|share| share.bytes).sum();
                prop_assert_eq!(held, budget.used());
                prop_assert!(held <= LIMIT);
            }
        }
    }
}
