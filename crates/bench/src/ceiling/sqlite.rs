//! What the embedded database can do at most: one writer, prepared statements, nothing but the operations.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::postgres::Raw;
use super::rows::{Groups, StoredRow, sqlite_file};
use crate::bench::error::{BenchError, Result};
use crate::bench::place::Place;
use crate::protocol::UserId;

const INSERT: &str = "\
INSERT INTO operations (user_id, server_seq, op_id, generation, client_id, action_type, op_type, entity_type, entity_id,
    entity_ids, vector_clock, storage_bytes, client_timestamp, received_at, schema_version, is_payload_encrypted,
    sync_import_reason, repair_base_server_seq, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Durable like the store's connection. References are not checked, and checkpoints seldom: it is the ceiling.
fn open(file: &PathBuf) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA cache_size = -65536; \
         PRAGMA wal_autocheckpoint = 4000;",
    )?;
    Ok(connection)
}

/// Stores groups of `group` rows for so long.
///
/// # Errors
/// When the database fails.
pub async fn insert(place: &Place, rows: &[StoredRow], group: usize, lasts: Duration) -> Result<Raw> {
    let (file, rows) = (sqlite_file(place)?, rows.to_vec());
    let done = tokio::task::spawn_blocking(move || write(&file, &rows, group, lasts)).await;
    match done {
        Ok(done) => done.map_err(BenchError::from),
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

fn write(file: &PathBuf, rows: &[StoredRow], size: usize, lasts: Duration) -> Result<Raw, rusqlite::Error> {
    let connection = open(file)?;
    let users = connection
        .prepare("SELECT id FROM users ORDER BY id")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<Vec<UserId>, _>>()?;
    connection.execute_batch("DELETE FROM operations; PRAGMA wal_checkpoint(TRUNCATE);")?;
    let mut groups = Groups::new(rows, users, 1);
    let mut group = Vec::with_capacity(size);
    let mut done = Raw::default();
    let mut begin = connection.prepare("BEGIN IMMEDIATE")?;
    let mut insert = connection.prepare(INSERT)?;
    let mut commit = connection.prepare("COMMIT")?;
    let started = Instant::now();
    while started.elapsed() < lasts {
        groups.next(size, &mut group);
        let sent = Instant::now();
        begin.execute([])?;
        for one in &group {
            let row = one.row;
            insert.execute(params![
                one.user,
                one.seq,
                one.op_id,
                row.generation,
                row.client_id,
                row.action_type,
                row.op_type,
                row.entity_type,
                row.entity_id,
                row.entity_ids,
                row.vector_clock,
                row.storage_bytes,
                row.client_timestamp,
                row.received_at,
                row.schema_version,
                row.is_payload_encrypted,
                row.sync_import_reason,
                row.repair_base_server_seq,
                row.payload,
            ])?;
            done.operations += 1;
        }
        commit.execute([])?;
        done.commits.record(sent.elapsed());
    }
    done.lasted = started.elapsed();
    Ok(done)
}
