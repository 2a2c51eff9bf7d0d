//! What only the embedded database promises.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use supersync::config;
use supersync::protocol::response::OutgoingOp;
use supersync::protocol::{Seq, StoredOp};
use supersync::store::{self, CommitOutcome, LogRange, StoreError, SyncState};

use super::fixture::*;

async fn session(database: &SqliteDatabase) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", database.path().display())).await.unwrap()
}

#[tokio::test]
async fn a_second_process_is_refused_until_the_first_has_closed() {
    let database = SqliteDatabase::create();
    let first = database.open().await;
    let Err(StoreError::Refused(text)) = database.try_open().await.map(|_| ()) else {
        panic!("opened twice");
    };
    assert!(text.contains("in use by another process") && text.contains("PostgreSQL"), "{text}");
    account(&first, "still-works").await;
    first.close().await;
    database.open().await.close().await;
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let database = SqliteDatabase::create();
    let first = database.open().await;
    let user = account(&first, "a").await;
    let before = append_many(&first, user, "A", 3).await;
    // Dropped without closing, as if the process had been killed: no final checkpoint.
    drop(first);
    let mut again = database.try_open().await;
    while let Err(StoreError::Refused(_)) = again {
        // The connections' threads end on their own; the lock goes with the store.
        tokio::task::yield_now().await;
        again = database.try_open().await;
    }
    let again = again.unwrap();
    assert_eq!(state(&again, user).await, before);
    assert_eq!(stored_seqs(&again, user).await, [1, 2, 3]);
    again.close().await;
    let wal = database.path().with_extension("db-wal");
    assert!(
        std::fs::metadata(&wal).map_or(0, |file| file.len()) == 0,
        "closing folds the write-ahead log into the file"
    );
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let database = SqliteDatabase::create();
    database.open().await.close().await;
    let mut session = session(&database).await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', 1, x'00', 0)",
    )
    .execute(&mut session)
    .await
    .unwrap();
    session.close().await.unwrap();

    let Err(StoreError::Refused(text)) = database.try_open().await.map(|_| ()) else {
        panic!("opened a newer schema");
    };
    assert!(text.contains("9999") && text.contains("newer version"), "{text}");
    let status = store::migration_status(&config::Database::Sqlite { path: database.path() }).await.unwrap();
    let last = status.last().unwrap();
    assert_eq!((last.version, last.known, last.applied), (9999, false, true));
    assert!(status[0].known && status[0].applied);
}

#[tokio::test]
async fn a_missing_file_lacks_every_migration() {
    let database = SqliteDatabase::create();
    let config = config::Database::Sqlite { path: database.path() };
    let status = store::migration_status(&config).await.unwrap();
    assert!(!status.is_empty() && status.iter().all(|migration| migration.known && !migration.applied));
    assert!(!database.path().exists(), "asking creates nothing");
}

