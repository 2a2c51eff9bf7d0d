//! The old server's database: reaching it, and being sure that it is one to write to: at its head schema (operations
//! contract, section 8.1), which the server that will be started on it expects, and nobody else works on it.

use sqlx::postgres::PgConnection;
use tokio::time::Instant;

use super::error::ExportError;
use super::options::Options;
use crate::upstream::database::{self, LEAVING, LOOK_EVERY};
use crate::upstream::schema::{Found, OURS, PASSKEYS, TABLES, columns, find};

/// By this name the target knows our session.
const APPLICATION: &str = "supersync-export";
/// Whoever holds this lock of the target exports into it.
const LOCK: i64 = 0x7375_7065_7262_6b31;
/// What is done with its tables.
const DONE: [(&str, &[&str]); 6] = [
    ("users", &["SELECT", "INSERT", "UPDATE"]),
    ("operations", &["SELECT", "INSERT", "DELETE"]),
    ("user_sync_state", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("sync_devices", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("passkeys", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    (NEVER_FILLED, &["SELECT", "DELETE"]),
];
/// Nothing is put into it; rows are only deleted.
const NEVER_FILLED: &str = "pending_passkey_registrations";

/// Connects and makes sure that the database is one to write to. Changes nothing.
pub(super) async fn open(url: &str, options: &Options) -> Result<PgConnection, ExportError> {
    let refused = |what: String| Err(ExportError::Refused(what));
    let Some(address) = database::address(url, APPLICATION) else {
        return refused(
            "--to: expected postgres://user:password@host:port/name, with % @ / : ? # of the password percent-encoded \
             (value not shown)"
                .to_owned(),
        );
    };
    let mut connection = database::connect(address).await?;
    judge(&database::columns(&mut connection).await?).map_err(ExportError::Refused)?;
    let counts: bool = sqlx::query_scalar(
        "SELECT COALESCE(pg_get_serial_sequence('users', 'id')::regclass, to_regclass('users_id_seq')) IS NOT NULL",
    )
    .fetch_one(&mut connection)
    .await?;
    if !counts {
        let what = "the target has no sequence users_id_seq, from which the old server numbers its accounts";
        return refused(what.to_owned());
    }
    // The sequence is read and raised at the end, when everything else is written.
    let mut lacking = database::missing_rights(&mut connection, &DONE, &["USAGE, SELECT", "UPDATE"], true).await?;
    if options.delete_missing {
        let users: (_, &[_]) = ("users", &["DELETE"]);
        lacking.extend(database::missing_rights(&mut connection, &[users], &[], false).await?);
    }
    if !lacking.is_empty() {
        return refused(format!("the role of --to lacks rights in the target: {}", lacking.join("; ")));
    }
    let until = Instant::now() + LEAVING;
    let lock = "SELECT pg_try_advisory_lock($1)";
    while !sqlx::query_scalar::<_, bool>(lock).bind(LOCK).fetch_one(&mut connection).await? {
        if Instant::now() >= until {
            return refused("another export into this database is running".to_owned());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    if !options.force {
        let others = database::others(&mut connection, APPLICATION).await?;
        if !others.is_empty() {
            return refused(format!(
                "the target database is in use by {others}. Stop the old server and everything else that uses it; --force \
                 exports regardless"
            ));
        }
    }
    Ok(connection)
}

/// Says why this is no database of the old server at its newest schema.
fn judge(found: &[Found]) -> Result<(), String> {
    if find(found, OURS.0, OURS.1).is_some() {
        return Err("the target is a database of this server, not of the old one".to_owned());
    }
    if find(found, "users", "id").is_none() || find(found, "operations", "id").is_none() {
        return Err("the target is no database of the old server: it has no tables users and operations".to_owned());
    }
    let older = |missing: &str, migration: &str| {
        Err(format!(
            "the target's schema is older than the newest one of the old server; it lacks {missing}. The old server's own \
             migrations (up to {migration}) bring it: run them there (`npx prisma migrate deploy`), then this command again"
        ))
    };
    let missing: Vec<_> = columns().filter(|column| find(found, column.table, column.name).is_none()).collect();
    if let Some(migration) = missing.iter().map(|column| column.since).max() {
        let names = missing.iter().map(|column| format!("{}.{}", column.table, column.name)).collect::<Vec<_>>();
        return older(&names.join(", "), migration);
    }
    for column in columns() {
        let there = find(found, column.table, column.name);
        if let Some(there) = there.filter(|there| there.kind != column.kind) {
            return Err(format!(
                "the target's column {}.{} is of type {}, not {}: this is not the old server's schema",
                column.table, column.name, there.kind, column.kind
            ));
        }
    }
    if find(found, "users", "password_hash").is_some_and(|there| there.not_null) {
        return older("users.password_hash without NOT NULL", PASSKEYS);
    }
    // Written by a newer server than is known: it would find nothing in a column that it relies on.
    let newer = found.iter().find(|there| {
        there.not_null
            && !there.has_default
            && TABLES.contains(&there.table.as_str())
            && there.table != NEVER_FILLED
            && !columns().any(|column| column.table == there.table && column.name == there.name)
    });
    match newer {
        Some(there) => Err(format!(
            "the target's schema is newer than what this program knows: {}.{} must be given a value. A newer version of \
             this program may know it",
            there.table, there.name
        )),
        None => Ok(()),
    }
}
