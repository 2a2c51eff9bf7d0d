//! Sealed segments: whatever is read must be the same whether it lies in rows or is packed.

use bytes::Bytes;
use supersync::protocol::{OpType, Seq, StoredOp, UserId};
use supersync::store::{CommitOutcome, LastSegment, LogRange, Sealable, Segment, StoreError, SyncState};

use super::fixture::*;

/// A log of two devices with everything that tells operations apart: sizes, a full state in the middle (the 7th), times
/// ten apart.
fn ops(count: Seq) -> Vec<StoredOp> {
    let varied = |seq: Seq| {
        let mut op = op(seq, if seq % 3 == 0 { "B" } else { "A" });
        op.payload = Bytes::from(format!("{{\"n\":\"{}\"}}", "x".repeat(usize::try_from(seq).unwrap() * 7)));
        op.storage_bytes = 100 + seq;
        op.received_at = seq * 10;
        if seq == 7 {
            op.op_type = OpType::SyncImport;
        }
        op
    };
    (1..=count).map(varied).collect()
}

/// Seals the given runs.
async fn seal(db: &Db, user: UserId, runs: &[(Seq, Seq)]) -> SyncState {
    let state = state(db, user).await;
    let mut commit = empty_commit(user, &state);
    for (from, to) in runs {
        let page = db.read_log(range(user, from - 1, *to)).await.unwrap();
        let segment = Segment::pack(state.generation, &page.ops).unwrap();
        commit.state.sealed_seq = *to;
        commit.state.sealed_max_op_id = commit.state.sealed_max_op_id.max(Some(segment.max_op_id.clone()));
        commit.seal.push(segment);
    }
    apply(db, commit).await
}

/// Two accounts with the same fourteen operations; of the second one most are packed.
async fn twins(db: &Db) -> (UserId, UserId) {
    let (plain, packed) = (account(db, "plain").await, account(db, "packed").await);
    for user in [plain, packed] {
        apply(db, append(user, &state(db, user).await, ops(14))).await;
    }
    seal(db, packed, &[(1, 4), (5, 6), (8, 11)]).await;
    (plain, packed)
}

pub async fn a_page_does_not_show_what_is_packed(db: Db) {
    let (plain, packed) = twins(&db).await;
    let same = async |range: LogRange<'static>| {
        let expected = db.read_log(LogRange { user: plain, ..range }).await.unwrap();
        let page = db.read_log(LogRange { user: packed, ..range }).await.unwrap();
        assert_eq!((&page.ops, page.has_more), (&expected.ops, expected.has_more), "{range:?}");
        let outgoing = db.read_outgoing(LogRange { user: packed, ..range }).await.unwrap();
        assert_eq!(outgoing.has_more, expected.has_more, "{range:?}");
        let wanted: Vec<_> = expected.ops.iter().map(|op| (op.server_seq, encoded(op))).collect();
        let sent = outgoing.ops.into_iter().map(|op| (op.seq, op.json));
        assert_eq!(sent.collect::<Vec<_>>(), wanted, "{range:?}");
    };
    for after in 0..=14 {
        for up_to in after..=15 {
            same(range(plain, after, up_to)).await;
        }
        for limit in 1..=15 {
            same(LogRange { limit, ..range(plain, after, 14) }).await;
            let beyond = LogRange { limit, ..range(packed, after, i64::MAX) };
            let expected = db.read_log(range(plain, after, 14)).await.unwrap().ops.into_iter().take(limit);
            assert!(expected.eq(db.read_log(beyond).await.unwrap().ops), "{beyond:?}");
        }
        for max_bytes in (0..=9_000).step_by(250) {
            same(LogRange { max_bytes, ..range(plain, after, 14) }).await;
        }
        for client in ["A", "B", "C"] {
            for limit in [1, 2, 3, 100] {
                same(LogRange { exclude_client: Some(client), limit, ..range(plain, after, 14) }).await;
            }
        }
    }
}

