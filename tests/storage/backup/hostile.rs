//! Files that somebody made to do harm, with checksums that fit.

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use supersync::backup::{BackupError, Checked, check};
use supersync::store::backup::{TABLES, schema_version};
use tempfile::TempDir;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// A file in the making, as the format says; what a test changes is wrong in one point only.
struct Forged {
    bytes: Vec<u8>,
    sections: u32,
}

impl Forged {
    fn new() -> Self {
        Self::with(1, &header())
    }

    fn with(version: u16, header: &Value) -> Self {
        let mut forged = Self { bytes: b"\x89SSB\r\n\x1a\n".to_vec(), sections: 0 };
        forged.bytes.extend(version.to_le_bytes());
        forged.frame(b'H', header.to_string().as_bytes());
        forged
    }

    fn frame(&mut self, tag: u8, body: &[u8]) {
        let len = u32::try_from(body.len()).expect("short");
        let frame = [&[tag][..], &len.to_le_bytes(), body].concat();
        self.bytes.extend(&frame);
        self.bytes.extend(xxh3_64(&frame).to_le_bytes());
    }

    /// The section of the table at this place of the list, with these records.
    fn section(&mut self, at: usize, rows: u64, records: &[u8]) {
        self.section_head(at);
        let packed = zstd::bulk::compress(records, 3).expect("it packs");
        for piece in packed.chunks(1000) {
            self.frame(b'D', piece);
        }
        self.section_end(rows, records);
    }

    fn section_head(&mut self, at: usize) {
        let columns: Vec<_> = TABLES[at].columns.iter().map(|c| json!([c.name, c.kind.as_str(), c.nullable])).collect();
        self.frame(b'S', json!({ "table": TABLES[at].name, "columns": columns }).to_string().as_bytes());
        self.sections += 1;
    }

    fn section_end(&mut self, rows: u64, records: &[u8]) {
        let bytes = u64::try_from(records.len()).expect("short");
        let end = [&rows.to_le_bytes()[..], &bytes.to_le_bytes(), &xxh3_128(records).to_le_bytes()].concat();
        self.frame(b'E', &end);
    }

    fn empty_sections(mut self, from: usize) -> Self {
        for at in from..TABLES.len() {
            self.section(at, 0, &[]);
        }
        self
    }

    fn trailer(mut self) -> Self {
        let whole = Sha256::digest(&self.bytes);
        self.frame(b'T', &[&self.sections.to_le_bytes()[..], &whole].concat());
        self
    }

    fn check(&self) -> Result<Checked, BackupError> {
        let (_kept, path) = self.file();
        check(&path, &AtomicU64::new(0))
    }

    fn file(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("forged.ssb");
        std::fs::write(&path, &self.bytes).expect("written");
        (dir, path)
    }

    #[track_caller]
    fn is_damaged(&self, word: &str) {
        let error = self.check().expect_err("refused");
        assert!(matches!(error, BackupError::Damaged { .. }) && error.to_string().contains(word), "{error}");
    }
}

fn header() -> Value {
    json!({ "program": "0", "schema": schema_version(), "source": "sqlite", "takenAt": 0, "numbers": [["users", 7]] })
}

/// A device's record: account, name, two times.
fn device(user: u8, name: &str) -> Vec<u8> {
    let mut values = vec![user * 2, u8::try_from(name.len()).expect("short")];
    values.extend(name.as_bytes());
    values.extend([0, 0]);
    [&[u8::try_from(values.len()).expect("short")][..], &values].concat()
}

const DEVICES: usize = 7;

fn with_devices(rows: u64, records: &[u8]) -> Forged {
    assert_eq!(TABLES[DEVICES].name, "sync_devices");
    let mut forged = Forged::new();
    for at in 0..DEVICES {
        forged.section(at, 0, &[]);
    }
    forged.section(DEVICES, rows, records);
    forged.empty_sections(DEVICES + 1).trailer()
}

#[test]
fn a_forged_file_without_fault_is_read() {
    let empty = Forged::new().empty_sections(0).trailer().check().expect("whole");
    assert_eq!((empty.fault_count, empty.operations), (0, 0));
    let one = with_devices(1, &device(1, "a")).check().expect("whole");
    assert_eq!(one.rows_of("sync_devices"), 1);
    assert_eq!(one.faults, ["account 1: there is data, but no such account"]);
}

