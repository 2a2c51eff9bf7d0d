//! What an import reads: the old server's data as it is stored there, from wherever it comes.
//!
//! A source gives values, not judgements: what is odd about them is found by those who use them. What the schema of an
//! older release lacks has the value that the migration which brought it gave to existing rows (operations contract,
//! section 8.4).

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::ImportError;
use crate::protocol::{Seq, UserId};

/// Operations that are handed over together at most,
pub const BATCH_OPS: usize = 500;
/// and the bytes of their payloads, but for the last of them.
pub const BATCH_BYTES: usize = 1 << 20;

/// A row of `users`. Instants are Unix milliseconds.
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
    /// Whether it holds a cached state ([`Source::snapshot`]).
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

/// How much of a log there is. The ids tell it from one that was begun anew and has come as far.
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

/// A row of `operations`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SourceOp {
    pub id: String,
    pub client_id: String,
    pub server_seq: Seq,
    pub action_type: String,
    pub op_type: String,
    pub entity_type: String,
    pub entity_id: Option<String>,
    pub entity_ids: Vec<String>,
    /// The text of the `jsonb` value as PostgreSQL writes it.
    pub payload: String,
    /// 0 = not measured.
    pub payload_bytes: i64,
    /// The text of the `jsonb` value.
    pub vector_clock: String,
    pub schema_version: i64,
    pub client_timestamp: i64,
    pub received_at: i64,
    pub is_payload_encrypted: bool,
    pub sync_import_reason: Option<String>,
    pub repair_base_server_seq: Option<Seq>,
}

/// The old server's data as it is at one instant.
#[async_trait]
pub trait Source: Send {
    /// From now on it is seen as it is now. Gives back the columns that it lacks, as `table.column`, because the release that
    /// wrote it is older. Refuses what is not the old server's.
    async fn open(&mut self) -> Result<Vec<String>, ImportError>;

    /// Who else works on it, in words; empty if nobody. To be asked before it is opened: whoever leaves may have written
    /// something at last.
    async fn others(&mut self) -> Result<String, ImportError>;

    /// Every account, by number.
    async fn users(&mut self) -> Result<Vec<SourceUser>, ImportError>;

    /// Every passkey, by account and id.
    async fn passkeys(&mut self) -> Result<Vec<SourcePasskey>, ImportError>;

    /// Every passkey that waits for its verification link, by account and id.
    async fn pending(&mut self) -> Result<Vec<SourcePending>, ImportError>;

    /// Every device, by account and client id.
    async fn devices(&mut self) -> Result<Vec<SourceDevice>, ImportError>;

    /// How much there is of every log that is not empty, by account.
    async fn logs(&mut self) -> Result<Vec<SourceLog>, ImportError>;

    /// The highest number that was given to an account.
    async fn highest_number(&mut self) -> Result<UserId, ImportError>;

    /// An account's cached state, as it is stored: JSON, compressed with gzip.
    async fn snapshot(&mut self, user: UserId) -> Result<Option<Vec<u8>>, ImportError>;

    /// Hands over an account's operations by `server_seq`, at most [`BATCH_OPS`] and about [`BATCH_BYTES`] at once.
    /// If nobody takes any more, it ends without error.
    async fn operations(&mut self, user: UserId, to: &mpsc::Sender<Vec<SourceOp>>) -> Result<(), ImportError>;
}
