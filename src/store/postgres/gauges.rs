//! What dashboards show of the database.

use std::path::PathBuf;

use async_trait::async_trait;
use sqlx::Row as _;

use super::{PostgresStore, on_connection};
use crate::store::gauges::holdings_sql;
use crate::store::{GaugeStore, Holdings, PoolUse, Result};

const HOLDINGS: &str = holdings_sql!("bigint");
/// The function is for superusers and members of `pg_monitor`.
const MAY_SEE_WAL: &str = "SELECT has_function_privilege('pg_ls_waldir()', 'EXECUTE')";
const WAL: &str = "SELECT CAST(COALESCE(sum(size), 0) AS bigint) FROM pg_ls_waldir()";

/// The tablespaces in use, and the folder of the log; of a server on this machine that lets this role see its settings.
const FOLDERS: &str = "\
SELECT DISTINCT COALESCE(NULLIF(location, ''), (SELECT setting FROM pg_settings WHERE name = 'data_directory')) FROM (
    SELECT pg_tablespace_location(dattablespace) FROM pg_database WHERE datname = current_database()
    UNION SELECT pg_tablespace_location(reltablespace) FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND reltablespace <> 0
    UNION SELECT ''
) AS places (location)
WHERE inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr()";

#[async_trait]
impl GaugeStore for PostgresStore {
    fn pools(&self) -> Vec<PoolUse> {
        vec![
            self.requests.in_use(),
            self.housekeeping.in_use(),
            self.probe.in_use(),
            self.peers.in_use(),
            self.lanes.in_use("commits"),
            self.patient.in_use("own"),
        ]
    }

    async fn folders(&self) -> Result<Vec<PathBuf>> {
        on_connection!(self.housekeeping, self.patience, "folders", |db| {
            let folders: Vec<Option<String>> = sqlx::query_scalar(FOLDERS).fetch_all(&mut *db).await?;
            Ok(folders.into_iter().flatten().map(PathBuf::from).collect())
        })
    }

    async fn holdings(&self) -> Result<Holdings> {
        on_connection!(self.housekeeping, self.patience, "holdings", |db| {
            let row = sqlx::query(HOLDINGS).fetch_one(&mut *db).await?;
            let database_bytes =
                sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut *db).await?;
            let wal_bytes = if sqlx::query_scalar(MAY_SEE_WAL).fetch_one(&mut *db).await? {
                Some(sqlx::query_scalar(WAL).fetch_one(&mut *db).await?)
            } else {
                None
            };
            Ok(Holdings {
                accounts: row.try_get(0)?,
                accounts_near_quota: row.try_get(1)?,
                used_bytes: row.try_get(2)?,
                quota_bytes: row.try_get(3)?,
                archives: row.try_get(4)?,
                archive_bytes: row.try_get(5)?,
                database_bytes,
                wal_bytes,
            })
        })
    }
}
