//! The old server's database: reaching it, and being sure that nobody else works on it.

use std::str::FromStr as _;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Row as _};
use tokio::time::Instant;
use url::Url;

use super::{Refusal, schema};

/// By this name the target knows our session.
const APPLICATION: &str = "supersync-export";
/// Whoever holds this lock of the target exports into it.
const LOCK: i64 = 0x7375_7065_7262_6b31;
/// Whoever has just been stopped, or has just ended, may take a moment to be gone.
const LEAVING: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Parameters that only the old server's database layer understands.
const IGNORED: [&str; 6] =
    ["connection_limit", "pool_timeout", "pgbouncer", "connect_timeout", "socket_timeout", "sslaccept"];

/// Connects and makes sure that the database is one to write to. Changes nothing. `force`: even if others work on it.
pub(super) async fn open(url: &str, force: bool) -> Result<PgConnection, Refusal> {
    let (options, schema) = address(url)?;
    let mut connection = options.connect().await?;
    // Read as the contract says times are: in UTC. No plan may be cut short; waiting for a lock may.
    sqlx::query(
        "SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '10s', false), \
         set_config('idle_in_transaction_session_timeout', '0', false), set_config('TimeZone', 'UTC', false), \
         set_config('search_path', COALESCE($1, current_setting('search_path')), false)",
    )
    .bind(schema.map(|name| format!("\"{}\"", name.replace('"', "\"\""))))
    .execute(&mut connection)
    .await?;
    schema::check(&mut connection).await?;
    let until = Instant::now() + LEAVING;
    while !lock(&mut connection).await? {
        if Instant::now() >= until {
            return Err(Refusal::Busy);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !force {
        let others = others(&mut connection).await?;
        if !others.is_empty() {
            return Err(Refusal::InUse(others));
        }
    }
    Ok(connection)
}

async fn lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await
}

/// The address as the old server has it in its `DATABASE_URL`.
pub(in crate::upstream) fn address(url: &str) -> Result<(PgConnectOptions, Option<String>), Refusal> {
    let wrong = |what: &str| Refusal::Address(what.to_owned());
    let mut parsed =
        Url::parse(url).map_err(|_| wrong("expected postgres://user:password@host:port/name (value not shown)"))?;
    if !matches!(parsed.scheme(), "postgres" | "postgresql") || parsed.path().trim_matches('/').is_empty() {
        return Err(wrong("expected postgres://user:password@host:port/name (value not shown)"));
    }
    let parameters: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
    let mut kept = Vec::new();
    let mut schema = None;
    for (name, value) in parameters {
        match name.as_str() {
            "schema" => schema = Some(value),
            "application_name" => {}
            name if IGNORED.contains(&name) => {}
            _ => kept.push((name, value)),
        }
    }
    parsed.set_query(None);
    if !kept.is_empty() {
        parsed.query_pairs_mut().extend_pairs(&kept);
    }
    let options = PgConnectOptions::from_str(parsed.as_str()).map_err(|error| Refusal::Address(error.to_string()))?;
    Ok((options.application_name(APPLICATION).disable_statement_logging(), schema))
}

/// Who else has a session, in words.
pub(in crate::upstream) async fn others(connection: &mut PgConnection) -> Result<String, Refusal> {
    let until = Instant::now() + LEAVING;
    loop {
        // Without the right to see more, what others do is hidden, but not that they are there.
        let rows = sqlx::query(
            "SELECT COALESCE(NULLIF(application_name, ''), 'a program without a name'), count(*) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() \
             AND COALESCE(backend_type, 'client backend') = 'client backend' GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(&mut *connection)
        .await?;
        if rows.is_empty() || Instant::now() >= until {
            let named =
                rows.iter().map(|row| Ok(format!("{} ({})", row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?)));
            return Ok(named.collect::<Result<Vec<_>, sqlx::Error>>()?.join(", "));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_operators_have_them() {
        for wrong in ["", "old", "mysql://h/d", "postgres://h", "postgres://h/"] {
            assert!(matches!(address(wrong), Err(Refusal::Address(_))), "{wrong}");
        }
        let (options, schema) = address(
            "postgresql://u:p@h:5433/d?connection_limit=60&pool_timeout=10&schema=old&sslmode=disable&application_name=x",
        )
        .expect("an address");
        assert_eq!((options.get_host(), options.get_port(), options.get_database()), ("h", 5433, Some("d")));
        assert_eq!(options.get_application_name(), Some(APPLICATION));
        assert_eq!(schema.as_deref(), Some("old"));
    }
}
