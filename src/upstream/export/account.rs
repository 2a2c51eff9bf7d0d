//! One account: all of it in one transaction of the target, or nothing.

use std::sync::atomic::AtomicU64;

use sqlx::{Connection as _, PgConnection};

use super::error::{Stop, WENT_ON, small};
use super::operations;
use super::options::{Options, Taken};
use super::report::{Counts, Rows};
use super::source::{Account, Device, Reading};
use crate::upstream::import::raw_id;

/// What became of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The target did not have it.
    Added,
    /// Something of it was otherwise.
    Changed,
    /// It was like this already.
    Unchanged,
}

/// What was done to an account, beside what is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) fate: Fate,
    /// Whether it has a restore point that the old server can't restore.
    pub(super) is_beyond_restoring: bool,
}

/// Writes an account. When it is left as it was, some of its operations may not have been taken.
pub(super) async fn write(
    connection: &mut PgConnection,
    reading: &mut Reading,
    options: &Options,
    counts: &mut Counts,
    progress: &AtomicU64,
) -> Result<Done, Stop> {
    let id = small("number", reading.account.id)?;
    let mut tx = connection.begin().await?;
    let done = inside(&mut tx, id, reading, options, counts, progress).await;
    match &done {
        Ok(_) => tx.commit().await?,
        Err(_) => tx.rollback().await?,
    }
    done
}

async fn inside(
    tx: &mut PgConnection,
    id: i32,
    reading: &mut Reading,
    options: &Options,
    counts: &mut Counts,
    progress: &AtomicU64,
) -> Result<Done, Stop> {
    let before = *counts;
    let account = &reading.account;
    small("last sequence", account.last_seq)?;
    let password = account.password_hash.as_deref().filter(|hash| is_bcrypt(hash));
    let mut fate = user(tx, id, account, password, options).await?;
    if !options.overwrite {
        new_passkeys(tx, id, options.taken_of(account.id)).await?;
    }
    let has_passkey = passkeys(tx, id, &mut counts.passkeys).await?;
    if account.password_hash.is_some() && password.is_none() {
        counts.lost.passwords += 1;
        counts.lost.passwords_without_passkey += u64::from(!has_passkey);
    }
    counts.lost.locks += u64::from(account.is_locked);
    let mut changed = links(tx, id, &mut counts.lost.links).await?;
    let (fingerprint, is_beyond_restoring) = operations::write(tx, id, reading, options, counts, progress).await?;
    let account = &reading.account;
    let (now, then) = (counts.operations, before.operations);
    let ops_changed = (now.added, now.removed) != (then.added, then.removed);
    changed |= state(tx, id, account, ops_changed).await?;
    devices(tx, id, &account.devices, &mut counts.devices).await?;
    if options.verify && !options.dry_run {
        fingerprint.verify(tx, id).await?;
    }
    changed |= ops_changed || (counts.passkeys, counts.devices) != (before.passkeys, before.devices);
    if changed && fate == Fate::Unchanged {
        fate = Fate::Changed;
    }
    Ok(Done { fate, is_beyond_restoring })
}

/// Whether the old server can check it. It knows nothing else.
fn is_bcrypt(hash: &str) -> bool {
    ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind))
}

