//! Sealed segments: old operations of one account, packed into one immutable compressed block.
//!
//! A log that thousands of accounts append to at once is interleaved: a page of 500 old operations lies on 500 pages of
//! the disk, each row with its header and three index entries. A segment holds up to [`MAX_OPS`] operations with
//! successive sequences of one generation in one place, as the JSON that downloads send, so that a page is cut out and
//! pasted. Full states and operations with a payload or ids larger than [`MAX_OP_BYTES`] are never packed: they stay rows,
//! and a segment ends before them.
//!
//! # The format
//! `data` is one byte, the version (1), and a zstd frame with its size and checksum. Inside, numbers being LEB128:
//! - the first sequence; the number of operations;
//! - the number of client ids, then each one's length and bytes;
//! - for each operation the index of its client id, the length of its JSON, the length of its payload, and what it is
//!   charged beyond the payload's length (zigzag);
//! - the operations' JSON, one after the other.
//!
//! `op_id_hashes` are the first four bytes of the SHA-256 of each op id, sorted: whether an id may be here can be told
//! without unpacking.
//!
//! # What it promises
//! [`Segment::pack`] has unpacked what it returns and found the same operations, byte for byte. Reading never trusts the
//! stored bytes: what can't be is [`StoreError::Corrupt`].

use std::cell::RefCell;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Result, StoreError};
use crate::protocol::json::str_len;
use crate::protocol::limits::DOWNLOAD_DEFAULT_LIMIT;
use crate::protocol::response::{decode_op, encode_op};
use crate::protocol::{Seq, StoredOp};

/// Most operations of one segment: as many as a page has when the client names no limit, so that a device that joins reads
/// one segment per page.
pub const MAX_OPS: usize = DOWNLOAD_DEFAULT_LIMIT;
/// A segment is full when its operations' JSON has reached this size.
pub const FULL_BYTES: usize = 512 * 1024;
/// Operations with a larger payload, or with more beside it, are not packed: it would bring nothing, and reading their
/// neighbours would cost more.
pub const MAX_OP_BYTES: usize = 64 * 1024;
/// What a segment may unpack to: its operations with their envelopes, and the index before them.
const MAX_UNPACKED: usize = 2 * 1024 * 1024;
/// What [`packed_from`] of a segment's operations may add up to, so that it can be unpacked.
pub const MAX_RUN_BYTES: usize = MAX_UNPACKED - 64;
/// Above what an operation takes beside texts that clients choose: names of members, numbers, its place in the index.
const ENVELOPE_BYTES: usize = 700;
/// Levels 6 and 9 made realistic operations 4 % and 8 % smaller and took five times as long.
const LEVEL: i32 = 3;
const VERSION: u8 = 1;
/// Bytes of one op id's hash.
const HASH_BYTES: usize = 4;

/// Operations packed for storing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The generation they belong to.
    pub generation: i64,
    /// The first one's sequence.
    pub first_seq: Seq,
    /// The last one's sequence.
    pub last_seq: Seq,
    /// How many there are.
    pub op_count: usize,
    /// Bytes that they are charged.
    pub storage_bytes: i64,
    /// When the newest was received, Unix milliseconds.
    pub max_received_at: i64,
    /// The lowest op id, in byte order.
    pub min_op_id: String,
    /// The highest op id, in byte order.
    pub max_op_id: String,
    /// Hashes of the op ids, sorted.
    pub op_id_hashes: Bytes,
    /// The packed operations.
    pub data: Bytes,
}

/// Whether an operation is to be packed.
#[must_use]
pub fn is_packable(op: &StoredOp) -> bool {
    may_be_packed(op) && packed_from(op) - op.payload.len() <= MAX_OP_BYTES
}

/// The older, wider rule: segments that were packed by it are there.
fn may_be_packed(op: &StoredOp) -> bool {
    !op.op_type.is_full_state() && op.payload.len() <= MAX_OP_BYTES
}

