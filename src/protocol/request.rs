//! Requests: from bytes to checked structure (contract, sections 5.2, 6, 7.1).
//!
//! Promises: one pass over a body; payloads stay the bytes that the client sent (without white space), mostly as slices
//! of the body. A body is refused as a whole only for its structure: what an operation means is judged one by one later
//! ([`super::validate`]), as one bad operation must not stop its siblings for ever.

use std::sync::Arc;

use bytes::Bytes;

use super::json::scan::{Malformed, Scanner, Shape, Span, compacted};
use super::limits::{MAX_ENTITY_IDS_TRANSPORT, MAX_ID_LEN, MAX_OPS_PER_UPLOAD, MAX_SCHEMA_VERSION, MAX_TRANSPORT_LEN};
use super::response::Issue;
use super::{ImportReason, OpType, Seq, UploadedOp};

mod query;
pub(in crate::protocol) mod schema;

pub use schema::is_client_id;
use schema::{At, CLIENT_ID, Checker, REQUEST_ID, StringRule, UUID, members};

/// `POST /api/sync/ops`, structurally sound.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // section 5.2
pub struct UploadRequest {
    pub ops: Vec<UploadedOp>,
    pub client_id: Arc<str>,
    pub last_known_server_seq: Option<Seq>,
    pub request_id: Option<Arc<str>>,
}

/// What was made of a body.
pub trait Parsed {
    /// Bytes of memory that it takes beside the body, of which it holds parts.
    fn bytes_beside(&self, body: &Bytes) -> usize;
}

/// About what a short text takes of its own, with its place in a list.
const TEXT_BYTES: usize = 64;

/// The bytes of a payload that is no part of the body.
fn copied(payload: Option<&Bytes>, body: &Bytes) -> usize {
    payload.filter(|payload| !body.as_ptr_range().contains(&payload.as_ptr())).map_or(0, Bytes::len)
}

impl Parsed for UploadRequest {
    fn bytes_beside(&self, body: &Bytes) -> usize {
        self.metadata_bytes() + self.ops.iter().map(|op| copied(op.payload.as_ref(), body)).sum::<usize>()
    }
}

impl UploadRequest {
    /// About what its ids and clocks take in memory, in bytes.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        let of_op = |op: &UploadedOp| {
            let ids = op.entity_ids.iter().flatten().map(|id| TEXT_BYTES + id.len()).sum::<usize>();
            ids + op.vector_clock.iter().map(|(client, _)| TEXT_BYTES + client.len()).sum::<usize>()
        };
        self.ops.iter().map(of_op).sum()
    }
}

impl Parsed for SnapshotRequest {
    fn bytes_beside(&self, body: &Bytes) -> usize {
        copied(self.state.as_ref(), body)
    }
}

/// Why a snapshot is uploaded (`reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SnapshotReason {
    Initial,
    Recovery,
    Migration,
}

impl SnapshotReason {
    /// Every reason with its text on the wire, in the order of the contract.
    pub const WIRE: [(&'static str, Self); 3] =
        [("initial", Self::Initial), ("recovery", Self::Recovery), ("migration", Self::Migration)];

    /// The reason's text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Recovery => "recovery",
            Self::Migration => "migration",
        }
    }
}

/// `POST /api/sync/snapshot`, structurally sound.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // section 7.1
pub struct SnapshotRequest {
    /// Compact JSON; `None` when missing.
    pub state: Option<Bytes>,
    /// How deep and large the state is.
    pub state_shape: Shape,
    pub client_id: Arc<str>,
    pub reason: SnapshotReason,
    pub vector_clock: Vec<(Arc<str>, f64)>,
    pub schema_version: Option<u8>,
    pub is_payload_encrypted: Option<bool>,
    pub import_reason: Option<ImportReason>,
    pub op_id: Option<Arc<str>>,
    pub is_clean_slate: bool,
    /// `None` when the member is missing: then it is a `SYNC_IMPORT`.
    pub op_type: Option<OpType>,
    pub repair_base_server_seq: Option<Seq>,
    pub request_id: Option<Arc<str>>,
}

