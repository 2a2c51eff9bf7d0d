//! What is refused, and that nothing is changed by it.

use super::{export, exported, refused};
use crate::harness::{Backend, Program, Server, TestDatabase, free_port, import, op};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    what_is_no_old_database_is_refused,
    an_older_schema_is_refused_with_what_it_lacks,
    a_database_in_use_is_refused_unless_forced,
    a_database_without_tables_is_not_read,
    data_that_is_not_in_order_is_not_written,
}

async fn small(on: Backend) -> TestDatabase {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    server.stop().await.0
}

async fn what_is_no_old_database_is_refused(on: Backend) {
    let database = small(on).await;
    for to in ["sqlite://x.db", "nowhere", "postgres://127.0.0.1"] {
        let output = Program::run(&database, &["export", "--upstream", "--to", to]).await;
        assert!(refused(&output, 4).contains("--to"), "{to}");
    }
    let nobody = format!("postgres://127.0.0.1:{}/old", free_port());
    let output = Program::run(&database, &["export", "--upstream", "--to", &nobody]).await;
    assert!(refused(&output, 5).contains("does not answer"));
    // Neither without saying where to.
    refused(&Program::run(&database, &["export", "--to", &nobody]).await, 2);

    let empty = OldDatabase::without_schema().await;
    assert!(refused(&export(&database, &empty, &[]).await, 4).contains("no database of the old server"));

    let ours = small(Backend::Postgres).await;
    let url = ours.postgres().url();
    let output = Program::run(&database, &["export", "--upstream", "--to", &url]).await;
    assert!(refused(&output, 4).contains("of this server"));
}

async fn an_older_schema_is_refused_with_what_it_lacks(on: Backend) {
    let database = small(on).await;
    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE user_sync_state DROP COLUMN latest_state_replacement_seq").await;
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("user_sync_state.latest_state_replacement_seq") && said.contains("20260727000000"), "{said}");
    assert!(said.contains("prisma migrate deploy"), "{said}");
    old.run("DROP TABLE pending_passkey_registrations").await;
    let said = refused(&export(&database, &old, &["--force"]).await, 4);
    assert!(said.contains("pending_passkey_registrations.user_id"), "{said}");

    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE users ALTER COLUMN password_hash SET NOT NULL").await;
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("users.password_hash without NOT NULL") && said.contains("20260102000000"), "{said}");

    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE operations ADD COLUMN shard INTEGER NOT NULL").await;
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("newer than what this program knows: operations.shard"), "{said}");

    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE operations ALTER COLUMN server_seq TYPE BIGINT").await;
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("operations.server_seq is of type bigint, not integer"), "{said}");
    assert!(old.rows("SELECT * FROM users").await.is_empty());

    let old = OldDatabase::create(State::Head).await;
    old.run("ALTER TABLE users ALTER COLUMN id DROP DEFAULT; DROP SEQUENCE users_id_seq").await;
    assert!(refused(&export(&database, &old, &[]).await, 4).contains("users_id_seq"));
}

async fn a_database_in_use_is_refused_unless_forced(on: Backend) {
    let database = small(on).await;
    let old = OldDatabase::create(State::Head).await;
    let mut session = old.session().await;
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("in use by a program without a name (1)") && said.contains("--force"), "{said}");
    sqlx::query("SET application_name = 'old server'").execute(&mut session).await.expect("set");
    let said = refused(&export(&database, &old, &[]).await, 4);
    assert!(said.contains("in use by old server (1)"), "{said}");
    assert!(old.rows("SELECT * FROM users").await.is_empty());
    let report = exported(&database, &old, &["--force"]).await;
    assert_eq!(report["operations"]["added"], 3);
    assert_eq!(report["serverRunning"], false);
}

async fn a_database_without_tables_is_not_read(on: Backend) {
    let old = OldDatabase::create(State::Head).await;
    let nothing = TestDatabase::create(on).await;
    let said = refused(&export(&nothing, &old, &[]).await, 4);
    assert!(said.contains("is this the server's folder?"), "{said}");
    refused(&export(&nothing, &old, &["--backup", "nowhere.ssb"]).await, 3);
}

async fn data_that_is_not_in_order_is_not_written(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A"), op("A")]).await.ok();
    server.store.delete_ops(account.id, 1, 3, 10).await.expect("the store works");
    let (database, _) = server.stop().await;
    let old = OldDatabase::create(State::Head).await;
    let output = export(&database, &old, &[]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(refused(&output, 1).contains("2 fault(s)"), "{said}");
    assert!(said.contains("operations 2 to 3 are missing"), "{said}");
    assert!(old.rows("SELECT * FROM users").await.is_empty());
    let report = exported(&database, &old, &["--accept-faults"]).await;
    assert_eq!(report["operations"]["added"], 2);
    let left = std::fs::read_dir(database.data_dir()).expect("a folder");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("export")), "{left:?}");
}
