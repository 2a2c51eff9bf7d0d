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
    /// The migration that brought it, or its table.
    pub since: &'static str,
    /// Whether an import reads it. An export needs them all.
    pub is_read: bool,
    /// SQL for its value where the schema is older. `None`: whoever has the table has the column.
    pub default: Option<&'static str>,
}

impl Column {
    const fn new(table: &'static str, name: &'static str, kind: &'static str, since: &'static str) -> Self {
        Self { table, name, kind, since, is_read: true, default: None }
    }

    /// Nothing that an import asks for.
    const fn written_only(mut self) -> Self {
        self.is_read = false;
        self
    }

    const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
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

/// The migrations that brought something, by the number that their names begin with.
const INIT: &str = "0_init";
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

const TIME: &str = "timestamp(3) without time zone";
const NO_TEXT: &str = "NULL::text";
const NO_NUMBER: &str = "NULL::bigint";

/// Every column that is read or written.
pub const COLUMNS: &[Column] = &[
    Column::new("users", "id", "integer", INIT),
    Column::new("users", "email", "text", INIT),
    Column::new("users", "password_hash", "text", INIT),
    Column::new("users", "is_verified", "integer", INIT),
    Column::new("users", "verification_token", "text", INIT),
    Column::new("users", "verification_token_expires_at", "bigint", INIT),
    Column::new("users", "failed_login_attempts", "integer", INIT).written_only(),
    Column::new("users", "locked_until", "bigint", INIT),
    Column::new("users", "token_version", "integer", INIT),
    Column::new("users", "terms_accepted_at", "bigint", INIT),
    Column::new("users", "created_at", TIME, INIT),
    Column::new("users", "storage_quota_bytes", "bigint", QUOTAS).or("104857600::bigint"),
    Column::new("users", "storage_used_bytes", "bigint", QUOTAS).written_only(),
    Column::new("users", "reset_password_token", "text", RESETS).or(NO_TEXT),
    Column::new("users", "reset_password_token_expires_at", "bigint", RESETS).or(NO_NUMBER),
    Column::new("users", "passkey_recovery_token", "text", PASSKEYS).or(NO_TEXT),
    Column::new("users", "passkey_recovery_token_expires_at", "bigint", PASSKEYS).or(NO_NUMBER),
    Column::new("users", "login_token", "text", LOGIN_LINKS).or(NO_TEXT),
    Column::new("users", "login_token_expires_at", "bigint", LOGIN_LINKS).or(NO_NUMBER),
    Column::new("operations", "id", "text", INIT),
    Column::new("operations", "user_id", "integer", INIT),
    Column::new("operations", "client_id", "text", INIT),
    Column::new("operations", "server_seq", "integer", INIT),
    Column::new("operations", "action_type", "text", INIT),
    Column::new("operations", "op_type", "text", INIT),
    Column::new("operations", "entity_type", "text", INIT),
    Column::new("operations", "entity_id", "text", INIT),
    Column::new("operations", "entity_ids", "text[]", SEVERAL_ENTITIES).or("'{}'::text[]"),
    Column::new("operations", "payload", "jsonb", INIT),
    Column::new("operations", "payload_bytes", "bigint", SIZES).or("0::bigint"),
    Column::new("operations", "vector_clock", "jsonb", INIT),
    Column::new("operations", "schema_version", "integer", INIT),
    Column::new("operations", "client_timestamp", "bigint", INIT),
    Column::new("operations", "received_at", "bigint", INIT),
    Column::new("operations", "is_payload_encrypted", "boolean", ENCRYPTION).or("FALSE"),
    Column::new("operations", "sync_import_reason", "text", REASONS).or(NO_TEXT),
    Column::new("operations", "repair_base_server_seq", "integer", PENDING).or("NULL::integer"),
    Column::new("user_sync_state", "user_id", "integer", INIT),
    Column::new("user_sync_state", "last_seq", "integer", INIT),
    Column::new("user_sync_state", "snapshot_data", "bytea", INIT),
    Column::new("user_sync_state", "last_snapshot_seq", "integer", INIT),
    Column::new("user_sync_state", "snapshot_at", "bigint", INIT),
    Column::new("user_sync_state", "snapshot_schema_version", "integer", INIT),
    Column::new("user_sync_state", "latest_full_state_seq", "integer", FULL_STATES).or("NULL::integer"),
    Column::new("user_sync_state", "latest_full_state_vector_clock", "jsonb", FULL_STATES).or("NULL::jsonb"),
    Column::new("user_sync_state", "latest_state_replacement_seq", "integer", REPLACEMENTS).written_only(),
    Column::new("sync_devices", "user_id", "integer", INIT),
    Column::new("sync_devices", "client_id", "text", INIT),
    Column::new("sync_devices", "last_seen_at", "bigint", INIT),
    Column::new("sync_devices", "created_at", "bigint", INIT),
    Column::new("passkeys", "id", "text", PASSKEYS),
    Column::new("passkeys", "user_id", "integer", PASSKEYS),
    Column::new("passkeys", "credential_id", "bytea", PASSKEYS),
    Column::new("passkeys", "public_key", "bytea", PASSKEYS),
    Column::new("passkeys", "counter", "bigint", PASSKEYS),
    Column::new("passkeys", "transports", "text", PASSKEYS),
    Column::new("passkeys", "created_at", TIME, PASSKEYS),
    Column::new("passkeys", "last_used_at", TIME, PASSKEYS),
    Column::new("pending_passkey_registrations", "id", "text", PENDING),
    Column::new("pending_passkey_registrations", "user_id", "integer", PENDING),
    Column::new("pending_passkey_registrations", "verification_token", "text", PENDING),
    Column::new("pending_passkey_registrations", "verification_token_expires_at", "bigint", PENDING),
    Column::new("pending_passkey_registrations", "credential_id", "bytea", PENDING),
    Column::new("pending_passkey_registrations", "public_key", "bytea", PENDING),
    Column::new("pending_passkey_registrations", "counter", "bigint", PENDING),
    Column::new("pending_passkey_registrations", "transports", "text", PENDING),
    Column::new("pending_passkey_registrations", "created_at", TIME, PENDING),
];

/// What is known of a column.
#[must_use]
pub fn column(table: &str, name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.table == table && column.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_column_is_named_once_and_belongs_to_a_table() {
        let mut names = HashSet::new();
        for Column { table, name, since, default, is_read, .. } in COLUMNS {
            assert!(names.insert((table, name)), "{table}.{name}");
            assert!(TABLES.contains(table), "{table}");
            let brought_table = COLUMNS.iter().filter(|other| other.table == *table).map(|other| other.since).min();
            let is_as_old_as_its_table = brought_table == Some(*since);
            assert_eq!(default.is_none(), is_as_old_as_its_table || !is_read, "{table}.{name}");
        }
    }
}
