//! Admission: what may wait in the engine. Actor mailboxes are unbounded by design, so a request takes a permit before
//! it may send a message; without one it is refused at once, which is cheap for both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::EngineError;
use crate::budget::{Pool, PoolPermit, Resource};
use crate::protocol::UserId;

/// What an account may hold of the bytes: one part in this many.
const ACCOUNT_PART: usize = 8;

/// The engine's budget.
#[derive(Clone)]
pub struct Admission {
    requests: Arc<Semaphore>,
    bytes: Pool,
    per_user: usize,
    admitted: Gauge,
}

/// The right to have a request in the engine; given back on drop.
pub struct Permit {
    _request: OwnedSemaphorePermit,
    _bytes: PoolPermit,
    waiting: Arc<AtomicUsize>,
    admitted: Gauge,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.admitted.decrement(1.0);
    }
}

impl Admission {
    /// A budget of so many requests, payload bytes, and requests per account.
    #[must_use]
    pub fn new(requests: usize, bytes: usize, per_user: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(requests.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Pool::with_large(Resource::Queued, bytes, bytes / ACCOUNT_PART, bytes),
            per_user: per_user.max(1),
            admitted: metrics::gauge!("supersync_engine_requests"),
        }
    }

    /// Admits a request of an account that has `waiting` requests in the engine.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when any bound is reached.
    pub fn admit(&self, user: UserId, waiting: &Arc<AtomicUsize>, bytes: usize) -> Result<Permit, EngineError> {
        let busy = |bound: &'static str| {
            metrics::counter!("supersync_engine_refused_total", "bound" => bound).increment(1);
            EngineError::Busy
        };
        if waiting.fetch_add(1, Ordering::AcqRel) >= self.per_user {
            waiting.fetch_sub(1, Ordering::AcqRel);
            return Err(busy("user"));
        }
        let undo = |error| {
            waiting.fetch_sub(1, Ordering::AcqRel);
            error
        };
        // A request larger than the whole budget may run when it is alone.
        let bytes = bytes.min(self.bytes.most());
        let request = self.requests.clone().try_acquire_owned().map_err(|_| undo(busy("requests")))?;
        let bytes = self.bytes.acquire(user, bytes).map_err(|_| undo(busy("bytes")))?;
        self.admitted.increment(1.0);
        Ok(Permit { _request: request, _bytes: bytes, waiting: Arc::clone(waiting), admitted: self.admitted.clone() })
    }
}