/// `GET /api/sync/ops`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // section 6
pub struct DownloadQuery {
    pub since_seq: Seq,
    pub limit: usize,
    pub exclude_client: Option<String>,
}

/// Why a body is not a request.
#[derive(Clone, Debug)]
pub enum RequestError {
    /// Not JSON at all.
    Malformed,
    /// More than [`MAX_OPS_PER_UPLOAD`] operations; carries their number. Checked before anything else.
    TooManyOps(usize),
    /// JSON of the wrong shape.
    Invalid(Vec<Issue>),
}

impl From<Malformed> for RequestError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Members of an uploaded operation, in the order of the issues.
const OP_FIELDS: [&str; 14] = [
    "id",
    "clientId",
    "actionType",
    "opType",
    "entityType",
    "entityId",
    "entityIds",
    "payload",
    "vectorClock",
    "timestamp",
    "schemaVersion",
    "isPayloadEncrypted",
    "syncImportReason",
    "repairBaseServerSeq",
];

/// Members of a snapshot, in the order of the issues.
const SNAPSHOT_FIELDS: [&str; 12] = [
    "state",
    "clientId",
    "reason",
    "vectorClock",
    "schemaVersion",
    "isPayloadEncrypted",
    "syncImportReason",
    "opId",
    "isCleanSlate",
    "snapshotOpType",
    "repairBaseServerSeq",
    "requestId",
];

/// Texts that may hold anything, as the operation alone is refused for them.
const TRANSPORT: StringRule = StringRule { min: None, max: Some(MAX_TRANSPORT_LEN), format: None };
const ACTION_TYPE: StringRule = StringRule { min: Some(1), max: Some(MAX_ID_LEN), format: None };

const IMPORT_REASONS: [(&str, ImportReason); 6] = {
    let mut table = [("", ImportReason::Repair); 6];
    let mut i = 0;
    while i < 6 {
        table[i] = (ImportReason::ALL[i].as_str(), ImportReason::ALL[i]);
        i += 1;
    }
    table
};

const SNAPSHOT_OP_TYPES: [(&str, OpType); 3] = [
    (OpType::SyncImport.as_str(), OpType::SyncImport),
    (OpType::BackupImport.as_str(), OpType::BackupImport),
    (OpType::Repair.as_str(), OpType::Repair),
];

/// What stands in `ops`.
enum Ops {
    Missing,
    NoArray(Span),
    /// The elements that are sound, and how many there are in all.
    Array {
        ops: Vec<UploadedOp>,
        count: usize,
    },
}

impl UploadRequest {
    /// Reads the (decompressed) body of an upload.
    ///
    /// # Errors
    /// [`RequestError`]; nothing of such a request may be stored.
    pub fn parse(body: &Bytes) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(body).map_err(|_| RequestError::Malformed)?;
        let mut scanner = Scanner::new(text);
        let mut check = Checker::new(text);
        let mut ops = Ops::Missing;
        let (mut client_id, mut last_known, mut request_id) = (None, None, None);
        if scanner.peek() != Some(b'{') {
            return Err(no_object(scanner, check));
        }
        scanner.open(b'{')?;
        let mut first = true;
        while let Some((key, _)) = scanner.member(&mut first)? {
            match &*key {
                "ops" => {
                    // Of equal names the last one counts.
                    check.forget_issues();
                    ops = read_ops(&mut scanner, &mut check, body)?;
                }
                "clientId" => client_id = Some(scanner.value()?),
                "lastKnownServerSeq" => last_known = Some(scanner.value()?),
                "requestId" => request_id = Some(scanner.value()?),
                _ => {
                    scanner.value()?;
                }
            }
        }
        scanner.end()?;

