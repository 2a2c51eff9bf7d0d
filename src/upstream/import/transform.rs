//! The old server's rows as this server would have written them (operations contract, sections 8.2, 8.4 and 8.6). Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::report::{Duplicate, Report};
use super::source::{SourceDevice, SourceLog, SourceMarks, SourceOp, SourcePasskey, SourcePending, SourceUser};
use crate::protocol::json::scan::compacted;
use crate::protocol::op::{entity_type, normalised_entity_ids};
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, UserId, VectorClock};
use crate::store::adopt::{Marked, Portion, mark};
use crate::store::backup::Value;
use crate::store::{MAX_DEVICES, TokenPurpose, UserRow};

/// What a passkey is called whose owner has not named it.
const UNNAMED: &str = "Passkey";
/// A link without an end ends after this time.
const LINK_MS: i64 = 24 * 60 * 60 * 1000;

/// What a source holds, but for the operations.
#[derive(Debug)]
pub struct Read {
    /// See [`super::source::Source`].
    pub users: Vec<SourceUser>,
    /// See [`super::source::Source`].
    pub passkeys: Vec<SourcePasskey>,
    /// See [`super::source::Source`].
    pub pending: Vec<SourcePending>,
    /// See [`super::source::Source`].
    pub devices: Vec<SourceDevice>,
    /// See [`super::source::Source`].
    pub logs: Vec<SourceLog>,
    /// Whether the source knows pending passkeys: older ones kept them among the others.
    pub knows_pending: bool,
}

/// How an account's log is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// All of it. What was deleted before it stays deleted; numbers that no operation has stay unused.
    Whole,
    /// Nothing. Its devices upload their state.
    Nothing,
}

/// An account as it is taken.
#[derive(Debug)]
pub struct Account {
    /// Its row.
    pub user: SourceUser,
    passkeys: Vec<SourcePasskey>,
    pending: Vec<SourcePending>,
    devices: Vec<SourceDevice>,
    /// How much there is of its log.
    pub log: SourceLog,
    /// What is wrong with the log, in words.
    pub fault: Option<String>,
    /// How the log is taken if the fault is to be mended, or there is none.
    pub take: Take,
    /// Of what was read of it, without the operations.
    pub digest: String,
}

impl Account {
    /// The highest sequence that the source has given out.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.user.last_seq.max(self.log.last_seq)
    }

    /// The ids of its passkeys, and of those that wait.
    pub fn credentials(&self) -> impl Iterator<Item = &[u8]> {
        let waiting = self.pending.iter().map(|pending| &pending.key);
        self.passkeys.iter().chain(waiting).map(|key| key.credential_id.as_slice())
    }

    /// Whether what is gone from the log may be in its cached state: older releases deleted operations that it covered
    /// (sync contract, section 11.3).
    #[must_use]
    pub fn may_need_snapshot(&self) -> bool {
        let SourceMarks { has_snapshot, snapshot_seq: Some(seq), .. } = self.user.marks else { return false };
        let begins_late = self.log.op_count == 0 || (self.log.first_seq > 1 && seq >= self.log.first_seq - 1);
        has_snapshot && self.take == Take::Whole && begins_late && (1..=self.last_seq()).contains(&seq)
    }
}

/// As many as an account may have, those seen last.
fn newest_devices(mut devices: Vec<SourceDevice>) -> Vec<SourceDevice> {
    if devices.len() > MAX_DEVICES {
        devices.sort_by(|a, b| b.last_seen_at.cmp(&a.last_seen_at).then_with(|| a.client_id.cmp(&b.client_id)));
        devices.truncate(MAX_DEVICES);
    }
    devices
}

/// Puts together what belongs to each account. Says in `report` what is repaired and what is left out.
#[must_use]
pub fn accounts(read: Read, report: &mut Report) -> Vec<Account> {
    let logs: HashMap<UserId, SourceLog> = read.logs.into_iter().map(|log| (log.user, log)).collect();
    let users = distinct(read.users, &logs, report);
    let mut passkeys = by_user(repaired(read.passkeys, &users, report), |key| key.user);
    let mut pending = by_user(read.pending, |pending| pending.key.user);
    let mut devices = by_user(read.devices, |device| device.user);
    let mut accounts = Vec::with_capacity(users.len());
    for user in users {
        let log = logs.get(&user.id).cloned();
        let log = log.unwrap_or_else(|| SourceLog { user: user.id, ..SourceLog::default() });
        let (fault, take) = judge(&user, &log);
        let mut account = Account {
            passkeys: passkeys.remove(&user.id).unwrap_or_default(),
            pending: pending.remove(&user.id).unwrap_or_default(),
            devices: newest_devices(devices.remove(&user.id).unwrap_or_default()),
            user,
            log,
            fault,
            take,
            digest: String::new(),
        };
        account.digest = digest(&account);
        if !account.user.is_verified && !read.knows_pending {
            waits(&mut account);
        }
        for key in account.pending.iter_mut().map(|pending| &mut pending.key) {
            if let Some(raw) = raw_id(&key.credential_id) {
                key.credential_id = raw;
                report.passkeys_repaired += 1;
            }
        }
        accounts.push(account);
    }
    accounts
}

