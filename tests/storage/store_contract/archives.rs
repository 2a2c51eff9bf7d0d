//! Staging a data set beside the log, and its adoption.

use supersync::store::{Adoption, ArchiveReason, ArchivedRange, CommitOutcome, EventKind, Segment, StagedPart};

use crate::store_contract::fixture::*;

const FROM: i64 = 1_001;

fn staged(to_seq: i64) -> ArchivedRange {
    let reason = ArchiveReason::Staged;
    ArchivedRange { generation: 9, from_seq: FROM, to_seq, reason, bytes: 0, archived_at: 5 }
}

fn part(rows: &[i64], packed: &[i64]) -> StagedPart {
    let ops: Vec<_> = packed.iter().map(|seq| op(*seq, "R")).collect();
    let segments = if ops.is_empty() { Vec::new() } else { vec![Segment::pack(9, &ops).unwrap()] };
    StagedPart { staged_from: FROM, generation: 9, rows: rows.iter().map(|seq| op(*seq, "R")).collect(), segments }
}

pub async fn a_staged_range_becomes_the_data_set_at_once(db: Db) {
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 2).await;
    let events = db.last_event().await.unwrap();
    let source = ArchivedRange { from_seq: 1, to_seq: 2, generation: 0, reason: ArchiveReason::Wipe, ..staged(0) };
    let mut archive = empty_commit(user, &before);
    archive.archived.push(source.clone());
    let before = apply(&db, archive).await;

    assert!(db.begin_staging(user, &staged(FROM + 3)).await.unwrap());
    assert!(!db.begin_staging(user, &staged(FROM + 3)).await.unwrap(), "one at a place");
    assert!(db.stage(user, part(&[FROM], &[FROM + 1, FROM + 2])).await.unwrap());
    let mut large = part(&[FROM + 3], &[]);
    large.rows[0].payload = bytes::Bytes::from(vec![b'1'; 1_200_000]);
    assert!(db.stage(user, large.clone()).await.unwrap());
    assert_eq!(state(&db, user).await, before, "nobody sees anything of it");
    assert_eq!(seqs(&db.read_log(range(user, 0, before.last_seq)).await.unwrap()), [1, 2]);

    let mut adopt = empty_commit(user, &before);
    adopt.adoption = Some(Adoption { staged_from: FROM, source_from: 1 });
    adopt.state.generation = 9;
    (adopt.state.base_seq, adopt.state.pruned_seq, adopt.state.last_seq) = (FROM - 1, FROM - 1, FROM + 3);
    let stale = supersync::store::Commit { expected_revision: before.revision + 5, ..adopt.clone() };
    assert_eq!(db.commit([stale].into()).await.unwrap(), [CommitOutcome::Stale]);
    assert_eq!(db.archived(user).await.unwrap(), [staged(FROM + 3), source.clone()]);
    let after = apply(&db, adopt).await;
    assert_eq!((after.generation, after.last_seq), (9, FROM + 3));
    let page = db.read_log(range(user, FROM - 1, FROM + 3)).await.unwrap();
    assert_eq!(seqs(&page), [FROM, FROM + 1, FROM + 2, FROM + 3]);
    assert_eq!(page.ops[3].payload, large.rows[0].payload);
    let found = db.find_ops(user, 9, &[format!("op-{FROM}"), format!("op-{}", FROM + 2)]).await.unwrap();
    assert_eq!(found.len(), 2);
    let brought_back = ArchivedRange { reason: ArchiveReason::BroughtBack, archived_at: 0, ..source };
    assert_eq!(db.archived(user).await.unwrap(), [brought_back], "this copy is due");
    assert!(!db.abandon_staged(user, FROM).await.unwrap(), "it is the data set now");
    let heard = db.events_after(events, 10).await.unwrap();
    assert_eq!(
        heard.iter().map(|event| (event.user, event.kind)).collect::<Vec<_>>(),
        [(user, EventKind::DataReplaced)]
    );
}

pub async fn what_was_given_up_is_not_adopted_and_takes_nothing_in(db: Db) {
    let (user, other) = (account(&db, "a").await, account(&db, "b").await);
    let before = append_many(&db, user, "A", 2).await;
    let others = append_many(&db, other, "A", 1).await;
    assert!(db.begin_staging(user, &staged(FROM)).await.unwrap());
    assert!(db.abandon_staged(user, FROM).await.unwrap());
    assert!(!db.abandon_staged(user, FROM).await.unwrap());
    assert!(!db.stage(user, part(&[FROM], &[])).await.unwrap());
    assert!(!db.stage(user, part(&[FROM], &[])).await.unwrap());
    let mut adopt = empty_commit(user, &before);
    adopt.adoption = Some(Adoption { staged_from: FROM, source_from: 1 });
    // The others of its group are not held up by it; whether they are told so at once or look again is theirs.
    db.commit([adopt, append(other, &others, vec![op(2, "A")])].into()).await.unwrap_err();
    assert_eq!(state(&db, user).await, before);
    assert_eq!(stored_seqs(&db, user).await, [1, 2]);
    assert_eq!(stored_seqs(&db, other).await, [1, 2]);
    let abandoned = ArchivedRange { reason: ArchiveReason::Abandoned, archived_at: 0, ..staged(FROM) };
    assert_eq!(db.archived(user).await.unwrap(), std::slice::from_ref(&abandoned));
    assert_eq!(db.expired_archives(1, 10).await.unwrap(), [(user, abandoned)]);
}

pub async fn a_deleted_account_leaves_nothing_staged(db: Db) {
    let user = account(&db, "a").await;
    assert!(db.begin_staging(user, &staged(FROM + 1)).await.unwrap());
    assert!(db.stage(user, part(&[FROM], &[FROM + 1])).await.unwrap());
    assert!(db.delete_user(user).await.unwrap());
    assert_eq!(stored_seqs(&db, user).await, [0; 0]);
    assert!(!db.stage(user, part(&[FROM], &[])).await.unwrap());
    assert_eq!(stored_seqs(&db, user).await, [0; 0]);
    // On one database it is refused, on the other an error: both leave nothing.
    assert!(!db.begin_staging(user, &staged(FROM)).await.unwrap_or(false));
    assert_eq!(db.archived(user).await.unwrap(), []);
}
