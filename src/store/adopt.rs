//! Taking over accounts that another server kept: their rows, in portions, each of which is stored whole or not at all.
//!
//! Owns the progress of such an import (table `adoptions`) and how accounts that were taken become rows. An account's
//! last portion makes it visible: until then it has no row in `users`, only operations that nobody can ask for, and an
//! adoption that is not finished. What is derived from the log (state row, heads) is derived as everywhere else
//! (`rebuild`).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::backup::{self, Column, Kind, Row, Table, Value};
use super::rebuild::{OpTrace, Rebuilding};
use super::row::entity_ids_text;
use super::{EntityHead, EntityKey, Result, SnapshotMeta, SyncState, heads};
use crate::protocol::{Seq, StoredOp, UserId, VectorClock};

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, nullable: false, since: 6 }
}

/// The progress, as a table that rows can be written to. Not part of a backup: a restored database is no longer half
/// taken over.
pub static ADOPTIONS: Table = Table {
    name: "adoptions",
    key: 1,
    columns: &[
        column("user_id", Kind::Big),
        column("source", Kind::Text),
        column("account_digest", Kind::Text),
        column("first_seq", Kind::Big),
        column("last_seq", Kind::Big),
        column("op_count", Kind::Big),
        column("digest", Kind::Text),
        column("mark", Kind::Text),
        Column { nullable: true, ..column("finished_at", Kind::Big) },
    ],
};

/// How far an account has been taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptionRow {
    /// The account; it keeps its number.
    pub user: UserId,
    /// What it was taken from.
    pub source: String,
    /// A digest of the source's account without its operations.
    pub account_digest: String,
    /// The first sequence that the source had, 0 if it had none.
    pub first_seq: Seq,
    /// The last one.
    pub last_seq: Seq,
    /// How many operations the source had.
    pub op_count: i64,
    /// A digest of the operations that were taken.
    pub digest: String,
    /// What the account looked like when it was written here ([`mark`]).
    pub mark: String,
    /// When it was complete, Unix milliseconds. `None`: it is not.
    pub finished_at: Option<i64>,
}

impl AdoptionRow {
    /// Says that an import from `source` is under way. It stands there until the import is complete, so that no server
    /// serves a part of the accounts and sends the devices of the others away.
    #[must_use]
    pub fn under_way(source: &str) -> Self {
        Self {
            user: UNDER_WAY,
            source: source.to_owned(),
            account_digest: String::new(),
            first_seq: 0,
            last_seq: 0,
            op_count: 0,
            digest: String::new(),
            mark: String::new(),
            finished_at: None,
        }
    }
}

/// Sentinel account number that marks a running import.
pub const UNDER_WAY: UserId = 0;

/// An account that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Its number.
    pub user: UserId,
    /// Its address, in lower case.
    pub email: String,
    /// The ids of its passkeys.
    pub credentials: Vec<Vec<u8>>,
    /// What it looks like now ([`mark`]).
    pub mark: String,
}

/// What decides whether an account is as it was.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Marked<'a> {
    pub email: &'a str,
    pub password_hash: Option<&'a str>,
    pub is_verified: bool,
    pub token_version: i64,
    pub storage_quota_bytes: i64,
    pub generation: i64,
    pub last_seq: Seq,
}

/// A digest of an account's standing: changed by whatever its user does here, but not by housekeeping. `credentials` are
/// its passkeys' ids in any order.
#[must_use]
pub fn mark(account: &Marked<'_>, credentials: &[Vec<u8>]) -> String {
    let mut digest = Sha256::new();
    let mut text = |text: &[u8]| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    text(account.email.as_bytes());
    text(account.password_hash.unwrap_or_default().as_bytes());
    let mut credentials: Vec<_> = credentials.iter().collect();
    credentials.sort_unstable();
    for credential in credentials {
        text(credential);
    }
    for number in [
        i64::from(account.is_verified),
        account.token_version,
        account.storage_quota_bytes,
        account.generation,
        account.last_seq,
    ] {
        digest.update(number.to_le_bytes());
    }
    hex::encode(digest.finalize())
}

