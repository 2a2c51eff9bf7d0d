//! How much the archive keeps: a share of the quota, the newest.

use std::time::Instant;

use serde_json::{Value, json};
use supersync::store::{ArchivedRange, LogRange};

use super::{archives, bring_back, id_of, newest_id};
use crate::harness::{Account, Backend, PATIENCE, Server, import, op, snapshot};

on_both_databases! {
    full_states_that_supersede_each_other_keep_within_twice_the_quota,
    clean_slates_keep_the_newest_sets,
    wipes_keep_within_the_limit,
    going_back_and_forth_takes_no_more_and_more_room,
    what_is_not_deleted_yet_goes_before_more_of_it_comes,
    the_clean_up_cuts_what_is_too_large_and_says_so_before,
    without_an_archive_nothing_is_kept,
}

const QUOTA: i64 = 100_000;

async fn server(on: Backend) -> Server {
    Server::start_with(on, |config| config.limits.default_quota_bytes = QUOTA).await
}

/// Waits until what was given up has been deleted.
async fn settled(server: &Server, account: &Account) -> Vec<ArchivedRange> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ranges = server.store.archived(account.id).await.expect("the store works");
        if ranges.iter().all(|range| range.archived_at != 0) {
            return ranges;
        }
        assert!(Instant::now() < deadline, "what was given up is still there: {ranges:?}");
        tokio::task::yield_now().await;
    }
}

/// Bytes of payload that are stored, whether anybody can see them or not.
async fn stored(server: &Server, account: &Account) -> usize {
    let range = LogRange {
        user: account.id,
        after: 0,
        up_to: i64::MAX,
        exclude_client: None,
        limit: 10_000,
        max_bytes: 1 << 30,
    };
    let page = server.store.read_log(range).await.expect("the store works");
    page.ops.iter().map(|op| op.payload.len()).sum()
}

async fn facts(account: &Account) -> (i64, i64) {
    let facts = account.get("/api/account").await.ok();
    let figure = |name: &str| facts["storage"][name].as_i64().expect("a number");
    (figure("archivedBytes"), figure("archiveLimitBytes"))
}

async fn full_states_that_supersede_each_other_keep_within_twice_the_quota(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    for n in 1..=45 {
        let reply = account.snapshot(&snapshot("A").encrypted(7_300)).await.ok();
        assert_eq!(reply["serverSeq"], n);
    }
    settled(&server, &account).await;
    assert!(stored(&server, &account).await <= 200_000);
    let (kept, limit) = facts(&account).await;
    assert_eq!(limit, QUOTA);
    assert!((60_000..=QUOTA).contains(&kept), "{kept}");
    assert!(account.status().await["storageUsedBytes"].as_i64().is_some_and(|used| used <= QUOTA));
}

async fn clean_slates_keep_the_newest_sets(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        server.clock.advance_ms(1_000);
        account.snapshot(&snapshot("A").clean_slate().encrypted(22_000)).await.ok();
        ids.extend(archives(&account).await.first().map(id_of));
    }
    settled(&server, &account).await;
    let listed: Vec<String> = archives(&account).await.iter().map(id_of).collect();
    assert_eq!(listed, ids.iter().rev().take(3).cloned().collect::<Vec<_>>(), "three of 29 kB each");
    assert!(stored(&server, &account).await <= 4 * 30_000);
    let gone = account.get(&format!("/api/sync/archives/{}", ids[0])).await;
    assert_eq!((gone.status, &gone["errorCode"]), (404, &Value::from("ARCHIVE_NOT_FOUND")));
    assert!(bring_back(&account, &listed[2]).await.ok()["success"] == true, "the oldest that is kept comes back whole");
}

async fn wipes_keep_within_the_limit(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    for _ in 0..7 {
        account.upload("A", &[op("A").sized(20_000), op("A").sized(20_000)]).await.ok();
        account.delete("/api/sync/data").await.ok();
    }
    settled(&server, &account).await;
    assert_eq!(account.status().await["storageUsedBytes"], 0);
    assert_eq!(facts(&account).await, (80_000, QUOTA));
    assert!(stored(&server, &account).await <= 80_000);
    assert_eq!(archives(&account).await.len(), 2);
}

async fn going_back_and_forth_takes_no_more_and_more_room(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    account.upload("A", &[import("A").sized(30_000), op("A").sized(5_000)]).await.ok();
    let state = json!({ "task": { "ids": [], "entities": {} }, "filler": "x".repeat(30_000) });
    account.snapshot(&snapshot("A").clean_slate().with("state", state)).await.ok();
    for _ in 0..8 {
        let id = newest_id(&account).await;
        bring_back(&account, &id).await.ok();
        settled(&server, &account).await;
        assert_eq!(archives(&account).await.len(), 1);
        assert!(stored(&server, &account).await <= 80_000);
    }
}

async fn what_is_not_deleted_yet_goes_before_more_of_it_comes(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A").sized(1_000)]).await.ok();
    // As if the background had deleted nothing for long.
    server
        .database
        .tamper(&format!(
            "INSERT INTO archived_ranges (user_id, from_seq, to_seq, generation, reason, bytes, archived_at) \
         VALUES ({}, -9, -5, -1, 'expired', {}, 0)",
            account.id,
            QUOTA + 1
        ))
        .await;
    let gone = |ranges: Vec<ArchivedRange>| ranges.iter().all(|range| range.from_seq > 0);
    assert!(!gone(server.store.archived(account.id).await.expect("the store works")));
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    assert!(gone(server.store.archived(account.id).await.expect("the store works")), "it was deleted first");
    assert_eq!(archives(&account).await.len(), 1);
}

async fn the_clean_up_cuts_what_is_too_large_and_says_so_before(on: Backend) {
    let server = server(on).await;
    let account = server.account().await;
    for _ in 0..3 {
        server.clock.advance_ms(1_000);
        account.snapshot(&snapshot("A").clean_slate().encrypted(20_000)).await.ok();
    }
    assert_eq!(archives(&account).await.len(), 2);
    let newest = newest_id(&account).await;
    let server = server.restart_with(|config| config.retention.archive_percent = 30).await;
    let account = server.known(&account);
    let forecast = server.forecast().await;
    assert_eq!((forecast.ranges.len(), forecast.ranges_deleted()), (1, 1), "{forecast:?}");
    assert_eq!(forecast.ranges[0].from_seq, 1);
    server.sweep().await;
    assert_eq!(archives(&account).await.iter().map(id_of).collect::<Vec<_>>(), [newest]);
    assert!(server.forecast().await.ranges.is_empty());
}

async fn without_an_archive_nothing_is_kept(on: Backend) {
    let server = Server::start_with(on, |config| config.retention.archive_percent = 0).await;
    let account = server.account().await;
    account.upload("A", &[import("A"), op("A")]).await.ok();
    account.snapshot(&snapshot("A").clean_slate()).await.ok();
    assert!(archives(&account).await.is_empty());
    settled(&server, &account).await;
    assert_eq!(account.download(0).await.seqs(), [3]);
    assert_eq!(facts(&account).await, (0, 0));
}
