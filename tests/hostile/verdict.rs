//! What an attack may do, and what it did.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::crew::Pace;

/// Delays up to here are nobody's trouble: devices poll in the background once a minute. It also covers that the attacker,
/// the honest accounts, the server and the database share two cores, and that the server is built without optimisation.
pub const NOT_NOTICED: Duration = Duration::from_millis(250);
/// How much slower than without the attack honest requests may be.
const SLOWER: u32 = 3;
/// What the server may occupy: half of what systemd and compose give it.
const MAX_MEMORY_BYTES: u64 = 400_000_000;
/// Bytes on disk for each byte charged.
const DISK_PER_CHARGED: u64 = 3;
/// What a database grows by whoever works with it: pages begun, rows of accounts and sessions.
const DISK_SLACK_BYTES: u64 = 8_000_000;

/// Checks the attack's effects on others; returns what is told of it and what is wrong.
pub fn of_attack(
    baseline: &Pace,
    pace: &Pace,
    memory_bytes: u64,
    statuses: &BTreeMap<u16, usize>,
) -> (String, Vec<String>) {
    let mut wrong = Vec::new();
    let bound = (baseline.p99 * SLOWER).max(NOT_NOTICED);
    if pace.p99 > bound {
        wrong.push(format!("honest p99 {} ms exceeds {} ms", pace.p99.as_millis(), bound.as_millis()));
    }
    if let Some(first) = pace.refusals.first() {
        wrong.push(format!("{} honest requests failed, the first with {first:?}", pace.refusals.len()));
    }
    if memory_bytes > MAX_MEMORY_BYTES {
        wrong.push(format!("{} MB of memory exceed {}", memory_bytes / 1_000_000, MAX_MEMORY_BYTES / 1_000_000));
    }
    for (status, count) in statuses {
        if matches!(status, 401 | 403 | 500 | 502 | 504..) {
            wrong.push(format!("the attacker got status {status} {count} times"));
        }
    }
    let mut told = format!(
        "p50 {} → {} ms, p99 {} → {} ms, worst {} ms of {}; refused {}; memory {} MB; answers",
        baseline.p50.as_millis(),
        pace.p50.as_millis(),
        baseline.p99.as_millis(),
        pace.p99.as_millis(),
        pace.worst.as_millis(),
        pace.requests,
        pace.refusals.len(),
        memory_bytes / 1_000_000,
    );
    for (status, count) in statuses {
        // Writing to a String can't fail.
        let _ = match status {
            0 => write!(told, " none × {count}"),
            _ => write!(told, " {status} × {count}"),
        };
    }
    (told, wrong)
}

/// Checks what is left on the disk of all attacks together.
pub fn of_disk(grown_bytes: u64, charged_bytes: u64, honest_bytes: u64) -> (String, Vec<String>) {
    let told = format!(
        "disk + {:.1} MB for {:.1} MB charged (and {:.1} MB of honest data)",
        megabytes(grown_bytes),
        megabytes(charged_bytes),
        megabytes(honest_bytes),
    );
    let bound = DISK_PER_CHARGED * (charged_bytes + honest_bytes) + DISK_SLACK_BYTES;
    let wrong = (grown_bytes > bound).then(|| format!("{told}: more than {:.1} MB", megabytes(bound)));
    (told, wrong.into_iter().collect())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