        let ops = match ops {
            Ops::Array { count, .. } if count > MAX_OPS_PER_UPLOAD => return Err(RequestError::TooManyOps(count)),
            Ops::Array { ops, count } => {
                if count == 0 {
                    check.too_small("array", 1, At::root("ops").path());
                }
                ops
            }
            Ops::NoArray(span) => {
                let size = StringRule { min: Some(1), max: Some(MAX_OPS_PER_UPLOAD), format: None };
                check.no_array(At::root("ops"), span, size);
                Vec::new()
            }
            Ops::Missing => {
                check.wrong_type("array", At::root("ops").path());
                Vec::new()
            }
        };
        let client_id = check.shared_string(At::root("clientId"), client_id, CLIENT_ID);
        let last_known_server_seq = check.optional_integer(At::root("lastKnownServerSeq"), last_known, 0, None);
        let request_id = check.optional_string(At::root("requestId"), request_id, REQUEST_ID);
        match client_id {
            Some(client_id) if check.issues.is_empty() => {
                Ok(Self { ops, client_id, last_known_server_seq, request_id })
            }
            _ => Err(check.into_error()),
        }
    }
}

/// The root is something else than an object, or no JSON at all.
fn no_object(mut scanner: Scanner<'_>, mut check: Checker<'_>) -> RequestError {
    if scanner.value().and_then(|_| scanner.end()).is_err() {
        return RequestError::Malformed;
    }
    check.wrong_type("object", Vec::new());
    check.into_error()
}

/// Reads and checks `ops`. Of elements beyond the limit only the number is kept.
fn read_ops(scanner: &mut Scanner<'_>, check: &mut Checker<'_>, body: &Bytes) -> Result<Ops, Malformed> {
    if scanner.peek() != Some(b'[') {
        return Ok(Ops::NoArray(scanner.value()?));
    }
    scanner.open(b'[')?;
    let mut ops = Vec::new();
    let mut count = 0;
    let mut first = true;
    while scanner.element(&mut first)? {
        if count >= MAX_OPS_PER_UPLOAD {
            scanner.value()?;
        } else if scanner.peek() == Some(b'{') {
            let fields = members(scanner, &OP_FIELDS)?;
            ops.extend(check_op(check, body, count, &fields));
        } else {
            scanner.value()?;
            check.wrong_type("object", vec!["ops".into(), count.into()]);
        }
        count += 1;
    }
    Ok(Ops::Array { ops, count })
}

/// Payload bytes: a slice of the body where possible. A slice keeps the whole body in memory.
fn payload_bytes(body: &Bytes, text: &str, span: Span) -> Bytes {
    if span.compact { body.slice(span.start..span.end) } else { Bytes::from(compacted(&text[span.start..span.end])) }
}

fn check_op(
    check: &mut Checker<'_>,
    body: &Bytes,
    index: usize,
    fields: &[Option<Span>; OP_FIELDS.len()],
) -> Option<UploadedOp> {
    let at = |field| At { op: Some(index), field };
    let [
        id,
        client,
        action,
        op_type,
        entity_type,
        entity_id,
        entity_ids,
        payload,
        clock,
        time,
        schema,
        encrypted,
        reason,
        base,
    ] = *fields;
    check.poisoned = None;
    let id = check.string(at("id"), id, TRANSPORT);
    let client_id = check.shared_string(at("clientId"), client, TRANSPORT);
    let action_type = check.shared_string(at("actionType"), action, ACTION_TYPE);
    let op_type = check.shared_string(at("opType"), op_type, TRANSPORT);
    let entity_type = check.shared_string(at("entityType"), entity_type, TRANSPORT);
    let entity_id = check.optional_string(at("entityId"), entity_id, TRANSPORT);
    let entity_ids = check.optional_strings(at("entityIds"), entity_ids, TRANSPORT, MAX_ENTITY_IDS_TRANSPORT);
    if payload.is_none() {
        check.missing_value(at("payload"));
    }
    let vector_clock = check.clock(at("vectorClock"), clock, false);
    let timestamp = check.number(at("timestamp"), time);
    let schema_version = check.number(at("schemaVersion"), schema);
    let is_payload_encrypted = check.optional_bool(at("isPayloadEncrypted"), encrypted);
    let import_reason = check.optional_choice(at("syncImportReason"), reason, &IMPORT_REASONS);
    let repair_base_server_seq = check.optional_integer(at("repairBaseServerSeq"), base, 0, None);
    Some(UploadedOp {
        id: id?,
        client_id: client_id?,
        action_type: action_type?,
        op_type: op_type?,
        entity_type: entity_type?,
        entity_id,
        entity_ids,
        payload: payload.map(|span| payload_bytes(body, check.text, span)),
        payload_shape: payload.map_or_else(Shape::default, |span| span.shape),
        vector_clock,
        timestamp: timestamp?,
        schema_version: schema_version?,
        is_payload_encrypted,
        import_reason,
        repair_base_server_seq,
        poisoned: check.poisoned,
    })
}

