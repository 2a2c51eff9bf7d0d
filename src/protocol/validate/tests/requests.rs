//! What is judged about a request as a whole: repeated ids, fingerprints, snapshots.

use super::super::super::ImportReason;
use super::*;

fn codes(ops: &[Value]) -> Vec<Option<ErrorCode>> {
    let ops: Vec<String> = ops.iter().map(Value::to_string).collect();
    let checked = check_upload(upload_text(&ops.join(",")).unwrap());
    checked.ops.into_iter().map(|op| op.check.err().map(|rejection| rejection.code)).collect()
}

#[test]
fn scenario_36_an_id_that_repeats_in_the_request() {
    use ErrorCode::{DuplicateOperation, InvalidOpId, InvalidSchemaVersion};
    let same = op();
    let other = with([("payload", json!({"title": "y"}))]);
    assert_eq!(
        codes(&[same.clone(), same.clone(), same.clone()]),
        [None, Some(DuplicateOperation), Some(DuplicateOperation)]
    );
    assert_eq!(
        codes(&[same.clone(), other.clone(), same.clone()]),
        [None, Some(InvalidOpId), Some(DuplicateOperation)]
    );
    // The first one counts, even when it is invalid; the second is then not judged by itself.
    let invalid = with([("schemaVersion", json!(0))]);
    assert_eq!(codes(&[invalid.clone(), invalid.clone()]), [Some(InvalidSchemaVersion), Some(DuplicateOperation)]);
    assert_eq!(codes(&[invalid, same.clone()]), [Some(InvalidSchemaVersion), Some(InvalidOpId)]);
    for change in [
        ("timestamp", json!(1_700_000_000_001_i64)),
        ("actionType", json!("changed")),
        ("opType", json!("CRT")),
        ("entityType", json!("TAG")),
        ("entityId", json!("t2")),
        ("entityIds", json!(["t1", "t2"])),
        ("schemaVersion", json!(3)),
        ("vectorClock", json!({CLIENT: 2})),
        ("isPayloadEncrypted", json!(true)),
        ("syncImportReason", json!("FILE_IMPORT")),
        ("repairBaseServerSeq", json!(0)),
    ] {
        assert_eq!(codes(&[same.clone(), with([change.clone()])]), [None, Some(InvalidOpId)], "{change:?}");
    }
    // Spelling does not count, nor do absent and default.
    for change in [
        ("entityIds", json!(["t1"])),
        ("entityIds", json!([])),
        ("isPayloadEncrypted", json!(false)),
        ("extra", json!(1)),
    ] {
        assert_eq!(codes(&[same.clone(), with([change.clone()])]), [None, Some(DuplicateOperation)], "{change:?}");
    }
    let encrypted = |text: &str| with([("payload", json!(text)), ("isPayloadEncrypted", json!(true))]);
    assert_eq!(codes(&[encrypted("abc"), encrypted("xyz")]), [None, Some(DuplicateOperation)]);
}

