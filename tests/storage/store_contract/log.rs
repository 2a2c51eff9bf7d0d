//! Reading one account's log.

use bytes::Bytes;
use supersync::protocol::OpType;
use supersync::protocol::response::{OutgoingOp, encoded_len};
use supersync::store::{Commit, LARGE_PAYLOAD_BYTES, LogRange, Touch};

use super::fixture::*;

pub async fn a_page_is_bounded_in_rows(db: Db) {
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 7).await;
    let page = db.read_log(LogRange { limit: 3, ..range(user, 2, 6) }).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![3, 4, 5], true));
    let page = db.read_log(LogRange { limit: 3, ..range(user, 5, 6) }).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![6], false));
    let page = db.read_log(range(user, 7, 7)).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![], false));
}

pub async fn a_page_is_bounded_in_bytes_but_never_empty(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let ops = [100, 100, 5_000, 10].into_iter().zip(1..).map(|(size, seq)| {
        let mut op = op(seq, "A");
        op.payload = Bytes::from(vec![b' '; size]);
        op
    });
    let ops: Vec<_> = ops.collect();
    // As clients get them.
    let bytes: Vec<_> = ops.iter().map(encoded_len).collect();
    assert!(bytes[0] > 100 && bytes[2] > 5_000);
    apply(&db, append(user, &before, ops)).await;
    let read = async |after, max_bytes| {
        let page = db.read_log(LogRange { max_bytes, ..range(user, after, 4) }).await.unwrap();
        (seqs(&page), page.has_more)
    };
    let two = bytes[0] + bytes[1];
    assert_eq!(read(0, two - 1).await, (vec![1], true));
    assert_eq!(read(0, two).await, (vec![1, 2], true));
    assert_eq!(read(0, 1).await, (vec![1], true));
    assert_eq!(read(0, 0).await, (vec![1], true));
    assert_eq!(read(2, two).await, (vec![3], true));
    assert_eq!(read(3, two).await, (vec![4], false));
    assert_eq!(read(3, 0).await, (vec![4], false));
    let all = bytes.iter().sum::<usize>();
    assert_eq!(read(0, all).await, (vec![1, 2, 3, 4], false));
    assert_eq!(read(0, all - 1).await, (vec![1, 2, 3], true));
}

/// What is sent is counted, not payloads only.
pub async fn ids_and_clocks_count_for_a_page(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let ops = (1..=4).map(|seq| {
        let mut op = op(seq, "A");
        op.entity_ids = (0..1000).map(|n| format!("{n}{}", "x".repeat(200)).into()).collect();
        op
    });
    apply(&db, append(user, &before, ops.collect())).await;
    let page = LogRange { max_bytes: 450_000, ..range(user, 0, 4) };
    let (read, sent) = (db.read_log(page).await.unwrap(), db.read_outgoing(page).await.unwrap());
    assert_eq!((seqs(&read), read.has_more), (vec![1, 2], true));
    assert_eq!((sent.ops.len(), sent.has_more), (2, true));
    assert!(sent.ops.iter().map(OutgoingOp::len).sum::<usize>() <= 450_000);
}

