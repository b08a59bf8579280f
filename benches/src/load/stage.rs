//! How the thread that conducts a run and those that do the work tell each other where they are.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What the threads do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Connect, up to this connection, and report.
    Connect { upto: usize },
    /// Send messages as told.
    Traffic,
    /// Send nothing new, answer what comes.
    Rest,
    /// The same; what is unanswered at its end stays so.
    Drain,
    /// Send one heartbeat each.
    Beat,
    /// Report something large once.
    Large,
    /// Wait for a push.
    Push { round: u32 },
    /// Leave.
    Leave,
    /// End.
    Stop,
}

/// Where the run is.
#[derive(Debug)]
pub(crate) struct Stage {
    generation: AtomicU64,
    step: Mutex<Step>,
    /// What all times count from.
    pub(crate) began: Instant,
    /// When the push of this round was triggered.
    pub(crate) push_began: AtomicU64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self {
            generation: AtomicU64::new(0),
            step: Mutex::new(Step::Rest),
            began: Instant::now(),
            push_began: AtomicU64::new(0),
        }
    }

    pub(crate) fn go_to(&self, step: Step) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The step, if it is another one than that of this generation.
    pub(crate) fn changed(&self, generation: &mut u64) -> Option<Step> {
        let current = self.generation.load(Ordering::Acquire);
        if std::mem::replace(generation, current) == current {
            return None;
        }
        Some(*self.step.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nanoseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// How far a thread is. Its own counts; others only read.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Connections that are open.
    pub(crate) open: Count,
    /// Agents whose first report was answered.
    pub(crate) ready: Count,
    /// Agents that are through with what the step asks of each.
    pub(crate) done: Count,
    /// Messages without an answer yet.
    pub(crate) unanswered: Count,
    /// Messages answered since the beginning.
    pub(crate) answered: Count,
    /// What went wrong since the beginning.
    pub(crate) troubles: Count,
}

/// A number that one thread changes.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicI64);

impl Count {
    pub(crate) fn add(&self, number: usize) {
        self.set(self.0.load(Ordering::Relaxed) + number.cast_signed() as i64);
    }

    pub(crate) fn subtract(&self, number: usize) {
        self.set(self.0.load(Ordering::Relaxed) - number.cast_signed() as i64);
    }

    pub(crate) fn clear(&self) {
        self.set(0);
    }

    fn set(&self, number: i64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        u64::try_from(self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }
}
