//! The wire as the app validates it (contract, section 14.2): optional members may be absent but never `null`,
//! identifiers and enumerations are checked, members it does not know are fine. One bad operation fails the whole
//! answer, as it does in the app.

use std::collections::BTreeMap;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// UTF-16 length of ids (contract, section 15).
const MAX_ID_LEN: usize = 255;
/// Declared entity ids of one operation.
const MAX_ENTITY_IDS: usize = 1000;
/// Largest counter of a clock.
const MAX_CLOCK_COUNTER: u32 = 100_000_000;
/// Largest schema version.
const MAX_SCHEMA_VERSION: u8 = 100;
/// Largest integer that JavaScript represents exactly.
const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;
/// Schema version that the released app writes.
pub const SCHEMA_VERSION: u8 = 4;
/// The entity types that the app knows (contract, section 3.1).
const ENTITY_TYPES: &str = "TASK PROJECT TAG NOTE GLOBAL_CONFIG SIMPLE_COUNTER WORK_CONTEXT TIME_TRACKING \
                            TASK_REPEAT_CFG ISSUE_PROVIDER PLANNER MENU_TREE METRIC BOARD SECTION REMINDER \
                            PLUGIN_USER_DATA PLUGIN_METADATA MIGRATION RECOVERY ALL";

/// A number of an account's sequence.
pub type Seq = i64;
/// A clock as it travels.
pub type Clock = BTreeMap<String, u32>;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // contract, section 3.1
pub enum OpType {
    #[serde(rename = "CRT")]
    Create,
    #[serde(rename = "UPD")]
    Update,
    #[serde(rename = "DEL")]
    Delete,
    #[serde(rename = "MOV")]
    Move,
    #[serde(rename = "BATCH")]
    Batch,
    #[serde(rename = "SYNC_IMPORT")]
    SyncImport,
    #[serde(rename = "BACKUP_IMPORT")]
    BackupImport,
    #[serde(rename = "REPAIR")]
    Repair,
}

/// Those that carry a full state.
pub(super) const FULL_STATES: [OpType; 3] = [OpType::SyncImport, OpType::BackupImport, OpType::Repair];

/// Why a full state was uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // contract, section 3.1
pub enum ImportReason {
    PasswordChanged,
    FileImport,
    BackupRestore,
    ForceUpload,
    ServerMigration,
    Repair,
}

/// Makes an optional member fail on `null` instead of reading it as absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// An operation to upload.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // contract, section 5.2
pub struct NewOp {
    pub id: String,
    pub client_id: String,
    pub action_type: String,
    pub op_type: OpType,
    pub entity_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entity_ids: Vec<String>,
    pub payload: Box<RawValue>,
    pub vector_clock: Clock,
    pub timestamp: i64,
    pub schema_version: u8,
    pub is_payload_encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_import_reason: Option<ImportReason>,
}

/// `POST /api/sync/ops`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // contract, section 5.2
pub struct UploadBody<'a> {
    pub ops: &'a [NewOp],
    pub client_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_known_server_seq: Option<Seq>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
}

