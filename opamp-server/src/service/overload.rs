//! When a Server has too much to do: a look at what piles up, with the patience that tells a moment
//! from a state.
//!
//! ```text
//!              over a limit for a while            over the greater one for a while
//!   normal ─────────────────────────▶ strained ─────────────────────────▶ overloaded
//!      ◀───────────────────────────────  ◀───────────────────────────────────
//!            below half of the limit for a longer while, one step at a time
//! ```
//!
//! Two things pile up where there is more to do than is done: the time between the moment something
//! was due and the moment it is done, which the task that keeps the time sees on itself; and Agents
//! whose changes the handler has not been told of. A single late tick, as when a machine was
//! suspended, is none of it.

use std::time::Duration;

use crate::fleet::Load;

/// What a Server takes for too much, and for how long.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OverloadLimits {
    /// How late the Server may be with what is due before those who arrive are refused. Default:
    /// 500 ms.
    pub strained_delay: Duration,
    /// And before all messages are refused. Default: 3 s, when pings and deadlines begin to be
    /// missed.
    pub overloaded_delay: Duration,
    /// Agents with changes the handler was not told of before those who arrive are refused.
    /// Default: 20,000.
    pub strained_queue: usize,
    /// And before all messages are refused. Default: 200,000.
    pub overloaded_queue: usize,
    /// How long a limit has to be exceeded before it counts. Default: 3 s.
    pub after: Duration,
    /// How long there has to be less than half of it before it counts no longer. Default: 10 s.
    pub calm: Duration,
}

impl Default for OverloadLimits {
    fn default() -> Self {
        Self {
            strained_delay: Duration::from_millis(500),
            overloaded_delay: Duration::from_secs(3),
            strained_queue: 20_000,
            overloaded_queue: 200_000,
            after: Duration::from_secs(3),
            calm: Duration::from_secs(10),
        }
    }
}

/// What is seen at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    pub(super) delay: Duration,
    pub(super) queue: usize,
}

/// The guard: looks come in, the load goes out. The time between two looks goes with each of them.
#[derive(Debug)]
pub(super) struct Guard {
    limits: OverloadLimits,
    load: Load,
    /// For how long it was above what the load allows.
    above: Duration,
    /// For how long it was clearly below what made the load.
    below: Duration,
    /// Looks in a row above.
    looks: u32,
}

/// One look says nothing: it may have been the machine that stood still.
const LOOKS: u32 = 3;

impl Guard {
    pub(super) fn new(limits: OverloadLimits) -> Self {
        let none = Duration::ZERO;
        Self { limits, load: Load::Normal, above: none, below: none, looks: 0 }
    }

    /// The load a limit for it is exceeded for, when so much of it is allowed: all, or half.
    fn needs(&self, pressure: Pressure, part: u32) -> Load {
        let Pressure { delay, queue } = pressure;
        let OverloadLimits { strained_delay, overloaded_delay, .. } = self.limits;
        let OverloadLimits { strained_queue, overloaded_queue, .. } = self.limits;
        let exceeds = |max_delay: Duration, max_queue: usize| {
            delay > max_delay / part || queue > max_queue / part as usize
        };
        if exceeds(overloaded_delay, overloaded_queue) {
            Load::Overloaded
        } else if exceeds(strained_delay, strained_queue) {
            Load::Strained
        } else {
            Load::Normal
        }
    }

    /// A look, so long after the last; `Some` if the load is another now.
    pub(super) fn look(&mut self, pressure: Pressure, elapsed: Duration) -> Option<Load> {
        let before = self.load;
        if self.needs(pressure, 1) > self.load {
            self.above += elapsed;
            self.looks += 1;
            if self.above >= self.limits.after && self.looks >= LOOKS {
                self.enter(match self.load {
                    Load::Normal => Load::Strained,
                    _ => Load::Overloaded,
                });
            }
        } else {
            (self.above, self.looks) = (Duration::ZERO, 0);
        }
        if self.needs(pressure, 2) < self.load {
            self.below += elapsed;
            if self.below >= self.limits.calm {
                self.enter(match self.load {
                    Load::Overloaded => Load::Strained,
                    _ => Load::Normal,
                });
            }
        } else {
            self.below = Duration::ZERO;
        }
        (self.load != before).then_some(self.load)
    }

    fn enter(&mut self, load: Load) {
        self.load = load;
        (self.above, self.below, self.looks) = (Duration::ZERO, Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pressure(delay_ms: u64, queue: usize) -> Pressure {
        Pressure { delay: Duration::from_millis(delay_ms), queue }
    }

    /// The loads after each second with this pressure.
    fn loads(guard: &mut Guard, pressure: Pressure, seconds: usize) -> Vec<Load> {
        let look = |_| {
            guard.look(pressure, SECOND);
            guard.load
        };
        (0..seconds).map(look).collect()
    }

    #[test]
    fn it_takes_a_while_each_way_and_one_step_at_a_time() {
        use Load::{Normal, Overloaded, Strained};
        for bad in [pressure(4_000, 0), pressure(0, 300_000)] {
            let mut guard = Guard::new(OverloadLimits::default());
            assert_eq!(
                loads(&mut guard, bad, 7),
                [Normal, Normal, Strained, Strained, Strained, Overloaded, Overloaded]
            );
            let better = loads(&mut guard, pressure(10, 0), 21);
            assert_eq!(better[8..10], [Overloaded, Strained]);
            assert_eq!(better[18..], [Strained, Normal, Normal]);
        }
    }

    #[test]
    fn less_than_the_limit_but_more_than_half_of_it_keeps_what_is() {
        let mut guard = Guard::new(OverloadLimits::default());
        assert_eq!(loads(&mut guard, pressure(300, 0), 60), [Load::Normal; 60]);
        loads(&mut guard, pressure(600, 0), 3);
        assert_eq!(loads(&mut guard, pressure(300, 0), 60), [Load::Strained; 60]);
    }

    #[test]
    fn a_machine_that_stood_still_is_not_overloaded() {
        let mut guard = Guard::new(OverloadLimits::default());
        let hour = Duration::from_secs(3600);
        assert_eq!(guard.look(Pressure { delay: hour, queue: 0 }, hour), None);
        assert_eq!(guard.look(pressure(0, 0), SECOND), None);
        assert_eq!(loads(&mut guard, pressure(0, 0), 60), [Load::Normal; 60]);
    }

    proptest! {
        /// It never changes twice within the time that a change takes.
        #[test]
        fn it_does_not_flutter(delays in prop::collection::vec(0..5_000_u64, 1..200)) {
            let mut guard = Guard::new(OverloadLimits::default());
            let mut changed: Option<usize> = None;
            for (second, delay) in delays.into_iter().enumerate() {
                let before = guard.load;
                if let Some(load) = guard.look(pressure(delay, 0), SECOND) {
                    let least = if load > before { 3 } else { 10 };
                    prop_assert!(changed.is_none_or(|changed| second - changed >= least));
                    changed = Some(second);
                }
            }
        }
    }
}
