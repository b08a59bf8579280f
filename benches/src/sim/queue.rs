//! What is going to happen, in the order of time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::{Happening, Micros};

/// How far apart times are, as a power of two of microseconds, that are in order only once it is their
/// turn: what is soon fits into a cache, which all that millions of Agents wait for does not.
const APART: u32 = 14;

/// Its order is that of time, and among equals that of coming into being.
pub(super) struct Scheduled {
    pub(super) due: Micros,
    order: u64,
    pub(super) agent: u32,
    pub(super) what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

#[derive(Default)]
pub(super) struct Queue {
    /// What is due in the current span of time or before.
    soon: BinaryHeap<Reverse<Scheduled>>,
    span: u64,
    /// The rest, by the span it is due in.
    later: BTreeMap<u64, Vec<Reverse<Scheduled>>>,
    scheduled: u64,
}

impl Queue {
    pub(super) fn push(&mut self, due: Micros, agent: u32, what: Happening) {
        self.scheduled += 1;
        let scheduled = Reverse(Scheduled { due, order: self.scheduled, agent, what });
        match due >> APART {
            span if span <= self.span => self.soon.push(scheduled),
            span => self.later.entry(span).or_default().push(scheduled),
        }
    }

    /// The next, if it is due by then.
    pub(super) fn pop(&mut self, by: Micros) -> Option<Scheduled> {
        if self.soon.is_empty() {
            let next = self.later.first_entry().filter(|next| *next.key() <= by >> APART)?;
            let (span, due) = next.remove_entry();
            self.span = span;
            self.soon = due.into();
        }
        if self.soon.peek()?.0.due > by {
            return None;
        }
        self.soon.pop().map(|Reverse(next)| next)
    }
}
