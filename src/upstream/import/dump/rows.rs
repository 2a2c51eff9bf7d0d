//! A dump's rows as the values that an import reads. What an older release lacks has the value that the migration which
//! brought it gave to existing rows (operations contract, section 8.4).

use super::error::DumpError;
use super::field::Row;
use crate::protocol::{Seq, UserId};
use crate::upstream::import::source::{SourceDevice, SourceMarks, SourceOp, SourcePasskey, SourcePending, SourceUser};

/// What every account may store where the release had no quotas yet.
const QUOTA: i64 = 104_857_600;

/// A row of `users`. What `user_sync_state` has is not in it yet.
pub fn user(row: &Row) -> Result<SourceUser, DumpError> {
    Ok(SourceUser {
        id: row.required("id", row.int("id")?)?,
        email: row.required("email", row.text("email")?)?,
        password_hash: row.text("password_hash")?,
        is_verified: row.required("is_verified", row.int("is_verified")?)? != 0,
        verification_token: row.text("verification_token")?,
        verification_token_expires_at: row.big("verification_token_expires_at")?,
        locked_until: row.big("locked_until")?,
        token_version: row.required("token_version", row.int("token_version")?)?,
        terms_accepted_at: row.big("terms_accepted_at")?,
        created_at: row.required("created_at", row.instant("created_at")?)?,
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

/// What is used of a row of `user_sync_state`.
#[derive(Clone, Debug)]
pub struct State {
    pub user: UserId,
    pub last_seq: Seq,
    pub marks: SourceMarks,
    /// The cached state.
    pub snapshot: Option<Vec<u8>>,
}

/// A row of `user_sync_state`.
pub fn state(row: &Row) -> Result<State, DumpError> {
    Ok(State {
        user: row.required("user_id", row.int("user_id")?)?,
        last_seq: row.required("last_seq", row.int("last_seq")?)?,
        marks: SourceMarks {
            has_snapshot: row.is_there("snapshot_data")?,
            snapshot_seq: row.int("last_snapshot_seq")?,
            snapshot_at: row.big("snapshot_at")?,
            snapshot_schema_version: row.int("snapshot_schema_version")?,
            full_state_seq: row.int("latest_full_state_seq")?,
            full_state_clock: row.json("latest_full_state_vector_clock")?,
        },
        snapshot: row.blob("snapshot_data")?,
    })
}

/// A row of `passkeys` or of `pending_passkey_registrations`, and its id, which orders them.
pub fn passkey(row: &Row) -> Result<(String, SourcePasskey), DumpError> {
    let id = row.required("id", row.text("id")?)?;
    let key = SourcePasskey {
        user: row.required("user_id", row.int("user_id")?)?,
        credential_id: row.required("credential_id", row.blob("credential_id")?)?,
        public_key: row.required("public_key", row.blob("public_key")?)?,
        counter: row.required("counter", row.big("counter")?)?,
        transports: row.text("transports")?,
        created_at: row.required("created_at", row.instant("created_at")?)?,
        last_used_at: row.instant("last_used_at")?,
    };
    Ok((id, key))
}

/// A row of `pending_passkey_registrations`, and its id.
pub fn pending(row: &Row) -> Result<(String, SourcePending), DumpError> {
    let (id, key) = passkey(row)?;
    let until = "verification_token_expires_at";
    let pending = SourcePending {
        verification_token: row.required("verification_token", row.text("verification_token")?)?,
        verification_token_expires_at: row.required(until, row.big(until)?)?,
        key,
    };
    Ok((id, pending))
}

/// A row of `sync_devices`.
pub fn device(row: &Row) -> Result<SourceDevice, DumpError> {
    Ok(SourceDevice {
        user: row.required("user_id", row.int("user_id")?)?,
        client_id: row.required("client_id", row.text("client_id")?)?,
        last_seen_at: row.required("last_seen_at", row.big("last_seen_at")?)?,
        created_at: row.required("created_at", row.big("created_at")?)?,
    })
}

/// Where a row of `operations` belongs.
#[derive(Clone, Debug)]
pub struct Place {
    pub user: UserId,
    pub seq: Seq,
    pub id: String,
}

/// Where a row of `operations` belongs.
pub fn place(row: &Row) -> Result<Place, DumpError> {
    Ok(Place {
        user: row.required("user_id", row.int("user_id")?)?,
        seq: row.required("server_seq", row.int("server_seq")?)?,
        id: row.required("id", row.text("id")?)?,
    })
}

/// A row of `operations`.
pub fn operation(row: &Row) -> Result<SourceOp, DumpError> {
    Ok(SourceOp {
        id: row.required("id", row.text("id")?)?,
        client_id: row.required("client_id", row.text("client_id")?)?,
        server_seq: row.required("server_seq", row.int("server_seq")?)?,
        action_type: row.required("action_type", row.text("action_type")?)?,
        op_type: row.required("op_type", row.text("op_type")?)?,
        entity_type: row.required("entity_type", row.text("entity_type")?)?,
        entity_id: row.text("entity_id")?,
        entity_ids: row.texts("entity_ids")?.unwrap_or_default(),
        payload: row.required("payload", row.json("payload")?)?,
        payload_bytes: row.big("payload_bytes")?.unwrap_or(0),
        vector_clock: row.required("vector_clock", row.json("vector_clock")?)?,
        schema_version: row.required("schema_version", row.int("schema_version")?)?,
        client_timestamp: row.required("client_timestamp", row.big("client_timestamp")?)?,
        received_at: row.required("received_at", row.big("received_at")?)?,
        is_payload_encrypted: row.bool("is_payload_encrypted")?.unwrap_or(false),
        sync_import_reason: row.text("sync_import_reason")?,
        repair_base_server_seq: row.int("repair_base_server_seq")?,
    })
}
