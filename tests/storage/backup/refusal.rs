//! What is refused, and that nothing is changed by it.

use super::{contents, done, refused, text};
use crate::harness::{Backend, Program, Server, TestDatabase, import, op};

on_both_databases! {
    a_database_that_is_not_empty_or_in_use_is_left_alone,
    a_file_that_is_not_whole_changes_nothing,
    backups_rotate_after_the_new_one_is_there,
    contents_that_are_not_in_order_are_named,
    nothing_but_a_backup_is_replaced,
    looking_makes_and_migrates_nothing,
}

async fn small(on: Backend) -> TestDatabase {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    server.stop().await.0
}

async fn a_database_that_is_not_empty_or_in_use_is_left_alone(on: Backend) {
    let database = small(on).await;
    let file = database.data_dir().join("all.ssb");
    done(&Program::run(&database, &["backup", text(&file)]).await);
    let said = refused(&Program::run(&database, &["backup", text(&file)]).await, 4);
    assert!(said.contains("--overwrite"), "{said}");
    done(&Program::run(&database, &["backup", text(&file), "--overwrite"]).await);

    let before = contents(&database).await;
    let said = refused(&Program::run(&database, &["restore", text(&file)]).await, 4);
    assert!(said.contains("1 account(s)") && said.contains("--replace"), "{said}");
    // Nobody types anything here.
    let said = refused(&Program::run(&database, &["restore", text(&file), "--replace"]).await, 4);
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(contents(&database).await, before);

    let target = TestDatabase::create(on).await;
    let said = refused(&Program::run(&target, &["backup", text(&target.data_dir().join("none.ssb"))]).await, 4);
    assert!(said.contains("is this the server's folder?"), "{said}");
    let program = Program::start(&target).await;
    let said = refused(&Program::run(&target, &["restore", text(&file)]).await, 4);
    assert!(said.contains("in use"), "{said}");
    program.kill().await;
    // What the server made by itself (its claim link) is no hindrance.
    done(&Program::run(&target, &["restore", text(&file)]).await);
    assert_eq!(contents(&target).await, before);
    refused(&Program::run(&target, &["restore", "nowhere.ssb"]).await, 3);
}

async fn a_file_that_is_not_whole_changes_nothing(on: Backend) {
    let database = small(on).await;
    let file = database.data_dir().join("all.ssb");
    done(&Program::run(&database, &["backup", text(&file)]).await);
    let before = contents(&database).await;
    let good = std::fs::read(&file).expect("a file");
    let bad = database.data_dir().join("bad.ssb");
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    for (bytes, word) in
        [(&good[..good.len() - 1], "cut off"), (&damaged[..], "damaged"), (&b"PK\x03\x04"[..], "no backup")]
    {
        std::fs::write(&bad, bytes).expect("written");
        for arguments in [&["verify", text(&bad)][..], &["restore", text(&bad), "--replace", "--yes"]] {
            let said = refused(&Program::run(&database, arguments).await, 1);
            assert!(said.contains(word) && said.contains("bad.ssb"), "{said}");
        }
    }
    assert_eq!(contents(&database).await, before);
}

async fn backups_rotate_after_the_new_one_is_there(on: Backend) {
    let database = small(on).await;
    let folder = database.data_dir().join("backups");
    // It makes the folder, for nobody else to look into.
    done(&Program::run(&database, &["backup", "--directory", text(&folder)]).await);
    let rights =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).expect("it is there").permissions());
    assert_eq!(rights & 0o777, 0o700);
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
    }
    // By a clock that was wrong.
    std::fs::write(folder.join("supersync-99990101T000000Z.ssb"), "future").expect("written");
    for day in 1..=9 {
        std::fs::write(folder.join(format!("supersync-2026010{day}T000000Z.ssb")), "old").expect("written");
    }
    std::fs::write(folder.join("mine.txt"), "not a backup").expect("written");
    let arguments = ["backup", "--directory", text(&folder), "--keep", "daily=3"];
    let said = done(&Program::run(&database, &arguments).await);
    assert_eq!(said.matches("deleted").count(), 7, "{said}");
    let mut left: Vec<_> = std::fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    left.sort();
    assert_eq!(left[..3], ["mine.txt", "supersync-20260108T000000Z.ssb", "supersync-20260109T000000Z.ssb"]);
    assert_eq!((left.len(), &*left[4]), (5, "supersync-99990101T000000Z.ssb"));
    done(&Program::run(&database, &["verify", text(&folder.join(&left[3]))]).await);
}