/// Writes the account itself.
async fn user(
    tx: &mut PgConnection,
    id: i32,
    account: &Account,
    password: Option<&str>,
    options: &Options,
) -> Result<Fate, Stop> {
    let theirs: Option<(String, bool, bool, i32)> = sqlx::query_as(
        "SELECT email, created_at = TIMESTAMP 'epoch' + $2 * INTERVAL '1 millisecond', is_verified <> 0, token_version \
         FROM users WHERE id = $1 FOR UPDATE",
    )
    .bind(id)
    .bind(account.created_at)
    .fetch_optional(&mut *tx)
    .await?;
    let (has_address, is_same) = match &theirs {
        Some((email, is_of_the_same_time, ..)) => (*email == account.email, *is_of_the_same_time),
        None => (false, true),
    };
    if !has_address && !is_same {
        return Err(
            "in the target this number belongs to another account, made at another time: the old server has gone on \
                    working after the take-over"
                .to_owned()
                .into(),
        );
    }
    if let Some((.., is_verified, token_version)) = theirs.as_ref().filter(|_| !options.overwrite) {
        // Neither is ever taken back.
        if *is_verified && !account.is_verified {
            return Err(format!("in the target its address has been verified, which it is not here: {WENT_ON}").into());
        }
        if i64::from(*token_version) > account.token_version {
            return Err(format!("in the target its tokens have been revoked, which are good here: {WENT_ON}").into());
        }
    }
    if !has_address {
        let holder: Option<(i32, bool)> = sqlx::query_as(
            "SELECT u.id, NOT EXISTS (SELECT FROM pg_temp.our_users s WHERE s.id = u.id) FROM users u WHERE u.email = $1",
        )
        .bind(&account.email)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some((holder, is_missing)) = holder {
            let remedy = if is_missing { ", which was deleted here; --delete-missing deletes it there" } else { "" };
            return Err(format!("in the target its address belongs to account {holder}{remedy}").into());
        }
    }
    // Of an account that is there the time of its creation is the same.
    let written = sqlx::query(
        "INSERT INTO users AS u (id, email, password_hash, is_verified, token_version, failed_login_attempts, locked_until, \
         terms_accepted_at, storage_quota_bytes, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, TIMESTAMP 'epoch' + $10 * INTERVAL '1 millisecond') \
         ON CONFLICT (id) DO UPDATE SET email = $2, password_hash = $3, is_verified = $4, token_version = $5, \
         failed_login_attempts = $6, locked_until = $7, terms_accepted_at = $8, storage_quota_bytes = $9 \
         WHERE (u.email, u.password_hash, u.is_verified, u.token_version, u.failed_login_attempts, u.locked_until, \
         u.terms_accepted_at, u.storage_quota_bytes) IS DISTINCT FROM ($2, $3, $4, $5, $6, $7, $8, $9)",
    )
        .bind(id)
        .bind(&account.email)
        .bind(password)
        .bind(i32::from(account.is_verified))
        .bind(small("token version", account.token_version)?)
        .bind(i32::try_from(account.failed_login_attempts).unwrap_or(i32::MAX))
        .bind(account.locked_until)
        .bind(account.terms_accepted_at)
        .bind(account.storage_quota_bytes)
        .bind(account.created_at)
        .execute(tx)
        .await?;
    Ok(match written.rows_affected() {
        _ if theirs.is_none() => Fate::Added,
        0 => Fate::Unchanged,
        _ => Fate::Changed,
    })
}

/// The id of a passkey there that was made here: of the authenticator's id, so that it is the same next time; as long as
/// those that the old server makes.
const MADE_HERE: &str = "'ss' || left(encode(sha256(credential_id), 'hex'), 23)";

/// Fails if the target has a passkey that was never here: neither taken over nor written by an export.
async fn new_passkeys(tx: &mut PgConnection, id: i32, taken: Option<&Taken>) -> Result<(), Stop> {
    let sql = format!(
        "SELECT credential_id, id = {MADE_HERE} OR (extract(epoch FROM created_at) * 1000)::bigint <= $2 FROM passkeys p \
         WHERE user_id = $1 AND NOT EXISTS (SELECT FROM pg_temp.our_passkeys s \
         WHERE s.user_id = $1 AND s.credential_id = p.credential_id)"
    );
    let only_there: Vec<(Vec<u8>, Option<bool>)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .bind(taken.and_then(|taken| taken.at))
        .fetch_all(&mut *tx)
        .await?;
    for (credential, was_here) in only_there {
        // Its id may have been repaired when it was taken over.
        let is_repaired = match raw_id(&credential) {
            Some(raw) => {
                let sql = "SELECT EXISTS (SELECT FROM pg_temp.our_passkeys WHERE user_id = $1 AND credential_id = $2)";
                sqlx::query_scalar(sql).bind(id).bind(raw).fetch_one(&mut *tx).await?
            }
            None => false,
        };
        if was_here != Some(true) && !is_repaired {
            return Err(format!("in the target it has a passkey that this server never had: {WENT_ON}").into());
        }
    }
    Ok(())
}

