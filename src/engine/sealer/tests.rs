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
    let scope = Scope { before_ms, only: None, min_run: MIN_RUN, max_ops: u64::MAX, concurrency: 1 };
    let Packed { segments, up_to, done } = pack(0, 0, ops, scope, more).expect("sound operations");
    (segments.iter().map(|segment| (segment.first_seq, segment.last_seq)).collect(), up_to, done)
}

#[test]
fn a_run_that_may_grow_waits_until_it_is_worth_it() {
    assert_eq!(packed(&ops(63), 1000, false), (vec![], 0, true));
    assert_eq!(packed(&ops(64), 1000, false), (vec![(1, 64)], 64, true));
    assert_eq!(packed(&ops(512 + 63), 1000, false), (vec![(1, 512)], 512, true));
    assert_eq!(packed(&ops(512 + 64), 1000, false), (vec![(1, 512), (513, 576)], 576, true));
}

#[test]
fn what_is_too_young_stays_and_ends_it() {
    assert_eq!(packed(&ops(200), 101, true), (vec![(1, 100)], 100, true));
    assert_eq!(packed(&ops(200), 60, true), (vec![], 0, true));
}

#[test]
fn with_more_to_come_the_last_run_is_left_for_the_next_step() {
    assert_eq!(packed(&ops(600), 1000, true), (vec![(1, 512)], 512, false));
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

#[test]
fn a_hole_ends_it() {
    let mut holed = ops(200);
    holed.remove(99);
    assert_eq!(packed(&holed, 1000, false), (vec![(1, 99)], 99, true));
}
