//! Group commit: one statement, one round trip, one flush to disk for many accounts.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgBindIterExt as _, PgConnection, Postgres};
use sqlx::{Arguments as _, Connection as _, Row as _};

use super::pool::Leased;
use super::rows::{DeviceRow, HeadRow, OperationRow, StateRow};
use super::{PostgresStore, RETRIES, silent, sql};
use crate::protocol::UserId;
use crate::store::archives::check_adopted;
use crate::store::error::is_transient;
use crate::store::group::{Failure, Transact};
use crate::store::heads;
use crate::store::segment::check_replaced;
use crate::store::{Adoption, Commit, CommitOutcome, Result, Segment, SnapshotChange, StoreError};

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

impl PostgresStore {
    pub(super) async fn commit_group(&self, group: &[Commit]) -> Result<Vec<CommitOutcome>> {
        if group.is_empty() {
            return Ok(Vec::new());
        }
        let mut lane = Lane { held: self.lanes.acquire().await?, patience: self.patience };
        crate::store::group::commit(&mut lane, group).await
    }
}

impl PostgresStore {
    pub(super) async fn commit_after_waiting(&self, commit: &Commit) -> Result<Vec<CommitOutcome>> {
        let mut lane = Lane { held: self.patient.acquire().await?, patience: self.patience };
        crate::store::group::commit(&mut lane, std::slice::from_ref(commit)).await
    }
}

/// A connection that commits, in use.
struct Lane {
    held: Leased,
    patience: Duration,
}