impl SnapshotRequest {
    /// Reads the (decompressed) body of a snapshot upload.
    ///
    /// # Errors
    /// [`RequestError`]; nothing of such a request may be stored.
    pub fn parse(body: &Bytes) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(body).map_err(|_| RequestError::Malformed)?;
        let mut scanner = Scanner::new(text);
        let mut check = Checker::new(text);
        if scanner.peek() != Some(b'{') {
            return Err(no_object(scanner, check));
        }
        let [state, client, reason, clock, schema, encrypted, import, op_id, clean, op_type, base, request_id] =
            members(&mut scanner, &SNAPSHOT_FIELDS)?;
        scanner.end()?;

        if state.is_none() {
            check.missing_value(At::root("state"));
        }
        let client_id = check.shared_string(At::root("clientId"), client, CLIENT_ID);
        let reason = check.choice(At::root("reason"), reason, &SnapshotReason::WIRE);
        let vector_clock = check.clock(At::root("vectorClock"), clock, true);
        let schema_version =
            check.optional_integer(At::root("schemaVersion"), schema, 1, Some(i64::from(MAX_SCHEMA_VERSION)));
        let is_payload_encrypted = check.optional_bool(At::root("isPayloadEncrypted"), encrypted);
        let import_reason = check.optional_choice(At::root("syncImportReason"), import, &IMPORT_REASONS);
        let has_op_id = check.kind(op_id) == b'"' && op_id.is_some_and(|span| span.end - span.start > 2);
        let op_id = check.optional_string(At::root("opId"), op_id, UUID);
        let is_clean_slate = check.optional_bool(At::root("isCleanSlate"), clean).unwrap_or(false);
        let op_type = check.optional_choice(At::root("snapshotOpType"), op_type, &SNAPSHOT_OP_TYPES);
        let repair_base_server_seq = check.optional_integer(At::root("repairBaseServerSeq"), base, 0, None);
        let request_id = check.optional_string(At::root("requestId"), request_id, REQUEST_ID);
        if is_clean_slate && !has_op_id {
            if check.types_fit() {
                let message = "opId is required for clean-slate snapshot idempotency";
                check.issue("custom", message, At::root("opId").path(), serde_json::Value::Null);
            }
            return Err(check.into_error());
        }
        match (client_id, reason) {
            (Some(client_id), Some(reason)) if check.issues.is_empty() => Ok(Self {
                state: state.map(|span| payload_bytes(body, text, span)),
                state_shape: state.map_or_else(Shape::default, |span| span.shape),
                client_id,
                reason,
                vector_clock,
                schema_version: schema_version.and_then(|version| u8::try_from(version).ok()),
                is_payload_encrypted,
                import_reason,
                op_id,
                is_clean_slate,
                op_type,
                repair_base_server_seq,
                request_id,
            }),
            _ => Err(check.into_error()),
        }
    }
}

#[cfg(test)]
mod tests;
