//! Commits: fenced, atomic, one outcome each.

use bytes::Bytes;
use supersync::protocol::{ImportReason, OpType, StoredOp};
use supersync::store::{
    ArchiveReason, ArchivedRange, Commit, CommitOutcome, EntityHead, EntityKey, FullStateMark, LEGACY_MISC,
    SnapshotBlob, SnapshotChange, SnapshotMeta, Touch,
};

use super::fixture::*;

pub async fn a_stale_revision_applies_nothing_at_all(db: Db) {
    let user = account(&db, "a").await;
    let old = state(&db, user).await;
    let new = append_many(&db, user, "A", 1).await;

    let mut late = append(user, &old, vec![op(2, "B")]);
    late.devices.push(("B".into(), 9));
    late.archived.push(ArchivedRange {
        generation: 0,
        from_seq: 1,
        to_seq: 1,
        reason: ArchiveReason::Wipe,
        bytes: 1,
        archived_at: 1,
    });
    late.snapshot = SnapshotChange::Set(SnapshotBlob { data: vec![1], schema_version: 4 });
    assert_eq!(db.commit([late].into()).await.unwrap(), [CommitOutcome::Stale]);

    assert_eq!(state(&db, user).await, new);
    assert_eq!(stored_seqs(&db, user).await, [1]);
    assert!(db.load_heads(user, 0, &[key("TASK", "t2")]).await.unwrap().is_empty());
    assert!(db.devices(user, 0, 10).await.unwrap().is_empty());
    assert!(db.archived(user).await.unwrap().is_empty());
    assert!(db.load_snapshot(user).await.unwrap().is_none());

    let mut gone = append(user, &new, vec![op(2, "A")]);
    gone.user = 999_999;
    assert_eq!(db.commit([gone].into()).await.unwrap(), [CommitOutcome::Stale]);
}

pub async fn a_poisoned_commit_does_not_sink_its_group(db: Db) {
    let mut group = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let user = account(&db, name).await;
        let before = append_many(&db, user, "A", 1).await;
        group.push(append(user, &before, vec![op(2, "A"), op(3, "A")]));
    }
    group[1].ops[1].1.id = "op-1".into();
    group[3].expected_revision -= 1;

    assert_eq!(
        db.commit(group.clone().into()).await.unwrap(),
        [CommitOutcome::Committed, CommitOutcome::DuplicateId, CommitOutcome::Committed, CommitOutcome::Stale]
    );
    let mut stored = Vec::new();
    for commit in &group {
        stored.push(stored_seqs(&db, commit.user).await.len());
    }
    assert_eq!(stored, [3, 1, 3, 1]);
    assert_eq!(state(&db, group[1].user).await.last_seq, 1);
}

pub async fn a_duplicate_id_applies_nothing_of_its_commit(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 2).await;
    let mut commit = append(user, &before, vec![op(3, "A"), op(4, "A")]);
    commit.ops[1].1.id = "op-2".into();
    commit.devices.push(("A".into(), 5));
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::DuplicateId]);
    assert_eq!(state(&db, user).await, before);
    assert_eq!(stored_seqs(&db, user).await, [1, 2]);
    assert!(db.devices(user, 0, 10).await.unwrap().is_empty());

    let mut twice = append(user, &before, vec![op(3, "A"), op(4, "A")]);
    twice.ops[1].1.id = "op-3".into();
    assert_eq!(db.commit([twice].into()).await.unwrap(), [CommitOutcome::DuplicateId]);
    assert_eq!(stored_seqs(&db, user).await, [1, 2]);
}

pub async fn the_same_id_may_return_in_the_next_generation(db: Db) {
    let user = account(&db, "a").await;
    let mut before = append_many(&db, user, "A", 2).await;
    before.generation = 1;
    before.base_seq = 2;
    before.pruned_seq = 2;
    let mut again = op(3, "A");
    again.id = "op-1".into();
    apply(&db, append(user, &before, vec![again])).await;
    let found = db.find_ops(user, 1, &["op-1".into()]).await.unwrap();
    assert_eq!(found.iter().map(|op| op.server_seq).collect::<Vec<_>>(), [3]);
    let found = db.find_ops(user, 0, &["op-1".into()]).await.unwrap();
    assert_eq!(found.iter().map(|op| op.server_seq).collect::<Vec<_>>(), [1]);

    let other = account(&db, "b").await;
    append_many(&db, other, "A", 2).await;
    assert_eq!(stored_seqs(&db, other).await, [1, 2], "ids of different accounts don't meet");
}

