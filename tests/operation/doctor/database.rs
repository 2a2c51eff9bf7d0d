//! The database and its schema.

use std::time::Duration;

use supersync::config::Database;
use supersync::store::doctor::OWNED;
use supersync::store::{self, OpenMode, SchemaDifference};

use crate::doctor::{doctor, offline};
use crate::harness::{Backend, Program, Server, TestDatabase, free_port, import, op, snapshot, upload};

on_both_databases!(
    the_schema_is_what_the_migrations_make,
    a_database_that_is_not_there_is_no_fault_and_is_not_made,
    a_missing_index_is_made,
    a_missing_column_is_told,
    what_the_operator_has_added_is_a_note,
    pending_and_later_migrations_are_told_and_nothing_is_migrated,
    numbers_that_are_behind_are_raised,
    what_was_not_swept_away_is_deleted,
    what_was_brought_back_is_no_complaint,
    every_table_with_an_account_is_looked_at,
);

async fn migrated(on: Backend) -> TestDatabase {
    let database = TestDatabase::create(on).await;
    let store = store::open(&database.settings(), Duration::from_mins(1)).await.expect("it opens");
    store.close().await;
    database
}

/// If this fails after a new migration: `src/store/postgres/schema.txt` must be what is printed.
async fn the_schema_is_what_the_migrations_make(on: Backend) {
    let database = migrated(on).await;
    let store =
        store::open_with(OpenMode::Unlocked, &database.settings(), Duration::from_mins(1)).await.expect("it opens");
    let differences: Vec<SchemaDifference> = store.schema_differences().await.expect("it reads");
    store.close().await;
    if on == Backend::Postgres {
        let mut session = database.postgres().session().await;
        let sql = supersync::store::postgres::doctor::SCHEMA_SQL;
        let rows: Vec<(String, String, String)> =
            sqlx::query_as(sql).fetch_all(&mut session).await.expect("the schema can be read");
        let lines: Vec<_> = rows.iter().map(|row| format!("{}\t{}\t{}\n", row.0, row.1, row.2)).collect();
        let listed = include_str!("../../../src/store/postgres/schema.txt");
        assert!(lines.concat() == listed, "{}\n{differences:#?}", lines.concat());
    }
    assert_eq!(differences, []);
}

async fn a_database_that_is_not_there_is_no_fault_and_is_not_made(on: Backend) {
    let database = TestDatabase::create(on).await;
    let said = offline(&database, &["--fix"]).await;
    if on == Backend::Sqlite {
        said.exit(0).found("database", "note", "no database yet");
        assert_eq!(std::fs::read_dir(database.data_dir()).expect("readable").count(), 0);
    } else {
        said.exit(1).found("migrations", "fault", "are not applied");
        let said = offline(&database, &[]).await;
        said.found("migrations", "fault", "are not applied");
    }
}

async fn a_missing_index_is_made(on: Backend) {
    let server = Server::start(on).await;
    server.database.tamper("DROP INDEX sessions_user; DROP INDEX passkeys_credential_id_key;").await;
    let said = offline(&server.database, &[]).await;
    let all = said.exit(1).of("schema");
    assert_eq!(
        all,
        [("fault", "the index passkeys_credential_id_key is missing"), ("fault", "the index sessions_user is missing")]
    );
    let said = offline(&server.database, &["--fix"]).await;
    assert!(said.exit(0).of("schema").iter().all(|(verdict, _)| *verdict == "fixed"), "{}", said.text);
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("schema"), "ok");
}

async fn a_missing_column_is_told(on: Backend) {
    let database = migrated(on).await;
    database.tamper("ALTER TABLE sessions DROP COLUMN last_address").await;
    let said = offline(&database, &["--fix"]).await;
    said.exit(1).found("schema", "fault", "the column sessions.last_address is missing");
}

async fn what_the_operator_has_added_is_a_note(on: Backend) {
    let database = migrated(on).await;
    database.tamper("CREATE INDEX mine ON sessions (created_at)").await;
    offline(&database, &["--fix"]).await.exit(0).found("schema", "note", "the index mine is not of this program");
}

