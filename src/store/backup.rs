//! The whole database as a stream of rows, the same from either kind of database: what a backup is made of, and what it
//! is restored from.
//!
//! Owns the list of tables and columns that make up a database ([`TABLES`]); a test compares it with what the
//! migrations make, so no new column can be forgotten. What only matters while a process runs (leases, tickets and
//! challenges of a few minutes, announcements) is left out ([`LEFT_OUT`]).

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::Result;
use super::migrate;

mod read;

pub use read::{Fields, operation, operations_of_segment};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer of 16 bits.
    Small,
    /// An integer of 32 bits.
    Int,
    /// An integer of 64 bits.
    Big,
    /// Yes or no.
    Bool,
    /// UTF-8.
    Text,
    /// Anything.
    Bytes,
}

impl Kind {
    /// The kind's text in a backup.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "int16",
            Self::Int => "int32",
            Self::Big => "int64",
            Self::Bool => "bool",
            Self::Text => "text",
            Self::Bytes => "bytes",
        }
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, the same in both databases.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether a row may have nothing in it.
    pub nullable: bool,
    /// The schema version that brought it. Older backups lack it; then the database's default stands in.
    pub since: i64,
}

/// A table of the database.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, the same in both databases.
    pub name: &'static str,
    /// So many of its first columns are its key. Rows come in the key's order.
    pub key: usize,
    /// Its columns.
    pub columns: &'static [Column],
}

/// The newest schema of which a backup can't be restored is the one before this. Raise it with each migration that
/// does more than add tables and columns with defaults.
pub const OLDEST_SCHEMA: i64 = 5;

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, nullable: false, since: OLDEST_SCHEMA }
}
const fn big(name: &'static str) -> Column {
    column(name, Kind::Big)
}
const fn text(name: &'static str) -> Column {
    column(name, Kind::Text)
}
const fn bytes(name: &'static str) -> Column {
    column(name, Kind::Bytes)
}
const fn boolean(name: &'static str) -> Column {
    column(name, Kind::Bool)
}
const fn small(name: &'static str) -> Column {
    column(name, Kind::Small)
}
const fn or_null(column: Column) -> Column {
    Column { nullable: true, ..column }
}