pub async fn every_field_survives_the_round_trip(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut full = op(1, "A");
    full.id = "🦀\"\\\u{1}ä".repeat(40).into();
    full.client_id = "𝕏".repeat(127).into();
    full.action_type = "[Task] \u{10ffff}".into();
    full.op_type = OpType::Repair;
    full.entity_type = "ALL";
    full.entity_id = None;
    full.entity_ids = vec!["one".into(), "zwei \"2\"".into(), "🦀\n".into()];
    full.payload = Bytes::from("{ \"b\" : 1.0e2, \"a\":\"\u{1F980}\"}");
    full.storage_bytes = 123;
    full.vector_clock = clock(&[("𝕏", 0), ("\u{fffd}", 100_000_000), ("a\"b", 7)]);
    full.timestamp = -5;
    full.schema_version = 100;
    full.is_payload_encrypted = true;
    full.import_reason = Some(ImportReason::PasswordChanged);
    full.repair_base_server_seq = Some((1 << 53) - 1);
    full.received_at = 1_900_000_000_000;
    let mut plain = op(2, "B");
    plain.payload = Bytes::from_static(b"null");
    plain.entity_id = Some("x".repeat(255).into());
    plain.schema_version = 0;
    let ops = vec![full, plain];
    apply(&db, append(user, &before, ops.clone())).await;

    assert_eq!(db.read_log(range(user, 0, 2)).await.unwrap().ops, ops);
    let found = db.find_ops(user, 0, &[ops[0].id.to_string(), "none".into()]).await.unwrap();
    assert_eq!(found, ops[..1]);
    assert_eq!(db.newest_ops(user, None, 1).await.unwrap(), ops[1..]);
}

pub async fn the_state_row_survives_the_round_trip(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut commit = empty_commit(user, &before);
    commit.state.generation = 3;
    commit.state.base_seq = 10;
    commit.state.pruned_seq = 12;
    commit.state.last_seq = 1 << 40;
    commit.state.clock = clock(&[("A", 3), ("🦀", 100_000_000)]);
    commit.state.full_state =
        Some(FullStateMark { seq: 13, client_id: "A\"🦀".into(), clock: clock(&[("A", 2), ("gone", 1)]) });
    commit.state.replacement_seq = None;
    commit.state.storage_used_bytes = 1 << 41;
    commit.state.snapshot = Some(SnapshotMeta { seq: 14, at: 15, bytes: 3 });
    commit.snapshot = SnapshotChange::Set(SnapshotBlob { data: vec![1, 0, 2], schema_version: 4 });
    let expected = commit.state.clone();
    assert_eq!(apply(&db, commit).await, expected);

    let mut commit = empty_commit(user, &expected);
    commit.state.full_state = None;
    commit.state.replacement_seq = Some(0);
    commit.state.snapshot = None;
    commit.snapshot = SnapshotChange::Clear;
    let expected = commit.state.clone();
    assert_eq!(apply(&db, commit).await, expected);
}

pub async fn a_group_reports_one_outcome_per_commit_in_order(db: Db) {
    assert!(db.commit(Vec::new().into()).await.unwrap().is_empty());
    let mut group = Vec::new();
    for n in 0..60 {
        let user = account(&db, &format!("user{n}")).await;
        let before = state(&db, user).await;
        let mut commit = append(user, &before, vec![op(1, "A")]);
        if n % 3 == 1 {
            commit.expected_revision += 1;
        }
        group.push(commit);
    }
    group.reverse();
    let outcomes = db.commit(group.clone().into()).await.unwrap();
    assert_eq!(outcomes.len(), group.len());
    for (commit, outcome) in group.iter().zip(outcomes) {
        let stored = stored_seqs(&db, commit.user).await.len();
        match outcome {
            CommitOutcome::Committed => assert_eq!((stored, commit.expected_revision), (1, 0)),
            CommitOutcome::Stale => assert_eq!((stored, commit.expected_revision), (0, 1)),
            CommitOutcome::DuplicateId | CommitOutcome::Contended => {
                panic!("{outcome:?}: no id repeats and nobody else is here")
            }
        }
    }
}

pub async fn many_rows_travel_in_one_commit(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut commit = append(user, &before, (1..=137).map(|seq| op(seq, "A")).collect());
    commit.devices = (0..61).map(|n| (format!("D{n}"), n)).collect();
    apply(&db, commit).await;
    assert_eq!(stored_seqs(&db, user).await, (1..=137).collect::<Vec<_>>());
    assert_eq!(db.load_all_heads(user, 0, 137).await.unwrap().unwrap().len(), 137);
    assert_eq!(db.devices(user, 0, 100).await.unwrap().len(), 61);
}

