//! The statements of links that prove a new account's address, and of the passkey that waits for one to be used.

/// The functions for a connection type, see [`super::steps`].
macro_rules! verification_steps {
    ($Connection:ty) => {
        /// The passkey bound to a verification link becomes the account's only one. One that somebody else has already
        /// is left out.
        async fn adopt_pending_passkey(db: &mut $Connection, hash: &[u8; 32], user: UserId) -> Result<()> {
            sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            sqlx::query(
                "INSERT INTO passkeys (user_id, credential_id, public_key, counter, transports, backup_eligible, name, \
                 created_at, user_handle) SELECT user_id, credential_id, public_key, counter, transports, \
                 backup_eligible, name, created_at, user_handle FROM pending_passkeys \
                 WHERE token_hash = $1 AND user_id = $2 ON CONFLICT DO NOTHING",
            )
            .bind(hash.to_vec())
            .bind(user)
            .execute(&mut *db)
            .await?;
            sqlx::query("DELETE FROM pending_passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            Ok(())
        }

        async fn insert_pending_passkey(db: &mut $Connection, link: &OneTimeToken, key: &NewPasskey) -> Result<()> {
            sqlx::query(
                "INSERT INTO pending_passkeys (token_hash, user_id, credential_id, public_key, counter, transports, \
                 backup_eligible, name, created_at, expires_at, user_handle) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            )
            .bind(link.hash.to_vec())
            .bind(link.user)
            .bind(key.credential_id.clone())
            .bind(key.public_key.clone())
            .bind(key.counter)
            .bind(key.transports.clone())
            .bind(key.backup_eligible)
            .bind(key.name.clone())
            .bind(key.created_at)
            .bind(link.expires_at)
            .bind(key.user_handle.clone())
            .execute(&mut *db)
            .await?;
            Ok(())
        }

        async fn put_verification_link(
            db: &mut $Connection,
            new: &VerificationLink<'_>,
            pace: &LinkPace,
        ) -> Result<bool> {
            let link = new.link;
            if lock_user(db, link.user).await? != Some(false) {
                return Ok(false);
            }
            let row = sqlx::query(
                "SELECT COUNT(*), COUNT(CASE WHEN network = $4 THEN 1 END), MAX(created_at) FROM one_time_tokens \
                 WHERE user_id = $1 AND purpose = $2 AND created_at >= $3",
            )
            .bind(link.user)
            .bind(link.purpose.as_str())
            .bind(pace.since_ms)
            .bind(new.network.to_owned())
            .fetch_one(&mut *db)
            .await?;
            let (all, of_network, newest): (i64, i64, Option<i64>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let is_many = all >= pace.most || of_network >= pace.most_of_network;
            if is_many && newest.is_some_and(|newest| (0..pace.gap_ms).contains(&(link.created_at - newest))) {
                return Ok(false);
            }
            sqlx::query(
                "UPDATE users SET password_hash = COALESCE($2, password_hash), \
                 terms_accepted_at = COALESCE($3, terms_accepted_at) WHERE id = $1",
            )
            .bind(link.user)
            .bind(link.pending_password_hash.clone())
            .bind(new.terms_accepted_at)
            .execute(&mut *db)
            .await?;
            if let Some(key) = new.passkey {
                insert_pending_passkey(db, link, key).await?;
            }
            insert_link(db, link, None).await?;
            sqlx::query("UPDATE one_time_tokens SET registrant = $2, network = $3 WHERE token_hash = $1")
                .bind(link.hash.to_vec())
                .bind(new.registrant.to_vec())
                .bind(new.network.to_owned())
                .execute(&mut *db)
                .await?;
            Ok(true)
        }

        async fn peek_verification_link(db: &mut $Connection, hash: &[u8; 32]) -> Result<Option<PeekedVerification>> {
            let row = sqlx::query(
                "SELECT user_id, expires_at, registrant, pending_password_hash IS NOT NULL OR EXISTS \
                 (SELECT 1 FROM pending_passkeys p WHERE p.token_hash = t.token_hash) \
                 FROM one_time_tokens t WHERE token_hash = $1 AND purpose = $2",
            )
            .bind(hash.to_vec())
            .bind(TokenPurpose::VerifyEmail.as_str())
            .fetch_optional(&mut *db)
            .await?;
            row.map(|row| {
                Ok(PeekedVerification {
                    user: row.try_get(0)?,
                    expires_at: row.try_get(1)?,
                    registrant: row.try_get(2)?,
                    has_credential: row.try_get(3)?,
                })
            })
            .transpose()
        }

        async fn take_verification_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
            registrant: Option<&[u8; 32]>,
            password_hash: Option<&str>,
        ) -> Result<Option<UserId>> {
            let owner = sqlx::query_scalar("SELECT user_id FROM one_time_tokens WHERE token_hash = $1");
            let Some(owner) = owner.bind(hash.to_vec()).fetch_optional(&mut *db).await? else { return Ok(None) };
            // First the account's row: who voids its links at the same time waits here, and not for this link.
            lock_user(db, owner).await?;
            let rows = sqlx::query(
                "DELETE FROM one_time_tokens WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3 \
                 RETURNING user_id, registrant, pending_password_hash",
            )
            .bind(hash.to_vec())
            .bind(TokenPurpose::VerifyEmail.as_str())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            let Some(row) = rows.first() else { return Ok(None) };
            let (user, registered_by, pending): (UserId, Option<Vec<u8>>, Option<String>) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            // What came with the registration counts for who has the secret that went back with it.
            let is_theirs = registrant.is_some_and(|given| registered_by.as_deref() == Some(given));
            let claimed = sqlx::query(
                "UPDATE users SET is_verified = TRUE, password_hash = $2, failed_login_attempts = 0, \
                 locked_until = NULL WHERE id = $1 AND is_verified = FALSE",
            )
            .bind(user)
            .bind(password_hash.map(str::to_owned).or(pending.filter(|_| is_theirs)))
            .execute(&mut *db)
            .await?;
            if claimed.rows_affected() == 0 {
                return Ok(None);
            }
            if !is_theirs {
                sqlx::query("DELETE FROM pending_passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            }
            adopt_pending_passkey(db, hash, user).await?;
            end_locks(db, user).await?;
            sqlx::query("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose = $2")
                .bind(user)
                .bind(TokenPurpose::VerifyEmail.as_str())
                .execute(&mut *db)
                .await?;
            Ok(Some(user))
        }
    };
}

pub(in crate::store) use verification_steps;
