//! Signs of life of sessions on their way to the database. A request costs no statement: it leaves a note here, and all
//! that have come are written together in the background.
//!
//! Promises that nobody waits for that and that memory is bounded. What is not written yet when the process is killed is
//! lost: it is a few minutes' news about when a session was last seen.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::protocol::UserId;
use crate::store::{SessionId, SessionSeen, Store};

/// Sessions of one statement.
const MAX_BATCH: usize = 1000;
/// Sessions that wait while the database does not answer; about 200 bytes each. Beyond it they are dropped.
const CAPACITY: usize = 65_536;

/// Sessions seen and not written yet.
#[derive(Default)]
pub(super) struct SeenSessions {
    waiting: Mutex<HashMap<(UserId, Option<SessionId>), SessionSeen>>,
    /// Held while a batch is written.
    writing: tokio::sync::Mutex<()>,
}

impl SeenSessions {
    fn waiting(&self) -> MutexGuard<'_, HashMap<(UserId, Option<SessionId>), SessionSeen>> {
        // Nothing that can panic runs under the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that a session was seen.
    pub(super) fn record(&self, seen: SessionSeen) {
        let mut waiting = self.waiting();
        let key = (seen.user, seen.credential.session);
        if waiting.len() >= CAPACITY && !waiting.contains_key(&key) {
            count("dropped", 1);
            return;
        }
        waiting.insert(key, seen);
    }

    /// Writes what waits. What fails goes on waiting.
    pub(super) async fn write(&self, store: &dyn Store) {
        let _turn = self.writing.lock().await;
        loop {
            // In the order in which rows are locked.
            let mut batch: Vec<SessionSeen> = {
                let mut waiting = self.waiting();
                let keys: Vec<_> = waiting.keys().take(MAX_BATCH).copied().collect();
                let batch = keys.iter().filter_map(|key| waiting.remove(key)).collect();
                if waiting.is_empty() {
                    // What a burst has taken.
                    waiting.shrink_to_fit();
                }
                batch
            };
            if batch.is_empty() {
                return;
            }
            batch.sort_unstable_by_key(|seen| (seen.credential.session, seen.user));
            match store.touch_sessions(&batch).await {
                Ok(()) => count("written", batch.len()),
                Err(error) => {
                    count("failed", batch.len());
                    tracing::warn!(%error, sessions = batch.len(), "sessions not recorded, trying again later");
                    let mut waiting = self.waiting();
                    for seen in batch {
                        // What was seen meanwhile is news.
                        waiting.entry((seen.user, seen.credential.session)).or_insert(seen);
                    }
                    return;
                }
            }
        }
    }
}

fn count(outcome: &'static str, sessions: usize) {
    let sessions = u64::try_from(sessions).unwrap_or(u64::MAX);
    metrics::counter!("supersync_session_touches_total", "outcome" => outcome).increment(sessions);
}
