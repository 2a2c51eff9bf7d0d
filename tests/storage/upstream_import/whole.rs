//! Everything is there, and devices go on without noticing.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use super::{imported, in_order, run};
use crate::harness::{Account, Backend, Program, TestDatabase, http_client, op};
use crate::old_schema::{OldDatabase, PASSWORD};

on_both_databases! {
    a_device_goes_on,
    what_is_downloaded_is_what_the_source_holds,
    a_password_of_the_old_server_signs_in,
    numbers_are_not_given_out_again,
    an_older_schema_is_taken_over,
    an_address_as_the_old_server_has_it_is_taken,
    passkeys_and_links_come_along,
}

/// The token that the old server gave to a device.
fn token(user: i64, version: Option<i64>) -> String {
    let mut claims =
        json!({ "userId": user, "email": "ann@example.org", "iat": 1_760_000_000, "exp": 4_000_000_000_i64 });
    if let Some(version) = version {
        claims["tokenVersion"] = version.into();
    }
    let key = EncodingKey::from_secret(b"a secret of the tests, long enough to be one");
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("claims")
}

pub fn device(server: &Program, user: i64, version: Option<i64>) -> Account {
    Account {
        id: user,
        email: String::new(),
        token: token(user, version),
        base: server.base.clone(),
        http: http_client(),
    }
}

