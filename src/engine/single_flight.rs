//! One restore at a time for each account; requests that want the same one share it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::replays::busy;
use super::{EngineError, RestoreError, Restored};
use crate::protocol::Seq;

/// Requests of one account that wait for a restore.
const MAX_WAITING: usize = 16;

/// Names a restore: data set and target.
type Key = (i64, Seq);

/// A restore that somebody waits for, and its result once there is one.
#[derive(Default)]
struct Flight(tokio::sync::Mutex<Option<Result<Restored, RestoreError>>>);

/// The restores of one account.
#[derive(Default)]
pub struct SingleFlight {
    /// The newest one. Its result lives as long as somebody waits for it: states are large.
    newest: Mutex<Option<(Key, Weak<Flight>)>>,
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Counts a waiter for as long as it lives.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl SingleFlight {
    /// The restore that `key` names: the one that somebody made while this caller waited, or a new one.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when too many of the account wait; what `restore` answers.
    pub async fn run(
        &self,
        key: Key,
        restore: impl Future<Output = Result<Restored, RestoreError>>,
    ) -> Result<Restored, RestoreError> {
        let before = self.waiting.fetch_add(1, Ordering::AcqRel);
        let _waiter = Waiter(&self.waiting);
        if before >= MAX_WAITING {
            return Err(busy("account").into());
        }
        let flight = self.join(key);
        let mut made = flight.0.lock().await;
        if let Some(made) = &*made {
            metrics::counter!("supersync_restores_shared_total").increment(1);
            return made.again();
        }
        let _turn = self.turn.lock().await;
        let result = restore.await;
        let again = result.again();
        // Trouble that passes is for each to run into.
        if !matches!(again, Err(RestoreError::Engine(_))) {
            *made = Some(again);
        }
        result
    }

    fn join(&self, key: Key) -> Arc<Flight> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let running = newest.as_ref().filter(|(of, _)| *of == key).and_then(|(_, flight)| flight.upgrade());
        running.unwrap_or_else(|| {
            let flight = Arc::default();
            *newest = Some((key, Arc::downgrade(&flight)));
            flight
        })
    }
}

/// Results that several get.
trait Again {
    fn again(&self) -> Self;
}

impl Again for Result<Restored, RestoreError> {
    fn again(&self) -> Self {
        match self {
            Ok(restored) => Ok(restored.clone()),
            Err(RestoreError::BeyondLatest) => Err(RestoreError::BeyondLatest),
            Err(RestoreError::Encrypted) => Err(RestoreError::Encrypted),
            Err(RestoreError::NewerSchema) => Err(RestoreError::NewerSchema),
            Err(RestoreError::Gone) => Err(RestoreError::Gone),
            Err(RestoreError::TooLarge(why)) => Err(RestoreError::TooLarge(why.clone())),
            Err(RestoreError::NotReplayable(why)) => Err(RestoreError::NotReplayable(why.clone())),
            Err(RestoreError::Engine(_)) => Err(EngineError::Busy.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(server_seq: Seq) -> Restored {
        Restored { state: Arc::from([]), server_seq, generated_at: 0, schema_version: 4 }
    }

    #[tokio::test]
    async fn requests_for_the_same_state_share_one_restore_and_its_refusal() {
        let flights = SingleFlight::default();
        let runs = AtomicUsize::new(0);
        for refused in [false, true] {
            runs.store(0, Ordering::Relaxed);
            let restore = || {
                flights.run((1, 7), async {
                    runs.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    if refused { Err(RestoreError::TooLarge("x".into())) } else { Ok(restored(7)) }
                })
            };
            let (a, b, c) = tokio::join!(restore(), restore(), restore());
            assert!([a, b, c].iter().all(|result| result.is_err() == refused));
            assert_eq!(runs.load(Ordering::Relaxed), 1);
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_when_nobody_waits_and_trouble_is_not_shared() {
        let flights = SingleFlight::default();
        let runs = AtomicUsize::new(0);
        let busy = || {
            flights.run((1, 7), async {
                runs.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Err(EngineError::Busy.into())
            })
        };
        let (a, b) = tokio::join!(busy(), busy());
        assert!(a.is_err() && b.is_err());
        assert_eq!(runs.load(Ordering::Relaxed), 2);

        // A waiter that goes away takes the result along.
        let state: Arc<[bytes::Bytes]> = Arc::from([bytes::Bytes::from_static(b"{}")]);
        let weak = Arc::downgrade(&state);
        let first = flights.run((1, 8), async move {
            tokio::task::yield_now().await;
            Ok(Restored { state, ..restored(8) })
        });
        let mut second = Box::pin(flights.run((1, 8), async { Ok(restored(8)) }));
        let mut first = Box::pin(first);
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first.await);
        drop(second);
        assert!(weak.upgrade().is_none());
    }

    #[tokio::test]
    async fn different_states_of_an_account_come_one_after_the_other_and_few_wait() {
        let flights = SingleFlight::default();
        let running = AtomicUsize::new(0);
        let restore = |seq| {
            let running = &running;
            flights.run((1, seq), async move {
                assert_eq!(running.fetch_add(1, Ordering::Relaxed), 0, "one at a time");
                tokio::task::yield_now().await;
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(restored(seq))
            })
        };
        let results = futures_util::future::join_all((1..=20).map(restore)).await;
        let refused = results.iter().filter(|result| matches!(result, Err(RestoreError::Engine(EngineError::Busy))));
        assert_eq!(refused.count(), 20 - MAX_WAITING);
    }
}
