//! Housekeeping and test mode.

use std::time::Duration;

use supersync::protocol::{OpType, StoredOp, UserId};
use supersync::store::backup::{Piece, Value};
use supersync::store::{
    ArchiveReason, ArchiveSize, ArchivedRange, Commit, CommitOutcome, FullStateMark, MAX_DEVICES, SnapshotBlob,
    SnapshotChange, SnapshotMeta, Touch,
};

use super::fixture::*;

pub async fn operations_are_deleted_in_steps(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    append_many(&db, user, "A", 6).await;
    append_many(&db, other, "A", 6).await;
    assert_eq!(db.delete_ops(user, 1, 5, 3).await.unwrap(), 3);
    assert_eq!(stored_seqs(&db, user).await, [1, 5, 6]);
    assert_eq!(db.delete_ops(user, 1, 5, 3).await.unwrap(), 1);
    assert_eq!(db.delete_ops(user, 1, 5, 3).await.unwrap(), 0);
    assert_eq!(stored_seqs(&db, user).await, [1, 6]);
    assert_eq!(stored_seqs(&db, other).await.len(), 6);
}

pub async fn expired_archives_are_found_and_dropped_with_old_heads(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 2).await;
    let range = |from_seq, to_seq, archived_at| ArchivedRange {
        generation: 0,
        from_seq,
        to_seq,
        reason: ArchiveReason::Wipe,
        bytes: 20,
        archived_at,
    };
    let mut commit = append(user, &before, vec![op(3, "A")]);
    commit.state.generation = 1;
    commit.state.base_seq = 2;
    commit.state.pruned_seq = 2;
    commit.ops[0].0 = 1;
    commit.archived = vec![range(1, 1, 100), range(2, 2, 200)];
    apply(&db, commit).await;

    assert!(db.expired_archives(100, 10).await.unwrap().is_empty());
    assert_eq!(db.expired_archives(200, 10).await.unwrap(), [(user, range(1, 1, 100))]);
    assert_eq!(db.expired_archives(300, 1).await.unwrap(), [(user, range(1, 1, 100))]);
    db.drop_archive(user, &range(1, 1, 100)).await.unwrap();
    assert_eq!(db.archived(user).await.unwrap(), [range(2, 2, 200)]);
    let heads = db.load_all_heads(user, 0, 10).await.unwrap().unwrap();
    assert_eq!(heads.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), [key("TASK", "t3")]);
}

/// Rows of `entity_heads`, as a backup has them: key and whether it has a clock.
async fn head_rows(db: &Db, user: UserId) -> Vec<(Vec<u8>, bool)> {
    let (sender, mut pieces) = tokio::sync::mpsc::channel(4);
    let reading = async {
        let (mut rows, mut is_heads) = (Vec::new(), false);
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Table(table, _) => is_heads = table.name == "entity_heads",
                Piece::Rows(found) if is_heads => rows.extend(found),
                _ => {}
            }
        }
        rows
    };
    let (dumped, rows) = tokio::join!(db.dump(sender), reading);
    dumped.unwrap();
    let own = rows.into_iter().filter(|row| row[0] == Value::Int(user));
    own.map(|row| match &row[1] {
        Value::Bytes(key) => (key.clone(), row[5] != Value::Text(String::new())),
        other => panic!("{other:?} is no key"),
    })
    .collect()
}

pub async fn a_clock_goes_with_the_last_head_that_shares_it(db: Db) {
    let user = account(&db, "a").await;
    let long = |seq| StoredOp { vector_clock: clock(&[(&*"x".repeat(200), 7)]), ..op(seq, "A") };
    let heads =
        |seq, names: &[&str]| names.iter().map(|name| (key("TASK", name), head(&long(seq)))).collect::<Vec<_>>();
    let first = append(user, &state(&db, user).await, vec![long(1)]);
    let state = apply(&db, Commit { heads: heads(1, &["t1", "t2", "t3"]), ..first }).await;
    let shared = |rows: Vec<(Vec<u8>, bool)>| rows.iter().filter(|(key, _)| key.len() > 16).count();
    let rows = head_rows(&db, user).await;
    assert_eq!((rows.len(), rows.iter().filter(|(_, has_clock)| *has_clock).count()), (4, 1));

    let second = append(user, &state, vec![long(2)]);
    let state = apply(&db, Commit { heads: heads(2, &["t1", "t2"]), ..second }).await;
    db.tidy_heads(user).await.unwrap();
    assert_eq!(shared(head_rows(&db, user).await), 2, "one head still needs the first one");
    let third = append(user, &state, vec![long(3)]);
    apply(&db, Commit { heads: heads(3, &["t3"]), ..third }).await;
    db.tidy_heads(user).await.unwrap();
    assert_eq!(shared(head_rows(&db, user).await), 1);
    let mut found = db.load_all_heads(user, 0, 10).await.unwrap().unwrap();
    found.sort_by_key(|(_, head)| head.seq);
    assert_eq!(found.last(), heads(3, &["t3"]).last());
    assert!(found[..2].iter().all(|(_, found)| *found == head(&long(2))));
}

