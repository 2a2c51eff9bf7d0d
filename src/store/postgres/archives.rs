//! Staging of archived data sets.

use async_trait::async_trait;
use sqlx::Connection as _;

use super::commit::insert_segments;
use super::rows::OperationRow;
use super::{PostgresStore, on_connection, sql};
use crate::protocol::{Seq, UserId};
use crate::store::{ArchiveReason, ArchiveStore, ArchivedRange, Result, Segment, StagedPart};

#[async_trait]
impl ArchiveStore for PostgresStore {
    async fn begin_staging(&self, user: UserId, range: &ArchivedRange) -> Result<bool> {
        on_connection!(self.housekeeping, self.patience, "begin_staging", |db| {
            let done = sqlx::query(
                "INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, archived_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (user_id, from_seq) DO NOTHING",
            )
            .bind(user)
            .bind(range.from_seq)
            .bind(range.to_seq)
            .bind(range.generation)
            .bind(range.reason.as_str())
            .bind(range.bytes)
            .bind(range.archived_at)
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    }

    async fn stage(&self, user: UserId, part: StagedPart) -> Result<bool> {
        let part = &part;
        on_connection!(self.housekeeping, self.patience, "stage", |db| {
            let mut tx = db.begin().await?;
            // Whoever gives it up waits until this part is written, and then finds it.
            let staged = sqlx::query(
                "SELECT 1 FROM archived_ranges WHERE user_id = $1 AND from_seq = $2 AND reason = 'staged' FOR SHARE",
            )
            .bind(user)
            .bind(part.staged_from)
            .fetch_optional(&mut *tx)
            .await?;
            if staged.is_none() {
                return Ok(false);
            }
            if !part.rows.is_empty() {
                let rows: Vec<_> = part.rows.iter().map(|op| OperationRow::of(user, part.generation, op)).collect();
                sqlx::query(sql::INSERT_OPS).bind(rows).execute(&mut *tx).await?;
            }
            if !part.segments.is_empty() {
                let segments: Vec<(UserId, &Segment)> = part.segments.iter().map(|segment| (user, segment)).collect();
                insert_segments(&mut tx, &segments).await?;
            }
            tx.commit().await?;
            Ok(true)
        })
    }

    async fn abandon_staged(&self, user: UserId, staged_from: Seq) -> Result<bool> {
        on_connection!(self.housekeeping, self.patience, "abandon_staged", |db| {
            let done = sqlx::query(
                "UPDATE archived_ranges SET reason = $3, archived_at = 0 \
                 WHERE user_id = $1 AND from_seq = $2 AND reason = 'staged'",
            )
            .bind(user)
            .bind(staged_from)
            .bind(ArchiveReason::Abandoned.as_str())
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    }
}