/// At least as many bytes as an operation takes in an unpacked segment.
#[must_use]
pub fn packed_from(op: &StoredOp) -> usize {
    let texts = [&op.id, &op.client_id, &op.action_type].into_iter().chain(&op.entity_id).chain(&op.entity_ids);
    let texts: usize = texts.map(|text| str_len(text) + 1).sum();
    ENVELOPE_BYTES + op.payload.len() + op.vector_clock.as_json().len() + texts + op.client_id.len()
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!("segment: {what}"))
}

impl Segment {
    /// Packs operations with successive sequences.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when there are none, too many, some that must not be packed, or one that would not come
    /// back as it is.
    pub fn pack(generation: i64, ops: &[StoredOp]) -> Result<Self> {
        let (Some(first), Some(last)) = (ops.first(), ops.last()) else { return Err(corrupt("nothing to pack")) };
        if ops.len() > MAX_OPS || !ops.iter().all(may_be_packed) {
            return Err(corrupt("not to be packed"));
        }
        if !(first.server_seq..).zip(ops).all(|(seq, op)| op.server_seq == seq) {
            return Err(corrupt("a hole between operations"));
        }
        let mut packer = zstd::bulk::Compressor::new(LEVEL).map_err(|_| corrupt("no memory to pack"))?;
        packer.include_checksum(true).map_err(|_| corrupt("no checksum"))?;
        let mut data = vec![VERSION];
        data.extend(packer.compress(&encode(ops)).map_err(|_| corrupt("packing failed"))?);
        let data = Bytes::from(data);

        let unpacked = Unpacked::open(&data, first.server_seq, last.server_seq)?;
        for (at, op) in ops.iter().enumerate() {
            if unpacked.op(at)? != *op {
                return Err(corrupt("an operation does not come back as it was"));
            }
        }
        let mut hashes: Vec<_> = ops.iter().map(|op| hash(&op.id)).collect();
        hashes.sort_unstable();
        let ids = || ops.iter().map(|op| &*op.id);
        Ok(Self {
            generation,
            first_seq: first.server_seq,
            last_seq: last.server_seq,
            op_count: ops.len(),
            storage_bytes: ops.iter().map(|op| op.storage_bytes).sum(),
            max_received_at: ops.iter().map(|op| op.received_at).max().unwrap_or_default(),
            min_op_id: ids().min().unwrap_or_default().to_owned(),
            max_op_id: ids().max().unwrap_or_default().to_owned(),
            op_id_hashes: hashes.concat().into(),
            data,
        })
    }
}

/// The last sequence that a segment can have whose first one is `up_to`.
pub(super) fn last_end(up_to: Seq) -> Seq {
    up_to.saturating_add(signed(MAX_OPS) - 1)
}

/// Checks that segments replace exactly the operations that they hold, which were rows or in smaller segments: otherwise
/// they were made from something else than is stored, and nothing must be deleted.
pub(super) fn check_replaced<'a>(segments: impl Iterator<Item = &'a Segment>, ops: i64) -> Result<()> {
    let held: usize = segments.map(|segment| segment.op_count).sum();
    if i64::try_from(held).is_ok_and(|held| held == ops) {
        return Ok(());
    }
    Err(corrupt("holds other operations than are stored"))
}

/// The charged bytes and the number of the operations with `after < seq ≤ up_to` in a stored segment that is to hold the
/// operations `first_seq ..= last_seq`.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is damaged, or holds others.
pub fn measure(data: &[u8], first_seq: Seq, last_seq: Seq, after: Seq, up_to: Seq) -> Result<(i64, i64)> {
    Ok(Unpacked::open(data, first_seq, last_seq)?.measure(after, up_to))
}

/// The operations `first_seq ..= last_seq` of a stored segment.
///
/// # Errors
/// [`StoreError::Corrupt`] when it is damaged, or holds others.
pub fn unpack(data: &[u8], first_seq: Seq, last_seq: Seq) -> Result<Vec<StoredOp>> {
    Unpacked::open(data, first_seq, last_seq)?.ops().collect()
}

