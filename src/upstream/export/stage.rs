//! What must be known of all accounts before one is written: temporary tables in our session of the target.
//!
//! Addresses and passkeys are unique among all accounts there, so that what one account may have depends on the others.

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::error::ExportError;
use super::options::Options;
use super::report::{Missing, MissingAccount};
use super::source::Source;
use crate::protocol::UserId;

/// Rows sent at a time.
const ROWS: usize = 1_000;
/// Accounts deleted in one transaction.
const DELETED: usize = 100;

/// Notes all accounts, passkeys, and links that are still good at `now_ms`. Returns how many links there are. Accounts with
/// numbers beyond the target's fail by themselves.
pub(super) async fn fill(connection: &mut PgConnection, source: &Source, now_ms: i64) -> Result<u64, ExportError> {
    for sql in [
        "CREATE TEMP TABLE our_users (id INTEGER PRIMARY KEY, email TEXT NOT NULL, created_at TIMESTAMP(3) NOT NULL)",
        "CREATE TEMP TABLE our_passkeys (user_id INTEGER NOT NULL, credential_id BYTEA NOT NULL, public_key BYTEA NOT NULL, \
         counter BIGINT NOT NULL, transports TEXT, created_at TIMESTAMP(3) NOT NULL, last_used_at TIMESTAMP(3))",
        "CREATE TEMP TABLE our_links (user_id INTEGER NOT NULL, token_hash BYTEA NOT NULL)",
    ] {
        sqlx::query(sql).execute(&mut *connection).await?;
    }
    let users = "INSERT INTO pg_temp.our_users SELECT id, email, TIMESTAMP 'epoch' + created_at * INTERVAL '1 millisecond' \
                 FROM json_to_recordset($1::json) AS r(id BIGINT, email TEXT, created_at BIGINT) WHERE id <= 2147483647";
    note(connection, source, "users", &["id", "email", "created_at"], users).await?;
    let names = &["user_id", "credential_id", "public_key", "counter", "transports", "created_at", "last_used_at"];
    let passkeys = "INSERT INTO pg_temp.our_passkeys SELECT user_id, credential_id, public_key, counter, transports, \
                    TIMESTAMP 'epoch' + created_at * INTERVAL '1 millisecond', \
                    TIMESTAMP 'epoch' + last_used_at * INTERVAL '1 millisecond' \
                    FROM json_to_recordset($1::json) AS r(user_id BIGINT, credential_id BYTEA, public_key BYTEA, \
                    counter BIGINT, transports TEXT, created_at BIGINT, last_used_at BIGINT) WHERE user_id <= 2147483647";
    note(connection, source, "passkeys", names, passkeys).await?;
    let links = format!(
        "INSERT INTO pg_temp.our_links SELECT user_id, token_hash FROM json_to_recordset($1::json) \
         AS r(user_id BIGINT, token_hash BYTEA, expires_at BIGINT) WHERE user_id <= 2147483647 AND expires_at >= {now_ms}"
    );
    let mut count = 0;
    // Registrations with a passkey among them.
    for table in ["one_time_tokens", "pending_passkeys"] {
        count += note(connection, source, table, &["user_id", "token_hash", "expires_at"], &links).await?;
    }
    for sql in [
        "ANALYZE pg_temp.our_users",
        "CREATE INDEX ON pg_temp.our_passkeys (user_id)",
        "ANALYZE pg_temp.our_passkeys",
        "CREATE INDEX ON pg_temp.our_links (user_id)",
    ] {
        sqlx::query(sql).execute(&mut *connection).await?;
    }
    Ok(count)
}

/// Notes rows of a table of ours by a constant statement. Returns how many it took.
async fn note(
    connection: &mut PgConnection,
    source: &Source,
    table: &'static str,
    columns: &'static [&'static str],
    statement: &str,
) -> Result<u64, ExportError> {
    let mut count = 0;
    let noting = async |mut from: tokio::sync::mpsc::Receiver<serde_json::Value>| {
        let mut rows = Vec::new();
        while from.recv_many(&mut rows, ROWS).await > 0 {
            let rows = serde_json::Value::Array(std::mem::take(&mut rows)).to_string();
            let statement = AssertSqlSafe(statement.to_owned());
            count += sqlx::query(statement).bind(rows).execute(&mut *connection).await?.rows_affected();
        }
        Ok(())
    };
    source.rows(ROWS, table, columns, noting).await?;
    Ok(count)
}

