//! Reads an operation back from the form in which clients get it: packed operations are kept in that form.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::op::entity_type;
use crate::protocol::{ImportReason, OpType, Seq, StoredOp, VectorClock};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServerOperation<'a> {
    server_seq: Seq,
    #[serde(borrow)]
    op: Operation<'a>,
    received_at: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operation<'a> {
    id: String,
    client_id: String,
    action_type: String,
    op_type: String,
    entity_type: String,
    entity_id: Option<String>,
    #[serde(default)]
    entity_ids: Vec<String>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    vector_clock: &'a RawValue,
    timestamp: i64,
    schema_version: u8,
    is_payload_encrypted: bool,
    sync_import_reason: Option<String>,
    repair_base_server_seq: Option<Seq>,
}

/// The operation that [`encode_op`](super::encode_op) wrote as `json`; what it is charged is not in there. The payload
/// shares the memory of `json`. `None`: that function can't have written it.
#[must_use]
pub fn decode_op(json: &Bytes, storage_bytes: i64) -> Option<StoredOp> {
    let ServerOperation { server_seq, op, received_at } = serde_json::from_slice(json).ok()?;
    Some(StoredOp {
        server_seq,
        id: op.id.into(),
        client_id: op.client_id.into(),
        action_type: op.action_type.into(),
        op_type: OpType::parse(&op.op_type)?,
        entity_type: entity_type(&op.entity_type)?,
        entity_id: op.entity_id.map(Into::into),
        entity_ids: op.entity_ids.into_iter().map(Into::into).collect(),
        payload: json.slice_ref(op.payload.get().as_bytes()),
        storage_bytes,
        vector_clock: VectorClock::from_json(op.vector_clock.get()).ok()?,
        timestamp: op.timestamp,
        schema_version: op.schema_version,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason: match op.sync_import_reason {
            None => None,
            Some(text) => Some(ImportReason::parse(&text)?),
        },
        repair_base_server_seq: op.repair_base_server_seq,
        received_at,
    })
}
