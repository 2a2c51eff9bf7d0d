//! Writing a state row and heads that were rebuilt from the log, over whatever is stored, and operations that come out
//! of a segment. Rare, hence through the
//! driver, like everything that is not a commit.
//!
//! The driver crosses a thread for every statement, so rows travel many to a statement, in a few fixed sizes whose
//! prepared statements stay cached.

use std::sync::LazyLock;

use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};

use crate::protocol::{StoredOp, UserId};
use crate::store::SyncState;
use crate::store::heads::HeadRow;
use crate::store::row::entity_ids_text;

type Query = sqlx::query::Query<'static, Sqlite, SqliteArguments>;

/// One statement for many rows: the same text with 50, 8 and 1 rows of placeholders.
struct Rows {
    sizes: [(usize, String); 3],
}

impl Rows {
    fn new(before: &str, columns: usize, after: &str) -> Self {
        Self {
            sizes: [50, 8, 1].map(|rows| {
                let mut sql = String::from(before);
                for row in 0..rows {
                    sql.push_str(if row == 0 { "(" } else { ",(" });
                    for column in 0..columns {
                        // Without numbers: SQLite keeps the name of each numbered one in a list that the driver makes it
                        // search for every value bound, which cost more than all the rest.
                        sql.push_str(if column == 0 { "?" } else { ",?" });
                    }
                    sql.push(')');
                }
                sql.push_str(after);
                (rows, sql)
            }),
        }
    }

    /// The items in slices for which there is a statement, with that statement.
    fn split<'a, T>(&'static self, mut items: &'a [T]) -> impl Iterator<Item = (Query, &'a [T])> {
        std::iter::from_fn(move || {
            let (rows, sql) = self.sizes.iter().find(|(rows, _)| *rows <= items.len())?;
            let (now, later) = items.split_at(*rows);
            items = later;
            Some((sqlx::query(sql.as_str()), now))
        })
    }
}

static INSERT_OPS: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO operations (user_id, generation, server_seq, op_id, client_id, action_type, op_type, \
         entity_type, entity_id, entity_ids, payload, storage_bytes, vector_clock, client_timestamp, schema_version, \
         is_payload_encrypted, sync_import_reason, repair_base_server_seq, received_at) VALUES ",
        19,
        "",
    )
});

static UPSERT_HEADS: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO entity_heads (user_id, entity_key, server_seq, client_id, vector_clock, is_time_delta) VALUES ",
        6,
        " ON CONFLICT (user_id, entity_key) DO UPDATE SET server_seq = excluded.server_seq, \
         client_id = excluded.client_id, vector_clock = excluded.vector_clock, is_time_delta = excluded.is_time_delta",
    )
});

pub(super) async fn insert_ops(tx: &mut SqliteConnection, ops: &[(UserId, i64, &StoredOp)]) -> Result<(), sqlx::Error> {
    for (mut query, rows) in INSERT_OPS.split(ops) {
        for (user, generation, op) in rows {
            query = query
                .bind(*user)
                .bind(*generation)
                .bind(op.server_seq)
                .bind(op.id.clone())
                .bind(op.client_id.clone())
                .bind(op.action_type.clone())
                .bind(op.op_type.as_str())
                .bind(op.entity_type)
                .bind(op.entity_id.clone())
                .bind(entity_ids_text(&op.entity_ids))
                .bind(op.payload.to_vec())
                .bind(op.storage_bytes)
                .bind(op.vector_clock.as_json())
                .bind(op.timestamp)
                .bind(i64::from(op.schema_version))
                .bind(op.is_payload_encrypted)
                .bind(op.import_reason.map(crate::protocol::ImportReason::as_str))
                .bind(op.repair_base_server_seq)
                .bind(op.received_at);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) async fn upsert_heads(
    tx: &mut SqliteConnection,
    user: UserId,
    heads: &[HeadRow<'_>],
) -> Result<(), sqlx::Error> {
    for (mut query, rows) in UPSERT_HEADS.split(heads) {
        for row in rows {
            query = query
                .bind(user)
                .bind(row.key.as_bytes().to_vec())
                .bind(row.seq)
                .bind(row.client_id.to_owned())
                .bind(row.clock.to_owned())
                .bind(row.is_time_delta);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

/// Overwrites a state row whatever its revision.
pub(super) async fn overwrite_state(
    tx: &mut SqliteConnection,
    user: UserId,
    state: &SyncState,
) -> Result<(), sqlx::Error> {
    let query = sqlx::query(
        "INSERT OR REPLACE INTO user_sync_state (user_id, revision, generation, base_seq, pruned_seq, last_seq, \
         vector_clock, full_state_seq, full_state_client_id, full_state_clock, replacement_seq, storage_used_bytes, \
         snapshot_seq, snapshot_at, snapshot_bytes, heads_seq, sealed_seq, sealed_max_op_id, sparse_up_to) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    );
    bind_state(query.bind(user).bind(state.revision), state).execute(tx).await?;
    Ok(())
}

fn bind_state(query: Query, state: &SyncState) -> Query {
    let full_state = state.full_state.as_ref();
    query
        .bind(state.generation)
        .bind(state.base_seq)
        .bind(state.pruned_seq)
        .bind(state.last_seq)
        .bind(state.clock.as_json())
        .bind(full_state.map(|mark| mark.seq))
        .bind(full_state.map(|mark| mark.client_id.clone()))
        .bind(full_state.map(|mark| mark.clock.as_json()))
        .bind(state.replacement_seq)
        .bind(state.storage_used_bytes)
        .bind(state.snapshot.map(|snapshot| snapshot.seq))
        .bind(state.snapshot.map(|snapshot| snapshot.at))
        .bind(state.snapshot.map(|snapshot| snapshot.bytes))
        .bind(state.heads_seq)
        .bind(state.sealed_seq)
        .bind(state.sealed_max_op_id.clone())
        .bind(state.sparse_up_to)
}
