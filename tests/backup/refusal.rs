//! What is refused, and that nothing is changed by it.

use super::{contents, done, refused, text};
use crate::harness::{Backend, Program, Server, TestDatabase, import, op};

macro_rules! on_both_databases {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Backend::Sqlite).await; })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::harness::Backend::Postgres).await; })+
        }
    };
}

on_both_databases! {
    a_database_that_is_not_empty_or_in_use_is_left_alone,
    a_file_that_is_not_whole_changes_nothing,
    backups_rotate_after_the_new_one_is_there,
    contents_that_are_not_in_order_are_named,
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
    assert!(said.contains("migrate"), "{said}");
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
    std::fs::create_dir(&folder).expect("made");
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
    assert_eq!(left.len(), 4);
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
    let target = TestDatabase::create(on).await;
    refused(&Program::run(&target, &["restore", text(&file)]).await, 1);
    done(&Program::run(&target, &["restore", text(&file), "--accept-faults"]).await);
    assert_eq!(contents(&target).await, contents(&database).await);
}
