//! Semantic validation of operations, one by one, first failure wins (contract, section 5.4).
//!
//! Promises: a refusal's text holds none of the words that released clients take for "try again" (section 14.5), and
//! nothing that a client sent. What passes can be stored and sent to every released client.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt as _};

use super::Seq;
use super::charge::{Allowance, Excess};
use super::clock::VectorClock;
use super::code::ErrorCode;
use super::identity::same_uploaded;
use super::json::scan::string_value;
use super::limits::{
    MAX_CLOCK_ACCEPTED, MAX_ENTITY_IDS, MAX_FULL_STATE_DEPTH, MAX_FULL_STATE_KEYS, MAX_ID_LEN, MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_DEPTH, MAX_PAYLOAD_KEYS, MAX_SAFE_INTEGER, MAX_SCHEMA_VERSION, MIN_CIPHERTEXT_BYTES,
};
use super::op::{LOAD_ALL_ACTION, OpType, TIME_DELTA_ACTION, UploadedOp, ValidOp, entity_type};
use super::request::schema::{longer_than, object_entries};
use super::request::{SnapshotReason, SnapshotRequest, UploadRequest};
use super::response::Rejection;

mod fingerprint;
mod time_delta;

/// An upload of which each operation has been judged.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct CheckedUpload {
    pub client_id: Arc<str>,
    pub last_known_server_seq: Option<Seq>,
    pub request_id: Option<Arc<str>>,
    /// A digest of the request as received (section 5.5 B); present when there is a request id.
    pub fingerprint: Option<u128>,
    /// In the order of the request.
    pub ops: Vec<CheckedOp>,
}

/// An operation that may be stored, or the reason why not.
#[derive(Clone, Debug)]
pub struct CheckedOp {
    /// The id as sent, even when it is invalid.
    pub op_id: Arc<str>,
    /// Whether it says that it is a `REPAIR`, valid or not: that decides over the whole request (section 5.7).
    pub is_repair: bool,
    /// Whether it may not enter where end-to-end encryption is required (section 5.3), valid or not.
    pub is_plain: bool,
    /// The verdict.
    pub check: Result<Box<ValidOp>, Rejection>,
}

impl CheckedOp {
    /// Whether it can be stored, and is not encrypted.
    #[must_use]
    pub const fn brings_plaintext(&self) -> bool {
        self.is_plain && self.check.is_ok()
    }
}

/// A snapshot upload as the operation that it stands for (section 7.1).
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what a request says, each for itself")]
pub struct CheckedSnapshot {
    /// The operation, or why it can't be stored.
    pub op: Result<Box<ValidOp>, Rejection>,
    /// Whether it may not enter where end-to-end encryption is required (section 5.3), valid or not.
    pub is_plain: bool,
    /// The operation's id, valid or not.
    pub op_id: Arc<str>,
    /// Whether the client chose the id, so that a retry can be recognised.
    pub op_id_given: bool,
    /// The uploading client.
    pub client_id: Arc<str>,
    /// Why it was uploaded.
    pub reason: SnapshotReason,
    /// Whether it replaces the data set. Never for a repair.
    pub clean_slate: bool,
    /// A repair of an old client, without a base: stored, but it authorises nothing (section 7.4).
    pub legacy_repair: bool,
    /// What the state takes as compact JSON, in bytes; 0 when it is missing.
    pub state_bytes: usize,
    /// The request's id.
    pub request_id: Option<Arc<str>>,
    /// A digest of the request as received, without its id; present when there is one.
    pub fingerprint: Option<u128>,
}

