//! Hears what other processes on the same database have done to accounts, and acts on it: forgets what is remembered,
//! closes sockets whose tokens are void, drops accounts from the engine's memory.
//!
//! Asks the database every [`POLL_EVERY`] for events that it has not seen, so a revocation made elsewhere (by another
//! server, or by the command line) counts here within a second, on either database. Promises to act on each event that
//! is announced after [`Follower::start`], in order, however often the database fails in between; after a silence so
//! long that events may have been deleted meanwhile, it trusts nothing that it knew. An event of this process itself is
//! acted on once more, which changes nothing: whether a socket stays is decided by what the database says of its token,
//! not by the event.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::accounts::{Accounts, AuthError};
use crate::clock::Clock;
use crate::engine::Handle;
use crate::engine::notifier::Closing;
use crate::protocol::UserId;
use crate::store::{AccountEvent, EVENT_RETENTION, EventKind, Store, StoreError};

/// How often the database is asked.
pub const POLL_EVERY: Duration = Duration::from_millis(500);
/// Events read at a time.
const BATCH: usize = 500;

/// Follows the events of one database.
pub struct Follower {
    store: Arc<dyn Store>,
    accounts: Accounts,
    engine: Handle,
    clock: Clock,
    /// The last event that was acted on.
    position: i64,
    /// When the database was last heard, Unix milliseconds.
    heard_at_ms: i64,
}

impl Follower {
    /// Begins after the newest event. Call it before anything is remembered of any account, that is before serving.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn start(
        store: Arc<dyn Store>,
        accounts: Accounts,
        engine: Handle,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let position = store.last_event().await?;
        let heard_at_ms = clock.now_ms();
        Ok(Self { store, accounts, engine, clock, position, heard_at_ms })
    }

    /// Acts on events until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut is_failing = false;
        while cancel.run_until_cancelled(tokio::time::sleep(POLL_EVERY)).await.is_some() {
            let Some(polled) = cancel.run_until_cancelled(self.poll()).await else { return };
            match polled {
                Ok(_) if is_failing => {
                    tracing::info!("events about accounts are followed again");
                    is_failing = false;
                }
                Ok(_) => {}
                Err(error) => {
                    metrics::counter!("supersync_account_event_polls_failed_total").increment(1);
                    if !is_failing {
                        tracing::warn!(%error, "events about accounts can't be read, trying again");
                    }
                    is_failing = true;
                }
            }
        }
    }

    /// Acts on every event that is there. Returns how many there were.
    ///
    /// # Errors
    /// When the database fails; what has not been acted on is next time.
    pub async fn poll(&mut self) -> Result<usize, StoreError> {
        let mut acted_on = 0;
        loop {
            let events = self.store.events_after(self.position, BATCH).await?;
            self.reset_after_silence();
            let count = events.len();
            for event in events {
                self.act_on(&event).await?;
                self.position = event.id;
            }
            acted_on += count;
            if count < BATCH {
                return Ok(acted_on);
            }
        }
    }

    fn reset_after_silence(&mut self) {
        let now_ms = self.clock.now_ms();
        let silence_ms = now_ms - self.heard_at_ms;
        self.heard_at_ms = now_ms;
        // Half of it: the clocks of this machine and of the database need not agree.
        if u128::try_from(silence_ms).is_ok_and(|silence_ms| silence_ms >= EVENT_RETENTION.as_millis() / 2) {
            tracing::warn!(silence_ms, "events about accounts may have been missed: sockets must connect again");
            self.accounts.forget_all_sessions();
            self.engine.notifier().close_all();
        }
    }

    async fn act_on(&self, event: &AccountEvent) -> Result<(), StoreError> {
        let AccountEvent { user, kind, at, .. } = *event;
        // Before the sockets are looked at: one that joins later asks the database.
        self.accounts.forget_sessions(user);
        match kind {
            EventKind::SessionRevoked | EventKind::SessionsRevoked | EventKind::AccountLocked => {
                self.close_void_sockets(user).await?;
            }
            EventKind::AccountUnlocked => {}
            EventKind::AccountDeleted => {
                self.engine.notifier().close_user(user, Closing::REVOKED.code, "Account deleted");
                self.engine.forget(user);
            }
            EventKind::QuotaChanged | EventKind::DataCleared | EventKind::DataReplaced => {
                self.engine.catch_up(user).await;
            }
            EventKind::Unknown => {
                self.close_void_sockets(user).await?;
                self.engine.forget(user);
            }
        }
        metrics::counter!("supersync_account_events_total", "kind" => kind.as_str()).increment(1);
        let lag_ms = u64::try_from(self.clock.now_ms() - at).unwrap_or(0);
        metrics::histogram!("supersync_account_event_lag_seconds").record(Duration::from_millis(lag_ms).as_secs_f64());
        Ok(())
    }

    async fn close_void_sockets(&self, user: UserId) -> Result<(), StoreError> {
        let mut void = Vec::new();
        for credential in self.engine.notifier().credentials(user) {
            match self.accounts.recheck(user, &credential).await {
                Ok(()) => {}
                Err(AuthError::Database(error)) => return Err(error),
                Err(_) => void.push(credential),
            }
        }
        self.engine.notifier().close_revoked(user, |credential| void.contains(credential));
        Ok(())
    }
}
