//! Whatever the operations hold, a replay takes no more memory than it may, counted by the allocator, and no more work.

use bytes::Bytes;
use proptest::prelude::*;

use super::{any_json, any_object, any_op, op};
use crate::protocol::{OpType, Seq, StoredOp};
use crate::replay::{Limits, ReplayError, Replayer};

const MIB: usize = 1024 * 1024;

fn raw(seq: Seq, op_type: OpType, entity_type: &str, id: Option<&str>, payload: impl Into<Vec<u8>>) -> StoredOp {
    StoredOp { payload: Bytes::from(payload.into()), ..op(seq, op_type, entity_type, id, &serde_json::Value::Null) }
}

fn list(of: impl Iterator<Item = String>) -> String {
    of.collect::<Vec<_>>().join(",")
}

/// Replays as the server does, with operations that come into memory one by one.
fn replay_one_by_one(limits: Limits, base: Option<(&str, u8)>, ops: &[StoredOp]) -> Result<usize, ReplayError> {
    let mut replayer = Replayer::new(0, i64::try_from(ops.len()).unwrap(), limits);
    if let Some((json, version)) = base {
        replayer.take(json.len())?;
        let json = Bytes::copy_from_slice(json.as_bytes());
        replayer.give(json.len());
        replayer.start_with(json, version)?;
    }
    for op in ops {
        let expected = op.payload.len() + 4096;
        replayer.take(expected)?;
        let payload = Bytes::copy_from_slice(&op.payload);
        replayer.push_all(vec![StoredOp { payload, ..op.clone() }], expected)?;
    }
    Ok(replayer.finish()?.json.iter().map(Bytes::len).sum())
}

/// Compares what was allocated at once with what was allowed.
fn replay(limits: Limits, base: Option<(&str, u8)>, ops: &[StoredOp]) -> Result<usize, ReplayError> {
    let mut result = Ok(0);
    let info = allocation_counter::measure(|| result = replay_one_by_one(limits, base, ops));
    let (peak, most) = (usize::try_from(info.bytes_max).unwrap(), limits.max_memory_bytes);
    assert!(peak <= most, "{peak} bytes at once, at most {most} allowed: {result:?}");
    result
}

/// What a hidden multiplication looks like: few bytes in the log, many in memory.
fn amplifiers() -> Vec<(&'static str, Vec<StoredOp>)> {
    let string = format!("\"{}\"", "x".repeat(300_000));
    let escaped = format!("\"{}\"", "\\u0041\\ud83d\\ude00".repeat(30_000));
    let numbers = format!("[{}]", list((0..20_000).map(|n| n.to_string())));
    let each = |op_type, payload: &str| {
        (1..=12).map(|seq| raw(seq, op_type, "TASK", Some(&format!("t{seq}")), payload)).collect()
    };
    let entities = |value: &str| format!("{{\"entities\":{{{}}}}}", list((0..40).map(|n| format!("\"{n}\":{value}"))));
    let tiny = list((0..20_000).map(|n| format!("\"{n}\":0")));
    let same = list((0..60_000).map(|_| "\"same\":1".to_owned()));
    let mut misc = raw(1, OpType::Update, "GLOBAL_CONFIG", Some("misc"), "");
    misc.schema_version = 1;
    let wrapped = format!("{{\"actionPayload\":{{\"sectionCfg\":{{\"isTurnOffMarkdown\":1,{tiny}}},{tiny}}},{tiny}}}");
    misc.payload = wrapped.into();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    let long_key = format!("{{\"{}\":1}}", "\\u0041".repeat(200_000));
    let state = format!("{{\"TASK\":{{{}}}}}", list((0..20_000).map(|n| format!("\"{n}\":{{\"a\":[{n},\"x\"]}}"))));
    let growing = |seq: Seq| {
        let members = list((0..200).map(|n| format!("\"{seq}-{n}\":\"{}\"", "y".repeat(100))));
        raw(seq, OpType::Update, "NOTE", Some("n"), format!("{{{members}}}"))
    };
    let mut ids = raw(1, OpType::Delete, "TASK", None, "null");
    ids.entity_ids = (0..1000).map(|n| format!("{n:0>255}").into()).collect();
    vec![
        ("strings in a batch", vec![raw(1, OpType::Batch, "TASK", None, entities(&string))]),
        ("escaped strings in a batch", vec![raw(1, OpType::Batch, "TASK", None, entities(&escaped))]),
        ("arrays in a batch", vec![raw(1, OpType::Batch, "TASK", None, entities(&numbers))]),
        (
            "an array of strings",
            vec![raw(1, OpType::Batch, "TASK", None, format!("{{\"entities\":[{string},{string}]}}"))],
        ),
        ("created strings", each(OpType::Create, &string)),
        ("moved strings", each(OpType::Move, &escaped)),
        ("updates with arrays", each(OpType::Update, &numbers)),
        ("tiny members", each(OpType::Update, &format!("{{{tiny}}}"))),
        ("the same key", each(OpType::Update, &format!("{{{same}}}"))),
        ("the same entity", vec![raw(1, OpType::Batch, "TASK", None, format!("{{\"entities\":{{{same}}}}}"))]),
        ("settings of schema 1", vec![misc]),
        ("nesting", each(OpType::Update, &deep)),
        ("a long key", each(OpType::Update, &long_key)),
        ("a long key in a full state", each(OpType::SyncImport, &long_key)),
        ("many models in a full state", each(OpType::SyncImport, &format!("{{{tiny}}}"))),
        ("full states", each(OpType::BackupImport, &state)),
        ("one entity", (1..=60).map(growing).collect()),
        ("deletions", (1..=60).map(|seq| StoredOp { server_seq: seq, ..ids.clone() }).collect()),
    ]
}

