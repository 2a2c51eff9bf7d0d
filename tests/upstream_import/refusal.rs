//! What is refused, with nothing changed on either side.

use super::data::{account, old};
use super::old::Old;
use super::{accounts, import, imported, refused};
use crate::harness::{Backend, Program, TestDatabase};

into_both_databases! {
    a_database_that_is_not_empty_is_not_filled,
    a_dry_run_changes_nothing,
}

async fn said(old: &Old, code: i32) -> String {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let said = refused(&import(&database, old, &[]).await, code);
    assert!(!database.data_dir().join("supersync.db").exists(), "not even begun");
    said
}

#[tokio::test]
async fn postgres_other_databases_are_told_apart() {
    let nothing = Old::create_without_schema().await;
    assert!(said(&nothing, 4).await.contains("no database of the old server"));
    nothing.run("CREATE TABLE users (id integer)").await;
    assert!(said(&nothing, 4).await.contains("users.email"));
    let other = Old::create().await;
    other.run("ALTER TABLE operations ALTER COLUMN server_seq TYPE bigint").await;
    let text = said(&other, 4).await;
    assert!(text.contains("operations.server_seq") && text.contains("bigint"), "{text}");
}

#[tokio::test]
async fn postgres_nobody_there_and_no_address() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let run = async |from: &str| Program::run(&database, &["import", "--from", from]).await;
    let nobody = format!("postgres://nobody:secret@127.0.0.1:{}/old", crate::harness::free_port());
    let text = refused(&run(&nobody).await, 5);
    assert!(!text.contains("secret"), "{text}");
    let text = refused(&run("mysql://nobody:secret@localhost/old").await, 4);
    assert!(text.contains("--from") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn postgres_an_old_server_that_still_runs_is_noticed() {
    let old = old(&[account(1, 5)]).await;
    let session = old.session().await;
    let text = said(&old, 4).await;
    assert!(text.contains("--rehearsal"), "{text}");
    let database = TestDatabase::create(Backend::Sqlite).await;
    assert_eq!(imported(&database, &old, &["--rehearsal"]).await["operations"], 5);
    sqlx::Connection::close(session).await.expect("closed");
}

async fn a_database_that_is_not_empty_is_not_filled(on: Backend) {
    let old = old(&[account(7, 5)]).await;
    let database = TestDatabase::create(on).await;
    let made = Program::run(&database, &["user", "add", "me@example.org"]).await;
    assert!(made.status.success());
    let text = refused(&import(&database, &old, &[]).await, 4);
    assert!(text.contains("holds 1 account"), "{text}");
    assert_eq!(accounts(&database).await, 1);
    assert_eq!(std::fs::read_dir(database.data_dir()).expect("a folder").filter(is_copy).count(), 0);
}

fn is_copy(entry: &std::io::Result<std::fs::DirEntry>) -> bool {
    entry.as_ref().expect("an entry").file_name().to_string_lossy().contains(".ssb")
}

async fn a_dry_run_changes_nothing(on: Backend) {
    let old = old(&[account(7, 5)]).await;
    let before = old.contents().await;
    let database = TestDatabase::create(on).await;
    let said = imported(&database, &old, &["--dry-run"]).await;
    assert_eq!((&said["accounts"], &said["operations"], &said["isDryRun"]), (&1.into(), &5.into(), &true.into()));
    assert_eq!(accounts(&database).await, 0);
    assert_eq!(imported(&database, &old, &[]).await["isDryRun"], false);
    assert_eq!(accounts(&database).await, 1);
    assert_eq!(old.contents().await, before, "the old database is only read");
}
