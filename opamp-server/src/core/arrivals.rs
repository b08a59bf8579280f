//! The pace at which connections and Agents may arrive.
//!
//! When a Server, a network or a load balancer comes back, a whole fleet reconnects at the same
//! moment, and each arrival costs a handshake, a full report and a call of the handler. A token
//! bucket lets as many in as can be served. Whoever is sent away is told when to come back, and
//! that is where a second storm is made or avoided: "in 30 seconds" for all would only move the
//! storm. So each is given a turn of its own, behind everybody who was sent away before: the wait
//! grows with the queue, returns are spread at the very rate at which there are tokens, and `n`
//! Agents are in after about `n / rate` seconds.
//!
//! ```text
//!   arrives ──▶ a token is there ──▶ in
//!          └──▶ none: told the next free turn ──▶ comes back then ──▶ in
//!                           └─ none within the longest wait: told a time in its second half
//! ```
//!
//! The queue is one number, the next free turn; nobody is remembered. Who comes back too early is
//! sent to the end of it, and one that never comes back costs a turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rate::{Rate, Since, Spread};

/// The shortest wait: clients take less for a mistake.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);

/// Lets connections and Agents arrive at a rate, and gives turns to the others.
#[derive(Debug)]
pub struct Arrivals {
    rate: Rate,
    longest_wait: Duration,
    since: Since,
    /// When the bucket is full again.
    full: AtomicU64,
    /// The next turn that is free.
    turn: AtomicU64,
    spread: Spread,
}

impl Arrivals {
    /// Arrivals at this rate. Nobody is told to stay away for longer than `longest_wait`.
    #[must_use]
    pub fn new(rate: Rate, longest_wait: Duration) -> Self {
        let longest_wait = longest_wait.max(SHORTEST_WAIT);
        let (full, turn) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { rate, longest_wait, since: Since::default(), full, turn, spread: Spread::default() }
    }

