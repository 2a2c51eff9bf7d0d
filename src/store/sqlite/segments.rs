//! Segments inside a transaction that the caller has begun: which there are, what they hold, and the way back to rows.

use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::overwrite::insert_ops;
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::discard::{STEP, Span};
use crate::store::rebuild::OpTrace;
use crate::store::segment::{Unpacked, last_end};
use crate::store::{Result, StoreError};

/// Segments read at once when a whole log is walked over.
const WALK: i64 = 16;

/// The first segments that overlap `after < seq ≤ up_to`.
pub(super) async fn spans(db: &mut SqliteConnection, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<Span>> {
    let rows = sqlx::query(
        "SELECT first_seq, last_seq, op_count FROM segments \
         WHERE user_id = ?1 AND last_seq > ?2 AND last_seq <= ?4 AND first_seq <= ?3 ORDER BY last_seq LIMIT ?5",
    )
    .bind(user)
    .bind(after)
    .bind(up_to)
    .bind(last_end(up_to))
    .bind(STEP)
    .fetch_all(db)
    .await?;
    let span = |row: &SqliteRow| {
        let op_count = usize::try_from(row.try_get::<i64, _>(2)?);
        let op_count = op_count.map_err(|_| StoreError::Corrupt("segment: negative count".to_owned()))?;
        Ok(Span { first_seq: row.try_get(0)?, last_seq: row.try_get(1)?, op_count })
    };
    rows.iter().map(span).collect()
}

/// Deletes a segment, not its operations' rows.
pub(super) async fn delete(db: &mut SqliteConnection, user: UserId, last_seq: Seq) -> Result<()> {
    let query = sqlx::query("DELETE FROM segments WHERE user_id = ? AND last_seq = ?").bind(user).bind(last_seq);
    query.execute(db).await?;
    Ok(())
}

/// Turns a segment into rows.
pub(super) async fn unpack(db: &mut SqliteConnection, user: UserId, last_seq: Seq) -> Result<()> {
    let query = sqlx::query("SELECT first_seq, generation, data FROM segments WHERE user_id = ? AND last_seq = ?");
    let Some(row) = query.bind(user).bind(last_seq).fetch_optional(&mut *db).await? else { return Ok(()) };
    let generation: i64 = row.try_get(1)?;
    let unpacked = Unpacked::open(row.try_get(2)?, row.try_get(0)?, last_seq)?;
    let ops = unpacked.ops().collect::<Result<Vec<_>>>()?;
    let ops: Vec<_> = ops.iter().map(|op| (user, generation, op)).collect();
    delete(db, user, last_seq).await?;
    insert_ops(db, &ops).await?;
    Ok(())
}

/// What the packed operations after a sequence left behind, ascending.
pub(super) async fn traces(db: &mut SqliteConnection, user: UserId, after: Seq) -> Result<Vec<OpTrace>> {
    let mut traces = Vec::new();
    let mut last = after;
    loop {
        let query = sqlx::query(
            "SELECT first_seq, last_seq, data FROM segments WHERE user_id = ? AND last_seq > ? ORDER BY last_seq LIMIT ?",
        );
        let rows = query.bind(user).bind(last).bind(WALK).fetch_all(&mut *db).await?;
        if rows.is_empty() {
            return Ok(traces);
        }
        for row in rows {
            last = row.try_get(1)?;
            for op in Unpacked::open(row.try_get(2)?, row.try_get(0)?, last)?.ops() {
                traces.extend(Some(op?).filter(|op| op.server_seq > after).map(OpTrace::from));
            }
        }
    }
}

/// The newest packed operations after a sequence, optionally of one type, at most `limit`, newest first.
pub(super) async fn newest(
    db: &mut SqliteConnection,
    user: UserId,
    after: Seq,
    op_type: Option<&str>,
    limit: usize,
) -> Result<Vec<StoredOp>> {
    let mut newest = Vec::new();
    let mut before = Seq::MAX;
    while newest.len() < limit {
        let query = sqlx::query(
            "SELECT first_seq, last_seq, data FROM segments WHERE user_id = ? AND last_seq > ? AND last_seq < ? \
             ORDER BY last_seq DESC LIMIT ?",
        );
        let rows = query.bind(user).bind(after).bind(before).bind(WALK).fetch_all(&mut *db).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            before = row.try_get(1)?;
            let mut ops =
                Unpacked::open(row.try_get(2)?, row.try_get(0)?, before)?.ops().collect::<Result<Vec<_>>>()?;
            ops.retain(|op| op.server_seq > after && op_type.is_none_or(|wanted| op.op_type.as_str() == wanted));
            newest.extend(ops.into_iter().rev());
        }
    }
    newest.truncate(limit);
    Ok(newest)
}
