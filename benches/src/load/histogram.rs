//! Latencies in little memory: counts in buckets whose width grows with the value, so that a
//! percentile is never off by more than 1 %.

/// Buckets for each doubling of the value.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 7;
/// Values up to 2^42 ns, more than an hour, are told apart; greater ones count as that.
const DOUBLINGS: usize = 42 - STEP_BITS as usize;
const BUCKETS: usize = STEPS * (DOUBLINGS + 1);

/// How often each duration was seen, in 36 KiB whatever was recorded.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    sum: u128,
    greatest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), total: 0, sum: 0, greatest: 0 }
    }
}

impl Histogram {
    /// Counts one duration, in nanoseconds.
    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.greatest = self.greatest.max(nanos);
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.greatest = self.greatest.max(other.greatest);
    }

    /// How many were counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The greatest of them, exactly.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.greatest
    }

    /// Their mean.
    #[must_use]
    pub fn mean(&self) -> u64 {
        let mean = self.sum.checked_div(u128::from(self.total)).unwrap_or_default();
        u64::try_from(mean).unwrap_or(u64::MAX)
    }

    /// The least value that this share of them, between 0 and 1, does not exceed; at most 1 % too
    /// great. 0 when there are none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && self.total > 0 {
                return greatest_of(index).min(self.greatest);
            }
        }
        self.greatest
    }
}

fn bucket(value: u64) -> usize {
    let Some(doubling) = (u64::BITS - value.leading_zeros()).checked_sub(STEP_BITS + 1) else {
        return value as usize;
    };
    // The bits after the leading one say which step within the doubling it is.
    let step = (value >> doubling) as usize - STEPS;
    ((doubling as usize + 1) * STEPS + step).min(BUCKETS - 1)
}

fn greatest_of(bucket: usize) -> u64 {
    match (bucket / STEPS).checked_sub(1) {
        None => bucket as u64,
        Some(doubling) => (((bucket % STEPS + STEPS + 1) as u64) << doubling) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_lies_in_a_bucket_that_is_at_most_a_hundredth_wide() {
        let mut last = 0;
        for value in (0..2000).chain((11..41).flat_map(|bit| [(1 << bit) - 1, 1 << bit, 3 << bit]))
        {
            let top = greatest_of(bucket(value));
            assert!(top >= value && top as f64 <= value as f64 * 1.01, "{value}: {top}");
            last = last.max(bucket(value));
        }
        assert!(last < BUCKETS);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::default();
        let values: Vec<u64> = (1..=1000).map(|n| n * n * 37).collect();
        let (one, other) = values.split_at(300);
        one.iter().for_each(|value| histogram.record(*value));
        let mut second = Histogram::default();
        other.iter().for_each(|value| second.record(*value));
        histogram.add(&second);
        for share in [0.0, 0.001, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let exact = values[((1000.0 * share) as usize).max(1) - 1];
            let found = histogram.percentile(share);
            assert!(found >= exact && found as f64 <= exact as f64 * 1.01, "{share}: {found}");
        }
        assert_eq!(histogram.len(), 1000);
        assert_eq!(histogram.max(), 37_000_000);
        assert_eq!(histogram.mean(), values.iter().sum::<u64>() / 1000);
    }

    #[test]
    fn without_values_there_are_zeros() {
        let histogram = Histogram::default();
        assert!(histogram.is_empty());
        assert_eq!((histogram.percentile(0.99), histogram.mean(), histogram.max()), (0, 0, 0));
    }
}
