//! How much an account's archive may keep: a share of its quota, and so many sets. Beyond that the oldest are deleted
//! first, when another one comes to them. Pure.
//!
//! What is due for deletion (given up, or brought back) counts apart: it is still on the disk until the background has
//! deleted it, and as long as that is more than the account may store, nothing further goes to the archive.

use crate::protocol::Seq;
use crate::store::{ArchiveReason, ArchivedRange};

/// Sets that an archive may keep: as many as are listed.
pub const MAX_SETS: usize = 100;

/// Bytes that an archive may keep, beside a quota of so many.
#[must_use]
pub fn archive_limit(quota_bytes: i64, percent: u32) -> i64 {
    let bytes = i128::from(quota_bytes.max(0)) * i128::from(percent) / 100;
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What kind of part of the archive a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Can be downloaded, and maybe brought back.
    Kept,
    /// Waits to be deleted.
    Due,
    /// Is being written, to become the data set.
    Coming,
}

const fn standing(reason: ArchiveReason) -> Standing {
    match reason {
        ArchiveReason::CleanSlate | ArchiveReason::Wipe | ArchiveReason::Superseded | ArchiveReason::BringBack => {
            Standing::Kept
        }
        ArchiveReason::Expired | ArchiveReason::BroughtBack | ArchiveReason::Abandoned => Standing::Due,
        ArchiveReason::Staged => Standing::Coming,
    }
}

/// Whether users can still get at a range that left the data set for this reason.
#[must_use]
pub fn is_kept(reason: ArchiveReason) -> bool {
    standing(reason) == Standing::Kept
}

/// Whether a range waits to be deleted.
#[must_use]
pub fn is_due(reason: ArchiveReason) -> bool {
    standing(reason) == Standing::Due
}

fn bytes_of(ranges: &[ArchivedRange], counts: fn(ArchiveReason) -> bool) -> i64 {
    ranges.iter().filter(|range| counts(range.reason)).fold(0, |sum, range| sum.saturating_add(range.bytes))
}

/// Bytes that the archive keeps, as they were charged.
#[must_use]
pub fn kept_bytes(ranges: &[ArchivedRange]) -> i64 {
    bytes_of(ranges, is_kept)
}

/// Bytes that wait to be deleted, as they were charged.
#[must_use]
pub fn due_bytes(ranges: &[ArchivedRange]) -> i64 {
    bytes_of(ranges, is_due)
}

/// The ranges that have to go, by their first sequences, so that the rest keeps to the limit: the oldest ones.
#[must_use]
pub fn beyond_limit(ranges: &[ArchivedRange], limit: i64) -> Vec<Seq> {
    let mut excess = kept_bytes(ranges).saturating_sub(limit);
    let mut oldest_first: Vec<&ArchivedRange> = ranges.iter().filter(|range| is_kept(range.reason)).collect();
    oldest_first.sort_by_key(|range| (range.archived_at, range.from_seq));
    let mut too_many = oldest_first.len().saturating_sub(MAX_SETS);
    let mut gone = Vec::new();
    for range in oldest_first {
        if excess <= 0 && too_many == 0 {
            break;
        }
        excess -= range.bytes;
        too_many = too_many.saturating_sub(1);
        gone.push(range.from_seq);
    }
    gone
}

/// The same range, due for deletion.
#[must_use]
pub fn given_up(range: &ArchivedRange) -> ArchivedRange {
    ArchivedRange { reason: ArchiveReason::Expired, archived_at: super::super::retention::EXPIRED_AT, ..range.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from_seq: Seq, archived_at: i64, bytes: i64, reason: ArchiveReason) -> ArchivedRange {
        ArchivedRange { generation: 0, from_seq, to_seq: from_seq + 9, reason, bytes, archived_at }
    }

    #[test]
    fn the_oldest_go_and_no_more_than_must() {
        use ArchiveReason::{BringBack, BroughtBack, CleanSlate, Expired, Staged, Superseded, Wipe};
        let ranges = [
            range(11, 300, 40, CleanSlate),
            range(1, 100, 40, Wipe),
            range(21, 200, 40, Superseded),
            range(31, 300, 40, BringBack),
            range(41, 0, 1000, Expired),
            range(51, 0, 1000, BroughtBack),
            range(61, 0, 1000, Staged),
        ];
        assert_eq!((kept_bytes(&ranges), due_bytes(&ranges)), (160, 2000));
        assert_eq!(beyond_limit(&ranges, 160), [0; 0]);
        assert_eq!(beyond_limit(&ranges, 159), [1]);
        assert_eq!(beyond_limit(&ranges, 80), [1, 21]);
        assert_eq!(beyond_limit(&ranges, 79), [1, 21, 11]);
        assert_eq!(beyond_limit(&ranges, 0), [1, 21, 11, 31]);
        let many: Vec<_> = (0..103).map(|n| range(n * 10, 100 + n, 1, Wipe)).collect();
        assert_eq!(beyond_limit(&many, 1_000), [0, 10, 20]);
    }

    #[test]
    fn the_limit_is_a_share_of_the_quota() {
        assert_eq!(archive_limit(1_000, 100), 1_000);
        assert_eq!(archive_limit(1_000, 0), 0);
        assert_eq!(archive_limit(1_001, 50), 500);
        assert_eq!(archive_limit(i64::MAX, 1_000), i64::MAX);
        assert_eq!(archive_limit(-5, 100), 0);
    }
}