pub async fn heads_of_an_old_data_set_go_in_steps(db: Db) {
    let user = account(&db, "a").await;
    let other = account(&db, "b").await;
    append_many(&db, other, "A", 2).await;
    let mut commit = append(user, &state(&db, user).await, vec![op(1, "A")]);
    commit.heads.extend((0..2500).map(|n| (key("TASK", &format!("old-{n}")), head(&op(1, "A")))));
    let before = apply(&db, commit).await;
    let mut commit = append(user, &before, vec![op(2, "A")]);
    (commit.state.generation, commit.state.base_seq, commit.state.pruned_seq) = (1, 1, 1);
    commit.ops[0].0 = 1;
    apply(&db, commit).await;
    assert!(head_rows(&db, user).await.len() > 2500, "nothing goes at once");
    db.tidy_heads(user).await.unwrap();
    assert_eq!(head_rows(&db, user).await.len(), 1);
    assert_eq!(db.load_all_heads(user, 0, 10).await.unwrap().unwrap(), [(key("TASK", "t2"), head(&op(2, "A")))]);
    assert_eq!(head_rows(&db, other).await.len(), 2, "others keep theirs");
    db.tidy_heads(999_999).await.unwrap();
}

pub async fn prunable_accounts_are_found_in_order(db: Db) {
    let mut ids = Vec::new();
    for (name, full_state, pruned) in [("a", Some(5), 0), ("b", Some(1), 0), ("c", None, 0), ("d", Some(9), 7)] {
        let user = account(&db, name).await;
        let mut commit = empty_commit(user, &state(&db, user).await);
        commit.state.last_seq = 10;
        commit.state.pruned_seq = pruned;
        commit.state.full_state = full_state.map(|seq| FullStateMark { seq, client_id: "A".into(), clock: clock(&[]) });
        apply(&db, commit).await;
        ids.push(user);
    }
    assert_eq!(db.prunable_accounts(0, 10).await.unwrap(), [ids[0], ids[3]]);
    assert_eq!(db.prunable_accounts(0, 1).await.unwrap(), [ids[0]]);
    assert_eq!(db.prunable_accounts(ids[0], 10).await.unwrap(), [ids[3]]);
}

pub async fn stale_devices_go(db: Db) {
    let user = account(&db, "a").await;
    for (client, at) in [("A", 10), ("B", 20), ("C", 30)] {
        db.touch_devices(&[Touch::new(user, client, at)]).await.unwrap();
    }
    assert_eq!(db.delete_stale_devices(30, 1).await.unwrap(), 1);
    assert_eq!(db.delete_stale_devices(30, 10).await.unwrap(), 1);
    assert_eq!(db.delete_stale_devices(30, 10).await.unwrap(), 0);
    assert_eq!(db.devices(user, 0, 10).await.unwrap()[0].client_id, "C");
}

pub async fn the_device_seen_longest_ago_gives_way(db: Db) {
    let most = i64::try_from(MAX_DEVICES).unwrap();
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    db.touch_devices(&[Touch::new(other, "O", 1)]).await.unwrap();
    let touches: Vec<Touch> = (1..=most).map(|n| Touch::new(user, &format!("D{n}"), n)).collect();
    db.touch_devices(&touches).await.unwrap();
    assert_eq!(db.devices(user, 0, 1000).await.unwrap().len(), MAX_DEVICES);
    // Known ones take nobody's place.
    db.touch_devices(&[Touch::new(user, "D1", 5_000)]).await.unwrap();
    db.touch_devices(&[Touch::new(user, "new", 6_000)]).await.unwrap();
    // A commit's devices count too.
    let mut commit = append(user, &state(&db, user).await, vec![op(1, "A")]);
    commit.devices = vec![("newer".to_owned(), 7_000), ("newest".to_owned(), 8_000)];
    apply(&db, commit).await;
    let mut ids: Vec<String> = db.devices(user, 0, 1000).await.unwrap().into_iter().map(|d| d.client_id).collect();
    assert_eq!(ids.len(), MAX_DEVICES);
    assert_eq!(ids[..4], ["newest", "newer", "new", "D1"]);
    ids.retain(|id| ["D2", "D3", "D4", "D5"].contains(&&**id));
    assert_eq!(ids, ["D5"], "the three seen longest ago are gone");
    // Many at once, in one statement.
    let crowd: Vec<Touch> = (0..1000).map(|n| Touch::new(user, &format!("E{n:03}"), 9_000 + n)).collect();
    db.touch_devices(&crowd).await.unwrap();
    let left = db.devices(user, 0, 1000).await.unwrap();
    assert_eq!((left.len(), &*left[0].client_id, left[199].last_seen_at), (MAX_DEVICES, "E999", 9_800));
    assert_eq!(db.devices(other, 0, 10).await.unwrap().len(), 1);
}

