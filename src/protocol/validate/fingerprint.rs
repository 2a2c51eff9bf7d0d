//! What makes two requests with the same request id the same request (contract, section 5.5 B): everything as received,
//! except that ciphertext counts as a constant, because each attempt encrypts again.
//!
//! XXH3 with 128 bits and a secret seed, as every byte of every upload goes through it: SHA-256 took five times as long.
//! What two requests of one account share by chance or on purpose is only an answer of that account.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, LazyLock};

use xxhash_rust::xxh3::Xxh3;

use super::super::op::UploadedOp;
use super::super::request::{SnapshotRequest, UploadRequest};

/// Collects fields, each with a mark or its length in front, so that no two requests run together.
struct Fields(Xxh3);

/// Nobody outside knows what collides.
static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

impl Fields {
    fn new() -> Self {
        Self(Xxh3::with_seed(*SEED))
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: f64) -> &mut Self {
        self.0.update(&number.to_bits().to_le_bytes());
        self
    }

    /// A mark for "missing", or one for "present" and then the value.
    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        self.0.update(&[u8::from(value.is_some())]);
        if let Some(value) = value {
            write(self, value);
        }
        self
    }

    fn texts<'a>(&mut self, texts: impl ExactSizeIterator<Item = &'a Arc<str>>) -> &mut Self {
        self.0.update(&(texts.len() as u64).to_le_bytes());
        for text in texts {
            self.text(text);
        }
        self
    }

    fn clock(&mut self, clock: &[(Arc<str>, f64)]) -> &mut Self {
        self.0.update(&(clock.len() as u64).to_le_bytes());
        for (key, value) in clock {
            self.text(key).number(*value);
        }
        self
    }

    fn payload(&mut self, encrypted: Option<bool>, payload: Option<&[u8]>) -> &mut Self {
        self.option(encrypted, |fields, encrypted| fields.0.update(&[u8::from(encrypted)]));
        if encrypted == Some(true) {
            self.text("encrypted")
        } else {
            self.option(payload, |fields, payload| {
                fields.bytes(payload);
            })
        }
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.0.update(&[u8::from(flag)]);
        self
    }

    fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        self.option(text, |fields, text| {
            fields.text(text);
        })
    }

    fn optional_seq(&mut self, seq: Option<i64>) -> &mut Self {
        self.option(seq, |fields, seq| fields.0.update(&seq.to_le_bytes()))
    }

    fn op(&mut self, op: &UploadedOp) {
        self.text(&op.id)
            .text(&op.client_id)
            .text(&op.action_type)
            .text(&op.op_type)
            .text(&op.entity_type)
            .optional_text(op.entity_id.as_deref())
            .option(op.entity_ids.as_ref(), |fields, ids| {
                fields.texts(ids.iter());
            })
            .payload(op.is_payload_encrypted, op.payload.as_deref())
            .clock(&op.vector_clock)
            .number(op.timestamp)
            .number(op.schema_version)
            .optional_text(op.import_reason.map(super::super::ImportReason::as_str))
            .optional_seq(op.repair_base_server_seq);
    }

    fn done(self) -> u128 {
        self.0.digest128()
    }
}

/// Of an upload: the client and its operations. The cursor is not part of it.
pub(super) fn of_upload(request: &UploadRequest) -> u128 {
    let mut fields = Fields::new();
    fields.text(&request.client_id);
    for op in &request.ops {
        fields.op(op);
    }
    fields.done()
}

/// Of a snapshot: everything but the request id.
pub(super) fn of_snapshot(request: &SnapshotRequest) -> u128 {
    let mut fields = Fields::new();
    fields
        .payload(request.is_payload_encrypted, request.state.as_deref())
        .text(&request.client_id)
        .text(request.reason.as_str())
        .clock(&request.vector_clock)
        .optional_seq(request.schema_version.map(i64::from))
        .optional_text(request.import_reason.map(super::super::ImportReason::as_str))
        .optional_text(request.op_id.as_deref())
        .flag(request.is_clean_slate)
        .optional_text(request.op_type.map(super::super::OpType::as_str))
        .optional_seq(request.repair_base_server_seq);
    fields.done()
}
