//! Replies that wait for what changed to be stored, in the order of their messages.
//!
//! As long as one waits, those to later messages on the connection wait behind it, and nothing is
//! pushed. When too many do, the connection is not read from, as with a peer that does not read.

use std::collections::VecDeque;

use super::super::buffers::Writing;
use super::super::handler::Handler;
use super::super::saver::Verdict;
use super::super::signal::{Coarse, coarse};
use super::{Connection, now};
use crate::fleet::Accepted;

/// Replies of one connection that may wait: enough for Agents that share one to share a write.
const MAX_AWAITING: usize = 256;

/// Boxed, as most connections never have any.
#[derive(Default)]
pub(super) struct Awaiting(Option<Box<Replies>>);

#[derive(Default)]
struct Replies {
    /// Each with the time until which it waits.
    replies: VecDeque<(Box<Accepted>, Coarse)>,
    /// The batch for which the connection is to be woken.
    registered: u64,
}

impl Awaiting {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.as_ref().is_some_and(|waiting| waiting.replies.len() >= MAX_AWAITING)
    }

    /// When the first one has waited long enough; never if there is none.
    pub(super) fn due(&self) -> Coarse {
        let first = self.0.as_ref().and_then(|waiting| waiting.replies.front());
        first.map_or(Coarse::MAX, |(_, until)| *until)
    }
}

impl<H: Handler> Connection<H> {
    /// Has the reply to a message wait.
    pub(super) fn hold_back(&mut self, accepted: Box<Accepted>) {
        let Some(saver) = self.inner.saver() else { return };
        let until = self.inner.signals.now().saturating_add(coarse(saver.patience()));
        self.awaiting.0.get_or_insert_default().replies.push_back((accepted, until));
        self.signal.due_by(until);
    }

    /// Sends the replies that need not wait any longer, as far as there is room for them.
    pub(super) fn answer_waiting(&mut self, writing: &mut Writing) {
        if self.awaiting.is_empty() {
            return;
        }
        let inner = std::sync::Arc::clone(&self.inner);
        let (Some(waiting), Some(saver)) = (&mut self.awaiting.0, inner.saver()) else { return };
        // First, so that what is stored from now on is not missed.
        saver.wake_later(&self.signal, &mut waiting.registered);
        while self.socket.has_room()
            && let Some(waiting) = &mut self.awaiting.0
            && let Some((accepted, until)) = waiting.replies.pop_front()
        {
            let over = inner.signals.now() >= until;
            let key = accepted.key;
            match saver.verdict(&inner.fleet, accepted.unsaved, over) {
                Verdict::Wait => {
                    waiting.replies.push_front((accepted, until));
                    self.signal.due_by(until);
                    return;
                }
                Verdict::Send => {
                    let tail = inner.fleet.reply(*accepted, now(), writing.begin());
                    self.send(key.as_ref(), writing, tail);
                    if let Some(key) = key {
                        self.push(&key, writing);
                    }
                }
                Verdict::Refuse => {
                    tracing::debug!(agent = ?key, "refused, as its news cannot be stored");
                    saver.refuse(&inner.fleet, *accepted, writing.begin());
                    self.send(key.as_ref(), writing, None);
                }
            }
        }
        if self.awaiting.0.as_ref().is_some_and(|waiting| waiting.replies.is_empty()) {
            self.awaiting.0 = None;
        }
    }
}
