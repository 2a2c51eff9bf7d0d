//! The bytes of a backup (`docs/backup.md`): frames, records, values, and the limits on each.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::store::backup::{Column, Kind, Row, Value};

/// The first bytes. As with PNG: not text, and damaged by whatever turns line ends around.
pub(super) const MAGIC: &[u8; 8] = b"\x89SSB\r\n\x1a\n";
/// The newest format that this program knows; it writes this one.
pub(super) const VERSION: u16 = 1;
/// Bytes of a frame's body at most.
pub(super) const MAX_FRAME: usize = 1 << 20;
/// Compressed bytes are cut into frames of about this size, and never more.
pub(super) const FRAME: usize = 256 << 10;
/// Bytes of a record at most: the largest that a database can hold is a few tens of millions.
pub(super) const MAX_RECORD: usize = 256 << 20;
/// Log2 of the bytes that unpacking may look back at.
pub(super) const WINDOW_LOG: u32 = 23;
/// How hard to compress. Most of what is large is ciphertext, or compressed before.
pub(super) const LEVEL: i32 = 3;

/// What a frame holds, as its first byte says.
pub(super) mod tag {
    /// What the file is, as JSON.
    pub const HEADER: u8 = b'H';
    /// A section begins: which table, as JSON.
    pub const SECTION: u8 = b'S';
    /// A piece of the section's compressed records.
    pub const DATA: u8 = b'D';
    /// The section ends.
    pub const SECTION_END: u8 = b'E';
    /// The file ends.
    pub const TRAILER: u8 = b'T';
    /// All of them.
    pub const ALL: [u8; 5] = [HEADER, SECTION, DATA, SECTION_END, TRAILER];
}

/// What the file is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The version of the program that wrote it.
    pub program: String,
    /// The version of the schema.
    pub schema: i64,
    /// `sqlite` or `postgres`: from what it was made. Restored into either.
    pub source: String,
    /// The instant of which the rows are, Unix milliseconds.
    pub taken_at: i64,
    /// The highest number that was given out, by table.
    pub numbers: Vec<(String, i64)>,
}

/// What a section is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SectionHead {
    pub(super) table: String,
    /// Name, kind, and whether it may be missing, in the order of the values.
    pub(super) columns: Vec<(String, String, bool)>,
}

/// How a section ends: rows, bytes of its records before compression, and their XXH3 (128 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SectionEnd {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) hash: u128,
}

impl SectionEnd {
    pub(super) fn encode(self) -> Vec<u8> {
        [&self.rows.to_le_bytes()[..], &self.bytes.to_le_bytes(), &self.hash.to_le_bytes()].concat()
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let (rows, rest) = body.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let hash = rest.try_into().ok()?;
        Some(Self {
            rows: u64::from_le_bytes(*rows),
            bytes: u64::from_le_bytes(*bytes),
            hash: u128::from_le_bytes(hash),
        })
    }
}

/// The checksum of a frame.
pub(super) fn frame_hash(head: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(body);
    hash.digest()
}

/// Appends a number as LEB128.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Appends bytes behind their number.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(bytes);
}

/// A record: its length and a row's values. `None`: longer than a record may be, or not what the columns say.
pub(super) fn record(columns: &[&Column], row: &Row) -> Option<Vec<u8>> {
    if columns.len() != row.len() || !columns.iter().zip(row).all(|(column, value)| fits(column, value)) {
        return None;
    }
    let mut values = Vec::new();
    for (column, value) in columns.iter().zip(row) {
        if column.nullable {
            values.push(u8::from(*value != Value::Null));
        }
        match value {
            Value::Null => {}
            Value::Int(number) => put(&mut values, (number.wrapping_shl(1) ^ (number >> 63)).cast_unsigned()),
            Value::Bool(yes) => values.push(u8::from(*yes)),
            Value::Text(text) => put_bytes(&mut values, text.as_bytes()),
            Value::Bytes(bytes) => put_bytes(&mut values, bytes),
        }
    }
    if values.len() > MAX_RECORD {
        return None;
    }
    let mut out = Vec::with_capacity(values.len() + 5);
    put_bytes(&mut out, &values);
    Some(out)
}

