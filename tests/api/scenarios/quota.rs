//! Scenarios 58 and 59, and points 5 and 6 of section 17: what an account may store, and how room is made.

use serde_json::{Value, json};

use crate::harness::{Account, Backend, Op, Reply, Server, import, op, snapshot};

on_both_databases! {
    s58_duplicates_and_invalid_siblings_cost_nothing,
    s58_a_clean_slate_ignores_what_is_used,
    s58_an_encrypted_snapshot_is_charged_once,
    s59_with_two_restore_points_the_oldest_goes,
    s59_with_nothing_to_free_the_upload_is_refused,
    s59_a_stale_counter_is_counted_again_first,
    m05_what_the_last_restore_point_supersedes_is_freed_first,
    m06_a_smaller_replacement_is_not_refused_at_the_gate,
    m22_what_the_app_sends_costs_payload_and_clock,
    m22_what_it_never_sends_costs_its_room,
    m22_a_request_far_outside_the_apps_shape_is_cut,
    m22_a_nearly_full_disk_takes_nothing_new_and_gives_what_it_has,
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

async fn used(account: &Account) -> usize {
    let status = account.status().await;
    status["storageUsedBytes"].as_u64().and_then(|used| usize::try_from(used).ok()).expect("a number")
}

/// What an operation of the app is charged.
fn plain(op: &Op) -> usize {
    op.get("payload").to_string().len() + op.get("vectorClock").to_string().len()
}

fn ids(count: usize, chars: usize) -> Vec<String> {
    (0..count).map(|n| format!("{n:0>chars$}")).collect()
}

fn naming(op: Op, ids: &[String]) -> Op {
    op.task(&ids[0]).with("entityIds", json!(ids))
}

async fn m22_what_the_app_sends_costs_payload_and_clock(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    // A bulk action of a thousand tasks names them in its payload too; encrypted, that is a third longer.
    let deleted = ids(1000, 21);
    let archived: Vec<String> = deleted.iter().map(|id| format!("Z{}", &id[1..])).collect();
    let bulk = json!({ "actionPayload": { "taskIds": &deleted }, "entityChanges": [] });
    let clock: serde_json::Map<String, Value> = (0..20).map(|n| (format!("B_a7Kx{n:02}"), json!(n + 1))).collect();
    let sent = [
        op("A").kind("DEL").payload(Value::Null),
        op("A").id("0198c0de-0000-7000-8000-0123456789ab").with("actionType", "[Task Shared] moveToOtherProject"),
        naming(op("A").kind("DEL").payload(bulk), &deleted),
        naming(op("A").encrypted(crate::harness::ciphertext(1000 * 24 + 60)), &archived).clock(json!(clock)),
    ];
    let mut expected = 0;
    for one in &sent {
        account.upload("A", std::slice::from_ref(one)).await.ok();
        expected += plain(one);
        assert_eq!(used(&account).await, expected, "{}", one.get("actionType"));
    }
}

async fn m22_what_it_never_sends_costs_its_room(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let many = ids(1000, 200);
    let attack = naming(op("A").kind("DEL").payload(Value::Null), &many);
    let long = op("A").id(&"i".repeat(255)).with("actionType", "a".repeat(255));
    for (what, one, at_least) in [("entities", attack, 1000 * 200 + 990 * 128), ("names", long, 2 * 255 - 256 - 13)] {
        let before = used(&account).await;
        assert!(account.upload("A", std::slice::from_ref(&one)).await.outcomes()[0].starts_with('#'));
        let charged = used(&account).await - before;
        assert!((at_least + plain(&one)..at_least + plain(&one) + 3_500).contains(&charged), "{what}: {charged}");
    }
    let before = used(&account).await;
    // Recounted, it is the same, and so it is for what was brought back.
    server.change_state(&account, |state| state.storage_used_bytes = 1 << 40).await;
    account.upload("A", &[op("A").sized(100)]).await.ok();
    assert_eq!(used(&account).await, before + 100);
    // What does not fit is refused with all that it would be charged.
    let small = with_quota(on, 100_000).await;
    let account = small.account().await;
    let refused = account.upload("A", &[naming(op("A").kind("DEL").payload(Value::Null), &ids(1000, 20))]).await;
    over_quota(&refused, 0, 100_000);
}

async fn m22_a_request_far_outside_the_apps_shape_is_cut(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let attack = |request: usize| -> Vec<Op> {
        let one = |n: usize| {
            let ids: Vec<String> = (0..990).map(|e| format!("{request}-{n}-{e}")).collect();
            naming(op("A").kind("DEL").payload(Value::Null), &ids)
        };
        (0..99).map(one).chain([op("A")]).collect()
    };
    let reply = account.upload("A", &attack(0)).await;
    let outcomes = reply.outcomes();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.starts_with('#')).count(), 30 + 1, "{outcomes:?}");
    assert!(outcomes[..30].iter().all(|outcome| outcome.starts_with('#')));
    assert!(outcomes[30..99].iter().all(|outcome| outcome == "INVALID_ENTITY_ID"));
    assert_eq!(outcomes[99], "#31", "what is small proceeds");
    // Ids and clocks in bytes.
    let large = |n: usize| {
        let ids: Vec<String> = (0..250).map(|e| format!("{n}-{e}-{}", "x".repeat(240))).collect();
        let clock: serde_json::Map<String, Value> =
            (0..19).map(|c| (format!("{c:0>255}"), json!(1))).chain([("A".to_owned(), json!(n + 1))]).collect();
        naming(op("A").payload("x"), &ids).clock(json!(clock))
    };
    let request: Vec<Op> = (0..60).map(large).collect();
    let outcomes = account.upload("A", &request).await.outcomes();
    let accepted = outcomes.iter().filter(|outcome| outcome.starts_with('#')).count();
    assert!((25..35).contains(&accepted), "{accepted}");
    assert!(outcomes[accepted..].iter().all(|outcome| outcome == "PAYLOAD_TOO_LARGE"), "{outcomes:?}");
    // The largest operation that the contract knows is never refused for its size alone.
    let largest: Vec<String> = (0..1000).map(|n| format!("{n:0>5}{}", "\u{20ac}".repeat(250))).collect();
    let alone = naming(op("A").payload("x"), &largest).id(&"\u{20ac}".repeat(255));
    assert!(account.upload("A", &[alone]).await.outcomes()[0].starts_with('#'));
}