/// Judges each operation of an upload: ids that repeat within the request first, then the rules of section 5.4, then what
/// one request may carry (section 17.22).
#[must_use]
pub fn check_upload(request: UploadRequest) -> CheckedUpload {
    let fingerprint = request.request_id.is_some().then(|| fingerprint::of_upload(&request));
    let repeated = repeated_ids(&request.ops);
    let UploadRequest { ops, client_id, last_known_server_seq, request_id } = request;
    let mut allowance = Allowance::new();
    let mut check = |op| {
        let op = check_op(op, &client_id)?;
        allowance.take(&op).map_err(|excess| Refusal::from(excess).rejection())?;
        Ok(Box::new(op))
    };
    let ops = ops
        .into_iter()
        .zip(repeated)
        .map(|(op, repeated)| CheckedOp {
            op_id: op.id.clone(),
            is_repair: &*op.op_type == OpType::Repair.as_str(),
            is_plain: violates_e2ee_gate(op.is_payload_encrypted, op.payload.as_deref()),
            check: match repeated {
                Some(rejection) => Err(rejection),
                None => check(op),
            },
        })
        .collect();
    CheckedUpload { client_id, last_known_server_seq, request_id, fingerprint, ops }
}

/// Judges a snapshot upload. `new_op_id` is taken when the client sent no id; `now_ms` becomes the operation's time.
#[must_use]
pub fn check_snapshot(request: SnapshotRequest, new_op_id: Arc<str>, now_ms: i64) -> CheckedSnapshot {
    let fingerprint = request.request_id.is_some().then(|| fingerprint::of_snapshot(&request));
    let op_type = request.op_type.unwrap_or(OpType::SyncImport);
    let repair = op_type == OpType::Repair;
    let op_id_given = request.op_id.is_some();
    let op_id = request.op_id.unwrap_or(new_op_id);
    let state_bytes = request.state.as_ref().map_or(0, Bytes::len);
    let is_plain = violates_e2ee_gate(request.is_payload_encrypted, request.state.as_deref());
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this era are far below 2^53")]
    let timestamp = now_ms as f64;
    let op = UploadedOp {
        id: op_id.clone(),
        client_id: request.client_id.clone(),
        action_type: LOAD_ALL_ACTION.into(),
        op_type: op_type.as_str().into(),
        entity_type: "ALL".into(),
        entity_id: None,
        entity_ids: None,
        payload: request.state,
        payload_shape: request.state_shape,
        vector_clock: request.vector_clock,
        timestamp,
        schema_version: f64::from(request.schema_version.unwrap_or(1)),
        is_payload_encrypted: request.is_payload_encrypted,
        import_reason: request.import_reason,
        repair_base_server_seq: request.repair_base_server_seq,
        poisoned: None,
    };
    CheckedSnapshot {
        op: check_op(op, &request.client_id).map(Box::new),
        is_plain,
        op_id,
        op_id_given,
        client_id: request.client_id,
        reason: request.reason,
        clean_slate: request.is_clean_slate && !repair,
        legacy_repair: repair && request.repair_base_server_seq.is_none() && request.is_clean_slate,
        state_bytes,
        request_id: request.request_id,
        fingerprint,
    }
}

/// For each operation, the refusal that an earlier one with the same id in the request brings (section 5.5 A, step 1).
fn repeated_ids(ops: &[UploadedOp]) -> Vec<Option<Rejection>> {
    let mut first_by_id: HashMap<&str, &UploadedOp> = HashMap::with_capacity(ops.len());
    ops.iter()
        .map(|op| {
            if op.poisoned == Some("id") {
                // Not the id that was sent: nothing to compare.
                return None;
            }
            let Some(first) = first_by_id.get(&*op.id) else {
                first_by_id.insert(&op.id, op);
                return None;
            };
            Some(if same_uploaded(first, op) { duplicate_operation() } else { id_taken() })
        })
        .collect()
}

/// The refusal of an operation that is stored already: clients take it as stored.
#[must_use]
pub fn duplicate_operation() -> Rejection {
    Rejection::new(ErrorCode::DuplicateOperation, "Duplicate operation")
}

/// The refusal of an operation whose id belongs to a different one.
#[must_use]
pub fn id_taken() -> Rejection {
    Rejection::new(ErrorCode::InvalidOpId, "The operation id belongs to a different operation")
}

