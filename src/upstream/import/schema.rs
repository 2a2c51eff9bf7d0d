//! What the old server's tables look like, in every version met in the field (operations contract, sections 8.1 and 8.4).

use super::ImportError;

/// A column that is read.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its type, as `format_type` of PostgreSQL names it.
    pub kind: &'static str,
    /// SQL for its value where the schema is older; `None`: every version has it.
    pub default: Option<&'static str>,
}

const fn always(table: &'static str, name: &'static str, kind: &'static str) -> Known {
    Known { table, name, kind, default: None }
}
const fn later(table: &'static str, name: &'static str, kind: &'static str, default: &'static str) -> Known {
    Known { table, name, kind, default: Some(default) }
}

const TIME: &str = "timestamp(3) without time zone";
const NO_TEXT: &str = "NULL::text";
const NO_NUMBER: &str = "NULL::bigint";

/// Every column that is read.
pub const COLUMNS: &[Known] = &[
    always("users", "id", "integer"),
    always("users", "email", "text"),
    always("users", "password_hash", "text"),
    always("users", "is_verified", "integer"),
    always("users", "verification_token", "text"),
    always("users", "verification_token_expires_at", "bigint"),
    always("users", "locked_until", "bigint"),
    always("users", "token_version", "integer"),
    always("users", "terms_accepted_at", "bigint"),
    always("users", "created_at", TIME),
    later("users", "storage_quota_bytes", "bigint", "104857600::bigint"),
    later("users", "reset_password_token", "text", NO_TEXT),
    later("users", "reset_password_token_expires_at", "bigint", NO_NUMBER),
    later("users", "passkey_recovery_token", "text", NO_TEXT),
    later("users", "passkey_recovery_token_expires_at", "bigint", NO_NUMBER),
    later("users", "login_token", "text", NO_TEXT),
    later("users", "login_token_expires_at", "bigint", NO_NUMBER),
    always("operations", "id", "text"),
    always("operations", "user_id", "integer"),
    always("operations", "client_id", "text"),
    always("operations", "server_seq", "integer"),
    always("operations", "action_type", "text"),
    always("operations", "op_type", "text"),
    always("operations", "entity_type", "text"),
    always("operations", "entity_id", "text"),
    later("operations", "entity_ids", "text[]", "'{}'::text[]"),
    always("operations", "payload", "jsonb"),
    later("operations", "payload_bytes", "bigint", "0::bigint"),
    always("operations", "vector_clock", "jsonb"),
    always("operations", "schema_version", "integer"),
    always("operations", "client_timestamp", "bigint"),
    always("operations", "received_at", "bigint"),
    later("operations", "is_payload_encrypted", "boolean", "FALSE"),
    later("operations", "sync_import_reason", "text", NO_TEXT),
    later("operations", "repair_base_server_seq", "integer", "NULL::integer"),
    always("user_sync_state", "user_id", "integer"),
    always("user_sync_state", "last_seq", "integer"),
    always("user_sync_state", "snapshot_data", "bytea"),
    always("sync_devices", "user_id", "integer"),
    always("sync_devices", "client_id", "text"),
    always("sync_devices", "last_seen_at", "bigint"),
    always("sync_devices", "created_at", "bigint"),
];

/// Columns of tables that older versions lack altogether.
pub const LATER_TABLES: &[Known] = &[
    always("passkeys", "id", "text"),
    always("passkeys", "user_id", "integer"),
    always("passkeys", "credential_id", "bytea"),
    always("passkeys", "public_key", "bytea"),
    always("passkeys", "counter", "bigint"),
    always("passkeys", "transports", "text"),
    always("passkeys", "created_at", TIME),
    always("passkeys", "last_used_at", TIME),
    always("pending_passkey_registrations", "id", "text"),
    always("pending_passkey_registrations", "user_id", "integer"),
    always("pending_passkey_registrations", "verification_token", "text"),
    always("pending_passkey_registrations", "verification_token_expires_at", "bigint"),
    always("pending_passkey_registrations", "credential_id", "bytea"),
    always("pending_passkey_registrations", "public_key", "bytea"),
    always("pending_passkey_registrations", "counter", "bigint"),
    always("pending_passkey_registrations", "transports", "text"),
    always("pending_passkey_registrations", "created_at", TIME),
];

/// A column that a source has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` of PostgreSQL names it.
    pub kind: String,
}

/// What a source has and what it lacks.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    found: Vec<Found>,
    /// The columns that it lacks, as `table.column`.
    pub missing: Vec<String>,
}

impl Shape {
    /// Judges what was found.
    ///
    /// # Errors
    /// [`ImportError::NotUpstream`] when something essential is missing, [`ImportError::OtherType`].
    pub fn of(found: Vec<Found>) -> Result<Self, ImportError> {
        let mut shape = Self { found, missing: Vec::new() };
        if shape.has("operations", "op_id") {
            return Err(ImportError::NotUpstream(
                "it is one of this server's own; `supersync backup` reads it".to_owned(),
            ));
        }
        for table in ["users", "operations", "user_sync_state", "sync_devices"] {
            if !shape.has_table(table) {
                return Err(ImportError::NotUpstream(format!("it has no table {table}")));
            }
        }
        let mut missing = Vec::new();
        let later = LATER_TABLES.iter().filter(|column| shape.has_table(column.table));
        for column in COLUMNS.iter().chain(later) {
            let place = format!("{}.{}", column.table, column.name);
            match (shape.find(column.table, column.name), column.default) {
                (Some(found), _) if found.kind == column.kind => {}
                (Some(found), _) => {
                    let (found, expected) = (found.kind.clone(), column.kind);
                    return Err(ImportError::OtherType { column: place, found, expected });
                }
                (None, Some(_)) => missing.push(place),
                (None, None) => return Err(ImportError::NotUpstream(format!("it has no column {place}"))),
            }
        }
        for table in ["passkeys", "pending_passkey_registrations"] {
            if !shape.has_table(table) {
                missing.push(table.to_owned());
            }
        }
        shape.missing = missing;
        Ok(shape)
    }

    /// Whether these are all columns of a table that every release has which has the table.
    #[must_use]
    pub fn has_all(table: &str, columns: &[String]) -> bool {
        let needed = COLUMNS.iter().chain(LATER_TABLES).filter(|known| known.table == table && known.default.is_none());
        needed.into_iter().all(|known| columns.iter().any(|name| name == known.name))
    }

    fn find(&self, table: &str, name: &str) -> Option<&Found> {
        self.found.iter().find(|found| found.table == table && found.name == name)
    }

    /// Whether it has a column.
    #[must_use]
    pub fn has(&self, table: &str, name: &str) -> bool {
        self.find(table, name).is_some()
    }

    /// Whether it has a table.
    #[must_use]
    pub fn has_table(&self, table: &str) -> bool {
        self.found.iter().any(|found| found.table == table)
    }

    /// SQL for a column's value: the column of the table's alias, or what stands in for it. Nothing but constants.
    #[must_use]
    pub fn sql(&self, alias: &str, table: &str, name: &str) -> String {
        let known = COLUMNS.iter().chain(LATER_TABLES).find(|known| known.table == table && known.name == name);
        match known.and_then(|known| known.default).filter(|_| !self.has(table, name)) {
            Some(default) => default.to_owned(),
            None => format!("{alias}.{name}"),
        }
    }
}
