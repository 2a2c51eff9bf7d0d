//! From a file that `pg_dump` made, instead of the database itself: what is refused, and that the same arrives.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use supersync::upstream::import::rows::SourceOp;
use supersync::upstream::import::{Dump, LiveSource, Source};
use tokio::sync::mpsc;

use super::{complained, in_order, said};
use crate::harness::{Backend, Program, TestDatabase};
use crate::old_schema::{OldDatabase, State, account};

on_both_databases! {
    what_is_no_dump_in_sql_is_refused,
    what_is_not_complete_is_refused,
    the_same_arrives_as_from_the_database,
    a_rehearsal_from_a_dump_makes_the_evening_short,
    a_row_that_is_damaged_is_named,
}

/// The newest `pg_dump` that is here: an older one refuses a newer server.
fn pg_dump() -> PathBuf {
    let given = ["SUPERSYNC_TEST_POSTGRES_BIN", "PG_BIN"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let mut installed: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.parse().ok())
        .map(|version: u32| (version, PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))))
        .collect();
    installed.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    given
        .chain(installed.into_iter().rev().map(|(_, folder)| folder))
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("pg_dump"))
        .find(|program| program.is_file())
        .expect("pg_dump is missing: install PostgreSQL's client programs (apt-get install postgresql-client)")
}

fn dump(url: &str, to: &Path, options: &[&str]) {
    let output = Command::new(pg_dump()).args(options).arg("-f").arg(to).arg(url).output().expect("pg_dump runs");
    assert!(output.status.success(), "{}", complained(&output));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut to = GzEncoder::new(Vec::new(), Compression::fast());
    to.write_all(bytes).expect("written to memory");
    to.finish().expect("written to memory")
}

async fn import(from: &Path, target: &TestDatabase, more: &[&str]) -> Output {
    let from = from.to_str().expect("text");
    Program::run(target, &[&["import", "--yes", "--json", "--from", from], more].concat()).await
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no report: {}{}", said(output), complained(output)))
}

async fn refused(from: &Path, target: &TestDatabase, why: &str) {
    let output = import(from, target, &[]).await;
    assert_eq!(output.status.code(), Some(4), "{why}: {}", complained(&output));
    assert!(complained(&output).contains(why), "{why}: {}", complained(&output));
    assert_eq!(left_over(target), Vec::<String>::new());
}

/// Working copies that should be gone.
fn left_over(target: &TestDatabase) -> Vec<String> {
    let files = std::fs::read_dir(target.data_dir()).expect("a folder");
    files
        .map(|file| file.expect("a file").file_name().into_string().expect("text"))
        .filter(|n| n.contains("import"))
        .collect()
}

async fn what_is_no_dump_in_sql_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::create(State::Head).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump");
    refused(&file, &target, "the dump can't be read: No such file").await;
    dump(&old.url(), &file, &["-Fc"]);
    refused(&file, &target, "pg_restore -f dump.sql old.dump").await;
    let archive = std::fs::read(&file).expect("a file");
    std::fs::write(&file, gzip(&archive)).expect("written");
    refused(&file, &target, "pg_restore -f dump.sql old.dump").await;
    dump(&old.url(), &file, &["-Ft"]);
    refused(&file, &target, "pg_restore -f dump.sql old.tar").await;
    let many = folder.path().join("many");
    dump(&old.url(), &many, &["-Fd"]);
    refused(&many, &target, "pg_restore -f dump.sql FOLDER").await;
    old.run("INSERT INTO users (email) VALUES ('ann@example.org')").await;
    dump(&old.url(), &file, &["--inserts"]);
    refused(&file, &target, "the dump was made with --inserts").await;
    dump(&old.url(), &file, &["-E", "LATIN1"]);
    refused(&file, &target, "the dump is not in UTF-8").await;
    dump(&old.url(), &file, &["-t", "users", "-t", "passkeys"]);
    refused(&file, &target, "it has no table operations").await;
    dump(&old.url(), &file, &["--schema-only"]);
    refused(&file, &target, "it has no table users").await;
    old.run("CREATE SCHEMA other; CREATE TABLE other.users (id INTEGER)").await;
    dump(&old.url(), &file, &[]);
    refused(&file, &target, "the dump has the table users twice").await;
    let ours = TestDatabase::create(Backend::Postgres).await;
    assert!(Program::run(&ours, &["migrate", "run"]).await.status.success());
    dump(&ours.postgres().url(), &file, &[]);
    refused(&file, &target, "it is one of this server's own").await;
}

async fn what_is_not_complete_is_refused(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::create(State::Head).await;
    old.fill_special().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump.sql");
    dump(&old.url(), &file, &[]);
    let whole = std::fs::read(&file).expect("a file");
    let end = b"-- PostgreSQL database dump complete";
    let end = whole.windows(end.len()).position(|part| part == end).expect("it is complete");
    for length in [0, 1, 2000, end / 2, end] {
        for (bytes, why) in [(whole[..length].to_vec(), "not complete"), (gzip(&whole[..length]), "not complete")] {
            std::fs::write(&file, bytes).expect("written");
            refused(&file, &target, why).await;
        }
    }
    let packed = gzip(&whole);
    std::fs::write(&file, &packed[..packed.len() - 9]).expect("written");
    refused(&file, &target, "the dump can't be read: ").await;
    std::fs::write(&file, [&packed[..100], &[0xff; 100], &packed[200..]].concat()).expect("written");
    refused(&file, &target, "the dump can't be read: ").await;
    std::fs::write(&file, packed).expect("written");
    assert_eq!(report(&import(&file, &target, &[]).await)["taken"], 23);
    assert_eq!(left_over(&target), Vec::<String>::new());
}

