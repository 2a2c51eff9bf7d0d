//! Accounts that can't be written: they are left as they were, the others are not.

use serde_json::{Value, json};

use super::old::Expected;
use super::{export, exported, partly, refused};
use crate::harness::{Account, Backend, Program, Server, TestDatabase, import, op, snapshot, upload};
use crate::old_schema::{OldDatabase, State};

on_both_databases! {
    an_id_that_another_account_has_there,
    what_the_old_columns_cannot_hold,
    everything_that_jsonb_cannot_hold_is_told_and_replaced_when_told,
    what_only_the_target_has_is_not_given_up_by_itself,
    what_was_begun_again_there_is_not_given_up_by_itself,
    what_was_added_to_an_account_there_is_not_given_up_by_itself,
    what_was_lost_here_is_not_deleted_there,
    a_number_that_belongs_to_somebody_else,
    what_was_written_is_compared_in_what_it_means,
    what_was_interrupted_is_continued,
    what_a_killed_export_left_is_named_and_deleted,
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

/// Uploads an operation with this very payload.
async fn put_raw(account: &Account, payload: &str) {
    let body = upload("A", None, &[op("A").payload("MARK")]).to_string().replace("\"MARK\"", payload);
    let put = account.send(reqwest::Method::POST, "/api/sync/ops", &[], body.into_bytes()).await;
    assert!(put.outcomes()[0].starts_with('#'), "{payload:.80}: {}", put.text);
}

/// Whether PostgreSQL takes it, asked itself.
async fn is_jsonb(old: &OldDatabase, json: &str) -> bool {
    let mut session = old.session().await;
    let taken = sqlx::query("SELECT $1::jsonb IS NULL").bind(json).fetch_one(&mut session).await;
    taken.is_ok()
}

async fn everything_that_jsonb_cannot_hold_is_told_and_replaced_when_told(from: Backend) {
    let server = Server::start(from).await;
    let [odd, fine] = [server.account().await, server.account().await];
    let old = OldDatabase::create(State::Head).await;
    let zeros = |n| "0".repeat(n);
    let payloads = [
        r#"{"title":"fine \\u0000 \ud83e\udd80"}"#.to_owned(),
        r#"{"title":"a\u0000b"}"#.to_owned(),
        r#"{"cut":"\ud83e"}"#.to_owned(),
        r#"{"\udd80":"\udd80\ud83e"}"#.to_owned(),
        r#"{"n":1e131071}"#.to_owned(),
        r#"{"n":1e131072}"#.to_owned(),
        r#"{"n":[0.5e-16382,0e99999]}"#.to_owned(),
        r#"{"n":-0.5e-16383}"#.to_owned(),
        r#"{"n":0e-16384}"#.to_owned(),
        r#"{"n":1e9999999999}"#.to_owned(),
        format!(r#"{{"n":12.5{}}}"#, zeros(16_382)),
        format!(r#"{{"n":12.5{}}}"#, zeros(16_383)),
        format!(r#"{{"n":1{}}}"#, zeros(131_071)),
        format!(r#"{{"n":1{}}}"#, zeros(131_072)),
        format!(r#"{{"n":0.{}1e140000}}"#, zeros(10_000)),
        r#"{"u0000":"-1e999999","\"-1e999999":[0,-0.0,1e308,5e-324,1.5E+10,null,"\\\\u0000 \u0001"]}"#.to_owned(),
        r#"{"\\\u0000":["\uDD80x\ud83e\ud83e\udd80",0.5e-99999]}"#.to_owned(),
        r#"{"n":[0e1000,0.00001e131076,1e-16383]}"#.to_owned(),
    ];
    let mut refused = Vec::new();
    for (seq, payload) in (1..).zip(&payloads) {
        put_raw(&odd, payload).await;
        if !is_jsonb(&old, payload).await {
            refused.push(seq);
        }
    }
    assert_eq!(refused, [2, 3, 4, 6, 8, 9, 10, 12, 14, 17], "as many kinds as there are");
    fine.upload("A", &[op("A")]).await.ok();
    for further in [&["--json", "--dry-run"] as &[&str], &["--json"]] {
        let (report, _) = partly(&export(&server.database, &old, further).await);
        let text = reason(&report, &odd);
        for seq in 1..=i64::try_from(payloads.len()).expect("few") {
            let is_told = text.contains(&format!("operation {seq} can't be stored"));
            assert_eq!(is_told, refused.contains(&seq), "{seq}: {text}");
        }
        for what in ["\\u0000", "half of a character", "a number beyond", "--replace-values"] {
            assert!(text.contains(what), "{text}");
        }
    }
    assert_eq!(old.rows("SELECT id FROM users").await, [json!({ "id": fine.id })]);

    let report = exported(&server.database, &old, &["--replace-values"]).await;
    assert_eq!(report["lost"]["values"], refused.len());
    let replaced = "SELECT payload FROM operations WHERE server_seq IN (2, 3, 6, 12, 17) ORDER BY server_seq";
    let replaced: Vec<_> = old.rows(replaced).await.into_iter().map(|mut row| row["payload"].take()).collect();
    let expected = [
        json!({ "title": "a\u{fffd}b" }),
        json!({ "cut": "\u{fffd}" }),
        json!({ "n": null }),
        json!({ "n": 12.5 }),
        json!({ "\\\u{fffd}": ["\u{fffd}x\u{fffd}\u{1f980}", 0.0] }),
    ];
    assert_eq!(replaced, expected);
    // Another time there is nothing left to do, and what stands there is what should.
    let report = exported(&server.database, &old, &[]).await;
    assert_eq!(report["accounts"]["unchanged"], 2, "{report}");
}

async fn what_was_begun_again_there_is_not_given_up_by_itself(from: Backend) {
    let server = Server::start(from).await;
    let [wiped, again, replaced] = [server.account().await, server.account().await, server.account().await];
    let [kept, pruned] = [server.account().await, server.account().await];
    for account in [&wiped, &again, &replaced, &kept, &pruned] {
        account.upload("A", &[import("A"), op("A"), op("A")]).await.ok();
    }
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    for account in [&wiped, &again, &kept] {
        account.delete("/api/sync/data").await.ok();
    }
    again.upload("A", &[import("A"), op("A")]).await.ok();
    replaced.snapshot(&snapshot("N").clean_slate()).await.ok();
    // What it was is forgotten, but a full state of a device that has seen it all stands before what there is.
    pruned.upload("A", &[import("A").clock(json!({ "A": 4 }))]).await.ok();
    server.prune(&pruned, 3).await;
    let (bytes, _) = server.store.measure(pruned.id, 3, i64::MAX).await.expect("the store works");
    server.change_state(&pruned, |state| state.storage_used_bytes = bytes).await;
    // The old server went on working: wiped there, and begun again.
    for account in [&wiped, &again, &replaced] {
        old.run(&format!(
            "DELETE FROM operations WHERE user_id = {0} AND server_seq = 3; \
             UPDATE operations SET id = 'theirs-' || id WHERE user_id = {0}; \
             UPDATE user_sync_state SET last_seq = 2 WHERE user_id = {0}",
            account.id
        ))
        .await;
    }
    let before = [old.operations(&wiped).await, old.operations(&again).await, old.operations(&replaced).await];
    for further in [&["--json", "--dry-run"] as &[&str], &["--json"]] {
        let (report, _) = partly(&export(&server.database, &old, further).await);
        assert_eq!((&report["accounts"]["failed"]["count"], &report["accounts"]["changed"]), (&json!(3), &json!(2)));
        for account in [&wiped, &again, &replaced] {
            let text = reason(&report, account);
            assert!(text.contains("operations up to 2 are none") && text.contains("--overwrite"), "{text}");
        }
    }
    let after = [old.operations(&wiped).await, old.operations(&again).await, old.operations(&replaced).await];
    assert_eq!(after, before);
    // What was ours is no reason to stop.
    assert_eq!((old.operations(&kept).await, old.state(&kept).await), (vec![], None));
    old.assert_holds(&Expected::of(&server, &pruned).await).await;
    exported(&server.database, &old, &["--overwrite"]).await;
    assert_eq!((old.operations(&wiped).await, old.state(&wiped).await), (vec![], None));
    for account in [&again, &replaced] {
        old.assert_holds(&Expected::of(&server, account).await).await;
    }
}

async fn what_was_added_to_an_account_there_is_not_given_up_by_itself(from: Backend) {
    let server = Server::start(from).await;
    let [key, verified, revoked] = [server.account().await, server.account().await, server.account().await];
    let old = OldDatabase::create(State::Head).await;
    server.database.tamper(&format!("UPDATE users SET is_verified = FALSE WHERE id = {}", verified.id)).await;
    exported(&server.database, &old, &[]).await;
    old.run(&format!(
        "INSERT INTO passkeys (id, user_id, credential_id, public_key) \
         VALUES ('cmk0000000000000000000009', {}, '\\xaa', '\\xa5'); \
         UPDATE users SET is_verified = 1 WHERE id = {}; UPDATE users SET token_version = 1 WHERE id = {}",
        key.id, verified.id, revoked.id
    ))
    .await;
    let before = old.contents().await;
    let (report, _) = partly(&export(&server.database, &old, &["--json"]).await);
    for (account, what) in [(&key, "a passkey"), (&verified, "address has been verified"), (&revoked, "revoked")] {
        let text = reason(&report, account);
        assert!(text.contains(what) && text.contains("--overwrite"), "{text}");
    }
    assert_eq!(old.contents().await, before);
    exported(&server.database, &old, &["--overwrite"]).await;
    assert_eq!(old.rows("SELECT id FROM passkeys").await, Vec::<Value>::new());
    assert_eq!(
        (old.user(&verified).await["is_verified"].clone(), &old.user(&revoked).await["token_version"]),
        (json!(0), &json!(0))
    );
}

async fn what_was_lost_here_is_not_deleted_there(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A"), op("A")]).await.ok();
    let old = OldDatabase::create(State::Head).await;
    exported(&server.database, &old, &[]).await;
    server.store.delete_ops(account.id, 1, 3, 10).await.expect("the store works");
    let before = old.contents().await;
    let (report, _) = partly(&export(&server.database, &old, &["--json", "--accept-faults"]).await);
    assert!(reason(&report, &account).contains("operation 2 is none that this server has"), "{report}");
    assert_eq!(old.contents().await, before);
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

/// The copies of the data that exports have made.
fn copies(database: &TestDatabase) -> Vec<String> {
    let files = std::fs::read_dir(database.data_dir()).expect("a folder");
    let names = files.map(|file| file.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with("supersync-export-")).collect()
}

async fn what_a_killed_export_left_is_named_and_deleted(from: Backend) {
    let server = Server::start(from).await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    let database = &server.database;
    let old = OldDatabase::create(State::Head).await;
    exported(database, &old, &[]).await;
    assert_eq!(copies(database), Vec::<String>::new());
    let doctor = async || {
        let said = Program::run(database, &["doctor", "--offline"]).await;
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    // Somebody holds the account, so the export waits.
    let mut holder = old.session().await;
    let held = format!("BEGIN; SELECT id FROM users WHERE id = {} FOR UPDATE", account.id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(held)).execute(&mut holder).await.expect("held");
    let mut watcher = old.session().await;
    let to = old.url();
    let killed = Program::run_until(database, &["export", "--upstream", "--force", "--to", &to], async {
        let waits = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'supersync-export' AND wait_event_type = 'Lock'";
        while sqlx::query(waits).fetch_optional(&mut watcher).await.expect("asked").is_none() {
            tokio::task::yield_now().await;
        }
        let said = doctor().await;
        assert!(!said.contains("left behind"), "it is in use: {said}");
    })
    .await;
    assert!(killed, "the export had not ended");
    drop((holder, watcher));
    let left = copies(database);
    assert_eq!(left.len(), 1, "{left:?}");
    let said = doctor().await;
    assert!(said.contains(&left[0]) && said.contains("left behind by an export"), "{said}");
    // One of an earlier version has another name.
    let copy = std::fs::read(database.data_dir().join(&left[0])).expect("readable");
    std::fs::write(database.data_dir().join("supersync-export-1.ssb"), copy).expect("written");
    exported(database, &old, &[]).await;
    assert_eq!(copies(database), Vec::<String>::new());
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
