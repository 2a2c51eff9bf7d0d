//! With the same secret, devices go on: their tokens, cursors, passwords, and what the old server knew of conflicts.

use serde_json::{Value, json};

use super::data::{PASSWORD, account, counter, old, operations, user};
use super::imported;
use super::old::Old;
use crate::harness::{Account, Backend, Program, TestDatabase, http_client, op, receive};

into_both_databases! {
    a_device_goes_on_where_it_was,
    what_is_downloaded_is_what_the_old_server_held,
    histories_without_a_beginning_and_without_anything,
    links_passkeys_and_quotas_come_along,
}

fn device(program: &Program, id: i64, version: i64) -> Account {
    let email = format!("user{id}@example.org");
    let claims = json!({ "userId": id, "email": email, "tokenVersion": version, "iat": 1_767_000_000 });
    Account { id, email, token: Account::signed(&claims), base: program.base.clone(), http: http_client() }
}

async fn a_device_goes_on_where_it_was(on: Backend) {
    let all = [account(5, 100), "UPDATE users SET token_version = 3 WHERE id = 5;".to_owned()];
    let old = old(&all).await;
    let database = TestDatabase::create(on).await;
    imported(&database, &old, &[]).await;
    let program = Program::start(&database).await;
    let revoked = device(&program, 5, 2).get("/api/sync/status").await;
    assert_eq!(revoked.status, 401, "{}", revoked.text);
    let account = device(&program, 5, 3);
    assert_eq!(account.status().await["latestSeq"], 100);
    assert!(account.download(100).await.seqs().is_empty());
    assert_eq!(account.download(97).await.seqs(), [98, 99, 100]);

    // Sent before the move, answered after it.
    let again = op("A_phone")
        .with("id", "op-5-40")
        .with("opType", "CRT")
        .task("task-5")
        .payload(json!({ "title": "Task 40", "tags": ["a b", 40], "done": false }))
        .with("vectorClock", json!({ "A_phone": 21, "B_desk": 20 }))
        .with("timestamp", 1_760_000_000_040_i64);
    assert_eq!(account.upload("A_phone", &[again]).await.outcomes(), ["DUPLICATE_OPERATION"]);
    // Made without knowing of operation 98, of the same task (98 % 7 = 0).
    let late = op("C_new").task("task-0").with("vectorClock", json!({ "C_new": 1 }));
    assert_eq!(account.upload("C_new", &[late]).await.outcomes(), ["CONFLICT_CONCURRENT"]);
    let stale = op("A_phone").task("task-0").with("vectorClock", json!({ "A_phone": 2, "B_desk": 1 }));
    assert_eq!(account.upload("A_phone", &[stale]).await.outcomes(), ["CONFLICT_SUPERSEDED"]);
    let next = op("A_phone").task("task-0").with("vectorClock", json!({ "A_phone": 60, "B_desk": 60 }));
    assert_eq!(account.upload_from("A_phone", 100, &[next]).await.outcomes(), ["#101"]);

    let body = json!({ "email": "User5@Example.org", "password": PASSWORD }).to_string();
    let login = http_client().post(format!("{}/api/login", program.base)).header("content-type", "application/json");
    let login = receive(login.body(body)).await.ok();
    assert!(login["token"].is_string(), "the password of the old server holds");
    // Numbers of accounts are not given out again.
    let made = Program::run(&database, &["user", "add", "new@example.org"]).await;
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(said.contains("Created account 6 for"), "{said}");
    assert!(program.terminate().await.success());
}

