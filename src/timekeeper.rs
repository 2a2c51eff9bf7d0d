//! What the database knows of the time, and the watched clock that rests on it ([`crate::clock::Watch`]).
//!
//! A server notes every few minutes that its clock is right, and hears of it when an operator or another instance says
//! so. Owns when that happens; what follows from it, the clock decides.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Doubt, Reason};
use crate::store::{KnownTime, Store, StoreError};

/// How often the clock is looked at, without asking the database.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often the database is asked.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How often the time is noted as right.
const NOTE_EVERY_MS: i64 = 10 * 60 * 1000;
/// How far the database server's clock may be from this machine's.
const MAX_APART_MS: u64 = 60 * 60 * 1000;

/// The clock, watched by what the database knows. The first process on a database tells it what is known.
///
/// # Errors
/// When the database can't be read or written.
pub async fn watched(store: &dyn Store, clock: Clock, leap: Duration, owner: &str) -> Result<Clock, StoreError> {
    let known = store.known_time().await?;
    let watched = of_known(clock, &known, leap);
    // Rows that are made while the clock is in doubt must not confirm it at the next start.
    if let (None, Some(newest_ms)) = (known.right_ms, known.newest_ms) {
        store.note_right_time(owner, newest_ms).await?;
    }
    Ok(watched)
}

/// The clock, watched by this.
#[must_use]
pub fn of_known(clock: Clock, known: &KnownTime, leap: Duration) -> Clock {
    clock.watched(known.right_ms.or(known.newest_ms), i64::try_from(leap.as_millis()).unwrap_or(i64::MAX))
}

/// Why nothing must be deleted because of its age, if so. A clock that is not watched is never in doubt.
///
/// # Errors
/// When the database can't be read.
pub async fn doubt(store: &dyn Store, clock: &Clock) -> Result<Option<Doubt>, StoreError> {
    let Clock::Watched(watch) = clock else { return Ok(None) };
    let known = store.known_time().await?;
    if let Some(right_ms) = known.right_ms {
        watch.heard(right_ms);
    }
    Ok(clock.doubt().or_else(|| disagreement(clock.wall_ms(), watch.leap_ms(), &known)))
}

/// Other clocks that show another time.
fn disagreement(shown_ms: i64, leap_ms: i64, known: &KnownTime) -> Option<Doubt> {
    if let Some(other_ms) = known.right_ms.filter(|right_ms| right_ms.saturating_sub(shown_ms) > leap_ms) {
        return Some(Doubt { reason: Reason::Behind, shown_ms, other_ms });
    }
    let other_ms = known.database_ms.filter(|database_ms| database_ms.abs_diff(shown_ms) > MAX_APART_MS)?;
    Some(Doubt { reason: Reason::Database, shown_ms, other_ms })
}

/// Tells log and metrics about doubts, and the database about a clock that is right.
pub struct Timekeeper {
    store: Arc<dyn Store>,
    clock: Clock,
    /// Names this process among those that share the database.
    owner: String,
    noted_ms: Option<i64>,
    doubt: Option<Doubt>,
}

impl Timekeeper {
    /// Of a watched clock; `owner` names this process among those that share the database.
    #[must_use]
    pub const fn new(store: Arc<dyn Store>, clock: Clock, owner: String) -> Self {
        Self { store, clock, owner, noted_ms: None, doubt: None }
    }

    /// Looks now and then until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let (mut looks, mut questions) = (interval(LOOK_EVERY), interval(ASK_EVERY));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        questions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                // The clock tells a slip from a change by how long it lasts, so it must be looked at.
                _ = looks.tick() => drop(self.clock.doubt()),
                _ = questions.tick() => match self.ask().await {
                    Ok(()) => {}
                    Err(error) => tracing::debug!(%error, "what the database knows of the time could not be read"),
                },
            }
        }
    }

    /// One look, with the database.
    ///
    /// # Errors
    /// When the database can't be read or written.
    pub async fn ask(&mut self) -> Result<(), StoreError> {
        let doubt = doubt(&*self.store, &self.clock).await?;
        metrics::gauge!("supersync_clock_doubted").set(if doubt.is_some() { 1.0 } else { 0.0 });
        match (&doubt, &self.doubt) {
            (Some(doubt), None) => tracing::error!(
                advice = Doubt::ADVICE,
                "the clock is in doubt, nothing is deleted because of its age: {doubt}"
            ),
            (None, Some(_)) => tracing::info!("the clock is no longer in doubt"),
            _ => {}
        }
        self.doubt = doubt;
        let now_ms = self.clock.now_ms();
        let is_due = self.noted_ms.is_none_or(|noted_ms| noted_ms.abs_diff(now_ms) >= NOTE_EVERY_MS.unsigned_abs());
        if doubt.is_none() && is_due {
            self.store.note_right_time(&self.owner, now_ms).await?;
            self.noted_ms = Some(now_ms);
        }
        Ok(())
    }
}