/// Rows of a table.
#[derive(Debug)]
pub struct Rows {
    /// The table.
    pub table: &'static Table,
    /// Which of its columns the rows have; the database fills in the others.
    pub columns: Vec<&'static Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// What is written in one transaction.
#[derive(Debug, Default)]
pub struct Portion {
    /// Accounts, or what there is of them, that are deleted first.
    pub remove: Vec<UserId>,
    /// What is written, in this order.
    pub rows: Vec<Rows>,
    /// No account made later gets a number up to this one.
    pub numbers_up_to: UserId,
}

impl Portion {
    /// Adds a row of some columns of a table of [`backup::TABLES`] or of [`ADOPTIONS`]. Rows of one table in one portion
    /// have the same columns.
    pub fn put(&mut self, table: &'static Table, row: Vec<(&str, Value)>) {
        let at = self.rows.iter().position(|rows| rows.table.name == table.name);
        let at = at.unwrap_or_else(|| {
            let named = |name: &str| table.columns.iter().find(|column| column.name == name);
            let columns = row.iter().filter_map(|(name, _)| named(name)).collect();
            self.rows.push(Rows { table, columns, rows: Vec::new() });
            self.rows.len() - 1
        });
        self.rows[at].rows.push(row.into_iter().map(|(_, value)| value).collect());
    }

    /// The same for a row of the table with this name.
    pub fn put_into(&mut self, table: &str, row: Vec<(&str, Value)>) {
        if let Some(table) = backup::table(table) {
            self.put(table, row);
        }
    }

    /// How many operations it brings.
    #[must_use]
    pub fn operations(&self) -> u64 {
        let operations = self.rows.iter().filter(|rows| rows.table.name == "operations");
        operations.map(|rows| rows.rows.len() as u64).sum()
    }

    /// How many rows it brings.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.iter().map(|rows| rows.rows.len() as u64).sum()
    }

    /// Adds what another one does.
    pub fn append(&mut self, other: Self) {
        self.remove.extend(other.remove);
        self.numbers_up_to = self.numbers_up_to.max(other.numbers_up_to);
        for rows in other.rows {
            match self.rows.iter_mut().find(|known| known.table.name == rows.table.name) {
                Some(known) => known.rows.extend(rows.rows),
                None => self.rows.push(rows),
            }
        }
    }

    /// The accounts of whose adoption it says how far it is.
    pub(super) fn adopted(&self) -> Vec<UserId> {
        let adoptions = self.rows.iter().filter(|rows| rows.table.name == ADOPTIONS.name).flat_map(|rows| &rows.rows);
        adoptions.filter_map(|row| if let Some(Value::Int(user)) = row.first() { Some(*user) } else { None }).collect()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.rows.is_empty() && self.numbers_up_to == 0
    }

    /// Its rows with what they refer to before them.
    pub(super) fn sorted(&self) -> Vec<&Rows> {
        let place = |rows: &&Rows| backup::TABLES.iter().position(|table| table.name == rows.table.name);
        let mut sorted: Vec<_> = self.rows.iter().collect();
        // What is not in the list refers to nothing.
        sorted.sort_by_key(place);
        sorted
    }

    /// Adds the progress of an account.
    pub fn put_adoption(&mut self, row: &AdoptionRow) {
        self.put(
            &ADOPTIONS,
            vec![
                ("user_id", Value::Int(row.user)),
                ("source", Value::Text(row.source.clone())),
                ("account_digest", Value::Text(row.account_digest.clone())),
                ("first_seq", Value::Int(row.first_seq)),
                ("last_seq", Value::Int(row.last_seq)),
                ("op_count", Value::Int(row.op_count)),
                ("digest", Value::Text(row.digest.clone())),
                ("mark", Value::Text(row.mark.clone())),
                ("finished_at", row.finished_at.map_or(Value::Null, Value::Int)),
            ],
        );
    }

