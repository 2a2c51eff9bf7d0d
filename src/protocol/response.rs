//! Answers, and the pieces they are made of. Optional members are left out, never `null`: released
//! clients fail the whole sync on a `null` (contract, section 2.6).

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use super::json::{Sink, write_str};
use super::{ErrorCode, Seq, StoredOp, VectorClock};

mod read_back;

pub use read_back::decode_op;

/// One reason why a request failed structural validation: at least `code`, `message` and `path`.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Issue(pub Map<String, Value>);

impl Issue {
    /// Whether the value at least has the right type, so that rules across members can be looked at.
    pub(super) fn keeps_type(&self) -> bool {
        !matches!(self.0.get("code").and_then(Value::as_str), Some("invalid_type" | "invalid_value"))
    }
}

/// What became of one uploaded operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OpResult {
    /// The id as sent, even when it is invalid.
    pub op_id: Arc<str>,
    /// Its place in the log, or why it has none.
    pub outcome: Result<Seq, Rejection>,
}

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// The code that clients act on.
    pub code: ErrorCode,
    /// A text for people. For permanent codes it must hold none of the words that clients take for
    /// "try again" (section 14.5).
    pub message: String,
    /// For conflicts: the clock of the operation that won.
    pub existing_clock: Option<VectorClock>,
}

impl Rejection {
    /// A refusal without a clock.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), existing_clock: None }
    }
}

/// Appends `"name":` and, when it is not the first member, a comma before it.
fn name(out: &mut impl Sink, name: &str) {
    out.push_text(if out.last_byte() == Some(b'{') { "\"" } else { ",\"" });
    out.push_text(name);
    out.push_text("\":");
}

fn string(out: &mut impl Sink, key: &str, value: &str) {
    name(out, key);
    write_str(out, value);
}

fn optional_string(out: &mut impl Sink, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        string(out, key, value);
    }
}

fn int(out: &mut impl Sink, key: &str, value: i64) {
    name(out, key);
    out.push_text(itoa::Buffer::new().format(value));
}

fn optional_int(out: &mut impl Sink, key: &str, value: Option<i64>) {
    if let Some(value) = value {
        int(out, key, value);
    }
}

fn bool(out: &mut impl Sink, key: &str, value: bool) {
    name(out, key);
    out.push_text(if value { "true" } else { "false" });
}

/// Present as `true`, or not at all.
fn flag(out: &mut impl Sink, key: &str, value: bool) {
    if value {
        bool(out, key, true);
    }
}

fn clock(out: &mut impl Sink, key: &str, value: &VectorClock) {
    name(out, key);
    out.push_text(value.as_json());
}

/// Appends an operation as clients read it: a `ServerOperation` of section 3.3. The payload's bytes are pasted.
pub fn encode_op(op: &StoredOp, out: &mut Vec<u8>) {
    out.push(b'{');
    int(out, "serverSeq", op.server_seq);
    name(out, "op");
    out.push(b'{');
    string(out, "id", &op.id);
    string(out, "clientId", &op.client_id);
    string(out, "actionType", &op.action_type);
    string(out, "opType", op.op_type.as_str());
    string(out, "entityType", op.entity_type);
    optional_string(out, "entityId", op.entity_id.as_deref());
    if !op.entity_ids.is_empty() {
        name(out, "entityIds");
        out.push(b'[');
        for (i, id) in op.entity_ids.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write_str(out, id);
        }
        out.push(b']');
    }
    name(out, "payload");
    out.extend_from_slice(&op.payload);
    clock(out, "vectorClock", &op.vector_clock);
    int(out, "timestamp", op.timestamp);
    int(out, "schemaVersion", op.schema_version.into());
    bool(out, "isPayloadEncrypted", op.is_payload_encrypted);
    optional_string(out, "syncImportReason", op.import_reason.map(super::ImportReason::as_str));
    optional_int(out, "repairBaseServerSeq", op.repair_base_server_seq);
    out.push(b'}');
    int(out, "receivedAt", op.received_at);
    out.push(b'}');
}