async fn contents_that_are_not_in_order_are_named(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A"), op("A")]).await.ok();
    server.store.delete_ops(account.id, 1, 3, 10).await.expect("the store works");
    let (database, _) = server.stop().await;
    let file = database.data_dir().join("all.ssb");
    let output = Program::run(&database, &["backup", text(&file)]).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(refused(&output, 1).contains("2 fault(s)"), "{said}");
    assert!(said.contains(&format!("account {}: operations 2 to 3 are missing", account.id)), "{said}");
    assert!(said.contains("bytes are charged, but"), "{said}");
    // Nobody takes it for a backup, and what had the name stays.
    assert!(!file.exists());
    let aside = database.data_dir().join("all.ssb.faulty");
    std::fs::copy(&aside, &file).expect("copied");
    let before = std::fs::read(&file).expect("a file");
    refused(&Program::run(&database, &["backup", text(&file), "--overwrite"]).await, 1);
    assert_eq!(std::fs::read(&file).expect("a file"), before);
    let folder = database.data_dir().join("backups");
    let keep = ["backup", "--directory", text(&folder), "--keep", "daily=1"];
    refused(&Program::run(&database, &keep).await, 1);
    let names = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    assert!(names.map(|path| path.extension().is_some_and(|end| end == "faulty")).eq([true]));
    let target = TestDatabase::create(on).await;
    refused(&Program::run(&target, &["restore", text(&aside)]).await, 1);
    done(&Program::run(&target, &["restore", text(&aside), "--accept-faults"]).await);
    assert_eq!(contents(&target).await, contents(&database).await);
}

async fn nothing_but_a_backup_is_replaced(on: Backend) {
    let database = small(on).await;
    let file = database.data_dir().join("mine.txt");
    std::fs::write(&file, "not a backup").expect("written");
    let link = database.data_dir().join("link.ssb");
    std::os::unix::fs::symlink(&file, &link).expect("made");
    let folder = database.data_dir().join("folder.ssb");
    std::fs::create_dir(&folder).expect("made");
    let mut others = vec![file.clone(), link, folder];
    if let supersync::config::Database::Sqlite { path } = database.settings() {
        others.push(path);
    }
    for other in others {
        let said = refused(&Program::run(&database, &["backup", text(&other), "--overwrite"]).await, 4);
        assert!(said.contains("is no backup, so it is not replaced"), "{said}");
    }
    assert_eq!(std::fs::read(&file).expect("a file"), b"not a backup");
    std::fs::write(&file, "").expect("written");
    done(&Program::run(&database, &["backup", text(&file), "--overwrite"]).await);
    done(&Program::run(&database, &["verify", text(&file)]).await);
}

/// A backup that is being made holds on to every table, and a migration must not stop everybody behind that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_migration_that_waits_lets_others_pass() {
    use sqlx::Connection as _;
    let database = small(Backend::Postgres).await;
    database
        .tamper(
            // The one that wants a table for itself alone.
            "ALTER TABLE user_sync_state DROP COLUMN sparse_up_to; DELETE FROM _sqlx_migrations WHERE version = 7",
        )
        .await;
    let mut holding = database.postgres().session().await;
    let mut held = holding.begin().await.expect("a transaction");
    let count = "SELECT count(*) FROM user_sync_state";
    let accounts: i64 = sqlx::query_scalar(count).fetch_one(&mut *held).await.expect("it answers");
    let migrating = Program::run(&database, &["migrate", "run"]);
    let others = async {
        let mut other = database.postgres().session().await;
        let waits =
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'user_sync_state'::regclass)";
        let mut look = tokio::time::interval(std::time::Duration::from_millis(10));
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut other).await.expect("it answers") {
            look.tick().await;
        }
        // The lock is still held: only that the migration gives up waiting lets this pass.
        let seen: i64 = sqlx::query_scalar(count).fetch_one(&mut other).await.expect("it answers");
        assert_eq!(seen, accounts);
        other.close().await.expect("closing");
        held.rollback().await.expect("it was open");
    };
    let (migrated, ()) = tokio::join!(migrating, others);
    done(&migrated);
    assert!(Program::run(&database, &["migrate", "status"]).await.status.success());
}

/// Neither in a folder where there is nothing, nor on a database that an older server works on.
async fn looking_makes_and_migrates_nothing(on: Backend) {
    let commands: [&[&str]; 4] =
        [&["sweep", "--dry-run"], &["sweep"], &["data", "usage"], &["data", "recount", "--dry-run"]];
    let nowhere = TestDatabase::create(on).await;
    for command in commands {
        let said = refused(&Program::run(&nowhere, command).await, 4);
        assert!(said.contains("is this the server's folder?"), "{command:?}: {said}");
    }
    assert!(!nowhere.data_dir().join("supersync.db").exists());
    let older = small(on).await;
    older.tamper("DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    for command in commands {
        refused(&Program::run(&older, command).await, 4);
    }
    let status = Program::run(&older, &["migrate", "status"]).await;
    assert!(!status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
}
