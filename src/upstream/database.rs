//! The old server's database as a place: how it is reached, what it says of itself, and who else works on it.

use std::str::FromStr as _;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::time::Instant;

use super::schema::{Found, TABLES};
use crate::config::postgres_address;

/// Whoever has just been stopped may take a moment to be gone.
pub const LEAVING: Duration = Duration::from_secs(3);
/// How often it is looked whether somebody is gone.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How to connect to an address as the old server has it in its `DATABASE_URL`, and the schema that it names. By
/// `application` the database knows the session. `None`: it is no address.
#[must_use]
pub fn address(text: &str, application: &str) -> Option<(PgConnectOptions, Option<String>)> {
    let (url, schema) = postgres_address(text)?;
    let options = PgConnectOptions::from_str(url.expose_secret()).ok()?;
    Some((options.application_name(application).disable_statement_logging(), schema))
}

/// Opens a session.
///
/// # Errors
/// What kept it from connecting.
pub async fn connect((options, schema): (PgConnectOptions, Option<String>)) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    // Times are in UTC, as the contract says, and texts of values as `pg_dump` writes them. No plan may be cut short;
    // waiting for a lock may.
    sqlx::query(
        "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '10s', false), \
         set_config('idle_in_transaction_session_timeout', '0', false), set_config('jit', 'off', false), \
         set_config('TimeZone', 'UTC', false), \
         set_config('DateStyle', 'ISO', false), set_config('bytea_output', 'hex', false), \
         set_config('search_path', COALESCE($1, current_setting('search_path')), false)",
    )
    .bind(schema.map(|name| format!("\"{}\"", name.replace('"', "\"\""))))
    .execute(&mut connection)
    .await?;
    Ok(connection)
}

/// The columns of the [`TABLES`], as far as they are there: the catalogue, not the history of migrations, which many
/// installations don't have.
///
/// # Errors
/// The database's.
pub async fn columns(connection: &mut PgConnection) -> sqlx::Result<Vec<Found>> {
    let rows: Vec<(String, String, String, bool, bool)> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), a.attnotnull, \
         a.atthasdef OR a.attidentity <> '' \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p') \
         WHERE c.oid = ANY (ARRAY(SELECT to_regclass(quote_ident(t)) FROM unnest($1::text[]) AS t)) \
         AND a.attnum > 0 AND NOT a.attisdropped",
    )
    .bind(TABLES.map(str::to_owned).to_vec())
    .fetch_all(connection)
    .await?;
    let found = |(table, name, kind, not_null, has_default)| Found { table, name, kind, not_null, has_default };
    Ok(rows.into_iter().map(found).collect())
}

/// The statements that give the session's role the rights which it lacks: `tables`, those that are there, with what is done
/// with them, and what is done with the sequence that numbers accounts. Of rights in one text any will do.
///
/// # Errors
/// The database's.
pub async fn missing_rights(
    connection: &mut PgConnection,
    tables: &[(&str, &[&str])],
    numbers: &[&str],
    has_temporary_tables: bool,
) -> sqlx::Result<Vec<String>> {
    let rights = tables.iter().flat_map(|(table, rights)| rights.iter().map(move |right| (*table, *right)));
    let (tables, rights): (Vec<_>, Vec<_>) = rights.unzip();
    sqlx::query_scalar(
        "SELECT format('GRANT %s ON TABLE %s TO %I', string_agg(r, ', '), c, current_user) \
         FROM unnest($1::text[], $2::text[]) AS n(t, r), to_regclass(quote_ident(t)) AS c \
         WHERE c IS NOT NULL AND NOT has_table_privilege(c, r) GROUP BY c \
         UNION ALL SELECT format('GRANT %s ON SEQUENCE %s TO %I', string_agg(r, ', '), s, current_user) \
         FROM unnest($3::text[]) AS r, \
         COALESCE(pg_get_serial_sequence('users', 'id')::regclass, to_regclass('users_id_seq')) AS s \
         WHERE s IS NOT NULL AND NOT has_sequence_privilege(s, r) GROUP BY s \
         UNION ALL SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user) \
         WHERE $4 AND NOT has_database_privilege(current_database(), 'TEMPORARY')",
    )
    .bind(tables)
    .bind(rights)
    .bind(numbers.to_vec())
    .bind(has_temporary_tables)
    .fetch_all(connection)
    .await
}

/// Who else has a session, in words; empty if nobody, but for sessions of this kind. Waits a moment for them to leave.
///
/// # Errors
/// The database's.
pub async fn others(connection: &mut PgConnection, application: &str) -> sqlx::Result<String> {
    let until = Instant::now() + LEAVING;
    loop {
        // Without the right to see more, what others do is hidden, but not that they are there.
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT COALESCE(NULLIF(application_name, ''), 'a program without a name'), count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND application_name IS DISTINCT FROM $1 \
             AND COALESCE(backend_type, 'client backend') = 'client backend' GROUP BY 1 ORDER BY 1",
        )
        .bind(application)
        .fetch_all(&mut *connection)
        .await?;
        if rows.is_empty() || Instant::now() >= until {
            let named = rows.iter().map(|(name, count)| format!("{name} ({count})"));
            return Ok(named.collect::<Vec<_>>().join(", "));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        // Within a transaction the answer would stay the same.
        sqlx::query("SELECT pg_stat_clear_snapshot()").execute(&mut *connection).await?;
    }
}
