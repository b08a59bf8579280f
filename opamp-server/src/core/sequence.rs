//! Sequence numbers, and when to ask for what was missed (SEQ-03 to SEQ-06).
//!
//! What counts is not the last message but what the Agent has told since the Server last lost track
//! of it: at the first message, and at every gap, nothing is known to be current but what that
//! message holds. As long as a part that the Agent promises by its capabilities has not come in
//! since, data is missing.
//!
//! ```text
//!            first message, or gap                   a promised part is missing
//!   ─────────────────────────────────▶ current := ──────────────────────────────▶ ask at once
//!                                      its parts
//!            next number               current :=   still missing: ask again after a pause,
//!   ─────────────────────────────────▶ current ∪  ─▶ three times; then only at the next gap
//!                                      its parts     or the next session
//!            same number, same parts
//!   ─────────────────────────────────▶ a repetition: never asks
//! ```
//!
//! The same number with other parts is no repetition but another speaker, and as good as a gap:
//! most Agents begin to count anew when they start, and what the process before had sent may come
//! late.
//!
//! An Agent that says nothing after it was asked is asked again as well, by a push where there is a
//! connection, which counts towards the three times.
//!
//! Where many Agents owe something at a time, each is asked in its [turn](super::FullStatePace).
//!
//! A gap in a complete report asks for nothing, since nothing was left out of it.

use std::time::{Duration, Instant};

use super::record::Vitals;
use super::state::Parts;

/// How often an Agent that does not deliver is asked again before the next gap or session.
const MAX_REPEATS: u8 = 3;

/// How a sequence number relates to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// No number was seen before.
    First,
    /// The next one.
    Next,
    /// The same one again.
    Repeated,
    /// Any other: something was missed.
    Gap,
}

/// What the Server knows of one Agent's numbering.
#[derive(Debug, Default, Clone)]
pub(super) struct Sequence {
    last: Option<u64>,
    /// The parts of the last message.
    last_parts: Parts,
    current: Parts,
    asked: Option<Instant>,
    repeats: u8,
    /// When it is the Agent's turn to be asked.
    turn: Option<Instant>,
}

impl Sequence {
    /// What outlives the process. When the Agent was asked does not: it may be asked again.
    pub(super) fn record(&self) -> Vitals {
        Vitals {
            sequence_num: self.last,
            last_parts: self.last_parts.to_tags(),
            current: self.current.to_tags(),
            ..Vitals::default()
        }
    }

    pub(super) fn restored(vitals: &Vitals) -> Self {
        Self {
            last: vitals.sequence_num,
            last_parts: Parts::from_tags(vitals.last_parts),
            current: Parts::from_tags(vitals.current),
            ..Self::default()
        }
    }

    /// The last number received.
    pub(super) const fn last(&self) -> Option<u64> {
        self.last
    }

    /// The Agent has a new session: if data is missing, the request for it may have been lost.
    pub(super) fn session_began(&mut self) {
        self.asked = None;
        self.repeats = 0;
    }

    /// The step to this number; nothing changes.
    pub(super) fn step(&self, number: u64) -> Step {
        match self.last {
            None => Step::First,
            Some(last) if number == last.wrapping_add(1) => Step::Next,
            Some(last) if number == last => Step::Repeated,
            Some(_) => Step::Gap,
        }
    }

    /// Whether a message with this number and these parts is the last one again.
    pub(super) fn repeats(&self, number: u64, present: Parts) -> bool {
        self.step(number) == Step::Repeated && present == self.last_parts
    }

    /// Takes note of a message whose content was refused. It must not look like a gap later: what
    /// was refused would then be asked for again, and refused again.
    pub(super) fn refused(&mut self, number: u64) {
        if matches!(self.step(number), Step::First | Step::Gap) {
            self.lost_track(Parts::default());
        }
        self.last = Some(number);
        self.last_parts = Parts::default();
    }

    fn lost_track(&mut self, present: Parts) {
        self.current = present;
        self.asked = None;
        self.repeats = 0;
    }

    /// Takes note of a message, and says whether its reply has to ask for the full state.
    ///
    /// `present` are the parts the message has, `promised` those a full report would have. `turn`
    /// gives the moment from which on the Agent may be asked.
    pub(super) fn received(
        &mut self,
        number: u64,
        present: Parts,
        promised: Parts,
        pause: Duration,
        now: Instant,
        turn: impl FnOnce() -> Instant,
    ) -> bool {
        let step = match self.step(number) {
            Step::Repeated if present != self.last_parts => Step::Gap,
            step => step,
        };
        self.last = Some(number);
        self.last_parts = present;
        match step {
            Step::First | Step::Gap => self.lost_track(present),
            Step::Next | Step::Repeated => self.current = self.current.with(present),
        }
        if self.current.covers(promised) {
            self.asked = None;
            self.repeats = 0;
            self.turn = None;
            return false;
        }
        if self.turn.is_some() {
            return self.take_turn(now);
        }
        let ask = match (step, self.asked) {
            (Step::Repeated, _) => false,
            (_, None) => true,
            (_, Some(asked)) => {
                let again =
                    self.repeats < MAX_REPEATS && now.saturating_duration_since(asked) >= pause;
                self.repeats += u8::from(again);
                again
            }
        };
        if ask {
            self.asked = Some(now);
            self.turn = Some(turn());
        }
        self.take_turn(now)
    }

    /// Gives an Agent another turn that was asked, did not deliver, and has said nothing since:
    /// what it says would be answered with the request.
    pub(super) fn ask_again(
        &mut self,
        pause: Duration,
        now: Instant,
        turn: impl FnOnce() -> Instant,
    ) {
        let waited = |asked| now.saturating_duration_since(asked) >= pause;
        if self.turn.is_none() && self.repeats < MAX_REPEATS && self.asked.is_some_and(waited) {
            self.repeats += 1;
            self.asked = Some(now);
            self.turn = Some(turn());
        }
    }

    /// Whether the Agent is to be asked now, as its turn has come.
    pub(super) fn take_turn(&mut self, now: Instant) -> bool {
        let come = self.turn.is_some_and(|turn| now >= turn);
        if come {
            self.turn = None;
            self.asked = Some(now);
        }
        come
    }
}
