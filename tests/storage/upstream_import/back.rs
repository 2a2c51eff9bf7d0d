//! The way back of accounts that were taken over: what the old server acknowledged since is not given up unasked.

use std::time::Duration;

use serde_json::{Value, json};
use supersync::store;

use super::whole::device;
use super::{complained, imported, in_order, said};
use crate::harness::{Backend, Program, TestDatabase, op};
use crate::old_schema::OldDatabase;

on_both_databases! {
    a_log_that_was_begun_again_there_is_kept,
    what_was_taken_over_gives_way,
    what_was_verified_there_is_kept,
    what_was_changed_there_in_an_account_deleted_here_is_kept,
    what_was_not_measured_is_counted,
    the_whole_clock_of_the_newest_full_state_goes_there_and_back,
}

/// The way back, its report and its exit code.
async fn export(target: &TestDatabase, old: &OldDatabase, more: &[&str]) -> (Value, Option<i32>) {
    let url = old.url();
    let arguments = [&["export", "--upstream", "--json", "--to", &url], more].concat();
    let output = Program::run(target, &arguments).await;
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", complained(&output)));
    (report, output.status.code())
}

/// Why an account was left as it was.
#[track_caller]
fn reason(report: &Value, account: i64) -> String {
    let failed = report["accounts"]["failed"]["first"].as_array().expect("a list");
    let found = failed.iter().find(|failed| failed["account"] == account);
    found.and_then(|failed| failed["reason"].as_str()).unwrap_or_else(|| panic!("not failed: {report}")).to_owned()
}

/// As the old server itself does it: everything goes, and its numbers start again.
async fn wipe(old: &OldDatabase, user: i64) {
    old.run(&format!(
        "DELETE FROM operations WHERE user_id = {user}; DELETE FROM user_sync_state WHERE user_id = {user}; \
         DELETE FROM sync_devices WHERE user_id = {user}"
    ))
    .await;
}

async fn a_log_that_was_begun_again_there_is_kept(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    device(&server, 1, Some(3)).delete("/api/sync/data").await.ok();
    server.kill().await;
    // 1 is empty here, 2 begins with number 6.
    for user in [1, 2] {
        wipe(&old, user).await;
        old.ops(user, 1, 3).await;
        old.run(&format!("UPDATE operations SET id = 'again-' || id WHERE user_id = {user}")).await;
    }
    let contents = "SELECT id, user_id, server_seq, payload FROM operations ORDER BY user_id, server_seq";
    let before = old.rows(contents).await;
    for further in [&["--dry-run"] as &[&str], &[]] {
        let (report, code) = export(&target, &old, further).await;
        assert_eq!((code, &report["accounts"]["failed"]["count"]), (Some(1), &json!(2)), "{report}");
        for user in [1, 2] {
            let text = reason(&report, user);
            assert!(text.contains("operations up to 3 are none") && text.contains("has started again"), "{text}");
        }
        assert_eq!(old.rows(contents).await, before);
    }
    let (report, code) = export(&target, &old, &["--overwrite"]).await;
    assert_eq!((code, &report["operations"]), (Some(0), &json!({ "added": 20, "removed": 6, "kept": 0 })));
}

async fn what_was_taken_over_gives_way(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    device(&server, 1, Some(3)).delete("/api/sync/data").await.ok();
    device(&server, 2, None).delete("/api/sync/data").await.ok();
    server.kill().await;
    // Longer ago than anything is kept: that nothing was added there since is all that is known.
    for table in ["operations", "segments", "archived_ranges"] {
        target.tamper(&format!("DELETE FROM {table} WHERE user_id IN (1, 2)")).await;
    }
    old.run("UPDATE operations SET payload = '{}' WHERE user_id = 2 AND server_seq = 25").await;
    let (report, code) = export(&target, &old, &[]).await;
    assert_eq!((code, &report["operations"]["removed"]), (Some(1), &json!(40)), "{report}");
    assert!(reason(&report, 2).contains("operations up to 25"), "{report}");
    assert_eq!(old.row("SELECT count(*) FROM operations").await, json!({ "count": 20 }));
}

