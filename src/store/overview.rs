//! What an administrator sees: accounts with what they hold, and the database itself. Never on the path of a sync
//! request; a page of accounts costs a few look-ups for each of them, and a search walks over the accounts.

use async_trait::async_trait;

use super::{Result, UserRow};
use crate::protocol::UserId;

/// An account with what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountOverview {
    /// The account.
    pub user: UserRow,
    /// Bytes charged to its quota.
    pub storage_used_bytes: i64,
    /// Operations of its data set.
    pub operations: i64,
    /// Devices that have synced and were not forgotten.
    pub devices: i64,
    /// Sessions, those that have ended and were not swept yet included.
    pub sessions: i64,
    /// Bytes charged for what its data set has grown by since the time that was asked about, to within a part of a
    /// segment.
    pub grown_bytes: i64,
    /// When a device or a session was last seen, Unix milliseconds, to within a few minutes.
    pub last_seen_at: Option<i64>,
}

/// What there is to know of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseFacts {
    /// How many accounts there are.
    pub accounts: i64,
    /// How much room it takes, in bytes.
    pub bytes: i64,
    /// Its clock, Unix milliseconds.
    pub now_ms: i64,
}

/// Looking at everything.
#[async_trait]
pub trait OverviewStore: Send + Sync + 'static {
    /// Accounts with numbers above `after`, ascending, at most `limit`; with `search` those whose address holds that
    /// text, whatever its case, or whose number it is. Growth counts from `since_ms` on.
    async fn account_overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
        since_ms: i64,
    ) -> Result<Vec<AccountOverview>>;
    /// One account. Growth counts from `since_ms` on.
    async fn account_overview(&self, user: UserId, since_ms: i64) -> Result<Option<AccountOverview>>;
    /// The database.
    async fn database_facts(&self) -> Result<DatabaseFacts>;
}
