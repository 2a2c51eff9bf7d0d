//! A token bucket: an amount that grows with time up to a maximum and shrinks with use.

use tokio::time::Instant;

/// Amounts are in thousandths, so that low rates work over short times.
const PER_UNIT: u64 = 1000;

/// See the module's documentation. Never waits.
#[derive(Clone, Debug)]
pub struct Allowance {
    most: u64,
    per_second: u64,
    left: u64,
    counted_at: Instant,
}

impl Allowance {
    /// A full bucket of `most`, refilled by `per_second`.
    pub fn new(most: u32, per_second: u32) -> Self {
        let most = u64::from(most) * PER_UNIT;
        Self { most, per_second: per_second.into(), left: most, counted_at: Instant::now() }
    }

    /// Takes `amount` if available; else returns `false`.
    pub fn take(&mut self, amount: u32) -> bool {
        let wanted = u64::from(amount) * PER_UNIT;
        let now = Instant::now();
        let millis = u64::try_from(now.saturating_duration_since(self.counted_at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            self.left = self.left.saturating_add(self.per_second.saturating_mul(millis)).min(self.most);
            self.counted_at = now;
        }
        let is_enough = self.left >= wanted;
        if is_enough {
            self.left -= wanted;
        }
        is_enough
    }

    /// Adds `amount`, up to the maximum.
    pub fn give(&mut self, amount: u32) {
        self.left = self.left.saturating_add(u64::from(amount) * PER_UNIT).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_grows_with_time_and_not_beyond_its_bound() {
        let mut allowance = Allowance::new(3, 1);
        assert!(allowance.take(2) && !allowance.take(2) && allowance.take(1) && !allowance.take(1));
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert!(allowance.take(1) && !allowance.take(1));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert!(allowance.take(1), "nothing is lost to rounding");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert!(!allowance.take(4) && allowance.take(3));
        allowance.give(9);
        assert!(allowance.take(3) && !allowance.take(1));
    }
}
