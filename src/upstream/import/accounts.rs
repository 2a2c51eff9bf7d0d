//! Accounts of the old server: who is taken over, with what.

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::TryStreamExt as _;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _};

use super::source::Source;
use super::{Fault, ImportError, LeftOut, Options, operations};
use crate::protocol::{Seq, UserId};
use crate::store::backup::{Row, Value};
use crate::store::{SyncState, TokenPurpose, take_in};

/// What a passkey is called of which nobody has given a name.
const UNNAMED: &str = "Passkey";

/// An account.
pub(super) struct Account {
    pub(super) user: Row,
    pub(super) state: SyncState,
    operations: u64,
    /// When it was made, for those who share an address.
    created_at: i64,
    email: String,
}

/// What is taken over besides the operations; in the order of the accounts' numbers.
pub(super) struct Accounts {
    pub(super) all: BTreeMap<UserId, Account>,
    pub(super) devices: Vec<Row>,
    pub(super) tokens: Vec<Row>,
    pub(super) passkeys: Vec<Row>,
    pub(super) highest: i64,
    pub(super) operations: u64,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) passkeys_repaired: u64,
    pub(super) pending_passkeys_dropped: u64,
}

fn text_or_null(text: Option<String>) -> Value {
    text.map_or(Value::Null, Value::Text)
}

fn int_or_null(number: Option<i64>) -> Value {
    number.map_or(Value::Null, Value::Int)
}

/// Reads everything but the operations, of which it reads what must be known beforehand.
pub(super) async fn read(source: &mut Source, options: &Options, now_ms: i64) -> Result<Accounts, ImportError> {
    let mut accounts = Accounts {
        all: BTreeMap::new(),
        devices: Vec::new(),
        tokens: Vec::new(),
        passkeys: Vec::new(),
        highest: source.highest_user().await?,
        operations: 0,
        left_out: Vec::new(),
        passkeys_repaired: 0,
        pending_passkeys_dropped: 0,
    };
    read_users(source, &mut accounts, now_ms).await?;
    read_logs(source, &mut accounts, options).await?;
    choose_addresses(&mut accounts);
    let Accounts { all, tokens, .. } = &mut accounts;
    tokens.retain(|row| matches!(row.get(2), Some(Value::Int(user)) if all.contains_key(user)));
    tokens.sort();
    read_devices(source, &mut accounts).await?;
    read_passkeys(source, &mut accounts).await?;
    Ok(accounts)
}