async fn what_was_verified_there_is_kept(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "INSERT INTO passkeys (id, user_id, credential_id, public_key, created_at) VALUES \
         ('cmk1', 1, '\\x01', '\\xa5', '2026-01-01'), ('cmk2', 2, '\\x5f5f37395f50762d666a333976583038', '\\xa5', '2026-01-01'); \
         INSERT INTO users (id, email, is_verified, verification_token, verification_token_expires_at) \
         VALUES (9, 'di@example.org', 0, 'verify', 4000000000000); \
         INSERT INTO pending_passkey_registrations (id, verification_token, verification_token_expires_at, credential_id, \
         public_key, user_id) VALUES ('p1', 'verify', 4000000000000, '\\x1111', '\\xa7', 9)",
    )
    .await;
    imported(&old, &target, &[]).await;
    // Taken over, then removed here: that is known.
    target.tamper("DELETE FROM passkeys WHERE user_id = 1").await;
    // Verified there meanwhile; another one was added to an account.
    old.run(
        "UPDATE users SET is_verified = 1, verification_token = NULL WHERE id = 9; \
         INSERT INTO passkeys (id, user_id, credential_id, public_key) SELECT 'cmk9', 9, credential_id, public_key \
         FROM pending_passkey_registrations; DELETE FROM pending_passkey_registrations; \
         INSERT INTO passkeys (id, user_id, credential_id, public_key) VALUES ('cmk7', 7, '\\x07', '\\xa5')",
    )
    .await;
    let (report, code) = export(&target, &old, &[]).await;
    assert_eq!((code, &report["accounts"]["failed"]["count"]), (Some(1), &json!(2)), "{report}");
    assert!(reason(&report, 9).contains("its address has been verified"), "{report}");
    assert!(reason(&report, 7).contains("a passkey that this server never had"), "{report}");
    let left = old.rows("SELECT user_id FROM passkeys ORDER BY user_id").await;
    assert_eq!(left, [json!({ "user_id": 2 }), json!({ "user_id": 7 }), json!({ "user_id": 9 })]);
    let (_, code) = export(&target, &old, &["--overwrite"]).await;
    assert_eq!(code, Some(0));
    assert_eq!(old.rows("SELECT user_id FROM passkeys").await, [json!({ "user_id": 2 })]);
}

async fn what_was_changed_there_in_an_account_deleted_here_is_kept(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let store = store::open(&target.settings(), Duration::from_mins(1)).await.expect("the store opens");
    for user in [1, 2] {
        store.delete_user(user).await.expect("the store works");
    }
    store.close().await;
    old.run("UPDATE operations SET payload = '{}' WHERE user_id = 2 AND server_seq = 25").await;
    let ours = "SELECT id FROM users WHERE id IN (1, 2)";
    for (further, left) in [(&["--dry-run"] as &[&str], json!([{ "id": 1 }, { "id": 2 }])), (&[], json!([{ "id": 2 }]))]
    {
        let (report, code) = export(&target, &old, &[&["--delete-missing"], further].concat()).await;
        assert_eq!((code, &report["missing"]["deletedThere"]), (Some(1), &json!(1)), "{report}");
        assert!(reason(&report, 2).contains("was deleted here"), "{report}");
        assert_eq!(json!(old.rows(ours).await), left);
    }
    let (report, code) = export(&target, &old, &["--delete-missing", "--overwrite"]).await;
    assert_eq!((code, &report["missing"]["deletedThere"]), (Some(0), &json!(1)), "{report}");
    assert_eq!(old.rows(ours).await, Vec::<Value>::new());
}

