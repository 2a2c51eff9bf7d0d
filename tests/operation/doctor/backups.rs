//! Backups.

use std::path::Path;

use crate::doctor::{doctor, offline};
use crate::harness::{Backend, Program, Server, TestDatabase, op, upload};

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("an entry").path()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[tokio::test]
async fn where_none_is_looked_for_none_is_missed() {
    let database = TestDatabase::create(Backend::Sqlite).await;
    offline(&database, &[]).await.exit(0).found("backups", "note", "not looked at");
    let missing = database.data_dir().join("missing");
    offline(&database, &["--backups", text(&missing)]).await.exit(1).found("backups", "fault", "can't be read");
    let said = offline(&database, &["--backups", text(&database.data_dir())]).await;
    said.exit(1).found("backups", "fault", "there is no backup");
}

#[tokio::test]
async fn the_newest_backup_is_fresh_and_whole() {
    let server = Server::start(Backend::Sqlite).await;
    let account = server.account().await;
    account.post("/api/sync/ops", &upload("a", None, &[op("a"), op("a")])).await.ok();
    let (database, _) = server.stop().await;
    let folder = database.data_dir().join("backups");
    std::fs::create_dir(&folder).expect("made");
    let made = Program::run(&database, &["backup", "--directory", text(&folder)]).await;
    assert!(made.status.success(), "{made:?}");
    let said = doctor(&database, &[("BACKUP_DIR", text(&folder))], &["--offline"]).await;
    assert_eq!(said.exit(0).verdict("backups"), "ok");
    assert!(said.text.contains("it is whole: 1 accounts, 2 operations"), "{}", said.text);

    let newest = files(&folder).remove(0);
    let old = folder.join("supersync-20200101T000000Z.ssb");
    std::fs::rename(&newest, &old).expect("renamed");
    offline(&database, &["--backups", text(&folder)]).await.exit(0).found("backups", "warning", "hours old");
    let bytes = std::fs::read(&old).expect("readable");
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).expect("written");
    offline(&database, &["--backups", text(&folder)]).await.exit(1).found("backups", "fault", "can't be relied on");

    std::fs::remove_file(&newest).expect("removed");
    std::fs::remove_file(&old).expect("removed");
    database.tamper("UPDATE user_sync_state SET storage_used_bytes = 1").await;
    let made = Program::run(&database, &["backup", "--no-verify", "--directory", text(&folder)]).await;
    assert!(made.status.success(), "{made:?}");
    offline(&database, &["--backups", text(&folder)]).await.exit(1).found("backups", "fault", "not in order: 1 fault");
}
