//! Broken off, and again.

use serde_json::json;
use sqlx::Connection as _;

use super::whole::device;
use super::{complained, failed, imported, in_order, run, said};
use crate::harness::{Backend, Program, TestDatabase};
use crate::old_schema::OldDatabase;

on_both_databases! {
    a_second_run_takes_what_has_changed,
    an_address_may_have_gone_to_another_account,
    what_has_changed_here_is_not_overwritten,
    what_was_broken_off_is_taken_anew,
    a_long_log_is_written_in_parts,
    what_was_left_can_be_accepted,
    a_comparison_finds_what_differs,
    housekeeping_is_no_change,
}

async fn a_second_run_takes_what_has_changed(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &["--rehearsal"]).await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["unchanged"]), (&json!(0), &json!(3)));
    old.ops(1, 41, 44).await;
    old.run("DELETE FROM users WHERE id = 7; UPDATE users SET token_version = 1 WHERE id = 2").await;
    old.run("INSERT INTO users (id, email, is_verified) VALUES (8, 'di@example.org', 1)").await;
    let report = imported(&old, &target, &[]).await;
    let counts = ["taken", "operations", "unchanged", "removed"].map(|name| report[name].as_u64().expect("a number"));
    assert_eq!(counts, [3, 64, 0, 1], "{report}");
    assert_eq!(imported(&old, &target, &["--verify-only"]).await["verified"], 3);
    in_order(&target).await;
}

async fn an_address_may_have_gone_to_another_account(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    // More than a portion, so that the later account is written apart.
    old.ops(2, 26, 6_000).await;
    imported(&old, &target, &[]).await;
    old.run("UPDATE users SET email = 'cy2@example.org' WHERE id = 7").await;
    old.run("UPDATE users SET email = 'cy@example.org' WHERE id = 1").await;
    assert_eq!(imported(&old, &target, &[]).await["taken"], 2);
    in_order(&target).await;
}

async fn what_has_changed_here_is_not_overwritten(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let quota = ["user", "quota", "bob@example.org", "1GiB"];
    let output = Program::run(&target, &quota).await;
    assert!(output.status.success(), "{}", complained(&output));
    // The source has not: nothing to do, nothing to complain of.
    assert_eq!(imported(&old, &target, &[]).await["unchanged"], 3);
    old.ops(1, 41, 44).await;
    old.ops(2, 26, 27).await;
    let report = failed(1, &old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["conflicts"][0]["user"]), (&json!(1), &json!(2)), "{report}");
    let backup = in_order(&target).await;
    assert!(backup.contains("3 accounts, 64 operations"), "{backup}");
}

async fn what_was_broken_off_is_taken_anew(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    // A log of several portions whose last operation can't be taken: what was written of it goes.
    old.ops(2, 26, 12_000).await;
    old.run("UPDATE operations SET entity_type = 'UNHEARD_OF' WHERE user_id = 2 AND server_seq = 12000").await;
    let report = failed(1, &old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["operations"]), (&json!(2), &json!(40)));
    let left_out = json!([{ "user": 2, "what": "operation 12000: its entity type is unknown" }]);
    assert_eq!(report["left_out"], left_out);
    assert!(in_order(&target).await.contains("2 accounts, 40 operations"));
    old.run("UPDATE operations SET entity_type = 'TASK' WHERE user_id = 2 AND server_seq = 12000").await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["unchanged"]), (&json!(1), &json!(2)));
    assert!(in_order(&target).await.contains("3 accounts, 12035 operations"));
}