fn by_user<T>(rows: Vec<T>, user: impl Fn(&T) -> UserId) -> HashMap<UserId, Vec<T>> {
    let mut map: HashMap<UserId, Vec<T>> = HashMap::new();
    for row in rows {
        map.entry(user(&row)).or_default().push(row);
    }
    map
}

/// Of accounts whose addresses differ in case only, the one with operations, or else the newest.
fn distinct(users: Vec<SourceUser>, logs: &HashMap<UserId, SourceLog>, report: &mut Report) -> Vec<SourceUser> {
    let ops = |user: &SourceUser| logs.get(&user.id).map_or(0, |log| log.op_count);
    let mut kept: HashMap<String, (i64, i64, UserId)> = HashMap::new();
    for user in &users {
        let rank = (ops(user), user.created_at, user.id);
        let best = kept.entry(user.email.to_lowercase()).or_insert(rank);
        *best = rank.max(*best);
    }
    let mut distinct = Vec::with_capacity(users.len());
    for mut user in users {
        let address = user.email.to_lowercase();
        let best = kept.get(&address).map_or(user.id, |(.., id)| *id);
        if best == user.id {
            user.email = address;
            distinct.push(user);
        } else {
            report.duplicates.push(Duplicate { kept: best, left_out: user.id, operations: ops(&user) });
        }
    }
    distinct
}

/// The raw id of a passkey behind one that was stored as its base64url text.
#[must_use]
pub fn raw_id(stored: &[u8]) -> Option<Vec<u8>> {
    let is_text = stored.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    // Shorter ones are not made; a real id of 16 bytes looks like text once in four thousand million.
    (is_text && stored.len() >= 16).then(|| URL_SAFE_NO_PAD.decode(stored).ok()).flatten()
}

/// Passkeys with raw ids, each id once: what needed no repair comes before what did.
fn repaired(keys: Vec<SourcePasskey>, users: &[SourceUser], report: &mut Report) -> Vec<SourcePasskey> {
    let users: HashSet<UserId> = users.iter().map(|user| user.id).collect();
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    let (mut whole, mut mended) = (Vec::with_capacity(keys.len()), Vec::new());
    for mut key in keys.into_iter().filter(|key| users.contains(&key.user)) {
        match raw_id(&key.credential_id) {
            None => {
                known.insert(key.credential_id.clone());
                whole.push(key);
            }
            Some(raw) => {
                key.credential_id = raw;
                mended.push(key);
            }
        }
    }
    for key in mended {
        if known.insert(key.credential_id.clone()) {
            report.passkeys_repaired += 1;
            whole.push(key);
        } else {
            report.passkeys_dropped += 1;
        }
    }
    whole
}

/// Older servers kept the passkey of an address that is not verified among the others. It waits for the link that was
/// mailed; of several the newest does.
fn waits(account: &mut Account) {
    let newest = account.passkeys.drain(..).max_by_key(|key| key.created_at);
    let (Some(key), Some(token)) = (newest, account.user.verification_token.clone()) else { return };
    let expires_at = account.user.verification_token_expires_at;
    let expires_at = expires_at.unwrap_or_else(|| key.created_at.saturating_add(LINK_MS));
    account.pending.push(SourcePending { verification_token: token, verification_token_expires_at: expires_at, key });
}

/// Of what a second run compares. When its devices were last seen is not part of it: that alone is not worth taking the
/// log again.
fn digest(account: &Account) -> String {
    // What is remembered of the log follows from it.
    let user = SourceUser { marks: SourceMarks::default(), locked_until: None, ..account.user.clone() };
    let mut devices: Vec<_> = account.devices.iter().map(|device| &device.client_id).collect();
    // A database and a dump of it may order texts differently.
    devices.sort_unstable();
    // The form is this program's own: another version of it may take accounts again that have not changed.
    let text = format!("{user:?} {:?} {:?} {devices:?} {:?}", account.passkeys, account.pending, account.log);
    hex::encode(Sha256::digest(text))
}