async fn what_is_downloaded_is_what_the_old_server_held(on: Backend) {
    let payloads = [
        r#""U2FsdGVk X19 ciphertext""#,
        r#"{"title": "ä✓ \" \\ , : {}", "n": [0, -1, 0.5, 1e21, true, null, {}, []], "": {"a  b": "c  d"}}"#,
        "null",
    ];
    let mut all = vec![user(8, "user8@example.org"), counter(8, 3), user(9, "user9@example.org"), counter(9, 2)];
    for (seq, payload) in (1..).zip(payloads) {
        all.push(format!(
            "INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, entity_id, \
                 entity_ids, payload, vector_clock, schema_version, client_timestamp, received_at, is_payload_encrypted) \
             VALUES ('id-{seq}', 8, 'A_x', {seq}, '[Tag] Add', 'CRT', 'TAG', 'one', '{{one,two}}', $p${payload}$p$, \
                 '{{\"zz\": 2, \"A_x\": {seq}}}', 3, 17, 2000000000000, {});",
            seq == 1
        ));
    }
    all.push(
        "INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, payload, vector_clock, \
             schema_version, client_timestamp, received_at, sync_import_reason) \
         VALUES ('id-4', 9, 'A_x', 1, '[SP_ALL] Load(import) all data', 'SYNC_IMPORT', 'ALL', '{\"task\": {\"ids\": []}}', \
             '{\"A_x\": 9}', 4, 18, 2000000000001, 'FILE_IMPORT'); \
         INSERT INTO operations (id, user_id, client_id, server_seq, action_type, op_type, entity_type, payload, vector_clock, \
             schema_version, client_timestamp, received_at, sync_import_reason, repair_base_server_seq, payload_bytes) \
         VALUES ('id-5', 9, 'A_x', 2, '[SP_ALL] Load(import) all data', 'REPAIR', 'ALL', '{\"task\": {}}', \
             '{\"A_x\": 10}', 4, 19, 2000000000002, 'REPAIR', 1, 77);"
            .to_owned(),
    );
    let old = old(&all).await;
    let database = TestDatabase::create(on).await;
    imported(&database, &old, &[]).await;
    let program = Program::start(&database).await;
    let account = device(&program, 8, 0);
    assert_eq!(account.download(0).await.seqs(), [1, 2, 3]);
    for (seq, payload) in (1..).zip(payloads) {
        let found = account.op_at(seq).await;
        let expected: Value = serde_json::from_str(payload).expect("JSON");
        assert_eq!(found["payload"], expected);
        assert_eq!(found["entityIds"], json!(["one", "two"]));
        assert_eq!(found["vectorClock"], json!({ "A_x": seq, "zz": 2 }));
        assert_eq!(found["isPayloadEncrypted"].as_bool().unwrap_or(false), seq == 1);
        assert_eq!((&found["timestamp"], &found["schemaVersion"]), (&json!(17), &json!(3)));
    }
    let account = device(&program, 9, 0);
    let repair = account.op_at(2).await;
    assert_eq!((&repair["opType"], &repair["syncImportReason"]), (&json!("REPAIR"), &json!("REPAIR")));
    let points = account.get("/api/sync/restore-points").await.ok();
    let seqs: Vec<_> =
        points["restorePoints"].as_array().expect("a list").iter().map(|p| p["serverSeq"].clone()).collect();
    assert_eq!(seqs, [2, 1]);
    assert!(program.terminate().await.success());
}

async fn histories_without_a_beginning_and_without_anything(on: Backend) {
    let all = [
        user(1, "user1@example.org"),
        operations(1, 51, 60),
        counter(1, 60),
        user(2, "user2@example.org"),
        user(3, "user3@example.org"),
        counter(3, 0),
    ];
    let old = old(&all).await;
    let database = TestDatabase::create(on).await;
    imported(&database, &old, &[]).await;
    let program = Program::start(&database).await;
    let pruned = device(&program, 1, 0);
    assert_eq!(pruned.download(50).await.seqs(), (51..=60).collect::<Vec<_>>());
    assert_eq!(pruned.upload("A_phone", &[op("A_phone").task("another")]).await.outcomes(), ["#61"]);
    for id in [2, 3] {
        let empty = device(&program, id, 0);
        assert_eq!(empty.status().await["latestSeq"], 0);
        assert_eq!(empty.upload("A_phone", &[op("A_phone")]).await.outcomes(), ["#1"]);
    }
    assert!(program.terminate().await.success());
}

