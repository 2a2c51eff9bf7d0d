//! Minimum speed of the other side of a connection.
//!
//! Slow peers occupy memory, a connection and often a queue slot. So each peer has an amount of patience: waiting uses
//! it up, and each byte transferred buys some of it back, up to the initial amount. A silent peer is cut after that
//! time, one below the rate after a multiple of it, and one at the rate never.

use std::time::Duration;

/// Longest pause of a body. Survives a phone's brief loss of network.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// Minimum rate of a body, on average. The slowest mobile networks still carry twice as much, and the app gives
/// up after 75 seconds: it can't send more than 300 KB at this rate.
const BODY_BYTES_PER_SECOND: u32 = 4 * 1024;
/// Longest pause of a reader.
const READER_PATIENCE: Duration = Duration::from_secs(30);
/// Minimum rate of a reader, on average, while more is ready than fits the system's send buffer. At half this rate a
/// page of the app's usual size (half a megabyte) still gets through before the patience is used up.
const READER_BYTES_PER_SECOND: u32 = 32 * 1024;

/// The remaining patience with one peer.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    patience: Duration,
    bytes_per_second: u32,
    left: Duration,
}

impl Pace {
    /// For the sender of a body.
    #[must_use]
    pub const fn of_body() -> Self {
        Self::new(BODY_PATIENCE, BODY_BYTES_PER_SECOND)
    }

    /// For the reader of an answer.
    #[must_use]
    pub const fn of_reader() -> Self {
        Self::new(READER_PATIENCE, READER_BYTES_PER_SECOND)
    }

    const fn new(patience: Duration, bytes_per_second: u32) -> Self {
        Self { patience, bytes_per_second, left: patience }
    }

    /// How long to wait at most.
    #[must_use]
    pub const fn left(&self) -> Duration {
        self.left
    }

    /// `bytes` were transferred after waiting for `waited`.
    pub fn moved(&mut self, bytes: usize, waited: Duration) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bought = Duration::from_secs(bytes.into()) / self.bytes_per_second;
        self.left = (self.left.saturating_sub(waited) + bought).min(self.patience);
    }

    /// The peer was not waited for during `time`: patience recovers by as much.
    pub fn rested(&mut self, time: Duration) {
        self.left = (self.left + time).min(self.patience);
    }
}

/// Counts a connection cut for slowness.
pub fn count_cut(because: &'static str) {
    metrics::counter!("supersync_slow_connections_total", "because" => because).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a peer with this rate is cut.
    fn given_up_after(mut pace: Pace, bytes: usize) -> Option<u32> {
        let second = Duration::from_secs(1);
        (1..=86_400).find(|_| {
            if pace.left() < second {
                return true;
            }
            pace.moved(bytes, second);
            false
        })
    }

    #[test]
    fn who_keeps_up_is_never_given_up_and_others_soon() {
        assert_eq!(given_up_after(Pace::of_body(), 4 * 1024), None);
        assert_eq!(given_up_after(Pace::of_body(), 0), Some(21));
        assert_eq!(given_up_after(Pace::of_body(), 1), Some(21), "a byte a second");
        assert_eq!(given_up_after(Pace::of_body(), 2 * 1024), Some(40));
        assert_eq!(given_up_after(Pace::of_reader(), 32 * 1024), None);
        assert_eq!(given_up_after(Pace::of_reader(), 16 * 1024), Some(60));
        assert_eq!(given_up_after(Pace::of_reader(), 0), Some(31));
    }

    #[test]
    fn what_comes_at_once_buys_no_more_than_the_patience() {
        let mut pace = Pace::of_body();
        pace.moved(30 << 20, Duration::ZERO);
        assert_eq!(pace.left(), BODY_PATIENCE);
        pace.moved(0, Duration::from_secs(15));
        pace.rested(Duration::from_secs(5));
        assert_eq!(pace.left(), Duration::from_secs(10));
        pace.rested(Duration::from_secs(500));
        assert_eq!(pace.left(), BODY_PATIENCE);
    }
}