/// What is wrong with a log, as far as its ends tell. Numbers that no operation has are no fault: older releases gave them
/// to operations that they then refused, also at the end (sync contract, section 13.1).
fn judge(user: &SourceUser, log: &SourceLog) -> (Option<String>, Take) {
    let SourceLog { op_count, first_seq, last_seq, .. } = *log;
    let counter = user.last_seq;
    if op_count == 0 {
        return (None, Take::Whole);
    }
    if first_seq < 1 || last_seq - first_seq + 1 < op_count {
        return (Some(format!("its operations are numbered {first_seq} to {last_seq}")), Take::Nothing);
    }
    let below = (counter < last_seq).then(|| format!("last_seq is {counter}, but there is an operation {last_seq}"));
    (below, Take::Whole)
}

/// An operation as this server would have stored it. The other way out says what can't be.
///
/// # Errors
/// What is wrong with it, in words.
pub fn operation(op: SourceOp) -> Result<StoredOp, String> {
    let seq = op.server_seq;
    let wrong = |what: &str| format!("operation {seq}: {what}");
    let payload = Bytes::from(compacted(&op.payload));
    let vector_clock = VectorClock::from_json(&op.vector_clock).map_err(|_| wrong("its clock is none"))?;
    let entity_id: Option<Arc<str>> = op.entity_id.map(Into::into);
    let entity_ids: Vec<Arc<str>> = op.entity_ids.into_iter().map(Into::into).collect();
    let measured = || i64::try_from(payload.len() + vector_clock.as_json().len()).unwrap_or(i64::MAX);
    let storage_bytes = if op.payload_bytes > 0 { op.payload_bytes } else { measured() };
    let import_reason = match op.sync_import_reason.as_deref() {
        None => None,
        Some(text) => Some(ImportReason::parse(text).ok_or_else(|| wrong("its import reason is unknown"))?),
    };
    Ok(StoredOp {
        server_seq: seq,
        id: op.id.into(),
        client_id: op.client_id.into(),
        action_type: op.action_type.into(),
        op_type: OpType::parse(&op.op_type).ok_or_else(|| wrong("its type is unknown"))?,
        entity_type: entity_type(&op.entity_type).ok_or_else(|| wrong("its entity type is unknown"))?,
        entity_ids: normalised_entity_ids(entity_id.as_deref(), &entity_ids),
        entity_id,
        storage_bytes,
        payload,
        vector_clock,
        timestamp: op.client_timestamp,
        schema_version: u8::try_from(op.schema_version).map_err(|_| wrong("its schema version is none"))?,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
        received_at: op.received_at,
    })
}

/// Writes everything of an account but its log. `links` are the hashes of those of all accounts so far.
pub fn put_account(
    portion: &mut Portion,
    account: &Account,
    now_ms: i64,
    links: &mut HashSet<[u8; 32]>,
    report: &mut Report,
) {
    let user = &account.user;
    let optional = |number: Option<i64>| number.map_or(Value::Null, Value::Int);
    let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
    portion.put_into(
        "users",
        vec![
            ("id", Value::Int(user.id)),
            ("email", Value::Text(user.email.clone())),
            ("password_hash", text(&user.password_hash)),
            ("is_verified", Value::Bool(user.is_verified)),
            ("token_version", Value::Int(user.token_version)),
            ("failed_login_attempts", Value::Int(0)),
            ("locked_until", optional(user.locked_until.filter(|until| *until > now_ms))),
            ("terms_accepted_at", optional(user.terms_accepted_at)),
            ("created_at", Value::Int(user.created_at)),
            ("storage_quota_bytes", Value::Int(user.storage_quota_bytes)),
        ],
    );
    for device in &account.devices {
        portion.put_into(
            "sync_devices",
            vec![
                ("user_id", Value::Int(device.user)),
                ("client_id", Value::Text(device.client_id.clone())),
                ("last_seen_at", Value::Int(device.last_seen_at)),
                ("created_at", Value::Int(device.created_at)),
            ],
        );
        report.devices += 1;
    }
    for key in &account.passkeys {
        let mut row = passkey_row(key);
        row.push(("last_used_at", optional(key.last_used_at)));
        portion.put_into("passkeys", row);
        report.passkeys += 1;
    }
    let mut links = Links { user: user.id, now_ms, used: links, portion, report };
    for pending in &account.pending {
        let token = Some(&pending.verification_token);
        let until = Some(pending.verification_token_expires_at);
        let Some((hash, expires_at)) = links.put(token, until, TokenPurpose::VerifyEmail, None, !user.is_verified)
        else {
            continue;
        };
        let mut row = passkey_row(&pending.key);
        row.insert(0, ("token_hash", Value::Bytes(hash.to_vec())));
        row.push(("expires_at", Value::Int(expires_at)));
        links.portion.put_into("pending_passkeys", row);
        links.report.pending_passkeys += 1;
    }
    let is_waiting = |token: &String| account.pending.iter().any(|pending| pending.verification_token == *token);
    let token = user.verification_token.as_ref().filter(|token| !is_waiting(token));
    let until = user.verification_token_expires_at;
    links.put(token, until, TokenPurpose::VerifyEmail, user.password_hash.as_deref(), !user.is_verified);
    let token = user.login_token.as_ref();
    links.put(token, user.login_token_expires_at, TokenPurpose::MagicLogin, None, user.is_verified);
    let token = user.passkey_recovery_token.as_ref();
    let until = user.passkey_recovery_token_expires_at;
    links.put(token, until, TokenPurpose::RecoverPasskey, None, user.is_verified);
    let token = user.reset_password_token.as_ref();
    let until = user.reset_password_token_expires_at;
    links.put(token, until, TokenPurpose::ResetPassword, None, user.is_verified);
}