pub async fn a_large_payload_is_read_in_pieces(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let size = 2 * LARGE_PAYLOAD_BYTES + 12_345;
    let payload: Vec<u8> =
        (0..size).map(|n| if n % 1000 == 0 { b'\\' } else { b'a' + u8::try_from(n % 7).unwrap() }).collect();
    let mut ops = vec![op(1, "A"), op(2, "B"), op(3, "A")];
    ops[1].payload = payload.into();
    apply(&db, append(user, &before, ops.clone())).await;
    let page = db.read_outgoing(range(user, 0, 3)).await.unwrap();
    let [first, large, last] = &page.ops[..] else { panic!("three") };
    assert_eq!((first.gap, last.gap), (None, None));
    let (at, bytes) = large.gap.unwrap();
    assert_eq!((large.seq, bytes), (2, size));
    let mut whole = large.json[..at].to_vec();
    let mut piece = 0;
    while let Some(data) = db.read_payload(user, 2, piece).await.unwrap() {
        assert!(!data.is_empty() && data.len() <= LARGE_PAYLOAD_BYTES);
        whole.extend_from_slice(&data);
        piece += 1;
    }
    whole.extend_from_slice(&large.json[at..]);
    assert_eq!(Bytes::from(whole), encoded(&ops[1]));
    assert_eq!(db.read_payload(user, 2, usize::MAX).await.unwrap(), None);
    assert_eq!(db.read_payload(user, 4, 0).await.unwrap(), None, "no such operation");
    let other = account(&db, "b").await;
    assert_eq!(db.read_payload(other, 2, 0).await.unwrap(), None, "somebody else's");
    // Its size counts for a page as if it were in it.
    let bounded = db.read_outgoing(LogRange { max_bytes: size, ..range(user, 0, 3) }).await.unwrap();
    assert_eq!((bounded.ops.len(), bounded.has_more), (1, true));
}

pub async fn a_page_that_is_full_at_the_end_has_no_more(db: Db) {
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 3).await;
    let page = db.read_log(LogRange { limit: 3, ..range(user, 0, 3) }).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![1, 2, 3], false));
}

pub async fn the_own_device_is_left_out(db: Db) {
    let user = account(&db, "a").await;
    for client in ["A", "B", "A", "A", "B"] {
        append_many(&db, user, client, 1).await;
    }
    let others = |client: &'static str, limit| LogRange { exclude_client: Some(client), limit, ..range(user, 0, 5) };
    let page = db.read_log(others("A", 10)).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![2, 5], false));
    let page = db.read_log(others("A", 1)).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![2], true));
    let page = db.read_log(others("B", 2)).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![1, 3], true));
    let page = db.read_log(others("C", 10)).await.unwrap();
    assert_eq!(seqs(&page), [1, 2, 3, 4, 5]);
}

pub async fn a_single_foreign_operation_is_found_behind_many_own(db: Db) {
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 12_000).await;
    append_many(&db, user, "B", 1).await;
    let last = append_many(&db, user, "A", 12_000).await.last_seq;
    let others = LogRange { exclude_client: Some("A"), ..range(user, 0, last) };
    let page = db.read_log(others).await.unwrap();
    assert_eq!(seqs(&page), [12_001]);
    // Whether the page ends there or says that there may be more: the next one must end it.
    let rest = db.read_log(LogRange { after: 12_001, ..others }).await.unwrap();
    assert_eq!((seqs(&rest), rest.has_more), (vec![], false));
}

pub async fn operations_are_found_by_id_within_their_generation(db: Db) {
    let user = account(&db, "a").await;
    let stranger = account(&db, "b").await;
    append_many(&db, stranger, "A", 3).await;
    append_many(&db, user, "A", 2).await;
    let ids = ["op-2".to_owned(), "op-3".to_owned(), "OP-1".to_owned()];
    let found = db.find_ops(user, 0, &ids).await.unwrap();
    assert_eq!(found, [op(2, "A")]);
    assert!(db.find_ops(user, 1, &ids).await.unwrap().is_empty());
    assert!(db.find_ops(user, 0, &[]).await.unwrap().is_empty());
}

pub async fn full_states_come_newest_first(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let types = [
        OpType::SyncImport,
        OpType::Update,
        OpType::Repair,
        OpType::BackupImport,
        OpType::Repair,
        OpType::Batch,
        OpType::SyncImport,
    ];
    let ops = types.into_iter().zip(1..).map(|(op_type, seq)| {
        let mut op = op(seq, "A");
        op.op_type = op_type;
        op.repair_base_server_seq = (seq == 5).then_some(4);
        op.is_payload_encrypted = seq == 4;
        op
    });
    apply(&db, append(user, &before, ops.collect())).await;
    let rows = db.full_states(user, 1, 6, 10).await.unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|r| (r.seq, r.id.as_str(), r.op_type, r.repair_base_server_seq, r.is_payload_encrypted, r.timestamp))
        .collect();
    assert_eq!(
        rows,
        [
            (5, "op-5", OpType::Repair, Some(4), false, 5_005),
            (4, "op-4", OpType::BackupImport, None, true, 5_004),
            (3, "op-3", OpType::Repair, None, false, 5_003),
        ]
    );
    let newest: Vec<_> = db.full_states(user, 0, 7, 2).await.unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(newest, [7, 5]);
}

