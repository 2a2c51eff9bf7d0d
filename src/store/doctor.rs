//! What `supersync doctor` looks at in a database, and the little that it may mend there: nothing here changes an
//! operation, and only what says so changes anything at all.
//!
//! Owns the list of tables whose rows belong to an account ([`OWNED`]); a test compares it with what the migrations make.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::Result;
use super::backup::{Column, Row, Table, table};
use crate::protocol::UserId;

/// How the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VitalSigns {
    /// Its name and version.
    pub version: String,
    /// Whether this program is made for that version.
    pub is_supported: bool,
    /// Why nothing can be written, if so.
    pub read_only: Option<String>,
    /// Settings by which an acknowledged change can be lost, as the database spells them.
    pub unsafe_settings: Vec<String>,
    /// How long a commit took until it was on the disk: the middle one of a few. `None` where nothing can be written.
    pub commit: Option<Duration>,
    /// Its clock, Unix milliseconds,
    pub now_ms: i64,
    /// and how long that look took.
    pub look: Duration,
    /// Connections of everybody, and how many there can be. `None`: it has no such limit.
    pub connections: Option<(i64, i64)>,
    /// Statements of anybody that have been running, or transactions that have been idle, for minutes.
    pub stuck: i64,
    /// Bytes that wait in the write-ahead log to be folded in, where that matters to the operator.
    pub wal_bytes: Option<u64>,
}

/// What is the matter with an object of the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SchemaState {
    /// The migrations make it, and it is not there.
    Missing,
    /// It is there, but not as the migrations make it.
    Changed,
    /// An index that is not used and perhaps not complete: its making was interrupted, or it is damaged.
    Invalid,
    /// It is there, and no migration makes it.
    Additional,
}

/// A difference between the schema and what the migrations make.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaDifference {
    /// What is the matter.
    pub state: SchemaState,
    /// Kind and name, such as `index sessions_user`.
    pub object: String,
    /// Whether [`DoctorStore::mend_schema`] can mend it.
    pub mendable: bool,
}

/// Rows without the account that they belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphans {
    /// Where.
    pub table: &'static str,
    /// How many.
    pub rows: i64,
    /// The lowest numbers of accounts that they name.
    pub accounts: Vec<UserId>,
}

/// A table whose next number has been given out already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumbersBehind {
    /// Which.
    pub table: &'static str,
    /// The number that counts as the last one given out.
    pub given_out: i64,
    /// The highest one in use.
    pub highest: i64,
}

/// Tables whose rows belong to the account in their `user_id`.
pub const OWNED: [&str; 13] = [
    "archived_ranges",
    "entity_heads",
    "one_time_tokens",
    "operations",
    "passkeys",
    "pending_passkeys",
    "security_events",
    "segments",
    "sessions",
    "socket_tickets",
    "sync_devices",
    "user_snapshots",
    "user_sync_state",
];

/// Those of [`OWNED`] that hold what cannot be had again: what is without account there is never deleted, because the
/// account may be what is missing.
pub const IRREPLACEABLE: [&str; 4] = ["archived_ranges", "operations", "segments", "user_sync_state"];

/// Tables whose rows are void after their `expires_at`, and are then swept away.
pub(super) const EXPIRING: [&str; 6] =
    ["failed_logins", "one_time_tokens", "pending_passkeys", "sessions", "socket_tickets", "webauthn_challenges"];

/// Accounts named with [`Orphans`].
pub(super) const NAMED_ORPHANS: i64 = 10;
/// A statement or an idle transaction of this age is stuck, in seconds (contract, operations section 13.2).
pub(super) const STUCK_SECONDS: i32 = 120;
/// So many commits are measured.
pub(super) const COMMITS: usize = 5;

/// Some columns of a table.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The table.
    pub table: &'static Table,
    /// Which of its columns; the key's first one is the first of them.
    pub columns: Vec<&'static Column>,
}

impl Selection {
    /// These columns of the table with this name. `None`: there is none, or it lacks one of them.
    #[must_use]
    pub fn of(name: &str, columns: &[&str]) -> Option<Self> {
        let table = table(name)?;
        let columns = columns.iter().map(|name| table.columns.iter().find(|column| column.name == *name));
        Some(Self { table, columns: columns.collect::<Option<_>>()? })
    }
}

/// A question for the next rows of one of the tables that are read side by side.
#[derive(Debug)]
pub struct NextRows {
    /// Which of them.
    pub table: usize,
    /// Where the rows go. None are left when none come.
    pub answer: oneshot::Sender<Vec<Row>>,
}