pub async fn heads_are_replaced_and_looked_up_above_the_base(db: Db) {
    let user = account(&db, "a").await;
    let stranger = account(&db, "b").await;
    append_many(&db, stranger, "X", 3).await;
    let before = append_many(&db, user, "A", 3).await;
    let mut newer = op(4, "B");
    newer.entity_id = Some("t1".into());
    let mut commit = append(user, &before, vec![newer.clone()]);
    let mut legacy = head(&newer);
    legacy.is_time_delta = true;
    commit.heads.push((key(LEGACY_MISC, "misc"), legacy.clone()));
    apply(&db, commit).await;

    let keys = [
        key("TASK", "t1"),
        key("TASK", "t2"),
        key("PROJECT", "t3"),
        key("TASK", "T1"),
        key(LEGACY_MISC, "misc"),
        key("TASK", "none"),
    ];
    let mut found = db.load_heads(user, 0, &keys).await.unwrap();
    found.sort_by_key(|(key, _)| *key);
    let mut expected = [
        (key(LEGACY_MISC, "misc"), legacy.clone()),
        (key("TASK", "t1"), head(&newer)),
        (key("TASK", "t2"), head(&op(2, "A"))),
    ];
    expected.sort_by_key(|(key, _)| *key);
    assert_eq!(found, expected);
    let above: Vec<_> = db.load_heads(user, 2, &keys).await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(above.len(), 2);
    assert!(!above.contains(&key("TASK", "t2")));
    assert!(db.load_heads(user, 4, &keys).await.unwrap().is_empty());
    assert!(db.load_heads(user, 0, &[]).await.unwrap().is_empty());
}

pub async fn an_entity_that_was_to_be_absent_refuses_its_commit_only(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    let before = append_many(&db, user, "A", 2).await;
    let others = state(&db, other).await;
    let next = |absent| Commit { absent, ..append(user, &before, vec![op(3, "A")]) };
    let group = [
        next(vec![key("TASK", "new"), key("TASK", "t2")]),
        Commit { absent: vec![key("TASK", "t2")], ..append(other, &others, vec![op(1, "A")]) },
    ];
    let outcomes = db.commit(group.into()).await.unwrap();
    assert_eq!(outcomes, [CommitOutcome::Stale, CommitOutcome::Committed]);
    assert_eq!(state(&db, user).await, before);
    assert_eq!(stored_seqs(&db, user).await, [1, 2]);

    let mut wiped = next(vec![key("TASK", "t2")]);
    wiped.state.base_seq = 2;
    wiped.state.pruned_seq = 2;
    assert_eq!(
        db.commit([wiped].into()).await.unwrap(),
        [CommitOutcome::Committed],
        "heads of an older generation don't count"
    );
}

pub async fn heads_of_one_operation_share_its_clock(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    let before = state(&db, user).await;
    let long = StoredOp { vector_clock: clock(&[("A", 1), (&*"x".repeat(200), 7)]), ..op(1, "A") };
    let mut commit = append(user, &before, vec![long.clone(), op(2, "B")]);
    commit.heads.extend((0..500).map(|n| (key("TASK", &format!("many-{n}")), head(&long))));
    let expected = commit.heads.clone();
    let neighbour = append(other, &state(&db, other).await, vec![op(1, "C")]);
    assert_eq!(db.commit([commit, neighbour].into()).await.unwrap(), [CommitOutcome::Committed; 2]);

    let sorted = |mut heads: Vec<(EntityKey, EntityHead)>| {
        heads.sort_by_key(|(key, _)| *key);
        heads
    };
    assert!(db.load_all_heads(user, 0, 501).await.unwrap().is_none(), "the shared clock is no head");
    assert_eq!(sorted(db.load_all_heads(user, 0, 502).await.unwrap().unwrap()), sorted(expected.clone()));
    let keys: Vec<_> = expected.iter().map(|(key, _)| *key).collect();
    assert_eq!(sorted(db.load_heads(user, 0, &keys).await.unwrap()), sorted(expected));
    assert_eq!(db.load_all_heads(user, 1, 10).await.unwrap().unwrap(), [(key("TASK", "t2"), head(&op(2, "B")))]);
    assert_eq!(db.load_all_heads(other, 0, 10).await.unwrap().unwrap(), [(key("TASK", "t1"), head(&op(1, "C")))]);
}

pub async fn all_heads_only_up_to_the_limit(db: Db) {
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 5).await;
    assert!(db.load_all_heads(user, 0, 4).await.unwrap().is_none());
    assert_eq!(db.load_all_heads(user, 0, 5).await.unwrap().unwrap().len(), 5);
    let above = db.load_all_heads(user, 3, 2).await.unwrap().unwrap();
    let mut above: Vec<_> = above.into_iter().map(|(_, head)| head.seq).collect();
    above.sort_unstable();
    assert_eq!(above, [4, 5]);
    assert!(db.load_all_heads(user, 5, 0).await.unwrap().unwrap().is_empty());
}