impl Transact for Lane {
    async fn transact(&mut self, group: &[Commit]) -> Result<Vec<CommitOutcome>, Failure> {
        // In the order of the accounts, so that two instances lock the rows they share in the same order.
        let mut sorted: Vec<&Commit> = group.iter().collect();
        sorted.sort_by_key(|commit| commit.user);
        let rare = group.iter().any(|c| {
            c.clear_devices
                || !c.archived.is_empty()
                || !c.seal.is_empty()
                || c.adoption.is_some()
                || !matches!(c.snapshot, SnapshotChange::Keep)
        });
        let mut attempt = 0;
        loop {
            self.held.ready().await?;
            let (server, pid) = self.held.watch();
            let connection = self.held.connection()?;
            let applying = async {
                if rare { in_transaction(connection, &sorted).await } else { at_once(connection, &sorted).await }
            };
            let Some(applied) = server.watch(pid, self.patience, applying).await else {
                self.held.discard();
                return Err(StoreError::Unknown(silent()).into());
            };
            self.held.settle(&applied);
            match applied {
                Ok(hit) => return Ok(group.iter().map(|commit| outcome(&hit, commit)).collect()),
                Err(StoreError::Unavailable(error)) if is_transient(&error) && attempt < RETRIES => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn outcome(hit: &HashSet<UserId>, commit: &Commit) -> CommitOutcome {
    if hit.contains(&commit.user) { CommitOutcome::Committed } else { CommitOutcome::Stale }
}

async fn at_once(connection: &mut PgConnection, group: &[&Commit]) -> Result<HashSet<UserId>> {
    let query = bind_commit(group, DeviceRow::of(group));
    // fetch_all reads up to the server's "ready", which comes after the commit; stopping at the rows would be too
    // early.
    let rows = query.fetch_all(connection).await.map_err(StoreError::of_commit)?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The same with what is rare: devices forgotten, ranges archived, the cached state changed. The parts of one statement
/// would not see each other's changes, so these are statements of their own. Until COMMIT is sent a broken connection
/// means "not applied".
async fn in_transaction(connection: &mut PgConnection, group: &[&Commit]) -> Result<HashSet<UserId>> {
    let mut tx = connection.begin().await?;
    let rows = bind_commit(group, Vec::new()).fetch_all(&mut *tx).await?;
    let hit: HashSet<UserId> = rows.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<_>>()?;
    let live: Vec<&Commit> = group.iter().copied().filter(|commit| hit.contains(&commit.user)).collect();

    let cleared: Vec<UserId> = live.iter().filter(|commit| commit.clear_devices).map(|commit| commit.user).collect();
    if !cleared.is_empty() {
        sqlx::query(sql::CLEAR_DEVICES).bind(cleared).execute(&mut *tx).await?;
    }
    if live.iter().any(|commit| !commit.devices.is_empty()) {
        sqlx::query(sql::UPSERT_DEVICES).bind(DeviceRow::of(&live)).execute(&mut *tx).await?;
    }
    if live.iter().any(|commit| !commit.archived.is_empty()) {
        bind_archives(sqlx::query(sql::INSERT_ARCHIVES), &live).execute(&mut *tx).await?;
    }
    for commit in live {
        if let Some(adoption) = commit.adoption {
            adopt(&mut tx, commit.user, adoption).await?;
        }
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
    seal(&mut tx, group, &hit).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(hit)
}

/// Makes a staged range part of the log, if it still is one.
async fn adopt(tx: &mut PgConnection, user: UserId, adoption: Adoption) -> Result<()> {
    let staged = sqlx::query(sql::ADOPT_STAGED).bind(user).bind(adoption.staged_from).execute(&mut *tx).await?;
    check_adopted(staged.rows_affected())?;
    sqlx::query(sql::MARK_BROUGHT_BACK).bind(user).bind(adoption.source_from).execute(&mut *tx).await?;
    sqlx::query(sql::ANNOUNCE_REPLACED).bind(user).execute(&mut *tx).await?;
    Ok(())
}

/// Stores segments in place of what holds their operations.
async fn seal(tx: &mut PgConnection, group: &[&Commit], hit: &HashSet<UserId>) -> Result<()> {
    let segments: Vec<(UserId, &Segment)> = group
        .iter()
        .filter(|commit| hit.contains(&commit.user))
        .flat_map(|commit| commit.seal.iter().map(|segment| (commit.user, segment)))
        .collect();
    if segments.is_empty() {
        return Ok(());
    }
    let all = segments.as_slice();
    let replaced: i64 = sqlx::query_scalar(sql::DELETE_SEALED)
        .bind(column(all, |(user, _)| *user))
        .bind(column(all, |(_, segment)| segment.first_seq))
        .bind(column(all, |(_, segment)| segment.last_seq))
        .bind(column(all, |(_, segment)| segment.generation))
        .fetch_one(&mut *tx)
        .await?;
    check_replaced(all.iter().map(|(_, segment)| *segment), replaced)?;
    insert_segments(tx, all).await
}

/// Stores segments.
pub(super) async fn insert_segments(tx: &mut PgConnection, all: &[(UserId, &Segment)]) -> Result<()> {
    sqlx::query(sql::INSERT_SEGMENTS)
        .bind(column(all, |(user, _)| *user))
        .bind(column(all, |(_, segment)| segment.first_seq))
        .bind(column(all, |(_, segment)| segment.last_seq))
        .bind(column(all, |(_, segment)| segment.generation))
        .bind(column(all, |(_, segment)| segment.storage_bytes))
        .bind(column(all, |(_, segment)| segment.max_received_at))
        .bind(column(all, |(_, segment)| i32::try_from(segment.op_count).unwrap_or(i32::MAX)))
        .bind(column(all, |(_, segment)| segment.min_op_id.as_str()))
        .bind(column(all, |(_, segment)| segment.max_op_id.as_str()))
        .bind(column(all, |(_, segment)| &segment.op_id_hashes[..]))
        .bind(column(all, |(_, segment)| &segment.data[..]))
        .execute(tx)
        .await?;
    Ok(())
}

/// One array per column.
fn column<'a, T, C: 'a>(items: &'a [C], value: impl Fn(&'a C) -> T) -> Vec<T> {
    items.iter().map(value).collect()
}

/// About how long an operation is on the way to the server, without its payload.
const OPERATION_BYTES: usize = 420;
/// About how long a state row is on the way to the server.
const STATE_BYTES: usize = 512;

fn bind_commit(group: &[&Commit], devices: Vec<DeviceRow<'_>>) -> Query {
    let states: Vec<_> = group.iter().map(|c| StateRow::of(c)).collect();
    let ops = group.iter().flat_map(|c| c.ops.iter().map(|(generation, op)| OperationRow::of(c.user, *generation, op)));
    let heads: Vec<_> = group.iter().map(|c| (c.user, heads::rows(c.heads()))).collect();
    let heads = heads.iter().flat_map(|(user, rows)| rows.iter().map(|row| HeadRow::of(*user, row)));
    let absent: Vec<_> =
        group.iter().flat_map(|c| c.absent.iter().map(|key| (c.user, key, c.state.base_seq))).collect();
    let payloads: usize = group.iter().flat_map(|c| &c.ops).map(|(_, op)| OPERATION_BYTES + op.payload.len()).sum();
    let mut arguments = PgArguments::default();
    arguments.reserve(7, payloads + group.len() * STATE_BYTES);
    sqlx::query_with(sql::COMMIT, arguments)
        .bind(states)
        .bind(ops.bind_iter())
        .bind(heads.bind_iter())
        .bind(devices)
        .bind(column(&absent, |(user, ..)| *user))
        .bind(column(&absent, |(_, key, _)| &key.as_bytes()[..]))
        .bind(column(&absent, |(.., base_seq)| *base_seq))
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
