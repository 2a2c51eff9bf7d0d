//! Signs of life of devices on their way to the database. A poll costs no statement: it leaves the device here, and
//! once a second all that have come are written together, however many accounts they belong to.
//!
//! Promises that nobody waits for that, that a device is listed from the moment it was seen ([`Touches::of`]), that no
//! device comes back that was forgotten with its account's data ([`Touches::forget`]), and that memory is bounded. What
//! is not written yet when the process is killed is lost: the device is recorded again when it next polls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::protocol::UserId;
use crate::store::{Device, MAX_DEVICES, Store, Touch};

/// Devices of one statement; so many are not kept waiting.
const MAX_BATCH: usize = 1000;
/// Devices that wait while the database does not answer; about 100 bytes each. Beyond it they are dropped, and beyond
/// [`MAX_DEVICES`] of one account.
const CAPACITY: usize = 65_536;

type Waiting = BTreeMap<(UserId, Box<str>), i64>;

/// Devices seen and not written yet.
pub struct Touches {
    store: Arc<dyn Store>,
    /// In the order in which rows are locked, the same as in commits. A device stays here until it is written.
    waiting: Mutex<Waiting>,
    /// Held while a batch is written.
    writing: tokio::sync::Mutex<()>,
    arrived: Notify,
    full: Notify,
}

impl Touches {
    /// None yet, to be written to `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            arrived: Notify::new(),
            full: Notify::new(),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a device was seen at this time, Unix milliseconds.
    pub fn record(&self, user: UserId, client_id: &str, at_ms: i64) {
        let mut waiting = self.waiting();
        let key = (user, Box::from(client_id));
        if !waiting.contains_key(&key) {
            // One account's made-up devices must not take the places of others.
            let of_account = waiting.range((user, Box::default())..).take_while(|((other, _), _)| *other == user);
            if waiting.len() >= CAPACITY || of_account.take(MAX_DEVICES).count() >= MAX_DEVICES {
                count("dropped", 1);
                return;
            }
        }
        let latest = waiting.entry(key).or_insert(at_ms);
        *latest = at_ms.max(*latest);
        let many = waiting.len();
        drop(waiting);
        self.arrived.notify_one();
        if many >= MAX_BATCH {
            self.full.notify_one();
        }
    }

    /// An account's devices that are not written yet.
    #[must_use]
    pub fn of(&self, user: UserId) -> Vec<Device> {
        let waiting = self.waiting();
        let own = waiting.range((user, Box::default())..).take_while(|((other, _), _)| *other == user);
        own.map(|((_, client_id), at)| Device { client_id: client_id.to_string(), last_seen_at: *at }).collect()
    }

    /// Forgets an account's devices: their rows are about to be deleted, and must not be written after that.
    pub async fn forget(&self, user: UserId) {
        let _nothing_under_way = self.writing.lock().await;
        self.waiting().retain(|(other, _), _| *other != user);
    }

    /// Writes what waits. What fails goes on waiting.
    pub async fn write(&self) {
        let _turn = self.writing.lock().await;
        // Those that come meanwhile have time.
        let mut left = self.waiting().len();
        while left > 0 {
            let touch = |((user, client_id), at_ms): (&(UserId, Box<str>), &i64)| Touch {
                user: *user,
                client_id: client_id.clone(),
                at_ms: *at_ms,
            };
            let batch: Vec<Touch> = self.waiting().iter().take(MAX_BATCH.min(left)).map(touch).collect();
            if batch.is_empty() {
                return;
            }
            if let Err(error) = self.store.touch_devices(&batch).await {
                count("failed", batch.len());
                tracing::warn!(%error, devices = batch.len(), "devices not recorded, trying again later");
                self.arrived.notify_one();
                return;
            }
            count("written", batch.len());
            left = left.saturating_sub(batch.len());
            let mut waiting = self.waiting();
            for Touch { user, client_id, at_ms } in batch {
                let key = (user, client_id);
                // One that was seen again meanwhile stays.
                if waiting.get(&key) == Some(&at_ms) {
                    waiting.remove(&key);
                }
            }
        }
    }

    /// Writes what has come, so often at most, or as soon as there is much of it; until cancelled.
    pub async fn run(self: Arc<Self>, every: Duration, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.arrived.notified() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(every) => {}
                () = self.full.notified() => {}
            }
            self.write().await;
        }
    }
}

fn count(outcome: &'static str, devices: usize) {
    let devices = u64::try_from(devices).unwrap_or(u64::MAX);
    metrics::counter!("supersync_device_touches_total", "outcome" => outcome).increment(devices);
}

/// Stored devices with those that are not written yet.
#[must_use]
pub fn with_waiting(mut rows: Vec<Device>, waiting: Vec<Device>, since_ms: i64) -> Vec<Device> {
    for device in waiting.into_iter().filter(|device| device.last_seen_at >= since_ms) {
        match rows.iter_mut().find(|row| row.client_id == device.client_id) {
            Some(row) => row.last_seen_at = row.last_seen_at.max(device.last_seen_at),
            None => rows.push(device),
        }
    }
    rows
}
