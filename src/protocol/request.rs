//! Requests: from bytes to checked structure (contract, sections 5.2, 6, 7.1).

use bytes::Bytes;

use super::response::Issue;
use super::{ImportReason, OpType, Seq, UploadedOp};

/// `POST /api/sync/ops`, structurally sound.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // section 5.2
pub struct UploadRequest {
    pub ops: Vec<UploadedOp>,
    pub client_id: String,
    pub last_known_server_seq: Option<Seq>,
    pub request_id: Option<String>,
}

/// Why a snapshot is uploaded (`reason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum SnapshotReason {
    Initial,
    Recovery,
    Migration,
}

/// `POST /api/sync/snapshot`, structurally sound.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // section 7.1
pub struct SnapshotRequest {
    /// Compact JSON; `None` when missing.
    pub state: Option<Bytes>,
    pub client_id: String,
    pub reason: SnapshotReason,
    pub vector_clock: Vec<(String, f64)>,
    pub schema_version: Option<u8>,
    pub is_payload_encrypted: Option<bool>,
    pub import_reason: Option<ImportReason>,
    pub op_id: Option<String>,
    pub is_clean_slate: bool,
    /// `None` when the member is missing: then it is a `SYNC_IMPORT`.
    pub op_type: Option<OpType>,
    pub repair_base_server_seq: Option<Seq>,
    pub request_id: Option<String>,
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
    /// More than [`super::limits::MAX_OPS_PER_UPLOAD`] operations; carries their number. Checked before anything else.
    TooManyOps(usize),
    /// JSON of the wrong shape.
    Invalid(Vec<Issue>),
}