/// Everything that is backed up. Whatever a row refers to comes before it.
pub const TABLES: &[Table] = &[
    Table {
        name: "users",
        key: 1,
        columns: &[
            big("id"),
            text("email"),
            or_null(text("password_hash")),
            boolean("is_verified"),
            big("token_version"),
            big("failed_login_attempts"),
            or_null(big("locked_until")),
            or_null(big("terms_accepted_at")),
            big("created_at"),
            big("storage_quota_bytes"),
            boolean("is_admin"),
            or_null(big("locked_at")),
            or_null(big("older_tokens_revoked_at")),
            or_null(big("older_tokens_seen_at")),
            or_null(text("older_tokens_address")),
        ],
    },
    Table {
        name: "user_sync_state",
        key: 1,
        columns: &[
            big("user_id"),
            big("revision"),
            big("generation"),
            big("base_seq"),
            big("pruned_seq"),
            big("last_seq"),
            text("vector_clock"),
            or_null(big("full_state_seq")),
            or_null(text("full_state_client_id")),
            or_null(text("full_state_clock")),
            or_null(big("replacement_seq")),
            big("storage_used_bytes"),
            or_null(big("snapshot_seq")),
            or_null(big("snapshot_at")),
            or_null(big("snapshot_bytes")),
            big("heads_seq"),
            big("sealed_seq"),
            or_null(text("sealed_max_op_id")),
            Column { since: 7, ..big("sparse_up_to") },
        ],
    },
    Table { name: "user_snapshots", key: 1, columns: &[big("user_id"), small("schema_version"), bytes("data")] },
    Table {
        name: "archived_ranges",
        key: 2,
        columns: &[
            big("user_id"),
            big("from_seq"),
            big("to_seq"),
            big("generation"),
            text("reason"),
            big("bytes"),
            big("archived_at"),
        ],
    },
    Table {
        name: "segments",
        key: 2,
        columns: &[
            big("user_id"),
            big("last_seq"),
            big("first_seq"),
            big("generation"),
            big("storage_bytes"),
            big("max_received_at"),
            column("op_count", Kind::Int),
            text("min_op_id"),
            text("max_op_id"),
            bytes("op_id_hashes"),
            bytes("data"),
        ],
    },
    Table {
        name: "operations",
        key: 2,
        columns: &[
            big("user_id"),
            big("server_seq"),
            big("generation"),
            big("storage_bytes"),
            big("client_timestamp"),
            big("received_at"),
            or_null(big("repair_base_server_seq")),
            small("schema_version"),
            boolean("is_payload_encrypted"),
            text("op_id"),
            text("client_id"),
            text("action_type"),
            text("op_type"),
            text("entity_type"),
            or_null(text("entity_id")),
            or_null(text("entity_ids")),
            or_null(text("sync_import_reason")),
            text("vector_clock"),
            bytes("payload"),
        ],
    },
    Table {
        name: "entity_heads",
        key: 2,
        columns: &[
            big("user_id"),
            bytes("entity_key"),
            big("server_seq"),
            boolean("is_time_delta"),
            text("client_id"),
            text("vector_clock"),
        ],
    },
    Table {
        name: "sync_devices",
        key: 2,
        columns: &[big("user_id"), text("client_id"), big("last_seen_at"), big("created_at")],
    },
    Table {
        name: "one_time_tokens",
        key: 1,
        columns: &[
            bytes("token_hash"),
            text("purpose"),
            big("user_id"),
            or_null(text("pending_password_hash")),
            big("created_at"),
            big("expires_at"),
            or_null(text("new_email")),
            Column { since: 9, ..or_null(bytes("registrant")) },
            Column { since: 9, ..or_null(text("network")) },
        ],
    },
    Table {
        name: "sessions",
        key: 1,
        columns: &[
            bytes("id"),
            big("user_id"),
            big("created_at"),
            big("last_seen_at"),
            big("expires_at"),
            text("method"),
            text("name"),
            text("user_agent"),
            or_null(text("last_address")),
            Column { since: 8, ..or_null(big("authenticated_at")) },
            Column { since: 8, ..or_null(text("authenticated_how")) },
            Column { since: 8, ..boolean("user_verified") },
        ],
    },
    Table {
        name: "security_events",
        key: 2,
        columns: &[
            Column { since: 8, ..big("user_id") },
            Column { since: 8, ..big("number") },
            Column { since: 8, ..big("at") },
            Column { since: 8, ..text("kind") },
            Column { since: 8, ..boolean("is_failure") },
            Column { since: 8, ..or_null(text("method")) },
            Column { since: 8, ..or_null(text("address")) },
            Column { since: 8, ..or_null(text("device")) },
            Column { since: 8, ..big("times") },
        ],
    },
    Table {
        name: "passkeys",
        key: 1,
        columns: &[
            big("id"),
            big("user_id"),
            bytes("credential_id"),
            bytes("public_key"),
            big("counter"),
            or_null(text("transports")),
            or_null(boolean("backup_eligible")),
            text("name"),
            big("created_at"),
            or_null(big("last_used_at")),
            Column { since: 9, ..or_null(bytes("user_handle")) },
        ],
    },
    Table {
        name: "pending_passkeys",
        key: 1,
        columns: &[
            bytes("token_hash"),
            big("user_id"),
            bytes("credential_id"),
            bytes("public_key"),
            big("counter"),
            or_null(text("transports")),
            or_null(boolean("backup_eligible")),
            text("name"),
            big("created_at"),
            big("expires_at"),
            Column { since: 9, ..or_null(bytes("user_handle")) },
        ],
    },
    Table {
        name: "invites",
        key: 1,
        columns: &[
            big("id"),
            bytes("token_hash"),
            or_null(text("email")),
            boolean("makes_admin"),
            boolean("is_claim"),
            or_null(big("created_by")),
            big("created_at"),
            big("expires_at"),
            or_null(big("used_at")),
            or_null(big("used_by")),
        ],
    },
];

