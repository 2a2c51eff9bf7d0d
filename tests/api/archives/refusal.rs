//! What is refused, and that nothing has changed then.

use serde_json::{Value, json};
use supersync::config::{EncryptionPolicy, RateLimit};
use supersync::store::{ArchiveReason, ArchivedRange};

use super::{archives, bring_back, contents_since, newest_id};
use crate::harness::{Account, Backend, Reply, Server, import, op, snapshot};

on_both_databases! {
    only_the_owner_gets_anywhere,
    what_is_not_there_is_not_found,
    a_set_whose_time_is_over_is_not_brought_back,
    what_was_given_up_to_make_room_is_no_data_set,
    a_set_without_a_full_state_needs_devices_that_still_have_it,
    a_repair_of_an_old_app_stands_in_the_way,
    plain_data_does_not_come_back_among_encrypted,
    a_server_that_wants_encrypted_data_brings_back_nothing_else,
    a_set_beyond_the_quota_stays_where_it_is,
    a_set_with_missing_operations_stays_where_it_is,
    a_set_that_no_device_could_download_stays_where_it_is,
    of_two_requests_at_once_one_is_served,
    bringing_back_is_limited_per_address,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// An account with a data set that was replaced, and its id.
async fn replaced(server: &Server) -> (Account, String) {
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let id = newest_id(&account).await;
    (account, id)
}

#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str, obstacle: Option<&str>) {
    assert_eq!(reply.status, status, "{}", reply.text);
    assert_eq!(reply["errorCode"], code, "{}", reply.text);
    assert_eq!(reply.body.get("obstacle").and_then(Value::as_str), obstacle, "{}", reply.text);
}

/// Tries, in vain; the list says so before.
async fn cannot_come_back(account: &Account, id: &str, obstacle: &str) {
    let before = (account.status().await, contents_since(account, 0).await);
    let all = archives(account).await;
    let listed = all.iter().find(|archive| archive["id"] == *id).expect("it is listed");
    assert_eq!((&listed["restorable"], &listed["obstacle"]), (&json!(false), &json!(obstacle)));
    refused(&bring_back(account, id).await, 409, "ARCHIVE_NOT_RESTORABLE", Some(obstacle));
    assert_eq!((account.status().await, contents_since(account, 0).await), before);
}

async fn only_the_owner_gets_anywhere(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    let stranger = server.account().await;
    refused(&bring_back(&stranger, &id).await, 404, "ARCHIVE_NOT_FOUND", None);
    refused(&stranger.get(&format!("/api/sync/archives/{id}")).await, 404, "ARCHIVE_NOT_FOUND", None);
    let nobody = Account { token: "x".to_owned(), ..account.clone() };
    for path in ["/api/sync/archives", &format!("/api/sync/archives/{id}"), "/api/account/export"] {
        assert_eq!(nobody.get(path).await.status, 401, "{path}");
    }
    assert_eq!(bring_back(&nobody, &id).await.status, 401);
    assert_eq!(archives(&account).await.len(), 1);
}

async fn what_is_not_there_is_not_found(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    for wrong in ["0-2", "1-1", "0-", "x", "0-1-1", "00-1", "-1-1", "%F0%9F%98%80", "9223372036854775808-1"] {
        refused(&bring_back(&account, wrong).await, 404, "ARCHIVE_NOT_FOUND", None);
        refused(&account.get(&format!("/api/sync/archives/{wrong}")).await, 404, "ARCHIVE_NOT_FOUND", None);
    }
    bring_back(&account, &id).await.ok();
    refused(&bring_back(&account, &id).await, 404, "ARCHIVE_NOT_FOUND", None);
}

async fn a_set_whose_time_is_over_is_not_brought_back(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    server.clock.advance_ms(30 * DAY_MS);
    cannot_come_back(&account, &id, "EXPIRED").await;
    server.clock.advance_ms(1);
    server.sweep().await;
    refused(&bring_back(&account, &id).await, 404, "ARCHIVE_NOT_FOUND", None);
}

async fn what_was_given_up_to_make_room_is_no_data_set(on: Backend) {
    let server = Server::start_with(on, |config| config.limits.default_quota_bytes = 3_000).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(2_000)]).await.ok();
    account.upload("A", &[import("A")]).await.ok();
    account.upload("A", &[op("A").sized(2_000)]).await.ok();
    let id = newest_id(&account).await;
    assert_eq!(archives(&account).await[0]["reason"], "superseded");
    cannot_come_back(&account, &id, "SUPERSEDED").await;
    assert_eq!(account.get(&format!("/api/sync/archives/{id}")).await.ok().text.lines().count(), 1);
}

