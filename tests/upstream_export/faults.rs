//! Accounts that can't be written: they are left as they were, the others are not.

use serde_json::{Value, json};

use super::old::Expected;
use super::{export, exported, partly, refused};
use crate::harness::{Account, Backend, Server, import, op};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    an_id_that_another_account_has_there,
    what_the_old_columns_cannot_hold,
    what_only_the_target_has_is_not_given_up_by_itself,
    a_number_that_belongs_to_somebody_else,
    what_was_written_is_compared_in_what_it_means,
    what_was_interrupted_is_continued,
}

/// The reason why an account was left out.
#[track_caller]
fn reason<'a>(report: &'a Value, account: &Account) -> &'a str {
    let failed = &report["accounts"]["failed"];
    let first = failed["first"].as_array().expect("a list");
    let found = first.iter().find(|failed| failed["account"] == account.id);
    found.and_then(|failed| failed["reason"].as_str()).unwrap_or_else(|| panic!("not failed: {failed}"))
}

async fn an_id_that_another_account_has_there(from: Backend) {
    let server = Server::start(from).await;
    let [first, second, third] = [server.account().await, server.account().await, server.account().await];
    for account in [&first, &second] {
        account.upload("A", &[import("A"), op("A").id("the-same"), op("A")]).await.ok();
    }
    third.upload("A", &[import("A")]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    let (report, said) = partly(&export(&server.database, &old, &["--json"]).await);
    assert!(said.contains("1 account(s) could not be written"), "{said}");
    let reason = reason(&report, &second);
    assert!(reason.contains("operation 2 has the id the-same"), "{reason}");
    assert!(reason.contains(&format!("account {}", first.id)), "{reason}");
    for account in [&first, &third] {
        old.assert_holds(&Expected::of(&server, account).await).await;
    }
    // Nothing of it, not even itself.
    assert!(old.rows(&format!("SELECT id FROM users WHERE id = {}", second.id)).await.is_empty());
    assert_eq!(report["operations"]["added"], 4);
    // A dry run says so too, and the text for people.
    let output = export(&server.database, &old, &["--dry-run"]).await;
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("failed: account {}: its operation 2", second.id)), "{said}");
}

