//! Scenario 60: what the sweep gives up.

use crate::harness::{Account, Backend, Server, import, op, snapshot};

on_both_databases! {
    s60_a_superseded_prefix_goes_when_all_of_it_is_old,
    s60_one_fresh_op_keeps_the_whole_prefix,
    s60_a_legacy_repair_authorises_nothing,
    s60_an_import_at_the_start_prunes_nothing,
    s60_what_was_given_up_is_deleted_after_the_archive_time,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

async fn upload_each(account: &Account, clients: &[&str]) {
    for client in clients {
        account.upload(client, &[op(client)]).await.ok();
    }
}

async fn s60_a_superseded_prefix_goes_when_all_of_it_is_old(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A", "B"]).await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    let used = account.status().await["storageUsedBytes"].as_i64().expect("a number");
    server.clock.advance_ms(44 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3, 4]);

    server.clock.advance_ms(2 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [3, 4]);
    let status = account.status().await;
    assert!(status["storageUsedBytes"].as_i64().is_some_and(|now| now < used), "{status}");
    assert_eq!(status["latestSeq"], 4);
    let page = account.download(1).await;
    assert_eq!(page.seqs(), [3, 4]);
    assert!(!page.has("gapDetected"));
    assert_eq!(account.upload_from("C", 4, &[op("C")]).await.outcomes(), ["#5"]);
}

async fn s60_one_fresh_op_keeps_the_whole_prefix(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A"]).await;
    server.clock.advance_ms(30 * DAY_MS);
    upload_each(&account, &["A"]).await;
    account.upload("A", &[import("A")]).await.ok();
    server.clock.advance_ms(20 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3]);
    server.clock.advance_ms(26 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [3]);
}

async fn s60_a_legacy_repair_authorises_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A", "B"]).await;
    account.snapshot(&snapshot("A").legacy_repair()).await.ok();
    server.clock.advance_ms(100 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3]);
    assert_eq!(account.snapshot(&snapshot("A").repair(3)).await.ok()["serverSeq"], 4);
    server.clock.advance_ms(46 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [4]);
}

async fn s60_an_import_at_the_start_prunes_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A")]).await.ok();
    upload_each(&account, &["A", "B"]).await;
    server.clock.advance_ms(100 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.stored_seqs(&account).await, [1, 2, 3]);
}

async fn s60_what_was_given_up_is_deleted_after_the_archive_time(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    upload_each(&account, &["A", "B"]).await;
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    assert_eq!(server.rows(&account).await, [1, 2, 3]);
    server.clock.advance_ms(29 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.rows(&account).await, [1, 2, 3]);
    server.clock.advance_ms(2 * DAY_MS);
    server.sweep().await;
    assert_eq!(server.rows(&account).await, [3]);
    assert_eq!(server.store.archived(account.id).await.expect("the archive"), []);
}
