//! How the embedded database's commits fail: what is reported, and that nobody is left waiting.

use std::time::Duration;

use sqlx::{Connection as _, SqliteConnection};
use supersync::store::sqlite::{SqliteOptions, SqliteStore};
use supersync::store::{CommitOutcome, StoreError};

use super::fixture::*;

async fn session(database: &SqliteDatabase) -> SqliteConnection {
    SqliteConnection::connect(&format!("sqlite://{}", database.path().display())).await.unwrap()
}

async fn run(session: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(session).await.unwrap();
}

#[tokio::test]
async fn a_commit_gives_up_on_a_lock_that_another_program_keeps() {
    let database = SqliteDatabase::create();
    let options = SqliteOptions { busy_timeout: Duration::from_millis(20), ..SqliteOptions::default() };
    let db: Db = std::sync::Arc::new(SqliteStore::open(&database.path(), options).await.unwrap());
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 1).await;
    let mut other = session(&database).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let commit = append(user, &before, vec![op(2, "A")]);
    let error = db.commit([commit.clone()].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    let error = db.set_verified(user).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    run(&mut other, "ROLLBACK").await;
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed]);
    assert_eq!(stored_seqs(&db, user).await, [1, 2]);
    other.close().await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn what_the_database_refuses_fails_alone() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let (good, bad) = (account(&db, "good").await, account(&db, "bad").await);
    let mut other = session(&database).await;
    run(
        &mut other,
        "CREATE TRIGGER refuse BEFORE INSERT ON operations WHEN NEW.client_id = 'B' \
         BEGIN SELECT RAISE(ABORT, 'not this one'); END",
    )
    .await;
    let (of_good, of_bad) = (state(&db, good).await, state(&db, bad).await);
    let refused = append(bad, &of_bad, vec![op(1, "A"), op(2, "B")]);
    let error = db.commit([refused.clone()].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Internal(_)) && error.to_string().contains("not this one"), "{error:?}");
    let group = [append(good, &of_good, vec![op(1, "A")]), refused];
    let error = db.commit(group.into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "a part has landed: {error:?}");
    assert_eq!(stored_seqs(&db, good).await, [1]);
    assert_eq!(state(&db, bad).await, of_bad, "nothing of it is left");
    assert!(stored_seqs(&db, bad).await.is_empty());

    run(&mut other, "DROP TRIGGER refuse").await;
    run(&mut other, "ALTER TABLE operations RENAME TO lost").await;
    let commit = append(bad, &of_bad, vec![op(1, "A")]);
    let error = db.commit([commit.clone()].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Internal(_)), "{error:?}");
    run(&mut other, "ALTER TABLE lost RENAME TO operations").await;
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed], "the connection still works");
    other.close().await.unwrap();
    db.close().await;
}

#[tokio::test]
async fn a_commit_goes_on_when_its_caller_goes_away() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let user = account(&db, "a").await;
    let mut before = state(&db, user).await;
    let mut abandoned = 0;
    for seq in 1..=20 {
        let commit = append(user, &before, vec![op(seq, "A")]);
        let after = commit.state.clone();
        // Polled until it waits for the thread, then dropped.
        let mut call = Box::pin(db.commit([commit].into()));
        let first = std::future::poll_fn(|context| std::task::Poll::Ready(call.as_mut().poll(context))).await;
        // The thread may have been so fast that it is done.
        abandoned += u32::from(first.is_pending());
        drop(call);
        // Whoever writes next comes after it.
        assert!(db.set_verified(user).await.unwrap());
        assert_eq!(state(&db, user).await, after);
        before = after;
    }
    assert!(abandoned > 0, "the thread does the work");
    db.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_answers_every_commit_that_waits() {
    let database = SqliteDatabase::create();
    let db = database.open().await;
    let mut calls = Vec::new();
    for n in 0..30 {
        let user = account(&db, &format!("a{n}")).await;
        let before = state(&db, user).await;
        let commit = append(user, &before, (1..=50).map(|seq| op(seq, "A")).collect());
        let db = db.clone();
        calls.push((user, tokio::spawn(async move { db.commit([commit].into()).await })));
    }
    db.close().await;
    let mut stored = Vec::new();
    for (user, call) in calls {
        match call.await.unwrap() {
            Ok(outcomes) => {
                assert_eq!(outcomes, [CommitOutcome::Committed]);
                stored.push((user, 50));
            }
            Err(StoreError::Unavailable(_)) => stored.push((user, 0)),
            Err(error) => panic!("{error:?}"),
        }
    }
    let db = database.open().await;
    for (user, count) in stored {
        assert_eq!(stored_seqs(&db, user).await.len(), count);
    }
    let late = append(1, &state(&db, 1).await, Vec::new());
    db.close().await;
    let error = db.commit([late].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}