async fn what_the_old_columns_cannot_hold(from: Backend) {
    let server = Server::start(from).await;
    let [nul, far, fine] = [server.account().await, server.account().await, server.account().await];
    nul.upload("A", &[op("A"), op("A").payload(json!({ "title": "a\0b" }))]).await.ok();
    server
        .change_state(&far, |state| {
            let last = i64::from(i32::MAX);
            (state.base_seq, state.pruned_seq, state.last_seq) = (last, last, last);
            (state.heads_seq, state.sealed_seq) = (last, last);
        })
        .await;
    far.upload("A", &[op("A")]).await.ok();
    fine.upload("A", &[op("A").payload(json!({ "title": "a\\u0000b" }))]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    let text = reason(&report, &nul);
    assert!(text.contains("operation 2 can't be stored") && text.contains("\\u0000"), "{text}");
    let text = reason(&report, &far);
    assert!(text.contains("last sequence is 2147483648"), "{text}");
    assert_eq!(report["accounts"]["added"], 1);
    let ids = old.rows("SELECT id FROM users").await;
    assert_eq!(ids, [json!({ "id": fine.id })]);
    old.assert_holds(&Expected::of(&server, &fine).await).await;
}

async fn what_only_the_target_has_is_not_given_up_by_itself(from: Backend) {
    let server = Server::start(from).await;
    let [ahead, forked, holed] = [server.account().await, server.account().await, server.account().await];
    for account in [&ahead, &forked, &holed] {
        account.upload("A", &[op("A"), op("A"), op("A")]).await.ok();
    }
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    // The old server went on working.
    old.run(&format!(
        "INSERT INTO operations SELECT 'theirs', user_id, client_id, 4, action_type, op_type, entity_type, entity_id, \
         payload, vector_clock, schema_version, client_timestamp, received_at FROM operations \
         WHERE user_id = {} AND server_seq = 3; \
         UPDATE user_sync_state SET last_seq = 4 WHERE user_id = {}; \
         UPDATE operations SET id = 'theirs-too' WHERE user_id = {} AND server_seq = 2; \
         DELETE FROM operations WHERE user_id = {} AND server_seq = 2",
        ahead.id, ahead.id, forked.id, holed.id
    ))
    .await;
    forked.upload("A", &[op("A")]).await.ok();
    let before = [old.operations(&ahead).await, old.operations(&forked).await];
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    for (account, seq) in [(&ahead, 4), (&forked, 2)] {
        let text = reason(&report, account);
        assert!(text.contains(&format!("operation {seq} is none that")) && text.contains("--overwrite"), "{text}");
    }
    assert_eq!([old.operations(&ahead).await, old.operations(&forked).await], before);
    // What is missing is no reason to stop.
    old.assert_holds(&Expected::of(&server, &holed).await).await;

    let report = exported(&server.database, &old, &["--overwrite"]).await;
    assert_eq!(report["operations"], json!({ "added": 3, "removed": 3, "kept": 7 }));
    for account in [&ahead, &forked] {
        old.assert_holds(&Expected::of(&server, account).await).await;
    }
}

async fn a_number_that_belongs_to_somebody_else(from: Backend) {
    let server = Server::start(from).await;
    let [theirs, other] = [server.account().await, server.account().await];
    let old = OldDatabase::create(State::Head).await;
    old.run(&format!(
        "INSERT INTO users (id, email, created_at) VALUES ({}, 'x@example.org', '2020-01-01')",
        theirs.id
    ))
    .await;
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    assert!(reason(&report, &theirs).contains("another account"), "{report}");
    assert_eq!(old.user(&theirs).await["email"], "x@example.org");
    assert_eq!(old.user(&other).await["email"], other.email);
}

async fn what_was_written_is_compared_in_what_it_means(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    account.upload("A", &[op("A").payload(json!({ "a": 1, "b": [2, 3] })), op("A")]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    // The same in other words.
    old.run("UPDATE operations SET payload = '{\"b\": [2.0, 30e-1], \"a\": 1}' WHERE server_seq = 1").await;
    exported(&server.database, &old, &[]).await;
    for sql in [
        "UPDATE operations SET payload = '{\"b\": [2, 4], \"a\": 1}' WHERE server_seq = 1",
        "UPDATE operations SET payload = '{\"b\": [2, 3], \"a\": 1}' WHERE server_seq = 1; \
         UPDATE operations SET entity_ids = '{x}' WHERE server_seq = 2",
    ] {
        old.run(sql).await;
        account.upload("A", &[op("A")]).await.ok();
        let before = old.contents().await;
        let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
        assert!(reason(&report, &account).contains("differs in what it says"), "{report}");
        assert_eq!(old.contents().await, before, "what is not verified is not committed");
    }
    let report = exported(&server.database, &old, &["--no-verify"]).await;
    assert_eq!(report["operations"], json!({ "added": 2, "removed": 0, "kept": 2 }));
}

async fn what_was_interrupted_is_continued(from: Backend) {
    let server = Server::start(from).await;
    let [first, second, third] = [server.account().await, server.account().await, server.account().await];
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    for account in [&first, &second, &third] {
        account.upload("A", &[op("A"), op("A")]).await.ok();
    }
    // Somebody holds the second one, so the export waits; then its session ends.
    let mut holder = old.session().await;
    let held = format!("BEGIN; SELECT id FROM users WHERE id = {} FOR UPDATE", second.id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(held)).execute(&mut holder).await.expect("held");
    let mut watcher = old.session().await;
    let ending = async {
        let waits = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'supersync-export' AND wait_event_type = 'Lock'";
        while sqlx::query(waits).fetch_optional(&mut watcher).await.expect("asked").is_none() {
            tokio::task::yield_now().await;
        }
        drop(holder);
    };
    let (output, ()) = tokio::join!(export(&server.database, &old, &["--force"]), ending);
    let said = refused(&output, 5);
    assert!(said.contains("the target database failed") && said.contains("run the command again"), "{said}");
    drop(watcher);
    old.assert_holds(&Expected::of(&server, &first).await).await;
    assert!(old.operations(&second).await.is_empty() && old.operations(&third).await.is_empty());

    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["operations"], json!({ "added": 4, "removed": 0, "kept": 2 }));
    for account in [&first, &second, &third] {
        old.assert_holds(&Expected::of(&server, account).await).await;
    }
}
