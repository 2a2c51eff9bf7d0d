//! The old server's rows as this server would have written them (operations contract, sections 8.2, 8.4 and 8.6). Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::report::{Duplicate, Report};
use super::rows::{SourceDevice, SourceLog, SourceMarks, SourcePasskey, SourcePending, SourceUser, Tables};
use crate::protocol::{Seq, UserId};
use crate::store::adopt::{Marked, Portion, mark};
use crate::store::backup::Value;
use crate::store::{MAX_DEVICES, TokenPurpose, UserRow};

/// What a passkey is called whose owner has not named it.
const UNNAMED: &str = "Passkey";
/// A link without an end ends after this time.
const LINK_MS: i64 = 24 * 60 * 60 * 1000;

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
    /// Whether the log can be taken in spite of that, all of it: what was deleted before it stays deleted, numbers that no
    /// operation has stay unused. If not, the account's devices upload their state.
    pub is_log_good: bool,
    /// Of what was read of it, without the operations.
    pub digest: String,
}

impl Account {
    /// The highest sequence that the source has given out.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        self.user.last_seq.max(self.log.last_seq)
    }

    /// How many operations are taken.
    #[must_use]
    pub fn op_count(&self) -> i64 {
        if self.is_log_good { self.log.op_count } else { 0 }
    }

    /// Whether something of its log is read.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.op_count() > 0 || self.may_need_snapshot()
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
        has_snapshot && self.is_log_good && begins_late && (1..=self.last_seq()).contains(&seq)
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
pub fn accounts(tables: Tables, report: &mut Report) -> Vec<Account> {
    // Older sources kept pending passkeys among the others.
    let knows_pending = !tables.missing.iter().any(|name| name == "pending_passkey_registrations");
    let mut logs = tables.logs;
    let users = distinct(tables.users, &logs, report);
    let mut passkeys = by_user(repaired(tables.passkeys, &users, report), |key| key.user);
    let mut pending = by_user(tables.pending.into_values(), |pending| pending.key.user);
    let mut devices = by_user(tables.devices.into_values(), |device| device.user);
    let mut accounts = Vec::with_capacity(users.len());
    for user in users {
        let id = user.id;
        let log = logs.remove(&id).unwrap_or_else(|| SourceLog { user: id, ..SourceLog::default() });
        let (fault, is_log_good) = judge(&user, &log);
        let mut account = Account {
            passkeys: passkeys.remove(&id).unwrap_or_default(),
            pending: pending.remove(&id).unwrap_or_default(),
            devices: newest_devices(devices.remove(&id).unwrap_or_default()),
            user,
            log,
            fault,
            is_log_good,
            digest: String::new(),
        };
        account.digest = digest(&account);
        if !account.user.is_verified && !knows_pending {
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

fn by_user<T>(rows: impl IntoIterator<Item = T>, user: impl Fn(&T) -> UserId) -> HashMap<UserId, Vec<T>> {
    let mut map: HashMap<UserId, Vec<T>> = HashMap::new();
    for row in rows {
        map.entry(user(&row)).or_default().push(row);
    }
    map
}

/// Of accounts whose addresses differ in case only, the one with operations, or else the newest.
fn distinct(
    users: BTreeMap<UserId, SourceUser>,
    logs: &BTreeMap<UserId, SourceLog>,
    report: &mut Report,
) -> Vec<SourceUser> {
    let ops = |user: &SourceUser| logs.get(&user.id).map_or(0, |log| log.op_count);
    let mut kept: HashMap<String, (i64, i64, UserId)> = HashMap::new();
    for user in users.values() {
        let rank = (ops(user), user.created_at, user.id);
        let best = kept.entry(user.email.to_lowercase()).or_insert(rank);
        *best = rank.max(*best);
    }
    let mut distinct = Vec::with_capacity(users.len());
    for mut user in users.into_values() {
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
fn repaired(
    keys: BTreeMap<(UserId, String), SourcePasskey>,
    users: &[SourceUser],
    report: &mut Report,
) -> Vec<SourcePasskey> {
    let users: HashSet<UserId> = users.iter().map(|user| user.id).collect();
    let mut known: HashSet<Vec<u8>> = HashSet::new();
    let (mut whole, mut mended) = (Vec::with_capacity(keys.len()), Vec::new());
    for mut key in keys.into_values().filter(|key| users.contains(&key.user)) {
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
/// to operations that they then refused, also at the end (sync contract, section 13.1). Also whether it can be taken all
/// the same.
fn judge(user: &SourceUser, log: &SourceLog) -> (Option<String>, bool) {
    let SourceLog { op_count, first_seq, last_seq, .. } = *log;
    let counter = user.last_seq;
    if op_count == 0 {
        return (None, true);
    }
    if first_seq < 1 || last_seq - first_seq + 1 < op_count {
        return (Some(format!("its operations are numbered {first_seq} to {last_seq}")), false);
    }
    let below = (counter < last_seq).then(|| format!("last_seq is {counter}, but there is an operation {last_seq}"));
    (below, true)
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
    let is_waiting = |token: &&String| account.pending.iter().any(|pending| pending.verification_token == **token);
    let token = user.verification_token.as_ref().filter(|token| !is_waiting(token));
    let (until, password) = (user.verification_token_expires_at, user.password_hash.as_deref());
    links.put(token, until, TokenPurpose::VerifyEmail, password, !user.is_verified);
    for (token, until, purpose) in [
        (&user.login_token, user.login_token_expires_at, TokenPurpose::MagicLogin),
        (&user.passkey_recovery_token, user.passkey_recovery_token_expires_at, TokenPurpose::RecoverPasskey),
        (&user.reset_password_token, user.reset_password_token_expires_at, TokenPurpose::ResetPassword),
    ] {
        links.put(token.as_ref(), until, purpose, None, user.is_verified);
    }
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
