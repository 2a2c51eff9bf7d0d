//! Bringing an archived data set back: what the log's store has to do for it beyond a commit.
//!
//! A set may hold hundreds of thousands of operations, too many for one transaction that others wait for. So it is
//! *staged*: written in parts under sequences far above everything in use, where no read looks, and announced as a range
//! of the archive with the reason [`ArchiveReason::Staged`](super::ArchiveReason::Staged). One commit with an
//! [`Adoption`] then makes it the data set, or nothing happens. What is not adopted (a crash, a change of mind) stays a
//! range of the archive, which the sweep deletes like any other.

use async_trait::async_trait;

use super::{ArchivedRange, Result, Segment, StoreError};
use crate::protocol::{Seq, StoredOp, UserId};

/// A staged range becomes the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// The staged range's first sequence. If it is not staged (any more), nothing of the commit is applied.
    pub staged_from: Seq,
    /// The first sequence of the archived range that it was made from, which is due for deletion from now on.
    pub source_from: Seq,
}

/// A part of a staged range: operations in rows and in segments, each in one of them only.
#[derive(Clone, Debug)]
pub struct StagedPart {
    /// The staged range's first sequence.
    pub staged_from: Seq,
    /// The generation that the range is to be.
    pub generation: i64,
    /// Operations that are never packed.
    pub rows: Vec<StoredOp>,
    /// All others.
    pub segments: Vec<Segment>,
}

/// Staging.
#[async_trait]
pub trait ArchiveStore: Send + Sync + 'static {
    /// Announces a range that is about to be staged; its reason is
    /// [`ArchiveReason::Staged`](super::ArchiveReason::Staged). `false`: another one begins at the same sequence.
    async fn begin_staging(&self, user: UserId, range: &ArchivedRange) -> Result<bool>;

    /// Writes a part of a staged range, in a transaction of its own. `false`: the range was given up, nothing was
    /// written.
    async fn stage(&self, user: UserId, part: StagedPart) -> Result<bool>;

    /// Gives a staged range up: from now on nothing is added to it and no commit adopts it. `false`: it is not staged,
    /// because a commit has adopted it or because it was given up before.
    async fn abandon_staged(&self, user: UserId, staged_from: Seq) -> Result<bool>;
}

/// Refuses a commit whose staged range is not there; `found` is how many there were.
pub(super) fn check_adopted(found: u64) -> Result<()> {
    if found == 1 { Ok(()) } else { Err(StoreError::Corrupt("the range to adopt is not staged".to_owned())) }
}