    /// Adds an operation of the first generation.
    pub fn put_op(&mut self, user: UserId, op: &StoredOp) {
        let text = |text: &str| Value::Text(text.to_owned());
        let or_null = |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
        self.put_into(
            "operations",
            vec![
                ("user_id", Value::Int(user)),
                ("server_seq", Value::Int(op.server_seq)),
                ("generation", Value::Int(0)),
                ("storage_bytes", Value::Int(op.storage_bytes)),
                ("client_timestamp", Value::Int(op.timestamp)),
                ("received_at", Value::Int(op.received_at)),
                ("repair_base_server_seq", op.repair_base_server_seq.map_or(Value::Null, Value::Int)),
                ("schema_version", Value::Int(op.schema_version.into())),
                ("is_payload_encrypted", Value::Bool(op.is_payload_encrypted)),
                ("op_id", text(&op.id)),
                ("client_id", text(&op.client_id)),
                ("action_type", text(&op.action_type)),
                ("op_type", text(op.op_type.as_str())),
                ("entity_type", text(op.entity_type)),
                ("entity_id", or_null(op.entity_id.as_deref())),
                ("entity_ids", or_null(entity_ids_text(&op.entity_ids).as_deref())),
                ("sync_import_reason", or_null(op.import_reason.map(crate::protocol::ImportReason::as_str))),
                ("vector_clock", text(op.vector_clock.as_json())),
                ("payload", Value::Bytes(op.payload.to_vec())),
            ],
        );
    }

    /// Adds a cached state: JSON, compressed with gzip.
    pub fn put_snapshot(&mut self, user: UserId, schema_version: i64, data: Vec<u8>) {
        self.put_into(
            "user_snapshots",
            vec![
                ("user_id", Value::Int(user)),
                ("schema_version", Value::Int(schema_version)),
                ("data", Value::Bytes(data)),
            ],
        );
    }

    /// Adds what an account's log comes to.
    pub fn put_log(&mut self, user: UserId, log: Log) -> SyncState {
        let (state, heads) = log.done();
        let optional = |number: Option<i64>| number.map_or(Value::Null, Value::Int);
        let mark = state.full_state.as_ref();
        let text = |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
        self.put_into(
            "user_sync_state",
            vec![
                ("user_id", Value::Int(user)),
                ("revision", Value::Int(state.revision)),
                ("generation", Value::Int(state.generation)),
                ("base_seq", Value::Int(state.base_seq)),
                ("pruned_seq", Value::Int(state.pruned_seq)),
                ("last_seq", Value::Int(state.last_seq)),
                ("vector_clock", Value::Text(state.clock.as_json().to_owned())),
                ("full_state_seq", optional(mark.map(|mark| mark.seq))),
                ("full_state_client_id", text(mark.map(|mark| &*mark.client_id))),
                ("full_state_clock", text(mark.map(|mark| mark.clock.as_json()))),
                ("replacement_seq", optional(state.replacement_seq)),
                ("storage_used_bytes", Value::Int(state.storage_used_bytes)),
                ("snapshot_seq", optional(state.snapshot.map(|snapshot| snapshot.seq))),
                ("snapshot_at", optional(state.snapshot.map(|snapshot| snapshot.at))),
                ("snapshot_bytes", optional(state.snapshot.map(|snapshot| snapshot.bytes))),
                ("heads_seq", Value::Int(state.heads_seq)),
                ("sealed_seq", Value::Int(state.sealed_seq)),
                ("sparse_up_to", Value::Int(state.sparse_up_to)),
            ],
        );
        let heads: Vec<_> = heads.collect();
        for row in heads::rows(heads.iter().map(|(key, head)| (key, head))) {
            self.put_into(
                "entity_heads",
                vec![
                    ("user_id", Value::Int(user)),
                    ("entity_key", Value::Bytes(row.key.as_bytes().to_vec())),
                    ("server_seq", Value::Int(row.seq)),
                    ("is_time_delta", Value::Bool(row.is_time_delta)),
                    ("client_id", Value::Text(row.client_id.to_owned())),
                    ("vector_clock", Value::Text(row.clock.to_owned())),
                ],
            );
        }
        state
    }
}

