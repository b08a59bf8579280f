//! Counts of what a Server saw and did, for metrics.
//!
//! Each count is kept in stripes, and a thread adds to one of them: messages are counted on every
//! core at once, and a cache line that all of them write to would cost more than the message.
//! Reading adds the stripes up.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

mod list;

pub use self::list::Counters;

pub(crate) use self::list::Stripe;

use self::list::FAMILIES;

/// Threads beyond this number share stripes.
const STRIPES: usize = 16;

/// What kind of metric a family is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CounterKind {
    /// Only ever grows.
    Counter,
    /// How many there are at the moment.
    Gauge,
}

impl CounterKind {
    /// Its name in the text formats of Prometheus and OpenMetrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// Counts of one thing, which labels tell apart.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CounterFamily {
    /// The name for metrics, such as `opamp_messages_received_total`. Names are stable.
    pub name: &'static str,
    /// What is counted, in a sentence.
    pub help: &'static str,
    /// What kind of metric it is.
    pub kind: CounterKind,
    /// The counts: one without labels, or several with the same label.
    pub samples: Vec<CounterSample>,
}

/// One count of a [`CounterFamily`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CounterSample {
    /// Names and values of its labels. None of them names an Agent.
    pub labels: &'static [(&'static str, &'static str)],
    /// The count.
    pub value: u64,
}

impl Counters {
    /// All counts, with stable names for metrics in the manner of Prometheus.
    ///
    /// ```
    /// let fleet = opamp_server::Fleet::<()>::default();
    /// for family in fleet.counters().families() {
    ///     println!("# HELP {} {}", family.name, family.help);
    ///     println!("# TYPE {} {}", family.name, family.kind.as_str());
    ///     for sample in family.samples {
    ///         let labels = sample.labels.iter().map(|(name, value)| format!("{name}=\"{value}\""));
    ///         println!("{}{{{}}} {}", family.name, labels.collect::<String>(), sample.value);
    ///     }
    /// }
    /// ```
    pub fn families(&self) -> impl Iterator<Item = CounterFamily> {
        let mut values = self.values();
        FAMILIES.iter().map(move |&(name, help, samples)| CounterFamily {
            name,
            help,
            kind: kind(name),
            samples: samples
                .iter()
                .zip(values.by_ref())
                .map(|(labels, value)| CounterSample { labels, value })
                .collect(),
        })
    }

    /// Messages received on both transports, malformed ones included.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.websocket_messages + self.http_messages
    }

    /// Requests refused by admission, with whatever status.
    #[must_use]
    pub const fn rejected(&self) -> u64 {
        self.rejected_401
            + self.rejected_403
            + self.rejected_429
            + self.rejected_503
            + self.rejected_other
    }
}

fn kind(family: &str) -> CounterKind {
    match family.ends_with("_total") {
        true => CounterKind::Counter,
        false => CounterKind::Gauge,
    }
}

/// The live counters. It stands for the stripe of the thread that looks at it.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    stripes: [Stripe; STRIPES],
}

thread_local! {
    /// The number of this thread's stripe.
    static STRIPE: Cell<usize> = Cell::new({
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES
    });
}

impl Deref for Counting {
    type Target = Stripe;

    fn deref(&self) -> &Stripe {
        // A thread that ends has no number any more.
        let stripe = STRIPE.try_with(Cell::get).unwrap_or(0);
        &self.stripes[stripe]
    }
}

impl Counting {
    pub(crate) fn snapshot(&self) -> Counters {
        let mut counters = Counters::default();
        self.stripes.iter().for_each(|stripe| counters.add(stripe));
        // What is open may have been seen to end on one stripe and not yet to begin on another.
        for open in [&mut counters.listener_connections_open, &mut counters.websockets_open] {
            *open = u64::try_from(open.cast_signed()).unwrap_or(0);
        }
        counters
    }
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.add_all(1);
    }

    pub(crate) fn add_all(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Takes back one, which another stripe may have added.
    #[cfg(feature = "service")]
    pub(crate) fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "service")]
impl Stripe {
    /// A request was refused by admission.
    pub(crate) fn rejected(&self, status: u16) {
        let count = match status {
            401 => &self.rejected_401,
            403 => &self.rejected_403,
            429 => &self.rejected_429,
            503 => &self.rejected_503,
            _ => &self.rejected_other,
        };
        count.add();
    }

    /// A request was answered.
    pub(crate) fn responded(&self, status: u16) {
        let count = match status {
            101 => &self.responses_101,
            200 => &self.responses_200,
            400 => &self.responses_400,
            401 => &self.responses_401,
            403 => &self.responses_403,
            404 => &self.responses_404,
            405 => &self.responses_405,
            408 => &self.responses_408,
            413 => &self.responses_413,
            415 => &self.responses_415,
            426 => &self.responses_426,
            429 => &self.responses_429,
            500 => &self.responses_500,
            503 => &self.responses_503,
            _ => &self.responses_other,
        };
        count.add();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn threads_count_apart_and_are_summed() {
        let counting = Counting::default();
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counting.websocket_messages.add();
                        counting.http_bytes.add_all(3);
                    }
                });
            }
        });
        let counters = counting.snapshot();
        let threads = 2 * STRIPES as u64;
        assert_eq!(counters.messages(), threads * 1000);
        assert_eq!(counters.http_bytes, threads * 3000);
        assert_eq!(counters.stale, 0);
    }

    #[test]
    fn stripes_share_no_cache_line() {
        assert_eq!(size_of::<Stripe>() % 128, 0);
        assert_eq!(align_of::<Stripe>(), 128);
    }

    #[cfg(feature = "service")]
    #[test]
    fn what_is_open_is_never_less_than_nothing() {
        let counting = Counting::default();
        counting.websockets_open.remove();
        assert_eq!(counting.snapshot().websockets_open, 0);
        counting.websockets_open.add_all(3);
        assert_eq!(counting.snapshot().websockets_open, 2);
    }

    #[test]
    fn every_count_has_a_name_of_its_own() {
        let counting = Counting::default();
        counting.websockets_open.add_all(7);
        counting.handler_panics.add_all(9);
        let counters = counting.snapshot();
        let mut seen = BTreeSet::new();
        let mut sum = 0;
        for family in counters.families() {
            assert!(family.name.starts_with("opamp_"), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.help);
            assert!(
                family.samples.len() == 1 || family.samples.iter().all(|it| it.labels.len() == 1)
            );
            for sample in family.samples {
                assert!(seen.insert((family.name, sample.labels)), "{} twice", family.name);
                sum += sample.value;
                match (family.name, sample.labels) {
                    ("opamp_websockets_open", []) => assert_eq!(sample.value, 7),
                    ("opamp_handler_calls_total", [("outcome", "panicked")]) => {
                        assert_eq!(sample.value, 9);
                    }
                    _ => assert_eq!(sample.value, 0, "{}", family.name),
                }
            }
        }
        assert_eq!(sum, 16);
        assert_eq!(seen.len(), counters.values().count());
    }
}