/// White space as `String.prototype.trim` sees it.
#[must_use]
pub const fn is_js_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}'
    )
}

fn is_blank(text: &str) -> bool {
    text.chars().all(is_js_space)
}

/// Every refusal of this module in one place, so that a test can read all the texts. The codes are those of section
/// 5.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    ClientId,
    IdMissing,
    IdTooLong,
    IdText,
    OpType,
    ActionTypeText,
    EntityTypeMissing,
    EntityType,
    EntityIdLength,
    EntityIdBlank,
    EntityIdText,
    EntityIdsCount,
    EntityIdsElement,
    EntityIdMissing,
    PayloadMissing,
    TimeDelta,
    SchemaVersion,
    Timestamp,
    ClockSize,
    PayloadComplexity,
    FullStateComplexity,
    PayloadSize,
    DeleteShape,
    PayloadShape,
    BatchShape,
    RequestEntities,
    RequestMetadata,
}

impl From<Excess> for Refusal {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Entities => Self::RequestEntities,
            Excess::Metadata => Self::RequestMetadata,
        }
    }
}

impl Refusal {
    #[cfg(test)]
    const ALL: [Self; 27] = [
        Self::ClientId,
        Self::IdMissing,
        Self::IdTooLong,
        Self::IdText,
        Self::OpType,
        Self::ActionTypeText,
        Self::EntityTypeMissing,
        Self::EntityType,
        Self::EntityIdLength,
        Self::EntityIdBlank,
        Self::EntityIdText,
        Self::EntityIdsCount,
        Self::EntityIdsElement,
        Self::EntityIdMissing,
        Self::PayloadMissing,
        Self::TimeDelta,
        Self::SchemaVersion,
        Self::Timestamp,
        Self::ClockSize,
        Self::PayloadComplexity,
        Self::FullStateComplexity,
        Self::PayloadSize,
        Self::DeleteShape,
        Self::PayloadShape,
        Self::BatchShape,
        Self::RequestEntities,
        Self::RequestMetadata,
    ];

    fn rejection(self) -> Rejection {
        use ErrorCode as Code;
        let (code, text) = match self {
            Self::ClientId => (Code::InvalidClientId, "The operation's clientId differs from the request's"),
            Self::IdMissing => (Code::InvalidOpId, "The operation has no id"),
            Self::IdTooLong => (Code::InvalidOpId, "The operation id is longer than 255 characters"),
            Self::IdText => (Code::InvalidOpId, "The operation id holds characters that can't be stored"),
            Self::OpType => (Code::InvalidOpType, "Unknown opType"),
            Self::ActionTypeText => (Code::InvalidPayload, "The actionType holds characters that can't be stored"),
            Self::EntityTypeMissing => (Code::InvalidEntityType, "The operation has no entityType"),
            Self::EntityType => (Code::InvalidEntityType, "Unknown entityType"),
            Self::EntityIdLength => (Code::InvalidEntityId, "The entityId is longer than 255 characters"),
            Self::EntityIdBlank => (Code::InvalidEntityId, "The entityId is blank"),
            Self::EntityIdText => (Code::InvalidEntityId, "An entity id holds characters that can't be stored"),
            Self::EntityIdsCount => (Code::InvalidEntityId, "More than 1000 entityIds"),
            Self::EntityIdsElement => {
                (Code::InvalidEntityId, "An element of entityIds is blank or longer than 255 characters")
            }
            Self::EntityIdMissing => (Code::MissingEntityId, "Operations on this entityType need an entityId"),
            Self::PayloadMissing => (Code::InvalidPayload, "The operation has no payload"),
            Self::TimeDelta => (Code::InvalidPayload, "Not a valid task time payload"),
            Self::SchemaVersion => (Code::InvalidSchemaVersion, "The schemaVersion is not an integer from 1 to 100"),
            Self::Timestamp => (Code::InvalidTimestamp, "The timestamp is not an integer"),
            Self::ClockSize => (Code::InvalidVectorClock, "The vector clock has more than 50 entries"),
            Self::PayloadComplexity => {
                (Code::InvalidPayload, "The payload is nested deeper than 20 levels or has more than 20000 keys")
            }
            Self::FullStateComplexity => {
                (Code::InvalidPayload, "The state is nested deeper than 50 levels or has more than 500000 keys")
            }
            Self::PayloadSize => (Code::PayloadTooLarge, "The payload is larger than 20 MiB"),
            Self::DeleteShape => (Code::InvalidPayload, "The payload of a DEL must be null, an object or a string"),
            Self::PayloadShape => (Code::InvalidPayload, "The payload must be an object or a string"),
            Self::BatchShape => (Code::InvalidPayload, "The entities of a BATCH must be an object"),
            Self::RequestEntities => {
                (Code::InvalidEntityId, "The operations of this request name more than 30000 entities")
            }
            Self::RequestMetadata => {
                (Code::PayloadTooLarge, "The operations of this request have more than 2 MiB beside their payloads")
            }
        };
        Rejection::new(code, text)
    }
}

