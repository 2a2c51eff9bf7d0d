//! Places for replays: who may rebuild a state now, and with how much memory.
//!
//! Nearly every state is small. So there are a few places with little memory, and one with as much as the largest state
//! takes; a replay that outgrows its small place starts again in the large one. Each kind has one queue, in order of
//! arrival, in which an account stands at most once ([`super::single_flight::SingleFlight`]): whatever one account asks for,
//! others wait for at most one of its replays. What all of them may hold is known beforehand, so no replay fails because
//! of another one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::EngineError;
use crate::budget::{Pool, PoolPermit, Resource};
use crate::protocol::UserId;
use crate::replay::Limits;

/// Small replays at once.
const SMALL_PLACES: usize = 2;
/// Accounts in the queues.
const MAX_WAITING: usize = 64;
/// How long an account waits for a place.
const PATIENCE: Duration = Duration::from_secs(15);

/// The places of the process.
pub struct Replays {
    limits: Limits,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    waiting: Semaphore,
    pool: Pool,
}

/// A place, taken for as long as it lives.
pub struct Place {
    /// The bounds of the replay in it.
    pub limits: Limits,
    _turn: OwnedSemaphorePermit,
    _held: PoolPermit,
}

/// Which kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// With the memory that nearly every state is fine with.
    Small,
    /// With the memory for the largest state.
    Large,
}

impl Replays {
    /// Places for replays with these bounds.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let most = SMALL_PLACES * limits.small().max_memory_bytes + limits.max_memory_bytes;
        Self {
            limits,
            small: Arc::new(Semaphore::new(SMALL_PLACES)),
            large: Arc::new(Semaphore::new(1)),
            waiting: Semaphore::new(MAX_WAITING),
            pool: Pool::new(Resource::Replays, most, limits.max_memory_bytes),
        }
    }

    /// A place for an account.
    ///
    /// # Errors
    /// [`EngineError::Busy`] when too many wait, or none becomes free in time.
    pub async fn place(&self, user: UserId, size: Size) -> Result<Place, EngineError> {
        let (places, limits) = match size {
            Size::Small => (&self.small, self.limits.small()),
            Size::Large => (&self.large, self.limits),
        };
        let _waits = self.waiting.try_acquire().map_err(|_| busy("all"))?;
        let turn = timeout(PATIENCE, Arc::clone(places).acquire_owned()).await;
        let turn = turn.map_err(|_| busy("all"))?.map_err(|_| EngineError::Busy)?;
        let held = self.pool.acquire(user, limits.max_memory_bytes).map_err(|_| EngineError::Busy)?;
        Ok(Place { limits, _turn: turn, _held: held })
    }
}

/// Refuses a replay because of the load, of the account itself or of all.
pub fn busy(whose: &'static str) -> EngineError {
    metrics::counter!("supersync_budget_refused_total", "resource" => Resource::Replays.label(), "whose" => whose)
        .increment(1);
    EngineError::Busy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_account_that_waits_is_not_overtaken_and_does_not_wait_for_ever() {
        let replays = Replays::new(Limits::default());
        let first = replays.place(1, Size::Large).await.expect("free");
        let small = [replays.place(2, Size::Small).await, replays.place(3, Size::Small).await];
        assert!(small.iter().all(Result::is_ok), "small ones don't wait for the large one");
        assert!(matches!(replays.place(4, Size::Small).await.err(), Some(EngineError::Busy)), "two at once");
        let (second, third) = (replays.place(5, Size::Large), replays.place(1, Size::Large));
        tokio::pin!(second, third);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(futures_util::poll!(third.as_mut()).is_pending());
        drop(first);
        let second = second.await.expect("the first one's place");
        assert!(futures_util::poll!(third.as_mut()).is_pending(), "in order of arrival");
        drop(second);
        assert!(third.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_memory_comes_back() {
        let replays = Replays::new(Limits::default());
        let place = replays.place(0, Size::Large).await.expect("free");
        let mut waiting: Vec<_> = (1..=64).map(|user| Box::pin(replays.place(user, Size::Large))).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        let started = tokio::time::Instant::now();
        assert!(matches!(replays.place(65, Size::Large).await.err(), Some(EngineError::Busy)));
        assert!(started.elapsed() < Duration::from_secs(1), "at once");
        drop((waiting, place));
        assert_eq!(replays.pool.held(), 0);
    }
}