async fn a_long_log_is_written_in_parts(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.ops(7, 1, 60_000).await;
    let url = old.url();
    // Killed when some of it is written, whenever that is; what is there then is no account yet.
    let killed = Program::run_until(&target, &["import", "--from", &url, "--yes"], async {
        while begun(&target).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(killed, "the import had not ended");
    let output = Program::run(&target, &["user", "list"]).await;
    assert!(!said(&output).contains("cy@example.org"), "{}", said(&output));
    // No server serves that, and no backup is made of it.
    let output = Program::run(&target, &["backup", "half.ssb"]).await;
    assert!(!output.status.success() && complained(&output).contains("a part of the accounts"));
    let output = Program::run(&target, &[]).await;
    assert!(!output.status.success() && complained(&output).contains("was broken off"));
    let output = Program::run(&target, &["doctor"]).await;
    assert!(said(&output).contains("an import of the old server's database is under way, or was broken off"));
    let report = imported(&old, &target, &[]).await;
    assert_eq!(report["taken"].as_u64().expect("a number") + report["unchanged"].as_u64().expect("a number"), 3);
    assert!(report["taken"].as_u64() >= Some(1), "{report}");
    assert!(in_order(&target).await.contains("3 accounts, 60060 operations"));
}

async fn what_was_left_can_be_accepted(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let output = Program::run(&target, &["import", "--accept-partial"]).await;
    assert!(said(&output).contains("No import was broken off"), "{}", complained(&output));
    imported(&old, &target, &[]).await;
    Program::start(&target).await.kill().await;
    target
        .tamper(
            "INSERT INTO adoptions (user_id, source, account_digest, first_seq, last_seq, op_count, digest, mark) \
             VALUES (0, '', '', 0, 0, 0, '', '')",
        )
        .await;
    assert!(!Program::run(&target, &[]).await.status.success());
    let output = Program::run(&target, &["import", "--accept-partial"]).await;
    assert!(said(&output).contains("A server may start"), "{}", complained(&output));
    Program::start(&target).await.kill().await;
    in_order(&target).await;
}

/// How many accounts are under way.
async fn begun(target: &TestDatabase) -> i64 {
    const SQL: &str = "SELECT count(*) FROM adoptions WHERE finished_at IS NULL AND user_id <> 0";
    match target.settings() {
        supersync::config::Database::Sqlite { path } => {
            let Ok(connection) = rusqlite::Connection::open(path) else { return 0 };
            connection.query_row(SQL, [], |row| row.get(0)).unwrap_or(0)
        }
        supersync::config::Database::Postgres { .. } => {
            let mut session = target.postgres().session().await;
            let count = sqlx::query_scalar(SQL).fetch_one(&mut session).await.unwrap_or(0);
            session.close().await.expect("closing");
            count
        }
    }
}

async fn a_comparison_finds_what_differs(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let output = run(&old, &target, &["--verify-only"]).await;
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(complained(&output).contains("is this the server's folder?"), "{}", complained(&output));
    imported(&old, &target, &[]).await;
    let report = imported(&old, &target, &["--verify-only"]).await;
    assert_eq!((&report["verified"], &report["differences"]), (&json!(3), &json!([])));
    old.run(
        "UPDATE operations SET payload = '{}' WHERE user_id = 1 AND server_seq = 30; \
         UPDATE users SET token_version = 9 WHERE id = 7",
    )
    .await;
    old.ops(2, 26, 26).await;
    let output = run(&old, &target, &["--verify-only"]).await;
    let text = said(&output);
    assert!(text.contains("account 1: its operations differ"), "{text}");
    assert!(text.contains("account 2: its last sequence is 25 here, but 26 in the source"), "{text}");
    assert!(text.contains("account 7: other here than in the source: token version"), "{text}");
    // What has happened here is told as what it is.
    old.run("UPDATE users SET token_version = 0 WHERE id = 7").await;
    let server = Program::start(&target).await;
    device(&server, 2, None).delete("/api/sync/data").await.ok();
    server.kill().await;
    for command in [&["user", "quota", "cy@example.org", "1GiB"] as &[&str], &["user", "revoke", "cy@example.org"]] {
        let output = Program::run(&target, command).await;
        assert!(output.status.success(), "{}", complained(&output));
    }
    let output = run(&old, &target, &["--verify-only"]).await;
    let text = said(&output);
    assert!(text.contains("account 2: its data was wiped or replaced here\n"), "{text}");
    assert!(text.contains("account 7: other here than in the source: token version, quota"), "{text}");
}

async fn housekeeping_is_no_change(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.ops(1, 41, 1_300).await;
    imported(&old, &target, &[]).await;
    let output = Program::run(&target, &["data", "seal"]).await;
    assert!(output.status.success(), "{}", complained(&output));
    assert!(in_order(&target).await.contains("3 accounts, 1320 operations"));
    assert_eq!(imported(&old, &target, &["--verify-only"]).await["differences"], json!([]));
    old.ops(1, 1_301, 1_301).await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["conflicts"]), (&json!(1), &json!([])));
    assert!(in_order(&target).await.contains("3 accounts, 1321 operations"));
}
