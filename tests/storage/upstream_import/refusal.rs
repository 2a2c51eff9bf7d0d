//! What is refused, and that nothing is changed then.

use std::time::Duration;

use sqlx::Connection as _;

use super::{complained, failed, imported, run};
use crate::harness::{Backend, Program, TestDatabase};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    what_is_not_the_old_servers_is_refused,
    a_source_that_somebody_works_on_is_refused,
    what_somebody_writes_at_last_is_taken_too,
    a_target_with_accounts_of_its_own_is_refused,
    a_target_in_use_is_refused,
    it_asks_first,
}

#[track_caller]
fn refused(output: &std::process::Output, why: &str) {
    assert_eq!(output.status.code(), Some(4), "{}", complained(output));
    assert!(complained(output).contains(why), "{}", complained(output));
}

async fn what_is_not_the_old_servers_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    refused(&run(&OldDatabase::without_schema().await, &target, &[]).await, "it has no table users");
    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE operations DROP COLUMN vector_clock").await;
    refused(&run(&old, &target, &[]).await, "it has no column operations.vector_clock");
    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE operations ALTER COLUMN server_seq TYPE bigint").await;
    refused(&run(&old, &target, &[]).await, "operations.server_seq is of type bigint, but integer was expected");
    let ours = TestDatabase::create(Backend::Postgres).await;
    assert!(Program::run(&ours, &["migrate", "run"]).await.status.success());
    let url = ours.postgres().url();
    refused(&Program::run(&target, &["import", "--yes", "--from", &url]).await, "it is one of this server's own");
    let output = Program::run(&target, &["import", "--yes", "--from", "mysql://secret@host/name"]).await;
    refused(&output, "expected postgres://");
    assert!(!complained(&output).contains("secret"));
}

async fn a_source_that_somebody_works_on_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let other = old.session().await;
    refused(&run(&old, &target, &[]).await, "others work on the source: a program without a name (1)");
    assert_eq!(imported(&old, &target, &["--rehearsal"]).await["taken"], 3);
    other.close().await.expect("closing");
}

async fn a_target_with_accounts_of_its_own_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    assert!(Program::run(&target, &["user", "add", "me@example.org"]).await.status.success());
    let old = OldDatabase::with_data().await;
    refused(&run(&old, &target, &[]).await, "has 1 account(s) that were not taken over from this source");
    let empty = TestDatabase::create(if target_is_sqlite(&target) { Backend::Sqlite } else { Backend::Postgres }).await;
    imported(&old, &empty, &[]).await;
    old.run("DELETE FROM users WHERE id = 1").await;
    refused(&run(&old, &empty, &[]).await, "has 3 account(s) that were not taken over from this source");
}

fn target_is_sqlite(target: &TestDatabase) -> bool {
    matches!(target.settings(), supersync::config::Database::Sqlite { .. })
}

async fn a_target_in_use_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let server = Program::start(&target).await;
    let output = run(&old, &target, &[]).await;
    assert_eq!(output.status.code(), Some(4), "{}", complained(&output));
    server.kill().await;
    assert_eq!(imported(&old, &target, &[]).await["taken"], 3, "nothing had been taken");
}

/// The most likely slip: `DATABASE_URL` still names the old database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_nothing_is_made_in_the_old_servers_database() {
    let old = OldDatabase::with_data().await;
    let url = old.url();
    for arguments in [&[] as &[&str], &["import", "--yes", "--from", &url], &["migrate", "run"], &["user", "list"]] {
        let output = Program::run(old.as_target(), arguments).await;
        assert!(!output.status.success(), "{arguments:?}");
        let said = complained(&output);
        assert!(said.contains("DATABASE_URL names the old (Node) server's database"), "{arguments:?}: {said}");
    }
    let tables = old.row("SELECT count(*) FROM pg_class WHERE relname = '_sqlx_migrations'").await;
    assert_eq!(tables, serde_json::json!({ "count": 0 }));
}

async fn what_somebody_writes_at_last_is_taken_too(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let mut other = old.session().await;
    let at_last = async {
        let is_here = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name = 'supersync-import' AND query LIKE '%pg_stat_activity%')";
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !sqlx::query_scalar::<_, bool>(is_here).fetch_one(&mut other).await.expect("it answers") {
            look.tick().await;
        }
        old.ops(7, 1, 1).await;
        other.close().await.expect("closing");
    };
    let (report, ()) = tokio::join!(imported(&old, &target, &[]), at_last);
    assert_eq!((&report["operations"], &report["others"]), (&serde_json::json!(61), &serde_json::json!("")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_somebody_who_comes_meanwhile_is_named() {
    let (target, mut holding) = held_target().await;
    let old = OldDatabase::with_data().await;
    let meanwhile = async {
        await_lock(&mut holding).await;
        let other = old.session().await;
        holding.close().await.expect("closing");
        other
    };
    let (report, other) = tokio::join!(failed(1, &old, &target, &[]), meanwhile);
    assert_eq!((&report["taken"], &report["others"]), (&3.into(), &"a program without a name (1)".into()));
    other.close().await.expect("closing");
}

/// A database into which nobody can write an account until the session is closed.
async fn held_target() -> (TestDatabase, sqlx::PgConnection) {
    let target = TestDatabase::create(Backend::Postgres).await;
    assert!(Program::run(&target, &["migrate", "run"]).await.status.success());
    let mut session = target.postgres().session().await;
    let lock = "BEGIN; LOCK TABLE users IN SHARE MODE";
    sqlx::raw_sql(lock).execute(&mut session).await.expect("nobody works on it");
    (target, session)
}

/// Until an import waits for the lock.
async fn await_lock(session: &mut sqlx::PgConnection) {
    let waits = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass)";
    let mut look = tokio::time::interval(Duration::from_millis(20));
    while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut *session).await.expect("it answers") {
        look.tick().await;
    }
}

/// A server that served half of the accounts would send the devices of the others away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_no_server_starts_on_what_is_being_filled() {
    let (target, mut holding) = held_target().await;
    let old = OldDatabase::with_data().await;
    let importing = imported(&old, &target, &[]);
    let meanwhile = async {
        await_lock(&mut holding).await;
        // Without arguments it is the server.
        for arguments in [&[] as &[&str], &["migrate", "run"]] {
            let output = Program::run(&target, arguments).await;
            assert!(!output.status.success());
            assert!(complained(&output).contains("an import or a restore is filling the database"));
        }
        holding.close().await.expect("closing");
    };
    let (report, ()) = tokio::join!(importing, meanwhile);
    assert_eq!(report["taken"], 3);
    Program::start(&target).await.kill().await;
}

async fn it_asks_first(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let url = old.url();
    refused(&Program::run(&target, &["import", "--from", &url]).await, "nothing was changed");
    assert_eq!(imported(&old, &target, &[]).await["unchanged"], 0);
}
