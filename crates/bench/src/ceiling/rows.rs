//! Rows for the raw limits: what the server itself stored for real uploads, written again under other ids.

use sqlx::{Connection as _, PgConnection, Row as _, SqliteConnection};

use crate::bench::Bench;
use crate::bench::device::now_ms;
use crate::bench::error::{BenchError, Result};
use crate::bench::fleet;
use crate::bench::place::Place;
use crate::bench::random::Random;
use crate::protocol::{Seq, UserId};

/// Devices whose uploads are copied, and operations of each.
const DEVICES: usize = 20;
const OPS: usize = 100;
/// Operations of one account that follow each other in a group, as when it uploads them together.
pub const RUN: usize = 20;

/// The columns of an operation that say nothing about whose it is.
pub const COLUMNS: &str = "generation, client_id, action_type, op_type, entity_type, entity_id, entity_ids, vector_clock, \
     storage_bytes, client_timestamp, received_at, schema_version, is_payload_encrypted, sync_import_reason, \
     repair_base_server_seq, payload";

/// An operation as it was stored, without whose it is.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // the columns of the table `operations`
pub struct StoredRow {
    pub generation: i64,
    pub client_id: String,
    pub action_type: String,
    pub op_type: String,
    pub entity_type: String,
    pub entity_id: Option<String>,
    pub entity_ids: Option<String>,
    pub vector_clock: String,
    pub storage_bytes: i64,
    pub client_timestamp: i64,
    pub received_at: i64,
    pub schema_version: i16,
    pub is_payload_encrypted: bool,
    pub sync_import_reason: Option<String>,
    pub repair_base_server_seq: Option<i64>,
    pub payload: Vec<u8>,
}

macro_rules! stored_row {
    ($row:expr) => {{
        let row = $row;
        Ok::<_, sqlx::Error>(StoredRow {
            generation: row.try_get(0)?,
            client_id: row.try_get(1)?,
            action_type: row.try_get(2)?,
            op_type: row.try_get(3)?,
            entity_type: row.try_get(4)?,
            entity_id: row.try_get(5)?,
            entity_ids: row.try_get(6)?,
            vector_clock: row.try_get(7)?,
            storage_bytes: row.try_get(8)?,
            client_timestamp: row.try_get(9)?,
            received_at: row.try_get(10)?,
            schema_version: row.try_get(11)?,
            is_payload_encrypted: row.try_get(12)?,
            sync_import_reason: row.try_get(13)?,
            repair_base_server_seq: row.try_get(14)?,
            payload: row.try_get(15)?,
        })
    }};
}

/// Lets a few devices upload to a server and reads what it stored.
///
/// # Errors
/// When the server or the database fails.
pub async fn sample(bench: &Bench, payload_bytes: usize) -> Result<Vec<StoredRow>> {
    let session = bench.session(DEVICES).await?;
    let devices = session.devices(0, payload_bytes).await?;
    fleet::fill(&session, devices, OPS, 4).await?;
    let place =
        session.place().ok_or_else(|| BenchError::Options("a raw limit needs a database of its own".to_owned()))?;
    let rows = stored(place).await?;
    session.close().await?;
    if rows.is_empty() {
        return Err(BenchError::Answer("the server stored no row".to_owned()));
    }
    Ok(rows)
}

async fn stored(place: &Place) -> Result<Vec<StoredRow>> {
    let sql = format!("SELECT {COLUMNS} FROM operations ORDER BY user_id, server_seq");
    let query = sqlx::AssertSqlSafe(sql);
    if let Some(url) = place.postgres_url() {
        let mut connection = PgConnection::connect(&url).await?;
        let rows = sqlx::query(query).fetch_all(&mut connection).await?;
        connection.close().await?;
        return Ok(rows.iter().map(|row| stored_row!(row)).collect::<Result<_, _>>()?);
    }
    let mut connection = open_sqlite(place).await?;
    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows.iter().map(|row| stored_row!(row)).collect::<Result<_, _>>()?)
}

/// A connection to the scratch file through the driver of everything else here.
///
/// # Errors
/// When there is none, or it can't be opened.
pub async fn open_sqlite(place: &Place) -> Result<SqliteConnection> {
    let file = sqlite_file(place)?;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// The embedded database's file.
///
/// # Errors
/// When the place is on PostgreSQL.
pub fn sqlite_file(place: &Place) -> Result<std::path::PathBuf> {
    place.sqlite_file().ok_or_else(|| BenchError::Options("not an embedded database".to_owned()))
}

/// A row of an account, to be written.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewRow<'a> {
    pub user: UserId,
    pub seq: Seq,
    pub op_id: String,
    pub row: &'a StoredRow,
}

/// Groups of rows for the accounts of one writer: runs of [`RUN`] operations of one account after the other, accounts in
/// random order.
#[derive(Debug)]
pub struct Groups<'a> {
    rows: &'a [StoredRow],
    accounts: Vec<(UserId, Seq)>,
    random: Random,
    next_row: usize,
}

impl<'a> Groups<'a> {
    /// For these accounts, whose logs are empty.
    pub fn new(rows: &'a [StoredRow], users: impl IntoIterator<Item = UserId>, seed: u64) -> Self {
        let accounts = users.into_iter().map(|user| (user, 0)).collect();
        Self { rows, accounts, random: Random::new(seed), next_row: 0 }
    }

    /// The next `size` rows, into `group`.
    pub fn next(&mut self, size: usize, group: &mut Vec<NewRow<'a>>) {
        group.clear();
        let mut which = 0;
        for n in 0..size {
            if n % RUN == 0 {
                which = self.random.below(self.accounts.len());
            }
            let (user, seq) = &mut self.accounts[which];
            *seq += 1;
            let op_id = op_id(&mut self.random);
            group.push(NewRow { user: *user, seq: *seq, op_id, row: &self.rows[self.next_row] });
            self.next_row = (self.next_row + 1) % self.rows.len();
        }
    }
}

/// A UUID of version 7, as the app names operations.
fn op_id(random: &mut Random) -> String {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&random.bits().to_le_bytes());
    bytes[8..].copy_from_slice(&random.bits().to_le_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(now_ms(), &bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    pub(in crate::bench::ceiling) fn row() -> StoredRow {
        StoredRow {
            generation: 0,
            client_id: "B_abcdef".to_owned(),
            action_type: "[Task Shared] addTask".to_owned(),
            op_type: "CRT".to_owned(),
            entity_type: "TASK".to_owned(),
            entity_id: Some("e".to_owned()),
            entity_ids: None,
            vector_clock: "{\"B_abcdef\":1}".to_owned(),
            storage_bytes: 30,
            client_timestamp: 1,
            received_at: 1,
            schema_version: 4,
            is_payload_encrypted: false,
            sync_import_reason: None,
            repair_base_server_seq: None,
            payload: b"{}".to_vec(),
        }
    }

    #[test]
    fn logs_have_no_holes_and_ids_are_unique() {
        let rows = [row(), row()];
        let mut groups = Groups::new(&rows, 1..=5, 1);
        let (mut last, mut ids, mut group) = ([0; 6], HashSet::new(), Vec::new());
        for _ in 0..10 {
            groups.next(50, &mut group);
            assert_eq!(group.len(), 50);
            assert!(group.chunks(RUN).all(|run| run.iter().all(|one| one.user == run[0].user)));
            for one in &group {
                let last = &mut last[usize::try_from(one.user).unwrap()];
                *last += 1;
                assert_eq!(one.seq, *last);
                assert!(ids.insert(one.op_id.clone()));
            }
        }
        assert_eq!(last.iter().sum::<i64>(), 500);
    }
}
