use bytes::Bytes;

use super::*;
use crate::protocol::{OpType, VectorClock};

fn ops(last: Seq) -> Vec<StoredOp> {
    let op = |seq: Seq| StoredOp {
        server_seq: seq,
        id: format!("op-{seq}").into(),
        client_id: "A".into(),
        action_type: "[Task] Update".into(),
        op_type: OpType::Update,
        entity_type: "TASK",
        entity_id: None,
        entity_ids: Vec::new(),
        payload: Bytes::from_static(b"{}"),
        storage_bytes: 2,
        vector_clock: VectorClock::new(),
        timestamp: 0,
        schema_version: 4,
        is_payload_encrypted: false,
        import_reason: None,
        repair_base_server_seq: None,
        received_at: seq,
    };
    (1..=last).map(op).collect()
}

/// The segments' ends, how far the step came, and whether it was the last.
fn packed(ops: &[StoredOp], before_ms: i64, more: bool) -> (Vec<(Seq, Seq)>, Seq, bool) {
    packed_again(ops, 0, before_ms, more)
}

/// The same when everything up to `after` is in a segment that has been taken up again.
fn packed_again(ops: &[StoredOp], after: Seq, before_ms: i64, more: bool) -> (Vec<(Seq, Seq)>, Seq, bool) {
    let scope = Scope { before_ms, only: None, min_run: MIN_RUN, max_ops: u64::MAX, concurrency: 1 };
    let reading = Reading { generation: 0, from: 0, after, pages_after: 0, sparse_up_to: 0, more };
    let Packed { segments, up_to, done } = pack(reading, ops, scope).expect("sound operations");
    (segments.iter().map(|segment| (segment.first_seq, segment.last_seq)).collect(), up_to, done)
}

#[test]
fn a_run_that_may_grow_waits_until_it_is_worth_it() {
    assert_eq!(packed(&ops(63), 1000, false), (vec![], 0, true));
    assert_eq!(packed(&ops(64), 1000, false), (vec![(1, 64)], 64, true));
    assert_eq!(packed(&ops(500 + 63), 1000, false), (vec![(1, 500)], 500, true));
    assert_eq!(packed(&ops(500 + 64), 1000, false), (vec![(1, 500), (501, 564)], 564, true));
}

#[test]
fn what_is_too_young_stays_and_ends_it() {
    assert_eq!(packed(&ops(200), 101, true), (vec![(1, 100)], 100, true));
    assert_eq!(packed(&ops(200), 60, true), (vec![], 0, true));
}

#[test]
fn with_more_to_come_the_last_run_is_left_for_the_next_step() {
    assert_eq!(packed(&ops(600), 1000, true), (vec![(1, 500)], 500, false));
    assert_eq!(packed(&ops(100), 1000, true), (vec![(1, 100)], 100, false), "but each step gets somewhere");
}

#[test]
fn full_states_and_large_operations_stay_and_end_a_run() {
    let mut mixed = ops(80);
    mixed[4].op_type = OpType::SyncImport;
    mixed[5].payload = Bytes::from(vec![b'1'; 100_000]);
    assert_eq!(packed(&mixed, 1000, false), (vec![(1, 4), (7, 80)], 80, true));
    mixed.truncate(10);
    assert_eq!(packed(&mixed, 1000, false), (vec![(1, 4)], 6, true), "a run that ends there can't grow");
}

#[test]
fn a_segment_is_bounded_in_bytes() {
    let mut large = ops(20);
    for op in &mut large {
        op.payload = Bytes::from(vec![b'1'; 60_000]);
    }
    assert_eq!(packed(&large, 1000, true), (vec![(1, 8), (9, 16)], 16, false));
}

/// Operations each of which names so many entities with such long ids.
fn naming(last: Seq, entities: usize, chars: usize) -> Vec<StoredOp> {
    let mut all = ops(last);
    for op in &mut all {
        op.entity_ids = (0..entities).map(|n| format!("{n:0>chars$}").into()).collect();
    }
    all
}

#[test]
fn what_carries_much_beside_its_payload_stays_or_shares_its_segment_with_few() {
    // 1000 ids of 255 characters, as were taken once.
    let mut mixed = ops(80);
    mixed[4..10].clone_from_slice(&naming(10, 1000, 255)[4..10]);
    assert_eq!(packed(&mixed, 1000, false), (vec![(1, 4), (11, 80)], 80, true));
    assert_eq!(packed(&naming(70, 1000, 255), 1000, false), (vec![], 70, true), "nothing to pack is no failure");
    // Each is small enough, all are too much for one segment.
    assert_eq!(packed(&naming(100, 1000, 40), 1000, false), (vec![(1, 47), (48, 94)], 94, true));
    // A segment from before that rule is not torn apart, and what comes to it has one of its own.
    let old = naming(164, 100, 200);
    let (ends, up_to, _) = packed_again(&old, 100, 1000, false);
    assert_eq!((ends.first().copied(), up_to), (Some((101, 164)), 164), "{ends:?}");
}

