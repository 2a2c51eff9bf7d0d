//! Where the room goes.

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::row::bound;
use crate::store::usage::{
    KINDS, KINDS_OF_NEWEST, LARGEST_ACCOUNTS, PACKED_GROWTH, Since, decode_kind, decode_parts, next_accounts_sql,
    parts_sql,
};
use crate::store::{KindUsage, Parts, Result, TableSize, UsageStore};

const PARTS: &str = parts_sql!("max");
const NEXT_ACCOUNTS: &str = next_accounts_sql!("max");
const SIZE: &str = "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)";
/// Reads every page of the file.
const TABLE_SIZES: &str = "SELECT m.tbl_name, CAST(sum(d.pgsize) AS INTEGER) FROM dbstat d \
     JOIN sqlite_schema m ON m.name = d.name WHERE d.aggregate = TRUE GROUP BY m.tbl_name ORDER BY 2 DESC, 1";

#[async_trait]
impl UsageStore for SqliteStore {
    async fn largest_accounts(&self, limit: usize) -> Result<Vec<UserId>> {
        timed_on("largest_accounts", "readers", async {
            Ok(sqlx::query_scalar(LARGEST_ACCOUNTS).bind(bound(limit)).fetch_all(&self.readers).await?)
        })
        .await
    }

    async fn parts(&self) -> Result<Parts> {
        timed_on("parts", "readers", async { decode_parts!(&sqlx::query(PARTS).fetch_one(&self.readers).await?) }).await
    }

    async fn table_sizes(&self, read_at_most: i64) -> Result<Option<Vec<TableSize>>> {
        timed_on("table_sizes", "readers", async {
            let bytes: i64 = sqlx::query_scalar(SIZE).fetch_one(&self.readers).await?;
            if bytes > read_at_most {
                return Ok(None);
            }
            let rows = sqlx::query(TABLE_SIZES).fetch_all(&self.readers).await?;
            let size = |row: &sqlx::sqlite::SqliteRow| -> Result<TableSize> {
                Ok(TableSize { name: row.try_get(0)?, rows: None, bytes: row.try_get(1)? })
            };
            rows.iter().map(size).collect::<Result<_>>().map(Some)
        })
        .await
    }

    async fn next_accounts(&self, after: UserId, limit: usize) -> Result<Option<(UserId, i64)>> {
        timed_on("next_accounts", "readers", async {
            let row = sqlx::query(NEXT_ACCOUNTS).bind(after).bind(bound(limit)).fetch_one(&self.readers).await?;
            let last: Option<UserId> = row.try_get(0)?;
            Ok(last.zip(Some(row.try_get(1)?)))
        })
        .await
    }

    async fn kinds(&self, after: UserId, up_to: UserId, since: Since) -> Result<Vec<KindUsage>> {
        timed_on("kinds", "readers", async {
            let [day, week, month] = since;
            let query = sqlx::query(KINDS).bind(day).bind(week).bind(month).bind(after).bind(up_to);
            query.fetch_all(&self.readers).await?.iter().map(|row| decode_kind!(row)).collect()
        })
        .await
    }

    async fn kinds_of_newest(&self, accounts: usize, each: usize, since: Since) -> Result<Vec<KindUsage>> {
        timed_on("kinds_of_newest", "readers", async {
            let [day, week, month] = since;
            let query = sqlx::query(KINDS_OF_NEWEST).bind(day).bind(week).bind(month);
            let query = query.bind(bound(accounts)).bind(bound(each));
            query.fetch_all(&self.readers).await?.iter().map(|row| decode_kind!(row)).collect()
        })
        .await
    }

    async fn packed_growth(&self, since: Since) -> Result<[i64; 3]> {
        timed_on("packed_growth", "readers", async {
            let [day, week, month] = since;
            let row = sqlx::query(PACKED_GROWTH).bind(day).bind(week).bind(month).fetch_one(&self.readers).await?;
            Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?])
        })
        .await
    }
}
