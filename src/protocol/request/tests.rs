//! Structure of requests: what fails a request as a whole, and what must not.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::response::encode_op;
use super::super::validate::{check_snapshot, check_upload};
use super::super::{StoredOp, VectorClock};
use super::*;

fn op() -> Value {
    json!({
        "id": "op-1", "clientId": "B_a7Kx9Z", "actionType": "[Task] Update", "opType": "UPD", "entityType": "TASK",
        "entityId": "t1", "payload": {"title": "x"}, "vectorClock": {"B_a7Kx9Z": 1}, "timestamp": 5, "schemaVersion": 4
    })
}

fn upload() -> Value {
    json!({"ops": [op()], "clientId": "B_a7Kx9Z"})
}

fn snapshot() -> Value {
    json!({"state": {}, "clientId": "B_a7Kx9Z", "reason": "initial", "vectorClock": {"B_a7Kx9Z": 1}})
}

fn with(mut body: Value, pointer: &str, member: &str, value: Value) -> Value {
    body.pointer_mut(pointer).unwrap()[member] = value;
    body
}

/// The issues without their texts, which are free.
fn issues<T: std::fmt::Debug>(parsed: Result<T, RequestError>) -> Vec<Value> {
    let Err(RequestError::Invalid(issues)) = parsed else { panic!("{parsed:?}") };
    issues
        .into_iter()
        .map(|mut issue| {
            assert!(issue.0.remove("message").unwrap().as_str().is_some_and(|text| !text.is_empty()));
            Value::Object(issue.0)
        })
        .collect()
}

fn parse_upload(body: &Value) -> Result<UploadRequest, RequestError> {
    UploadRequest::parse(&Bytes::from(body.to_string()))
}

fn parse_snapshot(body: &Value) -> Result<SnapshotRequest, RequestError> {
    SnapshotRequest::parse(&Bytes::from(body.to_string()))
}

fn wrong_type(expected: &str, path: Value) -> Value {
    let mut issue = json!({"code": "invalid_type", "expected": expected});
    issue["path"] = path;
    issue
}

#[test]
fn what_is_no_json_is_malformed() {
    for text in
        ["", " ", "{not json", "{\"ops\":[}", "{} {}", "{\"ops\":[{\"id\":\"\u{1}\"}]}", "[", "nul", "\u{feff}{}"]
    {
        let body = Bytes::from(text.to_owned());
        assert!(matches!(UploadRequest::parse(&body), Err(RequestError::Malformed)), "{text:?}");
        assert!(matches!(SnapshotRequest::parse(&body), Err(RequestError::Malformed)), "{text:?}");
    }
    let body = Bytes::from_static(b"{\"clientId\":\"\xff\"}");
    assert!(matches!(UploadRequest::parse(&body), Err(RequestError::Malformed)));
    assert!(matches!(SnapshotRequest::parse(&body), Err(RequestError::Malformed)));
}

#[test]
fn what_is_wrong_a_million_times_is_told_a_few_times() {
    let body = with(upload(), "/ops/0", "entityIds", json!(vec![0; 1_000_000]));
    assert_eq!(issues(parse_upload(&body)).len(), 1000);
    let body = with(upload(), "/ops/0", "entityIds", json!(vec!["x"; 1_000_000]));
    assert_eq!(issues(parse_upload(&body)).len(), 1);
}

#[test]
fn what_a_request_takes_beside_its_body_is_known() {
    let beside = |body: &Value| {
        let body = Bytes::from(body.to_string());
        UploadRequest::parse(&body).unwrap().bytes_beside(&body)
    };
    let plain = beside(&upload());
    assert!((1..1000).contains(&plain), "{plain}");
    let ids = with(upload(), "/ops/0", "entityIds", json!(vec!["x"; 1000]));
    assert!((plain + 48_000..plain + 80_000).contains(&beside(&ids)));
    let spaced = Bytes::from(format!("{:#}", with(upload(), "/ops/0", "payload", json!({ "a": "x".repeat(5000) }))));
    let copied = UploadRequest::parse(&spaced).unwrap().bytes_beside(&spaced);
    assert!((plain + 5000..plain + 5100).contains(&copied), "a payload with white space is copied");
}

