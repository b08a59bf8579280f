//! What a message led to.

use bytes::Bytes;

use super::AgentKey;
use crate::core::{Changes, Due, Refusal};

/// What a message led to, and the right to its reply.
#[derive(Debug)]
#[must_use = "the message has to be answered: pass it to `reply`"]
#[non_exhaustive]
pub struct Accepted {
    /// The Agent, if its identifier could be read.
    pub key: Option<AgentKey>,
    /// What is new about it.
    pub changes: Changes,
    /// The Agent has to be queued for handling: see
    /// [`Fleet::take_changes`](super::Fleet::take_changes).
    pub queue: bool,
    /// What to pass to [`Fleet::poll_handled`](super::Fleet::poll_handled) to wait until the
    /// changes were handled.
    pub ticket: u64,
    /// The generation that has to be [saved](super::Fleet::is_saved) before the message is
    /// answered; 0 if the reply has to wait for nothing.
    pub unsaved: u64,
    pub(super) answer: Answer,
}

#[derive(Debug)]
pub(super) enum Answer {
    /// To be composed from what the Agent is owed by then, if it is served on the route of this
    /// number still.
    Reply(u64, Due),
    /// Nothing is to be said.
    Nothing,
    /// To be acknowledged, and nothing more.
    Acknowledge(Due),
    Refuse(Refusal),
    /// Done.
    Composed {
        tail: Option<Bytes>,
        push: bool,
        refusal: Option<Refusal>,
    },
}

impl Accepted {
    /// A message was taken that is about nobody.
    pub(super) const fn nothing() -> Self {
        Self {
            key: None,
            changes: Changes::empty(),
            queue: false,
            ticket: 0,
            unsaved: 0,
            answer: Answer::Nothing,
        }
    }

    /// If the reply is composed, and its head in the caller's buffer, its tail.
    #[cfg(feature = "service")]
    pub(crate) fn composed(&mut self) -> Option<Option<Bytes>> {
        match &mut self.answer {
            Answer::Composed { tail, .. } => Some(tail.take()),
            _ => None,
        }
    }

    /// Why the message was refused, if it was.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.answer {
            Answer::Reply(_, due) | Answer::Acknowledge(due) => due.refusal(),
            Answer::Nothing => None,
            Answer::Refuse(refusal) => Some(refusal),
            Answer::Composed { refusal, .. } => refusal.as_ref(),
        }
    }
}

/// What a message led to. The head of its reply is in the caller's buffer.
#[derive(Debug)]
#[must_use = "the reply has to be sent"]
#[non_exhaustive]
pub struct Received {
    /// The Agent, if its identifier could be read.
    pub key: Option<AgentKey>,
    /// What is new about it.
    pub changes: Changes,
    /// The Agent has to be queued for handling: see
    /// [`Fleet::take_changes`](super::Fleet::take_changes).
    pub queue: bool,
    /// The rest of the reply, to be sent right after the head.
    pub tail: Option<Bytes>,
    /// There is more to push right after the reply: call
    /// [`Fleet::poll_push`](super::Fleet::poll_push) until it has nothing.
    pub push: bool,
    /// Why the message was refused, if it was.
    pub refusal: Option<Refusal>,
    /// The message gets no reply, which only a [tolerance](crate::Tolerances::missing_instance_uid)
    /// brings about.
    pub unanswered: bool,
    /// The reply has to wait for what changed to be [saved](super::Fleet::is_saved): nothing of it
    /// is in the buffer, and it is to be [composed](super::Fleet::reply) from this then, or given
    /// up with [`Fleet::answer_unsaved`](super::Fleet::answer_unsaved).
    pub unsaved: Option<Box<Accepted>>,
}

impl Received {
    /// What a message led to whose reply has to wait.
    pub(super) fn later(accepted: Accepted) -> Self {
        let Accepted { key, changes, queue, .. } = accepted;
        let refusal = accepted.refusal().cloned();
        let unanswered = matches!(accepted.answer, Answer::Nothing);
        let unsaved = Some(Box::new(accepted));
        Self { key, changes, queue, tail: None, push: false, refusal, unanswered, unsaved }
    }
}
