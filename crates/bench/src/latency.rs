//! How long requests took: a histogram with steps of at most 1.6 % of the value, from a microsecond to an hour.

use std::time::Duration;

/// Steps within each doubling.
const STEPS: usize = 64;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Values up to 2^42 µs.
const DOUBLINGS: usize = 42;

/// Counts of durations, in microseconds. Longer than the largest step is counted there; the exact maximum is kept.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_us: u64,
    max_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; STEPS * (DOUBLINGS + 1)], count: 0, sum_us: 0, max_us: 0 }
    }
}

/// Values below [`STEPS`] have a step each; above, each doubling has [`STEPS`] of them.
fn step_of(us: u64) -> usize {
    let us = us.max(1);
    let magnitude = us.ilog2();
    let shift = magnitude.saturating_sub(STEP_BITS);
    let within = usize::try_from(us >> shift).unwrap_or(usize::MAX);
    let step = if shift == 0 { within } else { shift as usize * STEPS + within };
    step.min(STEPS * (DOUBLINGS + 1) - 1)
}

/// The largest value of a step.
fn upper_bound(step: usize) -> u64 {
    let shift = (step / STEPS).saturating_sub(1);
    let within = (step - shift * STEPS) as u64;
    ((within + 1) << shift) - 1
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[step_of(us)] += 1;
        self.count += 1;
        self.sum_us = self.sum_us.saturating_add(us);
        self.max_us = self.max_us.max(us);
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
        self.count += other.count;
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The same durations, each shorter by so much, at least 0.
    #[must_use]
    pub fn less(&self, by: Duration) -> Self {
        let by_us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        let mut shorter = Self::default();
        for (step, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let us = upper_bound(step).min(self.max_us).saturating_sub(by_us);
            shorter.counts[step_of(us)] += count;
            shorter.sum_us = shorter.sum_us.saturating_add(us.saturating_mul(*count));
        }
        shorter.count = self.count;
        shorter.max_us = self.max_us.saturating_sub(by_us);
        shorter
    }

    /// How many durations were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The smallest duration, milliseconds, that at least `share` of all did not exceed; `None` without any.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and microseconds are far below 2^52, and a share of a count is not negative"
    )]
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        if self.count == 0 {
            return None;
        }
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let step = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(upper_bound(step).min(self.max_us) as f64 / 1e3)
    }

    /// The longest, milliseconds; `None` without any.
    #[must_use]
    pub fn max_ms(&self) -> Option<f64> {
        self.quantile_ms(1.0)
    }

    /// The mean, milliseconds; `None` without any.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts and microseconds are far below 2^52")]
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_us as f64 / self.count as f64 / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values_us: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        for us in values_us {
            histogram.record(Duration::from_micros(us));
        }
        histogram
    }

    #[test]
    fn nothing_was_measured_is_no_number() {
        assert_eq!(of([]).quantile_ms(0.5), None);
        assert_eq!(of([]).max_ms(), None);
        assert_eq!(of([]).mean_ms(), None);
    }

    #[test]
    fn steps_are_ascending_and_narrow() {
        for us in [1, 2, 63, 64, 65, 127, 128, 1000, 12_345, 999_999, 3_600_000_000] {
            let bound = upper_bound(step_of(us));
            assert!(bound >= us, "{us} {bound}");
            assert!(bound - us <= us / 60, "{us} {bound}");
            assert!(step_of(us + us / 60 + 1) > step_of(us), "{us}");
        }
    }

    #[test]
    fn durations_can_be_shortened() {
        let histogram = of([50_000, 110_000, 130_000]).less(Duration::from_millis(100));
        assert_eq!(histogram.count(), 3);
        assert_eq!(histogram.max_ms(), Some(30.0));
        let median = histogram.quantile_ms(0.5).unwrap();
        // A step of the value before it was shortened.
        assert!((10.0..=12.0).contains(&median), "{median}");
    }

    #[test]
    fn quantiles_are_within_a_step_and_the_maximum_is_exact() {
        let mut histogram = of(1..=5000);
        histogram.merge(&of(5001..=10_000));
        assert_eq!(histogram.count(), 10_000);
        for (share, ms) in [(0.5, 5.0), (0.99, 9.9)] {
            let found = histogram.quantile_ms(share).unwrap();
            assert!((ms..=ms * 1.016).contains(&found), "{share} {found}");
        }
        assert_eq!(histogram.max_ms(), Some(10.0));
        assert_eq!(of([7_777_777]).max_ms(), Some(7777.777));
        assert_eq!(histogram.mean_ms(), Some(5.0005));
    }
}