async fn pending_and_later_migrations_are_told_and_nothing_is_migrated(on: Backend) {
    let database = migrated(on).await;
    database
        .tamper(
            "INSERT INTO _sqlx_migrations SELECT 9000, description, installed_on, success, checksum, execution_time \
         FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
    let said = offline(&database, &["--fix"]).await;
    said.exit(1).found("migrations", "fault", "1 migration(s) that this program does not know");
    assert_eq!(said.verdict("sequences"), "", "nothing more is looked at");

    database.tamper("DELETE FROM _sqlx_migrations WHERE version IN (9000, 5)").await;
    for _ in 0..2 {
        let said = offline(&database, &["--fix"]).await;
        said.exit(1).found("migrations", "fault", "are not applied");
    }
}

async fn numbers_that_are_behind_are_raised(on: Backend) {
    let server = Server::start(on).await;
    let _accounts = (server.account().await, server.account().await);
    let set = match on {
        Backend::Sqlite => "UPDATE sqlite_sequence SET seq = 1 WHERE name = 'users'",
        Backend::Postgres => "SELECT setval(pg_get_serial_sequence('users', 'id'), 1)",
    };
    server.database.tamper(set).await;
    offline(&server.database, &[]).await.exit(1).found("numbers", "fault", "users follows 1, but 2 is in use");
    offline(&server.database, &["--fix"]).await.exit(0).found("numbers", "fixed", "raised");
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("numbers"), "ok");
    assert_eq!(server.account().await.id, 3);
}

async fn what_was_not_swept_away_is_deleted(on: Backend) {
    let server = Server::start(on).await;
    let _account = server.account().await;
    server.database.tamper("UPDATE sessions SET expires_at = 1").await;
    let words = "1 tokens, tickets and sessions expired days ago";
    offline(&server.database, &[]).await.exit(0).found("housekeeping", "warning", words);
    offline(&server.database, &["--fix"]).await.exit(0).found("housekeeping", "fixed", "1 rows deleted");
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("housekeeping"), "ok");
}

/// What data was brought back from has no time of its own.
async fn what_was_brought_back_is_no_complaint(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    // A running server deletes it as soon as it can.
    let (database, _) = server.stop().await;
    database.tamper("UPDATE archived_ranges SET reason = 'brought_back', archived_at = 0").await;
    assert_eq!(offline(&database, &[]).await.exit(0).verdict("housekeeping"), "ok");
    database.tamper("UPDATE archived_ranges SET reason = 'clean_slate', archived_at = 1").await;
    let words = "kept longer than ARCHIVE_DAYS";
    offline(&database, &[]).await.exit(0).found("housekeeping", "warning", words);
}

/// Events tell of accounts that are gone.
async fn every_table_with_an_account_is_looked_at(on: Backend) {
    let database = migrated(on).await;
    let mut tables: Vec<String> = match on {
        Backend::Sqlite => {
            let connection = rusqlite::Connection::open(database.data_dir().join("supersync.db")).expect("it opens");
            let sql = "SELECT m.name FROM sqlite_schema m, pragma_table_info(m.name) p \
                       WHERE m.type = 'table' AND p.name = 'user_id'";
            let mut statement = connection.prepare(sql).expect("it reads");
            let names = statement.query_map([], |row| row.get(0)).expect("it reads");
            names.collect::<Result<_, _>>().expect("names")
        }
        Backend::Postgres => {
            let mut session = database.postgres().session().await;
            sqlx::query_scalar(
                "SELECT table_name::text FROM information_schema.columns \
                 WHERE table_schema = 'public' AND column_name = 'user_id'",
            )
            .fetch_all(&mut session)
            .await
            .expect("it reads")
        }
    };
    // What is told of an account outlives it, and so does that it was taken over.
    tables.retain(|table| table != "account_events" && table != "adoptions");
    tables.sort();
    assert_eq!(tables, OWNED);
}

#[tokio::test]
async fn an_invalid_index_of_postgres_is_made_anew_and_leftovers_go() {
    let server = Server::start(Backend::Postgres).await;
    server
        .database
        .tamper(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_user'::regclass; \
         CREATE INDEX sessions_user_ccnew ON sessions (user_id); \
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_user_ccnew'::regclass;",
        )
        .await;
    let said = offline(&server.database, &[]).await;
    let all: Vec<_> = said.exit(1).of("schema").into_iter().map(|(verdict, found)| (verdict, &found[..24])).collect();
    assert_eq!(all, [("fault", "the index sessions_user "), ("fault", "the index sessions_user_")]);
    offline(&server.database, &["--fix"]).await.exit(0);
    assert_eq!(offline(&server.database, &[]).await.exit(0).verdict("schema"), "ok");
}

