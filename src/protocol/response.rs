//! Answers, and the pieces they are made of. Optional members are left out, never `null`: released
//! clients fail the whole sync on a `null` (contract, section 2.6).

use std::sync::Arc;

use bytes::{BufMut, Bytes};
use serde::Serialize;
use serde_json::{Map, Value};

use super::json::{Sink, write_str};
use super::{ErrorCode, ImportReason, OpType, Seq, StoredOp, VectorClock};

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

/// An operation in borrowed parts, on its way to a client.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct OpParts<'a> {
    pub server_seq: Seq,
    pub id: &'a str,
    pub client_id: &'a str,
    pub action_type: &'a str,
    pub op_type: OpType,
    pub entity_type: &'static str,
    pub entity_id: Option<&'a str>,
    pub entity_ids: IdsPart<'a>,
    /// JSON.
    pub payload: &'a [u8],
    /// JSON.
    pub vector_clock: &'a str,
    pub timestamp: i64,
    pub schema_version: u8,
    pub is_payload_encrypted: bool,
    pub import_reason: Option<ImportReason>,
    pub repair_base_server_seq: Option<Seq>,
    pub received_at: i64,
}

/// A list of entity ids.
#[derive(Clone, Copy, Debug)]
pub enum IdsPart<'a> {
    /// To be written.
    List(&'a [Arc<str>]),
    /// Written already; nothing when there are none.
    Json(Option<&'a str>),
}

/// An operation on its way to a client: encoded, but for its payload where that is large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingOp {
    /// Its place in the log.
    pub seq: Seq,
    /// As clients read it.
    pub json: Bytes,
    /// Where the payload belongs that is missing in `json`, and its size: it is read when it is sent.
    pub gap: Option<(usize, usize)>,
}

impl OutgoingOp {
    /// One that is there as a whole.
    #[must_use]
    pub const fn whole(seq: Seq, json: Bytes) -> Self {
        Self { seq, json, gap: None }
    }

    /// Bytes on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json.len() + self.gap.map_or(0, |(_, bytes)| bytes)
    }

    /// Whether there is nothing to send, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A place in a text at which an operation's payload is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Bytes of the text before it.
    pub at: usize,
    /// Whose payload.
    pub seq: Seq,
    /// The payload's size.
    pub bytes: usize,
}

/// An answer's text, with gaps where large payloads belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// What there is of it.
    pub json: Vec<u8>,
    /// In order.
    pub gaps: Vec<Gap>,
}

impl From<Vec<u8>> for Text {
    fn from(json: Vec<u8>) -> Self {
        Self { json, gaps: Vec::new() }
    }
}

impl<'a> From<&'a StoredOp> for OpParts<'a> {
    fn from(op: &'a StoredOp) -> Self {
        Self {
            server_seq: op.server_seq,
            id: &op.id,
            client_id: &op.client_id,
            action_type: &op.action_type,
            op_type: op.op_type,
            entity_type: op.entity_type,
            entity_id: op.entity_id.as_deref(),
            entity_ids: IdsPart::List(&op.entity_ids),
            payload: &op.payload,
            vector_clock: op.vector_clock.as_json(),
            timestamp: op.timestamp,
            schema_version: op.schema_version,
            is_payload_encrypted: op.is_payload_encrypted,
            import_reason: op.import_reason,
            repair_base_server_seq: op.repair_base_server_seq,
            received_at: op.received_at,
        }
    }
}

/// Appends an operation as clients read it: a `ServerOperation` of section 3.3. The payload's bytes are pasted.
pub fn encode_op(op: &StoredOp, out: &mut Vec<u8>) {
    OpParts::from(op).encode(out);
}

/// How many bytes [`encode_op`] appends.
#[must_use]
pub fn encoded_len(op: &StoredOp) -> usize {
    let mut envelope = Vec::with_capacity(512);
    OpParts { payload: &[], ..OpParts::from(op) }.encode(&mut envelope);
    envelope.len() + op.payload.len()
}

impl OpParts<'_> {
    /// Appends the operation as [`encode_op`] does.
    pub fn encode(&self, out: &mut (impl Sink + BufMut)) {
        self.encode_head(out);
        out.put_slice(self.payload);
        self.encode_tail(out);
    }

    /// Appends what stands before the payload.
    pub fn encode_head(&self, out: &mut (impl Sink + BufMut)) {
        out.push_text("{");
        int(out, "serverSeq", self.server_seq);
        name(out, "op");
        out.push_text("{");
        string(out, "id", self.id);
        string(out, "clientId", self.client_id);
        string(out, "actionType", self.action_type);
        string(out, "opType", self.op_type.as_str());
        string(out, "entityType", self.entity_type);
        optional_string(out, "entityId", self.entity_id);
        match self.entity_ids {
            IdsPart::List([]) | IdsPart::Json(None) => {}
            IdsPart::List(ids) => {
                name(out, "entityIds");
                out.push_text("[");
                for (i, id) in ids.iter().enumerate() {
                    if i > 0 {
                        out.push_text(",");
                    }
                    write_str(out, id);
                }
                out.push_text("]");
            }
            IdsPart::Json(Some(ids)) => {
                name(out, "entityIds");
                out.push_text(ids);
            }
        }
        name(out, "payload");
    }

    /// Appends what stands behind the payload.
    pub fn encode_tail(&self, out: &mut (impl Sink + BufMut)) {
        name(out, "vectorClock");
        out.push_text(self.vector_clock);
        int(out, "timestamp", self.timestamp);
        int(out, "schemaVersion", self.schema_version.into());
        bool(out, "isPayloadEncrypted", self.is_payload_encrypted);
        optional_string(out, "syncImportReason", self.import_reason.map(ImportReason::as_str));
        optional_int(out, "repairBaseServerSeq", self.repair_base_server_seq);
        out.push_text("}");
        int(out, "receivedAt", self.received_at);
        out.push_text("}");
    }
}

/// Appends `"key":[…]` of operations that are JSON already.
fn pasted(out: &mut String, key: &str, rest: &mut Text, ops: &[OutgoingOp]) {
    name(out, key);
    let Text { json, gaps } = rest;
    json.reserve(out.len() + ops.iter().map(|op| op.json.len() + 1).sum::<usize>() + 256);
    json.extend_from_slice(out.as_bytes());
    out.clear();
    json.push(b'[');
    for (i, op) in ops.iter().enumerate() {
        if i > 0 {
            json.push(b',');
        }
        gaps.extend(op.gap.map(|(at, bytes)| Gap { at: json.len() + at, seq: op.seq, bytes }));
        json.extend_from_slice(&op.json);
    }
    json.push(b']');
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
    /// Operations of others. Left out when empty.
    pub new_ops: &'a [OutgoingOp],
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
    pub fn encode(&self) -> Text {
        let mut body = Text::default();
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
        body.json.extend_from_slice(text.as_bytes());
        body
    }
}

/// The answer to a download (contract, section 6).
#[derive(Clone, Copy, Debug)]
pub struct DownloadResponse<'a> {
    /// Ascending.
    pub ops: &'a [OutgoingOp],
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
    pub fn encode(&self) -> Text {
        let mut body = Text::default();
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
        body.json.extend_from_slice(text.as_bytes());
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