#[test]
fn a_body_that_is_no_object() {
    for body in [json!([]), json!("x"), json!(1), json!(null), json!(true)] {
        assert_eq!(issues(parse_upload(&body)), [wrong_type("object", json!([]))]);
        assert_eq!(issues(parse_snapshot(&body)), [wrong_type("object", json!([]))]);
    }
}

#[test]
fn scenario_5_broken_members_of_an_upload() {
    let too_small =
        |origin: &str| json!({"code": "too_small", "origin": origin, "minimum": 1, "inclusive": true, "path": ["ops"]});
    let id_format = json!({"code": "invalid_format", "origin": "string", "format": "regex", "pattern": "/^[a-zA-Z0-9_-]+$/",
        "path": ["clientId"]});
    let request_id_format = json!({"code": "invalid_format", "origin": "string", "format": "regex",
        "pattern": "/^[A-Za-z0-9_-]{1,64}$/", "path": ["requestId"]});
    let empty_id =
        json!({"code": "too_small", "origin": "string", "minimum": 1, "inclusive": true, "path": ["clientId"]});
    let long_id =
        json!({"code": "too_big", "origin": "string", "maximum": 255, "inclusive": true, "path": ["clientId"]});
    for (member, value, expected) in [
        ("ops", json!([]), vec![too_small("array")]),
        ("ops", json!("x"), vec![wrong_type("array", json!(["ops"]))]),
        ("ops", json!(""), vec![wrong_type("array", json!(["ops"])), too_small("string")]),
        ("ops", json!({}), vec![wrong_type("array", json!(["ops"]))]),
        (
            "ops",
            json!([1, null]),
            vec![wrong_type("object", json!(["ops", 0])), wrong_type("object", json!(["ops", 1]))],
        ),
        ("clientId", json!("bad id!"), vec![id_format.clone()]),
        ("clientId", json!("good_id\n"), vec![id_format.clone()]),
        ("clientId", json!(""), vec![empty_id, id_format]),
        ("clientId", json!("x".repeat(256)), vec![long_id]),
        ("clientId", json!(null), vec![wrong_type("string", json!(["clientId"]))]),
        ("requestId", json!("no spaces"), vec![request_id_format.clone()]),
        ("requestId", json!("x".repeat(65)), vec![request_id_format.clone()]),
        ("requestId", json!(""), vec![request_id_format]),
        ("requestId", json!(null), vec![wrong_type("string", json!(["requestId"]))]),
        ("lastKnownServerSeq", json!(null), vec![wrong_type("number", json!(["lastKnownServerSeq"]))]),
        ("lastKnownServerSeq", json!("1"), vec![wrong_type("number", json!(["lastKnownServerSeq"]))]),
    ] {
        assert_eq!(issues(parse_upload(&with(upload(), "", member, value.clone()))), expected, "{member}: {value}");
    }
    for bad in [json!(-1), json!(1.5), json!(9_007_199_254_740_992_i64)] {
        assert_eq!(issues(parse_upload(&with(upload(), "", "lastKnownServerSeq", bad))).len(), 1);
    }
    assert_eq!(issues(parse_upload(&json!({"clientId": "B_a7Kx9Z"}))), [wrong_type("array", json!(["ops"]))]);
    assert_eq!(issues(parse_upload(&json!({"ops": [op()]}))), [wrong_type("string", json!(["clientId"]))]);
    let good = with(with(upload(), "", "lastKnownServerSeq", json!(5.0)), "", "requestId", json!("x".repeat(64)));
    let good = parse_upload(&with(good, "", "clientId", json!("x".repeat(255)))).unwrap();
    assert_eq!((good.last_known_server_seq, good.request_id.map(|id| id.len())), (Some(5), Some(64)));
}