#[test]
fn no_operations_make_a_replay_take_more_memory_than_it_may() {
    let state = format!("{{\"TASK\":{{{}}}}}", list((0..4000).map(|n| format!("\"{n}\":{{\"a\":[{n},\"x\"]}}"))));
    for (name, ops) in amplifiers() {
        let mut refused = 0;
        for (max_memory_bytes, base) in [(300 << 10, None), (MIB, Some((&*state, 4))), (10 * MIB, None)] {
            let limits = Limits { max_memory_bytes, max_steps: 20_000_000, ..Limits::default() };
            match replay(limits, base, &ops) {
                Ok(_) => {}
                Err(
                    ReplayError::OutOfMemory
                    | ReplayError::TooMuchWork
                    | ReplayError::TooLarge { .. }
                    | ReplayError::InvalidPayload { .. },
                ) => refused += 1,
                Err(other) => panic!("{name}: {other}"),
            }
        }
        assert!(refused > 0, "{name}: nothing was refused, so nothing was tested");
    }
}

#[test]
fn settings_of_a_stored_state_are_migrated_within_the_memory() {
    let many = list((0..30_000).map(|n| format!("\"{n}\":0")));
    for config in [
        format!("\"misc\":{{\"isTurnOffMarkdown\":1,{many}}},\"tasks\":{{{many}}},\"idle\":{{{many}}}"),
        format!("\"misc\":{{\"isTurnOffMarkdown\":1}},\"tasks\":\"{}\"", "x".repeat(200_000)),
        many.clone(),
    ] {
        let json = format!("{{\"globalConfig\":{{{config}}}}}");
        for max_memory_bytes in [500 << 10, MIB, 2 * MIB, 40 * MIB] {
            let limits = Limits { max_memory_bytes, ..Limits::default() };
            let result = replay(limits, Some((&json, 1)), &[]);
            assert!(matches!(result, Ok(_) | Err(ReplayError::OutOfMemory)), "{result:?}");
        }
    }
}

#[test]
fn what_grows_beyond_all_bounds_is_refused_before_it_is_made() {
    let string = format!("\"{}\"", "x".repeat(499_000));
    let entities = list((0..40).map(|n| format!("\"{n}\":{string}")));
    let batch = raw(1, OpType::Batch, "TASK", None, format!("{{\"entities\":{{{entities}}}}}"));
    let mut result = Ok(());
    let info = allocation_counter::measure(|| {
        result = Replayer::new(0, 1, Limits::default()).push(batch.clone());
    });
    assert_eq!(result, Err(ReplayError::TooLarge { max: 100 * MIB }));
    assert!(info.bytes_max < 100_000, "{info:?}");
}

#[test]
fn work_is_bounded_and_can_be_stopped() {
    let state = format!("{{\"TASK\":{{\"t\":{{{}}}}}}}", list((0..5000).map(|n| format!("\"{n}\":{n}"))));
    let import = raw(1, OpType::SyncImport, "ALL", None, state);
    let update = |seq| raw(seq, OpType::Update, "TASK", Some("t"), "{\"a\":1}");
    let limits = Limits { max_steps: 2_000_000, ..Limits::default() };
    let mut replayer = Replayer::new(0, 100_000, limits);
    replayer.push(import.clone()).unwrap();
    let refused = (2..100_000).find_map(|seq| replayer.push(update(seq)).err());
    assert_eq!(refused, Some(ReplayError::TooMuchWork));

    let mut replayer = Replayer::new(0, 2, Limits::default()).stop_when(|| true);
    assert_eq!(replayer.push(import), Err(ReplayError::Stopped));
}

#[test]
fn honest_states_fit_however_much_of_them_is_changed() {
    // A quarter of the memory, every entity changed: taken apart at once, they would take ten times as much.
    let task = |n: usize| {
        let text = list((0..30).map(|field| format!("\"field{field}\":\"value {n}\"")));
        format!("\"task-{n}\":{{{text}}}")
    };
    let state = format!("{{\"TASK\":{{{}}}}}", list((0..3000).map(task)));
    let changes: Vec<_> = (1..=3000)
        .map(|seq| raw(seq, OpType::Update, "TASK", Some(&format!("task-{}", seq - 1)), "{\"field7\":7}"))
        .collect();
    let limits = Limits { max_memory_bytes: 4 * state.len(), ..Limits::default() };
    let len = replay(limits, Some((&state, 4)), &changes).unwrap();
    assert!(len < state.len() && len > state.len() / 2);
}

proptest! {
    #[test]
    fn no_history_takes_more_than_it_may(
        ops in prop::collection::vec(any_op(prop_oneof![any_object(), any_json()], 0..=4), 0..12),
        most in 80_000_usize..120_000,
    ) {
        let ops: Vec<_> = (1..).zip(ops).map(|(seq, op)| StoredOp { server_seq: seq, ..op }).collect();
        let limits = Limits { max_memory_bytes: most, ..Limits::default() };
        replay(limits, None, &ops).ok();
    }
}