pub async fn archives_are_measured_and_given_up(db: Db) {
    let range = |from_seq, bytes, reason| ArchivedRange {
        generation: 0,
        from_seq,
        to_seq: from_seq,
        reason,
        bytes,
        archived_at: 100 + from_seq,
    };
    let mut users = Vec::new();
    for name in ["a", "b", "c"] {
        let user = account(&db, name).await;
        let before = append_many(&db, user, "A", 4).await;
        let mut commit = empty_commit(user, &before);
        commit.archived = match name {
            "a" => vec![
                range(1, 30, ArchiveReason::Wipe),
                range(2, 12, ArchiveReason::Superseded),
                range(3, 500, ArchiveReason::Expired),
                range(4, 500, ArchiveReason::BroughtBack),
            ],
            "b" => vec![range(1, 9, ArchiveReason::CleanSlate)],
            _ => vec![range(1, 9, ArchiveReason::Abandoned)],
        };
        apply(&db, commit).await;
        users.push(user);
    }
    let sizes = |sizes: Vec<ArchiveSize>| sizes.iter().map(|s| (s.user, s.kept_bytes)).collect::<Vec<_>>();
    assert_eq!(sizes(db.archive_sizes(0, 10).await.unwrap()), [(users[0], 42), (users[1], 9)]);
    assert_eq!(sizes(db.archive_sizes(0, 1).await.unwrap()), [(users[0], 42)]);
    assert_eq!(sizes(db.archive_sizes(users[0], 10).await.unwrap()), [(users[1], 9)]);

    let kept = db.archived(users[0]).await.unwrap();
    db.give_up_archives(users[0], &kept).await.unwrap();
    let reasons = |ranges: Vec<ArchivedRange>| {
        let mut all: Vec<_> = ranges.iter().map(|r| (r.from_seq, r.reason, r.archived_at)).collect();
        all.sort_by_key(|(from_seq, ..)| *from_seq);
        all
    };
    let expired = ArchiveReason::Expired;
    assert_eq!(
        reasons(db.archived(users[0]).await.unwrap()),
        [(1, expired, 0), (2, expired, 0), (3, expired, 103), (4, ArchiveReason::BroughtBack, 104)],
        "what is due already stays as it is"
    );
    assert_eq!(sizes(db.archive_sizes(0, 10).await.unwrap()), [(users[1], 9)]);

    // A commit gives up in the same way, and only what is kept.
    let mut commit = empty_commit(users[1], &state(&db, users[1]).await);
    commit.archived = vec![ArchivedRange { archived_at: 0, ..range(1, 9, expired) }, range(2, 5, ArchiveReason::Wipe)];
    apply(&db, commit).await;
    let wiped = (2, ArchiveReason::Wipe, 102);
    assert_eq!(reasons(db.archived(users[1]).await.unwrap()), [(1, expired, 0), wiped]);
    let mut commit = empty_commit(users[2], &state(&db, users[2]).await);
    commit.archived = vec![ArchivedRange { archived_at: 0, ..range(1, 9, expired) }];
    apply(&db, commit).await;
    assert_eq!(reasons(db.archived(users[2]).await.unwrap()), [(1, ArchiveReason::Abandoned, 101)]);
}

pub async fn one_leader_at_a_time(db: Db) {
    let ttl = Duration::from_secs(10);
    assert!(db.try_lead("one", 1_000, ttl).await.unwrap());
    assert!(!db.try_lead("two", 10_999, ttl).await.unwrap());
    assert!(db.try_lead("one", 5_000, ttl).await.unwrap(), "a leader may stay");
    assert!(!db.try_lead("two", 14_999, ttl).await.unwrap());
    assert!(db.try_lead("two", 15_000, ttl).await.unwrap());
    assert!(!db.try_lead("one", 15_001, ttl).await.unwrap());
}