/// Looking for what is wrong, and mending some of it.
#[async_trait]
pub trait DoctorStore: Send + Sync + 'static {
    /// How the database is. Writes nothing that anybody could read.
    async fn vital_signs(&self) -> Result<VitalSigns>;

    /// What the schema lacks of what the migrations make, and what it has beyond that.
    async fn schema_differences(&self) -> Result<Vec<SchemaDifference>>;

    /// Makes a missing index, rebuilds an invalid one, or removes what is left of an interrupted attempt at that.
    /// Servers go on meanwhile. `false`: this is nothing that it can mend.
    async fn mend_schema(&self, difference: &SchemaDifference) -> Result<bool>;

    /// What the database itself finds damaged in its file; empty where it can't look. Reads everything.
    async fn damage(&self) -> Result<Vec<String>>;

    /// Rebuilds every index from its table; only where the database can say what is damaged in them.
    async fn rebuild_indexes(&self) -> Result<()>;

    /// Rows without their account, by table. Reads the keys of every row.
    async fn orphans(&self) -> Result<Vec<Orphans>>;

    /// Deletes rows of one of [`OWNED`] that have no account, unless it is one of [`IRREPLACEABLE`]. Returns how many.
    async fn delete_orphans(&self, table: &str) -> Result<u64>;

    /// Tables that would give out a number again.
    async fn numbers_behind(&self) -> Result<Vec<NumbersBehind>>;

    /// From now on the table gives out numbers above those in use.
    async fn raise_numbers(&self, behind: NumbersBehind) -> Result<()>;

    /// How many rows there are that were void before `before_ms` and should have been swept away.
    async fn overdue(&self, before_ms: i64) -> Result<i64>;

    /// Reads tables side by side, each in the order of its key, all as of one instant, as they are asked for. Ends when
    /// nobody asks any more.
    async fn read_side_by_side(&self, tables: Vec<Selection>, asked: mpsc::Receiver<NextRows>) -> Result<()>;
}

/// Compares objects of a schema, each a kind and name with its definition. `is_mendable` says which of the missing ones
/// can be made.
pub(super) fn differences(
    expected: &BTreeMap<String, String>,
    found: &BTreeMap<String, String>,
    is_mendable: impl Fn(&str) -> bool,
) -> Vec<SchemaDifference> {
    let mut all = Vec::new();
    let mut note = |state, object: &String, mendable| {
        all.push(SchemaDifference { state, object: object.clone(), mendable });
    };
    for (object, definition) in expected {
        match found.get(object) {
            None => note(SchemaState::Missing, object, is_mendable(object)),
            Some(other) if other != definition => note(SchemaState::Changed, object, false),
            Some(_) => {}
        }
    }
    for object in found.keys().filter(|object| !expected.contains_key(*object)) {
        note(SchemaState::Additional, object, false);
    }
    all
}

/// The middle one.
pub(super) fn median(mut all: Vec<Duration>) -> Option<Duration> {
    all.sort();
    all.get(all.len() / 2).copied()
}

/// The table's name, if rows of it may be deleted when they are without account.
pub(super) fn deletable(table: &str) -> Option<&'static str> {
    OWNED.into_iter().find(|owned| *owned == table && !IRREPLACEABLE.contains(owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_apart() {
        let schema = |objects: &[(&str, &str)]| -> BTreeMap<String, String> {
            objects.iter().map(|(name, definition)| ((*name).to_owned(), (*definition).to_owned())).collect()
        };
        let expected = schema(&[("column a.b", "text"), ("index i", "on a"), ("index j", "on b")]);
        let found = schema(&[("column a.b", "int"), ("index j", "on b"), ("index k", "on c")]);
        let told = differences(&expected, &found, |object| object.starts_with("index "));
        let told: Vec<_> = told.iter().map(|found| (found.state, found.object.as_str(), found.mendable)).collect();
        assert_eq!(
            told,
            [
                (SchemaState::Changed, "column a.b", false),
                (SchemaState::Missing, "index i", true),
                (SchemaState::Additional, "index k", false),
            ]
        );
        assert!(differences(&expected, &expected, |_| true).is_empty());
    }

    #[test]
    fn what_cannot_be_had_again_is_never_deleted() {
        assert_eq!((deletable("operations"), deletable("user_sync_state"), deletable("users")), (None, None, None));
        assert_eq!(deletable("sync_devices"), Some("sync_devices"));
        assert!(IRREPLACEABLE.iter().all(|table| OWNED.contains(table)));
    }

    #[test]
    fn selections_are_of_what_there_is() {
        assert!(Selection::of("operations", &["user_id", "server_seq"]).is_some());
        assert!(Selection::of("operations", &["nothing"]).is_none() && Selection::of("nothing", &[]).is_none());
    }

    #[test]
    fn the_middle_one_stands_for_all() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median([3, 1, 90].map(Duration::from_millis).to_vec()), Some(Duration::from_millis(3)));
    }
}
