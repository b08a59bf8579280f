//! The pace at which Agents are asked for their full state.
//!
//! After a crash of the Server, or without a store after every start, a whole fleet may owe its
//! full state at the same moment. Full reports are the largest messages Agents send and all of them
//! have to be validated and kept, so the requests are spread: a token bucket gives each Agent that
//! owes something its turn, at once while there are tokens and later in the order of asking.
//!
//! ```text
//!   an Agent owes parts ──turn(now)──▶ now      it is asked in the reply
//!                                  └─▶ later    it is asked in the first reply after that, or by a
//!                                               push if it says nothing; unless it has delivered
//! ```

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::config::later;

/// A token bucket that holds the tokens of one second.
///
/// One number is all its state: when the bucket would be full again. So it is shared without a
/// lock.
#[derive(Debug)]
pub struct FullStatePace {
    /// Nanoseconds for one token; 0 if nothing is paced.
    interval: u64,
    /// What the bucket may be ahead: the tokens of a second, less the one that is taken.
    burst: u64,
    origin: OnceLock<Instant>,
    /// When the bucket is full again, in nanoseconds after the origin.
    full: AtomicU64,
}

impl FullStatePace {
    /// A full bucket that gives so many turns each second; 0 gives every turn at once.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let second = 1_000_000_000_u64;
        let interval = second.checked_div(u64::from(per_second)).unwrap_or(0);
        let burst = second.saturating_sub(interval);
        Self { interval, burst, origin: OnceLock::new(), full: AtomicU64::new(0) }
    }

    /// Takes a turn: the moment from which on the Agent may be asked, at the earliest now.
    pub fn turn(&self, now: Instant) -> Instant {
        if self.interval == 0 {
            return now;
        }
        let at = self.at(now);
        let take = |full: u64| Some(full.max(at).saturating_add(self.interval));
        let (Ok(full) | Err(full)) =
            self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let wait = full.saturating_sub(at).saturating_sub(self.burst);
        later(now, Duration::from_nanos(wait))
    }

    /// Whether turns were given that are still to come.
    #[must_use]
    pub fn has_waiting(&self, now: Instant) -> bool {
        let full = self.full.load(Ordering::Relaxed);
        full.saturating_sub(self.at(now)) > self.burst + self.interval
    }

    fn at(&self, now: Instant) -> u64 {
        let origin = self.origin.get_or_init(|| now);
        u64::try_from(now.saturating_duration_since(*origin).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the one look at the clock that time starts from")]
mod tests {
    use super::*;

    #[test]
    fn a_second_s_tokens_are_there_at_once_and_the_rest_in_turn() {
        let start = Instant::now();
        let pace = FullStatePace::new(500);
        let turns: Vec<_> = (0..2_000).map(|_| pace.turn(start) - start).collect();
        assert!(turns[..500].iter().all(Duration::is_zero), "{turns:?}");
        for (number, turn) in turns.iter().enumerate().skip(500) {
            assert_eq!(*turn, Duration::from_millis(2) * (number as u32 - 499));
        }
        assert!(pace.has_waiting(start));
        assert!(!pace.has_waiting(start + turns[1_999]));
    }

    #[test]
    fn no_second_has_more_than_two_seconds_of_tokens() {
        let start = Instant::now();
        let pace = FullStatePace::new(10);
        let mut turns: Vec<_> = (0..400_u32)
            .map(|number| {
                let now = start + Duration::from_millis(u64::from(number) * 37);
                let turn = pace.turn(now);
                assert!(turn >= now);
                turn - start
            })
            .collect();
        turns.sort();
        for turn in &turns {
            let within =
                turns.iter().filter(|it| (*turn..*turn + Duration::from_secs(1)).contains(*it));
            assert!(within.count() <= 20);
        }
        // It fills again in a second without any.
        let rested = start + *turns.last().unwrap() + Duration::from_secs(1);
        assert!((0..10).all(|_| pace.turn(rested) == rested));
        assert!(pace.turn(rested) > rested);
    }

    #[test]
    fn without_a_rate_every_turn_is_now() {
        let start = Instant::now();
        let pace = FullStatePace::new(0);
        assert!((0..10_000).all(|_| pace.turn(start) == start));
        assert!(!pace.has_waiting(start));
    }
}