#[test]
fn an_operation_without_members_lists_each() {
    let at = |member: &str| json!(["ops", 0, member]);
    let mut expected = vec![
        wrong_type("string", at("id")),
        wrong_type("string", at("clientId")),
        wrong_type("string", at("actionType")),
        wrong_type("string", at("opType")),
        wrong_type("string", at("entityType")),
        wrong_type("nonoptional", at("payload")),
        wrong_type("record", at("vectorClock")),
        wrong_type("number", at("timestamp")),
        wrong_type("number", at("schemaVersion")),
    ];
    assert_eq!(issues(parse_upload(&json!({"ops": [{}], "clientId": "B_a7Kx9Z"}))), expected);
    expected.push(wrong_type("string", json!(["clientId"])));
    assert_eq!(issues(parse_upload(&json!({"ops": [{}]}))), expected);
    // A missing payload alone is the operation's own fault.
    let mut body = upload();
    body["ops"][0].as_object_mut().unwrap().remove("payload").unwrap();
    assert!(parse_upload(&body).unwrap().ops[0].payload.is_none());
}

#[test]
fn scenario_5_broken_members_of_an_operation() {
    let at = |member: &str| json!(["ops", 0, member]);
    let reasons =
        json!(["PASSWORD_CHANGED", "FILE_IMPORT", "BACKUP_RESTORE", "FORCE_UPLOAD", "SERVER_MIGRATION", "REPAIR"]);
    let reason = json!({"code": "invalid_value", "values": reasons, "path": at("syncImportReason")});
    let size = |code: &str, bound: &str, origin: &str, value: u32, member: &str| json!({"code": code, "origin": origin, bound: value, "inclusive": true, "path": at(member)});
    for (member, value, expected) in [
        ("id", json!(7), vec![wrong_type("string", at("id"))]),
        ("id", json!("x".repeat(4097)), vec![size("too_big", "maximum", "string", 4096, "id")]),
        ("actionType", json!(""), vec![size("too_small", "minimum", "string", 1, "actionType")]),
        ("actionType", json!("x".repeat(256)), vec![size("too_big", "maximum", "string", 255, "actionType")]),
        ("entityId", json!(null), vec![wrong_type("string", at("entityId"))]),
        ("entityIds", json!(null), vec![wrong_type("array", at("entityIds"))]),
        ("entityIds", json!(["a", null]), vec![wrong_type("string", json!(["ops", 0, "entityIds", 1]))]),
        ("entityIds", json!(vec!["a"; 2001]), vec![size("too_big", "maximum", "array", 2000, "entityIds")]),
        ("vectorClock", json!([]), vec![wrong_type("record", at("vectorClock"))]),
        ("vectorClock", json!(null), vec![wrong_type("record", at("vectorClock"))]),
        ("timestamp", json!("5"), vec![wrong_type("number", at("timestamp"))]),
        ("schemaVersion", json!(null), vec![wrong_type("number", at("schemaVersion"))]),
        ("isPayloadEncrypted", json!(null), vec![wrong_type("boolean", at("isPayloadEncrypted"))]),
        ("isPayloadEncrypted", json!(1), vec![wrong_type("boolean", at("isPayloadEncrypted"))]),
        ("syncImportReason", json!("NOPE"), vec![reason.clone()]),
        ("syncImportReason", json!(null), vec![reason]),
        ("repairBaseServerSeq", json!(null), vec![wrong_type("number", at("repairBaseServerSeq"))]),
        ("repairBaseServerSeq", json!(-1), vec![size("too_small", "minimum", "number", 0, "repairBaseServerSeq")]),
        (
            "repairBaseServerSeq",
            json!(1.5),
            vec![
                json!({"code": "invalid_type", "expected": "int", "format": "safeint", "path": at("repairBaseServerSeq")}),
            ],
        ),
    ] {
        assert_eq!(
            issues(parse_upload(&with(upload(), "/ops/0", member, value.clone()))),
            expected,
            "{member}: {value}"
        );
    }
    let infinite = upload().to_string().replace("\"timestamp\":5", "\"timestamp\":1e400");
    let mut expected = wrong_type("number", at("timestamp"));
    expected["received"] = json!("Infinity");
    assert_eq!(issues(UploadRequest::parse(&Bytes::from(infinite))), [expected]);
}

