//! What only the embedded database promises.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use supersync::config;
use supersync::store::{self, StoreError};

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
    // Chosen anew whenever the log starts over at its beginning.
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
