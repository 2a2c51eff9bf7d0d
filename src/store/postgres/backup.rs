//! The whole database, out and in, on a connection of its own without limits of time: a transaction that sees one
//! instant whatever is committed meanwhile, and a restore that is one transaction.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{APPLICATION, Access, PostgresStore, Session};
use crate::store::backup::{
    BackupStore, Batch, Column, Kind, LEFT_OUT, LoadOutcome, NUMBERED, Piece, Row, Snapshot, TABLES, Table, Value,
    names,
};
use crate::store::error::timed;
use crate::store::{Result, StoreError};

/// A server that has just been stopped may take a moment to be gone.
const LEAVING: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Before the rows of a binary `COPY`: signature, flags, no extension.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Rows are sent when they have come to so many bytes.
const COPY_PART: usize = 1 << 20;
/// After them.
const COPY_TAIL: &[u8] = &[0xff, 0xff];

#[async_trait]
impl BackupStore for PostgresStore {
    async fn dump(&self, to: mpsc::Sender<Piece>) -> Result<()> {
        timed("dump", async {
            let mut connection = self.apart("supersync-backup").await?;
            dump(&mut connection, &to).await?;
            connection.close().await?;
            Ok(())
        })
        .await
    }

    async fn is_in_use(&self) -> Result<bool> {
        timed("is_in_use", async {
            let mut connection = self.apart("supersync-backup").await?;
            let is_used = is_used(&mut connection).await?;
            connection.close().await?;
            Ok(is_used)
        })
        .await
    }

