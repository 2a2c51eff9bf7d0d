//! Devices that poll are written down beside the requests.

use std::sync::atomic::Ordering;
use std::time::Duration;

use supersync::engine::Options;
use supersync::store::LogStore as _;

use super::setup::{NOW, Setup, deadline, op, options, setup, since};

/// An engine that writes devices down only when it is told to.
async fn silent() -> Setup {
    setup(Options { touch_every: Duration::from_hours(1), ..options() }).await
}

async fn poll(t: &Setup, client_id: &str) {
    let mut query = since(0);
    query.exclude_client = Some(client_id.to_owned());
    t.engine.download(t.user, query, deadline()).await.expect("an answer");
}

async fn listed(t: &Setup) -> Vec<(String, i64)> {
    let devices = t.engine.devices(t.user, deadline()).await.expect("an answer");
    devices.into_iter().map(|device| (device.client_id, device.last_seen_at - NOW)).collect()
}

async fn stored(t: &Setup) -> Vec<String> {
    let devices = t.store.devices(t.user, 0, 100).await.expect("readable");
    devices.into_iter().map(|device| device.client_id).collect()
}

#[tokio::test]
async fn a_device_that_cannot_be_written_fails_no_poll_is_listed_and_written_later() {
    let t = silent().await;
    t.store.touches_fail.store(true, Ordering::SeqCst);
    poll(&t, "B").await;
    t.engine.record_devices().await;
    assert!(stored(&t).await.is_empty());
    assert_eq!(listed(&t).await, [("B".to_owned(), 0)]);
    // What the account's own memory knew is gone.
    t.engine.forget(t.user);
    assert_eq!(listed(&t).await, [("B".to_owned(), 0)]);
    t.clock.advance_ms(1_000);
    poll(&t, "C").await;
    t.store.touches_fail.store(false, Ordering::SeqCst);
    t.engine.record_devices().await;
    assert_eq!(stored(&t).await, ["C", "B"]);
    assert_eq!(listed(&t).await, [("C".to_owned(), 1_000), ("B".to_owned(), 0)]);
}

#[tokio::test]
async fn a_device_seen_before_a_wipe_does_not_come_back_after_it() {
    let t = silent().await;
    t.upload(vec![op("1")]).await;
    poll(&t, "B").await;
    t.engine.wipe(t.user, deadline()).await.expect("wiped");
    assert!(listed(&t).await.is_empty());
    t.engine.record_devices().await;
    assert!(listed(&t).await.is_empty() && stored(&t).await.is_empty());
    poll(&t, "B").await;
    t.engine.record_devices().await;
    assert_eq!(stored(&t).await, ["B"]);
}

#[tokio::test]
async fn what_has_not_been_written_is_written_when_the_server_stops() {
    let t = silent().await;
    poll(&t, "B").await;
    assert!(stored(&t).await.is_empty());
    t.engine.shutdown().await;
    assert_eq!(stored(&t).await, ["B"]);
}

#[tokio::test]
async fn devices_are_written_by_themselves_and_together() {
    let t = setup(Options { touch_every: Duration::from_millis(1), ..options() }).await;
    for client_id in ["B", "C", "D"] {
        poll(&t, client_id).await;
    }
    let written = async {
        while stored(&t).await.len() < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), written).await.expect("three devices are written");
}