#[test]
fn every_bit_counts_and_every_cut_shows() {
    let good = with_devices(2, &[device(1, "a"), device(1, "b")].concat());
    good.check().expect("whole");
    let (_kept, path) = good.file();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        check(&path, &AtomicU64::new(0)).expect_err("refused")
    };
    for at in (0..good.bytes.len()).step_by(3) {
        let mut bytes = good.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&bytes);
        let error = refused(&good.bytes[..at]);
        assert!(matches!(error, BackupError::Cut { .. } | BackupError::NotABackup), "{at}: {error}");
    }
    refused(&[&good.bytes[..], b"\0"].concat());
}

#[test]
fn what_is_of_a_later_program_is_refused_by_name() {
    let later = Forged::with(2, &header()).empty_sections(0).trailer().check().expect_err("refused");
    assert!(matches!(later, BackupError::NewerFormat(2)), "{later}");
    for schema in [schema_version() + 1, 0, i64::MIN] {
        let mut header = header();
        header["schema"] = schema.into();
        let error = Forged::with(1, &header).empty_sections(0).trailer().check().expect_err("refused");
        assert!(matches!(error, BackupError::OtherSchema { found, .. } if found == schema), "{error}");
    }
}

#[test]
fn lengths_are_believed_only_as_far_as_bytes_are_there() {
    // 200 MB are announced, none are there; then more than any record may have.
    with_devices(1, &[0x80, 0x84, 0xaf, 0x5f, 1]).is_damaged("ends early");
    with_devices(1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]).is_damaged("too long");
    with_devices(1, &[0xff; 12]).is_damaged("too long");
    let mut forged = Forged::new();
    forged.bytes.extend([b'S', 0xff, 0xff, 0xff, 0x7f]);
    forged.is_damaged("a frame is too long");
    // A text that is longer than its record.
    with_devices(1, &[5, 2, 0x7f, b'a', 0, 0]).is_damaged("not a row");
}

#[test]
fn what_unpacks_to_more_than_a_record_may_be_is_not_unpacked_to_its_end() {
    let mut bomb = vec![0x81, 0x80, 0x80, 0x80, 0x01];
    bomb.resize(300 << 20, 0);
    with_devices(1, &bomb).is_damaged("too long");
}

#[test]
fn sections_are_the_tables_in_their_order_once_each() {
    Forged::new().empty_sections(1).trailer().is_damaged("missing");
    let mut last_missing = Forged::new();
    for at in 0..TABLES.len() - 1 {
        last_missing.section(at, 0, &[]);
    }
    last_missing.trailer().is_damaged("no section");
    let mut twice = Forged::new();
    twice.section(0, 0, &[]);
    twice.empty_sections(0).trailer().is_damaged("not in order");
    let mut unknown = Forged::new();
    unknown.frame(b'S', json!({ "table": "pg_authid", "columns": [] }).to_string().as_bytes());
    unknown.is_damaged("unknown table");
    let mut injected = Forged::new();
    let columns = json!([["id) SELECT 1; DROP TABLE users --", "int64", false]]);
    injected.frame(b'S', json!({ "table": "users", "columns": columns }).to_string().as_bytes());
    injected.is_damaged("other columns");
}

#[test]
fn rows_are_in_order_and_as_many_as_are_said() {
    with_devices(2, &[device(1, "b"), device(1, "a")].concat()).is_damaged("not in order");
    with_devices(2, &[device(1, "a"), device(1, "a")].concat()).is_damaged("not in order");
    with_devices(3, &[device(1, "a"), device(1, "b")].concat()).is_damaged("not those");
    let mut other = Forged::new();
    for at in 0..DEVICES {
        other.section(at, 0, &[]);
    }
    other.section_head(DEVICES);
    other.frame(b'D', &zstd::bulk::compress(&device(1, "a"), 3).expect("it packs"));
    other.section_end(1, &device(1, "b"));
    other.empty_sections(DEVICES + 1).trailer().is_damaged("not those");
    let mut more = Forged::new();
    for at in 0..DEVICES {
        more.section(at, 0, &[]);
    }
    more.section_head(DEVICES);
    let packed = zstd::bulk::compress(&device(1, "a"), 3).expect("it packs");
    more.frame(b'D', &[&packed[..], b"more"].concat());
    more.section_end(1, &device(1, "a"));
    more.empty_sections(DEVICES + 1).trailer().is_damaged("follows the records");
}
