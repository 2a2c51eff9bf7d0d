//! The shapes of the sync routes (contract, sections 3, 5 to 8). Their bodies are read and written by hand for speed
//! ([`crate::protocol`]); these types describe them and nothing else.
#![expect(dead_code, reason = "they are never made")]

use serde_json::Value;
use utoipa::openapi::{Object, ObjectBuilder, ResponseBuilder, Schema, Type};
use utoipa::{IntoParams, ToSchema};

use super::sketch::{Part, Sketch};
use crate::http::error::ApiResult;
use crate::http::ws::Upgraded;
use crate::protocol::op::ENTITY_TYPES;
use crate::protocol::request::{DownloadQuery, SnapshotReason, SnapshotRequest, UploadRequest};
use crate::protocol::{ImportReason, OpType};

/// A refusal.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Refusal {
    /// For people, in English.
    error: String,
    /// For programs, of account routes and of the transport.
    #[schema(required = false)]
    code: String,
    /// For programs, of sync routes.
    #[schema(required = false)]
    error_code: String,
    /// More for people.
    #[schema(required = false)]
    message: String,
    /// The status, where the transport refuses.
    #[schema(required = false)]
    status_code: u16,
    /// What is wrong with the body, member by member.
    #[schema(required = false)]
    details: Vec<Value>,
}

fn one_of(texts: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(texts)).build()
}

fn op_type() -> Object {
    one_of(OpType::ALL.map(OpType::as_str))
}

fn snapshot_op_type() -> Object {
    one_of(OpType::ALL.into_iter().filter(|op_type| op_type.is_full_state()).map(OpType::as_str))
}

fn entity_type() -> Object {
    one_of(ENTITY_TYPES)
}

fn import_reason() -> Object {
    one_of(ImportReason::ALL.map(ImportReason::as_str))
}

fn snapshot_reason() -> Object {
    one_of(SnapshotReason::WIRE.map(|(text, _)| text))
}

/// Counters by device.
fn clock() -> Object {
    let counter = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)).build();
    let meaning = Some("A counter by device.");
    ObjectBuilder::new().description(meaning).additional_properties(Some(Schema::from(counter))).build()
}

/// An operation.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Operation {
    id: String,
    client_id: String,
    action_type: String,
    #[schema(schema_with = op_type)]
    op_type: String,
    #[schema(schema_with = entity_type)]
    entity_type: String,
    #[schema(required = false)]
    entity_id: String,
    #[schema(required = false)]
    entity_ids: Vec<String>,
    /// Any JSON; Base64 where it is encrypted.
    payload: Value,
    #[schema(schema_with = clock)]
    vector_clock: Value,
    timestamp: f64,
    schema_version: f64,
    #[schema(required = false)]
    is_payload_encrypted: bool,
    #[schema(required = false, schema_with = import_reason)]
    sync_import_reason: String,
    #[schema(required = false, minimum = 0)]
    repair_base_server_seq: i64,
}

/// An operation with its place in the log.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct ServerOperation {
    server_seq: i64,
    op: Operation,
    received_at: i64,
}

/// An upload of operations.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Upload {
    #[schema(min_items = 1, max_items = 100)]
    ops: Vec<Operation>,
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,255}$")]
    client_id: String,
    /// Highest sequence that the device has; operations of others beyond it come with the answer.
    #[schema(required = false, minimum = 0)]
    last_known_server_seq: i64,
    /// Repeated by a device that got no answer.
    #[schema(required = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    request_id: String,
}

/// What became of an upload.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Uploaded {
    /// One per operation, in the order of the request.
    results: Vec<UploadedOperation>,
    /// Operations of other devices.
    #[schema(required = false)]
    new_ops: Vec<ServerOperation>,
    /// The highest sequence of the account.
    latest_seq: i64,
    /// True, or absent: more operations of others are there.
    #[schema(required = false)]
    has_more_piggyback: bool,
    /// True, or absent: an earlier request with this id is answered once more.
    #[schema(required = false)]
    deduplicated: bool,
}

