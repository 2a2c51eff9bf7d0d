//! What is done with the bytes of each fuzz target. A panic is a find, and so is more memory than the work may take.
//!
//! `tests/storage/fuzz_seeds.rs` of the server runs every seed through these, so that they stay in step with the server.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use supersync::http::inflate;
use supersync::protocol::json::{digest, scan, tree};
use supersync::protocol::request::{SnapshotRequest, UploadRequest};
use supersync::protocol::response::encode_op;
use supersync::protocol::{OpType, StoredOp, VectorClock, op, validate};
use supersync::replay::{Limits, Replayer};
use supersync::store::segment::{self, Segment};
use supersync::upstream::copy_text::Row;
use supersync::upstream::import::dump::Copies;
use supersync::webauthn::{AssertionResponse, Ceremonies, RegistrationResponse, RelyingParty, StoredKey, Verification};

/// Runs `work` and fails when it held more memory at once than `most`.
fn within<T>(most: usize, work: impl FnOnce() -> T) -> T {
    let mut result = None;
    let info = allocation_counter::measure(|| result = Some(work()));
    let peak = usize::try_from(info.bytes_max).unwrap_or(usize::MAX);
    assert!(peak <= most, "{peak} bytes at once, {most} allowed");
    result.expect("it has run")
}

/// The body of `POST /api/sync/ops`, unpacked.
pub fn upload_body(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    // Refused texts are repeated in the answer, and ids are looked up.
    within(64 * data.len() + (1 << 20), || {
        if let Ok(request) = UploadRequest::parse(&body) {
            drop(validate::check_upload(request));
        }
    });
}

/// The body of `POST /api/sync/snapshot`, unpacked.
pub fn snapshot_body(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    within(64 * data.len() + (1 << 20), || {
        if let Ok(request) = SnapshotRequest::parse(&body) {
            drop(validate::check_snapshot(request, "01920000-0000-7000-8000-000000000000".into(), 1_700_000_000_000));
        }
    });
}

/// gzip, and base64 around it.
pub fn wrappers(data: &[u8]) {
    const CAP: usize = 1 << 20;
    within(8 * CAP + 8 * data.len(), || {
        for packed in [Some(data.to_vec()), inflate::decode_base64(data, CAP).ok()].into_iter().flatten() {
            if let Ok(text) = inflate::gunzip(&packed, CAP, &mut |_| Ok(())) {
                assert!(text.len() <= CAP);
            }
        }
    });
}

/// Everything that reads JSON of strangers.
pub fn json_scanner(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut scanner = scan::Scanner::new(text);
    let value = scanner.value();
    let whole = value.is_ok() && scanner.end().is_ok();
    let Ok(span) = value else {
        assert!(tree::Tree::parse(text).is_none() && digest::json_digest(text).is_none(), "there is no value");
        return;
    };
    // Trees and fingerprints have a depth of their own.
    if span.shape.depth <= 100 {
        assert_eq!(tree::Tree::parse(text).is_some(), whole);
        assert_eq!(digest::json_digest(text).is_some(), whole);
    }
    let value = &text[span.start..span.end];
    let short = scan::compacted(value);
    assert!(!span.compact || short == value.as_bytes(), "there was nothing to take out");
    let short = std::str::from_utf8(&short).expect("white space is ASCII");
    assert_eq!(digest::json_digest(short), digest::json_digest(value), "white space means nothing");
    assert_eq!(scan::Scanner::new(short).value().expect("still JSON").shape, span.shape);
    if value.starts_with('"') {
        let (plain, _) = scan::string_value(value);
        assert!(plain.len() <= value.len());
    }
}

/// An operation of which the input says what matters to replay: type, schema, id, and the payload.
fn operation(seq: i64, text: &[u8]) -> StoredOp {
    let (&kind, text) = text.split_first().unwrap_or((&0, &[]));
    let (&schema, payload) = text.split_first().unwrap_or((&b'4', &[]));
    let entity_type = op::entity_type(if kind & 16 == 0 { "TASK" } else { "GLOBAL_CONFIG" }).expect("one of them");
    StoredOp {
        server_seq: seq,
        id: "id".into(),
        client_id: "A".into(),
        action_type: "[Fuzz] act".into(),
        op_type: OpType::ALL[usize::from(kind) % OpType::ALL.len()],
        entity_type,
        entity_id: [None, Some("misc"), Some("a"), Some("b")][usize::from(kind >> 5) % 4].map(Into::into),
        entity_ids: if kind & 8 == 0 { Vec::new() } else { vec!["a".into(), "misc".into()] },
        payload: Bytes::copy_from_slice(payload),
        storage_bytes: 0,
        vector_clock: VectorClock::new(),
        timestamp: 0,
        schema_version: schema.wrapping_sub(b'0'),
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: Some(0),
        received_at: 0,
    }
}

/// A stored state and operations after it, one a line.
pub fn replay(data: &[u8]) {
    const MEMORY: usize = 1 << 20;
    let limits = Limits { max_memory_bytes: MEMORY, max_steps: 50_000_000, ..Limits::new(1000, 1 << 20) };
    let mut lines = data.split(|byte| *byte == b'\n');
    let base = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let ops: Vec<_> = (1..).zip(lines).map(|(seq, line)| operation(seq, line)).collect();
    let target = i64::try_from(ops.len()).unwrap_or(i64::MAX);
    let json = within(MEMORY, || {
        let mut replayer = Replayer::new(0, target, limits);
        if !base.is_empty() {
            replayer.start_with(base, 1).ok()?;
        }
        for op in ops {
            replayer.push(op).ok()?;
        }
        Some(replayer.finish().ok()?.json.concat())
    });
    if let Some(json) = json {
        let text = std::str::from_utf8(&json).expect("JSON is text");
        let mut scanner = scan::Scanner::new(text);
        scanner.value().expect("a state is JSON");
        scanner.end().expect("and nothing else");
        let mut again = Replayer::new(0, 0, Limits::default());
        again.start_with(json.clone().into(), 4).expect("a state can be read again");
        assert_eq!(again.finish().expect("whole").json.concat(), json, "and stays as it is");
    }
}