pub async fn clearing_devices_leaves_only_the_uploader(db: Db) {
    let user = account(&db, "a").await;
    let stranger = account(&db, "b").await;
    db.touch_devices(&[Touch::new(stranger, "A", 5)]).await.unwrap();
    let before = state(&db, user).await;
    let mut commit = empty_commit(user, &before);
    commit.devices = vec![("A".into(), 50), ("B".into(), 60)];
    let before = apply(&db, commit).await;

    let mut commit = empty_commit(user, &before);
    commit.clear_devices = true;
    commit.devices = vec![("A".into(), 40)];
    apply(&db, commit).await;
    let left: Vec<_> =
        db.devices(user, 0, 10).await.unwrap().into_iter().map(|d| (d.client_id, d.last_seen_at)).collect();
    assert_eq!(left, [("A".to_owned(), 40)]);
    assert_eq!(db.devices(stranger, 0, 10).await.unwrap().len(), 1);
}

pub async fn archives_are_listed_newest_first(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 4).await;
    let range = |generation, from_seq, to_seq, reason| ArchivedRange {
        generation,
        from_seq,
        to_seq,
        reason,
        bytes: 40,
        archived_at: 100 + from_seq,
    };
    let first = range(0, 1, 2, ArchiveReason::Superseded);
    let second = range(0, 3, 4, ArchiveReason::CleanSlate);
    let mut commit = append(user, &before, vec![op(5, "A")]);
    commit.ops[0].0 = 1;
    commit.state.generation = 1;
    commit.state.base_seq = 4;
    commit.state.pruned_seq = 4;
    commit.archived = vec![first.clone(), second.clone()];
    let after = apply(&db, commit).await;
    assert_eq!(db.archived(user).await.unwrap(), [second, first]);
    assert_eq!((after.latest_seq(), after.generation), (5, 1));
    assert_eq!(stored_seqs(&db, user).await, [1, 2, 3, 4, 5], "archived operations stay until they are deleted");
}

pub async fn snapshots_are_set_replaced_and_cleared(db: Db) {
    let user = account(&db, "a").await;
    assert!(db.load_snapshot(user).await.unwrap().is_none());
    let mut current = state(&db, user).await;
    for size in [10usize, 3_000_000] {
        let meta = SnapshotMeta { seq: 7, at: 8, bytes: i64::try_from(size).unwrap() };
        let blob = SnapshotBlob { data: vec![0xfe; size], schema_version: 4 };
        let mut commit = empty_commit(user, &current);
        commit.state.snapshot = Some(meta);
        commit.snapshot = SnapshotChange::Set(blob.clone());
        current = apply(&db, commit).await;
        assert_eq!(db.load_snapshot(user).await.unwrap(), Some((meta, blob)));
    }
    let kept = empty_commit(user, &current);
    current = apply(&db, kept).await;
    assert!(db.load_snapshot(user).await.unwrap().is_some());
    let mut commit = empty_commit(user, &current);
    commit.state.snapshot = None;
    commit.snapshot = SnapshotChange::Clear;
    apply(&db, commit).await;
    assert!(db.load_snapshot(user).await.unwrap().is_none());
}

pub async fn a_large_payload_survives(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut large = op(1, "A");
    // Not compressible, so that nothing on the way can make it small.
    let mut x = 1u64;
    large.payload = std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 56) as u8
    })
    .take(20 * 1024 * 1024)
    .collect();
    apply(&db, append(user, &before, vec![large.clone(), op(2, "A")])).await;
    let page = db.read_log(range(user, 0, 2)).await.unwrap();
    assert!(page.ops[0] == large, "the payload came back changed");
    assert_eq!(page.ops.len(), 2);
}

pub async fn racing_commits_on_one_revision_let_one_through(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let racers = (0..8).map(|n| {
        let (db, commit) = (db.clone(), append(user, &before, vec![op(1, &format!("D{n}"))]));
        tokio::spawn(async move { db.commit([commit].into()).await.unwrap()[0] })
    });
    let mut outcomes = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        outcomes.push(racer.await.unwrap());
    }
    outcomes.sort_by_key(|outcome| *outcome != CommitOutcome::Committed);
    assert_eq!(outcomes[0], CommitOutcome::Committed);
    assert!(outcomes[1..].iter().all(|outcome| *outcome == CommitOutcome::Stale), "{outcomes:?}");
    assert_eq!(stored_seqs(&db, user).await, [1]);
}