async fn m22_a_nearly_full_disk_takes_nothing_new_and_gives_what_it_has(on: Backend) {
    if on == Backend::Postgres {
        // Its disk is not this server's to see.
        let server = Server::start_with(on, |config| config.limits.min_free_disk_bytes = u64::MAX).await;
        assert_eq!(server.account().await.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
        return;
    }
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let id = account.get("/api/sync/archives").await.ok()["archives"][0]["id"].as_str().expect("an id").to_owned();
    let server = server.restart_with(|config| config.limits.min_free_disk_bytes = u64::MAX).await;
    let account = server.known(&account);
    let restore = format!("/api/sync/archives/{id}/restore");
    for reply in [
        account.upload("A", &[op("A")]).await,
        account.snapshot(&snapshot("A")).await,
        account.post(&restore, &Value::Null).await,
    ] {
        assert_eq!(reply.status, 503, "{}", reply.text);
        assert!(reply["error"].as_str().is_some_and(|text| text.contains("please retry")), "{}", reply.text);
        assert_eq!(reply.header("retry-after"), Some("60"));
    }
    assert_eq!(account.download(0).await.seqs(), [3]);
    assert_eq!(account.status().await["latestSeq"], 3);
    let ready = account.get("/readyz").await.expect(503);
    assert_eq!(ready.body, json!({ "status": "error", "message": "the disk is full: new data is refused" }));
    account.delete("/api/sync/data").await.ok();
    assert_eq!(account.status().await["latestSeq"], 0);
}
