//! The minimum time of neutral answers.

use std::time::Duration;

use tokio::time::Instant;

/// How long the database part of a neutral answer takes at least. Covers the difference between one look-up and a few
/// writes with their disk flushes.
const FLOOR: Duration = Duration::from_millis(50);

/// Sleeps until [`FLOOR`] after `began`: after it the answers for known and unknown addresses come at the same time.
pub(super) async fn pad(began: Instant) {
    tokio::time::sleep_until(began + FLOOR).await;
}
