//! What only the database server promises.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use supersync::config;
use supersync::store::{self, CommitOutcome, StoreError, Touch};

use super::fixture::*;
use crate::harness::postgres::TestDatabase;

/// Waits until a session of the store waits for a lock, and returns its process number.
async fn blocked_backend(session: &mut PgConnection) -> i32 {
    loop {
        let found: Option<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'supersync' \
             AND wait_event_type = 'Lock'",
        )
        .fetch_optional(&mut *session)
        .await
        .unwrap();
        if let Some(pid) = found {
            return pid;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_instances_may_start_at_once() {
    let database = TestDatabase::create().await;
    let config = Arc::new(postgres_config(&database));
    let starting: Vec<_> = (0..4)
        .map(|_| {
            let config = Arc::clone(&config);
            tokio::spawn(async move { store::open(&config, Duration::from_mins(1)).await.unwrap() })
        })
        .collect();
    let mut instances = Vec::new();
    for instance in starting {
        instances.push(instance.await.unwrap());
    }
    let user = account(&instances[0], "a").await;
    for instance in &instances {
        append_many(instance, user, "A", 1).await;
    }
    assert_eq!(stored_seqs(&instances[0], user).await, [1, 2, 3, 4]);
    for instance in instances {
        instance.close().await;
    }
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_together_until_their_window_ends() {
    let database = TestDatabase::create().await;
    let (one, two) = (open_postgres(&database).await, open_postgres(&database).await);
    let count = async |db: &Db, key: &str, window| db.count_together(key, window).await.unwrap().unwrap();
    let long = Duration::from_mins(15);
    let mut counting = tokio::task::JoinSet::new();
    for n in 0..40 {
        let db = if n % 2 == 0 { one.clone() } else { two.clone() };
        counting.spawn(async move { db.count_together("Login ::1", long).await.unwrap().unwrap().count });
    }
    let mut counts = counting.join_all().await;
    counts.sort_unstable();
    assert_eq!(counts, (1..=40).collect::<Vec<_>>(), "each once");
    let other = count(&two, "Login ::2", long).await;
    assert!(other.count == 1 && other.left <= long && other.left > long / 2, "{other:?}");
    // Windows that are over start over, and those of others go.
    for key in ["a", "b", "c"] {
        assert_eq!(count(&one, key, Duration::ZERO).await.count, 1);
    }
    assert_eq!(count(&one, "c", long).await.count, 1);
    let mut session = database.session().await;
    let keys: Vec<String> =
        sqlx::query_scalar("SELECT key FROM request_counts ORDER BY key").fetch_all(&mut session).await.unwrap();
    assert_eq!(keys, ["Login ::1", "Login ::2", "c"]);
    session.close().await.unwrap();
    for db in [one, two] {
        db.close().await;
    }
    database.remove().await;
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let database = TestDatabase::create().await;
    let config = postgres_config(&database);
    let status = store::migration_status(&config).await.unwrap();
    assert!(!status.is_empty() && status.iter().all(|migration| migration.known && !migration.applied));
    open_postgres(&database).await.close().await;
    assert!(store::migration_status(&config).await.unwrap().iter().all(|migration| migration.applied));
    let mut session = database.session().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'from the future', true, '', 0)",
    )
    .execute(&mut session)
    .await
    .unwrap();
    let Err(StoreError::Refused(text)) = store::open(&config, Duration::from_mins(1)).await.map(|_| ()) else {
        panic!("opened a newer schema");
    };
    assert!(text.contains("9999") && text.contains("newer version"), "{text}");
    database.remove().await;
}

#[tokio::test]
async fn a_schema_of_its_own_is_created_and_used() {
    let database = TestDatabase::create().await;
    let mut config = postgres_config(&database);
    let config::Database::Postgres { schema, .. } = &mut config else { panic!("not PostgreSQL") };
    *schema = Some("sync \"2\"".to_owned());
    let db = store::open(&config, Duration::from_mins(1)).await.unwrap();
    let user = account(&db, "a").await;
    append_many(&db, user, "A", 2).await;
    db.delete_user(user).await.unwrap();
    db.close().await;
    let mut session = database.session().await;
    let tables: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'sync \"2\"'")
        .fetch_one(&mut session)
        .await
        .unwrap();
    assert!(tables > 5);
    database.remove().await;
}

#[tokio::test]
async fn what_is_no_postgres_url_is_refused() {
    let config = config::Database::Postgres {
        url: "postgres://host:notaport/db".to_owned().into(),
        direct_url: None,
        pgbouncer: false,
        max_connections: 1,
        acquire_timeout: Duration::from_secs(1),
        schema: None,
    };
    let error = store::open(&config, Duration::from_secs(1)).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("DATABASE_URL")), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let config = config::Database::Postgres {
        url: format!("postgres://nobody@127.0.0.1:{port}/none").into(),
        direct_url: None,
        pgbouncer: false,
        max_connections: 1,
        acquire_timeout: Duration::from_secs(1),
        schema: None,
    };
    let error = store::open(&config, Duration::from_secs(1)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_takes_too_long_stops_in_the_server() {
    let database = TestDatabase::create().await;
    let db = store::open(&postgres_config(&database), Duration::from_millis(500)).await.unwrap();
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 1).await;
    db.touch_devices(&[Touch::new(user, "A", 1)]).await.unwrap();

    let mut session = database.session().await;
    let mut other = database.session().await;
    let mut lock = session.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM user_sync_state, sync_devices FOR UPDATE").execute(&mut *lock).await.unwrap();
    let commit = append(user, &before, vec![op(2, "A")]);
    let committing = tokio::spawn({
        let (db, commit) = (db.clone(), commit.clone());
        async move { db.commit_patiently(&commit).await }
    });
    let pid = blocked_backend(&mut other).await;
    let error = committing.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Timeout(_)), "{error:?}");
    let error = db.touch_devices(&[Touch::new(user, "A", 9)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Timeout(_)), "{error:?}");
    let running: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND (pid = $1 AND state = 'active' OR wait_event_type = 'Lock')",
    )
    .bind(pid)
    .fetch_one(&mut other)
    .await
    .unwrap();
    assert_eq!(running, 0, "the statement still runs in the server");
    lock.rollback().await.unwrap();

    assert_eq!(state(&db, user).await, before);
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed]);
    db.close().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_does_not_wait_for_a_lock_that_somebody_else_holds() {
    let database = TestDatabase::create().await;
    let db = open_postgres(&database).await;
    let mut group = Vec::new();
    for name in ["a", "b", "c"] {
        let user = account(&db, name).await;
        group.push(append(user, &state(&db, user).await, vec![op(1, "A")]));
    }
    let mut session = database.session().await;
    let mut lock = session.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM user_sync_state WHERE user_id = $1 FOR UPDATE")
        .bind(group[1].user)
        .execute(&mut *lock)
        .await
        .unwrap();
    let outcomes = db.commit(group.clone().into()).await.unwrap();
    assert_eq!(outcomes, [CommitOutcome::Committed, CommitOutcome::Contended, CommitOutcome::Committed]);
    let waiting = tokio::spawn({
        let (db, commit) = (db.clone(), group[1].clone());
        async move { db.commit_patiently(&commit).await }
    });
    blocked_backend(&mut database.session().await).await;
    lock.rollback().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [CommitOutcome::Committed]);
    db.close().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_during_a_commit_leaves_the_outcome_open() {
    let database = TestDatabase::create().await;
    let db = open_postgres(&database).await;
    let user = account(&db, "a").await;
    let before = append_many(&db, user, "A", 1).await;
    let mut session = database.session().await;
    let mut other = database.session().await;
    let mut lock = session.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM user_sync_state FOR UPDATE").execute(&mut *lock).await.unwrap();

    let commit = append(user, &before, vec![op(2, "A")]);
    let committing = tokio::spawn({
        let (db, commit) = (db.clone(), commit.clone());
        async move { db.commit_patiently(&commit).await }
    });
    let pid = blocked_backend(&mut other).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut other).await.unwrap();
    let error = committing.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_)), "{error:?}");

    // The rare path sends COMMIT at the end: cut off before that, it has certainly not been applied.
    let mut rare = commit.clone();
    rare.clear_devices = true;
    let committing = tokio::spawn({
        let db = db.clone();
        async move { db.commit_patiently(&rare).await }
    });
    let pid = blocked_backend(&mut other).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut other).await.unwrap();
    let error = committing.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");

    lock.rollback().await.unwrap();
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed], "a new connection is made");
    db.close().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_requests_hold_up_neither_commits_nor_health_checks() {
    let database = TestDatabase::create().await;
    let db = open_postgres(&database).await;
    let user = account(&db, "a").await;
    db.touch_devices(&[Touch::new(user, "A", 1)]).await.unwrap();
    let mut session = database.session().await;
    let mut other = database.session().await;
    let mut lock = session.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM sync_devices FOR UPDATE").execute(&mut *lock).await.unwrap();
    // As many as there are connections for requests.
    let stuck: Vec<_> = (0..4)
        .map(|_| {
            let db = db.clone();
            tokio::spawn(async move { db.touch_devices(&[Touch::new(user, "A", 2)]).await })
        })
        .collect();
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(&mut other)
        .await
        .unwrap();
        if waiting == 4 {
            break;
        }
    }
    db.ping().await.unwrap();
    let commit = append(user, &supersync::store::SyncState::default(), vec![op(1, "A")]);
    assert_eq!(db.commit([commit].into()).await.unwrap(), [CommitOutcome::Committed]);
    assert_eq!(db.delete_ops(user, 0, 0, 1).await.unwrap(), 0, "housekeeping has a connection of its own");
    lock.rollback().await.unwrap();
    for request in stuck {
        request.await.unwrap().unwrap();
    }
    db.close().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_lock_the_same_accounts_don_t_fail() {
    let database = TestDatabase::create().await;
    let (one, two) = (open_postgres(&database).await, open_postgres(&database).await);
    let mut users = Vec::new();
    for n in 0..20 {
        users.push(account(&one, &format!("u{n}")).await);
    }
    let run = |db: Db, users: Vec<i64>| {
        tokio::spawn(async move {
            let mut committed = 0;
            for _ in 0..25 {
                let mut group = Vec::new();
                for user in &users {
                    let before = state(&db, *user).await;
                    let next = op(before.last_seq + 1, "A");
                    group.push(append(*user, &before, vec![next]));
                }
                let outcomes = db.commit(group.clone().into()).await.unwrap();
                committed += outcomes.iter().filter(|outcome| **outcome == CommitOutcome::Committed).count();
            }
            committed
        })
    };
    let reversed = users.iter().rev().copied().collect();
    let (first, second) = (run(one.clone(), users.clone()), run(two.clone(), reversed));
    let committed = first.await.unwrap() + second.await.unwrap();
    let mut stored = 0;
    for user in users {
        let seqs = stored_seqs(&one, user).await;
        assert_eq!(seqs, (1..=i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>(), "gapless");
        stored += seqs.len();
    }
    assert_eq!(stored, committed);
    one.close().await;
    two.close().await;
    database.remove().await;
}

#[tokio::test]
async fn a_lost_state_row_is_rebuilt_from_the_log() {
    let database = TestDatabase::create().await;
    let db = open_postgres(&database).await;
    let user = account(&db, "a").await;
    let mut before = append_many(&db, user, "A", 3).await;
    (before.generation, before.base_seq, before.pruned_seq) = (1, 3, 3);
    let mut next = op(4, "B");
    next.id = "op-1".into();
    let before = apply(&db, append(user, &before, vec![next])).await;
    let mut session = database.session().await;
    sqlx::query("DELETE FROM user_sync_state").execute(&mut session).await.unwrap();
    let after = state(&db, user).await;
    assert_eq!((after.generation, after.base_seq, after.pruned_seq, after.last_seq), (1, 3, 3, 4));
    assert_eq!((after.storage_used_bytes, &after.clock), (20, &clock(&[("B", 4)])), "of this generation only");
    assert!(after.revision > before.revision);
    append_many(&db, user, "A", 1).await;
    assert_eq!(stored_seqs(&db, user).await, [1, 2, 3, 4, 5]);
    db.close().await;
    database.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_deleted_during_a_commit_leaves_no_rows() {
    let database = TestDatabase::create().await;
    let db = open_postgres(&database).await;
    let user = account(&db, "a").await;
    let mut last = append_many(&db, user, "A", 1).await;
    let writing = tokio::spawn({
        let db = db.clone();
        async move {
            loop {
                let next = last.last_seq + 1;
                let mut commit = append(user, &last, vec![op(next, "A")]);
                commit.devices.push((format!("D{next}"), 1));
                if db.commit([commit].into()).await.unwrap() == [CommitOutcome::Stale] {
                    break;
                }
                last.revision += 1;
                last.last_seq = next;
            }
        }
    });
    assert!(db.delete_user(user).await.unwrap());
    writing.await.unwrap();
    assert!(stored_seqs(&db, user).await.is_empty());
    assert!(db.load_all_heads(user, 0, 10).await.unwrap().unwrap().is_empty());
    db.close().await;
    database.remove().await;
}
