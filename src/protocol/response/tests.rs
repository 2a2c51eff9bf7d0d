use serde_json::json;

use super::*;
use crate::protocol::{ImportReason, OpType};

fn stored() -> StoredOp {
    StoredOp {
        server_seq: 7,
        id: "a\"b".into(),
        client_id: "B_a7Kx9Z".into(),
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK",
        entity_id: None,
        entity_ids: vec![],
        payload: Bytes::from_static(br#"{"z":1.0,"a":[null]}"#),
        storage_bytes: 0,
        vector_clock: VectorClock::from_entries([("B_a7Kx9Z".into(), 3)]),
        timestamp: -5,
        schema_version: 4,
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: None,
        received_at: 1_700_000_000_000,
    }
}

fn encoded(op: &StoredOp) -> Bytes {
    let mut out = Vec::new();
    encode_op(op, &mut out);
    out.into()
}

fn value(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap()
}

fn two() -> [OutgoingOp; 2] {
    [7, 7].map(|seq| OutgoingOp::whole(seq, encoded(&stored())))
}

/// The text with the payload of [`stored`] in its gaps.
fn filled(text: &Text) -> Value {
    let mut whole = Vec::new();
    let mut done = 0;
    for gap in &text.gaps {
        whole.extend_from_slice(&text.json[done..gap.at]);
        assert_eq!((gap.seq, gap.bytes), (7, stored().payload.len()));
        whole.extend_from_slice(&stored().payload);
        done = gap.at;
    }
    whole.extend_from_slice(&text.json[done..]);
    value(&whole)
}

#[test]
fn a_large_payload_is_a_gap_in_the_text() {
    let op = stored();
    let parts = OpParts { payload: &[], ..OpParts::from(&op) };
    let mut json = Vec::new();
    parts.encode_head(&mut json);
    let gap = Some((json.len(), op.payload.len()));
    parts.encode_tail(&mut json);
    let large = OutgoingOp { seq: 7, json: json.into(), gap };
    assert_eq!(large.len(), encoded(&op).len());
    assert_eq!(encoded_len(&op), encoded(&op).len());
    let [small, _] = two();
    for ops in [[large.clone(), small.clone()], [small, large.clone()], [large.clone(), large]] {
        let upload = UploadResponse {
            results: &[],
            new_ops: &ops,
            latest_seq: 8,
            has_more_piggyback: false,
            deduplicated: false,
        };
        let download = DownloadResponse {
            ops: &ops,
            has_more: true,
            latest_seq: 8,
            gap_detected: false,
            snapshot_vector_clock: None,
            latest_snapshot_seq: None,
            server_time: 5,
        };
        let expected = value(&encoded(&op));
        assert_eq!(filled(&upload.encode())["newOps"], json!([expected, expected]));
        assert_eq!(filled(&download.encode())["ops"], json!([expected, expected]));
    }
}

#[test]
fn scenario_50_members_without_value_are_left_out() {
    let bytes = encoded(&stored());
    assert_eq!(
        value(&bytes),
        json!({"serverSeq": 7, "receivedAt": 1_700_000_000_000_i64, "op": {
            "id": "a\"b", "clientId": "B_a7Kx9Z", "actionType": "[Task] Update", "opType": "UPD", "entityType": "TASK",
            "payload": {"z": 1.0, "a": [null]}, "vectorClock": {"B_a7Kx9Z": 3}, "timestamp": -5, "schemaVersion": 4,
            "isPayloadEncrypted": false}})
    );
    // The payload's own spelling and order survive.
    assert!(std::str::from_utf8(&bytes).unwrap().contains(r#""payload":{"z":1.0,"a":[null]},"#));
}

#[test]
fn members_with_a_value_are_there() {
    let op = StoredOp {
        entity_id: Some("e".into()),
        entity_ids: vec!["e".into(), "f\n".into()],
        import_reason: Some(ImportReason::FileImport),
        repair_base_server_seq: Some(0),
        is_payload_encrypted: true,
        ..stored()
    };
    let op = value(&encoded(&op));
    let op = &op["op"];
    assert_eq!(op["entityId"], "e");
    assert_eq!(op["entityIds"], json!(["e", "f\n"]));
    assert_eq!(op["syncImportReason"], "FILE_IMPORT");
    assert_eq!(op["repairBaseServerSeq"], 0);
    assert_eq!(op["isPayloadEncrypted"], true);
}

#[test]
fn upload_response() {
    let conflict = Rejection {
        existing_clock: Some(VectorClock::from_entries([("a".into(), 2)])),
        ..Rejection::new(ErrorCode::ConflictConcurrent, "lost")
    };
    let results = [
        OpResult { op_id: "1".into(), outcome: Ok(9) },
        OpResult { op_id: String::new().into(), outcome: Err(conflict) },
        OpResult { op_id: "3".into(), outcome: Err(Rejection::new(ErrorCode::InvalidPayload, "no")) },
    ];
    let quiet = UploadResponse {
        results: &results,
        new_ops: &[],
        latest_seq: 9,
        has_more_piggyback: false,
        deduplicated: false,
    };
    let expected = json!([
        {"opId": "1", "accepted": true, "serverSeq": 9},
        {"opId": "", "accepted": false, "error": "lost", "errorCode": "CONFLICT_CONCURRENT", "existingClock": {"a": 2}},
        {"opId": "3", "accepted": false, "error": "no", "errorCode": "INVALID_PAYLOAD"}
    ]);
    assert_eq!(value(&quiet.encode().json), json!({"results": expected, "latestSeq": 9}));
    let ops = two();
    let full = UploadResponse { new_ops: &ops, has_more_piggyback: true, deduplicated: true, ..quiet };
    assert_eq!(
        value(&full.encode().json),
        json!({"results": expected, "newOps": [value(&ops[0].json), value(&ops[1].json)], "latestSeq": 9, "hasMorePiggyback": true,
               "deduplicated": true})
    );
}

#[test]
fn download_response() {
    let empty = DownloadResponse {
        ops: &[],
        has_more: false,
        latest_seq: 0,
        gap_detected: false,
        snapshot_vector_clock: None,
        latest_snapshot_seq: None,
        server_time: 5,
    };
    let capabilities = json!({"causalRepairSnapshots": true});
    assert_eq!(
        value(&empty.encode().json),
        json!({"ops": [], "hasMore": false, "latestSeq": 0, "serverTime": 5, "capabilities": capabilities})
    );
    let ops = two();
    let clock = VectorClock::from_entries([("a".into(), 2)]);
    let full = DownloadResponse {
        ops: &ops,
        has_more: true,
        latest_seq: 8,
        gap_detected: true,
        snapshot_vector_clock: Some(&clock),
        latest_snapshot_seq: Some(6),
        ..empty
    };
    assert_eq!(
        value(&full.encode().json),
        json!({"ops": [value(&ops[0].json), value(&ops[1].json)], "hasMore": true, "latestSeq": 8, "gapDetected": true,
               "snapshotVectorClock": {"a": 2}, "latestSnapshotSeq": 6, "serverTime": 5, "capabilities": capabilities})
    );
}

#[test]
fn snapshot_response() {
    assert_eq!(value(&encode_snapshot_response(Ok(3))), json!({"accepted": true, "serverSeq": 3}));
    let refused = Rejection::new(ErrorCode::RepairStale, "stale");
    assert_eq!(
        value(&encode_snapshot_response(Err(&refused))),
        json!({"accepted": false, "error": "stale", "errorCode": "REPAIR_STALE"})
    );
}
