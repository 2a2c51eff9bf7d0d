//! Where the room goes.

use async_trait::async_trait;
use sqlx::Row as _;

use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::row::bound;
use crate::store::usage::{
    KINDS, KINDS_OF_NEWEST, LARGEST_ACCOUNTS, PACKED_GROWTH, Since, decode_kind, decode_parts, next_accounts_sql,
    parts_sql,
};
use crate::store::{KindUsage, Parts, Result, TableSize, UsageStore};

const PARTS: &str = parts_sql!("GREATEST");
const NEXT_ACCOUNTS: &str = next_accounts_sql!("GREATEST");
const TABLE_SIZES: &str = "SELECT c.relname::text, NULLIF(c.reltuples, -1)::bigint, pg_total_relation_size(c.oid) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema() \
     AND c.relkind IN ('r', 'p') ORDER BY 3 DESC, 1";

#[async_trait]
impl UsageStore for PostgresStore {
    async fn largest_accounts(&self, limit: usize) -> Result<Vec<UserId>> {
        on_connection!(self.housekeeping, self.patience, "largest_accounts", |db| {
            Ok(sqlx::query_scalar(LARGEST_ACCOUNTS).bind(bound(limit)).fetch_all(&mut *db).await?)
        })
    }

    async fn parts(&self) -> Result<Parts> {
        on_connection!(self.housekeeping, self.patience, "parts", |db| {
            decode_parts!(&sqlx::query(PARTS).fetch_one(&mut *db).await?)
        })
    }

    async fn table_sizes(&self, _read_at_most: i64) -> Result<Option<Vec<TableSize>>> {
        on_connection!(self.housekeeping, self.patience, "table_sizes", |db| {
            let rows = sqlx::query(TABLE_SIZES).fetch_all(&mut *db).await?;
            let size = |row: &sqlx::postgres::PgRow| -> Result<TableSize> {
                Ok(TableSize { name: row.try_get(0)?, rows: row.try_get(1)?, bytes: row.try_get(2)? })
            };
            rows.iter().map(size).collect::<Result<_>>().map(Some)
        })
    }

    async fn next_accounts(&self, after: UserId, limit: usize) -> Result<Option<(UserId, i64)>> {
        on_connection!(self.housekeeping, self.patience, "next_accounts", |db| {
            let row = sqlx::query(NEXT_ACCOUNTS).bind(after).bind(bound(limit)).fetch_one(&mut *db).await?;
            let last: Option<UserId> = row.try_get(0)?;
            Ok(last.zip(Some(row.try_get(1)?)))
        })
    }

    async fn kinds(&self, after: UserId, up_to: UserId, since: Since) -> Result<Vec<KindUsage>> {
        on_connection!(self.housekeeping, self.patience, "kinds", |db| {
            let [day, week, month] = since;
            let query = sqlx::query(KINDS).bind(day).bind(week).bind(month).bind(after).bind(up_to);
            query.fetch_all(&mut *db).await?.iter().map(|row| decode_kind!(row)).collect()
        })
    }

    async fn kinds_of_newest(&self, accounts: usize, each: usize, since: Since) -> Result<Vec<KindUsage>> {
        on_connection!(self.housekeeping, self.patience, "kinds_of_newest", |db| {
            let [day, week, month] = since;
            let query = sqlx::query(KINDS_OF_NEWEST).bind(day).bind(week).bind(month);
            let query = query.bind(bound(accounts)).bind(bound(each));
            query.fetch_all(&mut *db).await?.iter().map(|row| decode_kind!(row)).collect()
        })
    }

    async fn packed_growth(&self, since: Since) -> Result<[i64; 3]> {
        on_connection!(self.housekeeping, self.patience, "packed_growth", |db| {
            let [day, week, month] = since;
            let row = sqlx::query(PACKED_GROWTH).bind(day).bind(week).bind(month).fetch_one(&mut *db).await?;
            Ok([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?])
        })
    }
}
