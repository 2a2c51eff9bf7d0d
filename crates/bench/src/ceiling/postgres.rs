//! What PostgreSQL can do at most: the operations alone, without state rows, heads, checks or a server.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::rows::{Groups, NewRow, StoredRow};
use crate::bench::error::{BenchError, Result};
use crate::bench::latency::Histogram;
use crate::bench::place::Place;
use crate::protocol::UserId;

/// What a raw load achieved.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// How long each commit took; also how many there were.
    pub commits: Histogram,
    /// Operations that they stored.
    pub operations: u64,
    /// How long it lasted.
    pub lasted: Duration,
}

impl Raw {
    /// Operations per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        crate::bench::case::float(self.operations) / self.lasted.as_secs_f64().max(1e-9)
    }
}

/// One statement for a whole group, as the store's commit has it.
const INSERT: &str = "\
INSERT INTO operations (user_id, server_seq, op_id, generation, client_id, action_type, op_type, entity_type, entity_id,
    entity_ids, vector_clock, storage_bytes, client_timestamp, received_at, schema_version, is_payload_encrypted,
    sync_import_reason, repair_base_server_seq, payload)
SELECT * FROM UNNEST($1::int8[], $2::int8[], $3::text[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::text[], $11::text[], $12::int8[], $13::int8[], $14::int8[], $15::int2[], $16::bool[], $17::text[],
    $18::int8[], $19::bytea[])";

/// One row, without arrays.
const INSERT_ONE: &str = "\
INSERT INTO operations (user_id, server_seq, op_id, generation, client_id, action_type, op_type, entity_type, entity_id,
    entity_ids, vector_clock, storage_bytes, client_timestamp, received_at, schema_version, is_payload_encrypted,
    sync_import_reason, repair_base_server_seq, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)";

type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

fn column<T>(group: &[NewRow<'_>], of: impl Fn(&NewRow<'_>) -> T) -> Vec<T> {
    group.iter().map(of).collect()
}

fn bind_group(group: &[NewRow<'_>]) -> Query {
    let texts = |of: fn(&StoredRow) -> &str| -> Vec<&str> { group.iter().map(|one| of(one.row)).collect() };
    sqlx::query(INSERT)
        .bind(column(group, |one| one.user))
        .bind(column(group, |one| one.seq))
        .bind(group.iter().map(|one| one.op_id.as_str()).collect::<Vec<_>>())
        .bind(column(group, |one| one.row.generation))
        .bind(texts(|row| &row.client_id))
        .bind(texts(|row| &row.action_type))
        .bind(texts(|row| &row.op_type))
        .bind(texts(|row| &row.entity_type))
        .bind(group.iter().map(|one| one.row.entity_id.as_deref()).collect::<Vec<_>>())
        .bind(group.iter().map(|one| one.row.entity_ids.as_deref()).collect::<Vec<_>>())
        .bind(texts(|row| &row.vector_clock))
        .bind(column(group, |one| one.row.storage_bytes))
        .bind(column(group, |one| one.row.client_timestamp))
        .bind(column(group, |one| one.row.received_at))
        .bind(column(group, |one| one.row.schema_version))
        .bind(column(group, |one| one.row.is_payload_encrypted))
        .bind(group.iter().map(|one| one.row.sync_import_reason.as_deref()).collect::<Vec<_>>())
        .bind(column(group, |one| one.row.repair_base_server_seq))
        .bind(group.iter().map(|one| &one.row.payload[..]).collect::<Vec<_>>())
}

fn bind_one(one: &NewRow<'_>) -> Query {
    let row = one.row;
    sqlx::query(INSERT_ONE)
        .bind(one.user)
        .bind(one.seq)
        .bind(one.op_id.clone())
        .bind(row.generation)
        .bind(row.client_id.clone())
        .bind(row.action_type.clone())
        .bind(row.op_type.clone())
        .bind(row.entity_type.clone())
        .bind(row.entity_id.clone())
        .bind(row.entity_ids.clone())
        .bind(row.vector_clock.clone())
        .bind(row.storage_bytes)
        .bind(row.client_timestamp)
        .bind(row.received_at)
        .bind(row.schema_version)
        .bind(row.is_payload_encrypted)
        .bind(row.sync_import_reason.clone())
        .bind(row.repair_base_server_seq)
        .bind(row.payload.clone())
}

/// A connection set up like the store's.
///
/// # Errors
/// When the place is none of PostgreSQL, or the database does not answer.
pub async fn connect(place: &Place) -> Result<PgConnection> {
    let url = place.postgres_url().ok_or_else(|| BenchError::Options("not a PostgreSQL database".to_owned()))?;
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    let mut connection = options.application_name("supersync bench").disable_statement_logging().connect().await?;
    sqlx::query("SELECT set_config('plan_cache_mode', 'force_generic_plan', false), set_config('jit', 'off', false)")
        .execute(&mut connection)
        .await?;
    Ok(connection)
}

/// The accounts of the scratch database.
///
/// # Errors
/// When the database fails.
pub async fn users(place: &Place) -> Result<Vec<UserId>> {
    let mut connection = connect(place).await?;
    let users = sqlx::query_scalar("SELECT id FROM users ORDER BY id").fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(users)
}

/// Lets `writers` connections store groups of `group` rows for so long, each for accounts of its own. With groups of one
/// row there are no arrays in the statement.
///
/// # Errors
/// When the database fails.
pub async fn insert(place: &Place, rows: &[StoredRow], writers: usize, group: usize, lasts: Duration) -> Result<Raw> {
    let users = users(place).await?;
    sqlx::query("TRUNCATE operations").execute(&mut connect(place).await?).await?;
    // What earlier runs left to write must not be written during this one.
    sqlx::query("CHECKPOINT").execute(&mut connect(place).await?).await?;
    let mut connections = Vec::with_capacity(writers);
    for _ in 0..writers {
        connections.push(connect(place).await?);
    }
    let started = Instant::now();
    let tasks = (0_u64..).zip(connections).map(|(n, connection)| {
        let mine = users.iter().copied().skip(usize::try_from(n).unwrap_or(0)).step_by(writers);
        let groups = Groups::new(rows, mine, n + 1);
        write(connection, groups, group, started + lasts)
    });
    let done = futures_util::future::try_join_all(tasks).await?;
    let mut all = Raw { lasted: started.elapsed(), ..Raw::default() };
    for one in done {
        all.commits.merge(&one.commits);
        all.operations += one.operations;
    }
    Ok(all)
}

async fn write(mut connection: PgConnection, mut groups: Groups<'_>, size: usize, until: Instant) -> Result<Raw> {
    let mut done = Raw::default();
    let mut group = Vec::with_capacity(size);
    while Instant::now() < until {
        groups.next(size, &mut group);
        let query = if let [one] = &group[..] { bind_one(one) } else { bind_group(&group) };
        let sent = Instant::now();
        let stored = query.execute(&mut connection).await?.rows_affected();
        done.commits.record(sent.elapsed());
        done.operations += stored;
    }
    connection.close().await?;
    Ok(done)
}