fn hash(op_id: &str) -> [u8; HASH_BYTES] {
    let mut start = [0; HASH_BYTES];
    start.copy_from_slice(&Sha256::digest(op_id)[..HASH_BYTES]);
    start
}

/// Whether a segment with these hashes may hold an op id.
pub(super) fn may_hold(op_id_hashes: &[u8], op_id: &str) -> bool {
    let (hashes, _) = op_id_hashes.as_chunks::<HASH_BYTES>();
    hashes.binary_search(&hash(op_id)).is_ok()
}

fn encode(ops: &[StoredOp]) -> Vec<u8> {
    let mut clients: Vec<&str> = Vec::new();
    let mut index = Vec::with_capacity(ops.len() * 8);
    let mut json = Vec::with_capacity(ops.iter().map(|op| op.payload.len() + 512).sum());
    for op in ops {
        let client = clients.iter().position(|known| **known == *op.client_id).unwrap_or_else(|| {
            clients.push(&op.client_id);
            clients.len() - 1
        });
        let start = json.len();
        encode_op(op, &mut json);
        put_len(&mut index, client);
        put_len(&mut index, json.len() - start);
        put_len(&mut index, op.payload.len());
        let surplus = op.storage_bytes.wrapping_sub(signed(op.payload.len()));
        put(&mut index, (surplus.wrapping_shl(1) ^ (surplus >> 63)).cast_unsigned());
    }
    let mut out = Vec::with_capacity(json.len() + index.len() + 256);
    put(&mut out, ops.first().map_or(0, |op| op.server_seq).cast_unsigned());
    put_len(&mut out, ops.len());
    put_len(&mut out, clients.len());
    for client in clients {
        put_len(&mut out, client.len());
        out.extend_from_slice(client.as_bytes());
    }
    out.extend_from_slice(&index);
    out.extend_from_slice(&json);
    out
}

fn decompress(frame: &[u8], size: usize) -> Result<Vec<u8>> {
    thread_local! {
        /// Making one takes a tenth of the time that a segment takes.
        static UNPACKER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    UNPACKER.with_borrow_mut(|kept| {
        let unpacker = match kept {
            Some(unpacker) => unpacker,
            None => kept.insert(zstd::bulk::Decompressor::new().map_err(|_| corrupt("no memory to unpack"))?),
        };
        unpacker.decompress(frame, size).map_err(|_| corrupt("damaged"))
    })
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    put(out, u64::try_from(len).unwrap_or(u64::MAX));
}

/// Appends a number as LEB128: seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Reads what [`put`] wrote.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or_else(|| corrupt("ends early"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(corrupt("a number without end"))
    }

    fn len(&mut self) -> Result<usize> {
        usize::try_from(self.number()?).map_err(|_| corrupt("a length out of range"))
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or_else(|| corrupt("ends early"))?;
        self.0 = rest;
        Ok(bytes)
    }
}

/// Where an operation stands in an unpacked segment.
#[derive(Clone, Copy, Debug)]
struct Entry {
    client: usize,
    start: usize,
    end: usize,
    storage_bytes: i64,
}

/// A segment's operations, unpacked but not decoded.
#[derive(Debug)]
pub(super) struct Unpacked {
    first_seq: Seq,
    clients: Vec<Box<str>>,
    entries: Vec<Entry>,
    body: Bytes,
}