pub async fn heads_are_read_from_the_log(db: Db) {
    let user = account(&db, "a").await;
    let before = state(&db, user).await;
    let mut ops: Vec<_> = (1..=4).map(|seq| op(seq, "A")).collect();
    ops[0].entity_id = Some("t1".into());
    ops[1].entity_id = Some("t2".into());
    ops[1].entity_ids = vec!["t2".into(), "t3".into()];
    ops[2].entity_id = Some("t1".into());
    ops[3].entity_id = None;
    apply(&db, Commit { heads: Vec::new(), ..append(user, &before, ops.clone()) }).await;
    let mut heads = db.heads_of_log(user, 0, 3).await.unwrap();
    heads.sort_by_key(|(key, _)| *key);
    let mut expected = vec![
        (key("TASK", "t1"), head(&ops[2])),
        (key("TASK", "t2"), head(&ops[1])),
        (key("TASK", "t3"), head(&ops[1])),
    ];
    expected.sort_by_key(|(key, _)| *key);
    assert_eq!(heads, expected);
    assert_eq!(db.heads_of_log(user, 0, 1).await.unwrap(), [(key("TASK", "t1"), head(&ops[0]))]);
    assert!(db.heads_of_log(user, 3, 9).await.unwrap().is_empty(), "it touches no entity");
    assert!(db.heads_of_log(999_999, 0, 9).await.unwrap().is_empty());
}

pub async fn operations_are_measured_and_dated(db: Db) {
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 4).await;
    assert_eq!(db.measure(user, 1, 3).await.unwrap(), (40, 2));
    assert_eq!(db.measure(user, 4, 9).await.unwrap(), (0, 0));
    // Operation n was received at 10,000 + n.
    assert!(db.received_since(user, 0, 4, 10_004).await.unwrap());
    assert!(!db.received_since(user, 0, 4, 10_005).await.unwrap());
    assert!(!db.received_since(user, 0, 3, 10_004).await.unwrap());
    assert!(!db.received_since(user, 4, 9, 0).await.unwrap());
}

pub async fn a_missing_account_is_none(db: Db) {
    assert!(db.load_account(999_999).await.unwrap().is_none());
    assert!(db.read_log(range(999_999, 0, 10)).await.unwrap().ops.is_empty());
    assert!(db.load_snapshot(999_999).await.unwrap().is_none());
    db.touch_devices(&[Touch::new(999_999, "A", 1)]).await.unwrap();
    assert!(db.devices(999_999, 0, 10).await.unwrap().is_empty());
}

pub async fn devices_keep_the_latest_time(db: Db) {
    let user = account(&db, "a").await;
    for (client, at) in [("A", 10), ("B", 20), ("A", 30), ("A", 5), ("C", 1)] {
        db.touch_devices(&[Touch::new(user, client, at)]).await.unwrap();
    }
    let mut commit = empty_commit(user, &state(&db, user).await);
    commit.devices = vec![("B".into(), 15)];
    apply(&db, commit).await;
    let seen = |since, limit| {
        let db = db.clone();
        async move {
            let devices = db.devices(user, since, limit).await.unwrap();
            devices.into_iter().map(|d| (d.client_id, d.last_seen_at)).collect::<Vec<_>>()
        }
    };
    assert_eq!(seen(20, 10).await, [("A".to_owned(), 30), ("B".to_owned(), 20)]);
    assert_eq!(seen(0, 1).await, [("A".to_owned(), 30)]);
    assert_eq!(seen(31, 10).await, []);
}
