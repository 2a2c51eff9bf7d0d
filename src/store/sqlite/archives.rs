//! Staging of archived data sets, on the connection that commits: others may have the turn between two parts.

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params};

use super::SqliteStore;
use super::commit::{insert_archive, insert_ops, insert_segment};
use super::payload::Staged;
use crate::protocol::{Seq, UserId};
use crate::store::error::timed_on;
use crate::store::{ArchiveReason, ArchiveStore, ArchivedRange, Result, StagedPart};

const FIND_STAGED: &str = "SELECT 1 FROM archived_ranges WHERE user_id = ?1 AND from_seq = ?2 AND reason = 'staged'";
const FIND_RANGE: &str = "SELECT 1 FROM archived_ranges WHERE user_id = ?1 AND from_seq = ?2";
const ABANDON: &str = "UPDATE archived_ranges SET reason = ?3, archived_at = 0 \
    WHERE user_id = ?1 AND from_seq = ?2 AND reason = 'staged'";

#[async_trait]
impl ArchiveStore for SqliteStore {
    async fn begin_staging(&self, user: UserId, range: &ArchivedRange) -> Result<bool> {
        let range = range.clone();
        let work = move |connection: &mut Connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // This connection does not check foreign keys: an account that is gone must not get a range.
            let exists = tx.prepare("SELECT 1 FROM users WHERE id = ?1")?.exists([user])?;
            if !exists || tx.prepare(FIND_RANGE)?.exists([user, range.from_seq])? {
                return Ok(false);
            }
            insert_archive(&tx, user, &range)?;
            tx.commit()?;
            Ok(true)
        };
        timed_on("begin_staging", "writer", self.writer.work(work)).await
    }

    async fn stage(&self, user: UserId, part: StagedPart) -> Result<bool> {
        let stored = timed_on("stage", "writer", self.writer.stage_part(user, part)).await;
        self.checkpointer.wake();
        stored
    }

    async fn abandon_staged(&self, user: UserId, staged_from: Seq) -> Result<bool> {
        let work = move |connection: &mut Connection| {
            let changed = connection.execute(ABANDON, params![user, staged_from, ArchiveReason::Abandoned.as_str()])?;
            Ok(changed == 1)
        };
        timed_on("abandon_staged", "writer", self.writer.work(work)).await
    }
}

/// Writes a part whose large payloads have been written ahead. `false`: the range was given up.
pub(super) fn store_part(
    connection: &mut Connection,
    user: UserId,
    part: &StagedPart,
    payloads: &Staged,
) -> Result<bool> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !tx.prepare(FIND_STAGED)?.exists([user, part.staged_from])? {
        return Ok(false);
    }
    insert_ops(&tx, user, part.rows.iter().map(|op| (part.generation, op)), payloads)?;
    for segment in &part.segments {
        insert_segment(&tx, user, segment)?;
    }
    tx.commit()?;
    Ok(true)
}