/// What became of an uploaded operation.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct UploadedOperation {
    op_id: String,
    accepted: bool,
    #[schema(required = false)]
    server_seq: i64,
    #[schema(required = false)]
    error: String,
    #[schema(required = false)]
    error_code: String,
    /// The clock of the operation that won.
    #[schema(required = false, schema_with = clock)]
    existing_clock: Value,
}

/// A page of operations.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Page {
    ops: Vec<ServerOperation>,
    has_more: bool,
    latest_seq: i64,
    /// True, or absent: operations after `sinceSeq` are gone, start from 0.
    #[schema(required = false)]
    gap_detected: bool,
    /// The clock of what a newer full state has replaced.
    #[schema(required = false, schema_with = clock)]
    snapshot_vector_clock: Value,
    #[schema(required = false)]
    latest_snapshot_seq: i64,
    server_time: i64,
    capabilities: Capabilities,
}

/// What the server can do.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Capabilities {
    causal_repair_snapshots: bool,
}

/// An upload of a full state.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Snapshot {
    /// Any JSON; Base64 where it is encrypted.
    state: Value,
    #[schema(pattern = "^[a-zA-Z0-9_-]{1,255}$")]
    client_id: String,
    #[schema(schema_with = snapshot_reason)]
    reason: String,
    #[schema(schema_with = clock)]
    vector_clock: Value,
    #[schema(required = false, minimum = 1, maximum = 100)]
    schema_version: u8,
    #[schema(required = false)]
    is_payload_encrypted: bool,
    #[schema(required = false, schema_with = import_reason)]
    sync_import_reason: String,
    /// A UUID; required with `isCleanSlate`.
    #[schema(required = false)]
    op_id: String,
    /// Replaces everything.
    #[schema(required = false)]
    is_clean_slate: bool,
    /// `SYNC_IMPORT` if absent.
    #[schema(required = false, rename = "snapshotOpType", schema_with = snapshot_op_type)]
    op_type: String,
    #[schema(required = false, minimum = 0)]
    repair_base_server_seq: i64,
    #[schema(required = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    request_id: String,
}

/// What became of a full state.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SnapshotUploaded {
    accepted: bool,
    #[schema(required = false)]
    server_seq: i64,
    #[schema(required = false)]
    error: String,
    #[schema(required = false)]
    error_code: String,
}

/// A rebuilt state.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct RebuiltState {
    #[schema(value_type = Object)]
    state: Value,
    server_seq: i64,
    generated_at: i64,
    /// Of the newest state only.
    #[schema(required = false)]
    schema_version: u8,
}

/// The query of a download.
#[derive(IntoParams)]
#[into_params(rename_all = "camelCase")]
struct Download {
    /// Operations after this sequence.
    #[param(minimum = 0)]
    since_seq: i64,
    /// Operations of the page; 500 if absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The device that asks, which has its own operations.
    #[param(pattern = "^[a-zA-Z0-9_-]{1,255}$")]
    exclude_client: Option<String>,
}

/// The query for restore points.
#[derive(IntoParams)]
pub struct RestorePointsQuery {
    /// Number of points; 30 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u8>,
}

/// The query of a socket: a token or a ticket.
#[derive(IntoParams)]
#[into_params(rename_all = "camelCase")]
struct Socket {
    token: Option<String>,
    ticket: Option<String>,
    #[param(pattern = "^[a-zA-Z0-9_-]{1,255}$")]
    client_id: String,
}

impl Part for ApiResult<Upgraded> {
    fn describe(sketch: &mut Sketch) {
        sketch.asks::<Socket>();
        let response = ResponseBuilder::new().description("The connection becomes a WebSocket.");
        sketch.answers.push((101, response.build()));
    }
}

impl Part for UploadRequest {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.schema::<Upload>();
        sketch.takes(schema, true);
    }
}

impl Part for SnapshotRequest {
    fn describe(sketch: &mut Sketch) {
        let schema = sketch.schema::<Snapshot>();
        sketch.takes(schema, true);
    }
}

impl Part for DownloadQuery {
    fn describe(sketch: &mut Sketch) {
        sketch.asks::<Download>();
    }
}

impl Part for RestorePointsQuery {
    fn describe(sketch: &mut Sketch) {
        sketch.asks::<Self>();
    }
}