fn passkey_row(key: &SourcePasskey) -> Vec<(&'static str, Value)> {
    let is_list = |text: &&String| serde_json::from_str::<Vec<String>>(text).is_ok();
    let transports = key.transports.as_ref().filter(is_list);
    vec![
        ("user_id", Value::Int(key.user)),
        ("credential_id", Value::Bytes(key.credential_id.clone())),
        ("public_key", Value::Bytes(key.public_key.clone())),
        ("counter", Value::Int(key.counter)),
        ("transports", transports.map_or(Value::Null, |text| Value::Text(text.clone()))),
        ("name", Value::Text(UNNAMED.to_owned())),
        ("created_at", Value::Int(key.created_at)),
    ]
}

/// Links that were mailed and not used. The old server kept their tokens, this one keeps hashes.
struct Links<'a> {
    user: UserId,
    now_ms: i64,
    used: &'a mut HashSet<[u8; 32]>,
    portion: &'a mut Portion,
    report: &'a mut Report,
}

impl Links<'_> {
    /// Writes a link if it can still be used. Gives back its hash and its end.
    fn put(
        &mut self,
        token: Option<&String>,
        expires_at: Option<i64>,
        purpose: TokenPurpose,
        password_hash: Option<&str>,
        is_wanted: bool,
    ) -> Option<([u8; 32], i64)> {
        let token = token?;
        let expires_at = expires_at.unwrap_or_else(|| self.now_ms.saturating_add(LINK_MS));
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if expires_at < self.now_ms || !is_wanted || !self.used.insert(hash) {
            self.report.links_dropped += 1;
            return None;
        }
        self.portion.put_into(
            "one_time_tokens",
            vec![
                ("token_hash", Value::Bytes(hash.to_vec())),
                ("purpose", Value::Text(purpose.as_str().to_owned())),
                ("user_id", Value::Int(self.user)),
                ("pending_password_hash", password_hash.map_or(Value::Null, |text| Value::Text(text.to_owned()))),
                ("created_at", Value::Int(self.now_ms)),
                ("expires_at", Value::Int(expires_at)),
            ],
        );
        self.report.links += 1;
        Some((hash, expires_at))
    }
}

/// What of an account is other here than it was taken.
#[must_use]
pub fn changed_here(account: &Account, row: &UserRow, mut credentials: Vec<Vec<u8>>) -> Vec<&'static str> {
    let user = &account.user;
    let mut taken: Vec<_> = account.passkeys.iter().map(|key| key.credential_id.clone()).collect();
    taken.sort_unstable();
    credentials.sort_unstable();
    let all = [
        ("address", user.email != row.email),
        // Also a sign-in changes it.
        ("password hash", user.password_hash != row.password_hash),
        ("verification", user.is_verified != row.is_verified),
        ("token version", user.token_version != row.token_version),
        ("quota", user.storage_quota_bytes != row.storage_quota_bytes),
        ("passkeys", taken != credentials),
    ];
    all.into_iter().filter(|(_, is_changed)| *is_changed).map(|(what, _)| what).collect()
}

/// What the account looks like here once it is taken.
#[must_use]
pub fn mark_of(account: &Account, last_seq: Seq) -> String {
    let user = &account.user;
    let credentials: Vec<_> = account.passkeys.iter().map(|key| key.credential_id.clone()).collect();
    let marked = Marked {
        email: &user.email,
        password_hash: user.password_hash.as_deref(),
        is_verified: user.is_verified,
        token_version: user.token_version,
        storage_quota_bytes: user.storage_quota_bytes,
        generation: 0,
        last_seq,
    };
    mark(&marked, &credentials)
}
