//! What the old server's database must look like to be written to (operations contract, section 8.1): its head schema,
//! which the server that will be started on it expects.

use sqlx::{PgConnection, Row as _};

use super::Refusal;

/// A column that is written or read: table, name, type as PostgreSQL names it, and the migration of the old server that
/// brought it (section 8.4).
type Column = (&'static str, &'static str, &'static str, &'static str);

const INIT: &str = "0_init";

/// Every column that a head database has and that matters here.
const COLUMNS: &[Column] = &[
    ("users", "id", "integer", INIT),
    ("users", "email", "text", INIT),
    ("users", "password_hash", "text", INIT),
    ("users", "is_verified", "integer", INIT),
    ("users", "verification_token", "text", INIT),
    ("users", "verification_token_expires_at", "bigint", INIT),
    ("users", "failed_login_attempts", "integer", INIT),
    ("users", "locked_until", "bigint", INIT),
    ("users", "token_version", "integer", INIT),
    ("users", "terms_accepted_at", "bigint", INIT),
    ("users", "created_at", "timestamp(3) without time zone", INIT),
    ("users", "storage_quota_bytes", "bigint", "20251218000000"),
    ("users", "storage_used_bytes", "bigint", "20251218000000"),
    ("users", "reset_password_token", "text", "20251231000000"),
    ("users", "reset_password_token_expires_at", "bigint", "20251231000000"),
    ("users", "passkey_recovery_token", "text", "20260102000000"),
    ("users", "passkey_recovery_token_expires_at", "bigint", "20260102000000"),
    ("users", "login_token", "text", "20260601000000"),
    ("users", "login_token_expires_at", "bigint", "20260601000000"),
    ("passkeys", "id", "text", "20260102000000"),
    ("passkeys", "user_id", "integer", "20260102000000"),
    ("passkeys", "credential_id", "bytea", "20260102000000"),
    ("passkeys", "public_key", "bytea", "20260102000000"),
    ("passkeys", "counter", "bigint", "20260102000000"),
    ("passkeys", "transports", "text", "20260102000000"),
    ("passkeys", "created_at", "timestamp(3) without time zone", "20260102000000"),
    ("passkeys", "last_used_at", "timestamp(3) without time zone", "20260102000000"),
    ("pending_passkey_registrations", "user_id", "integer", "20260713000000"),
    ("pending_passkey_registrations", "verification_token", "text", "20260713000000"),
    ("operations", "id", "text", INIT),
    ("operations", "user_id", "integer", INIT),
    ("operations", "client_id", "text", INIT),
    ("operations", "server_seq", "integer", INIT),
    ("operations", "action_type", "text", INIT),
    ("operations", "op_type", "text", INIT),
    ("operations", "entity_type", "text", INIT),
    ("operations", "entity_id", "text", INIT),
    ("operations", "entity_ids", "text[]", "20260613000000"),
    ("operations", "payload", "jsonb", INIT),
    ("operations", "payload_bytes", "bigint", "20260514000001"),
    ("operations", "vector_clock", "jsonb", INIT),
    ("operations", "schema_version", "integer", INIT),
    ("operations", "client_timestamp", "bigint", INIT),
    ("operations", "received_at", "bigint", INIT),
    ("operations", "is_payload_encrypted", "boolean", "20251212000000"),
    ("operations", "sync_import_reason", "text", "20260329000000"),
    ("operations", "repair_base_server_seq", "integer", "20260713000000"),
    ("user_sync_state", "user_id", "integer", INIT),
    ("user_sync_state", "last_seq", "integer", INIT),
    ("user_sync_state", "last_snapshot_seq", "integer", INIT),
    ("user_sync_state", "snapshot_data", "bytea", INIT),
    ("user_sync_state", "snapshot_at", "bigint", INIT),
    ("user_sync_state", "snapshot_schema_version", "integer", INIT),
    ("user_sync_state", "latest_full_state_seq", "integer", "20260513000000"),
    ("user_sync_state", "latest_full_state_vector_clock", "jsonb", "20260513000000"),
    ("user_sync_state", "latest_state_replacement_seq", "integer", "20260727000000"),
    ("sync_devices", "user_id", "integer", INIT),
    ("sync_devices", "client_id", "text", INIT),
    ("sync_devices", "last_seen_at", "bigint", INIT),
    ("sync_devices", "created_at", "bigint", INIT),
];

/// Columns that must be allowed to hold nothing: older schemas did not let them.
const NULLABLE: &[Column] = &[("users", "password_hash", "text", "20260102000000")];

