//! The old server's rows as the values that an import reads, from the database itself and from a dump of it.
//!
//! They are values, not judgements: what is odd about them is found by those who use them. What the schema of an older
//! release lacks has the value that the migration which brought it gave to existing rows (operations contract,
//! section 8.4). Instants are Unix milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::json::scan::compacted;
use crate::protocol::op::{entity_type, normalised_entity_ids};
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, UserId, VectorClock};
use crate::upstream::copy_text::{Malformed, Row};

/// What every account may store where the release had no quotas yet.
const QUOTA: i64 = 104_857_600;

/// A row of `users`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourceUser {
    pub id: UserId,
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    pub verification_token: Option<String>,
    pub verification_token_expires_at: Option<i64>,
    pub locked_until: Option<i64>,
    pub token_version: i64,
    pub terms_accepted_at: Option<i64>,
    pub created_at: i64,
    pub storage_quota_bytes: i64,
    pub reset_password_token: Option<String>,
    pub reset_password_token_expires_at: Option<i64>,
    pub passkey_recovery_token: Option<String>,
    pub passkey_recovery_token_expires_at: Option<i64>,
    pub login_token: Option<String>,
    pub login_token_expires_at: Option<i64>,
    /// `user_sync_state.last_seq`, 0 without such a row.
    pub last_seq: Seq,
    pub marks: SourceMarks,
}

/// What a row of `user_sync_state` remembers beside the last sequence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourceMarks {
    /// Whether it holds a cached state.
    pub has_snapshot: bool,
    pub snapshot_seq: Option<Seq>,
    pub snapshot_at: Option<i64>,
    pub snapshot_schema_version: Option<i64>,
    pub full_state_seq: Option<Seq>,
    /// The text of the `jsonb` value.
    pub full_state_clock: Option<String>,
}

/// A row of `passkeys`, or of `pending_passkey_registrations`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourcePasskey {
    pub user: UserId,
    pub credential_id: Vec<u8>,
    pub public_key: Vec<u8>,
    pub counter: i64,
    pub transports: Option<String>,
    pub created_at: i64,
    pub last_used_at: Option<i64>,
}

/// A row of `pending_passkey_registrations`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourcePending {
    pub verification_token: String,
    pub verification_token_expires_at: i64,
    pub key: SourcePasskey,
}

/// A row of `sync_devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourceDevice {
    pub user: UserId,
    pub client_id: String,
    pub last_seen_at: i64,
    pub created_at: i64,
}

/// How much of a log there is. The ids tell it from one that was started over and has come as far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourceLog {
    pub user: UserId,
    pub op_count: i64,
    pub first_seq: Seq,
    pub last_seq: Seq,
    pub first_id: String,
    pub last_id: String,
}

/// What a source holds, but for operations and cached states.
#[derive(Debug, Default, PartialEq)]
pub struct Tables {
    /// What it lacks because the release that wrote it is older: tables, and columns as `table.column`.
    pub missing: Vec<String>,
    /// Every account.
    pub users: BTreeMap<UserId, SourceUser>,
    /// Every passkey, by account and its own id.
    pub passkeys: BTreeMap<(UserId, String), SourcePasskey>,
    /// Every passkey that waits for its verification link, by account and its own id.
    pub pending: BTreeMap<(UserId, String), SourcePending>,
    /// Every device, by account and client id.
    pub devices: BTreeMap<(UserId, String), SourceDevice>,
    /// How much there is of every log that is not empty.
    pub logs: BTreeMap<UserId, SourceLog>,
    /// The highest number that was given to an account.
    pub highest_number: UserId,
    /// Rows of `user_sync_state` until they are put to their accounts.
    pub(super) states: Vec<(UserId, Seq, SourceMarks)>,
}

impl Tables {
    /// Adds a row. Those of tables that are not held are left out.
    pub(super) fn add(&mut self, table: &str, row: &Row) -> Result<(), Malformed> {
        match table {
            "users" => {
                let user = user(row)?;
                self.users.insert(user.id, user);
            }
            "passkeys" => {
                let key = passkey(row)?;
                self.passkeys.insert((key.user, row.required(Row::text, "id")?), key);
            }
            "pending_passkey_registrations" => {
                let pending = pending(row)?;
                self.pending.insert((pending.key.user, row.required(Row::text, "id")?), pending);
            }
            "sync_devices" => {
                let device = device(row)?;
                self.devices.insert((device.user, device.client_id.clone()), device);
            }
            "user_sync_state" => self.states.push(state(row)?),
            _ => {}
        }
        Ok(())
    }

    /// Ends with the last row. `given`: the last number that the sequence of the accounts' numbers has given out.
    pub(super) fn finish(&mut self, given: Option<UserId>) {
        for (user, last_seq, marks) in self.states.drain(..) {
            if let Some(user) = self.users.get_mut(&user) {
                (user.last_seq, user.marks) = (last_seq, marks);
            }
        }
        let highest = self.users.last_key_value().map_or(0, |(user, _)| *user);
        self.highest_number = given.map_or(highest, |given| given.max(highest));
    }
}