#[test]
fn ids_that_were_no_text_are_not_taken_for_each_other() {
    let ops = [spelled("id", r#""\ud800""#), spelled("id", r#""\ud801""#), spelled("id", "\"\u{fffd}\"")];
    let checked = check_upload(upload_text(&ops.join(",")).unwrap());
    let verdicts: Vec<_> =
        checked.ops.iter().map(|op| op.check.as_ref().err().map(|refused| refused.message.as_str())).collect();
    let unstorable = Refusal::IdText.rejection().message;
    assert_eq!(verdicts, [Some(unstorable.as_str()), Some(unstorable.as_str()), None]);
}

fn fingerprint(ops: &[Value], cursor: u32, request_id: &str) -> Option<u128> {
    let mut body = json!({"ops": ops, "clientId": CLIENT, "lastKnownServerSeq": cursor});
    if !request_id.is_empty() {
        body["requestId"] = json!(request_id);
    }
    check_upload(UploadRequest::parse(&Bytes::from(body.to_string())).unwrap()).fingerprint
}

#[test]
fn scenarios_37_and_38_fingerprints_of_uploads() {
    let first = fingerprint(&[op()], 0, "r-1");
    assert!(first.is_some());
    assert_eq!(fingerprint(&[op()], 0, ""), None);
    // The cursor is not part of it, nor is the request id, which the caller compares.
    assert_eq!(fingerprint(&[op()], 9, "r-2"), first);
    for change in [
        ("id", json!("op-2")),
        ("clientId", json!("other")),
        ("actionType", json!("changed")),
        ("opType", json!("CRT")),
        ("entityType", json!("TAG")),
        ("entityId", json!("t2")),
        ("entityIds", json!([])),
        ("payload", json!({"title": "y"})),
        ("vectorClock", json!({CLIENT: "x"})),
        ("timestamp", json!(1)),
        ("schemaVersion", json!(3)),
        ("isPayloadEncrypted", json!(false)),
        ("syncImportReason", json!("FILE_IMPORT")),
        ("repairBaseServerSeq", json!(0)),
    ] {
        assert_ne!(fingerprint(&[with([change.clone()])], 0, "r-1"), first, "{change:?}");
    }
    assert_ne!(fingerprint(&[without("payload")], 0, "r-1"), first);
    assert_ne!(fingerprint(&[op(), op()], 0, "r-1"), first);
    let encrypted = |text: &str| [with([("payload", json!(text)), ("isPayloadEncrypted", json!(true))])];
    assert_eq!(fingerprint(&encrypted("abc"), 0, "r-1"), fingerprint(&encrypted("xyz"), 0, "r-1"));
    assert_ne!(fingerprint(&encrypted("abc"), 0, "r-1"), first);
}

const SNAPSHOT_ID: &str = "0190b6a5-7f3c-7abc-8def-0123456789ab";

fn snapshot<const N: usize>(changes: [(&str, Value); N]) -> CheckedSnapshot {
    let mut body = json!({"state": {"a": 1}, "clientId": CLIENT, "reason": "recovery", "vectorClock": {CLIENT: 3}});
    for (member, value) in changes {
        if value == json!("@absent") {
            body.as_object_mut().unwrap().remove(member).unwrap();
        } else {
            body[member] = value;
        }
    }
    let request = SnapshotRequest::parse(&Bytes::from(body.to_string())).unwrap();
    check_snapshot(request, "made-here".into(), 1_700_000_000_000)
}

#[test]
fn a_snapshot_becomes_an_operation() {
    let plain = snapshot([]);
    assert_eq!((&*plain.op_id, plain.op_id_given), ("made-here", false));
    assert_eq!((plain.clean_slate, plain.legacy_repair, plain.state_bytes), (false, false, 7));
    assert_eq!((plain.reason, &*plain.client_id), (SnapshotReason::Recovery, CLIENT));
    assert_eq!((plain.request_id, plain.fingerprint), (None, None));
    let op = plain.op.unwrap();
    assert_eq!((&*op.id, op.op_type, op.entity_type), ("made-here", OpType::SyncImport, "ALL"));
    assert_eq!((&*op.action_type, op.entity_id), (LOAD_ALL_ACTION, None));
    assert_eq!((op.timestamp, op.schema_version, op.is_payload_encrypted), (1_700_000_000_000, 1, false));
    assert_eq!(op.payload, r#"{"a":1}"#);

    let full = snapshot([
        ("opId", json!(SNAPSHOT_ID)),
        ("isCleanSlate", json!(true)),
        ("snapshotOpType", json!("BACKUP_IMPORT")),
        ("schemaVersion", json!(4)),
        ("syncImportReason", json!("BACKUP_RESTORE")),
        ("requestId", json!("s-1")),
    ]);
    assert!(full.clean_slate && full.op_id_given && !full.legacy_repair);
    assert_eq!((&*full.op_id, full.request_id.as_deref()), (SNAPSHOT_ID, Some("s-1")));
    let op = full.op.unwrap();
    assert_eq!((op.op_type, op.schema_version), (OpType::BackupImport, 4));
    assert_eq!(op.import_reason, Some(ImportReason::BackupRestore));
}

#[test]
fn repairs_never_start_from_a_clean_slate() {
    let clean = [("snapshotOpType", json!("REPAIR")), ("opId", json!(SNAPSHOT_ID)), ("isCleanSlate", json!(true))];
    let legacy = snapshot(clean.clone());
    assert!(!legacy.clean_slate && legacy.legacy_repair);
    let [a, b, c] = clean;
    let based = snapshot([a, b, c, ("repairBaseServerSeq", json!(0))]);
    assert!(!based.clean_slate && !based.legacy_repair);
    assert_eq!(based.op.unwrap().repair_base_server_seq, Some(0));
    assert!(!snapshot([("snapshotOpType", json!("REPAIR"))]).legacy_repair);
}

#[test]
fn snapshots_that_can_not_be_stored() {
    let code = |snapshot: CheckedSnapshot| snapshot.op.err().map(|rejection| rejection.code);
    let missing = snapshot([("state", json!("@absent"))]);
    assert_eq!(missing.state_bytes, 0);
    assert_eq!(code(missing), Some(ErrorCode::InvalidPayload));
    let clock: serde_json::Map<String, Value> = (0..51).map(|i| (format!("c{i}"), json!(1))).collect();
    assert_eq!(code(snapshot([("vectorClock", json!(clock))])), Some(ErrorCode::InvalidVectorClock));
    let deep = (0..51).fold(json!(1), |inner, _| json!([inner]));
    assert_eq!(code(snapshot([("state", deep)])), Some(ErrorCode::InvalidPayload));
    let stripped = snapshot([("vectorClock", json!({"": 1, "x": -1, "y": 1.5, "z": 2e9, "ok": 3}))]);
    assert_eq!(stripped.op.unwrap().vector_clock.as_json(), r#"{"ok":3}"#);
}

#[test]
fn fingerprints_of_snapshots() {
    let id = ("requestId", json!("s-1"));
    let first = snapshot([id.clone()]).fingerprint;
    assert!(first.is_some());
    assert_eq!(snapshot([("requestId", json!("s-2"))]).fingerprint, first);
    for change in [
        ("state", json!({"a": 2})),
        ("state", json!("@absent")),
        ("clientId", json!("other")),
        ("reason", json!("migration")),
        ("vectorClock", json!({})),
        ("schemaVersion", json!(1)),
        ("isPayloadEncrypted", json!(false)),
        ("syncImportReason", json!("REPAIR")),
        ("opId", json!(SNAPSHOT_ID)),
        ("snapshotOpType", json!("SYNC_IMPORT")),
        ("repairBaseServerSeq", json!(0)),
    ] {
        assert_ne!(snapshot([id.clone(), change.clone()]).fingerprint, first, "{change:?}");
    }
    let encrypted =
        |state: &str| snapshot([id.clone(), ("state", json!(state)), ("isPayloadEncrypted", json!(true))]).fingerprint;
    assert_eq!(encrypted("abc"), encrypted("xyz"));
}