/// Fails with `refusal` unless `ok`.
fn require(ok: bool, refusal: Refusal) -> Result<(), Refusal> {
    if ok { Ok(()) } else { Err(refusal) }
}

fn check_op(op: UploadedOp, request_client: &str) -> Result<ValidOp, Rejection> {
    check_fields(op, request_client).map_err(Refusal::rejection)
}

fn storable(op: &UploadedOp, field: &str, text: &str) -> bool {
    op.poisoned != Some(field) && !text.contains('\0')
}

fn check_fields(op: UploadedOp, request_client: &str) -> Result<ValidOp, Refusal> {
    require(*op.client_id == *request_client, Refusal::ClientId)?;
    require(!op.id.is_empty(), Refusal::IdMissing)?;
    require(!longer_than(&op.id, MAX_ID_LEN), Refusal::IdTooLong)?;
    require(storable(&op, "id", &op.id), Refusal::IdText)?;
    let op_type = OpType::parse(&op.op_type).ok_or(Refusal::OpType)?;
    require(storable(&op, "actionType", &op.action_type), Refusal::ActionTypeText)?;
    require(!op.entity_type.is_empty(), Refusal::EntityTypeMissing)?;
    let entity_type = entity_type(&op.entity_type).ok_or(Refusal::EntityType)?;
    check_entity_ids(&op)?;
    let needs_entity = !op_type.is_full_state() && !matches!(entity_type, "ALL" | "RECOVERY");
    require(!needs_entity || op.entity_id.is_some(), Refusal::EntityIdMissing)?;
    let payload = op.payload.as_ref().ok_or(Refusal::PayloadMissing)?;
    let encrypted = op.is_payload_encrypted.unwrap_or(false);
    if &*op.action_type == TIME_DELTA_ACTION && !encrypted {
        require(time_delta::is_valid(payload, op.entity_id.as_deref()), Refusal::TimeDelta)?;
    }
    let schema_version = integer(op.schema_version)
        .and_then(|version| u8::try_from(version).ok())
        .filter(|version| (1..=MAX_SCHEMA_VERSION).contains(version))
        .ok_or(Refusal::SchemaVersion)?;
    let timestamp = integer(op.timestamp).ok_or(Refusal::Timestamp)?;
    let vector_clock = sanitised(&op.vector_clock).ok_or(Refusal::ClockSize)?;
    if op_type.is_full_state() {
        let fits = op.payload_shape.depth <= MAX_FULL_STATE_DEPTH && op.payload_shape.keys <= MAX_FULL_STATE_KEYS;
        require(fits, Refusal::FullStateComplexity)?;
    } else {
        let fits = op.payload_shape.depth <= MAX_PAYLOAD_DEPTH && op.payload_shape.keys <= MAX_PAYLOAD_KEYS;
        require(fits, Refusal::PayloadComplexity)?;
    }
    require(payload.len() <= MAX_PAYLOAD_BYTES, Refusal::PayloadSize)?;
    check_payload_kind(op_type, payload)?;
    Ok(ValidOp {
        id: op.id,
        client_id: op.client_id,
        action_type: op.action_type,
        op_type,
        entity_type,
        entity_id: op.entity_id,
        entity_ids: op.entity_ids.unwrap_or_default(),
        payload: op.payload.ok_or(Refusal::PayloadMissing)?,
        vector_clock,
        timestamp,
        schema_version,
        is_payload_encrypted: encrypted,
        import_reason: op.import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
    })
}

