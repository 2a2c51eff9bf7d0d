//! A process that dies while it cleans up keeps the others from it for seconds.

use sqlx::Connection as _;
use tokio::time::timeout;

use crate::harness::{Backend, LONG_PATIENCE, Program, TestDatabase};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_who_starts_after_a_process_that_died_in_its_clean_up_cleans_up_within_seconds() {
    let database = TestDatabase::create(Backend::Postgres).await;
    // The tables are made by whoever starts first.
    Program::start(&database).await.kill().await;
    let mut session = database.postgres().session().await;
    let mut lock = session.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE sync_devices IN SHARE ROW EXCLUSIVE MODE").execute(&mut *lock).await.expect("locked");
    let first = Program::start_watched(&database, &[]).await;
    let mut watch = database.postgres().session().await;
    let under_way = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                       AND query LIKE 'DELETE FROM sync_devices%' AND datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watch).await.expect("an answer") == 0 {}
    };
    timeout(LONG_PATIENCE, under_way).await.expect("it is in the middle of it");
    first.kill().await;
    lock.rollback().await.expect("unlocked");
    let second = Program::start_watched(&database, &[]).await;
    let swept = second.metric_becomes("supersync_sweeps_total", 1.0);
    timeout(LONG_PATIENCE, swept).await.expect("not an hour later");
    second.kill().await;
}