    async fn load(&self, from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome> {
        timed("load", async {
            // Dropped with whatever is left undone in it.
            let mut connection = self.apart("supersync-restore").await?;
            if !take_for_filling(&mut connection).await? {
                return Ok(LoadOutcome::InUse);
            }
            let outcome = load(&mut connection, from, replace).await?;
            if outcome == LoadOutcome::Loaded {
                let tables: Vec<_> = TABLES.iter().map(|table| table.name).collect();
                // Constant names.
                let sql = AssertSqlSafe(format!("ANALYZE {}", tables.join(", ")));
                // The data is there; autovacuum does it sooner or later.
                if let Err(error) = sqlx::query(sql).execute(&mut connection).await {
                    tracing::warn!(%error, "the restored tables could not be analysed");
                }
                connection.close().await?;
            }
            Ok(outcome)
        })
        .await
    }
}

impl PostgresStore {
    /// A connection for work that takes as long as it takes.
    pub(super) async fn apart(&self, name: &str) -> Result<PgConnection> {
        let session = Session {
            statement_timeout: Duration::ZERO,
            lock_timeout: Duration::from_secs(10),
            ..self.session.clone()
        };
        let mut connection = self.direct.connect(&session, Access::Writes).await?.connection;
        sqlx::query("SELECT set_config('application_name', $1, false)").bind(name).execute(&mut connection).await?;
        Ok(connection)
    }
}

/// Whoever holds this lock fills the database from elsewhere.
const FILLS: &str = "SELECT pg_try_advisory_lock(1937075313, hashtext(current_schema()))";
const IS_FILLED: &str = "SELECT NOT pg_try_advisory_xact_lock_shared(1937075313, hashtext(current_schema()))";

impl PostgresStore {
    /// Refuses a database that is being filled by an import or a restore. Who begins to fill it at the same moment sees
    /// this session or those that follow, and stops.
    ///
    /// # Errors
    /// [`StoreError::Refused`], or what kept it from asking.
    pub async fn refuse_while_filled(&self) -> Result<()> {
        let mut connection = self.apart(APPLICATION).await?;
        let is_filled: bool = sqlx::query_scalar(IS_FILLED).fetch_one(&mut connection).await?;
        connection.close().await?;
        if is_filled {
            return Err(StoreError::Refused(
                "an import or a restore is filling the database; start again when it has ended".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Takes the database for filling it, for as long as the session lasts. `false`: somebody else works on it.
pub(super) async fn take_for_filling(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar(FILLS).fetch_one(&mut *connection).await? && !is_used(connection).await?)
}

/// Whether a server or a command has a session.
pub(super) async fn is_used(connection: &mut PgConnection) -> Result<bool> {
    let until = Instant::now() + LEAVING;
    loop {
        let sessions: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        )
        .bind(APPLICATION)
        .fetch_one(&mut *connection)
        .await?;
        if sessions == 0 || Instant::now() >= until {
            return Ok(sessions > 0);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn dump(connection: &mut PgConnection, to: &mpsc::Sender<Piece>) -> Result<()> {
    let mut tx = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let row = sqlx::query(
        "SELECT (extract(epoch FROM now()) * 1000)::bigint, \
         (SELECT COALESCE(sum(GREATEST(reltuples, 0)), 0)::bigint FROM pg_class WHERE oid = ANY($1::regclass[]::oid[]))",
    )
    .bind(["operations", "segments", "entity_heads"].as_slice())
    .fetch_one(&mut *tx)
    .await?;
    let (taken_at_ms, about): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let mut numbers = Vec::new();
    for table in NUMBERED {
        // Not part of any transaction: read after the instant, it is above every number seen at the instant.
        let sql = "SELECT COALESCE(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), 0)";
        numbers.push(sqlx::query_scalar(sql).bind(*table).fetch_one(&mut *tx).await?);
    }
    let snapshot = Snapshot { taken_at_ms, numbers, approximate_rows: u64::try_from(about).unwrap_or(0) };
    if to.send(Piece::Begin(snapshot)).await.is_err() {
        return Ok(());
    }
    for table in TABLES {
        if to.send(Piece::Table(table, table.columns.iter().collect())).await.is_err() {
            return Ok(());
        }
        // Constant names.
        let sql = format!("SELECT {} FROM {} ORDER BY {}", names(table.columns.iter()), table.name, table.key_list());
        let mut rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut *tx);
        let mut batch = Batch::default();
        while let Some(row) = rows.try_next().await? {
            let values: Result<Row> =
                table.columns.iter().enumerate().map(|(at, column)| value(&row, at, column)).collect();
            if let Some(full) = batch.add(values?)
                && to.send(full).await.is_err()
            {
                return Ok(());
            }
        }
        if let Some(rest) = batch.rest()
            && to.send(rest).await.is_err()
        {
            return Ok(());
        }
    }
    tx.commit().await?;
    // If nobody wants it, nobody misses it.
    to.send(Piece::End).await.ok();
    Ok(())
}

pub(super) fn value(row: &PgRow, at: usize, column: &Column) -> Result<Value> {
    let value = match column.kind {
        Kind::Small => row.try_get::<Option<i16>, _>(at)?.map(|number| Value::Int(number.into())),
        Kind::Int => row.try_get::<Option<i32>, _>(at)?.map(|number| Value::Int(number.into())),
        Kind::Big => row.try_get::<Option<i64>, _>(at)?.map(Value::Int),
        Kind::Bool => row.try_get::<Option<bool>, _>(at)?.map(Value::Bool),
        Kind::Text => row.try_get::<Option<String>, _>(at)?.map(Value::Text),
        Kind::Bytes => row.try_get::<Option<Vec<u8>>, _>(at)?.map(Value::Bytes),
    };
    Ok(value.unwrap_or(Value::Null))
}

async fn load(connection: &mut PgConnection, mut from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome> {
    let mut tx = connection.begin().await?;
    let all: Vec<_> = TABLES.iter().map(|table| table.name).chain(LEFT_OUT.iter().copied()).collect();
    let all = all.join(", ");
    // Constant names. Whoever starts now waits until it is done.
    sqlx::query(AssertSqlSafe(format!("LOCK TABLE {all} IN ACCESS EXCLUSIVE MODE"))).execute(&mut *tx).await?;
    let accounts: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&mut *tx).await?;
    if accounts > 0 && !replace {
        return Ok(LoadOutcome::NotEmpty { accounts });
    }
    sqlx::query(AssertSqlSafe(format!("TRUNCATE {all}"))).execute(&mut *tx).await?;
    let mut numbers = Vec::new();
    let mut next = from.recv().await;
    loop {
        next = match next {
            None => return Ok(LoadOutcome::Abandoned),
            Some(Piece::End) => break,
            Some(Piece::Begin(snapshot)) => {
                numbers = snapshot.numbers;
                from.recv().await
            }
            Some(Piece::Table(table, columns)) => copy(&mut tx, table, &columns, &mut from).await?,
            Some(Piece::Rows(_)) => return Err(StoreError::Corrupt("rows of no table".to_owned())),
        };
    }
    for (table, number) in NUMBERED.iter().zip(numbers) {
        let sql = "SELECT setval(s, GREATEST($2, COALESCE(pg_sequence_last_value(s), 0))) \
                   FROM (SELECT pg_get_serial_sequence($1, 'id')::regclass AS s) AS numbers WHERE $2 > 0";
        sqlx::query(sql).bind(*table).bind(number).execute(&mut *tx).await?;
    }
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(LoadOutcome::Loaded)
}

/// Adds rows to a table.
pub(super) async fn copy_rows(
    connection: &mut PgConnection,
    table: &Table,
    columns: &[&Column],
    rows: &[Row],
) -> Result<()> {
    let sql = copy_sql(table, columns);
    let mut copy = connection.copy_in_raw(&sql).await?;
    let mut tuples = COPY_HEAD.to_vec();
    for row in rows {
        put_tuple(&mut tuples, columns, row)?;
        if tuples.len() >= COPY_PART {
            copy.send(std::mem::take(&mut tuples)).await?;
        }
    }
    tuples.extend(COPY_TAIL);
    copy.send(tuples).await?;
    copy.finish().await?;
    Ok(())
}

fn copy_sql(table: &Table, columns: &[&Column]) -> String {
    let columns = names(columns.iter().copied());
    format!("COPY {} ({columns}) FROM STDIN (FORMAT binary)", table.name)
}

/// Fills a table. Gives back what came after its rows.
async fn copy(
    connection: &mut PgConnection,
    table: &Table,
    columns: &[&Column],
    from: &mut mpsc::Receiver<Piece>,
) -> Result<Option<Piece>> {
    let sql = copy_sql(table, columns);
    let mut copy = connection.copy_in_raw(&sql).await?;
    copy.send(COPY_HEAD).await?;
    let next = loop {
        match from.recv().await {
            Some(Piece::Rows(rows)) => {
                let mut tuples = Vec::new();
                for row in &rows {
                    put_tuple(&mut tuples, columns, row)?;
                }
                copy.send(tuples).await?;
            }
            next => break next,
        }
    };
    copy.send(COPY_TAIL).await?;
    copy.finish().await?;
    Ok(next)
}

fn put_tuple(out: &mut Vec<u8>, columns: &[&Column], row: &Row) -> Result<()> {
    let too_large = |_| StoreError::Corrupt("a value is too large".to_owned());
    out.extend(i16::try_from(row.len()).map_err(too_large)?.to_be_bytes());
    for (column, value) in columns.iter().zip(row) {
        let mut put = |bytes: &[u8]| {
            out.extend(i32::try_from(bytes.len()).map_err(too_large)?.to_be_bytes());
            out.extend(bytes);
            Ok::<_, StoreError>(())
        };
        match (value, column.kind) {
            (Value::Null, _) => out.extend((-1_i32).to_be_bytes()),
            (Value::Int(number), Kind::Small) => put(&i16::try_from(*number).map_err(too_large)?.to_be_bytes())?,
            (Value::Int(number), Kind::Int) => put(&i32::try_from(*number).map_err(too_large)?.to_be_bytes())?,
            (Value::Int(number), _) => put(&number.to_be_bytes())?,
            (Value::Bool(yes), _) => put(&[u8::from(*yes)])?,
            (Value::Text(text), _) => put(text.as_bytes())?,
            (Value::Bytes(bytes), _) => put(bytes)?,
        }
    }
    Ok(())
}