async fn what_was_not_measured_is_counted(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run("UPDATE operations SET payload_bytes = 0").await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    let known = json!({ "A": 21, "B": 20 });
    assert_eq!(ann.upload_from("A", 40, &[op("A").task("task-0").clock(known)]).await.outcomes(), ["#41"]);
    server.kill().await;
    assert_eq!(export(&target, &old, &[]).await.1, Some(0));
    let counted = "SELECT storage_used_bytes, (SELECT sum(CASE WHEN payload_bytes > 0 THEN payload_bytes \
                   ELSE octet_length(payload::text) + octet_length(vector_clock::text) END)::int8 FROM operations \
                   WHERE user_id = 1) AS held, (SELECT count(*) FROM operations WHERE user_id = 1 AND payload_bytes = 0) \
                   AS unmeasured FROM users WHERE id = 1";
    let row = old.row(counted).await;
    assert_eq!((&row["storage_used_bytes"], &row["unmeasured"]), (&row["held"], &json!(40)), "{row}");
}

async fn the_whole_clock_of_the_newest_full_state_goes_there_and_back(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    // 26 devices: more than an operation's clock has room for.
    old.run(
        "UPDATE user_sync_state SET latest_full_state_seq = 1, latest_full_state_vector_clock = \
         (SELECT jsonb_object_agg('device-' || n, n) FROM generate_series(1, 25) AS n) || '{\"A\": 1}' WHERE user_id = 1",
    )
    .await;
    let clock = "SELECT latest_full_state_vector_clock AS clock FROM user_sync_state WHERE user_id = 1";
    let before = old.row(clock).await["clock"].take();
    imported(&old, &target, &[]).await;
    in_order(&target).await;
    let server = Program::start(&target).await;
    let ann = device(&server, 1, Some(3));
    // The smallest counter is cut first, but not the one of the device that asks.
    let page = ann.get("/api/sync/ops?sinceSeq=0&excludeClient=device-1").await.ok();
    assert_eq!(page["snapshotVectorClock"]["device-1"], 1, "{}", page["snapshotVectorClock"]);
    let known = json!({ "A": 21, "B": 20 });
    assert_eq!(ann.upload_from("A", 40, &[op("A").task("task-0").clock(known)]).await.outcomes(), ["#41"]);
    server.kill().await;
    assert_eq!(export(&target, &old, &[]).await.1, Some(0));
    let mut after = old.row(clock).await["clock"].take();
    // What the log itself says of B comes in addition.
    after.as_object_mut().expect("a clock").remove("B");
    assert_eq!(after, before);
}

/// A role of this test's own, with all rights in the database but for the sequence.
async fn role_without_numbers(old: &OldDatabase, name: &str) -> String {
    old.run(&format!(
        "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD 'x'; \
         GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}"
    ))
    .await;
    let mut url = url::Url::parse(&old.url()).expect("an address");
    url.set_username(name).expect("it takes one");
    url.set_password(Some("x")).expect("it takes one");
    url.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_a_missing_right_is_named_with_the_statement_that_gives_it() {
    let target = TestDatabase::create(Backend::Sqlite).await;
    let old = OldDatabase::with_data().await;
    let name = format!("reader_{}", std::process::id());
    let url = role_without_numbers(&old, &name).await;
    let output = Program::run(&target, &["import", "--yes", "--from", &url]).await;
    assert_eq!(output.status.code(), Some(4), "{}", complained(&output));
    let grant = format!("GRANT USAGE, SELECT ON SEQUENCE users_id_seq TO {name}");
    assert!(complained(&output).contains(&grant), "{}", complained(&output));
    old.run(&grant).await;
    let output = Program::run(&target, &["import", "--yes", "--from", &url]).await;
    assert!(output.status.success(), "{}", complained(&output));

    old.run(&format!("REVOKE DELETE ON users, operations FROM {name}")).await;
    let back = Program::run(&target, &["export", "--upstream", "--to", &url]).await;
    assert_eq!(back.status.code(), Some(4), "{}", complained(&back));
    for grant in ["GRANT UPDATE ON SEQUENCE users_id_seq", "GRANT DELETE ON TABLE operations"] {
        assert!(complained(&back).contains(&format!("{grant} TO {name}")), "{}", complained(&back));
        old.run(&format!("{grant} TO {name}")).await;
    }
    let back = Program::run(&target, &["export", "--upstream", "--to", &url]).await;
    assert!(back.status.success(), "{}{}", said(&back), complained(&back));
    old.run(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
}
