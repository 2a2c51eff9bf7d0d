//! What must be known of all accounts before one is written: temporary tables in our session of the target.
//!
//! Addresses and passkeys are unique among all accounts there, so that what one account may have depends on the others.

use sqlx::{Connection as _, PgConnection, Row as _};
use tokio::sync::mpsc;

use super::report::{Missing, MissingAccount};
use super::source::{Account, Link, Passkey};
use super::{ExportError, Options};
use crate::protocol::UserId;

/// Rows sent at a time.
const ROWS: usize = 1_000;
/// Accounts deleted in one transaction.
const DELETED: usize = 100;

/// Makes the temporary tables.
pub(super) async fn create(connection: &mut PgConnection) -> Result<(), ExportError> {
    for sql in [
        "CREATE TEMP TABLE our_users (id INTEGER PRIMARY KEY, email TEXT NOT NULL, created_at TIMESTAMP(3) NOT NULL)",
        "CREATE TEMP TABLE our_passkeys (user_id INTEGER NOT NULL, credential_id BYTEA NOT NULL, public_key BYTEA NOT NULL, \
         counter BIGINT NOT NULL, transports TEXT, created_at TIMESTAMP(3) NOT NULL, last_used_at TIMESTAMP(3))",
        "CREATE TEMP TABLE our_links (user_id INTEGER NOT NULL, token_hash BYTEA NOT NULL)",
    ] {
        sqlx::query(sql).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Takes up to [`ROWS`] of what comes; nothing: that was all.
async fn some<T>(from: &mut mpsc::Receiver<T>) -> Vec<T> {
    let mut rows = Vec::new();
    from.recv_many(&mut rows, ROWS).await;
    rows
}

/// An account's number as the target has it. Greater ones belong to accounts that fail by themselves.
fn small(id: UserId) -> Option<i32> {
    i32::try_from(id).ok()
}

/// Notes all accounts.
pub(super) async fn users(connection: &mut PgConnection, mut from: mpsc::Receiver<Account>) -> Result<(), ExportError> {
    loop {
        let rows = some(&mut from).await;
        if rows.is_empty() {
            break;
        }
        let (mut ids, mut emails, mut created) = (Vec::new(), Vec::new(), Vec::new());
        for account in rows {
            let Some(id) = small(account.id) else { continue };
            ids.push(id);
            emails.push(account.email);
            created.push(account.created_at);
        }
        sqlx::query(
            "INSERT INTO pg_temp.our_users SELECT id, email, TIMESTAMP 'epoch' + ms * INTERVAL '1 millisecond' \
             FROM unnest($1::int4[], $2::text[], $3::int8[]) AS r(id, email, ms)",
        )
        .bind(ids)
        .bind(emails)
        .bind(created)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query("ANALYZE pg_temp.our_users").execute(connection).await?;
    Ok(())
}

/// Notes all passkeys.
pub(super) async fn passkeys(
    connection: &mut PgConnection,
    mut from: mpsc::Receiver<Passkey>,
) -> Result<(), ExportError> {
    loop {
        let rows = some(&mut from).await;
        if rows.is_empty() {
            break;
        }
        let rows: Vec<_> = rows.into_iter().filter_map(|key| Some((small(key.user)?, key))).collect();
        sqlx::query(
            "INSERT INTO pg_temp.our_passkeys SELECT user_id, credential_id, public_key, counter, transports, \
             TIMESTAMP 'epoch' + created * INTERVAL '1 millisecond', TIMESTAMP 'epoch' + used * INTERVAL '1 millisecond' \
             FROM unnest($1::int4[], $2::bytea[], $3::bytea[], $4::int8[], $5::text[], $6::int8[], $7::int8[]) \
             AS r(user_id, credential_id, public_key, counter, transports, created, used)",
        )
        .bind(rows.iter().map(|(user, _)| *user).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.credential_id.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.public_key.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.counter).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.transports.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.created_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, key)| key.last_used_at).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query("CREATE INDEX ON pg_temp.our_passkeys (user_id)").execute(&mut *connection).await?;
    sqlx::query("ANALYZE pg_temp.our_passkeys").execute(connection).await?;
    Ok(())
}

/// Notes which links are still good. Returns how many.
pub(super) async fn links(
    connection: &mut PgConnection,
    mut from: mpsc::Receiver<Link>,
    now_ms: i64,
) -> Result<u64, ExportError> {
    let mut count = 0;
    loop {
        let rows = some(&mut from).await;
        if rows.is_empty() {
            break;
        }
        let rows: Vec<_> = rows
            .into_iter()
            .filter(|link| link.expires_at >= now_ms)
            .filter_map(|link| Some((small(link.user)?, link.token_hash)))
            .collect();
        count += u64::try_from(rows.len()).unwrap_or(0);
        sqlx::query("INSERT INTO pg_temp.our_links SELECT * FROM unnest($1::int4[], $2::bytea[])")
            .bind(rows.iter().map(|(user, _)| *user).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, hash)| hash.as_slice()).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("CREATE INDEX ON pg_temp.our_links (user_id)").execute(connection).await?;
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
        let rows = sqlx::query(
            "SELECT u.id, (SELECT count(*) FROM operations o WHERE o.user_id = u.id) FROM users u WHERE u.id > $1 \
             AND NOT EXISTS (SELECT FROM pg_temp.our_users s WHERE s.id = u.id) ORDER BY u.id LIMIT $2",
        )
        .bind(after)
        .bind(i64::try_from(DELETED).unwrap_or(i64::MAX))
        .fetch_all(&mut *connection)
        .await?;
        let mut deleted_here = Vec::new();
        for row in &rows {
            let (id, operations): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
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