pub async fn a_foreign_operation_is_found_behind_many_packed_own(db: Db) {
    let user = account(&db, "a").await;
    let last = append_many(&db, user, "A", 11_000).await.last_seq;
    append_many(&db, user, "B", 1).await;
    append_many(&db, user, "A", 300).await;
    let runs: Vec<(Seq, Seq)> = (0..22).map(|n| (n * 500 + 1, (n + 1) * 500)).collect();
    assert_eq!(seal(&db, user, &runs).await.sealed_seq, 11_000);
    let others = LogRange { exclude_client: Some("A"), ..range(user, 0, last + 301) };
    assert_eq!(seqs(&db.read_log(others).await.unwrap()), [11_001]);
    let rest = db.read_log(LogRange { after: 11_001, ..others }).await.unwrap();
    assert_eq!((seqs(&rest), rest.has_more), (vec![], false));
    let all = db.read_log(LogRange { limit: 20_000, ..range(user, 0, last + 301) }).await.unwrap();
    assert!(all.ops.iter().map(|op| op.server_seq).eq(1..=last + 301) && !all.has_more);
}

pub async fn packed_operations_are_found_by_id(db: Db) {
    let (_, packed) = twins(&db).await;
    let ids: Vec<String> = ["op-3", "op-9", "op-13", "op-15", "no", "op-10"].map(str::to_owned).to_vec();
    let mut found = db.find_ops(packed, 0, &ids).await.unwrap();
    found.sort_by_key(|op| op.server_seq);
    let all = ops(14);
    assert_eq!(found, [3, 9, 10, 13].map(|seq: usize| all[seq - 1].clone()));
    assert!(db.find_ops(packed, 1, &ids).await.unwrap().is_empty(), "another generation");
    assert!(db.find_ops(packed, 0, &["op-2x".to_owned()]).await.unwrap().is_empty(), "between two that are there");
}

pub async fn packed_operations_are_measured_and_dated(db: Db) {
    let (plain, packed) = twins(&db).await;
    for after in 0..=14 {
        for up_to in after..=15 {
            let expected = db.measure(plain, after, up_to).await.unwrap();
            assert_eq!(db.measure(packed, after, up_to).await.unwrap(), expected, "({after}, {up_to}]");
            for since_ms in [0, 30, 31, 60, 110, 111, 141] {
                let expected = db.received_since(plain, after, up_to, since_ms).await.unwrap();
                let found = db.received_since(packed, after, up_to, since_ms).await.unwrap();
                assert_eq!(found, expected, "({after}, {up_to}] since {since_ms}");
            }
        }
    }
}

pub async fn packed_operations_are_deleted_in_steps(db: Db) {
    let (_, packed) = twins(&db).await;
    let delete = async |after, up_to, limit| db.delete_ops(packed, after, up_to, limit).await.unwrap();
    assert_eq!(delete(0, 2, 100).await, 2, "a segment that only begins in the range is unpacked");
    assert_eq!(stored_seqs(&db, packed).await, (3..=14).collect::<Vec<_>>());
    let mut total = 0;
    loop {
        let deleted = delete(2, 10, 3).await;
        assert!(deleted <= 3);
        total += deleted;
        if deleted == 0 {
            break;
        }
    }
    assert_eq!(total, 8);
    assert_eq!(stored_seqs(&db, packed).await, [11, 12, 13, 14]);
}

pub async fn a_log_is_truncated_in_the_middle_of_a_segment(db: Db) {
    let (plain, packed) = twins(&db).await;
    for user in [plain, packed] {
        assert_eq!(db.truncate_log(user, 9).await.unwrap(), 5);
    }
    assert_eq!(stored_seqs(&db, packed).await, (1..=9).collect::<Vec<_>>());
    let (expected, after) = (state(&db, plain).await, state(&db, packed).await);
    assert_eq!(after.sealed_seq, 9);
    let neutral = |state: SyncState| SyncState { revision: 0, sealed_seq: 0, sealed_max_op_id: None, ..state };
    assert_eq!(neutral(after), neutral(expected));
    let sorted = |mut heads: Vec<_>| {
        heads.sort_by_key(|(key, _)| *key);
        heads
    };
    let heads = async |user| sorted(db.load_all_heads(user, 0, 100).await.unwrap().unwrap());
    assert_eq!(heads(packed).await, heads(plain).await);
    assert_eq!(db.truncate_log(packed, 4).await.unwrap(), 5);
    assert_eq!(stored_seqs(&db, packed).await, [1, 2, 3, 4]);
    append_many(&db, packed, "A", 2).await;
    assert_eq!(stored_seqs(&db, packed).await, [1, 2, 3, 4, 5, 6]);
}

