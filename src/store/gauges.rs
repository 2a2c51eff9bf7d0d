//! What an operator's dashboards show of the database: its connections and how much it holds. Never on the path of a
//! request; a look at the contents walks over the accounts, so it is taken every few minutes.

use std::path::PathBuf;

use async_trait::async_trait;

use super::Result;

/// How busy one kind of connections is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// What they are for.
    pub name: &'static str,
    /// How many are at work.
    pub busy: u32,
    /// How many there can be.
    pub most: u32,
}

/// How much the database holds, over all accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// How many accounts there are.
    pub accounts: i64,
    /// Accounts that have used nine tenths of their quota or more.
    pub accounts_near_quota: i64,
    /// Bytes charged to quotas.
    pub used_bytes: i64,
    /// The quotas' sum, in bytes.
    pub quota_bytes: i64,
    /// Archived data sets, those that wait for their deletion included.
    pub archives: i64,
    /// Bytes that they were charged with.
    pub archive_bytes: i64,
    /// Bytes on the disk of the database server or of the file.
    pub database_bytes: i64,
    /// Bytes of the write-ahead log; `None` where this program may not look.
    pub wal_bytes: Option<i64>,
}

/// Looking at the database as a whole.
#[async_trait]
pub trait GaugeStore: Send + Sync + 'static {
    /// The connections, by what they are for.
    fn pools(&self) -> Vec<PoolUse>;
    /// Folders of this machine on whose disks the database lies; none: that can't be known from here.
    async fn folders(&self) -> Result<Vec<PathBuf>>;
    /// What there is.
    async fn holdings(&self) -> Result<Holdings>;
}

/// Over all accounts; the same in both databases, which differ in how they name integers of eight bytes.
macro_rules! holdings_sql {
    ($cast:literal) => {
        concat!(
            "SELECT u.accounts, u.near, u.used, u.quota, a.archives, a.bytes FROM \
             (SELECT count(*) AS accounts, \
             count(CASE WHEN s.storage_used_bytes >= 0.9 * u.storage_quota_bytes THEN 1 END) AS near, \
             CAST(COALESCE(sum(s.storage_used_bytes), 0) AS ",
            $cast,
            ") AS used, CAST(COALESCE(sum(u.storage_quota_bytes), 0) AS ",
            $cast,
            ") AS quota FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id) u, \
             (SELECT count(*) AS archives, CAST(COALESCE(sum(bytes), 0) AS ",
            $cast,
            ") AS bytes FROM archived_ranges) a"
        )
    };
}
pub(super) use holdings_sql;
