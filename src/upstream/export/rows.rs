//! Operations as the old server stores them: into its table, and what two copies are compared by.

use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};

use super::error::{AccountFault, Stop, Unstorable};
use super::jsonb::storable;
use crate::protocol::json::digest::json_digest;
use crate::protocol::{Seq, StoredOp};

/// Before the rows of a binary `COPY`: signature, flags, no extension.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// After them.
const COPY_TAIL: &[u8] = &[0xff, 0xff];
/// The type of texts.
const TEXT_OID: i32 = 25;
/// In the order of [`put`].
const COPY: &str = "COPY operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, \
    entity_ids, payload, payload_bytes, vector_clock, schema_version, client_timestamp, received_at, \
    is_payload_encrypted, sync_import_reason, repair_base_server_seq) FROM STDIN (FORMAT binary)";
const COLUMNS: i16 = 18;

/// In the order of [`Fingerprint::add_row`]. Payloads and clocks as text: what they mean is compared here.
pub(super) const READ_BACK: &str = "SELECT server_seq, id, client_id, action_type, op_type, entity_type, entity_id, \
    entity_ids, payload::text, vector_clock::text, schema_version, client_timestamp, received_at, is_payload_encrypted, \
    sync_import_reason, repair_base_server_seq FROM operations WHERE user_id = $1 ORDER BY server_seq";

/// A number as the old server has it.
pub(super) fn small(what: &'static str, value: i64) -> Result<i32, AccountFault> {
    i32::try_from(value).map_err(|_| AccountFault::Number { what, value })
}

const NO_TEXT: &str = "its payload is no text";

/// Whether the columns can hold an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storable {
    AsItIs,
    /// With a value of its payload replaced, for this reason.
    Replaced(&'static str),
    /// Not at all, for this reason.
    Not(&'static str),
}

/// Says what the columns can't hold, so that the operation can be named.
pub(super) fn check(op: &StoredOp) -> Result<Storable, AccountFault> {
    small("last sequence", op.server_seq)?;
    if let Some(base) = op.repair_base_server_seq {
        small("base of a repair", base)?;
    }
    let texts = [&op.id, &op.client_id, &op.action_type];
    let mut texts = texts.into_iter().chain(&op.entity_id).chain(&op.entity_ids);
    if texts.any(|text| text.contains('\0')) || storable(op.vector_clock.as_json()).1.is_some() {
        return Ok(Storable::Not("an id or a name of it holds a character with the code 0"));
    }
    let Ok(payload) = std::str::from_utf8(&op.payload) else { return Ok(Storable::Not(NO_TEXT)) };
    Ok(storable(payload).1.map_or(Storable::AsItIs, Storable::Replaced))
}

fn unstorable(op: &StoredOp, what: &'static str) -> AccountFault {
    let mut unstorable = Unstorable::default();
    unstorable.add(op.server_seq, what);
    unstorable.into()
}

/// Writes operations of one account.
pub(super) async fn copy(connection: &mut PgConnection, user: i32, ops: &[&StoredOp]) -> Result<(), Stop> {
    let (Some(first), Some(last)) = (ops.first(), ops.last()) else { return Ok(()) };
    let (first, last) = (first.server_seq, last.server_seq);
    let mut tuples = COPY_HEAD.to_vec();
    for op in ops {
        put(&mut tuples, user, op)?;
    }
    tuples.extend_from_slice(COPY_TAIL);
    let written = async {
        let mut copy = connection.copy_in_raw(COPY).await?;
        copy.send(tuples).await?;
        copy.finish().await
    };
    written.await.map_err(|error| super::error::refused(error, first, last))?;
    Ok(())
}

fn put(out: &mut Vec<u8>, user: i32, op: &StoredOp) -> Result<(), AccountFault> {
    let mut tuple = Tuple { out, fits: true };
    tuple.out.extend_from_slice(&COLUMNS.to_be_bytes());
    tuple.text(&op.id);
    tuple.field(&user.to_be_bytes());
    tuple.text(&op.client_id);
    tuple.field(&small("last sequence", op.server_seq)?.to_be_bytes());
    tuple.text(&op.action_type);
    tuple.text(op.op_type.as_str());
    tuple.text(op.entity_type);
    tuple.text_or_null(op.entity_id.as_deref());
    tuple.texts(&op.entity_ids);
    let payload = std::str::from_utf8(&op.payload).map_err(|_| unstorable(op, NO_TEXT))?;
    tuple.jsonb(storable(payload).0.as_bytes());
    // Nothing measured is 0 there, and an operation of 0 bytes can't be.
    tuple.field(&op.storage_bytes.max(1).to_be_bytes());
    tuple.jsonb(op.vector_clock.as_json().as_bytes());
    tuple.field(&i32::from(op.schema_version).to_be_bytes());
    tuple.field(&op.timestamp.to_be_bytes());
    tuple.field(&op.received_at.to_be_bytes());
    tuple.field(&[u8::from(op.is_payload_encrypted)]);
    tuple.text_or_null(op.import_reason.map(crate::protocol::ImportReason::as_str));
    match op.repair_base_server_seq {
        Some(base) => tuple.field(&small("base of a repair", base)?.to_be_bytes()),
        None => tuple.null(),
    }
    if tuple.fits { Ok(()) } else { Err(unstorable(op, "a value of it is larger than PostgreSQL takes")) }
}

/// A row of a binary `COPY`.
struct Tuple<'a> {
    out: &'a mut Vec<u8>,
    /// Whether every value has a length that can be written.
    fits: bool,
}