#[tokio::test]
async fn a_lost_state_row_is_rebuilt_from_the_log() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let user = account(&db, "a").await;
    let mut before = append_many(&db, user, "A", 3).await;
    (before.generation, before.base_seq, before.pruned_seq) = (1, 3, 3);
    let mut next = op(4, "B");
    next.id = "op-1".into();
    let before = apply(&db, append(user, &before, vec![next])).await;
    let mut session = session(&database).await;
    sqlx::query("DELETE FROM user_sync_state").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
    let after = state(&db, user).await;
    assert_eq!((after.generation, after.base_seq, after.pruned_seq, after.last_seq), (1, 3, 3, 4));
    assert_eq!((after.storage_used_bytes, &after.clock), (20, &clock(&[("B", 4)])), "of this generation only");
    assert!(after.revision > before.revision);
    append_many(&db, user, "A", 1).await;
    assert_eq!(stored_seqs(&db, user).await, [1, 2, 3, 4, 5]);
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_ahead_log_does_not_grow_without_end() {
    const MOST: u64 = 512 << 20;
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let user = account(&db, "a").await;
    let wal = database.path().with_extension("db-wal");
    let mut last = state(&db, user).await;
    // Chosen again whenever the log starts over at its beginning.
    let salt = || {
        let mut header = [0; 24];
        std::io::Read::read_exact(&mut std::fs::File::open(&wal).unwrap(), &mut header).unwrap();
        header[16..].to_vec()
    };
    let mut salts = vec![salt()];
    let started_over = async {
        while salts.len() < 4 {
            let mut large = op(last.last_seq + 1, "A");
            large.payload = vec![b'x'; 2 << 20].into();
            last = apply(&db, append(user, &last, vec![large])).await;
            db.delete_ops(user, 0, last.last_seq, 10).await.unwrap();
            assert!(std::fs::metadata(&wal).unwrap().len() < MOST);
            let now = salt();
            if salts.last() != Some(&now) {
                salts.push(now);
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), started_over).await.expect("the log starts over while commits go on");
    db.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let mode = std::fs::metadata(database.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    db.close().await;
}

/// An operation with a payload that is written in parts, which end in the middle of a character.
fn large_op(seq: Seq) -> StoredOp {
    let payload = format!("{{\"a\":\"{}\"}}", "h\u{e9}\u{20ac}".repeat(300_000));
    StoredOp { payload: payload.into(), ..op(seq, "A") }
}

async fn parts(database: &SqliteDatabase) -> i64 {
    let mut session = session(database).await;
    let parts = sqlx::query_scalar("SELECT COUNT(*) FROM payload_parts").fetch_one(&mut session).await.unwrap();
    session.close().await.unwrap();
    parts
}

#[tokio::test]
async fn a_payload_in_parts_is_one_payload_to_whoever_reads_it() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let user = account(&db, "a").await;
    let ops = vec![op(1, "A"), large_op(2), op(3, "A"), large_op(4)];
    apply(&db, append(user, &state(&db, user).await, ops.clone())).await;
    assert!(parts(&database).await > 10, "they are in parts");

    assert_eq!(db.read_log(range(user, 0, 9)).await.unwrap().ops, ops);
    assert_eq!(db.find_ops(user, 0, &["op-2".to_owned()]).await.unwrap(), ops[1..2]);
    assert_eq!(db.newest_ops(user, None, 1).await.unwrap(), ops[3..]);
    let page = db.read_outgoing(range(user, 0, 9)).await.unwrap();
    assert_eq!(
        page.ops.iter().map(OutgoingOp::len).collect::<Vec<_>>(),
        ops.iter().map(|op| encoded(op).len()).collect::<Vec<_>>()
    );
    assert_eq!((&page.ops[0].json, &page.ops[2].json), (&encoded(&ops[0]), &encoded(&ops[2])));
    let (at, _) = page.ops[1].gap.expect("a large one");
    let mut shown = page.ops[1].json[..at].to_vec();
    for piece in 0.. {
        let Some(piece) = db.read_payload(user, 2, piece).await.unwrap() else { break };
        shown.extend_from_slice(&piece);
    }
    shown.extend_from_slice(&page.ops[1].json[at..]);
    assert_eq!(shown, encoded(&ops[1]));
    let bytes = ops[1].payload.len();
    let page = db.read_log(LogRange { max_bytes: bytes, ..range(user, 1, 9) }).await.unwrap();
    assert_eq!((seqs(&page), page.has_more), (vec![2], true), "its size counts");
    db.close().await;
}

#[tokio::test]
async fn parts_go_with_their_operation() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let mut users = Vec::new();
    for name in ["deleted", "emptied", "truncated", "reset"] {
        let user = account(&db, name).await;
        apply(&db, append(user, &state(&db, user).await, vec![large_op(1)])).await;
        users.push(user);
    }
    let all = parts(&database).await;
    assert!(db.delete_user(users[0]).await.unwrap());
    assert_eq!(parts(&database).await, all / 4 * 3);
    assert_eq!(db.delete_ops(users[1], 0, 1, 10).await.unwrap(), 1);
    assert_eq!(parts(&database).await, all / 4 * 2);
    assert_eq!(db.truncate_log(users[2], 0).await.unwrap(), 1);
    assert_eq!(parts(&database).await, all / 4);
    db.reset_log(users[3]).await.unwrap();
    assert_eq!(parts(&database).await, 0);
    db.close().await;
}

#[tokio::test]
async fn a_refused_operation_leaves_no_parts_and_harms_nobody() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let (first, second) = (account(&db, "a").await, account(&db, "b").await);
    let before = append_many(&db, first, "A", 1).await;
    let stale = SyncState { revision: before.revision - 1, ..before.clone() };
    let each = i64::try_from(large_op(1).payload.len().div_ceil(256 << 10)).unwrap();
    let mut twice = large_op(2);
    twice.id = "op-1".into();
    for (commit, expected) in [
        (append(first, &stale, vec![large_op(2)]), CommitOutcome::Stale),
        (append(first, &before, vec![twice]), CommitOutcome::DuplicateId),
    ] {
        let good = append(second, &state(&db, second).await, vec![large_op(state(&db, second).await.last_seq + 1)]);
        let kept = parts(&database).await;
        let outcomes = db.commit([commit, good].into()).await.unwrap();
        assert_eq!(outcomes, [expected, CommitOutcome::Committed]);
        let newest = db.newest_ops(second, None, 1).await.unwrap();
        assert_eq!(newest[0].payload, large_op(1).payload);
        assert_eq!(parts(&database).await - kept, each, "only the good one's parts stay");
    }
    assert_eq!(stored_seqs(&db, first).await, [1]);
    db.close().await;
}

#[tokio::test]
async fn parts_that_a_crash_left_are_gone_after_the_next_start() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let user = account(&db, "a").await;
    apply(&db, append(user, &state(&db, user).await, vec![large_op(1)])).await;
    let kept = parts(&database).await;
    let mut session = session(&database).await;
    // What there is between two parts.
    sqlx::query("INSERT INTO payload_parts VALUES (77, 0, x'7b'), (77, 1, x'7d')").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
    assert_eq!(stored_seqs(&db, user).await, [1], "nobody sees them");
    db.close().await;
    let db = database.open().await;
    assert_eq!(parts(&database).await, kept);
    assert_eq!(db.read_log(range(user, 0, 9)).await.unwrap().ops, [large_op(1)]);
    db.close().await;
}