async fn links_passkeys_and_quotas_come_along(on: Backend) {
    let all = [
        user(1, "user1@example.org"),
        user(2, "user2@example.org"),
        "UPDATE users SET storage_quota_bytes = 12345678, login_token = 'a link', login_token_expires_at = 4000000000000 \
             WHERE id = 1; \
         UPDATE users SET passkey_recovery_token = 'an old link', passkey_recovery_token_expires_at = 1000 WHERE id = 1; \
         UPDATE users SET is_verified = 0, verification_token = 'verify me', verification_token_expires_at = 4000000000000 \
             WHERE id = 2; \
         INSERT INTO passkeys (id, user_id, credential_id, public_key, transports) VALUES \
             ('ck1', 1, '\\x00010203fffefdfc00010203fffefdfc', '\\xa0', '[\"usb\"]'), \
             ('ck2', 1, convert_to('AAECA__-_fwAAQID__79_A', 'UTF8'), '\\xa0', NULL); \
         INSERT INTO pending_passkey_registrations (id, verification_token, verification_token_expires_at, credential_id, \
             public_key, user_id) VALUES ('p1', 'pending', 4000000000000, '\\x01', '\\xa0', 2); \
         INSERT INTO sync_devices (user_id, client_id, last_seen_at, created_at) VALUES (1, 'B_desk', 2, 1), (1, 'A_phone', 4, 3);"
            .to_owned(),
    ];
    let old = old(&all).await;
    let said = imported(&TestDatabase::create(on).await, &old, &["--dry-run"]).await;
    let figures =
        ["links", "passkeys", "passkeysRepaired", "pendingPasskeysDropped", "devices"].map(|name| said[name].as_u64());
    assert_eq!(figures, [Some(2), Some(2), Some(1), Some(1), Some(2)]);
    // Repaired it is the same credential as the first one, which no two passkeys may have.
    old.run("DELETE FROM passkeys WHERE id = 'ck1'").await;
    let database = TestDatabase::create(on).await;
    imported(&database, &old, &[]).await;
    let program = Program::start(&database).await;
    let account = device(&program, 1, 0);
    assert_eq!(account.status().await["storageQuotaBytes"], 12_345_678);
    let keys = account.get("/api/passkeys").await.ok();
    assert_eq!(keys["passkeys"].as_array().map(Vec::len), Some(1), "{}", keys.text);
    let verify =
        http_client().post(format!("{}/api/verify-email", program.base)).header("content-type", "application/json");
    receive(verify.body(json!({ "token": "verify me" }).to_string())).await.ok();
    let body = json!({ "email": "user2@example.org", "password": PASSWORD }).to_string();
    let login = http_client().post(format!("{}/api/login", program.base)).header("content-type", "application/json");
    receive(login.body(body)).await.ok();
    assert!(program.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_there_and_back_changes_nothing() {
    let old = old(&[account(1, 200), account(2, 3)]).await;
    let before = old.contents().await;
    let database = TestDatabase::create(Backend::Sqlite).await;
    imported(&database, &old, &[]).await;
    let back = Old::create().await;
    let done = Program::run(&database, &["export", "--upstream", "--to", back.url()]).await;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let operations = |contents: &[(&'static str, Vec<Value>)]| {
        let (_, rows) = contents.iter().find(|(table, _)| *table == "operations").expect("there").clone();
        // Measured there and not here, before.
        let unmeasured = |mut row: Value| {
            row.as_object_mut().expect("a row").remove("payload_bytes");
            row
        };
        rows.into_iter().map(unmeasured).collect::<Vec<_>>()
    };
    assert_eq!(operations(&back.contents().await), operations(&before));
}
