//! Group commit, as far as it is the same on both databases: a bad commit must not sink its group.

use futures_util::FutureExt as _;

use super::error::{is_lock_timeout, is_unique_violation};
use super::{Commit, CommitOutcome, Result, StoreError};

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(super) enum Failure {
    /// An op id is stored already.
    Duplicate,
    /// Somebody else holds a row locked.
    Contended,
    /// The database refuses what is to be stored; it will refuse it again.
    Defect(StoreError),
    /// The database could not.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Internal(error) if is_duplicate_id(&error) => Self::Duplicate,
            StoreError::Unavailable(error) if is_lock_timeout(&error) => Self::Contended,
            error @ StoreError::Internal(_) => Self::Defect(error),
            error => Self::Store(error),
        }
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Whether it was the unique index on op ids that refused, and not the one on sequences: that would be a defect of
/// ours.
fn is_duplicate_id(error: &sqlx::Error) -> bool {
    is_unique_violation(error)
        && error.as_database_error().is_some_and(|error| {
            error.constraint().map_or_else(
                || error.message().contains("operations.op_id"),
                |constraint| constraint == "operations_op_id_key",
            )
        })
}

/// Something that can apply a group in one transaction.
pub(super) trait Transact {
    fn transact(&mut self, group: &[Commit]) -> impl Future<Output = Result<Vec<CommitOutcome>, Failure>> + Send;
}

/// Applies the group in one transaction; if one commit poisons it, each commit in a transaction of its own.
pub(super) async fn commit(lane: &mut impl Transact, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
    match lane.transact(group).await {
        Ok(outcomes) => Ok(outcomes),
        Err(Failure::Duplicate | Failure::Contended | Failure::Defect(_)) if group.len() > 1 => {
            singly(lane, group).await
        }
        Err(Failure::Duplicate) => Ok(vec![CommitOutcome::DuplicateId]),
        Err(Failure::Contended) => Ok(vec![CommitOutcome::Contended]),
        Err(Failure::Defect(error) | Failure::Store(error)) => Err(error),
    }
}

/// Something that can apply a group in one transaction without waiting for anything but the disk.
pub(super) trait TransactNow: Send {
    fn transact_now(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure>;
}

struct Now<'a, L>(&'a mut L);

impl<L: TransactNow> Transact for Now<'_, L> {
    async fn transact(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure> {
        self.0.transact_now(group)
    }
}

/// [`commit`] on a thread that may block.
pub(super) fn commit_now(lane: &mut impl TransactNow, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
    let mut lane = Now(lane);
    commit(&mut lane, group).now_or_never().expect("a lane that answers at once leaves nothing to wait for")
}

/// The good ones land whatever the others do. An error after some have landed is reported as [`StoreError::Unknown`],
/// so that the caller looks at each account again.
async fn singly(lane: &mut impl Transact, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
    let mut outcomes = Vec::with_capacity(group.len());
    let mut failed = None;
    for commit in group {
        match lane.transact(std::slice::from_ref(commit)).await {
            Ok(outcome) => outcomes.extend(outcome),
            Err(Failure::Duplicate) => outcomes.push(CommitOutcome::DuplicateId),
            Err(Failure::Contended) => outcomes.push(CommitOutcome::Contended),
            Err(Failure::Defect(error)) => failed = Some(error),
            Err(Failure::Store(error)) => {
                failed = Some(error);
                break;
            }
        }
    }
    match failed {
        None => Ok(outcomes),
        Some(error) if outcomes.contains(&CommitOutcome::Committed) => Err(error.made_unknown()),
        Some(error) => Err(error),
    }
}