/// Whether a column can hold a value.
fn fits(column: &Column, value: &Value) -> bool {
    match (value, column.kind) {
        (Value::Null, _) => column.nullable,
        (Value::Int(number), Kind::Small) => i16::try_from(*number).is_ok(),
        (Value::Int(number), Kind::Int) => i32::try_from(*number).is_ok(),
        (Value::Int(_), Kind::Big)
        | (Value::Bool(_), Kind::Bool)
        | (Value::Text(_), Kind::Text)
        | (Value::Bytes(_), Kind::Bytes) => true,
        _ => false,
    }
}

/// Takes a row's values out of a record's bytes. `None`: they are not a row of these columns.
pub(super) fn row(columns: &[&Column], record: &[u8]) -> Option<Row> {
    let mut rest = Rest(record);
    let mut row = Row::with_capacity(columns.len());
    for column in columns {
        let value = if column.nullable && !rest.flag()? {
            Value::Null
        } else {
            match column.kind {
                Kind::Bool => Value::Bool(rest.flag()?),
                Kind::Text => Value::Text(std::str::from_utf8(rest.bytes()?).ok()?.to_owned()),
                Kind::Bytes => Value::Bytes(rest.bytes()?.to_vec()),
                Kind::Small | Kind::Int | Kind::Big => {
                    let number = leb128(|| rest.byte())?;
                    Value::Int((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
                }
            }
        };
        if !fits(column, &value) {
            return None;
        }
        row.push(value);
    }
    rest.0.is_empty().then_some(row)
}

/// What of a record has not been read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(leb128(|| self.byte())?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Reads what [`put`] wrote; `None`: the bytes end, or the number does not.
pub(super) fn leb128(mut next: impl FnMut() -> Option<u8>) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = next()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::backup::TABLES;

    fn value(column: &Column) -> BoxedStrategy<Value> {
        let some = match column.kind {
            Kind::Small => any::<i16>().prop_map(|number| Value::Int(number.into())).boxed(),
            Kind::Int => any::<i32>().prop_map(|number| Value::Int(number.into())).boxed(),
            Kind::Big => any::<i64>().prop_map(Value::Int).boxed(),
            Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
            Kind::Text => any::<String>().prop_map(Value::Text).boxed(),
            Kind::Bytes => any::<Vec<u8>>().prop_map(Value::Bytes).boxed(),
        };
        if column.nullable { prop_oneof![Just(Value::Null), some].boxed() } else { some }
    }

    fn any_row() -> impl Strategy<Value = (usize, Row)> {
        (0..TABLES.len()).prop_flat_map(|table| {
            let values: Vec<_> = TABLES[table].columns.iter().map(value).collect();
            (Just(table), values)
        })
    }

    fn columns(table: usize) -> Vec<&'static Column> {
        TABLES[table].columns.iter().collect()
    }

    proptest! {
        #[test]
        fn every_row_comes_back((table, values) in any_row()) {
            let columns = columns(table);
            let record = record(&columns, &values).expect("it fits");
            let mut rest = record.iter().copied();
            let len = leb128(|| rest.next()).expect("a length");
            let body: Vec<u8> = rest.collect();
            prop_assert_eq!(u64::try_from(body.len()).expect("small"), len);
            prop_assert_eq!(row(&columns, &body), Some(values));
            // A record with more or less than a row is none.
            prop_assert_eq!(row(&columns, &body[..body.len() - 1]), None);
            prop_assert_eq!(row(&columns, &[&body[..], &[0]].concat()), None);
        }
    }

    #[test]
    fn numbers_without_end_are_none() {
        assert_eq!(leb128(|| Some(0xff)), None);
        let mut eleven = [0xff_u8; 9].into_iter().chain([1]);
        assert_eq!(leb128(|| eleven.next()), Some(u64::MAX));
        let mut too_large = [0xff_u8; 9].into_iter().chain([2]);
        assert_eq!(leb128(|| too_large.next()), None);
    }

    #[test]
    fn a_value_that_its_column_can_not_hold_is_not_written() {
        let column = Column { name: "x", kind: Kind::Small, nullable: false, since: 0 };
        assert_eq!(record(&[&column], &vec![Value::Int(40_000)]), None);
        assert_eq!(record(&[&column], &vec![Value::Null]), None);
        assert_eq!(record(&[&column], &vec![Value::Bool(true)]), None);
        assert_eq!(record(&[&column], &vec![]), None);
    }
}