pub async fn a_reset_log_starts_over_with_a_grown_revision(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 3).await;
    let mut commit = empty_commit(user, &before);
    commit.devices.push(("A".into(), 1));
    commit.state.snapshot = Some(SnapshotMeta { seq: 3, at: 1, bytes: 1 });
    commit.snapshot = SnapshotChange::Set(SnapshotBlob { data: vec![1], schema_version: 4 });
    let before = apply(&db, commit).await;

    db.reset_log(user).await.unwrap();
    let after = state(&db, user).await;
    assert_eq!((after.last_seq, after.storage_used_bytes, after.latest_seq()), (0, 0, 0));
    assert!(after.clock.is_empty() && after.snapshot.is_none());
    assert!(after.revision > before.revision);
    assert!(stored_seqs(&db, user).await.is_empty());
    assert!(db.devices(user, 0, 10).await.unwrap().is_empty());
    assert!(db.load_snapshot(user).await.unwrap().is_none());
    assert_eq!(
        db.commit([append(user, &before, vec![op(4, "A")])].into()).await.unwrap(),
        [CommitOutcome::Stale],
        "plans made before the reset don't fit any more"
    );
    append_many(&db, user, "A", 1).await;
    assert_eq!(stored_seqs(&db, user).await, [1]);
    db.reset_log(999_999).await.unwrap();
}

pub async fn a_truncated_log_is_recomputed(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut ops: Vec<_> = (1..=5).map(|seq| op(seq, if seq < 4 { "A" } else { "B" })).collect();
    ops[1].op_type = OpType::SyncImport;
    ops[1].entity_type = "ALL";
    ops[1].entity_id = None;
    ops[2].entity_id = Some("t1".into());
    ops[4].entity_id = Some("t1".into());
    ops[4].op_type = OpType::BackupImport;
    let mut commit = append(user, &before, ops.clone());
    commit.heads = vec![(key("TASK", "t1"), head(&ops[4])), (key("TASK", "t4"), head(&ops[3]))];
    commit.state.snapshot = Some(SnapshotMeta { seq: 5, at: 1, bytes: 1 });
    commit.snapshot = SnapshotChange::Set(SnapshotBlob { data: vec![1], schema_version: 4 });
    let before = apply(&db, commit).await;

    assert_eq!(db.truncate_log(user, 3).await.unwrap(), 2);
    let after = state(&db, user).await;
    assert!(after.revision > before.revision);
    assert_eq!((after.last_seq, after.storage_used_bytes), (3, 60));
    assert_eq!((after.replacement_seq, after.snapshot), (Some(2), None));
    assert_eq!(after.clock, clock(&[("A", 3)]));
    assert_eq!(after.full_state, Some(FullStateMark { seq: 2, client_id: "A".into(), clock: clock(&[("A", 2)]) }));
    assert_eq!(db.load_all_heads(user, 0, 10).await.unwrap().unwrap(), [(key("TASK", "t1"), head(&ops[2]))]);
    assert!(db.load_snapshot(user).await.unwrap().is_none());
    append_many(&db, user, "C", 1).await;
    assert_eq!(stored_seqs(&db, user).await, [1, 2, 3, 4]);

    assert_eq!(db.truncate_log(user, 0).await.unwrap(), 4);
    assert_eq!(state(&db, user).await.latest_seq(), 0);
    assert_eq!(db.truncate_log(999_999, 0).await.unwrap(), 0);
}

pub async fn the_newest_operations_of_a_type(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 3).await;
    let mut import = op(4, "A");
    import.op_type = OpType::SyncImport;
    apply(&db, append(user, &before, vec![import])).await;
    let newest = async |op_type, limit| {
        let ops = db.newest_ops(user, op_type, limit).await.unwrap();
        ops.iter().map(|op| op.server_seq).collect::<Vec<_>>()
    };
    assert_eq!(newest(None, 2).await, [4, 3]);
    assert_eq!(newest(Some("UPD"), 10).await, [3, 2, 1]);
    assert!(newest(Some("NONE"), 10).await.is_empty());
}

pub async fn it_answers_a_ping(db: Db) {
    db.ping().await.unwrap();
    assert!(["sqlite", "postgres"].contains(&db.kind()));
    assert!(db.lanes() >= 1);
}