/// A stored segment: as it is, and as what it unpacks to.
pub fn segment(data: &[u8]) {
    let mut packed = vec![1];
    packed.extend(zstd::bulk::compress(data, 1).expect("packed"));
    for data in [data, &packed] {
        let ops = within(16 << 20, || segment::unpack(data, 1, 3));
        if let Ok(ops) = ops {
            assert_eq!(ops.iter().map(|op| op.server_seq).collect::<Vec<_>>(), [1, 2, 3]);
            for op in &ops {
                encode_op(op, &mut Vec::new());
            }
            if ops.iter().all(segment::is_packable) {
                Segment::pack(0, &ops).ok();
            }
        }
    }
}

/// A backup's file: as it is, or (`P`) as frames without what makes them sound: tag, length in two bytes, body, and the
/// records of a section unpacked. Their checksums would keep every change out.
pub fn backup_reader(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    let file = tempfile::NamedTempFile::new().expect("a file");
    let bytes = if kind == b'P' { framed(data) } else { data.to_vec() };
    std::fs::write(file.path(), bytes).expect("written");
    within(64 << 20, || {
        supersync::backup::check(file.path(), &std::sync::atomic::AtomicU64::new(0)).ok();
    });
}

fn framed(mut data: &[u8]) -> Vec<u8> {
    let mut file = b"\x89SSB\r\n\x1a\n\x01\0".to_vec();
    while let Some((&[tag, low, high], rest)) = data.split_first_chunk() {
        let (body, rest) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes([low, high]))));
        data = rest;
        let packed = if tag == b'D' { zstd::bulk::compress(body, 1).expect("packed") } else { body.to_vec() };
        let mut frame = vec![tag];
        frame.extend(u32::try_from(packed.len()).expect("small").to_le_bytes());
        frame.extend(packed);
        let hash = xxhash_rust::xxh3::xxh3_64(&frame);
        file.extend(frame);
        file.extend(hash.to_le_bytes());
    }
    file
}

/// A dump of the Node server's database.
pub fn dump_import(data: &[u8]) {
    within(64 * data.len() + (4 << 20), || {
        let mut copies = Copies::new(Cursor::new(data));
        while let Ok(Some(table)) = copies.next_table() {
            while let Ok(Some((text, line))) = copies.next_row() {
                let Ok(row) = Row::new(&table.columns, text, line) else { continue };
                for column in &table.columns {
                    row.text(column).ok();
                    row.int(column).ok();
                    row.big(column).ok();
                    row.bool(column).ok();
                    row.json(column).ok();
                    row.blob(column).ok();
                    row.instant(column).ok();
                    row.texts(column).ok();
                }
            }
        }
    });
}

/// COSE keys that sign in: ES256, and Ed25519 as only old accounts have it.
const KEYS: [&[u8]; 2] = [
    b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20\x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\x77\x03\x7d\x81\
    \x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\x22\x58\x20\x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\x2b\
    \xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5",
    b"\xa4\x01\x01\x03\x27\x20\x06\x21\x58\x20\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\x0e\xe1\x72\xf3\xda\
    \xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a",
];

/// What an authenticator sends, with client data as they should be: kind (1: sign-in, 2: with the old kind of key), length of
/// the credential id, the id, and the attestation or the authenticator data. No signature is right.
pub fn authenticator_data(data: &[u8]) {
    let Some((&[kind, len], rest)) = data.split_first_chunk() else { return };
    let Some((raw_id, object)) = rest.split_at_checked(usize::from(len)) else { return };
    let rp = RelyingParty { id: "example.org".into(), name: "Fuzz".into(), origin: "https://example.org".into() };
    let ceremonies = Ceremonies::new(rp);
    let signs_in = kind & 1 == 1;
    let begun = if signs_in {
        ceremonies.begin_sign_in(Verification::Preferred)
    } else {
        ceremonies.begin_registration(&[], Verification::Preferred)
    };
    let begun = begun.expect("a ceremony begins");
    let (ceremony, challenge) = (if signs_in { "get" } else { "create" }, URL_SAFE_NO_PAD.encode(begun.challenge));
    let client_data = format!(
        r#"{{"type":"webauthn.{ceremony}","challenge":"{challenge}","origin":"https://example.org","crossOrigin":false}}"#
    );
    let (raw_id, client_data) = (raw_id.to_vec(), client_data.into_bytes());
    within(64 * data.len() + (4 << 20), || {
        if signs_in {
            let public_key = KEYS[usize::from(kind >> 1 & 1)];
            let stored =
                StoredKey { credential_id: &raw_id, public_key, counter: 0, backup_eligible: None, user_handle: None };
            let response = AssertionResponse {
                raw_id: raw_id.clone(),
                client_data,
                authenticator_data: object.to_vec(),
                signature: vec![1; 64],
                user_handle: None,
            };
            assert!(ceremonies.sign_in(&begun, &stored, &response).is_err(), "nobody has signed that");
        } else {
            let attestation_object = object.to_vec();
            let response =
                RegistrationResponse { raw_id: raw_id.clone(), client_data, attestation_object, transports: None };
            if let Ok(registered) = ceremonies.register(&begun, &response) {
                assert_eq!(registered.credential_id, raw_id);
                assert!(object.windows(registered.public_key.len()).any(|part| part == registered.public_key));
            }
        }
    });
}