/// Writes the passkeys: those that we don't have are gone. They are the same if the authenticator's id is. Returns whether
/// there is any.
async fn passkeys(tx: &mut PgConnection, id: i32, counts: &mut Rows) -> Result<bool, Stop> {
    let removed = sqlx::query(
        "DELETE FROM passkeys p WHERE p.user_id = $1 AND NOT EXISTS (SELECT FROM pg_temp.our_passkeys s \
         WHERE s.user_id = $1 AND s.credential_id = p.credential_id)",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    // Constant names.
    let written = sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO passkeys (id, user_id, credential_id, public_key, counter, transports, created_at, last_used_at) \
         SELECT {MADE_HERE}, user_id, credential_id, public_key, counter, \
         transports, created_at, last_used_at FROM pg_temp.our_passkeys WHERE user_id = $1 \
         ON CONFLICT (credential_id) DO UPDATE SET public_key = EXCLUDED.public_key, counter = EXCLUDED.counter, \
         transports = EXCLUDED.transports, created_at = EXCLUDED.created_at, last_used_at = EXCLUDED.last_used_at \
         WHERE passkeys.user_id = EXCLUDED.user_id AND (passkeys.public_key, passkeys.counter, passkeys.transports, \
         passkeys.created_at, passkeys.last_used_at) IS DISTINCT FROM (EXCLUDED.public_key, EXCLUDED.counter, \
         EXCLUDED.transports, EXCLUDED.created_at, EXCLUDED.last_used_at)"
    )))
    .bind(id)
    .execute(&mut *tx)
    .await?;
    let (ours, theirs): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM pg_temp.our_passkeys WHERE user_id = $1), \
         (SELECT count(*) FROM passkeys WHERE user_id = $1)",
    )
    .bind(id)
    .fetch_one(tx)
    .await?;
    if ours != theirs {
        return Err("in the target a passkey of it belongs to another account".to_owned().into());
    }
    counts.written += written.rows_affected();
    counts.removed += removed.rows_affected();
    Ok(ours > 0)
}