async fn read_users(source: &mut Source, accounts: &mut Accounts, now_ms: i64) -> Result<(), ImportError> {
    const COLUMNS: [&str; 18] = [
        "id",
        "email",
        "password_hash",
        "is_verified",
        "token_version",
        "locked_until",
        "terms_accepted_at",
        "storage_quota_bytes",
        "verification_token",
        "verification_token_expires_at",
        "reset_password_token",
        "reset_password_token_expires_at",
        "passkey_recovery_token",
        "passkey_recovery_token_expires_at",
        "login_token",
        "login_token_expires_at",
        "created_at",
        "id",
    ];
    let columns: Vec<_> = COLUMNS.iter().map(|name| source.column("users", name)).collect();
    // Constant names only.
    let sql = format!(
        "SELECT {}, (extract(epoch FROM created_at) * 1000)::bigint FROM users ORDER BY id",
        columns.join(", ")
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch(&mut source.connection);
    while let Some(row) = rows.try_next().await? {
        let id = UserId::from(row.try_get::<i32, _>(0)?);
        let email = row.try_get::<String, _>(1)?.trim().to_lowercase();
        let password_hash: Option<String> = row.try_get(2)?;
        let is_verified = row.try_get::<i32, _>(3)? != 0;
        let created_at: i64 = row.try_get(18)?;
        for (at, purpose) in [
            (8, TokenPurpose::VerifyEmail),
            (10, TokenPurpose::ResetPassword),
            (12, TokenPurpose::RecoverPasskey),
            (14, TokenPurpose::MagicLogin),
        ] {
            let (token, expires_at): (Option<String>, Option<i64>) = (row.try_get(at)?, row.try_get(at + 1)?);
            let (Some(token), Some(expires_at)) = (token, expires_at.filter(|at| *at > now_ms)) else { continue };
            let verifies = purpose == TokenPurpose::VerifyEmail;
            if verifies && is_verified {
                continue;
            }
            accounts.tokens.push(vec![
                Value::Bytes(Sha256::digest(token.as_bytes()).to_vec()),
                Value::Text(purpose.as_str().to_owned()),
                Value::Int(id),
                if verifies { text_or_null(password_hash.clone()) } else { Value::Null },
                Value::Int(now_ms),
                Value::Int(expires_at),
                Value::Null,
            ]);
        }
        let user = vec![
            Value::Int(id),
            Value::Text(email.clone()),
            text_or_null(password_hash),
            Value::Bool(is_verified),
            Value::Int(row.try_get::<i32, _>(4)?.into()),
            Value::Int(0),
            int_or_null(row.try_get(5)?),
            int_or_null(row.try_get(6)?),
            Value::Int(created_at),
            Value::Int(row.try_get(7)?),
            Value::Bool(false),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ];
        let state = SyncState { revision: 1, replacement_seq: Some(0), ..SyncState::default() };
        accounts.all.insert(id, Account { user, state, operations: 0, created_at, email });
    }
    Ok(())
}

/// Works out each account's state from its operations, and finds what this server could not serve.
async fn read_logs(source: &mut Source, accounts: &mut Accounts, options: &Options) -> Result<(), ImportError> {
    let mut faults: HashMap<UserId, String> = HashMap::new();
    let mut ops = operations::all(source, false);
    while let Some(op) = ops.try_next().await? {
        let op = match op {
            Ok(op) => op,
            Err(Fault { user, what }) => {
                faults.entry(user).or_insert(what);
                continue;
            }
        };
        let Some(account) = accounts.all.get_mut(&op.user) else {
            faults.entry(op.user).or_insert_with(|| "there are operations, but no such account".to_owned());
            continue;
        };
        let (state, seq) = (&mut account.state, op.trace.seq);
        if account.operations == 0 {
            // What came before was given up.
            state.pruned_seq = seq - 1;
        } else if seq != state.last_seq + 1 && !faults.contains_key(&op.user) {
            faults.insert(op.user, format!("operations {} to {} are missing", state.last_seq + 1, seq - 1));
        }
        account.operations += 1;
        state.last_seq = seq;
        take_in(state, &op.trace);
    }
    drop(ops);
    let sql = "SELECT user_id, last_seq FROM user_sync_state ORDER BY user_id";
    let mut rows = sqlx::query(sql).fetch(&mut source.connection);
    while let Some(row) = rows.try_next().await? {
        let (user, counter) = (UserId::from(row.try_get::<i32, _>(0)?), Seq::from(row.try_get::<i32, _>(1)?));
        let Some(account) = accounts.all.get_mut(&user) else { continue };
        let state = &mut account.state;
        if account.operations == 0 {
            (state.pruned_seq, state.last_seq) = (counter, counter);
        } else if counter < state.last_seq && !options.repair {
            let what = format!(
                "its counter stands at {counter}, below its last operation {}; --repair raises it",
                state.last_seq
            );
            faults.entry(user).or_insert(what);
        } else if counter > state.last_seq {
            let what = format!("operations {} to {counter} are missing", state.last_seq + 1);
            faults.entry(user).or_insert(what);
        }
    }
    drop(rows);
    for account in accounts.all.values_mut() {
        account.state.heads_seq = account.state.last_seq;
    }
    for (user, why) in faults {
        accounts.all.remove(&user);
        accounts.left_out.push(LeftOut { user, why, is_fault: true });
    }
    accounts.left_out.sort();
    accounts.operations = accounts.all.values().map(|account| account.operations).sum();
    Ok(())
}

/// Of accounts whose addresses differ only in case one stays: that with operations, else the newest.
fn choose_addresses(accounts: &mut Accounts) {
    let mut by_address: HashMap<String, Vec<UserId>> = HashMap::new();
    for (id, account) in &accounts.all {
        by_address.entry(account.email.clone()).or_default().push(*id);
    }
    for mut ids in by_address.into_values().filter(|ids| ids.len() > 1) {
        let worth = |id: &UserId| accounts.all.get(id).map(|account| (account.operations > 0, account.created_at, *id));
        ids.sort_by_key(|id| std::cmp::Reverse(worth(id)));
        let stays = ids.remove(0);
        for id in ids {
            let had = accounts.all.remove(&id).map_or(0, |account| account.operations);
            let why = format!(
                "its address is, but for the case of its letters, that of account {stays}; it has {had} operations"
            );
            accounts.left_out.push(LeftOut { user: id, why, is_fault: had > 0 });
            accounts.operations -= had;
        }
    }
    accounts.left_out.sort();
}

async fn read_devices(source: &mut Source, accounts: &mut Accounts) -> Result<(), ImportError> {
    let sql = "SELECT user_id, client_id, last_seen_at, created_at FROM sync_devices ORDER BY user_id, client_id COLLATE \"C\"";
    let mut rows = sqlx::query(sql).fetch(&mut source.connection);
    while let Some(row) = rows.try_next().await? {
        let user = UserId::from(row.try_get::<i32, _>(0)?);
        if accounts.all.contains_key(&user) {
            accounts.devices.push(vec![
                Value::Int(user),
                Value::Text(row.try_get(1)?),
                Value::Int(row.try_get(2)?),
                Value::Int(row.try_get(3)?),
            ]);
        }
    }
    Ok(())
}

async fn read_passkeys(source: &mut Source, accounts: &mut Accounts) -> Result<(), ImportError> {
    if source.has_pending_passkeys {
        let sql = "SELECT count(*) FROM pending_passkey_registrations";
        let dropped: i64 = sqlx::query_scalar(sql).fetch_one(&mut source.connection).await?;
        accounts.pending_passkeys_dropped = u64::try_from(dropped).unwrap_or(0);
    }
    if !source.has_passkeys {
        return Ok(());
    }
    let sql = "SELECT user_id, credential_id, public_key, counter, transports, \
         (extract(epoch FROM created_at) * 1000)::bigint, (extract(epoch FROM last_used_at) * 1000)::bigint \
         FROM passkeys ORDER BY created_at, credential_id";
    let mut rows = sqlx::query(sql).fetch(&mut source.connection);
    let mut number = 0;
    while let Some(row) = rows.try_next().await? {
        let user = UserId::from(row.try_get::<i32, _>(0)?);
        if !accounts.all.contains_key(&user) {
            continue;
        }
        number += 1;
        let stored: Vec<u8> = row.try_get(1)?;
        let credential = repaired(&stored);
        accounts.passkeys_repaired += u64::from(credential != stored);
        accounts.passkeys.push(vec![
            Value::Int(number),
            Value::Int(user),
            Value::Bytes(credential),
            Value::Bytes(row.try_get(2)?),
            Value::Int(row.try_get(3)?),
            text_or_null(row.try_get(4)?),
            Value::Null,
            Value::Text(UNNAMED.to_owned()),
            Value::Int(row.try_get(5)?),
            int_or_null(row.try_get(6)?),
        ]);
    }
    Ok(())
}

/// In January 2026 the old server stored the letters of an id's base64url text in the place of its bytes (operations
/// contract, section 8.4).
fn repaired(stored: &[u8]) -> Vec<u8> {
    let is_text = stored.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match BASE64_URL_SAFE_NO_PAD.decode(stored) {
        Ok(bytes) if is_text && bytes.len() < stored.len() && !bytes.is_empty() => bytes,
        _ => stored.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_an_id_become_its_bytes_and_bytes_stay() {
        let raw = [0, 1, 2, 250, 251, 252, 253, 254, 255, 9, 8, 7, 6, 5, 4, 3];
        let letters = BASE64_URL_SAFE_NO_PAD.encode(raw);
        assert_eq!(repaired(letters.as_bytes()), raw);
        assert_eq!(repaired(&raw), raw);
        assert_eq!(repaired(b"A"), b"A", "not base64url");
        assert!(repaired(b"").is_empty());
    }
}
