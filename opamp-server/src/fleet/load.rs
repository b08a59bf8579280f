//! What is refused while there is too much to do: arrivals first, everything later.
//!
//! ```text
//!                    arrivals           messages of Agents that are there
//!   normal           at the rate        served
//!   strained         refused            served: the load is that of known Agents
//!   overloaded       refused            told UNAVAILABLE
//! ```
//!
//! The operator can refuse everything as well, and neither takes back what the other has said.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Fleet, Route};
use crate::core::{Arrivals, Refusal, ServerConfig, Spread, Transport};

/// How much a Server has to do, as whoever can measure that sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Load {
    /// It can do what it has to.
    #[default]
    Normal,
    /// It can serve the Agents that are there, and none beside.
    Strained,
    /// It cannot serve those that are there.
    Overloaded,
}

const AVAILABLE: u64 = u64::MAX;

/// Who is served at the moment.
#[derive(Debug)]
pub(super) struct Availability {
    /// Nanoseconds an Agent is told to stay away by the operator; [`AVAILABLE`] if it is not.
    unavailable: AtomicU64,
    load: AtomicU8,
    pause: Duration,
    spread: Spread,
    arrivals: Arrivals,
}

impl Availability {
    pub(super) fn new(config: &ServerConfig) -> Self {
        Self {
            unavailable: AtomicU64::new(AVAILABLE),
            load: AtomicU8::new(Load::Normal as u8),
            pause: config.overload_pause,
            spread: Spread::default(),
            arrivals: Arrivals::new(config.arrivals, config.max_arrival_wait),
        }
    }

    fn operator(&self) -> Option<Duration> {
        match self.unavailable.load(Ordering::Relaxed) {
            AVAILABLE => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    fn is(&self, load: Load) -> bool {
        self.load.load(Ordering::Relaxed) >= load as u8
    }

    /// Those who are told to come back later are not told all the same.
    fn pause(&self) -> Duration {
        self.pause + self.spread.part_of(self.pause)
    }

    fn refused(pause: Duration) -> Refusal {
        Refusal::unavailable("the Server is overloaded", Some(pause))
    }

    /// A message of whomever.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let pause = self.operator().or_else(|| self.is(Load::Overloaded).then(|| self.pause()));
        pause.map_or(Ok(()), |pause| Err(Self::refused(pause)))
    }

    /// A connection, or an Agent that is not there.
    fn arrive(&self, now: Instant) -> Result<(), Duration> {
        match self.operator() {
            Some(pause) => Err(pause),
            None if self.is(Load::Strained) => Err(self.pause()),
            None => self.arrivals.admit(now),
        }
    }
}

impl<I> Fleet<I> {
    /// Refuses every message with UNAVAILABLE from now on, and asks Agents to stay away for this
    /// long, if given (THR-01, THR-03). A Server in trouble sheds load with this.
    pub fn set_unavailable(&self, retry_after: Option<Duration>) {
        let nanos =
            retry_after.map_or(0, |pause| u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX));
        let unavailable = &self.inner.availability.unavailable;
        unavailable.store(nanos.min(AVAILABLE - 1), Ordering::Relaxed);
    }

    /// Serves again, as far as the [`Load`] allows it.
    pub fn set_available(&self) {
        self.inner.availability.unavailable.store(AVAILABLE, Ordering::Relaxed);
    }

    /// `Some` while the operator has messages refused, with the pause Agents are asked for; zero if
    /// none is.
    #[must_use]
    pub fn unavailable(&self) -> Option<Duration> {
        self.inner.availability.operator()
    }

    /// Sheds load: refuses those who arrive, or everybody, for as long as it is said. Agents are
    /// asked to stay away for once to twice
    /// [`ServerConfig::overload_pause`](crate::ServerConfig::overload_pause), each for another
    /// time. A service of this crate says it by itself.
    pub fn set_load(&self, load: Load) {
        self.inner.availability.load.store(load as u8, Ordering::Relaxed);
    }

    /// How much there is to do.
    #[must_use]
    pub fn load(&self) -> Load {
        match self.inner.availability.load.load(Ordering::Relaxed) {
            0 => Load::Normal,
            1 => Load::Strained,
            _ => Load::Overloaded,
        }
    }

    /// Asks whether a connection may be opened: before anything is done for it, and once. The first
    /// Agent on a WebSocket has arrived with it.
    ///
    /// # Errors
    ///
    /// How long the peer is to stay away
    /// ([`ServerConfig::arrivals`](crate::ServerConfig::arrivals)); zero if that is not known.
    pub fn admit_connection(&self, now: Instant) -> Result<(), Duration> {
        let admitted = self.inner.availability.arrive(now);
        if admitted.is_err() {
            self.inner.counting.arrivals_deferred.add();
        }
        admitted
    }

    /// A connection that was admitted is refused for another reason, such as its credentials: it
    /// does not count.
    pub fn forget_connection(&self) {
        self.inner.availability.arrivals.give_back();
    }

    /// An Agent that is not there speaks.
    pub(super) fn admit_arrival(&self, route: &mut Route<I>, now: Instant) -> Result<(), Refusal> {
        let first = !std::mem::replace(&mut route.arrived, true);
        if first && route.shared.transport == Transport::WebSocket {
            return Ok(());
        }
        self.admit_connection(now).map_err(Availability::refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_operator_nor_the_load_takes_back_what_the_other_said() {
        let fleet = Fleet::<()>::default();
        let availability = &fleet.inner.availability;
        fleet.set_load(Load::Overloaded);
        fleet.set_unavailable(None);
        fleet.set_load(Load::Normal);
        assert!(availability.check().is_err());
        fleet.set_load(Load::Overloaded);
        fleet.set_available();
        assert!(availability.check().is_err());
        fleet.set_load(Load::Strained);
        assert_eq!((availability.check(), fleet.load()), (Ok(()), Load::Strained));
        fleet.set_load(Load::Normal);
        assert_eq!((availability.check(), fleet.load()), (Ok(()), Load::Normal));
    }

    #[test]
    fn agents_are_told_different_times() {
        let availability = Availability::new(&ServerConfig::default());
        let pauses: Vec<_> = (0..100).map(|_| availability.pause()).collect();
        let (least, most) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*least >= availability.pause && *most < availability.pause * 2);
        assert!(*most - *least > availability.pause * 9 / 10);
    }
}