#[tokio::test]
async fn an_index_of_postgres_that_can_not_be_unique_is_not_left_half_made() {
    let server = Server::start(Backend::Postgres).await;
    let account = server.account().await;
    account.post("/api/sync/ops", &upload("a", None, &[op("a"), op("a")])).await.ok();
    server.database.tamper("DROP INDEX operations_op_id_key; UPDATE operations SET op_id = 'same';").await;
    for _ in 0..2 {
        let said = offline(&server.database, &["--fix"]).await;
        said.exit(1).found("schema", "fault", "operations_op_id_key is missing, and it can't be made");
    }
}

#[tokio::test]
async fn postgres_is_looked_at_in_the_schema_that_is_configured() {
    let database = TestDatabase::create(Backend::Postgres).await;
    let url = format!("{}?schema=apart", database.postgres().url());
    let mut settings = database.settings();
    let Database::Postgres { schema, .. } = &mut settings else { panic!("it is one") };
    *schema = Some("apart".to_owned());
    store::open(&settings, Duration::from_mins(1)).await.expect("it opens").close().await;
    let variables = [("DATABASE_URL", &*url)];
    let said = doctor(&database, &variables, &["--offline"]).await;
    assert_eq!(said.exit(0).complaints(), [("mail", "warning")], "{}", said.text);
    database
        .tamper("DROP INDEX apart.sessions_user; ALTER TABLE apart.users DISABLE TRIGGER users_announce_change")
        .await;
    let said = doctor(&database, &variables, &["--offline", "--fix"]).await;
    assert_eq!(
        said.exit(1).of("schema"),
        [
            ("fixed", "the index sessions_user is missing: rebuilt"),
            ("fault", "the trigger users.users_announce_change is not as the migrations make it"),
        ]
    );
}

#[tokio::test]
async fn a_damaged_index_of_sqlite_is_made_anew() {
    let server = Server::start(Backend::Sqlite).await;
    let account = server.account().await;
    account.post("/api/sync/ops", &upload("a", None, &[op("a")])).await.ok();
    let (database, _) = server.stop().await;
    // Hides the index while a row is added, so that the row is missing from it.
    let path = database.data_dir().join("supersync.db");
    let hide = |sql: &str| {
        let connection = rusqlite::Connection::open(&path).expect("it opens");
        connection.execute_batch(&format!("PRAGMA writable_schema = ON; {sql}")).expect("valid SQL");
    };
    let connection = rusqlite::Connection::open(&path).expect("it opens");
    let (root, sql): (i64, String) = connection
        .query_row("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'invites_expires_at'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("the index is there");
    drop(connection);
    hide("DELETE FROM sqlite_schema WHERE name = 'invites_expires_at'");
    hide(
        "INSERT INTO invites (token_hash, makes_admin, is_claim, created_at, expires_at) VALUES (X'01', 0, 0, 1, 9e15)",
    );
    hide(&format!("INSERT INTO sqlite_schema VALUES ('index', 'invites_expires_at', 'invites', {root}, '{sql}')"));
    let said = offline(&database, &[]).await;
    assert!(
        said.exit(1).verdict("integrity") == "fault" && said.text.contains("index invites_expires_at"),
        "{}",
        said.text
    );
    offline(&database, &["--fix"]).await.exit(0).found("integrity", "fixed", "rebuilt");
    assert_eq!(offline(&database, &[]).await.exit(0).verdict("integrity"), "ok");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_told() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    std::fs::write(database.data_dir().join("supersync.db"), "nonsense ".repeat(1000)).expect("written");
    offline(&database, &["--fix"]).await.exit(1).found("database", "fault", "can't be used");
}

#[tokio::test]
async fn a_database_server_that_does_not_answer_is_told_without_its_password() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    let url = format!("postgres://user:hunter2@127.0.0.1:{}/sync?pool_timeout=2", free_port());
    let said = doctor(&database, &[("DATABASE_URL", &url)], &["--offline"]).await;
    said.exit(1).found("database", "fault", "can't be used");
    assert!(!said.text.contains("hunter2"), "{}", said.text);
}

#[tokio::test]
async fn people_get_text() {
    let database = migrated(Backend::Sqlite).await;
    let output = Program::run(&database, &["doctor", "--offline"]).await;
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("ok       sequences") && text.contains(" ok\n") && !text.contains('\x1b'), "{text}");
    let output = Program::run(&database, &["doctor", "--nonsense"]).await;
    assert_eq!(output.status.code(), Some(2));
}
