//! What is damaged in the source: reported, left out, and with `--repair` taken so that clients get along.

use serde_json::json;

use super::{failed, imported, in_order};
use crate::harness::{Backend, TestDatabase};
use crate::old_schema::OldDatabase;

on_both_databases! {
    a_counter_below_the_log_is_mended_when_told_to,
    an_older_passkey_of_an_unverified_address_waits,
    of_addresses_equal_but_for_case_one_is_taken,
}

async fn a_counter_below_the_log_is_mended_when_told_to(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run("UPDATE user_sync_state SET last_seq = 30 WHERE user_id = 1").await;
    let report = failed(1, &old, &target, &[]).await;
    let what = "last_seq is 30, but there is an operation 40; --repair takes it over all the same";
    assert_eq!(report["left_out"], json!([{ "user": 1, "what": what }]));
    let report = imported(&old, &target, &["--repair"]).await;
    assert_eq!((&report["taken"], &report["unchanged"]), (&json!(1), &json!(2)));
    assert_eq!(report["repaired"][0]["user"], 1);
    assert!(in_order(&target).await.contains("3 accounts, 60 operations"));
    assert_eq!(imported(&old, &target, &["--verify-only"]).await["differences"], json!([]));
}

async fn of_addresses_equal_but_for_case_one_is_taken(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "INSERT INTO users (id, email, is_verified, created_at) VALUES (11, 'ann@example.ORG', 1, '2026-08-01'), \
         (12, 'Ed@example.org', 1, '2026-01-01'), (13, 'ED@example.org', 1, '2026-02-01')",
    )
    .await;
    let report = imported(&old, &target, &[]).await;
    let duplicates =
        json!([{ "kept": 1, "left_out": 11, "operations": 0 }, { "kept": 13, "left_out": 12, "operations": 0 }]);
    assert_eq!(report["duplicates"], duplicates);
    assert!(in_order(&target).await.contains("4 accounts, 60 operations"));
}

async fn an_older_passkey_of_an_unverified_address_waits(target: Backend) {
    let target = TestDatabase::create(target).await;
    let old = OldDatabase::with_data().await;
    old.run(
        "DROP TABLE pending_passkey_registrations; \
         INSERT INTO users (id, email, verification_token, verification_token_expires_at) \
         VALUES (9, 'new@example.org', 'verify-me', 4000000000000); \
         INSERT INTO passkeys (id, credential_id, public_key, created_at, user_id) VALUES \
         ('c1', '\\x01', '\\xa5', '2026-02-01', 9), ('c2', '\\x02', '\\xa5', '2026-01-01', 9)",
    )
    .await;
    let report = imported(&old, &target, &[]).await;
    let counts = ["passkeys", "pending_passkeys", "links"].map(|name| report[name].as_u64().expect("a number"));
    assert_eq!(counts, [0, 1, 1], "{report}");
    in_order(&target).await;
}
