//! A disk that is really full: a small one, mounted for the test.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use supersync::config::Database;

use crate::harness::{Backend, LONG_PATIENCE, Op, Reply, Server, TestDatabase, op, snapshot};

on_both_databases! {
    a_full_disk_refuses_new_data_until_there_is_room,
}

/// A file system of its own in memory. Needs root, or sudo without a password.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: PathBuf, mebibytes: u32) -> Self {
        fs::create_dir(&folder).expect("a new folder");
        run(&["mount", "-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=0777"), "tmpfs"], &folder);
        Self(folder)
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut filler = File::create(self.0.join("filler")).expect("a new file");
        for piece in [vec![0; 1 << 20], vec![0; 4096], vec![0; 1]] {
            while filler.write_all(&piece).is_ok() {}
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the database server may not have closed every file.
        run(&["umount", "-l"], &self.0);
    }
}

fn run(arguments: &[&str], folder: &Path) {
    let is_root = fs::metadata("/proc/self").expect("Linux").uid() == 0;
    let sudo: &[&str] = if is_root { &[] } else { &["sudo", "-n"] };
    let line = [sudo, arguments].concat();
    let done = Command::new(line[0]).args(&line[1..]).arg(folder).status().expect("the program is there");
    assert!(done.success(), "{line:?} needs root, or sudo without a password");
}

/// A server whose database lies on a small disk.
async fn crowded(on: Backend) -> (Server, SmallDisk) {
    let database = TestDatabase::create(on).await;
    let disk = SmallDisk::mount(database.data_dir().join("disk"), 40);
    let mut settings = database.settings();
    match &mut settings {
        Database::Sqlite { path } => *path = disk.0.join("supersync.db"),
        Database::Postgres { .. } => {
            fs::set_permissions(database.data_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .expect("ours");
            let folder = disk.0.join("tablespace");
            fs::create_dir(&folder).expect("a new folder");
            give_to_postgres(&database, &folder).await;
            database.postgres().move_to(&folder).await;
        }
    }
    let server = Server::start_on(database, |config| {
        config.database = settings;
        config.limits.min_free_disk_bytes = 0;
    });
    (server.await, disk)
}

/// To whom the database server's own folder belongs.
async fn give_to_postgres(database: &TestDatabase, folder: &Path) {
    let mut session = database.postgres().session().await;
    let own: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut session).await.expect("a superuser");
    session.close().await.expect("it closes");
    let owner = fs::metadata(own).expect("it is on this machine").uid().to_string();
    run(&["chown", &owner], folder);
}

/// Says that nothing is stored, and when to come back.
#[track_caller]
fn is_refused(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.text);
    assert_eq!(reply.body, json!({ "error": "the server's disk is full, please retry later" }));
    assert_eq!(reply.header("retry-after"), Some("60"));
}

/// Large enough that a page with room left does not take it.
fn large() -> Op {
    op("A").payload("x".repeat(100_000))
}

async fn a_full_disk_refuses_new_data_until_there_is_room(on: Backend) {
    let (server, disk) = crowded(on).await;
    let (account, other) = (server.account().await, server.account().await);
    assert_eq!(account.upload("A", &[large()]).await.outcomes(), ["#1"]);
    other.get("/readyz").await.ok();
    disk.fill();

    // Until the last free page is taken something may still be stored; nothing is ever half stored.
    let mut stored = 1;
    let refused = loop {
        let ops = [large(), large()];
        let reply = account.upload("A", &ops).await;
        if reply.status != 200 {
            is_refused(&reply);
            break ops;
        }
        assert_eq!(reply.outcomes(), [format!("#{}", stored + 1), format!("#{}", stored + 2)]);
        stored += 2;
        assert!(stored < 1_000, "the disk is full");
    };
    let ready = account.get("/readyz").await.expect(503);
    assert_eq!(ready.body, json!({ "status": "error", "message": "the disk is full: new data is refused" }));
    is_refused(&other.upload("A", &[large()]).await);
    is_refused(&other.snapshot(&snapshot("A")).await);
    let everything: Vec<i64> = (1..=stored).collect();
    assert_eq!(account.download(0).await.seqs(), everything);
    account.get("/livez").await.ok();

    disk.empty();
    let back = async {
        while account.get("/readyz").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG_PATIENCE, back).await.expect("the server takes data again by itself");
    assert_eq!(
        account.upload("A", &refused).await.outcomes(),
        [format!("#{}", stored + 1), format!("#{}", stored + 2)]
    );
    assert_eq!(other.upload("A", &[large()]).await.outcomes(), ["#1"]);
    let (database, _) = server.stop().await;
    drop(database);
}