async fn a_device_goes_on(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    let report = imported(&old, &target, &[]).await;
    assert_eq!((&report["taken"], &report["operations"], &report["devices"]), (&json!(3), &json!(60), &json!(2)));
    assert_eq!((&report["verified"], &report["differences"]), (&json!(3), &json!([])));
    assert_eq!(report["snapshots_dropped"], 1);
    in_order(&target).await;

    let server = Program::start(&target).await;
    device(&server, 1, Some(2)).get("/api/sync/status").await.expect(401);
    let ann = device(&server, 1, Some(3));
    let status = ann.get("/api/sync/status").await.ok();
    assert_eq!(status["latestSeq"], 40, "{}", status.text);
    let nothing_new = ann.download(40).await;
    assert_eq!((nothing_new.seqs(), nothing_new.has("gapDetected")), (vec![], false), "{}", nothing_new.text);

    // The device A, having seen everything.
    let known = json!({ "A": 21, "B": 20 });
    assert_eq!(ann.upload_from("A", 40, &[op("A").task("task-0").clock(known)]).await.outcomes(), ["#41"]);
    // Somebody who has not seen what happened to this task.
    let late = op("C").task("task-9").clock(json!({ "C": 1 }));
    assert_eq!(ann.upload("C", &[late]).await.outcomes(), ["CONFLICT_CONCURRENT"]);
    // Of several entities each counts.
    let late = op("C").task("ü").clock(json!({ "C": 1 }));
    assert_eq!(ann.upload("C", &[late]).await.outcomes(), ["CONFLICT_CONCURRENT"]);
    // An upload whose answer was lost is recognised.
    let (payload, clock) = old.stored(1, 40).await;
    let again =
        op("B").id("op-1-000000040").task("task-0").payload(payload).clock(clock).schema(2).at(1_760_000_000_040_i64);
    assert_eq!(ann.upload("B", &[again]).await.outcomes(), ["DUPLICATE_OPERATION"]);

    // A token without a version is one of version 0.
    let bob = device(&server, 2, None);
    let all = bob.download(0).await;
    assert_eq!(all.seqs(), (6..=25).collect::<Vec<_>>());
    assert_eq!(bob.upload_from("A", 25, &[op("A").clock(json!({ "A": 99, "B": 99 }))]).await.outcomes(), ["#26"]);

    let cy = device(&server, 7, Some(0));
    assert_eq!(cy.get("/api/sync/status").await.ok()["latestSeq"], 0);
    assert_eq!(cy.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
    server.kill().await;
    in_order(&target).await;
}

async fn what_is_downloaded_is_what_the_source_holds(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    for (user, version, first) in [(1, 3, 1), (2, 0, 6)] {
        let ops = device(&server, user, Some(version)).download(0).await["ops"].as_array().expect("a list").clone();
        assert!(ops.len() >= 20, "{}", ops.len());
        for (seq, sent) in (first..).zip(&ops) {
            let (payload, clock) = old.stored(user, seq).await;
            assert_eq!((&sent["op"]["payload"], &sent["op"]["vectorClock"]), (&payload, &clock));
            assert_eq!(sent["serverSeq"], seq);
        }
        let of = |seq: i64| &ops[usize::try_from(seq - first).expect("small")]["op"];
        if user == 1 {
            assert_eq!(of(12)["entityIds"], json!(["task-1", "we\"ird", "ü"]));
            assert_eq!((&of(1)["opType"], &of(1)["syncImportReason"]), (&json!("SYNC_IMPORT"), &json!("FILE_IMPORT")));
        } else {
            assert_eq!((&of(20)["isPayloadEncrypted"], &of(20)["payload"]), (&json!(true), &json!("Q2lwaGVydGV4dA==")));
        }
    }
    server.kill().await;
}

async fn a_password_of_the_old_server_signs_in(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    imported(&old, &target, &[]).await;
    let server = Program::start(&target).await;
    let nobody = device(&server, 1, Some(3));
    let wrong = json!({ "email": "ann@example.org", "password": "another password" });
    nobody.post("/api/login", &wrong).await.expect(401);
    let right = json!({ "email": "ANN@example.org", "password": PASSWORD });
    let session = nobody.post("/api/login", &right).await.ok();
    assert_eq!(session["user"], json!({ "id": 1, "email": "ann@example.org" }));
    server.kill().await;
}

async fn numbers_are_not_given_out_again(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run("SELECT setval('users_id_seq', 41)").await;
    imported(&old, &target, &[]).await;
    assert!(Program::run(&target, &["user", "add", "new@example.org"]).await.status.success());
    let store = supersync::store::open(&target.settings(), std::time::Duration::from_mins(1)).await.expect("it opens");
    let added = store.user_by_email("new@example.org").await.expect("it reads").expect("it is there");
    assert_eq!(added.id, 42);
    store.close().await;
}

/// As the first releases left it, without any migration.
const BEFORE_MIGRATIONS: &str = "
    ALTER TABLE operations DROP COLUMN entity_ids, DROP COLUMN payload_bytes, DROP COLUMN is_payload_encrypted,
        DROP COLUMN sync_import_reason, DROP COLUMN repair_base_server_seq;
    ALTER TABLE users DROP COLUMN storage_quota_bytes, DROP COLUMN storage_used_bytes, DROP COLUMN reset_password_token,
        DROP COLUMN reset_password_token_expires_at, DROP COLUMN passkey_recovery_token,
        DROP COLUMN passkey_recovery_token_expires_at, DROP COLUMN login_token, DROP COLUMN login_token_expires_at;
    ALTER TABLE user_sync_state DROP COLUMN latest_full_state_seq, DROP COLUMN latest_full_state_vector_clock,
        DROP COLUMN latest_state_replacement_seq;
    DROP TABLE passkeys; DROP TABLE pending_passkey_registrations;";

async fn an_older_schema_is_taken_over(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run("DELETE FROM operations WHERE user_id = 2 AND is_payload_encrypted").await;
    old.run("DELETE FROM operations WHERE user_id = 2 AND server_seq < 21").await;
    old.run(BEFORE_MIGRATIONS).await;
    let report = imported(&old, &target, &[]).await;
    let missing = report["missing_columns"].as_array().expect("a list");
    assert!(missing.contains(&json!("operations.entity_ids")) && missing.contains(&json!("passkeys")), "{report}");
    assert_eq!((&report["taken"], &report["operations"]), (&json!(3), &json!(45)));
    in_order(&target).await;
    let server = Program::start(&target).await;
    assert_eq!(device(&server, 1, Some(3)).download(0).await.seqs(), (1..=40).collect::<Vec<_>>());
    server.kill().await;
}

async fn passkeys_and_links_come_along(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "INSERT INTO users (id, email, verification_token, verification_token_expires_at) \
         VALUES (9, 'new@example.org', 'verify-me', 4000000000000), (10, 'late@example.org', 'too-late', 1000); \
         UPDATE users SET login_token = 'sign-me-in', login_token_expires_at = 4000000000000 WHERE id = 2; \
         INSERT INTO passkeys (id, credential_id, public_key, counter, transports, user_id) VALUES \
         ('c1', '\\x000102030405060708090a0b0c0d0e0f', '\\xa5', 4, '[\"usb\"]', 2), \
         ('c2', 'AAECAwQFBgcICQoLDA0ODw', '\\xa5', 4, NULL, 2), \
         ('c3', '_____________________w', '\\xa6', 0, 'not a list', 7); \
         INSERT INTO pending_passkey_registrations \
         (id, verification_token, verification_token_expires_at, credential_id, public_key, user_id) \
         VALUES ('p1', 'verify-key', 4000000000000, '\\x1111', '\\xa7', 9)",
    )
    .await;
    let report = imported(&old, &target, &[]).await;
    let counts = ["passkeys", "passkeys_repaired", "passkeys_dropped", "pending_passkeys", "links", "links_dropped"];
    assert_eq!(counts.map(|name| report[name].as_u64().expect("a number")), [2, 1, 1, 1, 3, 1], "{report}");
    in_order(&target).await;
    let store = supersync::store::open(&target.settings(), std::time::Duration::from_mins(1)).await.expect("it opens");
    let key = store.find_passkey(&[0xff; 16]).await.expect("it reads").expect("repaired");
    assert_eq!((key.user, key.key.public_key, key.key.transports), (7, vec![0xa6], None));
    let keys = store.passkeys_of(2).await.expect("it reads");
    assert_eq!(keys.len(), 1);
    assert_eq!((keys[0].key.counter, keys[0].key.transports.as_deref()), (4, Some("[\"usb\"]")));
    store.close().await;
    let server = Program::start(&target).await;
    let nobody = device(&server, 2, None);
    nobody.post("/api/verify-email", &json!({ "token": "too-late" })).await.expect(400);
    nobody.post("/api/verify-email", &json!({ "token": "verify-me" })).await.ok();
    let session = nobody.post("/api/login/magic-link/verify", &json!({ "token": "sign-me-in" })).await.ok();
    assert_eq!(session["user"]["id"], 2);
    server.kill().await;
    let output = run(&old, &target, &["--verify-only"]).await;
    assert_eq!(output.status.code(), Some(1), "the account that was verified here is not as it was there");
}

async fn an_address_as_the_old_server_has_it_is_taken(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run("ALTER SCHEMA public RENAME TO \"Old Data\"").await;
    let url = format!("{}?schema=Old%20Data&connection_limit=5&pool_timeout=20&pgbouncer=true", old.url());
    let output = Program::run(&target, &["import", "--yes", "--from", &url]).await;
    assert!(output.status.success(), "{}", super::complained(&output));
    assert!(super::said(&output).contains("3 taken over with 60 operations"), "{}", super::said(&output));
    in_order(&target).await;
}