impl Unpacked {
    /// Unpacks a stored segment that is to hold the operations `first_seq ..= last_seq`.
    pub(super) fn open(data: &[u8], first_seq: Seq, last_seq: Seq) -> Result<Self> {
        let Some((&VERSION, frame)) = data.split_first() else { return Err(corrupt("unknown version")) };
        let size = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
        let size = size.and_then(|size| usize::try_from(size).ok()).filter(|size| *size <= MAX_UNPACKED);
        let size = size.ok_or_else(|| corrupt("unreadable, or too large"))?;
        let body = Bytes::from(decompress(frame, size)?);

        let mut reader = Reader(&body);
        let stored_first = reader.number()?.cast_signed();
        let count = reader.len()?;
        if stored_first != first_seq
            || count > MAX_OPS
            || first_seq.checked_add(signed(count)) != last_seq.checked_add(1)
        {
            return Err(corrupt("holds other operations than it should"));
        }
        let client_count = reader.len()?;
        if client_count > count {
            return Err(corrupt("more clients than operations"));
        }
        let mut clients = Vec::with_capacity(client_count);
        for _ in 0..client_count {
            let len = reader.len()?;
            let client = std::str::from_utf8(reader.bytes(len)?).map_err(|_| corrupt("unreadable client id"))?;
            clients.push(Box::from(client));
        }
        let mut entries = Vec::with_capacity(count);
        let mut start = 0_usize;
        for _ in 0..count {
            let client = reader.len()?;
            let end = start.checked_add(reader.len()?).ok_or_else(|| corrupt("a length out of range"))?;
            let payload_len = reader.len()?;
            let surplus = reader.number()?;
            let surplus = (surplus >> 1).cast_signed() ^ -((surplus & 1).cast_signed());
            if client >= client_count {
                return Err(corrupt("an operation without client"));
            }
            let storage_bytes = surplus.wrapping_add(signed(payload_len));
            entries.push(Entry { client, start, end, storage_bytes });
            start = end;
        }
        if reader.0.len() != start {
            return Err(corrupt("lengths that don't add up"));
        }
        let offset = body.len() - start;
        Ok(Self { first_seq, clients, entries, body: body.slice(offset..) })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn seq(&self, at: usize) -> Seq {
        self.first_seq + signed(at)
    }

    pub(super) fn client_id(&self, at: usize) -> &str {
        &self.clients[self.entries[at].client]
    }

    /// The operation as clients get it.
    pub(super) fn json(&self, at: usize) -> Bytes {
        let Entry { start, end, .. } = self.entries[at];
        self.body.slice(start..end)
    }

    /// The operation.
    pub(super) fn op(&self, at: usize) -> Result<StoredOp> {
        let entry = self.entries[at];
        decode_op(&self.json(at), entry.storage_bytes)
            .filter(|op| op.server_seq == self.seq(at))
            .ok_or_else(|| corrupt("an unreadable operation"))
    }

    fn in_range(&self, after: Seq, up_to: Seq) -> impl Iterator<Item = usize> {
        (0..self.len()).filter(move |at| (after + 1..=up_to).contains(&self.seq(*at)))
    }

    /// The charged bytes and the number of the operations in a range.
    pub(super) fn measure(&self, after: Seq, up_to: Seq) -> (i64, i64) {
        let in_range = self.in_range(after, up_to).map(|at| self.entries[at].storage_bytes);
        in_range.fold((0, 0), |(bytes, count), charged| (bytes + charged, count + 1))
    }

    /// Whether an operation in a range was received at or after a time.
    pub(super) fn received_since(&self, after: Seq, up_to: Seq, since_ms: i64) -> Result<bool> {
        for at in self.in_range(after, up_to) {
            if self.op(at)?.received_at >= since_ms {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds the operations with these ids to `found`.
    pub(super) fn find(&self, ids: &[String], found: &mut Vec<StoredOp>) -> Result<()> {
        for op in self.ops() {
            let op = op?;
            if ids.iter().any(|id| **id == *op.id) {
                found.push(op);
            }
        }
        Ok(())
    }

    /// All operations.
    pub(super) fn ops(&self) -> impl Iterator<Item = Result<StoredOp>> {
        (0..self.len()).map(|at| self.op(at))
    }
}

#[cfg(test)]
mod tests;
