//! What other processes on the same database must hear about accounts: revoked sessions, deletions, locks, changed
//! quotas, deleted data.
//!
//! The schema writes an event in the transaction of the change it is about, whoever makes that change; events become
//! visible in the order of their numbers, so a reader that remembers the last one has missed none. An event says that
//! something has changed, not what it is now: whoever acts on it looks.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::protocol::UserId;

/// How long events are kept, at least.
pub const EVENT_RETENTION: Duration = Duration::from_hours(24);

/// What has happened to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// Some of its tokens are void.
    SessionRevoked,
    /// All tokens given out so far are void.
    SessionsRevoked,
    /// It is gone with everything that it held.
    AccountDeleted,
    /// The operator has locked it.
    AccountLocked,
    /// The operator has unlocked it.
    AccountUnlocked,
    /// It may store another number of bytes, or what it stores was recounted.
    QuotaChanged,
    /// Its log was replaced by an empty one.
    DataCleared,
    /// Its data set was replaced by one that was archived.
    DataReplaced,
    /// Something that a newer server knows about.
    Unknown,
}

impl EventKind {
    const ALL: [Self; 9] = [
        Self::SessionRevoked,
        Self::SessionsRevoked,
        Self::AccountDeleted,
        Self::AccountLocked,
        Self::AccountUnlocked,
        Self::QuotaChanged,
        Self::DataCleared,
        Self::DataReplaced,
        Self::Unknown,
    ];

    /// The kind's text as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionRevoked => "session_revoked",
            Self::SessionsRevoked => "sessions_revoked",
            Self::AccountDeleted => "account_deleted",
            Self::AccountLocked => "account_locked",
            Self::AccountUnlocked => "account_unlocked",
            Self::QuotaChanged => "quota_changed",
            Self::DataCleared => "data_cleared",
            Self::DataReplaced => "data_replaced",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn stored(text: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).unwrap_or(Self::Unknown)
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountEvent {
    /// Its number; grows.
    pub id: i64,
    /// The account.
    pub user: UserId,
    /// What has happened.
    pub kind: EventKind,
    /// When, by the database's clock, Unix milliseconds.
    pub at: i64,
}

/// Events about accounts.
#[async_trait]
pub trait EventStore: Send + Sync + 'static {
    /// The number of the newest event; 0: there was none yet.
    async fn last_event(&self) -> Result<i64>;
    /// Events with greater numbers, ascending, at most `limit`.
    async fn events_after(&self, after: i64, limit: usize) -> Result<Vec<AccountEvent>>;
    /// Announces a change that is not made in a statement on the account: deleted data.
    async fn announce(&self, user: UserId, kind: EventKind) -> Result<()>;
    /// Deletes events that are older, by the database's clock, but never the newest one. Returns how many.
    async fn delete_old_events(&self, older_than: Duration) -> Result<u64>;
}
