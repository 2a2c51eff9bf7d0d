//! Retries: the same operation again, in all the forms in which it may come back (scenarios 32 to 35).

use bytes::Bytes;

use super::super::{ImportReason, OpType, VectorClock};
use super::*;

/// What is changed, and how.
type Change = (&'static str, fn(&mut ValidOp));

const RECEIVED: i64 = 1_700_000_000_000;

fn clock(entries: &[(&str, u32)]) -> VectorClock {
    VectorClock::from_entries(entries.iter().map(|(key, value)| ((*key).into(), *value)))
}

fn incoming() -> ValidOp {
    ValidOp {
        id: "op-1".into(),
        client_id: "A".into(),
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK",
        entity_id: Some("t1".into()),
        entity_ids: vec![],
        payload: Bytes::from_static(br#"{"a":1,"b":{"c":[1,2],"d":null}}"#),
        vector_clock: clock(&[("A", 3), ("B", 1)]),
        timestamp: RECEIVED - 10,
        schema_version: 4,
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: None,
    }
}

/// `op` as the log holds it: clamped, pruned with `preserve`, ids normalised.
fn stored_with(op: &ValidOp, preserve: &[&str]) -> StoredOp {
    StoredOp {
        server_seq: 1,
        id: op.id.clone(),
        client_id: op.client_id.clone(),
        action_type: op.action_type.clone(),
        op_type: op.op_type,
        entity_type: op.entity_type,
        entity_id: op.entity_id.clone(),
        entity_ids: op.stored_entity_ids(),
        payload: op.payload.clone(),
        storage_bytes: 0,
        vector_clock: op.vector_clock.pruned(preserve.iter().copied()),
        timestamp: op.timestamp.min(RECEIVED + MAX_CLOCK_DRIFT_MS),
        schema_version: op.schema_version,
        is_payload_encrypted: op.is_payload_encrypted,
        import_reason: op.import_reason,
        repair_base_server_seq: op.repair_base_server_seq,
        received_at: RECEIVED,
    }
}

fn stored(op: &ValidOp) -> StoredOp {
    stored_with(op, &[&op.client_id])
}

#[test]
fn scenario_33_every_member_counts() {
    let log = stored(&incoming());
    let changes: [Change; 14] = [
        ("id", |op| op.id = "op-2".into()),
        ("client", |op| op.client_id = "B".into()),
        ("action", |op| op.action_type = "changed".into()),
        ("op type", |op| op.op_type = OpType::Create),
        ("entity type", |op| op.entity_type = "TAG"),
        ("entity id", |op| op.entity_id = Some("t2".into())),
        ("no entity id", |op| op.entity_id = None),
        ("entity ids", |op| op.entity_ids = vec!["t1".into(), "t2".into()]),
        ("payload", |op| op.payload = Bytes::from_static(br#"{"a":1,"b":{"c":[2,1],"d":null}}"#)),
        ("absent is not null", |op| op.payload = Bytes::from_static(br#"{"a":1,"b":{"c":[1,2]}}"#)),
        ("clock", |op| op.vector_clock = clock(&[("A", 4), ("B", 1)])),
        ("schema", |op| op.schema_version = 3),
        ("encrypted", |op| op.is_payload_encrypted = true),
        ("reason", |op| op.import_reason = Some(ImportReason::Repair)),
    ];
    for (what, change) in changes {
        let mut op = incoming();
        change(&mut op);
        assert!(!same_operation_ignoring_time(&log, &op), "{what}");
        assert!(!same_operation(&log, &op), "{what}");
    }
    let mut op = incoming();
    op.repair_base_server_seq = Some(0);
    assert!(!same_operation(&log, &op));
    let mut op = incoming();
    op.timestamp += 1;
    assert!(!same_operation(&log, &op));
    assert!(same_operation_ignoring_time(&log, &op));
}

#[test]
fn scenario_32_the_same_again() {
    let op = incoming();
    assert!(same_operation(&stored(&op), &op));
    // Declared ids that add nothing to the scalar one are stored as none.
    let declared = ValidOp { entity_ids: vec!["t1".into(), "t1".into()], ..incoming() };
    assert!(same_operation(&stored(&op), &declared));
    assert!(same_operation(&stored(&declared), &op));
    let many = ValidOp { entity_ids: vec!["t2".into(), "t1".into(), "t2".into()], ..incoming() };
    assert!(same_operation(&stored(&many), &many));
    let reordered = ValidOp { entity_ids: vec!["t1".into(), "t2".into()], ..incoming() };
    assert!(!same_operation(&stored(&many), &reordered));
}

#[test]
fn scenario_34_order_of_keys_and_spelling_do_not_count() {
    let log = stored(&incoming());
    for payload in [
        r#"{"b":{"d":null,"c":[1,2]},"a":1}"#,
        r#"{"a":1.0,"b":{"c":[1e0,2],"d":null}}"#,
        r#"{"\u0061":1,"b":{"c":[1,2],"d":null}}"#,
    ] {
        let op = ValidOp { payload: Bytes::from_static(payload.as_bytes()), ..incoming() };
        assert!(same_operation(&log, &op), "{payload}");
    }
}

#[test]
fn scenario_33_ciphertext_is_not_compared() {
    let encrypted = |text: &'static str| ValidOp {
        payload: Bytes::from_static(text.as_bytes()),
        is_payload_encrypted: true,
        ..incoming()
    };
    let log = stored(&encrypted("\"abc\""));
    assert!(same_operation(&log, &encrypted("\"xyz\"")));
    // Only when both are encrypted.
    assert!(!same_operation(&log, &ValidOp { is_payload_encrypted: false, ..encrypted("\"abc\"") }));
}

#[test]
fn scenario_35_a_clamped_timestamp() {
    let future = |ahead: i64| ValidOp { timestamp: RECEIVED + ahead, ..incoming() };
    for ahead in [60_000, 60_001, 65_000, 10 * 86_400_000] {
        let log = stored(&future(ahead));
        assert_eq!(log.timestamp, RECEIVED + 60_000);
        // Retries carry the client's time as it was; whether it would still be clamped by now does not matter.
        assert!(same_operation(&log, &future(ahead)), "{ahead}");
    }
    let log = stored(&future(65_000));
    assert!(!same_operation(&log, &future(59_999)));
    let unclamped = stored(&future(59_999));
    assert!(!same_operation(&unclamped, &future(65_000)));
    let last = ValidOp { timestamp: i64::MAX, ..incoming() };
    let edge = StoredOp { received_at: i64::MAX, timestamp: i64::MAX, ..stored(&last) };
    assert!(same_operation(&edge, &last));
}

#[test]
fn a_pruned_clock_is_the_same_clock() {
    let mut large = clock(&[("A", 1), ("author", 1)]);
    for i in 0..30 {
        large.merge(&clock(&[(&format!("c{i:02}"), 7)]));
    }
    let op = ValidOp { vector_clock: large.clone(), ..incoming() };
    // Stored while the author of an import was to be kept, or not: the stored keys tell.
    for preserve in [vec!["A"], vec!["A", "author"], vec!["A", "c29"]] {
        let log = stored_with(&op, &preserve);
        assert_eq!(log.vector_clock.len(), 20);
        assert!(same_operation(&log, &op), "{preserve:?}");
    }
    // An entry that was kept has moved on.
    let log = stored(&op);
    large.merge(&clock(&[("c00", 8)]));
    assert!(!same_operation(&log, &ValidOp { vector_clock: large, ..incoming() }));
    // A zero is an entry like any other.
    let zero = ValidOp { vector_clock: clock(&[("A", 3), ("B", 1), ("C", 0)]), ..incoming() };
    assert!(!same_operation(&stored(&incoming()), &zero));
}
