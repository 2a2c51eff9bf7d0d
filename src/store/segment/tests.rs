use proptest::prelude::*;

use super::*;
use crate::protocol::op::ENTITY_TYPES;
use crate::protocol::{ImportReason, OpType, VectorClock};

fn op(seq: Seq) -> StoredOp {
    StoredOp {
        server_seq: seq,
        id: format!("0190c0de-0000-7000-8000-{seq:012}").into(),
        client_id: if seq % 2 == 0 { "A".into() } else { "Bö".into() },
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK",
        entity_id: Some("t".into()),
        entity_ids: Vec::new(),
        payload: Bytes::from(format!("{{\"n\":{seq}}}")),
        storage_bytes: 40 + seq,
        vector_clock: VectorClock::from_entries([(std::sync::Arc::from("A"), 7)]),
        timestamp: 5_000 + seq,
        schema_version: 4,
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: None,
        received_at: 10_000 + seq,
    }
}

fn ops(first: Seq, last: Seq) -> Vec<StoredOp> {
    (first..=last).map(op).collect()
}

fn unpack(segment: &Segment) -> Result<Vec<StoredOp>> {
    Unpacked::open(&segment.data, segment.first_seq, segment.last_seq)?.ops().collect()
}

#[test]
fn refuses_what_is_not_to_be_packed() {
    let mut full_state = ops(1, 3);
    full_state[1].op_type = OpType::Repair;
    let mut hole = ops(1, 3);
    hole.remove(1);
    let mut large = ops(1, 1);
    large[0].payload = Bytes::from(vec![b'1'; MAX_OP_BYTES + 1]);
    let mut not_json = ops(1, 2);
    not_json[1].payload = Bytes::from_static(b"}");
    let mut spaced = ops(1, 2);
    spaced[1].payload = Bytes::from_static(b" 1 ");
    let too_many = ops(1, 513);
    for (what, ops) in [
        ("nothing", Vec::new()),
        ("a full state", full_state),
        ("a hole", hole),
        ("a large payload", large),
        ("no JSON", not_json),
        ("what would come back changed", spaced),
        ("too many", too_many),
    ] {
        assert!(matches!(Segment::pack(0, &ops), Err(StoreError::Corrupt(_))), "{what}");
    }
}

#[test]
fn damaged_data_is_reported_and_never_a_panic() {
    let segment = Segment::pack(0, &ops(5, 60)).unwrap();
    let open =
        |data: &[u8]| Unpacked::open(data, 5, 60).and_then(|unpacked| unpacked.ops().collect::<Result<Vec<_>>>());
    assert_eq!(open(&segment.data).unwrap(), ops(5, 60));
    for end in 0..segment.data.len() {
        assert!(matches!(open(&segment.data[..end]), Err(StoreError::Corrupt(_))), "cut at {end}");
    }
    for at in 0..segment.data.len() {
        let mut data = segment.data.to_vec();
        data[at] ^= 0x10;
        // One bit of zstd's header means nothing.
        match open(&data) {
            Ok(same) => assert_eq!(same, ops(5, 60), "a bit flipped at {at}"),
            Err(error) => assert!(matches!(error, StoreError::Corrupt(_)), "a bit flipped at {at}: {error}"),
        }
    }
    for (first, last) in [(5, 59), (4, 60), (6, 61), (5, i64::MAX), (i64::MIN, 60)] {
        assert!(Unpacked::open(&segment.data, first, last).is_err(), "{first} to {last}");
    }
}

#[test]
fn a_block_that_says_it_is_huge_is_not_unpacked() {
    let mut data = vec![VERSION];
    data.extend(zstd::bulk::compress(&vec![0; MAX_UNPACKED + 1], 1).unwrap());
    assert!(matches!(Unpacked::open(&data, 1, 1), Err(StoreError::Corrupt(_))));
}

#[test]
fn an_index_that_can_not_be_is_refused() {
    // Intact blocks with a wrong index: first sequence 1, one operation, then clients and the operation's numbers.
    let unpacked_body = |index: &[u8]| {
        let mut data = vec![VERSION];
        data.extend(zstd::bulk::compress(index, 1).unwrap());
        Unpacked::open(&data, 1, 1).map(|_| ())
    };
    for index in [
        &[][..],
        &[1],
        &[1, 1],
        &[1, 1, 2, 0, 0],                                                 // more clients than operations
        &[1, 1, 1, 9, b'A'],                                              // a client id that ends early
        &[1, 1, 1, 1, 0xff, 0, 0, 0, 0],                                  // a client id that is no text
        &[1, 1, 1, 1, b'A', 1, 0, 0, 0],                                  // a client that is not there
        &[1, 1, 1, 1, b'A', 0, 5, 0, 0],                                  // longer than what there is
        &[1, 1, 1, 1, b'A', 0, 0, 0, 0, b'{'],                            // shorter than what there is
        &[1, 1, 1, 1, b'A', 0, 0x80, 0x80],                               // a number that ends early
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], // a number without end
    ] {
        assert!(matches!(unpacked_body(index), Err(StoreError::Corrupt(_))), "{index:?}");
    }
    assert!(unpacked_body(&[1, 1, 1, 1, b'A', 0, 0, 0, 0]).is_ok(), "only its operation is unreadable");
}