/// Finds the target's accounts that this server does not have, and deletes those that it had once, if that is wanted.
/// `highest`: the highest number that this server has given out. Above it the target's accounts are its own. Where it is
/// known which accounts were taken over, the others were left out then, and never deleted here; and an account is
/// deleted only as it was taken over, unless `overwrite` is wanted. Returns also the accounts that are not.
pub(super) async fn missing(
    connection: &mut PgConnection,
    highest: i64,
    options: &Options,
) -> Result<(Missing, Vec<UserId>), ExportError> {
    let taken = options.taken.as_ref();
    let (mut missing, mut changed) = (Missing::default(), Vec::new());
    let mut after = 0;
    loop {
        let rows: Vec<(i32, i64)> = sqlx::query_as(
            "SELECT u.id, (SELECT count(*) FROM operations o WHERE o.user_id = u.id) FROM users u WHERE u.id > $1 \
             AND NOT EXISTS (SELECT FROM pg_temp.our_users s WHERE s.id = u.id) ORDER BY u.id LIMIT $2",
        )
        .bind(after)
        .bind(i64::try_from(DELETED).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
        let mut deleted_here = Vec::new();
        for &(id, operations) in &rows {
            after = id;
            let account = MissingAccount { account: id.into(), operations };
            let then = taken.map(|taken| taken.get(&i64::from(id)));
            if i64::from(id) > highest || matches!(then, Some(None)) {
                missing.unknown.add(account);
                continue;
            }
            missing.deleted_here.add(account);
            if !options.delete_missing {
                continue;
            }
            match then.flatten() {
                Some(then) if !options.overwrite && !then.is_still(connection, id).await? => changed.push(id.into()),
                _ => deleted_here.push(id),
            }
        }
        if !deleted_here.is_empty() {
            // What belongs to an account goes with it.
            let done = sqlx::query("DELETE FROM users WHERE id = ANY($1)")
                .bind(deleted_here)
                .execute(&mut *connection)
                .await?;
            missing.deleted_there += done.rows_affected();
        }
        if rows.len() < DELETED {
            return Ok((missing, changed));
        }
    }
}

/// Gives the accounts that are in both databases the addresses that they have here, all at once: two may have swapped
/// theirs. Where an address is taken by a third one, nothing is changed here, and the account will fail.
pub(super) async fn addresses(connection: &mut PgConnection) -> Result<(), ExportError> {
    let mut tx = connection.begin().await?;
    let parked = sqlx::query(
        "UPDATE users u SET email = 'moving-' || u.id || '@invalid' FROM pg_temp.our_users s \
         WHERE s.id = u.id AND s.created_at = u.created_at AND s.email <> u.email",
    )
    .execute(&mut *tx)
    .await?;
    if parked.rows_affected() < 2 {
        // Alone it can be done with the rest of the account.
        return Ok(tx.rollback().await?);
    }
    let moved = sqlx::query(
        "UPDATE users u SET email = s.email FROM pg_temp.our_users s \
         WHERE s.id = u.id AND s.created_at = u.created_at AND s.email <> u.email",
    )
    .execute(&mut *tx)
    .await;
    match moved {
        Ok(_) => Ok(tx.commit().await?),
        Err(error) if error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation) => {
            Ok(tx.rollback().await?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes sure that the target gives out no number that was given out here. Returns whether it had to be raised.
pub(super) async fn raise_numbers(connection: &mut PgConnection, highest: i64) -> Result<bool, ExportError> {
    let row = sqlx::query(
        "WITH numbers AS (SELECT COALESCE(pg_get_serial_sequence('users', 'id')::regclass, to_regclass('users_id_seq')) \
         AS s, GREATEST($1, (SELECT max(id) FROM users)) AS highest) \
         SELECT setval(s, highest) FROM numbers WHERE highest > 0 AND highest > COALESCE(pg_sequence_last_value(s), 0)",
    )
    // Accounts with greater numbers have failed.
    .bind(highest.min(i32::MAX.into()))
    .fetch_optional(connection)
    .await?;
    Ok(row.is_some())
}
