//! Payloads in parts. One that is written at once keeps everybody else from committing for as long as the disk takes for all of
//! it; in parts, each a transaction of its own, others commit in between.
//!
//! Owns what is staged: from the first part on until the operation that names it is stored, which makes it visible, or
//! until it turns out that it isn't. What a crash leaves in between is deleted at the next start.

use bytes::Bytes;
use rusqlite::{Connection, TransactionBehavior, params};

use super::reader::Reader;
use crate::protocol::{Seq, StoredOp, UserId};
use crate::store::{Commit, Result};

/// From this size on a payload is written in parts.
pub(super) const STAGED_FROM: usize = 1 << 20;
/// Bytes of a part: so much is on the disk in a few milliseconds.
pub(super) const PART: usize = 256 << 10;

/// An operation's payload, from wherever it is. Concatenated as text, for there is no function that does it with blobs; the
/// bytes are the same, and a payload is text.
macro_rules! payload {
    () => {
        "CASE WHEN payload_id IS NULL THEN payload ELSE CAST((SELECT group_concat(CAST(p.data AS TEXT), '' ORDER BY p.part) \
         FROM payload_parts p WHERE p.payload_id = operations.payload_id) AS BLOB) END"
    };
}
/// The columns of an operation as `store::row` decodes them.
macro_rules! stored_op_columns {
    () => {
        $crate::store::row::op_columns!($crate::store::sqlite::payload::payload!())
    };
}
/// The same without the payloads that are in parts, and behind them those payloads' numbers.
macro_rules! parted_op_columns {
    () => {
        concat!($crate::store::row::op_columns!("CASE WHEN payload_id IS NULL THEN payload END"), ", NULL, payload_id")
    };
}
/// The same without large payloads, and behind them the payload's size.
macro_rules! outgoing_op_columns {
    () => {
        concat!(
            $crate::store::row::op_columns!(
                "CASE WHEN payload_id IS NULL AND length(payload) < 1048576 THEN payload END"
            ),
            ", NULL, CASE WHEN payload_id IS NOT NULL THEN \
             (SELECT SUM(length(p.data)) FROM payload_parts p WHERE p.payload_id = operations.payload_id) \
             WHEN length(payload) >= 1048576 THEN length(payload) END"
        )
    };
}
pub(super) use {outgoing_op_columns, parted_op_columns, payload, stored_op_columns};

/// A piece of a payload: one of the parts that it is stored in, or as much of it.
pub(super) const READ_PIECE: &str = "SELECT CASE WHEN payload_id IS NULL THEN substr(payload, ?3 * ?4 + 1, ?4) ELSE \
     (SELECT p.data FROM payload_parts p WHERE p.payload_id = operations.payload_id AND p.part = ?3) END \
     FROM operations WHERE user_id = ?1 AND server_seq = ?2";

const PARTS_SIZE: &str = "SELECT SUM(length(data)) FROM payload_parts WHERE payload_id = ?1";
const PARTS: &str = "SELECT data FROM payload_parts WHERE payload_id = ?1 ORDER BY part";
const NEXT: &str = "SELECT COALESCE(MAX(payload_id), 0) + 1 FROM payload_parts";
const PUT: &str = "INSERT INTO payload_parts (payload_id, part, data) VALUES (?1, ?2, ?3)";
const DISCARD: &str = "DELETE FROM payload_parts WHERE payload_id = ?1 \
                       AND NOT EXISTS (SELECT 1 FROM operations WHERE payload_id = ?1)";
const PURGE: &str = "DELETE FROM payload_parts \
                     WHERE payload_id NOT IN (SELECT payload_id FROM operations WHERE payload_id IS NOT NULL)";

/// Payloads of a group that have been written in parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Staged(Vec<(UserId, Seq, i64)>);

impl Staged {
    /// The operations of a group whose payloads are to be written in parts.
    pub(super) fn due(group: &[Commit]) -> Vec<(UserId, Seq, Bytes)> {
        Self::large(group.iter().flat_map(|commit| commit.ops.iter().map(|(_, op)| (commit.user, op))))
    }

    /// Those of operations whose payloads are to be written in parts.
    pub(super) fn large<'a>(ops: impl Iterator<Item = (UserId, &'a StoredOp)>) -> Vec<(UserId, Seq, Bytes)> {
        let large = ops.filter(|(_, op)| op.payload.len() >= STAGED_FROM);
        large.map(|(user, op)| (user, op.server_seq, op.payload.clone())).collect()
    }

    pub(super) fn add(&mut self, user: UserId, seq: Seq, id: i64) {
        self.0.push((user, seq, id));
    }

    /// Where an operation's payload is, if it has been written in parts.
    pub(super) fn find(&self, user: UserId, seq: Seq) -> Option<i64> {
        self.0.iter().find(|(owner, at, _)| (*owner, *at) == (user, seq)).map(|(_, _, id)| *id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = i64> {
        self.0.iter().map(|(_, _, id)| *id)
    }
}

/// A payload's parts, in order.
pub(super) fn parts(payload: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..payload.len()).step_by(PART).map(|start| payload.slice(start..payload.len().min(start + PART)))
}

/// A payload from its parts, each of which goes straight to its place: the database would hold the whole several times.
pub(super) fn read_parts(reader: &Reader<'_>, id: i64) -> Result<Vec<u8>> {
    // No parts at all are a fault: their sum is NULL, which is no size.
    let size = reader.first(PARTS_SIZE, [id], |row| row.try_get::<i64, _>(0))?.unwrap_or(0);
    let mut payload = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    reader.rows(PARTS, [id], |row| {
        payload.extend_from_slice(row.try_get(0)?);
        Ok(true)
    })?;
    Ok(payload)
}

/// Writes the next part of a payload; the first one if it has no number yet. Returns its number.
pub(super) fn put(connection: &mut Connection, id: Option<i64>, part: usize, data: &[u8]) -> Result<i64> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let id = match id {
        Some(id) => id,
        None => tx.prepare_cached(NEXT)?.query_row([], |row| row.get(0))?,
    };
    let part = i64::try_from(part).unwrap_or(i64::MAX);
    tx.prepare_cached(PUT)?.execute(params![id, part, data])?;
    tx.commit()?;
    Ok(id)
}

/// Deletes a payload's parts unless an operation names them.
pub(super) fn discard(connection: &Connection, id: i64) -> Result<()> {
    connection.prepare_cached(DISCARD)?.execute([id])?;
    Ok(())
}

/// Deletes what a crash has left. Nobody may be staging anything.
pub(super) fn purge(connection: &Connection) -> rusqlite::Result<()> {
    let parts = connection.execute(PURGE, [])?;
    if parts > 0 {
        tracing::info!(parts, "deleted payloads of operations that were never stored");
    }
    Ok(())
}
