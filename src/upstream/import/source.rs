//! The old server's database, of whatever age: which columns it has, and one unchanging view of it.
//!
//! What counts is the catalogue, not the history of migrations (operations contract, section 8.5): columns that came later
//! are read as their default.

use std::collections::HashMap;

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Row as _};

use super::ImportError;
use crate::upstream::export::target::{address, others};

/// How a column is read.
struct Column {
    table: &'static str,
    name: &'static str,
    /// Its type, as PostgreSQL names it.
    kind: &'static str,
    /// What stands in where it is missing; `None`: every version has it.
    default: Option<&'static str>,
}

const fn always(table: &'static str, name: &'static str, kind: &'static str) -> Column {
    Column { table, name, kind, default: None }
}
const fn later(table: &'static str, name: &'static str, kind: &'static str, default: &'static str) -> Column {
    Column { table, name, kind, default: Some(default) }
}

const TIMESTAMP: &str = "timestamp(3) without time zone";

/// What is read of an old database (operations contract, sections 8.1 and 8.4).
const COLUMNS: &[Column] = &[
    always("users", "id", "integer"),
    always("users", "email", "text"),
    always("users", "password_hash", "text"),
    always("users", "is_verified", "integer"),
    always("users", "created_at", TIMESTAMP),
    later("users", "verification_token", "text", "NULL::text"),
    later("users", "verification_token_expires_at", "bigint", "NULL::bigint"),
    later("users", "locked_until", "bigint", "NULL::bigint"),
    later("users", "token_version", "integer", "0"),
    later("users", "terms_accepted_at", "bigint", "NULL::bigint"),
    later("users", "storage_quota_bytes", "bigint", "104857600::bigint"),
    later("users", "reset_password_token", "text", "NULL::text"),
    later("users", "reset_password_token_expires_at", "bigint", "NULL::bigint"),
    later("users", "passkey_recovery_token", "text", "NULL::text"),
    later("users", "passkey_recovery_token_expires_at", "bigint", "NULL::bigint"),
    later("users", "login_token", "text", "NULL::text"),
    later("users", "login_token_expires_at", "bigint", "NULL::bigint"),
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
    later("operations", "sync_import_reason", "text", "NULL::text"),
    later("operations", "repair_base_server_seq", "integer", "NULL::integer"),
    always("user_sync_state", "user_id", "integer"),
    always("user_sync_state", "last_seq", "integer"),
    always("sync_devices", "user_id", "integer"),
    always("sync_devices", "client_id", "text"),
    always("sync_devices", "last_seen_at", "bigint"),
    always("sync_devices", "created_at", "bigint"),
];
/// Where the table is there at all.
const PASSKEYS: &[Column] = &[
    always("passkeys", "user_id", "integer"),
    always("passkeys", "credential_id", "bytea"),
    always("passkeys", "public_key", "bytea"),
    always("passkeys", "counter", "bigint"),
    always("passkeys", "transports", "text"),
    always("passkeys", "created_at", TIMESTAMP),
    always("passkeys", "last_used_at", TIMESTAMP),
];

/// A source at one instant.
pub(super) struct Source {
    pub(super) connection: PgConnection,
    /// `table.column` to what it is read by.
    columns: HashMap<(&'static str, &'static str), &'static str>,
    pub(super) has_passkeys: bool,
    pub(super) has_pending_passkeys: bool,
}

impl Source {
    /// Opens a source and holds it at this instant: one transaction that can only read. `rehearsal`: even if others work
    /// on it.
    ///
    /// # Errors
    /// When it is not an old server's database, or in use.
    pub(super) async fn open(url: &str, rehearsal: bool) -> Result<Self, ImportError> {
        let (options, schema) = address(url).map_err(|refusal| ImportError::Address(refusal.to_string()))?;
        let mut connection = options.application_name("supersync-import").connect().await?;
        sqlx::query(
            "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '10s', false), \
             set_config('idle_in_transaction_session_timeout', '0', false), set_config('TimeZone', 'UTC', false), \
             set_config('search_path', COALESCE($1, current_setting('search_path')), false)",
        )
        .bind(schema.map(|name| format!("\"{}\"", name.replace('"', "\"\""))))
        .execute(&mut connection)
        .await?;
        let found = found(&mut connection).await?;
        let has_passkeys = found.contains_key(&("passkeys".to_owned(), "credential_id".to_owned()));
        let has_pending_passkeys = found.keys().any(|(table, _)| table == "pending_passkey_registrations");
        let wanted = COLUMNS.iter().chain(if has_passkeys { PASSKEYS } else { &[] });
        let columns = judge(&found, wanted)?;
        if !rehearsal {
            let others = others(&mut connection).await.map_err(|refusal| ImportError::Address(refusal.to_string()))?;
            if !others.is_empty() {
                return Err(ImportError::InUse(others));
            }
        }
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut connection).await?;
        Ok(Self { connection, columns, has_passkeys, has_pending_passkeys })
    }

    /// A column, or what stands in for it.
    pub(super) fn column(&self, table: &'static str, name: &'static str) -> &'static str {
        self.columns.get(&(table, name)).copied().unwrap_or("NULL")
    }

    /// The highest number that an account has ever had.
    pub(super) async fn highest_user(&mut self) -> Result<i64, ImportError> {
        let sql = "SELECT GREATEST(COALESCE((SELECT max(id) FROM users), 0)::bigint, \
             COALESCE(pg_sequence_last_value(pg_get_serial_sequence('users', 'id')::regclass), 0))";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.connection).await?)
    }
}

type Found = HashMap<(String, String), String>;

async fn found(connection: &mut PgConnection) -> Result<Found, ImportError> {
    let rows = sqlx::query(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a \
         JOIN pg_class c ON c.oid = a.attrelid \
         WHERE c.oid IN (to_regclass('users'), to_regclass('operations'), to_regclass('user_sync_state'), \
         to_regclass('sync_devices'), to_regclass('passkeys'), to_regclass('pending_passkey_registrations')) \
         AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .fetch_all(connection)
    .await?;
    let found: Result<Found, sqlx::Error> =
        rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?))).collect();
    Ok(found?)
}

fn judge<'a>(
    found: &Found,
    wanted: impl Iterator<Item = &'a Column>,
) -> Result<HashMap<(&'static str, &'static str), &'static str>, ImportError> {
    let mut columns = HashMap::new();
    for column in wanted {
        let key = (column.table.to_owned(), column.name.to_owned());
        let read_by = match (found.get(&key), column.default) {
            (Some(kind), _) if kind == column.kind => column.name,
            (Some(kind), _) => {
                return Err(ImportError::OtherType {
                    column: format!("{}.{}", column.table, column.name),
                    found: kind.clone(),
                    expected: column.kind,
                });
            }
            (None, Some(default)) => default,
            (None, None) => return Err(ImportError::NotUpstream(format!("{}.{}", column.table, column.name))),
        };
        columns.insert((column.table, column.name), read_by);
    }
    Ok(columns)
}
