//! Group commit: one statement, one round trip, one flush to disk for many accounts.

use std::collections::{BTreeMap, HashSet};

use sqlx::postgres::{PgArguments, PgConnection, Postgres};
use sqlx::{Connection as _, Row as _};

use super::lanes::Lane;
use super::{PostgresStore, RETRIES, silent, sql};
use crate::protocol::{ImportReason, UserId};
use crate::store::error::{is_connection_lost, is_transient};
use crate::store::group::{Failure, Transact};
use crate::store::row::entity_ids_text;
use crate::store::{Commit, CommitOutcome, EntityHead, EntityKey, Result, SnapshotChange, StoreError};

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

impl PostgresStore {
    pub(super) async fn commit_group(&self, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let mut lane = self.lanes.acquire().await?;
        crate::store::group::commit(&mut lane, group).await
    }
}

impl PostgresStore {
    pub(super) async fn commit_after_waiting(&self, commit: &Commit) -> Result<Vec<CommitOutcome>> {
        let mut lane = self.patient.acquire().await?;
        crate::store::group::commit(&mut lane, std::slice::from_ref(commit)).await
    }
}

impl Transact for Lane<'_> {
    async fn transact(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure> {
        // In the order of the accounts, so that two instances lock the rows they share in the same order.
        let mut sorted: Vec<&Commit> = group.iter().collect();
        sorted.sort_by_key(|commit| commit.user);
        let rare = group
            .iter()
            .any(|c| c.clear_devices || !c.archived.is_empty() || !matches!(c.snapshot, SnapshotChange::Keep));
        let mut attempt = 0;
        loop {
            let mut connection = self.connection().await?;
            let applying = async {
                if rare {
                    in_transaction(&mut connection, &sorted).await
                } else {
                    at_once(&mut connection, &sorted).await
                }
            };
            // When this is given up or cancelled, the connection is closed with it.
            let Ok(applied) = tokio::time::timeout(self.patience(), applying).await else {
                return Err(StoreError::Unknown(silent()).into());
            };
            match applied {
                Ok(hit) => {
                    self.keep(connection);
                    return Ok(group.iter().map(|commit| outcome(&hit, commit)).collect());
                }
                Err(error) => {
                    // The driver sends a transaction's rollback with the next use; rather than to leave it open that
                    // long, close.
                    if error.is_answer() && !rare {
                        self.keep(connection);
                    }
                    match error {
                        StoreError::Unavailable(error) if is_transient(&error) && attempt < RETRIES => attempt += 1,
                        error => return Err(error.into()),
                    }
                }
            }
        }
    }
}

fn outcome(hit: &HashSet<UserId>, commit: &Commit) -> CommitOutcome {
    if hit.contains(&commit.user) { CommitOutcome::Committed } else { CommitOutcome::Stale }
}

impl StoreError {
    /// Whether the server said so, and the connection can be used again.
    fn is_answer(&self) -> bool {
        match self {
            Self::Unavailable(error) | Self::Timeout(error) | Self::Internal(error) => {
                matches!(error, sqlx::Error::Database(_)) && !is_connection_lost(error)
            }
            _ => false,
        }
    }
}

async fn at_once(connection: &mut PgConnection, group: &[&Commit]) -> Result<HashSet<UserId>> {
    let query = bind_heads(bind_ops(bind_states(sqlx::query(sql::COMMIT), group), group), group);
    // fetch_all reads up to the server's "ready", which comes after the commit; stopping at the rows would be too
    // early.
    let rows = bind_devices(query, group).fetch_all(connection).await.map_err(StoreError::of_commit)?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The same with what is rare: devices forgotten, ranges archived, the cached state changed. The parts of one statement
/// would not see each other's changes, so these are statements of their own. Until COMMIT is sent a broken connection
/// means "not applied".
async fn in_transaction(connection: &mut PgConnection, group: &[&Commit]) -> Result<HashSet<UserId>> {
    let mut tx = connection.begin().await?;
    let query = bind_heads(bind_ops(bind_states(sqlx::query(sql::COMMIT), group), group), group);
    let rows = bind_devices(query, &[]).fetch_all(&mut *tx).await?;
    let hit: HashSet<UserId> = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_>>()?;
    let live: Vec<&Commit> = group.iter().copied().filter(|commit| hit.contains(&commit.user)).collect();

    let cleared: Vec<UserId> = live.iter().filter(|commit| commit.clear_devices).map(|commit| commit.user).collect();
    if !cleared.is_empty() {
        sqlx::query(sql::CLEAR_DEVICES).bind(cleared).execute(&mut *tx).await?;
    }
    if live.iter().any(|commit| !commit.devices.is_empty()) {
        bind_devices(sqlx::query(sql::UPSERT_DEVICES), &live).execute(&mut *tx).await?;
    }
    if live.iter().any(|commit| !commit.archived.is_empty()) {
        bind_archives(sqlx::query(sql::INSERT_ARCHIVES), &live).execute(&mut *tx).await?;
    }
    for commit in live {
        match &commit.snapshot {
            SnapshotChange::Keep => {}
            SnapshotChange::Clear => {
                sqlx::query(sql::CLEAR_SNAPSHOT).bind(commit.user).execute(&mut *tx).await?;
            }
            SnapshotChange::Set(blob) => {
                let query = sqlx::query(sql::SET_SNAPSHOT).bind(commit.user).bind(i16::from(blob.schema_version));
                query.bind(&blob.data).execute(&mut *tx).await?;
            }
        }
    }
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(hit)
}

/// One array per column.
fn column<'a, T, C: 'a>(items: &'a [C], value: impl Fn(&'a C) -> T) -> Vec<T> {
    items.iter().map(value).collect()
}