/// Appends `"key":[…]` of values that are JSON already.
fn pasted(out: &mut String, key: &str, rest: &mut Vec<u8>, values: &[Bytes]) {
    name(out, key);
    rest.reserve(out.len() + values.iter().map(|value| value.len() + 1).sum::<usize>() + 256);
    rest.extend_from_slice(out.as_bytes());
    out.clear();
    rest.push(b'[');
    for (i, value) in values.iter().enumerate() {
        if i > 0 {
            rest.push(b',');
        }
        rest.extend_from_slice(value);
    }
    rest.push(b']');
}

fn rejection(out: &mut String, rejection: &Rejection) {
    string(out, "error", &rejection.message);
    string(out, "errorCode", rejection.code.as_str());
}

/// The answer to an upload (contract, section 5.11).
#[derive(Clone, Copy, Debug)]
pub struct UploadResponse<'a> {
    /// One per operation, in the order of the request.
    pub results: &'a [OpResult],
    /// Operations of others, encoded by [`encode_op`]. Left out when empty.
    pub new_ops: &'a [Bytes],
    /// The account's counter after the upload.
    pub latest_seq: Seq,
    /// Whether more operations of others wait.
    pub has_more_piggyback: bool,
    /// Whether the results come from the request cache.
    pub deduplicated: bool,
}

impl UploadResponse<'_> {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut text = String::with_capacity(64 + self.results.len() * 96);
        text.push('{');
        name(&mut text, "results");
        text.push('[');
        for (i, result) in self.results.iter().enumerate() {
            text.push_str(if i > 0 { ",{" } else { "{" });
            string(&mut text, "opId", &result.op_id);
            bool(&mut text, "accepted", result.outcome.is_ok());
            match &result.outcome {
                Ok(seq) => int(&mut text, "serverSeq", *seq),
                Err(refused) => {
                    rejection(&mut text, refused);
                    if let Some(existing) = &refused.existing_clock {
                        clock(&mut text, "existingClock", existing);
                    }
                }
            }
            text.push('}');
        }
        text.push(']');
        if !self.new_ops.is_empty() {
            pasted(&mut text, "newOps", &mut body, self.new_ops);
        }
        int(&mut text, "latestSeq", self.latest_seq);
        flag(&mut text, "hasMorePiggyback", self.has_more_piggyback);
        flag(&mut text, "deduplicated", self.deduplicated);
        text.push('}');
        body.extend_from_slice(text.as_bytes());
        body
    }
}

/// The answer to a download (contract, section 6).
#[derive(Clone, Copy, Debug)]
pub struct DownloadResponse<'a> {
    /// Encoded by [`encode_op`], ascending.
    pub ops: &'a [Bytes],
    /// Whether a later page exists.
    pub has_more: bool,
    /// The account's counter.
    pub latest_seq: Seq,
    /// Whether operations between the cursor and the page are gone.
    pub gap_detected: bool,
    /// The clock of everything that the page skipped.
    pub snapshot_vector_clock: Option<&'a VectorClock>,
    /// The newest causal full state, for older clients.
    pub latest_snapshot_seq: Option<Seq>,
    /// The server's time, Unix milliseconds.
    pub server_time: i64,
}

impl DownloadResponse<'_> {
    /// The body. It always declares that repairs with a base are understood: released clients upload them only then.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut text = String::from("{");
        pasted(&mut text, "ops", &mut body, self.ops);
        bool(&mut text, "hasMore", self.has_more);
        int(&mut text, "latestSeq", self.latest_seq);
        flag(&mut text, "gapDetected", self.gap_detected);
        if let Some(snapshot_clock) = self.snapshot_vector_clock {
            clock(&mut text, "snapshotVectorClock", snapshot_clock);
        }
        optional_int(&mut text, "latestSnapshotSeq", self.latest_snapshot_seq);
        int(&mut text, "serverTime", self.server_time);
        name(&mut text, "capabilities");
        text.push_str("{\"causalRepairSnapshots\":true}}");
        body.extend_from_slice(text.as_bytes());
        body
    }
}

/// The answer to a snapshot upload that was judged (contract, section 7.2).
#[must_use]
pub fn encode_snapshot_response(outcome: Result<Seq, &Rejection>) -> Vec<u8> {
    let mut text = String::from("{");
    bool(&mut text, "accepted", outcome.is_ok());
    match outcome {
        Ok(seq) => int(&mut text, "serverSeq", seq),
        Err(refused) => rejection(&mut text, refused),
    }
    text.push('}');
    text.into_bytes()
}

#[cfg(test)]
mod tests;
