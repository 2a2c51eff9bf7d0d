//! Accounts and one-time tokens.

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::SqliteStore;
use crate::protocol::UserId;
use crate::store::error::{is_unique_violation, timed_on};
use crate::store::row::{bound, decode_token, decode_user, user_columns};
use crate::store::{AccountStore, NewUser, OneTimeToken, Result, TokenPurpose, UserRow};

const BY_EMAIL: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE lower(email) = ?1");
const BY_ID: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE id = ?1");
const LIST: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE id > ?1 ORDER BY id LIMIT ?2");
const TOKEN: &str = "SELECT token_hash, purpose, user_id, pending_password_hash, created_at, expires_at \
                     FROM one_time_tokens WHERE token_hash = ?1 AND purpose = ?2";

#[async_trait]
impl AccountStore for SqliteStore {
    async fn create_user(&self, user: &NewUser) -> Result<Option<UserId>> {
        timed_on("create_user", "writer", async {
            let mut writer = self.writer.acquire().await?;
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let inserted = sqlx::query_scalar::<_, i64>(
                "INSERT INTO users (email, password_hash, is_verified, created_at, terms_accepted_at, \
                 storage_quota_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id",
            )
            .bind(user.email.clone())
            .bind(user.password_hash.clone())
            .bind(user.is_verified)
            .bind(user.created_at)
            .bind(user.terms_accepted_at)
            .bind(user.storage_quota_bytes)
            .fetch_all(&mut *tx)
            .await;
            let id = match inserted {
                Ok(ids) => ids.first().copied().ok_or(sqlx::Error::RowNotFound)?,
                Err(error) if is_unique_violation(&error) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            sqlx::query("INSERT INTO user_sync_state (user_id) VALUES (?1)").bind(id).execute(&mut *tx).await?;
            tx.commit().await?;
            self.checkpointer.wake();
            Ok(Some(id))
        })
        .await
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>> {
        timed_on("user_by_email", "readers", async {
            let row = sqlx::query(BY_EMAIL).bind(email.to_ascii_lowercase()).fetch_optional(&self.readers).await?;
            row.map(|row| decode_user!(&row)).transpose()
        })
        .await
    }

    async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>> {
        timed_on("user_by_id", "readers", async {
            let row = sqlx::query(BY_ID).bind(id).fetch_optional(&self.readers).await?;
            row.map(|row| decode_user!(&row)).transpose()
        })
        .await
    }

    async fn list_users(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>> {
        timed_on("list_users", "readers", async {
            let rows = sqlx::query(LIST).bind(after).bind(bound(limit)).fetch_all(&self.readers).await?;
            rows.iter().map(|row| decode_user!(row)).collect()
        })
        .await
    }

    async fn delete_user(&self, id: UserId) -> Result<bool> {
        timed_on("delete_user", "writer", self.delete_account(id)).await
    }

    async fn delete_all_users(&self) -> Result<()> {
        timed_on("delete_all_users", "writer", async {
            sqlx::query("DELETE FROM users").execute(&mut *self.writer.acquire().await?).await?;
            self.checkpointer.wake();
            Ok(())
        })
        .await
    }

    async fn set_password(&self, id: UserId, hash: &str, revoke: bool) -> Result<Option<i64>> {
        timed_on("set_password", "writer", async {
            Ok(sqlx::query_scalar(
                "UPDATE users SET password_hash = ?2, token_version = token_version + ?3 WHERE id = ?1 \
                 RETURNING token_version",
            )
            .bind(id)
            .bind(hash.to_owned())
            .bind(i64::from(revoke))
            .fetch_all(&mut *self.writer.acquire().await?)
            .await?
            .first()
            .copied())
        })
        .await
    }

    async fn set_verified(&self, id: UserId) -> Result<bool> {
        timed_on("set_verified", "writer", async {
            let done = sqlx::query("UPDATE users SET is_verified = 1 WHERE id = ?1").bind(id);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected() > 0)
        })
        .await
    }

    async fn bump_token_version(&self, id: UserId) -> Result<Option<i64>> {
        timed_on("bump_token_version", "writer", async {
            Ok(sqlx::query_scalar(
                "UPDATE users SET token_version = token_version + 1 WHERE id = ?1 RETURNING token_version",
            )
            .bind(id)
            .fetch_all(&mut *self.writer.acquire().await?)
            .await?
            .first()
            .copied())
        })
        .await
    }

    async fn set_quota(&self, id: UserId, bytes: i64) -> Result<bool> {
        timed_on("set_quota", "writer", async {
            let done = sqlx::query("UPDATE users SET storage_quota_bytes = ?2 WHERE id = ?1").bind(id).bind(bytes);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected() > 0)
        })
        .await
    }

    async fn put_token(&self, token: &OneTimeToken) -> Result<()> {
        timed_on("put_token", "writer", async {
            sqlx::query(
                "INSERT INTO one_time_tokens (token_hash, purpose, user_id, pending_password_hash, created_at, \
                 expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )
            .bind(token.hash.to_vec())
            .bind(token.purpose.as_str())
            .bind(token.user)
            .bind(token.pending_password_hash.clone())
            .bind(token.created_at)
            .bind(token.expires_at)
            .execute(&mut *self.writer.acquire().await?)
            .await?;
            Ok(())
        })
        .await
    }

    async fn count_tokens(&self, user: UserId, purpose: TokenPurpose, since_ms: i64) -> Result<i64> {
        timed_on("count_tokens", "readers", async {
            Ok(sqlx::query_scalar(
                "SELECT COUNT(*) FROM one_time_tokens WHERE user_id = ?1 AND purpose = ?2 AND created_at >= ?3",
            )
            .bind(user)
            .bind(purpose.as_str())
            .bind(since_ms)
            .fetch_one(&self.readers)
            .await?)
        })
        .await
    }

    async fn peek_token(&self, hash: &[u8; 32], purpose: TokenPurpose) -> Result<Option<OneTimeToken>> {
        timed_on("peek_token", "readers", async {
            let row =
                sqlx::query(TOKEN).bind(hash.to_vec()).bind(purpose.as_str()).fetch_optional(&self.readers).await?;
            row.map(|row| decode_token!(&row)).transpose()
        })
        .await
    }

    async fn delete_expired_tokens(&self, now_ms: i64) -> Result<u64> {
        timed_on("delete_expired_tokens", "writer", async {
            let done = sqlx::query("DELETE FROM one_time_tokens WHERE expires_at < ?1").bind(now_ms);
            Ok(done.execute(&mut *self.writer.acquire().await?).await?.rows_affected())
        })
        .await
    }
}