async fn a_set_without_a_full_state_needs_devices_that_still_have_it(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A"), op("B")]).await.ok();
    account.delete("/api/sync/data").await.ok();
    let id = newest_id(&account).await;
    account.upload("A", &[op("A")]).await.ok();
    cannot_come_back(&account, &id, "NO_FULL_STATE").await;
    // Nor when that has been deleted again: somebody has seen it.
    account.delete("/api/sync/data").await.ok();
    cannot_come_back(&account, &id, "NO_FULL_STATE").await;
}

async fn a_repair_of_an_old_app_stands_in_the_way(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").legacy_repair()).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let id = newest_id(&account).await;
    cannot_come_back(&account, &id, "LEGACY_REPAIR").await;
}

async fn plain_data_does_not_come_back_among_encrypted(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").encrypted(40).clean_slate()).await.ok();
    let id = newest_id(&account).await;
    cannot_come_back(&account, &id, "NOT_ENCRYPTED").await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    bring_back(&account, &id).await.ok();
}

async fn a_server_that_wants_encrypted_data_brings_back_nothing_else(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    let server = server.restart_with(|config| config.encryption_policy = EncryptionPolicy::Required).await;
    let account = server.known(&account);
    cannot_come_back(&account, &id, "NOT_ENCRYPTED").await;
    let required = Server::start_with(on, |config| config.encryption_policy = EncryptionPolicy::Required).await;
    let account = required.account().await;
    account.snapshot(&snapshot("A").encrypted(40)).await.ok();
    account.snapshot(&snapshot("A").encrypted(40).clean_slate()).await.ok();
    bring_back(&account, &newest_id(&account).await).await.ok();
}

async fn a_set_beyond_the_quota_stays_where_it_is(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A").sized(5_000)]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    let id = newest_id(&account).await;
    server.store.set_quota(account.id, 4_000).await.expect("the store works");
    let before = server.rows(&account).await;
    let reply = bring_back(&account, &id).await;
    assert_eq!((reply.status, &reply["errorCode"]), (413, &json!("STORAGE_QUOTA_EXCEEDED")), "{}", reply.text);
    assert_eq!(reply["storageQuotaBytes"], 4_000);
    assert_eq!(server.rows(&account).await, before, "nothing is left over");
    server.store.set_quota(account.id, 10_000).await.expect("the store works");
    bring_back(&account, &id).await.ok();
}

async fn a_set_with_missing_operations_stays_where_it_is(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    server.store.delete_ops(account.id, 1, 2, 1).await.expect("the store works");
    refused(&bring_back(&account, &id).await, 409, "ARCHIVE_NOT_RESTORABLE", Some("INCOMPLETE"));
    assert_eq!(server.rows(&account).await, [1, 3]);
    assert_eq!(account.download(0).await.seqs(), [3]);
}

async fn a_set_that_no_device_could_download_stays_where_it_is(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A")]).await.ok();
    // To upload so many would take a while: the range only says that they are there, which is what is looked at first.
    let range = |to_seq| ArchivedRange {
        generation: 0,
        from_seq: 1,
        to_seq,
        reason: ArchiveReason::Wipe,
        bytes: 1,
        archived_at: server.clock.now_ms(),
    };
    server.store.begin_staging(account.id, &range(50_001)).await.expect("the store works");
    cannot_come_back(&account, "0-1", "TOO_MANY_OPERATIONS").await;
    server.store.drop_archive(account.id, &range(50_001)).await.expect("the store works");
    server.store.begin_staging(account.id, &range(50_000)).await.expect("the store works");
    refused(&bring_back(&account, "0-1").await, 409, "ARCHIVE_NOT_RESTORABLE", Some("INCOMPLETE"));
}

async fn of_two_requests_at_once_one_is_served(on: Backend) {
    let server = Server::start(on).await;
    let (account, id) = replaced(&server).await;
    let replies = tokio::join!(bring_back(&account, &id), bring_back(&account, &id), bring_back(&account, &id));
    let statuses = [replies.0.status, replies.1.status, replies.2.status];
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 404, 409].contains(status)), "{statuses:?}");
    assert_eq!(contents_since(&account, 0).await.len(), 2);
    assert_eq!(archives(&account).await.len(), 1);
}

async fn bringing_back_is_limited_per_address(on: Backend) {
    let server = Server::start_with(on, |config| {
        config.rate_limits.per_address = true;
        config.rate_limits.wipe = RateLimit { max: 1, ..config.rate_limits.wipe };
    })
    .await;
    let account = server.account().await;
    assert_eq!(bring_back(&account, "0-1").await.status, 404);
    let reply = bring_back(&account, "0-1").await;
    assert_eq!(reply.status, 429);
    assert!(reply["message"].as_str().is_some_and(|text| text.contains("retry in 15 minutes")), "{}", reply.text);
    account.delete("/api/sync/data").await.ok();
    account.get("/api/sync/archives").await.ok();
}
