//! Scenarios 51 to 54: a device that has not seen the newest state replacement must not write on top of it.

use serde_json::json;

use crate::harness::{Backend, Server, import, op, upload};

on_both_databases! {
    s51_a_device_behind_the_newest_import_is_held_back,
    s52_an_unresolved_fence_is_resolved_from_the_log_and_kept,
    s52_without_any_import_the_fence_resolves_to_none,
    s53_a_remembered_success_older_than_an_import_is_not_replayed,
    s54_a_repair_among_operations_is_refused,
}

const HELD_BACK: &str = "INTERNAL_ERROR";

async fn s51_a_device_behind_the_newest_import_is_held_back(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), import("A"), op("A")]).await.ok();
    let reply = account.upload_from("A", 2, &[op("A"), op("A").kind("NOPE")]).await;
    assert_eq!(reply.outcomes(), [HELD_BACK, HELD_BACK]);
    assert_eq!(reply.new_seqs(), [3, 4], "also what the caller wrote itself");
    assert_eq!(reply["latestSeq"], 4);
    // A device that was only held back is not listed.
    account.upload_from("B", 0, &[op("B")]).await.ok();
    assert_eq!(account.devices().await, ["A"]);
    assert_eq!(account.upload_from("B", 3, &[op("B")]).await.outcomes(), ["#5"]);
    assert_eq!(account.upload("C", &[op("C")]).await.outcomes(), ["#6"], "without a cursor there is no fence");
}

async fn s52_an_unresolved_fence_is_resolved_from_the_log_and_kept(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("A"), import("A").kind("BACKUP_IMPORT"), op("A")]).await.ok();
    server.change_state(&account, |state| state.replacement_seq = None).await;
    assert_eq!(account.upload_from("B", 2, &[op("B")]).await.outcomes(), [HELD_BACK]);
    assert_eq!(account.upload_from("B", 3, &[op("B")]).await.outcomes(), ["#5"]);
    assert_eq!(server.state(&account).await.replacement_seq, Some(3));
}

async fn s52_without_any_import_the_fence_resolves_to_none(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    server.change_state(&account, |state| state.replacement_seq = None).await;
    assert_eq!(account.upload_from("B", 0, &[op("B")]).await.outcomes(), ["#2"]);
    assert_eq!(server.state(&account).await.replacement_seq, Some(0));
}

async fn s53_a_remembered_success_older_than_an_import_is_not_replayed(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let mut body = upload("A", Some(0), &[op("A")]);
    assert_eq!(account.post("/api/sync/ops", &body).await.outcomes(), ["#1"]);
    account.upload("B", &[import("B")]).await.ok();
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), [HELD_BACK]);
    assert!(!reply.has("deduplicated"));
    assert_eq!(reply.new_seqs(), [2]);
    body["lastKnownServerSeq"] = json!(2);
    let reply = account.post("/api/sync/ops", &body).await;
    assert_eq!(reply.outcomes(), ["DUPLICATE_OPERATION"]);
    assert!(!reply.has("deduplicated"));
}

async fn s54_a_repair_among_operations_is_refused(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let repair = import("A").kind("REPAIR").with("repairBaseServerSeq", 0);
    let reply = account.upload("A", &[op("A"), repair, op("A")]).await;
    assert_eq!(reply.outcomes(), [HELD_BACK, "REPAIR_STALE", HELD_BACK]);
    assert_eq!(account.status().await["latestSeq"], 0);
}
