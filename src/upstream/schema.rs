//! What the old server's tables look like at its newest schema, and since when (operations contract, sections 8.1 and
//! 8.4). What an import reads and what an export writes follows from this one list.

/// A column that is read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its type, as `format_type` of PostgreSQL names it.
    pub kind: &'static str,
    /// The migration that brought it.
    pub since: &'static str,
}

/// A column that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` of PostgreSQL names it.
    pub kind: String,
    /// Whether it can't be empty. A dump doesn't say it.
    pub not_null: bool,
    /// Whether it has a value if none is given. A dump doesn't say it.
    pub has_default: bool,
}

/// The tables that are read or written.
pub const TABLES: [&str; 6] =
    ["users", "operations", "user_sync_state", "sync_devices", "passkeys", "pending_passkey_registrations"];

/// A column of this server's own database, which the old server's never had.
pub const OURS: (&str, &str) = ("operations", "op_id");

/// The migrations that brought something, by the number that their names begin with. Every release has this one.
pub const INIT: &str = "0_init";
const ENCRYPTION: &str = "20251212000000";
const QUOTAS: &str = "20251218000000";
const RESETS: &str = "20251231000000";
/// Also the one since which an account may have no password.
pub const PASSKEYS: &str = "20260102000000";
const REASONS: &str = "20260329000000";
const FULL_STATES: &str = "20260513000000";
const SIZES: &str = "20260514000001";
const LOGIN_LINKS: &str = "20260601000000";
const SEVERAL_ENTITIES: &str = "20260613000000";
const PENDING: &str = "20260713000000";
const REPLACEMENTS: &str = "20260727000000";

/// Every column that is read or written: the table, the migration, and the names and types that it brought. A table's
/// first migration is the one that brought the table.
const COLUMNS: [(&str, &str, &str); 17] = [
    (
        "users",
        INIT,
        "id integer, email text, password_hash text, is_verified integer, verification_token text, \
         verification_token_expires_at bigint, failed_login_attempts integer, locked_until bigint, token_version integer, \
         terms_accepted_at bigint, created_at timestamp(3) without time zone",
    ),
    ("users", QUOTAS, "storage_quota_bytes bigint, storage_used_bytes bigint"),
    ("users", RESETS, "reset_password_token text, reset_password_token_expires_at bigint"),
    ("users", PASSKEYS, "passkey_recovery_token text, passkey_recovery_token_expires_at bigint"),
    ("users", LOGIN_LINKS, "login_token text, login_token_expires_at bigint"),
    (
        "operations",
        INIT,
        "id text, user_id integer, client_id text, server_seq integer, action_type text, op_type text, entity_type text, \
         entity_id text, payload jsonb, vector_clock jsonb, schema_version integer, client_timestamp bigint, \
         received_at bigint",
    ),
    ("operations", ENCRYPTION, "is_payload_encrypted boolean"),
    ("operations", REASONS, "sync_import_reason text"),
    ("operations", SIZES, "payload_bytes bigint"),
    ("operations", SEVERAL_ENTITIES, "entity_ids text[]"),
    ("operations", PENDING, "repair_base_server_seq integer"),
    (
        "user_sync_state",
        INIT,
        "user_id integer, last_seq integer, snapshot_data bytea, last_snapshot_seq integer, snapshot_at bigint, \
         snapshot_schema_version integer",
    ),
    ("user_sync_state", FULL_STATES, "latest_full_state_seq integer, latest_full_state_vector_clock jsonb"),
    ("user_sync_state", REPLACEMENTS, "latest_state_replacement_seq integer"),
    ("sync_devices", INIT, "user_id integer, client_id text, last_seen_at bigint, created_at bigint"),
    (
        "passkeys",
        PASSKEYS,
        "id text, user_id integer, credential_id bytea, public_key bytea, counter bigint, transports text, \
         created_at timestamp(3) without time zone, last_used_at timestamp(3) without time zone",
    ),
    (
        "pending_passkey_registrations",
        PENDING,
        "id text, user_id integer, verification_token text, verification_token_expires_at bigint, credential_id bytea, \
         public_key bytea, counter bigint, transports text, created_at timestamp(3) without time zone",
    ),
];

/// What only an export needs: nothing that an import asks for.
const WRITTEN_ONLY: [&str; 3] = ["failed_login_attempts", "storage_used_bytes", "latest_state_replacement_seq"];

/// Every column that is read or written.
pub fn columns() -> impl Iterator<Item = Column> {
    let of_migration = |(table, since, list): &(&'static str, &'static str, &'static str)| {
        let (table, since) = (*table, *since);
        list.split(", ").filter_map(|text| text.split_once(' ')).map(move |(name, kind)| Column {
            table,
            name,
            kind,
            since,
        })
    };
    COLUMNS.iter().flat_map(of_migration)
}

/// The columns of a table that an import reads.
pub fn columns_read(table: &str) -> impl Iterator<Item = Column> {
    columns().filter(move |column| column.table == table && !WRITTEN_ONLY.contains(&column.name))
}

impl Column {
    /// Whether there are releases that have its table, but not the column.
    #[must_use]
    pub fn is_younger_than_its_table(&self) -> bool {
        columns().find(|other| other.table == self.table).is_some_and(|first| first.since != self.since)
    }
}

/// A column by its name, if it is there.
#[must_use]
pub fn find<'a>(found: &'a [Found], table: &str, name: &str) -> Option<&'a Found> {
    found.iter().find(|found| found.table == table && found.name == name)
}