/// Refuses every database but one of the old server at its newest schema. Looks at the catalogue, not at the history of
/// migrations, which many installations don't have.
pub(super) async fn check(connection: &mut PgConnection) -> Result<(), Refusal> {
    let rows = sqlx::query(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
         COALESCE(pg_get_expr(d.adbin, d.adrelid), '') FROM pg_attribute a \
         JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') \
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
         WHERE c.oid = ANY (ARRAY(SELECT to_regclass(quote_ident(t)) FROM unnest($1::text[]) AS t)) \
         AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(TABLES.map(str::to_owned).to_vec())
    .fetch_all(&mut *connection)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let found_column = Found {
            table: row.try_get(0)?,
            name: row.try_get(1)?,
            kind: row.try_get(2)?,
            not_null: row.try_get(3)?,
            default: row.try_get(4)?,
        };
        found.push(found_column);
    }
    judge(&found)?;
    let counts: bool = sqlx::query_scalar(
        "SELECT COALESCE(pg_get_serial_sequence('users', 'id')::regclass, to_regclass('users_id_seq')) IS NOT NULL",
    )
    .fetch_one(connection)
    .await?;
    if counts { Ok(()) } else { Err(Refusal::NoNumbers) }
}

const TABLES: [&str; 6] =
    ["users", "passkeys", "pending_passkey_registrations", "operations", "user_sync_state", "sync_devices"];

/// A column that the database has.
struct Found {
    table: String,
    name: String,
    kind: String,
    not_null: bool,
    default: String,
}

fn judge(found: &[Found]) -> Result<(), Refusal> {
    let column = |table: &str, name: &str| found.iter().find(|known| known.table == table && known.name == name);
    if column("operations", "op_id").is_some() {
        return Err(Refusal::Ours);
    }
    if column("users", "id").is_none() || column("operations", "id").is_none() {
        return Err(Refusal::NotUpstream);
    }
    let missing: Vec<_> = COLUMNS.iter().filter(|(table, name, ..)| column(table, name).is_none()).collect();
    if let Some((.., migration)) = missing.iter().max_by_key(|(.., migration)| *migration) {
        let names = missing.iter().map(|(table, name, ..)| format!("{table}.{name}")).collect::<Vec<_>>().join(", ");
        return Err(Refusal::Older { missing: names, migration });
    }
    for (table, name, kind, _) in COLUMNS {
        let Some(known) = column(table, name) else { continue };
        if known.kind != *kind {
            return Err(Refusal::OtherType {
                column: format!("{table}.{name}"),
                found: known.kind.clone(),
                expected: kind,
            });
        }
    }
    for (table, name, _, migration) in NULLABLE {
        if column(table, name).is_some_and(|known| known.not_null) {
            let missing = format!("{table}.{name} without NOT NULL");
            return Err(Refusal::Older { missing, migration });
        }
    }
    // Written by a newer server than is known: it would find nothing in a column that it relies on.
    let newer = found.iter().find(|known| {
        known.not_null
            && known.default.is_empty()
            && TABLES[..].contains(&known.table.as_str())
            && known.table != "pending_passkey_registrations"
            && !COLUMNS.iter().any(|(table, name, ..)| *table == known.table && *name == known.name)
    });
    match newer {
        Some(known) => Err(Refusal::Newer { column: format!("{}.{}", known.table, known.name) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Vec<Found> {
        let column = |(table, name, kind, _): &Column| Found {
            table: (*table).to_owned(),
            name: (*name).to_owned(),
            kind: (*kind).to_owned(),
            not_null: false,
            default: String::new(),
        };
        COLUMNS.iter().map(column).collect()
    }

    fn said(found: &[Found]) -> String {
        judge(found).expect_err("refused").to_string()
    }

    #[test]
    fn other_databases_are_told_apart() {
        assert!(said(&[]).contains("no database of the old server"));
        let mut ours = head();
        ours[0].table = "operations".to_owned();
        ours[0].name = "op_id".to_owned();
        assert!(said(&ours).contains("of this server"));
        let mut older = head();
        older.retain(|column| column.name != "latest_state_replacement_seq" && column.name != "login_token");
        let text = said(&older);
        assert!(text.contains("user_sync_state.latest_state_replacement_seq"), "{text}");
        assert!(text.contains("users.login_token") && text.contains("20260727000000"), "{text}");
        let mut strict = head();
        strict.iter_mut().filter(|column| column.name == "password_hash").for_each(|column| column.not_null = true);
        assert!(said(&strict).contains("20260102000000"));
        let mut other = head();
        other.iter_mut().filter(|column| column.name == "server_seq").for_each(|column| column.kind = "bigint".into());
        assert!(said(&other).contains("operations.server_seq"));
        let mut newer = head();
        newer.push(Found {
            table: "operations".to_owned(),
            name: "shard".to_owned(),
            kind: "integer".to_owned(),
            not_null: true,
            default: String::new(),
        });
        assert!(said(&newer).contains("operations.shard"));
        assert!(judge(&head()).is_ok());
    }
}