/// `POST /api/sync/snapshot`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)] // contract, section 7.1
pub struct SnapshotBody {
    pub state: Box<RawValue>,
    pub client_id: String,
    pub reason: &'static str,
    pub vector_clock: Clock,
    pub schema_version: u8,
    pub is_payload_encrypted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_import_reason: Option<ImportReason>,
    pub op_id: String,
    pub is_clean_slate: bool,
    pub snapshot_op_type: OpType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// Answers: members that must be there, then those that may be absent but never `null`.
macro_rules! answers {
    ($($(#[$doc:meta])* $name:ident { $($must:ident: $type:ty),*; $($may:ident: $optional:ty),* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[allow(missing_docs)] // the section of the contract that is named
        pub struct $name {
            $(pub $must: $type,)*
            $(#[serde(default, deserialize_with = "present")] pub $may: Option<$optional>,)*
        }
    )*};
}

answers! {
    /// An operation as the server sends it (contract, section 3.3).
    ServerOp { server_seq: Seq, op: Op, received_at: i64; }

    /// The operation itself (contract, section 3.3). The payload is as the server spelled it.
    Op {
        id: String, client_id: String, action_type: String, op_type: OpType, entity_type: String, payload: Box<RawValue>,
        vector_clock: Clock, timestamp: i64, schema_version: u8, is_payload_encrypted: bool;
        entity_id: String, entity_ids: Vec<String>, sync_import_reason: ImportReason, repair_base_server_seq: Seq
    }

    /// The answer to an upload (contract, section 5.11).
    UploadAnswer {
        results: Vec<OpResult>, latest_seq: Seq;
        new_ops: Vec<ServerOp>, has_more_piggyback: bool, deduplicated: bool
    }

    /// What became of one operation (contract, section 5.11).
    OpResult { op_id: String, accepted: bool; server_seq: Seq, error: String, error_code: String, existing_clock: Clock }

    /// A page of operations (contract, section 6).
    DownloadAnswer {
        ops: Vec<ServerOp>, has_more: bool, latest_seq: Seq, server_time: i64;
        gap_detected: bool, snapshot_vector_clock: Clock, capabilities: Capabilities, latest_snapshot_seq: Seq
    }

    /// What the server can do (contract, section 6): whether REPAIRs with a base are understood.
    Capabilities { ; causal_repair_snapshots: bool }

    /// The answer to a snapshot upload (contract, section 7.2).
    SnapshotAnswer { accepted: bool; server_seq: Seq, error: String, error_code: String }

    /// `GET /api/sync/status` (contract, section 8.2).
    StatusAnswer {
        latest_seq: Seq, devices_online: u32, storage_used_bytes: i64, storage_quota_bytes: i64;
        snapshot_age: i64
    }

    /// `GET /api/sync/devices` (contract, section 8.3).
    DevicesAnswer { devices: Vec<DeviceSeen>; }

    /// A device of the account (contract, section 8.3).
    DeviceSeen { client_id: String, last_seen_at: i64; }

    /// `GET /api/sync/restore-points` (contract, section 8.5).
    RestorePointsAnswer { restore_points: Vec<RestorePoint>; }

    /// A full state to go back to (contract, section 8.5).
    RestorePoint { server_seq: Seq, timestamp: i64, r#type: OpType, client_id: String, description: String; }

    /// `GET /api/sync/restore/:serverSeq` (contract, section 8.6).
    RestoreAnswer { state: Box<RawValue>, server_seq: Seq, generated_at: i64; }

    /// `DELETE /api/sync/data` (contract, section 8.4).
    WipeAnswer { success: bool; }

    /// The body of an error (contract, section 2.3).
    ErrorBody {
        error: String;
        message: String, existing_import_id: String
    }
}

/// What the app checks beyond the shape of an answer: the error names the member that is wrong.
pub(super) fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn id_fits(id: &str) -> bool {
    !id.is_empty() && id.encode_utf16().count() <= MAX_ID_LEN
}

pub(super) fn client_id_fits(id: &str) -> bool {
    id_fits(id) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn clock_fits(clock: &Clock) -> bool {
    clock.iter().all(|(key, value)| id_fits(key) && *value <= MAX_CLOCK_COUNTER)
}

impl ServerOp {
    fn check(&self) -> Result<(), String> {
        let op = &self.op;
        require((1..=MAX_SAFE_INTEGER).contains(&self.server_seq), "serverSeq")?;
        require(id_fits(&op.id), "op.id")?;
        require(client_id_fits(&op.client_id), "op.clientId")?;
        require(id_fits(&op.action_type), "op.actionType")?;
        require(ENTITY_TYPES.split(' ').any(|known| known == op.entity_type), "op.entityType")?;
        require(op.entity_id.as_deref().is_none_or(id_fits), "op.entityId")?;
        let ids_fit =
            |ids: &Vec<String>| !ids.is_empty() && ids.len() <= MAX_ENTITY_IDS && ids.iter().all(|id| id_fits(id));
        require(op.entity_ids.as_ref().is_none_or(ids_fit), "op.entityIds")?;
        require(clock_fits(&op.vector_clock), "op.vectorClock")?;
        require((1..=MAX_SCHEMA_VERSION).contains(&op.schema_version), "op.schemaVersion")?;
        require(op.repair_base_server_seq.is_none_or(|seq| seq >= 0), "op.repairBaseServerSeq")?;
        let is_text = op.payload.get().starts_with('"');
        require(!op.is_payload_encrypted || is_text, "op.payload of an encrypted operation")
    }
}

/// Operations of one answer ascend without repeats.
fn check_ops(ops: &[ServerOp]) -> Result<(), String> {
    ops.iter().try_for_each(ServerOp::check)?;
    require(ops.is_sorted_by(|a, b| a.server_seq < b.server_seq), "order of operations")
}

impl UploadAnswer {
    pub(super) fn check(&self) -> Result<(), String> {
        for result in &self.results {
            require(result.accepted == result.server_seq.is_some(), "results[].serverSeq")?;
            require(result.accepted == result.error_code.is_none(), "results[].errorCode")?;
            require(result.accepted == result.error.is_none(), "results[].error")?;
            require(result.existing_clock.as_ref().is_none_or(clock_fits), "results[].existingClock")?;
            let is_conflict = result.error_code.as_deref().is_some_and(|code| code.starts_with("CONFLICT_"));
            require(is_conflict == result.existing_clock.is_some(), "results[].existingClock")?;
        }
        require(self.latest_seq >= 0, "latestSeq")?;
        require(self.has_more_piggyback != Some(false), "hasMorePiggyback")?;
        require(self.deduplicated != Some(false), "deduplicated")?;
        require(self.new_ops.as_ref().is_none_or(|ops| !ops.is_empty()), "newOps")?;
        check_ops(self.new_ops.as_deref().unwrap_or_default())
    }
}

impl DownloadAnswer {
    pub(super) fn check(&self) -> Result<(), String> {
        require(self.latest_seq >= 0, "latestSeq")?;
        require(self.gap_detected != Some(false), "gapDetected")?;
        require(self.snapshot_vector_clock.as_ref().is_none_or(clock_fits), "snapshotVectorClock")?;
        let causal = self.capabilities.as_ref().and_then(|capabilities| capabilities.causal_repair_snapshots);
        require(causal != Some(false), "capabilities.causalRepairSnapshots")?;
        let last = self.ops.last().map_or(0, |op| op.server_seq);
        require(last <= self.latest_seq, "operation beyond latestSeq")?;
        check_ops(&self.ops)
    }
}
