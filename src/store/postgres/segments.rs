//! Segments inside a transaction that the caller has begun: which there are, what they hold, and the way back to rows.

use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::rows::OperationRow;
use super::sql;
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::discard::{STEP, Span};
use crate::store::rebuild::OpTrace;
use crate::store::segment::{Unpacked, last_end};
use crate::store::{Result, StoreError};

/// Segments read at once when a whole log is walked over.
const WALK: i64 = 16;

/// The first segments that overlap `after < seq ≤ up_to`.
pub(super) async fn spans(db: &mut PgConnection, user: UserId, after: Seq, up_to: Seq) -> Result<Vec<Span>> {
    let query = sqlx::query(sql::SEGMENT_SPANS).bind(user).bind(after).bind(up_to).bind(last_end(up_to)).bind(STEP);
    let rows = query.fetch_all(db).await?;
    let span = |row: &sqlx::postgres::PgRow| {
        let op_count = usize::try_from(row.try_get::<i32, _>(2)?);
        let op_count = op_count.map_err(|_| StoreError::Corrupt("segment: negative count".to_owned()))?;
        Ok(Span { first_seq: row.try_get(0)?, last_seq: row.try_get(1)?, op_count })
    };
    rows.iter().map(span).collect()
}

/// Turns a segment into rows.
pub(super) async fn unpack(db: &mut PgConnection, user: UserId, last_seq: Seq) -> Result<()> {
    let rows = sqlx::query(sql::LOAD_SEGMENTS).bind(user).bind(vec![last_seq]).fetch_all(&mut *db).await?;
    for row in rows {
        let generation: i64 = row.try_get(2)?;
        let unpacked = Unpacked::open(row.try_get(3)?, row.try_get(0)?, last_seq)?;
        let ops = unpacked.ops().collect::<Result<Vec<_>>>()?;
        let ops: Vec<_> = ops.iter().map(|op| OperationRow::of(user, generation, op)).collect();
        sqlx::query(sql::DELETE_SEGMENTS).bind(user).bind(vec![last_seq]).execute(&mut *db).await?;
        sqlx::query(sql::INSERT_OPS).bind(ops).execute(&mut *db).await?;
    }
    Ok(())
}

/// What the packed operations after a sequence left behind, ascending.
pub(super) async fn traces(db: &mut PgConnection, user: UserId, after: Seq) -> Result<Vec<OpTrace>> {
    let mut traces = Vec::new();
    let mut last = after;
    loop {
        let rows = sqlx::query(sql::NEXT_SEGMENTS).bind(user).bind(last).bind(WALK).fetch_all(&mut *db).await?;
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
    db: &mut PgConnection,
    user: UserId,
    after: Seq,
    op_type: Option<&str>,
    limit: usize,
) -> Result<Vec<StoredOp>> {
    let mut newest = Vec::new();
    let mut before = Seq::MAX;
    while newest.len() < limit {
        let query = sqlx::query(sql::NEWEST_SEGMENTS).bind(user).bind(after).bind(before).bind(WALK);
        let rows = query.fetch_all(&mut *db).await?;
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
