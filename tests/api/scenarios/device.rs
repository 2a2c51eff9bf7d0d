//! Scenario 64: which devices an account has.

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Account, Backend, PATIENCE, Server, op};

on_both_databases! {
    s64_a_device_that_only_downloads_is_listed,
    s64_polling_again_within_two_minutes_writes_nothing,
    s64_devices_not_seen_for_45_days_are_left_out,
}

/// The time at which each device was last seen, newest first.
async fn seen(account: &Account) -> Vec<(String, i64)> {
    let reply = account.get("/api/sync/devices").await.ok();
    let devices = reply["devices"].as_array().expect("a list").iter();
    devices
        .map(|device| {
            let members: Vec<&str> = device.as_object().expect("an object").keys().map(String::as_str).collect();
            assert_eq!(members, ["clientId", "lastSeenAt"]);
            let id = device["clientId"].as_str().expect("a string").to_owned();
            (id, device["lastSeenAt"].as_i64().expect("an integer"))
        })
        .collect()
}

async fn poll(account: &Account, client: &str) {
    account.get(&format!("/api/sync/ops?sinceSeq=0&excludeClient={client}")).await.ok();
}

/// Devices are recorded beside the answer: asks until the list is as wanted.
async fn seen_becomes(account: &Account, wanted: &[(&str, i64)]) {
    let wanted: Vec<(String, i64)> = wanted.iter().map(|(id, at)| ((*id).to_owned(), *at)).collect();
    let asking = async { while seen(account).await != wanted {} };
    if timeout(PATIENCE, asking).await.is_err() {
        assert_eq!(seen(account).await, wanted);
    }
}

async fn s64_a_device_that_only_downloads_is_listed(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let start = server.clock.now_ms();
    account.upload("A", &[op("A")]).await.ok();
    account.download(0).await;
    assert_eq!(seen(&account).await, [("A".to_owned(), start)]);
    server.clock.advance_ms(1_000);
    poll(&account, "B").await;
    seen_becomes(&account, &[("B", start + 1_000), ("A", start)]).await;
    assert_eq!(account.status().await["devicesOnline"], 2);
    server.clock.advance_ms(5 * 60_000);
    assert_eq!(account.status().await["devicesOnline"], 1);
    server.clock.advance_ms(1_000);
    assert_eq!(account.status().await["devicesOnline"], 0);
    // A device whose operations are all refused was seen as well.
    account.upload("C", &[op("C").kind("NOPE")]).await.ok();
    assert_eq!(account.devices().await, ["C", "B", "A"]);
}

async fn s64_polling_again_within_two_minutes_writes_nothing(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    let start = server.clock.now_ms();
    poll(&account, "A").await;
    seen_becomes(&account, &[("A", start)]).await;
    server.clock.advance_ms(119_000);
    poll(&account, "A").await;
    // Another device's later visit shows: the recording has caught up.
    poll(&account, "B").await;
    seen_becomes(&account, &[("B", start + 119_000), ("A", start)]).await;
    server.clock.advance_ms(2_000);
    poll(&account, "A").await;
    seen_becomes(&account, &[("A", start + 121_000), ("B", start + 119_000)]).await;
}

async fn s64_devices_not_seen_for_45_days_are_left_out(on: Backend) {
    let server = Server::start(on).await;
    let account = server.account().await;
    account.upload("A", &[op("A")]).await.ok();
    server.clock.advance_ms(44 * 24 * 3_600_000);
    account.upload("B", &[op("B")]).await.ok();
    assert_eq!(account.devices().await, ["B", "A"]);
    server.clock.advance_ms(2 * 24 * 3_600_000);
    assert_eq!(account.devices().await, ["B"]);
    server.sweep().await;
    assert_eq!(account.devices().await, ["B"]);
    let old: Value = json!(server.store.devices(account.id, 0, 100).await.expect("the devices").len());
    assert_eq!(old, 1, "the sweep deletes them");
}
