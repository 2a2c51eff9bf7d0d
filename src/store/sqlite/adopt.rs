//! Accounts from elsewhere, on a connection of its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, TransactionBehavior, params_from_iter};
use tokio::sync::mpsc;

use super::backup::{give_out_of, insert_sql, on_thread};
use super::{SqliteStore, open_direct, open_reader};
use crate::protocol::UserId;
use crate::store::Result;
use crate::store::adopt::{AdoptOutcome, AdoptStore, AdoptionRow, Marked, Portion, Resident, UNDER_WAY, mark};
use crate::store::error::timed;

/// Whatever there is of an account that may have no row in `users` yet. The others' rows go with that row.
const REMOVE: [&str; 6] = [
    "DELETE FROM users WHERE id = ?1",
    "DELETE FROM user_sync_state WHERE user_id = ?1",
    "DELETE FROM operations WHERE user_id = ?1",
    "DELETE FROM segments WHERE user_id = ?1",
    "DELETE FROM entity_heads WHERE user_id = ?1",
    "DELETE FROM adoptions WHERE user_id = ?1",
];

#[async_trait]
impl AdoptStore for SqliteStore {
    async fn is_adopting(&self) -> Result<bool> {
        let path = self.path.clone();
        let read = move || {
            let connection = open_reader(&path, Duration::from_secs(5))?;
            let sql = "SELECT EXISTS (SELECT 1 FROM adoptions WHERE user_id = ?1)";
            Ok(connection.query_row(sql, [UNDER_WAY], |row| row.get(0))?)
        };
        timed("is_adopting", on_thread(read)).await
    }

    async fn adoptions(&self) -> Result<(Vec<AdoptionRow>, Vec<Resident>)> {
        let path = self.path.clone();
        let read = move || {
            let mut connection = open_reader(&path, Duration::from_secs(5))?;
            let tx = connection.transaction()?;
            Ok((taken(&tx)?, residents(&tx)?))
        };
        timed("adoptions", on_thread(read)).await
    }

    async fn adopt(&self, from: mpsc::Receiver<Portion>, stored: Arc<AtomicU64>) -> Result<AdoptOutcome> {
        if self.lock.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            return Ok(AdoptOutcome::InUse);
        }
        let path = self.path.clone();
        let adopted = timed("adopt", on_thread(move || adopt(&path, from, &stored))).await;
        self.checkpointer.wake();
        adopted
    }
}

fn adopt(path: &Path, mut from: mpsc::Receiver<Portion>, stored: &AtomicU64) -> Result<AdoptOutcome> {
    let mut connection = open_direct(path, Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY;")?;
    connection.set_prepared_statement_cache_capacity(64);
    while let Some(portion) = from.blocking_recv() {
        if !portion.remove.is_empty() {
            remove(&mut connection, &portion.remove)?;
        }
        put(&mut connection, &portion)?;
        stored.fetch_add(portion.operations(), Ordering::Relaxed);
    }
    Ok(AdoptOutcome::Stored)
}

/// A transaction of its own: what refers to an account goes with it only where references are enforced, and its new
/// operations come before it. An account that is gone and not yet back is taken again by the next run.
fn remove(connection: &mut Connection, users: &[UserId]) -> Result<()> {
    connection.execute_batch("PRAGMA foreign_keys = ON")?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for sql in REMOVE {
        let mut statement = tx.prepare_cached(sql)?;
        for user in users {
            statement.execute([user])?;
        }
    }
    tx.commit()?;
    Ok(())
}

fn put(connection: &mut Connection, portion: &Portion) -> Result<()> {
    connection.execute_batch("PRAGMA foreign_keys = OFF")?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // How far they were before.
    for user in portion.adopted() {
        tx.prepare_cached("DELETE FROM adoptions WHERE user_id = ?1")?.execute([user])?;
    }
    for rows in portion.sorted() {
        let mut insert = tx.prepare_cached(&insert_sql(rows.table, &rows.columns))?;
        for row in &rows.rows {
            insert.execute(params_from_iter(row))?;
        }
    }
    if portion.numbers_up_to > 0 {
        give_out_of(&tx, "users", portion.numbers_up_to)?;
    }
    tx.commit()?;
    Ok(())
}

fn taken(connection: &Connection) -> Result<Vec<AdoptionRow>> {
    let sql = "SELECT user_id, source, account_digest, first_seq, last_seq, op_count, digest, mark, finished_at \
               FROM adoptions ORDER BY user_id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(AdoptionRow {
            user: row.get(0)?,
            source: row.get(1)?,
            account_digest: row.get(2)?,
            first_seq: row.get(3)?,
            last_seq: row.get(4)?,
            op_count: row.get(5)?,
            digest: row.get(6)?,
            mark: row.get(7)?,
            finished_at: row.get(8)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn residents(connection: &Connection) -> Result<Vec<Resident>> {
    let mut credentials: HashMap<UserId, Vec<Vec<u8>>> = HashMap::new();
    let mut statement = connection.prepare("SELECT user_id, credential_id FROM passkeys")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        credentials.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    let sql = "SELECT u.id, u.email, u.password_hash, u.is_verified, u.token_version, u.storage_quota_bytes, \
               COALESCE(s.generation, 0), COALESCE(s.last_seq, 0) \
               FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id ORDER BY u.id";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    let mut here = Vec::new();
    while let Some(row) = rows.next()? {
        let user = row.get(0)?;
        let (email, password_hash): (String, Option<String>) = (row.get(1)?, row.get(2)?);
        let marked = Marked {
            email: &email,
            password_hash: password_hash.as_deref(),
            is_verified: row.get(3)?,
            token_version: row.get(4)?,
            storage_quota_bytes: row.get(5)?,
            generation: row.get(6)?,
            last_seq: row.get(7)?,
        };
        let credentials = credentials.remove(&user).unwrap_or_default();
        here.push(Resident { user, mark: mark(&marked, &credentials), email: marked.email.to_owned(), credentials });
    }
    Ok(here)
}
