//! The statements of mailed links that sign in, set a password or replace lost passkeys, and what every kind of link
//! needs: to be stored, to be used once, and to be void with all others of its account.

/// The functions for a connection type, see [`super::steps`].
macro_rules! link_steps {
    ($Connection:ty) => {
        async fn insert_link(db: &mut $Connection, link: &OneTimeToken, new_email: Option<&str>) -> Result<()> {
            sqlx::query(
                "INSERT INTO one_time_tokens (token_hash, purpose, user_id, pending_password_hash, created_at, \
                 expires_at, new_email) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(link.hash.to_vec())
            .bind(link.purpose.as_str())
            .bind(link.user)
            .bind(link.pending_password_hash.clone())
            .bind(link.created_at)
            .bind(link.expires_at)
            .bind(new_email.map(str::to_owned))
            .execute(&mut *db)
            .await?;
            Ok(())
        }

        /// The account of a link that is used hereby, the address that it sets, and when it was made.
        async fn delete_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            purpose: TokenPurpose,
            now_ms: i64,
        ) -> Result<Option<(UserId, Option<String>, i64)>> {
            let owner = sqlx::query_scalar("SELECT user_id FROM one_time_tokens WHERE token_hash = $1");
            let Some(owner) = owner.bind(hash.to_vec()).fetch_optional(&mut *db).await? else { return Ok(None) };
            // First the account's row: who voids its links at the same time waits here, and not for this link.
            lock_user(db, owner).await?;
            let rows = sqlx::query(
                "DELETE FROM one_time_tokens WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3 \
                 AND created_at <= $4 RETURNING user_id, new_email, created_at",
            )
            .bind(hash.to_vec())
            .bind(purpose.as_str())
            .bind(now_ms)
            .bind(now_ms + MAX_AHEAD_MS)
            .fetch_all(&mut *db)
            .await?;
            rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()
        }

        /// After a revocation, and after a change of how one signs in, whatever is in the mail is void, but for what
        /// undoes a change of address. (What grows the token version need not say so: see the schema.)
        pub(super) async fn void_links(db: &mut $Connection, user: UserId) -> Result<()> {
            sqlx::query("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose <> $2")
                .bind(user)
                .bind(TokenPurpose::UndoAddress.as_str())
                .execute(&mut *db)
                .await?;
            sqlx::query("DELETE FROM pending_passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            Ok(())
        }

        async fn put_link(
            db: &mut $Connection,
            link: &OneTimeToken,
            new_email: Option<&str>,
            gap_ms: i64,
            most: i64,
        ) -> Result<bool> {
            if lock_user(db, link.user).await? != Some(true) {
                return Ok(false);
            }
            let row = sqlx::query(
                "SELECT COUNT(*), MAX(created_at) FROM one_time_tokens \
                 WHERE user_id = $1 AND purpose = $2 AND expires_at > $3 AND created_at <= $4",
            )
            .bind(link.user)
            .bind(link.purpose.as_str())
            .bind(link.created_at)
            .bind(link.created_at + MAX_AHEAD_MS)
            .fetch_one(&mut *db)
            .await?;
            let (unexpired, newest): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
            // One from the future means that the clock was set back: that must not bar anybody for long.
            let too_soon = newest.is_some_and(|newest| (0..gap_ms).contains(&(link.created_at - newest)));
            if unexpired >= most || too_soon {
                return Ok(false);
            }
            insert_link(db, link, new_email).await?;
            Ok(true)
        }

        async fn take_login_link(db: &mut $Connection, hash: &[u8; 32], now_ms: i64) -> Result<Option<UserRow>> {
            let Some((user, ..)) = delete_link(db, hash, TokenPurpose::MagicLogin, now_ms).await? else {
                return Ok(None);
            };
            let rows = sqlx::query(concat!(
                "UPDATE users SET failed_login_attempts = 0, locked_until = NULL WHERE id = $1 AND is_verified = TRUE \
                 AND locked_at IS NULL RETURNING ",
                user_columns!()
            ))
            .bind(user)
            .fetch_all(&mut *db)
            .await?;
            end_locks(db, user).await?;
            rows.first().map(|row| decode_user!(row)).transpose()
        }

        async fn take_reset_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
            password_hash: &str,
        ) -> Result<Option<UserId>> {
            let Some((user, ..)) = delete_link(db, hash, TokenPurpose::ResetPassword, now_ms).await? else {
                return Ok(None);
            };
            let set = sqlx::query(
                "UPDATE users SET password_hash = $2, token_version = token_version + 1, failed_login_attempts = 0, \
                 locked_until = NULL WHERE id = $1 AND is_verified = TRUE",
            )
            .bind(user)
            .bind(password_hash.to_owned())
            .execute(&mut *db)
            .await?;
            if set.rows_affected() == 0 {
                return Ok(None);
            }
            void_links(db, user).await?;
            end_locks(db, user).await?;
            Ok(Some(user))
        }

        async fn take_recovery_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
            key: &NewPasskey,
        ) -> Result<Unique<UserId>> {
            let Some((user, ..)) = delete_link(db, hash, TokenPurpose::RecoverPasskey, now_ms).await? else {
                return Ok(Unique::Gone);
            };
            let set = sqlx::query(
                "UPDATE users SET token_version = token_version + 1, failed_login_attempts = 0, locked_until = NULL \
                 WHERE id = $1 AND is_verified = TRUE",
            )
            .bind(user)
            .execute(&mut *db)
            .await?;
            if set.rows_affected() == 0 {
                return Ok(Unique::Gone);
            }
            sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            if insert_passkey(db, user, key).await?.is_none() {
                return Ok(Unique::Taken);
            }
            void_links(db, user).await?;
            Ok(Unique::Done(user))
        }
    };
}

pub(in crate::store) use link_steps;