    /// Somebody arrives.
    ///
    /// # Errors
    ///
    /// How long to stay away: at least a second, and different for each.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let Some(interval) = self.rate.interval() else { return Ok(()) };
        let now = self.since.nanos(now);
        let take = |full| self.rate.take(full, now).ok();
        if self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return Ok(());
        }
        let first = now.saturating_add(nanos(SHORTEST_WAIT));
        let last = now.saturating_add(nanos(self.longest_wait));
        let next = |turn: u64| {
            let turn = turn.max(first);
            (turn <= last).then(|| turn.saturating_add(interval))
        };
        match self.turn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(turn) => Err(Duration::from_nanos(turn.max(first) - now)),
            // Turns are given so far ahead that something else is wrong: to give more would let a
            // few that come back too early push everybody's turn away for ever.
            Err(_) => {
                let half = self.longest_wait / 2;
                Err((half + self.spread.part_of(half)).max(SHORTEST_WAIT))
            }
        }
    }

    /// Somebody who was let in is turned away for another reason: what that took is there again.
    pub fn give_back(&self) {
        let Some(interval) = self.rate.interval() else { return };
        let give = |full: u64| Some(full.saturating_sub(interval));
        let _ = self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the one look at the clock that time starts from")]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    use super::*;

    const RATE: Rate = Rate::per_second(1_000).with_burst(2_000);
    const LONGEST: Duration = Duration::from_secs(900);

    /// Clients that arrive at once and come back after `wait(what they were told, number)`: when
    /// each is let in, in milliseconds, and how often anybody tried in each second.
    fn storm(
        clients: u64,
        wait: impl Fn(Duration, u64) -> Duration,
    ) -> (Vec<u64>, Vec<u32>, Vec<u32>) {
        let start = Instant::now();
        let arrivals = Arrivals::new(RATE, LONGEST);
        // All within half a second.
        let mut due: BinaryHeap<_> =
            (0..clients).map(|client| Reverse((client * 500 / clients, client, 0_u32))).collect();
        let (mut admitted, mut tries_at, mut tries) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(Reverse((at, client, tried))) = due.pop() {
            let second = (at / 1000) as usize;
            tries_at.resize(tries_at.len().max(second + 1), 0);
            tries_at[second] += 1;
            match arrivals.admit(start + Duration::from_millis(at)) {
                Ok(()) => {
                    admitted.push(at);
                    tries.push(tried + 1);
                }
                Err(told) => {
                    assert!((SHORTEST_WAIT..=LONGEST).contains(&told), "{told:?}");
                    let back = at + wait(told, client).as_millis() as u64;
                    due.push(Reverse((back, client, tried + 1)));
                }
            }
        }
        (admitted, tries_at, tries)
    }

    /// As the header has it: whole seconds, rounded up.
    fn header(told: Duration) -> Duration {
        Duration::from_secs(told.as_secs() + u64::from(told.subsec_nanos() > 0))
    }

    #[test]
    fn a_fleet_that_keeps_to_what_it_is_told_is_in_at_the_rate() {
        let _judged = opamp_spec::judges(&["THR-08"]);
        let (admitted, tries_at, tries) = storm(100_000, |told, _| header(told));
        let last = admitted.iter().max().unwrap() / 1000;
        assert!((97..=101).contains(&last), "{last} s for 100,000 at 1,000 a second");
        // There is no second storm: after the first nobody comes in greater numbers than can be let
        // in.
        assert_eq!(tries_at[0], 100_000);
        assert!(tries_at[1..].iter().all(|tries| *tries <= 1_010), "{tries_at:?}");
        assert!(tries.iter().all(|tries| *tries <= 2), "everybody is sent away once at most");
    }

    #[test]
    fn clients_with_a_tenth_of_jitter_are_in_little_later() {
        let jitter = Spread::default();
        let (admitted, tries_at, tries) = storm(100_000, |told, _| {
            let told = header(told);
            told + jitter.part_of(told / 10)
        });
        let last = admitted.iter().max().unwrap() / 1000;
        assert!((97..=112).contains(&last), "{last} s");
        assert!(tries_at[1..].iter().all(|tries| *tries <= 1_200), "{tries_at:?}");
        assert!(tries.iter().all(|tries| *tries <= 3));
    }

    #[test]
    fn those_that_ignore_it_do_not_keep_the_others_out() {
        // One of twenty comes back every five seconds, whatever it is told.
        let (admitted, _, tries) = storm(20_000, |told, client| match client % 20 {
            0 => Duration::from_secs(5),
            _ => header(told),
        });
        let last = admitted.iter().max().unwrap() / 1000;
        assert!(last <= 40, "{last} s for 20,000 at 1,000 a second");
        assert!(tries.iter().all(|tries| *tries <= 8), "{:?}", tries.iter().max());
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_the_longest_wait() {
        let start = Instant::now();
        let longest = Duration::from_secs(60);
        let arrivals = Arrivals::new(Rate::per_second(1), longest);
        let waits: Vec<_> = (0..1000).filter_map(|_| arrivals.admit(start).err()).collect();
        assert_eq!(waits.len(), 998);
        assert!(waits.iter().all(|wait| *wait <= longest));
        // And what is above is spread.
        let above = &waits[60..];
        assert!(above.iter().all(|wait| *wait >= longest / 2));
        let early = above.iter().filter(|wait| **wait < longest * 3 / 4).count();
        assert!((above.len() / 2).abs_diff(early) < 10, "{early} of {}", above.len());
    }

    #[test]
    fn strangers_who_are_turned_away_take_nothing() {
        let start = Instant::now();
        let arrivals = Arrivals::new(Rate::per_second(1).with_burst(1), LONGEST);
        for _ in 0..100 {
            assert!(arrivals.admit(start).is_ok());
            arrivals.give_back();
        }
        assert!(arrivals.admit(start).is_ok());
        assert!(arrivals.admit(start).is_err());
    }

    #[test]
    fn without_a_rate_everybody_is_let_in() {
        let arrivals = Arrivals::new(Rate::UNLIMITED, LONGEST);
        assert!((0..100_000).all(|_| arrivals.admit(Instant::now()).is_ok()));
    }
}
