//! Reading one account's log.

use bytes::Bytes;
use supersync::protocol::OpType;
use supersync::store::{Commit, LogRange, Touch};

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
    apply(&db, append(user, &before, ops.collect())).await;
    let read = async |after, max_bytes| {
        let page = db.read_log(LogRange { max_bytes, ..range(user, after, 4) }).await.unwrap();
        (seqs(&page), page.has_more)
    };
    assert_eq!(read(0, 199).await, (vec![1], true));
    assert_eq!(read(0, 200).await, (vec![1, 2], true));
    assert_eq!(read(0, 1).await, (vec![1], true));
    assert_eq!(read(0, 0).await, (vec![1], true));
    assert_eq!(read(2, 200).await, (vec![3], true));
    assert_eq!(read(3, 200).await, (vec![4], false));
    assert_eq!(read(3, 0).await, (vec![4], false));
    assert_eq!(read(0, 5_210).await, (vec![1, 2, 3, 4], false));
    assert_eq!(read(0, 5_209).await, (vec![1, 2, 3], true));
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