/// Makes links of the old server void that have been used here or replaced by others. Ours can't be written there: the
/// tokens in them are not stored, only their hashes. Returns whether there was one; those that stay good are not lost.
async fn links(tx: &mut PgConnection, id: i32, lost: &mut u64) -> Result<bool, Stop> {
    let tokens: Vec<(String, bool)> = sqlx::query_as(
        "SELECT t.name, EXISTS (SELECT FROM pg_temp.our_links s \
         WHERE s.user_id = $1 AND s.token_hash = sha256(convert_to(t.token, 'UTF8'))) \
         FROM users u, LATERAL (VALUES ('verification_token', verification_token), \
         ('reset_password_token', reset_password_token), ('passkey_recovery_token', passkey_recovery_token), \
         ('login_token', login_token)) AS t(name, token) WHERE u.id = $1 AND t.token IS NOT NULL",
    )
    .bind(id)
    .fetch_all(&mut *tx)
    .await?;
    let mut changed = false;
    for (column, is_good) in tokens {
        if is_good {
            *lost = lost.saturating_sub(1);
            continue;
        }
        changed = true;
        // Constant names.
        let sql = format!("UPDATE users SET {column} = NULL, {column}_expires_at = NULL WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).execute(&mut *tx).await?;
    }
    let pending = sqlx::query(
        "DELETE FROM pending_passkey_registrations p WHERE p.user_id = $1 AND NOT EXISTS (SELECT FROM pg_temp.our_links s \
         WHERE s.user_id = $1 AND s.token_hash = sha256(convert_to(p.verification_token, 'UTF8')))",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    Ok(changed || pending.rows_affected() > 0)
}

/// Writes where the account's sequence stands, and what it uses. Returns whether that was otherwise.
///
/// What the old server keeps in this row to save itself work it forgets when operations have changed; but for the newest
/// full state's clock, which can't be computed any more when what came before that has been pruned, and a cached state
/// that was taken over because it stands for operations which are gone.
///
/// An account without data has no row: only then devices are told that there is nothing, and the first to come uploads
/// what it has. (With the row and without operations they would believe to have everything.) Its sequence begins at 1
/// again, as after every wipe on the old server.
async fn state(tx: &mut PgConnection, id: i32, account: &Account, ops_changed: bool) -> Result<bool, Stop> {
    let changed = if account.is_empty() {
        let sql = "DELETE FROM user_sync_state WHERE user_id = $1 AND (last_seq <> 0 OR snapshot_data IS NOT NULL)";
        sqlx::query(sql).bind(id).execute(&mut *tx).await?
    } else {
        let (full_state_seq, full_state_clock) = match &account.full_state {
            Some((seq, clock)) => (Some(small("newest full state", *seq)?), Some(clock.as_str())),
            None => (None, None),
        };
        let kept = account.kept_snapshot().map(|seq| small("cached state", seq)).transpose()?;
        sqlx::query(
            "INSERT INTO user_sync_state (user_id, last_seq, latest_full_state_seq, latest_full_state_vector_clock) \
             VALUES ($1, $2, $3, $4::jsonb) ON CONFLICT (user_id) DO UPDATE SET last_seq = EXCLUDED.last_seq, \
             last_snapshot_seq = CASE WHEN user_sync_state.last_snapshot_seq = $6 THEN $6 END, \
             snapshot_data = CASE WHEN user_sync_state.last_snapshot_seq = $6 THEN user_sync_state.snapshot_data END, \
             snapshot_at = CASE WHEN user_sync_state.last_snapshot_seq = $6 THEN user_sync_state.snapshot_at END, \
             snapshot_schema_version = CASE WHEN user_sync_state.last_snapshot_seq = $6 \
             THEN user_sync_state.snapshot_schema_version END, \
             latest_full_state_seq = EXCLUDED.latest_full_state_seq, \
             latest_full_state_vector_clock = EXCLUDED.latest_full_state_vector_clock, latest_state_replacement_seq = NULL \
             WHERE $5 OR user_sync_state.last_seq <> EXCLUDED.last_seq",
        )
        .bind(id)
        .bind(small("last sequence", account.last_seq)?)
        .bind(full_state_seq)
        .bind(full_state_clock)
        .bind(ops_changed)
        .bind(kept)
        .execute(&mut *tx)
        .await?
    };
    let changed = changed.rows_affected() > 0;
    if changed || ops_changed {
        sqlx::query(
            "UPDATE users SET storage_used_bytes = \
             COALESCE((SELECT sum(CASE WHEN payload_bytes > 0 THEN payload_bytes \
             ELSE octet_length(payload::text) + octet_length(vector_clock::text) END)::int8 \
             FROM operations WHERE user_id = $1), 0) + \
             COALESCE((SELECT octet_length(snapshot_data) FROM user_sync_state WHERE user_id = $1), 0) WHERE id = $1",
        )
        .bind(id)
        .execute(tx)
        .await?;
    }
    Ok(changed)
}

/// Writes the devices: those that we don't have are gone.
async fn devices(tx: &mut PgConnection, id: i32, ours: &[Device], counts: &mut Rows) -> Result<(), Stop> {
    let clients: Vec<&str> = ours.iter().map(|device| device.client_id.as_str()).collect();
    let removed = sqlx::query("DELETE FROM sync_devices WHERE user_id = $1 AND client_id <> ALL($2)")
        .bind(id)
        .bind(&clients)
        .execute(&mut *tx)
        .await?;
    let written = sqlx::query(
        "INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) \
         SELECT $1, r.* FROM unnest($2::text[], $3::int8[], $4::int8[]) AS r \
         ON CONFLICT (user_id, client_id) DO UPDATE \
         SET last_seen_at = EXCLUDED.last_seen_at, created_at = EXCLUDED.created_at \
         WHERE (sync_devices.last_seen_at, sync_devices.created_at) <> (EXCLUDED.last_seen_at, EXCLUDED.created_at)",
    )
    .bind(id)
    .bind(&clients)
    .bind(ours.iter().map(|device| device.last_seen_at).collect::<Vec<_>>())
    .bind(ours.iter().map(|device| device.created_at).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    counts.written += written.rows_affected();
    counts.removed += removed.rows_affected();
    Ok(())
}