/// Tables that are not backed up and are empty after a restore: they hold what matters for minutes, or only to the
/// processes that run, or how far an import was. (SQLite's parts of large payloads become whole payloads again.)
pub const LEFT_OUT: &[&str] =
    &["leadership", "socket_tickets", "webauthn_challenges", "failed_logins", "account_events", "adoptions"];

/// Tables whose numbers are given out by the database and never twice, not even after the row is gone: tokens carry the
/// account's number.
pub const NUMBERED: &[&str] = &["users", "passkeys", "invites"];

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Value {
    Null,
    Int(i64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
}

impl Value {
    /// Bytes that it takes, roughly.
    fn size(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 1,
            Self::Int(_) => 8,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// A row: a value for each column.
pub type Row = Vec<Value>;

/// What is known before the first row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The instant of which the rows are, by the database's clock, Unix milliseconds.
    pub taken_at_ms: i64,
    /// For each table of [`NUMBERED`], in that order: the highest number that it has given out.
    pub numbers: Vec<i64>,
    /// About how many rows will come.
    pub approximate_rows: u64,
}

/// A piece of the stream: one [`Piece::Begin`], then for each table one [`Piece::Table`] and its rows, then
/// [`Piece::End`]. Without that last one the stream was cut off.
#[derive(Debug)]
pub enum Piece {
    /// What is known before the first row.
    Begin(Snapshot),
    /// The rows that follow are of this table and have these of its columns.
    Table(&'static Table, Vec<&'static Column>),
    /// Some rows.
    Rows(Vec<Row>),
    /// That was everything.
    End,
}

/// What became of a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadOutcome {
    /// The database holds what the stream held, and nothing else.
    Loaded,
    /// The database holds accounts. Nothing was changed.
    NotEmpty {
        /// How many.
        accounts: i64,
    },
    /// A server or a command works on the database. Nothing was changed.
    InUse,
    /// The stream ended early. Nothing was changed.
    Abandoned,
}

/// All of the database, out and in.
#[async_trait]
pub trait BackupStore: Send + Sync + 'static {
    /// Hands over the whole database as it is at one instant, while it is being used. Memory stays the same however
    /// much there is. If nobody takes any more, it ends without error.
    async fn dump(&self, to: mpsc::Sender<Piece>) -> Result<()>;

    /// Whether a server or a command works on the database. To be asked first: work of this store's own counts too.
    async fn is_in_use(&self) -> Result<bool>;

    /// Fills the database, in one transaction. `replace`: what is in it is deleted, in the same transaction. Otherwise it
    /// must hold no account. Nobody else may be using it.
    async fn load(&self, from: mpsc::Receiver<Piece>, replace: bool) -> Result<LoadOutcome>;
}

/// The version of the schema that this program has.
#[must_use]
pub fn schema_version() -> i64 {
    migrate::newest()
}

/// A table by its name.
#[must_use]
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|table| table.name == name)
}

impl Table {
    /// Where a column is.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The names of its key, as SQL takes them.
    pub(super) fn key_list(&self) -> String {
        names(self.columns.iter().take(self.key))
    }
}

/// Names of columns, as SQL takes them.
pub(super) fn names<'a>(columns: impl Iterator<Item = &'a Column>) -> String {
    columns.map(|column| column.name).collect::<Vec<_>>().join(", ")
}

/// Rows of one piece at most,
const ROWS: usize = 500;
/// and their bytes, but for the last of them.
const BYTES: usize = 1 << 20;

/// Gathers rows until they are worth being handed over.
#[derive(Debug, Default)]
pub struct Batch {
    rows: Vec<Row>,
    bytes: usize,
}

impl Batch {
    /// Adds a row. Gives back a batch that is full.
    pub fn add(&mut self, row: Row) -> Option<Piece> {
        self.bytes += row.iter().map(Value::size).sum::<usize>();
        self.rows.push(row);
        if self.rows.len() < ROWS && self.bytes < BYTES { None } else { self.rest() }
    }

    /// What is left.
    pub fn rest(&mut self) -> Option<Piece> {
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        (!rows.is_empty()).then_some(Piece::Rows(rows))
    }
}
