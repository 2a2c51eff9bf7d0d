//! What an administrator sees.

use async_trait::async_trait;
use sqlx::Row as _;

use super::{PostgresStore, on_connection};
use crate::protocol::UserId;
use crate::store::row::{bound, decode_overview, overview_columns, user_columns};
use crate::store::{AccountOverview, DatabaseFacts, OverviewStore, Result};

/// Ignores what is NULL.
const LIST: &str = concat!(
    "SELECT ",
    user_columns!(),
    overview_columns!("$4", "GREATEST"),
    "FROM (SELECT * FROM users WHERE id > $2 AND ($1 = '' OR position($1 IN lower(email)) > 0 OR id::text = $1) \
     ORDER BY id LIMIT $3) u LEFT JOIN user_sync_state s ON s.user_id = u.id ORDER BY u.id"
);
const ONE: &str = concat!(
    "SELECT ",
    user_columns!(),
    overview_columns!("$2", "GREATEST"),
    "FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id WHERE u.id = $1"
);

#[async_trait]
impl OverviewStore for PostgresStore {
    async fn account_overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
        since_ms: i64,
    ) -> Result<Vec<AccountOverview>> {
        on_connection!(self.requests, self.patience, "account_overviews", |db| {
            let search = search.unwrap_or_default().to_ascii_lowercase();
            let rows = sqlx::query(LIST)
                .bind(search)
                .bind(after)
                .bind(bound(limit))
                .bind(since_ms)
                .fetch_all(&mut *db)
                .await?;
            rows.iter().map(|row| decode_overview!(row)).collect()
        })
    }

    async fn account_overview(&self, user: UserId, since_ms: i64) -> Result<Option<AccountOverview>> {
        on_connection!(self.requests, self.patience, "account_overview", |db| {
            let row = sqlx::query(ONE).bind(user).bind(since_ms).fetch_optional(&mut *db).await?;
            row.map(|row| decode_overview!(&row)).transpose()
        })
    }

    async fn database_facts(&self) -> Result<DatabaseFacts> {
        on_connection!(self.requests, self.patience, "database_facts", |db| {
            let row = sqlx::query(
                "SELECT (SELECT count(*) FROM users), pg_database_size(current_database()), \
                 (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            )
            .fetch_one(&mut *db)
            .await?;
            Ok(DatabaseFacts { accounts: row.try_get(0)?, bytes: row.try_get(1)?, now_ms: row.try_get(2)? })
        })
    }
}