fn bind_states(query: Query, group: &[&Commit]) -> Query {
    query
        .bind(column(group, |c| c.user))
        .bind(column(group, |c| c.expected_revision))
        .bind(column(group, |c| c.state.generation))
        .bind(column(group, |c| c.state.base_seq))
        .bind(column(group, |c| c.state.pruned_seq))
        .bind(column(group, |c| c.state.last_seq))
        .bind(column(group, |c| c.state.clock.to_json()))
        .bind(column(group, |c| c.state.full_state.as_ref().map(|mark| mark.seq)))
        .bind(column(group, |c| c.state.full_state.as_ref().map(|mark| mark.client_id.as_str())))
        .bind(column(group, |c| c.state.full_state.as_ref().map(|mark| mark.clock.to_json())))
        .bind(column(group, |c| c.state.replacement_seq))
        .bind(column(group, |c| c.state.storage_used_bytes))
        .bind(column(group, |c| c.state.snapshot.map(|snapshot| snapshot.seq)))
        .bind(column(group, |c| c.state.snapshot.map(|snapshot| snapshot.at)))
        .bind(column(group, |c| c.state.snapshot.map(|snapshot| snapshot.bytes)))
        .bind(column(group, |c| c.state.heads_seq))
        .bind(column(group, |c| c.state.sealed_seq))
        .bind(column(group, |c| c.state.sealed_max_op_id.as_deref()))
}

fn bind_ops(query: Query, group: &[&Commit]) -> Query {
    let ops: Vec<_> =
        group.iter().flat_map(|c| c.ops.iter().map(|(generation, op)| (c.user, *generation, op))).collect();
    let ops = ops.as_slice();
    query
        .bind(column(ops, |(user, ..)| *user))
        .bind(column(ops, |(_, generation, _)| *generation))
        .bind(column(ops, |(.., op)| op.server_seq))
        .bind(column(ops, |(.., op)| op.id.as_str()))
        .bind(column(ops, |(.., op)| op.client_id.as_str()))
        .bind(column(ops, |(.., op)| op.action_type.as_str()))
        .bind(column(ops, |(.., op)| op.op_type.as_str()))
        .bind(column(ops, |(.., op)| op.entity_type))
        .bind(column(ops, |(.., op)| op.entity_id.as_deref()))
        .bind(column(ops, |(.., op)| entity_ids_text(&op.entity_ids)))
        .bind(column(ops, |(.., op)| &op.payload[..]))
        .bind(column(ops, |(.., op)| op.storage_bytes))
        .bind(column(ops, |(.., op)| op.vector_clock.to_json()))
        .bind(column(ops, |(.., op)| op.timestamp))
        .bind(column(ops, |(.., op)| i16::from(op.schema_version)))
        .bind(column(ops, |(.., op)| op.is_payload_encrypted))
        .bind(column(ops, |(.., op)| op.import_reason.map(ImportReason::as_str)))
        .bind(column(ops, |(.., op)| op.repair_base_server_seq))
        .bind(column(ops, |(.., op)| op.received_at))
}

fn bind_heads(query: Query, group: &[&Commit]) -> Query {
    let heads: Vec<_> = group.iter().flat_map(|c| c.heads.iter().map(|(key, head)| (c.user, key, head))).collect();
    bind_head_columns(query, &heads)
}

pub(super) fn bind_head_columns(query: Query, heads: &[(UserId, &EntityKey, &EntityHead)]) -> Query {
    query
        .bind(column(heads, |(user, ..)| *user))
        .bind(column(heads, |(_, key, _)| &key.as_bytes()[..]))
        .bind(column(heads, |(.., head)| head.seq))
        .bind(column(heads, |(.., head)| &*head.client_id))
        .bind(column(heads, |(.., head)| head.clock.to_json()))
        .bind(column(heads, |(.., head)| head.is_time_delta))
}

fn bind_devices(query: Query, group: &[&Commit]) -> Query {
    // One row per device: a statement must not touch the same row twice.
    let mut devices = BTreeMap::new();
    for (user, client, at) in group.iter().flat_map(|c| c.devices.iter().map(|(client, at)| (c.user, client, *at))) {
        let seen_at = devices.entry((user, client.as_str())).or_insert(at);
        *seen_at = at.max(*seen_at);
    }
    let devices: Vec<_> = devices.into_iter().collect();
    query
        .bind(column(&devices, |((user, _), _)| *user))
        .bind(column(&devices, |((_, client), _)| *client))
        .bind(column(&devices, |(_, at)| *at))
}

fn bind_archives(query: Query, group: &[&Commit]) -> Query {
    let ranges: Vec<_> = group.iter().flat_map(|c| c.archived.iter().map(|range| (c.user, range))).collect();
    let ranges = ranges.as_slice();
    query
        .bind(column(ranges, |(user, _)| *user))
        .bind(column(ranges, |(_, range)| range.from_seq))
        .bind(column(ranges, |(_, range)| range.to_seq))
        .bind(column(ranges, |(_, range)| range.generation))
        .bind(column(ranges, |(_, range)| range.reason.as_str()))
        .bind(column(ranges, |(_, range)| range.bytes))
        .bind(column(ranges, |(_, range)| range.archived_at))
}
