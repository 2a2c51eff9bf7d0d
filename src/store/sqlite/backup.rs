//! The whole database, out and in, on connections of its own: a read transaction sees one instant whatever is committed
//! meanwhile, and a restore is one transaction.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, TransactionBehavior, params_from_iter};
use tokio::sync::mpsc;

use super::payload::payload;
use super::{SqliteStore, open_direct, open_reader};
use crate::store::backup::{
    BackupStore, Batch, Column, Kind, LEFT_OUT, LoadOutcome, NUMBERED, Piece, Row, Snapshot, TABLES, Table, Value,
    names,
};
use crate::store::error::timed;
use crate::store::{Result, StoreError};

const NOW: &str = "SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)";
/// The largest tables; the others hardly count. Rows are seldom deleted from the middle, so their numbers say how many
/// there are.
const ABOUT: &str =
    "SELECT COALESCE((SELECT max(rowid) FROM operations), 0) + COALESCE((SELECT max(rowid) FROM segments), 0)";
const GIVEN_OUT: &str = "SELECT COALESCE(max(seq), 0) FROM sqlite_sequence WHERE name = ?1";

/// Nobody takes what is handed over any more.
struct Unwanted;

#[async_trait]
impl BackupStore for SqliteStore {
    async fn dump(&self, to: mpsc::Sender<Piece>) -> Result<()> {
        let path = self.path.clone();
        timed("dump", on_thread(move || dump(&path, &to))).await
    }

    async fn is_in_use(&self) -> Result<bool> {
        // Whoever works on it first has the lock.
        Ok(self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_none())
    }

    async fn load(&self, from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome> {
        if self.is_in_use().await? {
            return Ok(LoadOutcome::InUse);
        }
        let path: PathBuf = self.path.clone();
        let loaded = timed("load", on_thread(move || load(&path, from, replace))).await;
        self.checkpointer.wake();
        loaded
    }
}

pub(super) async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err(StoreError::Unknown(sqlx::Error::WorkerCrashed)))
}

fn dump(path: &Path, to: &mpsc::Sender<Piece>) -> Result<()> {
    let mut connection = open_reader(path, Duration::from_secs(5))?;
    let tx = connection.transaction()?;
    let mut numbers = Vec::new();
    for table in NUMBERED {
        numbers.push(tx.query_row(GIVEN_OUT, [table], |row| row.get(0))?);
    }
    let about: i64 = tx.query_row(ABOUT, [], |row| row.get(0))?;
    let snapshot = Snapshot {
        taken_at_ms: tx.query_row(NOW, [], |row| row.get(0))?,
        numbers,
        approximate_rows: u64::try_from(about).unwrap_or(0),
    };
    let send = |piece| to.blocking_send(piece).map_err(|_| Unwanted);
    if send(Piece::Begin(snapshot)).is_err() {
        return Ok(());
    }
    for table in TABLES {
        let columns: Vec<_> = table.columns.iter().collect();
        let mut statement = tx.prepare(&select(table, &columns))?;
        if send(Piece::Table(table, columns)).is_err() {
            return Ok(());
        }
        let mut rows = statement.query([])?;
        let mut batch = Batch::default();
        while let Some(row) = rows.next()? {
            let values: Result<Row> =
                table.columns.iter().enumerate().map(|(at, column)| value(row.get_ref(at)?, column)).collect();
            if batch.add(values?).is_some_and(|full| send(full).is_err()) {
                return Ok(());
            }
        }
        if batch.rest().is_some_and(|rest| send(rest).is_err()) {
            return Ok(());
        }
    }
    // If nobody wants it, nobody misses it.
    send(Piece::End).ok();
    Ok(())
}

/// Reads these columns of a table, in the order of its key.
pub(super) fn select(table: &Table, columns: &[&Column]) -> String {
    let column = |column: &&Column| match (table.name, column.name) {
        ("operations", "payload") => payload!(),
        (_, name) => name,
    };
    let columns: Vec<_> = columns.iter().map(column).collect();
    format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), table.name, table.key_list())
}

pub(super) fn value(stored: ValueRef<'_>, column: &Column) -> Result<Value> {
    match (stored, column.kind) {
        (ValueRef::Null, _) if column.nullable => Ok(Value::Null),
        (ValueRef::Integer(number), Kind::Bool) => Ok(Value::Bool(number != 0)),
        (ValueRef::Integer(number), Kind::Small | Kind::Int | Kind::Big) => Ok(Value::Int(number)),
        (ValueRef::Text(text), Kind::Text) => match std::str::from_utf8(text) {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(StoreError::Corrupt(format!("{} holds text that is none", column.name))),
        },
        (ValueRef::Blob(bytes), Kind::Bytes) => Ok(Value::Bytes(bytes.to_vec())),
        _ => Err(StoreError::Corrupt(format!("{} holds something else than it should", column.name))),
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Bool(yes) => ValueRef::Integer(i64::from(*yes)),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn load(path: &Path, mut from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome> {
    let mut connection = open_direct(path, Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY; PRAGMA foreign_keys = ON;")?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let accounts: i64 = tx.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
    if accounts > 0 && !replace {
        return Ok(LoadOutcome::NotEmpty { accounts });
    }
    clear(&tx)?;
    let mut statement = None;
    loop {
        match from.blocking_recv() {
            None => return Ok(LoadOutcome::Abandoned),
            Some(Piece::End) => break,
            Some(Piece::Begin(snapshot)) => give_out_above(&tx, &snapshot)?,
            Some(Piece::Table(table, columns)) => {
                statement = Some(tx.prepare(&insert_sql(table, &columns))?);
            }
            Some(Piece::Rows(rows)) => {
                let insert = statement.as_mut().ok_or_else(|| StoreError::Corrupt("rows of no table".to_owned()))?;
                for row in rows {
                    insert.execute(params_from_iter(row))?;
                }
            }
        }
    }
    drop(statement);
    tx.commit()?;
    Ok(LoadOutcome::Loaded)
}

/// Adds a row with these columns.
pub(super) fn insert_sql(table: &Table, columns: &[&Column]) -> String {
    let places = vec!["?"; columns.len()].join(", ");
    let list = names(columns.iter().copied());
    format!("INSERT INTO {} ({list}) VALUES ({places})", table.name)
}

/// Deletes everything. What refers to something goes before it; what deletions leave behind (parts of payloads,
/// announcements) goes last.
fn clear(connection: &Connection) -> Result<()> {
    let tables = TABLES.iter().rev().map(|table| table.name);
    for table in tables.chain(["payload_parts"]).chain(LEFT_OUT.iter().copied()) {
        connection.execute(&format!("DELETE FROM {table}"), [])?;
    }
    Ok(())
}

/// No number is given out again that was given out here or there.
fn give_out_above(connection: &Connection, snapshot: &Snapshot) -> Result<()> {
    for (table, number) in NUMBERED.iter().zip(&snapshot.numbers) {
        give_out_of(connection, table, *number)?;
    }
    Ok(())
}

/// The table gives out no number up to this one.
pub(super) fn give_out_of(connection: &Connection, table: &str, above: i64) -> Result<()> {
    let here: i64 = connection.query_row(GIVEN_OUT, [table], |row| row.get(0))?;
    connection.execute("DELETE FROM sqlite_sequence WHERE name = ?1", [table])?;
    let sql = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
    connection.execute(sql, rusqlite::params![table, here.max(above)])?;
    Ok(())
}