async fn the_same_arrives_as_from_the_database(on: Backend) {
    for state in State::ALL {
        let old = OldDatabase::create(state).await;
        old.fill_special().await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("dump.sql.gz");
        dump(&old.url(), &file, &["-Z1"]);
        let (live, dumped) = (TestDatabase::create(on).await, TestDatabase::create(on).await);
        let output = Program::run(&live, &["import", "--yes", "--json", "--repair", "--from", &old.url()]).await;
        let (mut live, mut dumped_report) = (report(&output), report(&import(&file, &dumped, &["--repair"]).await));
        // In the order of the columns.
        for report in [&mut live, &mut dumped_report] {
            report["missing_columns"].as_array_mut().expect("a list").sort_by_key(Value::to_string);
        }
        assert_eq!(dumped_report, live, "{state:?}");
        assert_eq!(live["taken"], account::COUNT - 1);
        let url = old.url();
        let output = Program::run(&dumped, &["import", "--verify-only", "--json", "--from", &url]).await;
        assert_eq!(report(&output)["differences"], json!([]), "{state:?}");
        in_order(&dumped).await;
        let again = report(&import(&file, &dumped, &["--repair"]).await);
        assert_eq!((&again["taken"], &again["unchanged"]), (&json!(0), &json!(24)), "{state:?}");
    }
}

async fn a_rehearsal_from_a_dump_makes_the_evening_short(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::create(State::Head).await;
    old.fill(1, 20, 300).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump.sql");
    dump(&old.url(), &file, &[]);
    let work = folder.path().to_str().expect("text");
    let first = report(&import(&file, &target, &["--work-dir", work]).await);
    assert_eq!((&first["taken"], &first["operations"], &first["verified"]), (&json!(20), &json!(6000), &json!(20)));
    old.run("UPDATE users SET token_version = 7 WHERE id = 3").await;
    let output = Program::run(&target, &["import", "--yes", "--json", "--from", &old.url()]).await;
    assert_eq!((&report(&output)["taken"], &report(&output)["unchanged"]), (&json!(1), &json!(19)));
    in_order(&target).await;
}

async fn a_row_that_is_damaged_is_named(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::create(State::Head).await;
    old.fill(1, 2, 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump.sql");
    dump(&old.url(), &file, &[]);
    let whole = std::fs::read_to_string(&file).expect("text");
    for (what, instead, why) in [
        ("{\"B_one\": 1, \"E_two\": 0}", "{\"B_one\": 1, ", "the column vector_clock holds no JSON"),
        ("user-1@example.org", "user-1@example.org\tmore", "more fields than columns"),
        ("2025-12-01 00:00:01", "yesterday", "the column created_at holds no time"),
        ("1764547200501\tf\t", "1764547200501\tperhaps\t", "the column is_payload_encrypted holds neither t nor f"),
    ] {
        let at = whole.find(what).expect("it is there");
        let damaged = [&whole[..at], instead, &whole[at + what.len()..]].concat();
        std::fs::write(&file, &damaged).expect("written");
        let output = import(&file, &target, &[]).await;
        assert_eq!(output.status.code(), Some(4), "{}", complained(&output));
        let line = whole[..at].matches('\n').count() + 1;
        assert!(complained(&output).contains(&format!("line {line}: ")), "{line}: {}", complained(&output));
        assert!(complained(&output).contains(why), "{}", complained(&output));
        assert!(!complained(&output).contains("yesterday"), "values are not shown");
    }
    std::fs::write(&file, &whole).expect("written");
    assert_eq!(report(&import(&file, &target, &[]).await)["operations"], 6);
    in_order(&target).await;
}

async fn operations(source: &mut dyn Source, user: i64) -> Vec<SourceOp> {
    let (to, mut from) = mpsc::channel(1);
    let (done, all) = tokio::join!(
        async {
            let done = source.operations(user, &to).await;
            drop(to);
            done
        },
        async {
            let mut all = Vec::new();
            while let Some(batch) = from.recv().await {
                all.extend(batch);
            }
            all
        }
    );
    done.expect("it reads");
    all
}

/// Value by value, in every state, also from another schema than `public`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_value_is_what_the_database_says() {
    for state in State::ALL {
        let old = OldDatabase::create(state).await;
        old.fill_special().await;
        old.fill(1000, 10, 70).await;
        old.run("ALTER SCHEMA public RENAME TO \"Old \"\"Data\"").await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("dump.sql");
        dump(&old.url(), &file, &[]);
        let dump = Dump::open(&file).expect("it opens");
        let (length, place) = (dump.length, Arc::clone(&dump.place));
        let mut dumped = dump.read(folder.path().to_owned()).await.expect("it reads");
        assert_eq!((&*place).stream_position().expect("a place"), length);
        let url = format!("{}?schema=Old%20%22Data", old.url());
        let mut live = LiveSource::connect(&url).await.expect("it connects");
        let tables = live.open().await.expect("tables");
        assert_eq!(dumped.open().await.expect("tables"), tables, "{state:?}");
        assert_eq!((tables.users.len(), tables.highest_number), (35, 2_147_483_001));
        let mut count = 0;
        for user in tables.users.into_values() {
            let snapshot = live.snapshot(user.id).await.expect("it reads");
            assert_eq!(snapshot.is_some(), user.marks.has_snapshot);
            assert_eq!(dumped.snapshot(user.id).await.expect("it reads"), snapshot, "{state:?}");
            let expected = operations(&mut live, user.id).await;
            count += expected.len();
            assert_eq!(operations(&mut dumped, user.id).await, expected, "{state:?}");
        }
        assert_eq!(count, usize::try_from(account::OPERATIONS).expect("small") + 700);
    }
}
