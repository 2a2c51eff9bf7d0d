//! shim
use super::request::*;
use super::response::Rejection;
use super::*;
#[derive(Clone, Debug)]
pub struct CheckedOp {
    pub op_id: String,
    pub is_repair: bool,
    pub check: Result<Box<ValidOp>, Rejection>,
}
#[derive(Clone, Debug)]
pub struct CheckedUpload {
    pub client_id: String,
    pub last_known_server_seq: Option<Seq>,
    pub request_id: Option<String>,
    pub fingerprint: Option<[u8; 32]>,
    pub ops: Vec<CheckedOp>,
}
#[derive(Clone, Debug)]
pub struct CheckedSnapshot {
    pub op: Result<ValidOp, Rejection>,
    pub op_id: String,
    pub op_id_given: bool,
    pub reason: SnapshotReason,
    pub clean_slate: bool,
    pub legacy_repair: bool,
    pub request_id: Option<String>,
    pub fingerprint: Option<[u8; 32]>,
}
pub fn check_upload(_r: UploadRequest) -> CheckedUpload {
    todo!()
}
pub fn check_snapshot(_r: SnapshotRequest, _id: String, _now: i64) -> CheckedSnapshot {
    todo!()
}