pub async fn a_reset_log_has_no_segments(db: Db) {
    let (_, packed) = twins(&db).await;
    db.reset_log(packed).await.unwrap();
    let after = state(&db, packed).await;
    assert_eq!((after.sealed_seq, after.sealed_max_op_id), (0, None));
    assert_eq!(db.measure(packed, 0, 100).await.unwrap(), (0, 0));
    assert!(stored_seqs(&db, packed).await.is_empty());
}

pub async fn a_deleted_account_leaves_no_segment(db: Db) {
    let (plain, packed) = twins(&db).await;
    assert!(db.delete_user(packed).await.unwrap());
    assert!(stored_seqs(&db, packed).await.is_empty());
    assert_eq!(stored_seqs(&db, plain).await.len(), 14);
}

pub async fn the_newest_operations_are_found_in_segments(db: Db) {
    let (plain, packed) = twins(&db).await;
    for limit in 1..=15 {
        for op_type in [None, Some("UPD"), Some("SYNC_IMPORT"), Some("DEL")] {
            let expected = db.newest_ops(plain, op_type, limit).await.unwrap();
            assert_eq!(db.newest_ops(packed, op_type, limit).await.unwrap(), expected, "{limit} {op_type:?}");
        }
    }
}

pub async fn a_stale_seal_moves_nothing(db: Db) {
    let (_, packed) = twins(&db).await;
    let before = state(&db, packed).await;
    let page = db.read_log(range(packed, 11, 14)).await.unwrap();
    let mut commit = empty_commit(packed, &before);
    commit.seal.push(Segment::pack(0, &page.ops).unwrap());
    commit.expected_revision -= 1;
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Stale]);
    assert_eq!(state(&db, packed).await, before);
    assert_eq!(stored_seqs(&db, packed).await, (1..=14).collect::<Vec<_>>());
}