#[test]
fn what_cannot_be_packed_is_left_and_the_rest_is_packed() {
    let mut odd = ops(300);
    odd[99].op_type = OpType::SyncImport;
    // Something that reads back otherwise than it was stored.
    odd[20].payload = Bytes::from_static(b" 1 ");
    assert_eq!(packed(&odd, 1000, false), (vec![(101, 300)], 300, true));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(8))]
    #[test]
    fn whatever_is_stored_is_packed_or_left(
        shapes in proptest::collection::vec((0..1001_usize, 1..256_usize, 0..70_000_usize, 0..51_usize), 1..12),
        odd in proptest::prelude::any::<bool>(),
    ) {
        let mut all = ops(i64::try_from(shapes.len()).expect("small"));
        for (op, (entities, chars, payload, clock)) in all.iter_mut().zip(&shapes) {
            let filler = if odd { "\u{1}" } else { "x" };
            let id = |n: usize| -> std::sync::Arc<str> { format!("{n}{}", filler.repeat(*chars)).into() };
            op.entity_ids = (0..*entities).map(id).collect();
            op.payload = Bytes::from(vec![b'1'; payload + 1]);
            op.vector_clock = VectorClock::from_entries((0..*clock).map(|n| (id(n), 1)));
            op.client_id = id(7);
        }
        let scope = Scope { before_ms: i64::MAX, only: None, min_run: 1, max_ops: u64::MAX, concurrency: 1 };
        let reading = Reading { generation: 0, from: 0, after: 0, pages_after: 0, sparse_up_to: 0, more: false };
        let packed = pack(reading, &all, scope).expect("no failure");
        proptest::prop_assert_eq!(packed.up_to, i64::try_from(shapes.len()).expect("small"));
        // What is to be packed is packed: no rule lets a segment grow beyond what can be read.
        let in_segments: usize = packed.segments.iter().map(|segment| segment.op_count).sum();
        proptest::prop_assert_eq!(in_segments, all.iter().filter(|op| is_packable(op)).count());
    }
}

#[test]
fn a_hole_ends_it() {
    let mut holed = ops(200);
    holed.remove(99);
    assert_eq!(packed(&holed, 1000, false), (vec![(1, 99)], 99, true));
}

#[test]
fn a_segment_that_is_taken_up_again_grows_but_never_for_nothing() {
    assert_eq!(packed_again(&ops(164), 100, 1000, false), (vec![(1, 164)], 164, true));
    assert_eq!(packed_again(&ops(163), 100, 1000, false), (vec![], 100, true), "too few are new");
    assert_eq!(packed_again(&ops(700), 100, 1000, false), (vec![(1, 500), (501, 700)], 700, true));
    assert_eq!(packed_again(&ops(700), 100, 1000, true), (vec![(1, 500)], 500, false));
    assert_eq!(packed_again(&ops(100), 100, 1000, true), (vec![], 100, false), "nothing new was read");
    let mut barred = ops(300);
    barred[100].op_type = OpType::SyncImport;
    assert_eq!(packed_again(&barred, 100, 1000, false), (vec![(102, 300)], 300, true), "a border came right after it");
    let mut large = ops(300);
    for op in &mut large[..101] {
        op.payload = Bytes::from(vec![b'1'; FULL_BYTES / 100]);
    }
    assert_eq!(packed_again(&large, 100, 1000, false), (vec![(101, 300)], 300, true), "it is full in bytes");
}

#[test]
fn only_a_segment_with_room_is_taken_up_again() {
    let last = |op_count, storage_bytes| LastSegment { first_seq: 1, op_count, storage_bytes, packed_bytes: 1 };
    assert!(has_room(&last(MAX_OPS - 1, 1000)));
    assert!(!has_room(&last(MAX_OPS, 1000)));
    assert!(!has_room(&last(8, 500 * 1024)));
}

#[test]
fn segments_end_where_the_pages_of_a_joining_device_end() {
    let mut with_state = ops(1_300);
    with_state[199].op_type = OpType::SyncImport;
    let scope = Scope { before_ms: 10_000, only: None, min_run: 1, max_ops: u64::MAX, concurrency: 1 };
    let reading = Reading { generation: 0, from: 0, after: 0, pages_after: 199, sparse_up_to: 0, more: false };
    let packed = pack(reading, &with_state, scope).expect("sound operations");
    let ends: Vec<_> = packed.segments.iter().map(|segment| (segment.first_seq, segment.last_seq)).collect();
    // The first page is the full state and the 499 operations behind it.
    assert_eq!(ends, [(1, 199), (201, 699), (700, 1_199), (1_200, 1_300)]);
    assert!(ends_page(699, 199) && ends_page(1_199, 199) && !ends_page(1_198, 199));
}

#[test]
fn numbers_that_belong_to_no_operation_end_a_run_and_nothing_else() {
    let mut sparse = ops(300);
    sparse.retain(|op| ![1, 100, 101].contains(&op.server_seq));
    let scope = Scope { before_ms: 10_000, only: None, min_run: 1, max_ops: u64::MAX, concurrency: 1 };
    let ends = |sparse_up_to| {
        let reading = Reading { generation: 0, from: 0, after: 0, pages_after: 0, sparse_up_to, more: false };
        let packed = pack(reading, &sparse, scope).expect("sound operations");
        let ends: Vec<_> = packed.segments.iter().map(|segment| (segment.first_seq, segment.last_seq)).collect();
        (ends, packed.up_to)
    };
    assert_eq!(ends(101), (vec![(2, 99), (102, 300)], 300));
    // What is missing above that was lost: nothing behind it is touched.
    assert_eq!(ends(100), (vec![(2, 99)], 99));
    assert_eq!(ends(0), (vec![], 0));
}
