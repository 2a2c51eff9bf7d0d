//! What an administrator sees.

use async_trait::async_trait;
use sqlx::Row as _;

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::timed_on;
use crate::store::row::{bound, decode_overview, overview_columns, user_columns};
use crate::store::{AccountOverview, DatabaseFacts, OverviewStore, Result};

/// Nothing was seen in 1970, so that year stands for NULL.
const LIST: &str = concat!(
    "SELECT ",
    user_columns!(),
    overview_columns!("?4", "max", "COALESCE", ", 0"),
    "FROM (SELECT * FROM users WHERE id > ?2 AND (?1 = '' OR instr(lower(email), ?1) > 0 OR CAST(id AS TEXT) = ?1) \
     ORDER BY id LIMIT ?3) u LEFT JOIN user_sync_state s ON s.user_id = u.id ORDER BY u.id"
);
const ONE: &str = concat!(
    "SELECT ",
    user_columns!(),
    overview_columns!("?2", "max", "COALESCE", ", 0"),
    "FROM users u LEFT JOIN user_sync_state s ON s.user_id = u.id WHERE u.id = ?1"
);

#[async_trait]
impl OverviewStore for SqliteStore {
    async fn account_overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
        since_ms: i64,
    ) -> Result<Vec<AccountOverview>> {
        timed_on("account_overviews", "readers", async {
            let search = search.unwrap_or_default().to_ascii_lowercase();
            let rows = sqlx::query(LIST)
                .bind(search)
                .bind(after)
                .bind(bound(limit))
                .bind(since_ms)
                .fetch_all(&self.readers)
                .await?;
            rows.iter().map(|row| decode_overview!(row)).collect()
        })
        .await
    }

    async fn account_overview(&self, user: UserId, since_ms: i64) -> Result<Option<AccountOverview>> {
        timed_on("account_overview", "readers", async {
            let row = sqlx::query(ONE).bind(user).bind(since_ms).fetch_optional(&self.readers).await?;
            row.map(|row| decode_overview!(&row)).transpose()
        })
        .await
    }

    async fn database_facts(&self) -> Result<DatabaseFacts> {
        timed_on("database_facts", "readers", async {
            let row = sqlx::query(
                "SELECT (SELECT count(*) FROM users), \
                 (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), \
                 CAST(unixepoch('subsec') * 1000 AS INTEGER)",
            )
            .fetch_one(&self.readers)
            .await?;
            Ok(DatabaseFacts { accounts: row.try_get(0)?, bytes: row.try_get(1)?, now_ms: row.try_get(2)? })
        })
        .await
    }
}
