//! Scenarios 58 and 59, and points 5 and 6 of section 17: what an account may store, and how room is made.

use serde_json::{Value, json};

use crate::harness::{Backend, Reply, Server, import, op, snapshot};

on_both_databases! {
    s58_duplicates_and_invalid_siblings_cost_nothing,
    s58_a_clean_slate_ignores_what_is_used,
    s58_an_encrypted_snapshot_is_charged_once,
    s59_with_two_restore_points_the_oldest_goes,
    s59_with_nothing_to_free_the_upload_is_refused,
    s59_a_stale_counter_is_counted_again_first,
    m05_what_the_last_restore_point_supersedes_is_freed_first,
    m06_a_smaller_replacement_is_not_refused_at_the_gate,
}

async fn with_quota(on: Backend, bytes: i64) -> Server {
    Server::start_with(on, |config| config.limits.default_quota_bytes = bytes).await
}

#[track_caller]
fn over_quota(reply: &Reply, used: i64, quota: i64) -> &Value {
    assert_eq!(reply.status, 413, "{}", reply.text);
    assert_eq!(
        (&reply["error"], &reply["errorCode"]),
        (&json!("Storage quota exceeded"), &json!("STORAGE_QUOTA_EXCEEDED"))
    );
    assert_eq!((&reply["storageUsedBytes"], &reply["storageQuotaBytes"]), (&json!(used), &json!(quota)));
    &reply.body
}

async fn s58_duplicates_and_invalid_siblings_cost_nothing(on: Backend) {
    let server = with_quota(on, 1_000).await;
    let account = server.account().await;
    let stored = [op("A").sized(400), op("A").sized(400)];
    assert_eq!(account.upload("A", &stored).await.outcomes(), ["#1", "#2"]);
    let [first, second] = stored;
    let fresh = op("A").sized(200);
    let request = [first, op("A").sized(400).kind("NOPE"), fresh.clone(), fresh, second];
    let duplicate = "DUPLICATE_OPERATION";
    assert_eq!(
        account.upload("A", &request).await.outcomes(),
        [duplicate, "INVALID_OP_TYPE", "#3", duplicate, duplicate]
    );
    assert_eq!(account.status().await["storageUsedBytes"], 1_000);
    let refused = account.upload("A", &[op("A").sized(20)]).await;
    let body = over_quota(&refused, 1_000, 1_000);
    assert_eq!(body["autoCleanupAttempted"], true);
    assert_eq!(body["cleanupStats"], json!({ "freedBytes": 0, "deletedRestorePoints": 0, "deletedOps": 0 }));
    assert_eq!(account.status().await["latestSeq"], 3);
    // Refusing is no reason to refuse what costs nothing.
    assert_eq!(account.upload("A", &[op("A").kind("NOPE")]).await.outcomes(), ["INVALID_OP_TYPE"]);
}

async fn s58_a_clean_slate_ignores_what_is_used(on: Backend) {
    let server = with_quota(on, 1_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(990)]).await.ok();
    let reply = account.snapshot(&snapshot("A").clean_slate().encrypted(600)).await.ok();
    assert_eq!(reply["serverSeq"], 2);
    assert!(account.status().await["storageUsedBytes"].as_i64().is_some_and(|used| (800..=1_000).contains(&used)));
    let too_large = account.snapshot(&snapshot("A").clean_slate().encrypted(900)).await;
    let body = over_quota(&too_large, 0, 1_000);
    assert_eq!(body["autoCleanupAttempted"], false);
    assert!(body.get("cleanupStats").is_none());
    assert_eq!(account.download(0).await.seqs(), [2]);
}

async fn s58_an_encrypted_snapshot_is_charged_once(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let state = snapshot("A").encrypted(300);
    account.snapshot(&state).await.ok();
    let charged = state.json()["state"].to_string().len() + r#"{"A":1}"#.len();
    let status = account.status().await;
    assert_eq!(status["storageUsedBytes"], charged);
    assert!(status.get("snapshotAge").is_none(), "ciphertext is no state to keep ready");
    assert_eq!(status["storageQuotaBytes"], 104_857_600);
}

async fn s59_with_two_restore_points_the_oldest_goes(on: Backend) {
    let server = with_quota(on, 2_000).await;
    let account = server.account().await;
    let stored =
        [op("A").sized(300), import("A").sized(500), op("A").sized(300), import("A").sized(500), op("A").sized(300)];
    account.upload("A", &stored).await.ok();
    assert_eq!(account.upload("A", &[op("A").sized(400)]).await.outcomes(), ["#6"]);
    let kept = server.stored_seqs(&account).await;
    assert!(!kept.contains(&1) && !kept.contains(&2) && kept.ends_with(&[4, 5, 6]), "{kept:?}");
    let used = account.status().await["storageUsedBytes"].as_i64().expect("a number");
    assert_eq!(used, 500 + 300 + 400 + if kept.contains(&3) { 300 } else { 0 });
    assert_eq!(account.download(0).await.seqs(), [4, 5, 6]);
    assert!(!account.download(3).await.has("gapDetected"));
}

async fn s59_with_nothing_to_free_the_upload_is_refused(on: Backend) {
    let server = with_quota(on, 2_000).await;
    let account = server.account().await;
    account.upload("A", &[import("A").sized(1_000), op("A").sized(900)]).await.ok();
    let refused = account.upload("A", &[op("A").sized(400)]).await;
    let body = over_quota(&refused, 1_900, 2_000);
    assert_eq!(body["autoCleanupAttempted"], true);
    assert_eq!(body["cleanupStats"], json!({ "freedBytes": 0, "deletedRestorePoints": 0, "deletedOps": 0 }));
    assert_eq!(server.stored_seqs(&account).await, [1, 2]);
}

async fn s59_a_stale_counter_is_counted_again_first(on: Backend) {
    let server = with_quota(on, 2_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(100), import("A").sized(100), import("A").sized(100)]).await.ok();
    server.change_state(&account, |state| state.storage_used_bytes = 1_990).await;
    assert_eq!(account.upload("A", &[op("A").sized(100)]).await.outcomes(), ["#4"]);
    assert_eq!(account.status().await["storageUsedBytes"], 400);
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3, 4], "nothing had to be freed");
}

async fn m05_what_the_last_restore_point_supersedes_is_freed_first(on: Backend) {
    let server = with_quota(on, 2_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(500), op("A").sized(500), import("A").sized(500)]).await.ok();
    assert_eq!(account.upload("A", &[op("A").sized(800)]).await.outcomes(), ["#4"]);
    assert_eq!(server.stored_seqs(&account).await, [3, 4]);
    assert_eq!(account.status().await["storageUsedBytes"], 1_300);
    // What is freed for the new can't be had again.
    let refused = account.upload("A", &[op("A").sized(800)]).await;
    over_quota(&refused, 1_300, 2_000);
    assert_eq!(account.download(0).await.seqs(), [3, 4]);
}

async fn m06_a_smaller_replacement_is_not_refused_at_the_gate(on: Backend) {
    let server = with_quota(on, 2_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(900), import("A").sized(600), import("A").sized(500)]).await.ok();
    let reply = account.snapshot(&snapshot("A").encrypted(300)).await.ok();
    assert_eq!(reply["serverSeq"], 4);
    let used = account.status().await["storageUsedBytes"].as_i64().expect("a number");
    assert!(used < 2_000, "{used}");
}