impl Tuple<'_> {
    fn length(&mut self, len: usize) {
        let len = i32::try_from(len).unwrap_or_else(|_| {
            self.fits = false;
            0
        });
        self.out.extend_from_slice(&len.to_be_bytes());
    }

    fn null(&mut self) {
        self.out.extend_from_slice(&(-1_i32).to_be_bytes());
    }

    fn field(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.field(text.as_bytes());
    }

    fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// JSON text behind the version of the binary form.
    fn jsonb(&mut self, json: &[u8]) {
        self.length(json.len() + 1);
        self.out.push(1);
        self.out.extend_from_slice(json);
    }

    /// An array: dimensions, no nulls, type; then, unless it is empty, its length, its lower bound, and the texts.
    fn texts(&mut self, texts: &[impl AsRef<str>]) {
        let bytes: usize = texts.iter().map(|text| 4 + text.as_ref().len()).sum();
        let is_empty = texts.is_empty();
        self.length(if is_empty { 12 } else { 20 + bytes });
        self.out.extend_from_slice(&i32::from(!is_empty).to_be_bytes());
        self.out.extend_from_slice(&0_i32.to_be_bytes());
        self.out.extend_from_slice(&TEXT_OID.to_be_bytes());
        if !is_empty {
            self.length(texts.len());
            self.out.extend_from_slice(&1_i32.to_be_bytes());
            for text in texts {
                self.text(text.as_ref());
            }
        }
    }
}

/// How many operations an account has, where they end, and a hash of what they mean.
#[derive(Clone, Default)]
pub(super) struct Fingerprint {
    pub(super) count: u64,
    pub(super) first: Seq,
    pub(super) last: Seq,
    hash: Sha256,
}

impl Fingerprint {
    /// Adds an operation of ours.
    pub(super) fn add(&mut self, op: &StoredOp) -> Result<(), AccountFault> {
        let payload = std::str::from_utf8(&op.payload).ok().and_then(|payload| json_digest(&storable(payload).0));
        let clock = json_digest(op.vector_clock.as_json());
        let (Some(payload), Some(clock)) = (payload, clock) else {
            return Err(unstorable(op, "its payload or its clock is no JSON, or nested too deep"));
        };
        self.begin(op.server_seq);
        for text in [&*op.id, &op.client_id, &op.action_type, op.op_type.as_str(), op.entity_type] {
            self.text(text);
        }
        self.text_or_null(op.entity_id.as_deref());
        self.number(i64::try_from(op.entity_ids.len()).unwrap_or(i64::MAX));
        for id in &op.entity_ids {
            self.text(id);
        }
        self.hash.update(payload);
        self.hash.update(clock);
        self.number(op.schema_version.into());
        self.number(op.timestamp);
        self.number(op.received_at);
        self.number(op.is_payload_encrypted.into());
        self.text_or_null(op.import_reason.map(crate::protocol::ImportReason::as_str));
        self.number(op.repair_base_server_seq.unwrap_or(-1));
        Ok(())
    }

    /// Adds a row of [`READ_BACK`].
    pub(super) fn add_row(&mut self, row: &PgRow) -> Result<(), Stop> {
        let seq: i32 = row.try_get(0)?;
        self.begin(seq.into());
        for at in 1..=5 {
            self.text(row.try_get(at)?);
        }
        self.text_or_null(row.try_get(6)?);
        let ids: Vec<String> = row.try_get(7)?;
        self.number(i64::try_from(ids.len()).unwrap_or(i64::MAX));
        for id in &ids {
            self.text(id);
        }
        for at in [8, 9] {
            let unreadable = || AccountFault::Unverified(format!("operation {seq} is unreadable"));
            self.hash.update(json_digest(row.try_get(at)?).ok_or_else(unreadable)?);
        }
        self.number(row.try_get::<i32, _>(10)?.into());
        self.number(row.try_get(11)?);
        self.number(row.try_get(12)?);
        self.number(row.try_get::<bool, _>(13)?.into());
        self.text_or_null(row.try_get(14)?);
        self.number(row.try_get::<Option<i32>, _>(15)?.map_or(-1, i64::from));
        Ok(())
    }

    fn begin(&mut self, seq: Seq) {
        if self.count == 0 {
            self.first = seq;
        }
        self.count += 1;
        self.last = seq;
        self.number(seq);
    }

    fn number(&mut self, number: i64) {
        self.hash.update(number.to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(i64::try_from(text.len()).unwrap_or(i64::MAX));
        self.hash.update(text);
    }

    fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.number(-1),
        }
    }

    /// Compares what the target holds (`self`) with what we have.
    pub(super) fn verify(self, ours: Self) -> Result<(), AccountFault> {
        if (self.count, self.first, self.last) != (ours.count, ours.first, ours.last) {
            return Err(AccountFault::Unverified(format!(
                "{} operations, {} to {}, instead of {}, {} to {}",
                self.count, self.first, self.last, ours.count, ours.first, ours.last
            )));
        }
        if self.hash.finalize() != ours.hash.finalize() {
            return Err(AccountFault::Unverified("an operation differs in what it says".to_owned()));
        }
        Ok(())
    }
}