/// Rows 6 and 7 of section 5.4.
fn check_entity_ids(op: &UploadedOp) -> Result<(), Refusal> {
    if let Some(id) = &op.entity_id {
        require(!longer_than(id, MAX_ID_LEN), Refusal::EntityIdLength)?;
        require(!is_blank(id), Refusal::EntityIdBlank)?;
        require(storable(op, "entityId", id), Refusal::EntityIdText)?;
    }
    if let Some(ids) = &op.entity_ids {
        require(ids.len() <= MAX_ENTITY_IDS, Refusal::EntityIdsCount)?;
        require(ids.iter().all(|id| !longer_than(id, MAX_ID_LEN) && !is_blank(id)), Refusal::EntityIdsElement)?;
        require(ids.iter().all(|id| storable(op, "entityIds", id)), Refusal::EntityIdText)?;
    }
    Ok(())
}

/// Row 16 of section 5.4.
fn check_payload_kind(op_type: OpType, payload: &[u8]) -> Result<(), Refusal> {
    if op_type.is_full_state() {
        return Ok(());
    }
    match (payload.first(), op_type) {
        (Some(b'"'), _) | (Some(b'n' | b'{'), OpType::Delete) => Ok(()),
        (_, OpType::Delete) => Err(Refusal::DeleteShape),
        (Some(b'{'), OpType::Batch) => require(batch_entities_fit(payload), Refusal::BatchShape),
        (Some(b'{'), _) => Ok(()),
        _ => Err(Refusal::PayloadShape),
    }
}

fn batch_entities_fit(payload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else { return false };
    let entities = object_entries(text).filter(|(key, _, _)| key == "entities").last();
    entities.is_none_or(|(_, _, span)| payload[span.start] == b'{')
}

/// A number that is a safe integer.
fn integer(value: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be integral; saturates outside the safe range")]
    let integer = value as i64;
    (value.fract() == 0.0 && (-MAX_SAFE_INTEGER..=MAX_SAFE_INTEGER).contains(&integer)).then_some(integer)
}

/// The clock without invalid entries (section 4); `None` when it has too many. Keys with NUL name no client and can't
/// be stored everywhere: they are invalid too.
pub(super) fn sanitised(entries: &[(Arc<str>, f64)]) -> Option<VectorClock> {
    if entries.len() > MAX_CLOCK_ACCEPTED {
        return None;
    }
    Some(VectorClock::of_valid(entries))
}

/// Whether an operation or a state may not enter where end-to-end encryption is required (section 5.3): it does not
/// claim to be encrypted, or does not look like ciphertext. A check of the outer shape only.
#[must_use]
fn violates_e2ee_gate(encrypted: Option<bool>, payload: Option<&[u8]>) -> bool {
    encrypted != Some(true) || !payload.is_some_and(is_ciphertext)
}

fn is_ciphertext(payload: &[u8]) -> bool {
    let Some(text) = std::str::from_utf8(payload).ok().filter(|text| text.starts_with('"')) else { return false };
    // Some encoders escape the slash.
    let (text, _) = string_value(text);
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    text.len().is_multiple_of(4)
        && padding <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        && (text.len() / 4 * 3).saturating_sub(padding) >= MIN_CIPHERTEXT_BYTES
}

#[cfg(test)]
mod tests;