pub async fn a_segment_that_replaces_other_rows_is_refused(db: Db) {
    let (plain, packed) = twins(&db).await;
    let before = state(&db, packed).await;
    let mut commit = empty_commit(packed, &before);
    commit.seal.push(Segment::pack(0, &ops(16)[11..]).unwrap());
    let neighbour = append(plain, &state(&db, plain).await, vec![op(15, "A")]);
    let error = db.commit([neighbour.clone(), commit.clone()].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let error = db.commit([commit].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    assert_eq!(state(&db, packed).await, before);
    assert_eq!(stored_seqs(&db, plain).await.last(), Some(&15), "its group's other commits are applied");
}

pub async fn accounts_to_seal_are_found_in_order(db: Db) {
    let mut users = Vec::new();
    for (name, count) in [("a", 5), ("b", 2), ("c", 9)] {
        let user = account(&db, name).await;
        apply(&db, append(user, &state(&db, user).await, ops(count))).await;
        users.push(user);
    }
    let expected = |at: usize, after, last_seq| Sealable {
        user: users[at],
        generation: 0,
        after,
        last_seq,
        pages_after: 0,
        sparse_up_to: 0,
        last_segment: None,
    };
    let find = async |after, only, min_run, before_ms, limit| {
        db.sealable_accounts(after, only, min_run, before_ms, limit).await.unwrap()
    };
    assert_eq!(find(0, None, 3, 31, 10).await, [expected(0, 0, 5), expected(2, 0, 9)]);
    assert_eq!(find(0, None, 3, 30, 10).await, [], "the third is too young");
    assert_eq!(find(0, None, 3, 31, 1).await, [expected(0, 0, 5)]);
    assert_eq!(find(users[0], None, 3, 31, 10).await, [expected(2, 0, 9)]);
    assert_eq!(find(0, Some(users[2]), 3, 31, 10).await, [expected(2, 0, 9)]);
    seal(&db, users[2], &[(1, 6)]).await;
    let found = find(0, Some(users[2]), 3, 1000, 10).await;
    let last_segment = found[0].last_segment;
    assert_eq!(found, [Sealable { last_segment, ..expected(2, 6, 9) }]);
    let last = last_segment.expect("the account has a segment");
    assert_eq!(last, LastSegment { first_seq: 1, op_count: 6, storage_bytes: 621, packed_bytes: last.packed_bytes });
    assert!(last.packed_bytes > 6 * 4);
    assert_eq!(find(0, Some(users[2]), 4, 1000, 10).await, []);
}

pub async fn a_truncated_log_is_made_from_segments_too(db: Db) {
    let (_, packed) = twins(&db).await;
    // Nothing but segments and a row or two is left of what the state row said.
    assert_eq!(db.truncate_log(packed, 12).await.unwrap(), 2);
    let rebuilt = state(&db, packed).await;
    assert_eq!((rebuilt.last_seq, rebuilt.full_state.map(|mark| mark.seq)), (12, Some(7)));
    assert_eq!(rebuilt.storage_used_bytes, (1..=12).map(|seq| 100 + seq).sum::<i64>());
    assert_eq!((rebuilt.sealed_seq, rebuilt.sealed_max_op_id.as_deref()), (11, Some("op-9")));
}

pub async fn a_segment_takes_in_a_smaller_one(db: Db) {
    let (plain, packed) = (account(&db, "plain").await, account(&db, "packed").await);
    for user in [plain, packed] {
        let mut written = ops(14);
        written[6].op_type = OpType::Update;
        apply(&db, append(user, &state(&db, user).await, written)).await;
    }
    for run in [(1, 4), (5, 6), (1, 4 + 5), (1, 12)] {
        let before = state(&db, packed).await;
        let sealed = seal(&db, packed, &[run]).await;
        assert_eq!(sealed.sealed_seq, run.1);
        assert_eq!(sealed.storage_used_bytes, before.storage_used_bytes);
        for after in 0..=14 {
            let expected = db.read_log(range(plain, after, 14)).await.unwrap();
            assert_eq!(db.read_log(range(packed, after, 14)).await.unwrap().ops, expected.ops, "{run:?} after {after}");
            let expected = db.measure(plain, after, 13).await.unwrap();
            assert_eq!(db.measure(packed, after, 13).await.unwrap(), expected, "{run:?} after {after}");
        }
        let ids: Vec<String> = (1..=14).map(|n| format!("op-{n}")).collect();
        assert_eq!(db.find_ops(packed, 0, &ids).await.unwrap().len(), 14, "{run:?}");
    }
    // What is packed goes in whole segments: there is one.
    assert_eq!(db.delete_ops(packed, 0, 12, 12).await.unwrap(), 12);
    assert_eq!(stored_seqs(&db, packed).await, [13, 14]);
}

pub async fn a_segment_that_cuts_through_another_is_refused(db: Db) {
    let (_, packed) = twins(&db).await;
    let before = state(&db, packed).await;
    for (from, to) in [(2, 6), (1, 5), (9, 12), (10, 14)] {
        let page = db.read_log(range(packed, from - 1, to)).await.unwrap();
        let mut commit = empty_commit(packed, &before);
        commit.seal.push(Segment::pack(before.generation, &page.ops).unwrap());
        let error = db.commit([commit].into()).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{from} to {to}: {error}");
        assert_eq!(state(&db, packed).await, before);
        assert_eq!(stored_seqs(&db, packed).await, (1..=14).collect::<Vec<_>>());
    }
}

pub async fn growth_counts_what_is_packed_by_its_share_of_time(db: Db) {
    let (plain, packed) = twins(&db).await;
    let grown = async |user, since| db.account_overview(user, since).await.unwrap().unwrap().grown_bytes;
    let bytes = |seqs: std::ops::RangeInclusive<i64>| seqs.map(|seq| 100 + seq).sum::<i64>();
    assert_eq!(grown(plain, 40).await, bytes(5..=14));
    assert_eq!(grown(packed, 40).await, bytes(5..=14), "a segment ends there");
    // The 5th and the 6th are one segment, of the time from 40 to 60.
    assert_eq!(grown(packed, 50).await, bytes(5..=6) / 2 + bytes(7..=14));
    assert_eq!(grown(packed, 140).await, 0);
}
