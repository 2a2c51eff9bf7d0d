//! What dashboards show of the database.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use crate::store::error::timed_on;
use crate::store::gauges::holdings_sql;
use crate::store::{GaugeStore, Holdings, PoolUse, Result, StoreError};

const HOLDINGS: &str = holdings_sql!("INTEGER");
const SIZE: &str = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";

#[async_trait]
impl GaugeStore for SqliteStore {
    fn pools(&self) -> Vec<PoolUse> {
        let idle = u32::try_from(self.readers.num_idle()).unwrap_or(u32::MAX);
        let busy = self.readers.size().saturating_sub(idle);
        vec![
            self.writer.in_use("writer"),
            self.logs.in_use("logs"),
            PoolUse { name: "readers", busy, most: self.most_readers },
        ]
    }

    async fn folders(&self) -> Result<Vec<PathBuf>> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(vec![folder.unwrap_or(Path::new(".")).to_owned()])
    }

    async fn holdings(&self) -> Result<Holdings> {
        timed_on("holdings", "readers", async {
            let row = sqlx::query(HOLDINGS).fetch_one(&self.readers).await?;
            let database_bytes = sqlx::query_scalar(SIZE).fetch_one(&self.readers).await?;
            let wal_bytes = log_bytes(&self.path)?;
            Ok(Holdings {
                accounts: row.try_get(0)?,
                accounts_near_quota: row.try_get(1)?,
                used_bytes: row.try_get(2)?,
                quota_bytes: row.try_get(3)?,
                archives: row.try_get(4)?,
                archive_bytes: row.try_get(5)?,
                database_bytes,
                wal_bytes: Some(wal_bytes),
            })
        })
        .await
    }
}

/// The log's file, which lies next to the database's; it is missing until something is written.
fn log_bytes(database: &Path) -> Result<i64> {
    let mut path = OsString::from(database);
    path.push("-wal");
    match std::fs::metadata(path) {
        Ok(file) => Ok(i64::try_from(file.len()).unwrap_or(i64::MAX)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::Unavailable(sqlx::Error::Io(error))),
    }
}