/// What an account's log comes to, gathered operation by operation. Memory: a head for each entity.
#[derive(Debug)]
pub struct Log {
    rebuilding: Rebuilding,
    /// The last number that was given out.
    end: Seq,
    /// The last number that belongs to no operation, of those that were given out after what is not there.
    sparse_up_to: Seq,
    /// How many such numbers there are.
    unused: i64,
    snapshot: Option<SnapshotMeta>,
}

impl Log {
    /// A log of which nothing up to `pruned` is there. If there is nothing above it either, it ends there.
    #[must_use]
    pub fn after(pruned: Seq, is_empty: bool) -> Self {
        let base_seq = if is_empty { pruned } else { 0 };
        let start =
            SyncState { base_seq, pruned_seq: pruned, last_seq: pruned, sealed_seq: pruned, ..SyncState::default() };
        Self { rebuilding: Rebuilding::of(&start), end: pruned, sparse_up_to: 0, unused: 0, snapshot: None }
    }

    /// Takes account of the next operation.
    pub fn add(&mut self, op: &StoredOp) {
        self.skip_to(op.server_seq - 1);
        self.end = op.server_seq;
        self.rebuilding.add(&OpTrace::from(op.clone()));
    }

    /// Numbers up to this one have been given out, whether there are operations with them or not.
    pub fn skip_to(&mut self, seq: Seq) {
        if seq > self.end {
            self.unused += seq - self.end;
            self.sparse_up_to = seq;
            self.end = seq;
        }
    }

    /// The newest causal full state, which was operation `seq`, also covers what this clock says: more than what is left of
    /// the log tells.
    pub fn covers(&mut self, seq: Seq, clock: &VectorClock) {
        self.rebuilding.covers(seq, clock);
    }

    /// A cached state that stands for what is not there any more.
    pub fn start_from(&mut self, snapshot: SnapshotMeta) {
        self.snapshot = Some(snapshot);
    }

    /// How many numbers belong to no operation.
    #[must_use]
    pub const fn unused(&self) -> i64 {
        self.unused
    }

    fn done(self) -> (SyncState, impl Iterator<Item = (EntityKey, EntityHead)>) {
        let (state, heads) = self.rebuilding.done();
        let snapshot = self.snapshot;
        let state = SyncState {
            last_seq: self.end,
            heads_seq: self.end,
            sparse_up_to: self.sparse_up_to,
            storage_used_bytes: state.storage_used_bytes + snapshot.map_or(0, |snapshot| snapshot.bytes),
            snapshot,
            ..state
        };
        (state, heads)
    }
}

/// What became of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptOutcome {
    /// Every portion is stored.
    Stored,
    /// A server or a command works on the database. Portions before that are stored, later ones are not.
    InUse,
}

/// Accounts from elsewhere.
#[async_trait]
pub trait AdoptStore: Send + Sync + 'static {
    /// Whether an import is under way, or was broken off and has not been completed.
    async fn is_adopting(&self) -> Result<bool>;

    /// What has been taken over, by account, and the accounts that are here, by number.
    async fn adoptions(&self) -> Result<(Vec<AdoptionRow>, Vec<Resident>)>;

    /// Stores portions until there are no more, each in a transaction of its own; `stored` counts their
    /// operations. Nobody else may be using the database.
    async fn adopt(&self, from: mpsc::Receiver<Portion>, stored: Arc<AtomicU64>) -> Result<AdoptOutcome>;
}
