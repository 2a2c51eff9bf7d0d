//! Scenario 61, and point 1 of section 17: deleting an account's data.

use serde_json::json;

use crate::harness::{Backend, Server, import, op, snapshot, upload};

on_both_databases! {
    s61_deleting_the_data_leaves_nothing_to_see,
    m01_after_a_wipe_the_sequence_goes_on_unseen,
    m01_what_was_wiped_is_kept_for_a_while,
}

async fn s61_deleting_the_data_leaves_nothing_to_see(on: Backend) {
    let server = Server::start(on).await;
    let (account, stranger) = (server.account().await, server.account().await);
    let body = upload("A", None, &[op("A").task("t1").clock(json!({ "A": 5 }))]);
    for user in [&account, &stranger] {
        user.post("/api/sync/ops", &body).await.ok();
        user.upload("A", &[import("A"), op("A")]).await.ok();
    }
    assert_eq!(account.delete("/api/sync/data").await.ok().body, json!({ "success": true }));

    let status = account.status().await;
    assert_eq!(
        (&status["latestSeq"], &status["storageUsedBytes"], &status["devicesOnline"]),
        (&json!(0), &json!(0), &json!(0))
    );
    assert!(status.get("snapshotAge").is_none());
    let page = account.download(0).await;
    assert_eq!((page.seqs(), &page["latestSeq"], page.has("gapDetected")), (vec![], &json!(0), false));
    assert_eq!(account.download(1).await["gapDetected"], true);
    assert_eq!(account.devices().await, Vec::<String>::new());
    assert_eq!(account.get("/api/sync/restore-points").await.ok()["restorePoints"], json!([]));
    // No fence, no entity, no op id and no request id is remembered.
    let reply = account.upload_from("B", 0, &[op("B").task("t1").clock(json!({ "B": 1 }))]).await;
    assert!(reply.outcomes()[0].starts_with('#'), "{:?}", reply.outcomes());
    let reply = account.post("/api/sync/ops", &body).await;
    assert!(!reply.has("deduplicated"));
    assert_eq!(reply.outcomes(), ["CONFLICT_CONCURRENT"], "only what was written after the wipe counts");

    assert_eq!(stranger.status().await["latestSeq"], 3);
    assert_eq!(stranger.download(0).await.seqs(), [2, 3]);
    // Deleting nothing is no failure.
    let empty = server.account().await;
    assert_eq!(empty.delete("/api/sync/data").await.ok().body, json!({ "success": true }));
    assert_eq!(empty.upload("A", &[op("A")]).await.outcomes(), ["#1"]);
}

async fn m01_after_a_wipe_the_sequence_goes_on_unseen(on: Backend) {
    let mut server = Server::start(on).await;
    let mut account = server.account().await;
    account.upload("A", &[op("A"), op("A"), op("A")]).await.ok();
    account.delete("/api/sync/data").await.ok();
    server = server.restart().await;
    account = server.known(&account);
    assert_eq!(account.status().await["latestSeq"], 0);
    assert_eq!(account.snapshot(&snapshot("A").reason("initial")).await.ok()["serverSeq"], 4);
    // A device whose cursor is from before the wipe sees the new state, whatever its cursor was.
    for cursor in 1..=3 {
        assert_eq!(account.download(cursor).await.seqs(), [4]);
    }
    // A second wipe while it is empty changes nothing.
    account.delete("/api/sync/data").await.ok();
    account.delete("/api/sync/data").await.ok();
    assert_eq!(account.upload("A", &[op("A")]).await.outcomes(), ["#5"]);
}

async fn m01_what_was_wiped_is_kept_for_a_while(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A")]).await.ok();
    account.delete("/api/sync/data").await.ok();
    let archived = server.store.archived(account.id).await.expect("the archive");
    assert_eq!(archived.iter().map(|range| (range.from_seq, range.to_seq)).collect::<Vec<_>>(), [(1, 2)]);
    assert_eq!(server.rows(&account).await, [1, 2]);
}