#[test]
fn the_columns_say_what_is_inside() {
    let segment = Segment::pack(3, &ops(8, 11)).unwrap();
    assert_eq!((segment.generation, segment.first_seq, segment.last_seq, segment.op_count), (3, 8, 11, 4));
    assert_eq!((segment.storage_bytes, segment.max_received_at), (4 * 40 + 8 + 9 + 10 + 11, 10_011));
    assert_eq!((&*segment.min_op_id, &*segment.max_op_id), (&*op(8).id, &*op(11).id));
    assert!(ops(8, 11).iter().all(|op| may_hold(&segment.op_id_hashes, &op.id)));
    assert!(!may_hold(&segment.op_id_hashes, &op(7).id) && !may_hold(&[], "x"));
}

/// Text with whatever JSON escapes.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z\"\\\\\u{0}-\u{1f}\u{7f}\u{2028}😀ä]{0,12}"]
}

/// Compact JSON with numbers beyond any machine's, lone surrogates as escapes, and deep nesting.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1e999999".to_owned()),
        Just("-0.000000000000000000000000000001E-7".to_owned()),
        Just("123456789012345678901234567890".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        text().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    leaf.prop_recursive(6, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((text(), inner), 0..4).prop_map(|members| {
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap()))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

prop_compose! {
    fn any_op()(
        (id, client_id, action_type) in (text(), text(), text()),
        op_type in prop::sample::select(OpType::ALL.iter().copied().filter(|t| !t.is_full_state()).collect::<Vec<_>>()),
        entity_type in prop::sample::select(&ENTITY_TYPES[..]),
        entity_id in prop::option::of(text()),
        entity_ids in prop::collection::vec(text(), 0..3),
        payload in json(),
        clock in prop::collection::vec((text(), any::<u32>()), 0..4),
        (storage_bytes, timestamp, received_at, server_seq) in any::<(i64, i64, i64, i64)>(),
        (schema_version, is_payload_encrypted) in any::<(u8, bool)>(),
        import_reason in prop::option::of(prop::sample::select(&ImportReason::ALL[..])),
        repair_base_server_seq in prop::option::of(any::<i64>()),
    ) -> StoredOp {
        StoredOp {
            server_seq, id: id.into(), client_id: client_id.into(), action_type: action_type.into(), op_type, entity_type, entity_id: entity_id.map(Into::into), entity_ids: entity_ids.into_iter().map(Into::into).collect(),
            payload: payload.into(),
            storage_bytes: storage_bytes / 1000,
            vector_clock: VectorClock::from_entries(clock.into_iter().map(|(key, value)| (key.into(), value))),
            timestamp, schema_version, is_payload_encrypted, import_reason, repair_base_server_seq, received_at,
        }
    }
}

proptest! {
    #[test]
    fn every_operation_comes_back_as_it_was(mut ops in prop::collection::vec(any_op(), 1..12), first in 1..i64::MAX / 2) {
        for (seq, op) in (first..).zip(&mut ops) {
            op.server_seq = seq;
        }
        let segment = Segment::pack(1, &ops).unwrap();
        prop_assert_eq!(&unpack(&segment).unwrap(), &ops);
        let opened = Unpacked::open(&segment.data, segment.first_seq, segment.last_seq).unwrap();
        for (at, op) in ops.iter().enumerate() {
            let mut json = Vec::new();
            encode_op(op, &mut json);
            prop_assert_eq!(&opened.json(at)[..], &json[..]);
            prop_assert_eq!(opened.client_id(at), &*op.client_id);
        }
    }

    #[test]
    fn numbers_survive(number in any::<u64>()) {
        let mut out = Vec::new();
        put(&mut out, number);
        let mut reader = Reader(&out);
        prop_assert_eq!(reader.number().unwrap(), number);
        prop_assert!(reader.0.is_empty());
    }
}