fn user(row: &Row) -> Result<SourceUser, Malformed> {
    Ok(SourceUser {
        id: row.required(Row::int, "id")?,
        email: row.required(Row::text, "email")?,
        password_hash: row.text("password_hash")?,
        is_verified: row.required(Row::int, "is_verified")? != 0,
        verification_token: row.text("verification_token")?,
        verification_token_expires_at: row.big("verification_token_expires_at")?,
        locked_until: row.big("locked_until")?,
        token_version: row.required(Row::int, "token_version")?,
        terms_accepted_at: row.big("terms_accepted_at")?,
        created_at: row.required(Row::instant, "created_at")?,
        storage_quota_bytes: row.big("storage_quota_bytes")?.unwrap_or(QUOTA),
        reset_password_token: row.text("reset_password_token")?,
        reset_password_token_expires_at: row.big("reset_password_token_expires_at")?,
        passkey_recovery_token: row.text("passkey_recovery_token")?,
        passkey_recovery_token_expires_at: row.big("passkey_recovery_token_expires_at")?,
        login_token: row.text("login_token")?,
        login_token_expires_at: row.big("login_token_expires_at")?,
        last_seq: 0,
        marks: SourceMarks::default(),
    })
}

fn state(row: &Row) -> Result<(UserId, Seq, SourceMarks), Malformed> {
    let marks = SourceMarks {
        has_snapshot: row.is_there("snapshot_data")?,
        snapshot_seq: row.int("last_snapshot_seq")?,
        snapshot_at: row.big("snapshot_at")?,
        snapshot_schema_version: row.int("snapshot_schema_version")?,
        full_state_seq: row.int("latest_full_state_seq")?,
        full_state_clock: row.json("latest_full_state_vector_clock")?,
    };
    Ok((row.required(Row::int, "user_id")?, row.required(Row::int, "last_seq")?, marks))
}

fn passkey(row: &Row) -> Result<SourcePasskey, Malformed> {
    Ok(SourcePasskey {
        user: row.required(Row::int, "user_id")?,
        credential_id: row.required(Row::blob, "credential_id")?,
        public_key: row.required(Row::blob, "public_key")?,
        counter: row.required(Row::big, "counter")?,
        transports: row.text("transports")?,
        created_at: row.required(Row::instant, "created_at")?,
        last_used_at: row.instant("last_used_at")?,
    })
}

fn pending(row: &Row) -> Result<SourcePending, Malformed> {
    Ok(SourcePending {
        verification_token: row.required(Row::text, "verification_token")?,
        verification_token_expires_at: row.required(Row::big, "verification_token_expires_at")?,
        key: passkey(row)?,
    })
}

fn device(row: &Row) -> Result<SourceDevice, Malformed> {
    Ok(SourceDevice {
        user: row.required(Row::int, "user_id")?,
        client_id: row.required(Row::text, "client_id")?,
        last_seen_at: row.required(Row::big, "last_seen_at")?,
        created_at: row.required(Row::big, "created_at")?,
    })
}

/// An operation as this server would have stored it, or what is wrong with it, in words.
pub type SourceOp = Result<StoredOp, String>;

/// A row of `operations`.
///
/// # Errors
/// When the row itself can't be read.
pub fn operation(row: &Row) -> Result<SourceOp, Malformed> {
    match stored(row) {
        Ok(op) => Ok(Ok(op)),
        Err(Wrong::Value(seq, what)) => Ok(Err(format!("operation {seq}: {what}"))),
        Err(Wrong::Row(what)) => Err(what),
    }
}

/// Why a row is no operation.
enum Wrong {
    /// It is not as PostgreSQL writes it.
    Row(Malformed),
    /// What it says, with its number, is nothing that the old server ever meant.
    Value(Seq, &'static str),
}

impl From<Malformed> for Wrong {
    fn from(what: Malformed) -> Self {
        Self::Row(what)
    }
}

fn stored(row: &Row) -> Result<StoredOp, Wrong> {
    let seq = row.required(Row::int, "server_seq")?;
    let wrong = |what| Wrong::Value(seq, what);
    let payload = Bytes::from(compacted(&row.required(Row::json, "payload")?));
    let clock = row.required(Row::json, "vector_clock")?;
    let vector_clock = VectorClock::from_json(&clock).map_err(|_| wrong("its clock is none"))?;
    let entity_id: Option<Arc<str>> = row.text("entity_id")?.map(Into::into);
    let entity_ids: Vec<Arc<str>> = row.texts("entity_ids")?.unwrap_or_default().into_iter().map(Into::into).collect();
    let measured = row.big("payload_bytes")?.filter(|bytes| *bytes > 0);
    let bytes = || i64::try_from(payload.len() + vector_clock.as_json().len()).unwrap_or(i64::MAX);
    let import_reason = match row.text("sync_import_reason")? {
        None => None,
        Some(text) => Some(ImportReason::parse(&text).ok_or_else(|| wrong("its import reason is unknown"))?),
    };
    let op_type = OpType::parse(&row.required(Row::text, "op_type")?);
    let kind = entity_type(&row.required(Row::text, "entity_type")?);
    let schema_version = u8::try_from(row.required(Row::int, "schema_version")?);
    Ok(StoredOp {
        server_seq: seq,
        id: row.required(Row::text, "id")?.into(),
        client_id: row.required(Row::text, "client_id")?.into(),
        action_type: row.required(Row::text, "action_type")?.into(),
        op_type: op_type.ok_or_else(|| wrong("its type is unknown"))?,
        entity_type: kind.ok_or_else(|| wrong("its entity type is unknown"))?,
        entity_ids: normalised_entity_ids(entity_id.as_deref(), &entity_ids),
        entity_id,
        storage_bytes: measured.unwrap_or_else(bytes),
        payload,
        vector_clock,
        timestamp: row.required(Row::big, "client_timestamp")?,
        schema_version: schema_version.map_err(|_| wrong("its schema version is none"))?,
        is_payload_encrypted: row.bool("is_payload_encrypted")?.unwrap_or(false),
        import_reason,
        repair_base_server_seq: row.int("repair_base_server_seq")?,
        received_at: row.required(Row::big, "received_at")?,
    })
}
