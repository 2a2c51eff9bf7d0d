//! Accounts and one-time tokens.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Connection as _, Row as _};

use super::{Pool, PostgresStore, on_connection, placed, sql};
use crate::protocol::UserId;
use crate::store::error::is_unique_violation;
use crate::store::row::{bound, decode_token, decode_user, user_columns};
use crate::store::{AccountStore, NewUser, OneTimeToken, Result, TokenPurpose, UserRow};

const BY_EMAIL: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE lower(email COLLATE \"C\") = $1");
const LIST: &str = concat!("SELECT ", user_columns!(), " FROM users WHERE id > $1 ORDER BY id LIMIT $2");
const TOKEN: &str = "SELECT token_hash, purpose, user_id, pending_password_hash, created_at, expires_at \
                     FROM one_time_tokens WHERE token_hash = $1 AND purpose = $2";

#[async_trait]
impl AccountStore for PostgresStore {
    async fn create_user(&self, user: &NewUser) -> Result<Option<UserId>> {
        on_connection!(self.requests, self.patience, "create_user", |db| {
            let mut tx = db.begin().await?;
            let inserted = sqlx::query_scalar::<_, i64>(
                "INSERT INTO users (email, password_hash, is_verified, created_at, terms_accepted_at, \
                 storage_quota_bytes) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
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
            sqlx::query("INSERT INTO user_sync_state (user_id) VALUES ($1)").bind(id).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(Some(id))
        })
    }

    async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>> {
        on_connection!(self.requests, self.patience, "user_by_email", |db| {
            let row = sqlx::query(BY_EMAIL).bind(email.to_ascii_lowercase()).fetch_optional(&mut *db).await?;
            row.map(|row| decode_user!(&row)).transpose()
        })
    }

    async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>> {
        let (pool, patience) = (self.requests.clone(), self.patience);
        self.users.ask(id, move |ids| find_users(pool.clone(), patience, ids)).await
    }

    async fn list_users(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>> {
        on_connection!(self.requests, self.patience, "list_users", |db| {
            let rows = sqlx::query(LIST).bind(after).bind(bound(limit)).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_user!(row)).collect()
        })
    }

    async fn delete_user(&self, id: UserId) -> Result<bool> {
        on_connection!(self.requests, self.patience, "delete_user", |db| {
            let done = sqlx::query("DELETE FROM users WHERE id = $1").bind(id).execute(&mut *db).await?;
            Ok(done.rows_affected() > 0)
        })
    }

    async fn delete_all_users(&self) -> Result<()> {
        on_connection!(self.requests, self.patience, "delete_all_users", |db| {
            sqlx::query("DELETE FROM users").execute(&mut *db).await?;
            Ok(())
        })
    }

    async fn set_password(&self, id: UserId, hash: &str, revoke: bool) -> Result<Option<i64>> {
        on_connection!(self.requests, self.patience, "set_password", |db| {
            Ok(sqlx::query_scalar(
                "UPDATE users SET password_hash = $2, token_version = token_version + $3 WHERE id = $1 \
                 RETURNING token_version",
            )
            .bind(id)
            .bind(hash.to_owned())
            .bind(i64::from(revoke))
            .fetch_all(&mut *db)
            .await?
            .first()
            .copied())
        })
    }

    async fn set_verified(&self, id: UserId) -> Result<bool> {
        on_connection!(self.requests, self.patience, "set_verified", |db| {
            let done = sqlx::query("UPDATE users SET is_verified = TRUE WHERE id = $1").bind(id);
            Ok(done.execute(&mut *db).await?.rows_affected() > 0)
        })
    }

    async fn bump_token_version(&self, id: UserId) -> Result<Option<i64>> {
        on_connection!(self.requests, self.patience, "bump_token_version", |db| {
            Ok(sqlx::query_scalar(
                "UPDATE users SET token_version = token_version + 1 WHERE id = $1 RETURNING token_version",
            )
            .bind(id)
            .fetch_all(&mut *db)
            .await?
            .first()
            .copied())
        })
    }

    async fn set_quota(&self, id: UserId, bytes: i64) -> Result<bool> {
        on_connection!(self.requests, self.patience, "set_quota", |db| {
            let done = sqlx::query("UPDATE users SET storage_quota_bytes = $2 WHERE id = $1").bind(id).bind(bytes);
            Ok(done.execute(&mut *db).await?.rows_affected() > 0)
        })
    }

    async fn put_token(&self, token: &OneTimeToken) -> Result<()> {
        on_connection!(self.requests, self.patience, "put_token", |db| {
            sqlx::query(
                "INSERT INTO one_time_tokens (token_hash, purpose, user_id, pending_password_hash, created_at, \
                 expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(token.hash.to_vec())
            .bind(token.purpose.as_str())
            .bind(token.user)
            .bind(token.pending_password_hash.clone())
            .bind(token.created_at)
            .bind(token.expires_at)
            .execute(&mut *db)
            .await?;
            Ok(())
        })
    }

    async fn count_tokens(&self, user: UserId, purpose: TokenPurpose, since_ms: i64) -> Result<i64> {
        on_connection!(self.requests, self.patience, "count_tokens", |db| {
            Ok(sqlx::query_scalar(
                "SELECT COUNT(*) FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND created_at >= $3",
            )
            .bind(user)
            .bind(purpose.as_str())
            .bind(since_ms)
            .fetch_one(&mut *db)
            .await?)
        })
    }

    async fn peek_token(&self, hash: &[u8; 32], purpose: TokenPurpose) -> Result<Option<OneTimeToken>> {
        on_connection!(self.requests, self.patience, "peek_token", |db| {
            let row = sqlx::query(TOKEN).bind(hash.to_vec()).bind(purpose.as_str()).fetch_optional(&mut *db).await?;
            row.map(|row| decode_token!(&row)).transpose()
        })
    }

    async fn delete_expired_tokens(&self, now_ms: i64) -> Result<u64> {
        on_connection!(self.requests, self.patience, "delete_expired_tokens", |db| {
            let done = sqlx::query("DELETE FROM one_time_tokens WHERE expires_at < $1").bind(now_ms);
            Ok(done.execute(&mut *db).await?.rows_affected())
        })
    }
}

/// The rows of several accounts, in the order of their numbers.
async fn find_users(pool: Pool, patience: Duration, ids: Vec<UserId>) -> Result<Vec<Result<Option<UserRow>>>> {
    on_connection!(pool, patience, "user_by_id", |db| {
        let mut found: Vec<Result<Option<UserRow>>> = ids.iter().map(|_| Ok(None)).collect();
        for row in sqlx::query(sql::USERS_BY_ID).bind(&ids[..]).fetch_all(&mut *db).await? {
            *placed(&mut found, row.try_get(11)?)? = decode_user!(&row).map(Some);
        }
        Ok(found)
    })
}
