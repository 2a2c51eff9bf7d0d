//! Deletes what a data set leaves behind that was replaced: the heads of its entities. A wipe itself touches none of them
//! (it costs the same for one operation and for a million), but whoever wipes again and again must not fill the disk with
//! what nobody counts. One account at a time, in bounded steps; what a crash or an error leaves goes with the archived range.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::protocol::UserId;
use crate::store::Store;

/// Accounts that wait for it.
pub struct Tidier {
    store: Arc<dyn Store>,
    waiting: Mutex<BTreeSet<UserId>>,
    wake: Notify,
}

impl Tidier {
    /// Nobody waits.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// A new data set has begun.
    pub fn replaced(&self, user: UserId) {
        self.waiting().insert(user);
        self.wake.notify_one();
    }

    /// Tidies up until cancelled.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wake.notified() => {}
            }
            while let Some(user) = self.next() {
                let tidied = tokio::select! {
                    // Given up in the middle of a step it is as after a crash.
                    () = cancel.cancelled() => return,
                    tidied = self.store.tidy_heads(user) => tidied,
                };
                if let Err(error) = tidied {
                    tracing::warn!(%error, user_id = user, "heads of an old data set are left to the sweep");
                }
            }
        }
    }

    fn next(&self) -> Option<UserId> {
        self.waiting().pop_first()
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<UserId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