#[test]
fn scenario_6_too_many_operations_count_before_anything_else() {
    for element in ["{}", "1", &op().to_string()] {
        let body =
            |count: usize| Bytes::from(format!(r#"{{"clientId":7,"ops":[{}]}}"#, vec![element; count].join(",")));
        assert!(matches!(UploadRequest::parse(&body(101)), Err(RequestError::TooManyOps(101))));
        assert!(matches!(UploadRequest::parse(&body(100)), Err(RequestError::Invalid(_))));
    }
    let ops = vec![op().to_string(); 100].join(",");
    let body = Bytes::from(format!(r#"{{"ops":[{ops}],"clientId":"B_a7Kx9Z"}}"#));
    assert_eq!(UploadRequest::parse(&body).unwrap().ops.len(), 100);
}

#[test]
fn scenario_7_unknown_members_are_dropped_and_the_last_of_equal_names_wins() {
    let text = upload().to_string().replacen('{', r#"{"extra":[{}],"ops":7,"clientId":null,"#, 1);
    let text = text.replace("\"id\":", "\"nested\":{\"id\":\"no\"},\"id\":\"first\",\"id\":");
    let request = UploadRequest::parse(&Bytes::from(text)).unwrap();
    assert_eq!((&*request.client_id, &*request.ops[0].id), ("B_a7Kx9Z", "op-1"));
}

#[test]
fn broken_members_of_a_snapshot() {
    let number = |path: Value| wrong_type("number", path);
    let choice = |member: &str, values: Value| json!({"code": "invalid_value", "values": values, "path": [member]});
    let custom = json!({"code": "custom", "path": ["opId"]});
    for (member, value, expected) in [
        ("clientId", json!(null), vec![wrong_type("string", json!(["clientId"]))]),
        ("reason", json!("nope"), vec![choice("reason", json!(["initial", "recovery", "migration"]))]),
        ("reason", json!(null), vec![choice("reason", json!(["initial", "recovery", "migration"]))]),
        ("vectorClock", json!(null), vec![wrong_type("record", json!(["vectorClock"]))]),
        (
            "vectorClock",
            json!({"b": "x", "a": null, "10": true, "9": []}),
            vec![number(json!(["vectorClock", "9"])), number(json!(["vectorClock", "10"]))],
        ),
        ("schemaVersion", json!("4"), vec![number(json!(["schemaVersion"]))]),
        (
            "schemaVersion",
            json!(101),
            vec![
                json!({"code": "too_big", "origin": "number", "maximum": 100, "inclusive": true, "path": ["schemaVersion"]}),
            ],
        ),
        ("isPayloadEncrypted", json!("x"), vec![wrong_type("boolean", json!(["isPayloadEncrypted"]))]),
        ("isCleanSlate", json!(null), vec![wrong_type("boolean", json!(["isCleanSlate"]))]),
        ("isCleanSlate", json!(true), vec![custom]),
        (
            "snapshotOpType",
            json!("UPD"),
            vec![choice("snapshotOpType", json!(["SYNC_IMPORT", "BACKUP_IMPORT", "REPAIR"]))],
        ),
        ("repairBaseServerSeq", json!("0"), vec![number(json!(["repairBaseServerSeq"]))]),
        ("requestId", json!(7), vec![wrong_type("string", json!(["requestId"]))]),
    ] {
        let mut found = issues(parse_snapshot(&with(snapshot(), "", member, value.clone())));
        found.truncate(expected.len());
        assert_eq!(found, expected, "{member}: {value}");
    }
    for bad in [
        "",
        "x",
        "0190b6a5-7f3c-9abc-8def-0123456789ab",
        "0190b6a5-7f3c-7abc-cdef-0123456789ab",
        "0190b6a57f3c7abc8def0123456789ab",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    ] {
        let found = issues(parse_snapshot(&with(snapshot(), "", "opId", json!(bad))));
        assert_eq!((&found[0]["code"], &found[0]["format"]), (&json!("invalid_format"), &json!("uuid")), "{bad}");
    }
    for good in [
        "0190b6a5-7f3c-7abc-8def-0123456789ab",
        "0190B6A5-7F3C-1ABC-BDEF-0123456789AB",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ] {
        assert_eq!(parse_snapshot(&with(snapshot(), "", "opId", json!(good))).unwrap().op_id.as_deref(), Some(good));
    }
}

#[test]
fn rules_across_members_wait_for_the_types() {
    let clean = with(snapshot(), "", "isCleanSlate", json!(true));
    assert_eq!(issues(parse_snapshot(&clean)), [json!({"code": "custom", "path": ["opId"]})]);
    let mut stateless = clean.clone();
    stateless.as_object_mut().unwrap().remove("state").unwrap();
    assert_eq!(issues(parse_snapshot(&stateless)), [wrong_type("nonoptional", json!(["state"]))]);
    let broken = with(clean, "", "reason", json!("nope"));
    assert_eq!(issues(parse_snapshot(&broken)).len(), 1);
    let mut alone = snapshot();
    alone.as_object_mut().unwrap().remove("state").unwrap();
    assert!(parse_snapshot(&alone).unwrap().state.is_none());
}

/// JSON of any kind, small.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Quarters, as every reader agrees on them to the last digit.
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 4.0)),
        "[a-z😀\"\\\\\0\n é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z😀\"]{0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Goes all the way that a request goes; it must come to an end without a panic.
fn digest(body: Vec<u8>) {
    let body = Bytes::from(body);
    if let Ok(request) = UploadRequest::parse(&body) {
        let sent = request.ops.len();
        assert_eq!(check_upload(request).ops.len(), sent);
    }
    if let Ok(request) = SnapshotRequest::parse(&body) {
        assert!(!check_snapshot(request, "new".into(), 5).op_id.is_empty());
    }
}

fn stored(op: super::super::ValidOp) -> StoredOp {
    StoredOp {
        server_seq: 1,
        entity_ids: op.stored_entity_ids(),
        id: op.id,
        client_id: op.client_id,
        action_type: op.action_type,
        op_type: op.op_type,
        entity_type: op.entity_type,
        entity_id: op.entity_id,
        payload: op.payload,
        storage_bytes: 0,
        vector_clock: VectorClock::new(),
        timestamp: op.timestamp,
        schema_version: op.schema_version,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason: op.import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
        received_at: 9,
    }
}

proptest! {
    #[test]
    fn any_bytes_are_digested(body in prop::collection::vec(any::<u8>(), 0..64)) {
        digest(body);
    }

    #[test]
    fn any_json_is_digested(body in any_json()) {
        digest(body.to_string().into_bytes());
    }

    #[test]
    fn any_value_in_any_member_is_digested(
        value in any_json(),
        member in prop::sample::select(OP_FIELDS.to_vec()),
        cut in any::<prop::sample::Index>(),
    ) {
        let text = with(upload(), "/ops/0", member, value).to_string().into_bytes();
        let cut = cut.index(text.len());
        digest(text[..cut].to_vec());
        digest(text);
    }

    #[test]
    fn any_value_in_any_snapshot_member_is_digested(
        value in any_json(),
        member in prop::sample::select(SNAPSHOT_FIELDS.to_vec()),
    ) {
        digest(with(snapshot(), "", member, value).to_string().into_bytes());
    }

    #[test]
    fn any_query_is_digested(pairs in prop::collection::vec(("sinceSeq|limit|excludeClient|[a-z]{1,3}", any::<String>()), 0..4)) {
        if let Ok(query) = DownloadQuery::parse(&pairs) {
            prop_assert!(query.since_seq >= 0 && (1..=1000).contains(&query.limit));
        }
    }

    /// A payload comes back as the bytes that were sent, apart from white space outside strings.
    #[test]
    fn payloads_survive_the_way_through(state in any_json(), pretty in any::<bool>()) {
        let body = with(with(upload(), "/ops/0", "payload", state.clone()), "/ops/0", "opType", json!("SYNC_IMPORT"));
        let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
        let request = UploadRequest::parse(&Bytes::from(text)).unwrap();
        let op = check_upload(request).ops.remove(0).check.unwrap();
        prop_assert_eq!(&op.payload, &state.to_string());
        let mut encoded = Vec::new();
        encode_op(&stored(*op), &mut encoded);
        let encoded = String::from_utf8(encoded).unwrap();
        let wanted = format!("\"payload\":{state},");
        prop_assert!(encoded.contains(&wanted), "{}", encoded);
        prop_assert_eq!(&serde_json::from_str::<Value>(&encoded).unwrap()["op"]["payload"], &state);
    }
}
