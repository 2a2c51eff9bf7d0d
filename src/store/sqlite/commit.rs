//! Group commit: one transaction and one flush to disk for many accounts.
//!
//! The driver crosses a thread for every statement, so rows travel many to a statement, in a few fixed sizes whose
//! prepared statements stay cached.

use std::collections::HashSet;
use std::sync::LazyLock;

use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteConnection};
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use crate::protocol::{StoredOp, UserId};
use crate::store::group::{Failure, Transact};
use crate::store::row::entity_ids_text;
use crate::store::{
    ArchivedRange, Commit, CommitOutcome, EntityHead, EntityKey, Result, SnapshotChange, StoreError, SyncState,
};

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

static UPDATE_STATES: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "UPDATE user_sync_state SET revision = v.column2 + 1, generation = v.column3, base_seq = v.column4, \
         pruned_seq = v.column5, last_seq = v.column6, vector_clock = v.column7, full_state_seq = v.column8, \
         full_state_client_id = v.column9, full_state_clock = v.column10, replacement_seq = v.column11, \
         storage_used_bytes = v.column12, snapshot_seq = v.column13, snapshot_at = v.column14, \
         snapshot_bytes = v.column15, heads_seq = v.column16, sealed_seq = v.column17, \
         sealed_max_op_id = v.column18 FROM (VALUES ",
        18,
        ") AS v WHERE user_id = v.column1 AND revision = v.column2 RETURNING user_id",
    )
});

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

static UPSERT_DEVICES: LazyLock<Rows> = LazyLock::new(|| {
    Rows::new(
        "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) VALUES ",
        4,
        " ON CONFLICT (user_id, client_id) DO UPDATE SET last_seen_at = max(last_seen_at, excluded.last_seen_at)",
    )
});

impl SqliteStore {
    pub(super) async fn commit_group(&self, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.writer.acquire().await?;
        let outcomes = crate::store::group::commit(&mut *writer, group).await;
        self.checkpointer.wake();
        outcomes
    }
}

impl Transact for SqliteConnection {
    async fn transact(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure> {
        let mut tx = self.begin_with("BEGIN IMMEDIATE").await?;
        let hit = update_states(&mut tx, group).await?;
        let live: Vec<&Commit> = group.iter().filter(|commit| hit.contains(&commit.user)).collect();
        let ops: Vec<_> =
            live.iter().flat_map(|c| c.ops.iter().map(|(generation, op)| (c.user, *generation, op))).collect();
        insert_ops(&mut tx, &ops).await?;
        let heads: Vec<_> = live.iter().flat_map(|c| c.heads.iter().map(|(key, head)| (c.user, key, head))).collect();
        upsert_heads(&mut tx, &heads).await?;
        for commit in live.iter().filter(|commit| commit.clear_devices) {
            sqlx::query("DELETE FROM sync_devices WHERE user_id = ?1").bind(commit.user).execute(&mut *tx).await?;
        }
        let devices: Vec<_> =
            live.iter().flat_map(|c| c.devices.iter().map(|(client, at)| (c.user, client.as_str(), *at))).collect();
        upsert_devices(&mut tx, &devices).await?;
        for commit in &live {
            for range in &commit.archived {
                insert_archive(&mut tx, commit.user, range).await?;
            }
            change_snapshot(&mut tx, commit.user, &commit.snapshot).await?;
        }
        // If the flush to disk fails, the transaction may or may not be found there later.
        tx.commit().await.map_err(|error| Failure::Store(StoreError::Unknown(error)))?;
        Ok(group
            .iter()
            .map(|commit| if hit.contains(&commit.user) { CommitOutcome::Committed } else { CommitOutcome::Stale })
            .collect())
    }
}

/// Moves the state rows on whose revision is the expected one. Returns whose they were.
async fn update_states(tx: &mut SqliteConnection, group: &[Commit]) -> Result<HashSet<UserId>, Failure> {
    let mut hit = HashSet::with_capacity(group.len());
    for (mut query, commits) in UPDATE_STATES.split(group) {
        for commit in commits {
            query = query.bind(commit.user).bind(commit.expected_revision);
            query = bind_state(query, &commit.state);
        }
        for row in query.fetch_all(&mut *tx).await? {
            hit.insert(row.try_get::<i64, _>(0)?);
        }
    }
    Ok(hit)
}

fn bind_state(query: Query, state: &SyncState) -> Query {
    let full_state = state.full_state.as_ref();
    query
        .bind(state.generation)
        .bind(state.base_seq)
        .bind(state.pruned_seq)
        .bind(state.last_seq)
        .bind(state.clock.to_json())
        .bind(full_state.map(|mark| mark.seq))
        .bind(full_state.map(|mark| mark.client_id.clone()))
        .bind(full_state.map(|mark| mark.clock.to_json()))
        .bind(state.replacement_seq)
        .bind(state.storage_used_bytes)
        .bind(state.snapshot.map(|snapshot| snapshot.seq))
        .bind(state.snapshot.map(|snapshot| snapshot.at))
        .bind(state.snapshot.map(|snapshot| snapshot.bytes))
        .bind(state.heads_seq)
        .bind(state.sealed_seq)
        .bind(state.sealed_max_op_id.clone())
}

async fn insert_ops(tx: &mut SqliteConnection, ops: &[(UserId, i64, &StoredOp)]) -> Result<(), Failure> {
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
                .bind(op.vector_clock.to_json())
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
    heads: &[(UserId, &EntityKey, &EntityHead)],
) -> Result<(), sqlx::Error> {
    for (mut query, rows) in UPSERT_HEADS.split(heads) {
        for (user, key, head) in rows {
            query = query
                .bind(*user)
                .bind(key.as_bytes().to_vec())
                .bind(head.seq)
                .bind(String::from(&*head.client_id))
                .bind(head.clock.to_json())
                .bind(head.is_time_delta);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

async fn upsert_devices(tx: &mut SqliteConnection, devices: &[(UserId, &str, i64)]) -> Result<(), Failure> {
    for (mut query, rows) in UPSERT_DEVICES.split(devices) {
        for (user, client, at) in rows {
            query = query.bind(*user).bind((*client).to_owned()).bind(*at).bind(*at);
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

async fn insert_archive(tx: &mut SqliteConnection, user: UserId, range: &ArchivedRange) -> Result<(), Failure> {
    sqlx::query(
        "INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, archived_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )
    .bind(user)
    .bind(range.from_seq)
    .bind(range.to_seq)
    .bind(range.generation)
    .bind(range.reason.as_str())
    .bind(range.bytes)
    .bind(range.archived_at)
    .execute(tx)
    .await?;
    Ok(())
}

async fn change_snapshot(tx: &mut SqliteConnection, user: UserId, change: &SnapshotChange) -> Result<(), Failure> {
    match change {
        SnapshotChange::Keep => return Ok(()),
        SnapshotChange::Clear => {
            sqlx::query("DELETE FROM user_snapshots WHERE user_id = ?1").bind(user).execute(tx).await?;
        }
        SnapshotChange::Set(blob) => {
            sqlx::query(
                "INSERT INTO user_snapshots (user_id, schema_version, data) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (user_id) DO UPDATE SET schema_version = excluded.schema_version, data = excluded.data",
            )
            .bind(user)
            .bind(i64::from(blob.schema_version))
            .bind(blob.data.clone())
            .execute(tx)
            .await?;
        }
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
         snapshot_seq, snapshot_at, snapshot_bytes, heads_seq, sealed_seq, sealed_max_op_id) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    );
    bind_state(query.bind(user).bind(state.revision), state).execute(tx).await?;
    Ok(())
}
