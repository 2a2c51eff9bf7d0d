//! Every row of section 5.4 at its boundaries, through the same door as requests: bytes in, verdicts out.

use serde_json::{Value, json};

use super::super::limits::MAX_ENTITY_IDS_TRANSPORT;
use super::super::request::RequestError;
use super::*;

const CLIENT: &str = "B_a7Kx9Z";

/// A plain operation that passes.
fn op() -> Value {
    json!({
        "id": "op-1", "clientId": CLIENT, "actionType": "[Task] Update", "opType": "UPD", "entityType": "TASK",
        "entityId": "t1", "payload": {"title": "x"}, "vectorClock": {CLIENT: 1}, "timestamp": 1_700_000_000_000_i64,
        "schemaVersion": 4
    })
}

fn with<const N: usize>(changes: [(&str, Value); N]) -> Value {
    let mut op = op();
    for (member, value) in changes {
        op[member] = value;
    }
    op
}

fn without(member: &str) -> Value {
    let mut op = op();
    op.as_object_mut().unwrap().remove(member).unwrap();
    op
}

/// The operation as text with one member's value spelled by hand.
fn spelled(member: &str, value: &str) -> String {
    with([(member, json!("@@"))]).to_string().replace("\"@@\"", value)
}

fn upload_text(ops: &str) -> Result<UploadRequest, RequestError> {
    UploadRequest::parse(&Bytes::from(format!(r#"{{"ops":[{ops}],"clientId":"{CLIENT}"}}"#)))
}

fn verdict_of_text(op: &str) -> Result<ValidOp, Rejection> {
    let mut checked = check_upload(upload_text(op).unwrap());
    assert_eq!(checked.ops.len(), 1);
    checked.ops.remove(0).check.map(|op| *op)
}

fn verdict(op: &Value) -> Result<ValidOp, Rejection> {
    verdict_of_text(&op.to_string())
}

fn code(op: &Value) -> Option<ErrorCode> {
    verdict(op).err().map(|rejection| rejection.code)
}

fn code_of_text(op: &str) -> Option<ErrorCode> {
    verdict_of_text(op).err().map(|rejection| rejection.code)
}

fn is_400(op: &Value) -> bool {
    matches!(upload_text(&op.to_string()), Err(RequestError::Invalid(_)))
}

/// 255 UTF-16 units in 128 characters and 509 bytes.
fn longest() -> String {
    "😀".repeat(127) + "a"
}

/// 256 UTF-16 units in only 128 characters.
fn too_long() -> String {
    "😀".repeat(128)
}

/// What JavaScript's `trim` leaves nothing of.
const BLANK: [&str; 8] =
    ["", " ", "\t\n\r", "\u{a0}", "\u{feff}", "\u{3000}", "\u{2028}\u{2029}", "\u{b}\u{c}\u{1680}"];
/// Invisible, but no white space to JavaScript.
const NOT_BLANK: [&str; 4] = ["\u{200b}", "\u{85}", "\u{180e}", " x "];

#[test]
fn the_plain_operation_passes_with_every_member_intact() {
    let valid = verdict(&with([
        ("entityIds", json!(["t1", "t2"])),
        ("isPayloadEncrypted", json!(false)),
        ("syncImportReason", json!("FILE_IMPORT")),
        ("repairBaseServerSeq", json!(0)),
        ("extra", json!({"dropped": true})),
    ]))
    .unwrap();
    assert_eq!((&*valid.id, &*valid.client_id), ("op-1", CLIENT));
    assert_eq!((valid.op_type, valid.entity_type), (OpType::Update, "TASK"));
    assert_eq!(valid.action_type, "[Task] Update".into());
    assert_eq!(
        (valid.entity_id.as_deref(), valid.entity_ids.as_slice()),
        (Some("t1"), &["t1".into(), "t2".into()][..])
    );
    assert_eq!(valid.payload, r#"{"title":"x"}"#);
    assert_eq!(valid.vector_clock.as_json(), r#"{"B_a7Kx9Z":1}"#);
    assert_eq!((valid.timestamp, valid.schema_version, valid.is_payload_encrypted), (1_700_000_000_000, 4, false));
    assert_eq!(valid.import_reason, Some(super::super::ImportReason::FileImport));
    assert_eq!(valid.repair_base_server_seq, Some(0));
}

#[test]
fn the_first_failure_wins_in_the_order_of_the_contract() {
    let deep: Value = (0..25).fold(json!(1), |inner, _| json!([inner]));
    let clock: serde_json::Map<String, Value> = (0..51).map(|i| (format!("c{i}"), json!(1))).collect();
    let mut op = with([
        ("clientId", json!("someone-else")),
        ("id", json!("")),
        ("opType", json!("NOPE")),
        ("actionType", json!("\0")),
        ("entityType", json!("")),
        ("entityId", json!(too_long())),
        ("entityIds", json!(vec![""; 1001])),
        ("schemaVersion", json!(0)),
        ("timestamp", json!(1.5)),
        ("vectorClock", json!(clock)),
    ]);
    op.as_object_mut().unwrap().remove("payload").unwrap();
    // Each repair brings the next rule's refusal to light.
    let steps: [(Refusal, &str, Value); 20] = [
        (Refusal::ClientId, "clientId", json!(CLIENT)),
        (Refusal::IdMissing, "id", json!(too_long())),
        (Refusal::IdTooLong, "id", json!("a\0")),
        (Refusal::IdText, "id", json!("op-1")),
        (Refusal::OpType, "opType", json!("BATCH")),
        (Refusal::ActionTypeText, "actionType", json!(TIME_DELTA_ACTION)),
        (Refusal::EntityTypeMissing, "entityType", json!("EVIL")),
        (Refusal::EntityType, "entityType", json!("TASK")),
        (Refusal::EntityIdLength, "entityId", json!(" ")),
        (Refusal::EntityIdBlank, "entityId", json!("a\0")),
        (Refusal::EntityIdText, "entityId", Value::Null),
        (Refusal::EntityIdsCount, "entityIds", json!(["x", ""])),
        (Refusal::EntityIdsElement, "entityIds", json!(["x"])),
        (Refusal::EntityIdMissing, "entityId", json!("t1")),
        (Refusal::PayloadMissing, "payload", deep),
        (Refusal::TimeDelta, "actionType", json!("[Task] Update")),
        (Refusal::SchemaVersion, "schemaVersion", json!(4)),
        (Refusal::Timestamp, "timestamp", json!(0)),
        (Refusal::ClockSize, "vectorClock", json!({})),
        (Refusal::PayloadComplexity, "payload", json!({"entities": []})),
    ];
    for (refusal, member, repair) in steps {
        assert_eq!(verdict(&op).err(), Some(refusal.rejection()), "{refusal:?}");
        if repair.is_null() {
            op.as_object_mut().unwrap().remove(member).unwrap();
        } else {
            op[member] = repair;
        }
    }
    assert_eq!(verdict(&op).err(), Some(Refusal::BatchShape.rejection()));
    op["payload"] = json!({"entities": {}});
    assert!(verdict(&op).is_ok());
}

#[test]
fn row_1_client() {
    assert_eq!(code(&with([("clientId", json!("someone-else"))])), Some(ErrorCode::InvalidClientId));
    assert_eq!(code(&with([("clientId", json!(""))])), Some(ErrorCode::InvalidClientId));
    assert_eq!(code(&with([("clientId", json!("b_A7kX9z"))])), Some(ErrorCode::InvalidClientId));
    assert_eq!(code_of_text(&spelled("clientId", r#""B_a7Kx9Z\ud800""#)), Some(ErrorCode::InvalidClientId));
}

#[test]
fn rows_2_and_3_id() {
    assert_eq!(code(&with([("id", json!(""))])), Some(ErrorCode::InvalidOpId));
    assert_eq!(code(&with([("id", json!(too_long()))])), Some(ErrorCode::InvalidOpId));
    assert_eq!(code(&with([("id", json!("x".repeat(256)))])), Some(ErrorCode::InvalidOpId));
    assert_eq!(code(&with([("id", json!("x".repeat(4096)))])), Some(ErrorCode::InvalidOpId));
    assert!(is_400(&with([("id", json!("x".repeat(4097)))])));
    for id in [longest(), "é".repeat(255), " ".into(), "any \"thing\"\n".into()] {
        assert_eq!(verdict(&with([("id", json!(id))])).unwrap().id, id.into());
    }
}

#[test]
fn rows_4_and_5_types() {
    for bad in ["", "NOPE", "upd", "UPD ", "SYNC_IMPORT\n"] {
        assert_eq!(code(&with([("opType", json!(bad))])), Some(ErrorCode::InvalidOpType), "{bad:?}");
    }
    for bad in ["", "EVIL", "task", "TASK ", "__proto__", "constructor"] {
        assert_eq!(code(&with([("entityType", json!(bad))])), Some(ErrorCode::InvalidEntityType), "{bad:?}");
    }
    for op_type in OpType::ALL {
        assert_eq!(verdict(&with([("opType", json!(op_type.as_str()))])).unwrap().op_type, op_type);
    }
    for entity_type in crate::protocol::op::ENTITY_TYPES {
        assert_eq!(verdict(&with([("entityType", json!(entity_type))])).unwrap().entity_type, entity_type);
    }
}

#[test]
fn row_6_entity_id() {
    for bad in BLANK.into_iter().map(str::to_owned).chain([too_long(), "y".repeat(256)]) {
        assert_eq!(code(&with([("entityId", json!(bad))])), Some(ErrorCode::InvalidEntityId), "{bad:?}");
        // It is judged even where none is needed.
        let full = with([("entityId", json!(bad)), ("opType", json!("SYNC_IMPORT")), ("entityType", json!("ALL"))]);
        assert_eq!(code(&full), Some(ErrorCode::InvalidEntityId), "{bad:?}");
    }
    for good in NOT_BLANK.into_iter().map(str::to_owned).chain([longest()]) {
        assert_eq!(verdict(&with([("entityId", json!(good))])).unwrap().entity_id, Some(good.into()));
    }
    assert!(is_400(&with([("entityId", Value::Null)])));
    assert!(is_400(&with([("entityId", json!("y".repeat(4097)))])));
}

#[test]
fn row_7_entity_ids() {
    for bad in BLANK.into_iter().map(str::to_owned).chain([too_long()]) {
        assert_eq!(code(&with([("entityIds", json!(["ok", bad]))])), Some(ErrorCode::InvalidEntityId), "{bad:?}");
    }
    let ids = |count: usize| with([("entityIds", json!((0..count).map(|i| i.to_string()).collect::<Vec<_>>()))]);
    assert_eq!(verdict(&ids(MAX_ENTITY_IDS)).unwrap().entity_ids.len(), 1000);
    assert_eq!(code(&ids(MAX_ENTITY_IDS + 1)), Some(ErrorCode::InvalidEntityId));
    assert_eq!(code(&ids(MAX_ENTITY_IDS_TRANSPORT)), Some(ErrorCode::InvalidEntityId));
    assert!(is_400(&ids(MAX_ENTITY_IDS_TRANSPORT + 1)));
    assert_eq!(verdict(&with([("entityIds", json!([longest(), "\u{200b}"]))])).unwrap().entity_ids.len(), 2);
    assert!(verdict(&with([("entityIds", json!([]))])).unwrap().entity_ids.is_empty());
}

#[test]
fn row_8_scenario_11_entity_id_is_needed() {
    let mut op = without("entityId");
    assert_eq!(code(&op), Some(ErrorCode::MissingEntityId));
    op["entityIds"] = json!(["t1"]);
    assert_eq!(code(&op), Some(ErrorCode::MissingEntityId));
    for entity_type in ["ALL", "RECOVERY"] {
        op["entityType"] = json!(entity_type);
        assert!(verdict(&op).is_ok(), "{entity_type}");
    }
    let mut batch = without("entityId");
    batch["opType"] = json!("BATCH");
    batch["entityType"] = json!("ALL");
    assert!(verdict(&batch).is_ok());
    op["entityType"] = json!("TASK");
    for full in ["SYNC_IMPORT", "BACKUP_IMPORT", "REPAIR"] {
        op["opType"] = json!(full);
        assert!(verdict(&op).is_ok(), "{full}");
    }
}

#[test]
fn row_9_payload_is_there() {
    assert_eq!(code(&without("payload")), Some(ErrorCode::InvalidPayload));
    let mut full = without("payload");
    full["opType"] = json!("SYNC_IMPORT");
    assert_eq!(code(&full), Some(ErrorCode::InvalidPayload));
    full["payload"] = Value::Null;
    assert_eq!(verdict(&full).unwrap().payload, "null");
}

#[test]
fn row_10_time_deltas() {
    let delta = |payload: Value| with([("actionType", json!(TIME_DELTA_ACTION)), ("payload", payload)]);
    let good = json!({"taskId": "t1", "date": "2024-02-29", "duration": 0});
    assert!(verdict(&delta(good.clone())).is_ok());
    assert!(verdict(&delta(json!({"actionPayload": good, "entityChanges": []}))).is_ok());
    for (member, value) in [
        ("taskId", json!("t2")),
        ("taskId", json!(1)),
        ("date", json!("2023-02-29")),
        ("date", json!("2024-2-29")),
        ("date", json!(20_240_229)),
        ("duration", json!(-1)),
        ("duration", json!("1")),
        ("duration", Value::Null),
    ] {
        let mut payload = good.clone();
        payload[member] = value.clone();
        assert_eq!(code(&delta(payload)), Some(ErrorCode::InvalidPayload), "{member}: {value}");
    }
    for member in ["taskId", "date", "duration"] {
        let mut payload = good.clone();
        payload.as_object_mut().unwrap().remove(member).unwrap();
        assert_eq!(code(&delta(payload)), Some(ErrorCode::InvalidPayload), "without {member}");
    }
    assert_eq!(code(&delta(json!("text"))), Some(ErrorCode::InvalidPayload));
    // Ciphertext can't be looked into.
    let mut encrypted = delta(json!("text"));
    encrypted["isPayloadEncrypted"] = json!(true);
    assert!(verdict(&encrypted).unwrap().is_time_delta());
}

#[test]
fn row_11_scenario_8_schema_version() {
    for bad in ["0", "-1", "101", "1.5", "256", "257", "1e300", "4.000001"] {
        assert_eq!(code_of_text(&spelled("schemaVersion", bad)), Some(ErrorCode::InvalidSchemaVersion), "{bad}");
    }
    for (text, version) in [("1", 1), ("100", 100), ("4.0", 4), ("1e1", 10)] {
        assert_eq!(verdict_of_text(&spelled("schemaVersion", text)).unwrap().schema_version, version);
    }
    assert!(upload_text(&spelled("schemaVersion", "1e400")).is_err());
    assert!(is_400(&with([("schemaVersion", json!("4"))])));
}

#[test]
fn row_12_scenario_9_timestamp() {
    for bad in ["1.5", "-0.5", "9007199254740992", "-9007199254740992", "1e300"] {
        assert_eq!(code_of_text(&spelled("timestamp", bad)), Some(ErrorCode::InvalidTimestamp), "{bad}");
    }
    for (text, timestamp) in [
        ("0", 0),
        ("-0", 0),
        ("-1", -1),
        ("1e3", 1000),
        ("9007199254740991", MAX_SAFE_INTEGER),
        ("-9007199254740991", -MAX_SAFE_INTEGER),
        ("1700000000000.0", 1_700_000_000_000),
    ] {
        assert_eq!(verdict_of_text(&spelled("timestamp", text)).unwrap().timestamp, timestamp);
    }
    assert!(upload_text(&spelled("timestamp", "-1e400")).is_err());
}

#[test]
fn row_13_scenario_30_clock() {
    let entries = |count: usize, value: Value| {
        with([("vectorClock", Value::Object((0..count).map(|i| (format!("c{i:02}"), value.clone())).collect()))])
    };
    assert_eq!(verdict(&entries(50, json!(1))).unwrap().vector_clock.len(), 50);
    assert_eq!(code(&entries(51, json!(1))), Some(ErrorCode::InvalidVectorClock));
    // Counted before stripping.
    assert_eq!(code(&entries(51, json!("x"))), Some(ErrorCode::InvalidVectorClock));
    assert_eq!(code(&entries(5000, json!(1))), Some(ErrorCode::InvalidVectorClock));
    assert!(verdict(&entries(50, json!("x"))).unwrap().vector_clock.is_empty());
    assert!(verdict(&entries(0, json!(1))).unwrap().vector_clock.is_empty());

    for bad in ["100000001", "-1", "1.5", "1e400", "\"x\"", "\"1\"", "null", "true", "[1]", "{}"] {
        let clock = format!(r#"{{"a":{bad},"b":2}}"#);
        assert_eq!(
            verdict_of_text(&spelled("vectorClock", &clock)).unwrap().vector_clock.as_json(),
            r#"{"b":2}"#,
            "{bad}"
        );
    }
    for (text, counter) in [("100000000", 100_000_000), ("0", 0), ("-0", 0), ("5.0", 5), ("1e2", 100)] {
        let clock = verdict_of_text(&spelled("vectorClock", &format!(r#"{{"a":{text}}}"#))).unwrap().vector_clock;
        assert!(clock.contains("a"));
        assert_eq!(clock.get("a"), counter, "{text}");
    }
    let keys = json!({"": 1, too_long(): 1, longest(): 2, "a\0b": 3});
    let clock = verdict(&with([("vectorClock", keys)])).unwrap().vector_clock;
    assert_eq!(clock.iter().collect::<Vec<_>>(), [(longest().as_str(), 2)]);
    for (text, clock) in [
        (r#"{"__proto__":1,"a":1}"#, r#"{"a":1}"#),
        (r#"{"a":1,"a":2}"#, r#"{"a":2}"#),
        (r#"{"\ud800":1,"\ud801":1,"a":1}"#, r#"{"a":1}"#),
        (r#"{"\u0061":7}"#, r#"{"a":7}"#),
    ] {
        assert_eq!(verdict_of_text(&spelled("vectorClock", text)).unwrap().vector_clock.as_json(), clock);
    }
    for bad in ["[]", "null", "\"x\"", "1"] {
        assert!(upload_text(&spelled("vectorClock", bad)).is_err(), "{bad}");
    }
}

/// An operation whose payload's deepest value is at `depth`.
fn nested(op_type: &str, depth: usize) -> String {
    let payload = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    spelled("payload", &payload).replace("\"UPD\"", &format!("\"{op_type}\""))
}

/// An operation whose payload has `keys` keys and elements.
fn wide(op_type: &str, keys: usize) -> String {
    let payload = format!(r#"{{"a":[{}0]}}"#, "0,".repeat(keys - 2));
    spelled("payload", &payload).replace("\"UPD\"", &format!("\"{op_type}\""))
}

#[test]
fn row_14_scenario_12_complexity() {
    assert_eq!(code_of_text(&nested("UPD", MAX_PAYLOAD_DEPTH)), None);
    assert_eq!(code_of_text(&nested("UPD", MAX_PAYLOAD_DEPTH + 1)), Some(ErrorCode::InvalidPayload));
    assert_eq!(code_of_text(&wide("UPD", MAX_PAYLOAD_KEYS)), None);
    assert_eq!(code_of_text(&wide("UPD", MAX_PAYLOAD_KEYS + 1)), Some(ErrorCode::InvalidPayload));
    for full in ["SYNC_IMPORT", "BACKUP_IMPORT", "REPAIR"] {
        assert_eq!(code_of_text(&nested(full, MAX_PAYLOAD_DEPTH + 1)), None);
        assert_eq!(code_of_text(&nested(full, MAX_FULL_STATE_DEPTH)), None);
        assert_eq!(code_of_text(&nested(full, MAX_FULL_STATE_DEPTH + 1)), Some(ErrorCode::InvalidPayload));
    }
    assert_eq!(code_of_text(&wide("REPAIR", MAX_FULL_STATE_KEYS)), None);
    assert_eq!(code_of_text(&wide("REPAIR", MAX_FULL_STATE_KEYS + 1)), Some(ErrorCode::InvalidPayload));
    // An empty container counts for its place only.
    let empty = "{\"a\":".repeat(20) + "{}" + &"}".repeat(20);
    assert_eq!(code_of_text(&spelled("payload", &empty)), None);
}

#[test]
fn row_15_scenario_13_size_counts_bytes_without_white_space() {
    // Two quotes and characters of two bytes: half as many UTF-16 units as the limit has bytes.
    let exact = format!("\"{}\"", "é".repeat((MAX_PAYLOAD_BYTES - 2) / 2));
    assert_eq!(exact.len(), MAX_PAYLOAD_BYTES);
    let over = exact.replacen('\"', "\"a", 1);
    assert_eq!(over.len(), MAX_PAYLOAD_BYTES + 1);
    assert_eq!(code_of_text(&spelled("payload", &over)), Some(ErrorCode::PayloadTooLarge));
    drop(over);
    assert_eq!(verdict_of_text(&spelled("payload", &exact)).unwrap().payload.len(), MAX_PAYLOAD_BYTES);
    drop(exact);
    let spaced = format!("{{ \"a\":{}1 }}", " ".repeat(MAX_PAYLOAD_BYTES));
    assert_eq!(verdict_of_text(&spelled("payload", &spaced)).unwrap().payload, r#"{"a":1}"#);
}

#[test]
fn row_16_scenario_14_shape() {
    let table = [
        ("DEL", vec!["null", "{}", "\"x\""], vec!["[]", "7", "true"]),
        ("UPD", vec!["{}", "\"x\"", "\"\""], vec!["null", "[1,2]", "7", "false"]),
        ("CRT", vec!["{}", "\"x\""], vec!["null", "[]", "0"]),
        ("MOV", vec!["{}", "\"x\""], vec!["null", "[]", "0"]),
        (
            "BATCH",
            vec!["{}", "\"x\"", r#"{"entities":{}}"#, r#"{"entities":[],"entities":{}}"#, r#"{"x":{"entities":[]}}"#],
            vec![
                "null",
                "[]",
                r#"{"entities":[]}"#,
                r#"{"entities":null}"#,
                r#"{"entities":"x"}"#,
                r#"{"entit\u0069es":1}"#,
            ],
        ),
        ("SYNC_IMPORT", vec!["null", "[]", "7", "\"x\"", "{}"], vec![]),
        ("BACKUP_IMPORT", vec!["null", "[]", "7", "\"x\"", "{}"], vec![]),
        ("REPAIR", vec!["null", "[]", "7", "\"x\"", "{}"], vec![]),
    ];
    for (op_type, good, bad) in table {
        let op = |payload: &str| spelled("payload", payload).replace("\"UPD\"", &format!("\"{op_type}\""));
        for payload in good {
            assert_eq!(code_of_text(&op(payload)), None, "{op_type} {payload}");
        }
        for payload in bad {
            assert_eq!(code_of_text(&op(payload)), Some(ErrorCode::InvalidPayload), "{op_type} {payload}");
        }
    }
}

#[test]
fn texts_that_no_database_stores_are_refused_one_by_one() {
    for broken in [r#""a\u0000b""#, r#""a\ud800b""#, r#""\udc00\ud800""#] {
        for (member, code) in [
            ("id", ErrorCode::InvalidOpId),
            ("actionType", ErrorCode::InvalidPayload),
            ("entityId", ErrorCode::InvalidEntityId),
        ] {
            assert_eq!(code_of_text(&spelled(member, broken)), Some(code), "{member} {broken}");
        }
        let ids = format!(r#"["ok",{broken}]"#);
        assert_eq!(code_of_text(&spelled("entityIds", &ids)), Some(ErrorCode::InvalidEntityId), "{broken}");
        // In a payload they stay escapes.
        let payload = format!(r#"{{"a":{broken}}}"#);
        assert_eq!(verdict_of_text(&spelled("payload", &payload)).unwrap().payload, payload.as_bytes());
    }
    // A sibling is none the worse for it.
    let ops = format!("{},{}", spelled("id", r#""\ud800""#), op());
    let checked = check_upload(upload_text(&ops).unwrap());
    assert!(checked.ops[0].check.is_err());
    assert!(checked.ops[1].check.is_ok());
}

/// Whether released clients take a text for "try again" (section 14.5).
fn reads_as_transient(text: &str) -> bool {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    let spaced = format!(" {} ", words.join(" "));
    let phrases = [
        "failed to fetch",
        "unable to connect",
        "unable to resolve host",
        "timeout",
        "econnrefused",
        "enotfound",
        "dns",
        "cors",
        "net",
        "offline",
        "aborted",
        "connection refused",
        "connection reset",
        "connection closed",
        "socket hang up",
        "socket closed",
        "server busy",
        "please retry",
        "retry in",
        "transaction rolled back",
        "internal server error",
        "too many requests",
        "rate limit",
        "rate limited",
        "429",
        "500",
        "502",
        "503",
        "504",
        "service unavailable",
        "gateway timeout",
    ];
    phrases.iter().any(|phrase| spaced.contains(&format!(" {phrase} ")))
        || words.iter().any(|w| w.starts_with("network"))
}

#[test]
fn no_refusal_reads_as_try_again() {
    for text in
        ["Network error", "max 500 keys", "Rate limited.", "net::ERR", "transaction ROLLED back", "x: please retry"]
    {
        assert!(reads_as_transient(text), "{text}");
    }
    for (i, refusal) in Refusal::ALL.into_iter().enumerate() {
        assert_eq!(refusal as usize, i, "the list is complete and in order");
        let Rejection { code, message, existing_clock } = refusal.rejection();
        assert!(!reads_as_transient(&message), "{message}");
        assert!(!message.is_empty() && existing_clock.is_none());
        assert_ne!(code, ErrorCode::InternalError);
    }
    assert_eq!(Refusal::RequestMetadata as usize + 1, Refusal::ALL.len());
    for rejection in [duplicate_operation(), id_taken()] {
        assert!(!reads_as_transient(&rejection.message), "{}", rejection.message);
    }
}

#[test]
fn a_refusal_repeats_nothing_that_was_sent() {
    let secret = "sekret-4711";
    for member in ["id", "clientId", "opType", "entityType", "entityId"] {
        let long = format!("{secret}{}", "x".repeat(256));
        let refused = verdict(&with([(member, json!(long))])).unwrap_err();
        assert!(!refused.message.contains(secret), "{member}");
    }
    let refused = verdict(&with([("payload", json!([secret]))])).unwrap_err();
    assert!(!refused.message.contains(secret));
}

#[test]
fn scenarios_3_and_4_a_bad_operation_does_not_hurt_its_siblings() {
    let ops: Vec<String> = [
        with([("id", json!("1"))]),
        with([("id", json!("2")), ("entityType", json!("EVIL"))]),
        with([("id", json!("3")), ("clientId", json!("other"))]),
        with([("id", json!("4")), ("opType", json!("REPAIR")), ("schemaVersion", json!(0))]),
        with([("id", json!("5"))]),
    ]
    .iter()
    .map(Value::to_string)
    .collect();
    let checked = check_upload(upload_text(&ops.join(",")).unwrap());
    let codes: Vec<_> = checked.ops.iter().map(|op| op.check.as_ref().err().map(|rejection| rejection.code)).collect();
    assert_eq!(
        codes,
        [
            None,
            Some(ErrorCode::InvalidEntityType),
            Some(ErrorCode::InvalidClientId),
            Some(ErrorCode::InvalidSchemaVersion),
            None
        ]
    );
    assert_eq!(checked.ops.iter().map(|op| &*op.op_id).collect::<Vec<_>>(), ["1", "2", "3", "4", "5"]);
    assert_eq!(checked.ops.iter().map(|op| op.is_repair).collect::<Vec<_>>(), [false, false, false, true, false]);
}

#[test]
fn scenario_18_ciphertext_has_a_shape() {
    let quoted = |text: &str| format!("\"{text}\"").into_bytes();
    let bytes_28 = "A".repeat(38) + "==";
    let bytes_27 = "A".repeat(36);
    assert!(!violates_e2ee_gate(Some(true), Some(&quoted(&bytes_28))));
    assert!(!violates_e2ee_gate(Some(true), Some(&quoted(&format!("{}+/\\/=", "a1Z0".repeat(10))))));
    for flag in [None, Some(false)] {
        assert!(violates_e2ee_gate(flag, Some(&quoted(&bytes_28))));
    }
    assert!(violates_e2ee_gate(Some(true), None));
    for payload in [
        quoted(&bytes_27),
        quoted(&("A".repeat(39) + "=")[1..]),
        quoted(&("A".repeat(37) + "===")),
        quoted(&("A".repeat(39) + "-")),
        quoted(&("A".repeat(39) + "_")),
        quoted(&("AA=A".repeat(10))),
        quoted(&format!("{}\\n", "A".repeat(39))),
        quoted(""),
        quoted("===="),
        b"{}".to_vec(),
        b"null".to_vec(),
        vec![b'1'; 40],
    ] {
        assert!(violates_e2ee_gate(Some(true), Some(&payload)), "{}", String::from_utf8_lossy(&payload));
    }
}

mod requests;
