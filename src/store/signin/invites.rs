//! The statements of invitations, and of registering with one.

/// Reads an invitation's row: id, address, admin, claim, by whom, when, until when, used when, used by whom.
macro_rules! decode_invite {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::InviteRow> {
            Ok($crate::store::InviteRow {
                id: row.try_get(0)?,
                email: row.try_get(1)?,
                makes_admin: row.try_get(2)?,
                is_claim: row.try_get(3)?,
                created_by: row.try_get(4)?,
                created_at: row.try_get(5)?,
                expires_at: row.try_get(6)?,
                used_at: row.try_get(7)?,
                used_by: row.try_get(8)?,
            })
        })()
    }};
}

/// The functions for a connection type, see [`super::steps`].
macro_rules! invite_steps {
    ($Connection:ty) => {
        const INVITES: &str = "SELECT id, email, makes_admin, is_claim, created_by, created_at, expires_at, used_at, \
                               used_by FROM invites ORDER BY id DESC LIMIT $1";
        const FIND_INVITE: &str = "SELECT id, email, makes_admin, is_claim, created_by, created_at, expires_at, \
                                   used_at, used_by FROM invites WHERE token_hash = $1 AND expires_at > $2";

        async fn put_invite(db: &mut $Connection, invite: &NewInvite) -> Result<Option<i64>> {
            if invite.is_claim {
                if has_administrator(db).await? {
                    return Ok(None);
                }
                sqlx::query("DELETE FROM invites WHERE is_claim = TRUE").execute(&mut *db).await?;
            }
            let id = sqlx::query_scalar(
                "INSERT INTO invites (token_hash, email, makes_admin, is_claim, created_by, created_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
            )
            .bind(invite.token_hash.to_vec())
            .bind(invite.email.clone())
            .bind(invite.makes_admin)
            .bind(invite.is_claim)
            .bind(invite.created_by)
            .bind(invite.created_at)
            .bind(invite.expires_at)
            .fetch_one(&mut *db)
            .await?;
            Ok(Some(id))
        }

        async fn has_administrator(db: &mut $Connection) -> Result<bool> {
            const ONE: &str = "SELECT 1 FROM users WHERE is_admin = TRUE AND is_verified = TRUE LIMIT 1";
            Ok(sqlx::query(ONE).fetch_optional(&mut *db).await?.is_some())
        }

        async fn invites(db: &mut $Connection, limit: i64) -> Result<Vec<InviteRow>> {
            let rows = sqlx::query(INVITES).bind(limit).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_invite!(row)).collect()
        }

        async fn delete_invite(db: &mut $Connection, id: i64) -> Result<bool> {
            let done = sqlx::query("DELETE FROM invites WHERE id = $1").bind(id).execute(&mut *db).await?;
            Ok(done.rows_affected() > 0)
        }

        async fn find_invite(db: &mut $Connection, hash: &[u8; 32], now_ms: i64) -> Result<Option<InviteRow>> {
            let row = sqlx::query(FIND_INVITE).bind(hash.to_vec()).bind(now_ms).fetch_optional(&mut *db).await?;
            row.map(|row| decode_invite!(&row)).transpose()
        }

        async fn use_invite(db: &mut $Connection, hash: &[u8; 32], user: UserId, now_ms: i64) -> Result<bool> {
            let done = sqlx::query(
                "UPDATE invites SET used_at = $3, used_by = $2 WHERE token_hash = $1 AND expires_at > $3 \
                 AND (used_at IS NULL OR used_by = $2)",
            )
            .bind(hash.to_vec())
            .bind(user)
            .bind(now_ms)
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected() > 0)
        }

        async fn register_invited(
            db: &mut $Connection,
            hash: &[u8; 32],
            new: &NewUser,
            passkey: Option<&NewPasskey>,
            now_ms: i64,
        ) -> Result<Unique<UserId>> {
            // First, so that a concurrent use of the same invitation waits here.
            let taken = sqlx::query(
                "UPDATE invites SET used_at = $2 WHERE token_hash = $1 AND expires_at > $2 AND used_at IS NULL \
                 RETURNING makes_admin, is_claim",
            )
            .bind(hash.to_vec())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            let Some(row) = taken.first() else { return Ok(Unique::Gone) };
            let (makes_admin, is_claim): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
            if is_claim && has_administrator(db).await? {
                return Ok(Unique::Gone);
            }
            sqlx::query("DELETE FROM users WHERE lower(email) = $1 AND is_verified = FALSE")
                .bind(new.email.to_ascii_lowercase())
                .execute(&mut *db)
                .await?;
            let inserted = sqlx::query_scalar::<_, i64>(
                "INSERT INTO users (email, password_hash, is_verified, created_at, terms_accepted_at, \
                 storage_quota_bytes, is_admin) VALUES ($1, $2, TRUE, $3, $4, $5, $6) RETURNING id",
            )
            .bind(new.email.clone())
            .bind(new.password_hash.clone())
            .bind(new.created_at)
            .bind(new.terms_accepted_at)
            .bind(new.storage_quota_bytes)
            .bind(makes_admin)
            .fetch_all(&mut *db)
            .await;
            let user = match inserted {
                Ok(ids) => ids.first().copied().ok_or(sqlx::Error::RowNotFound)?,
                Err(error) if is_unique_violation(&error) => return Ok(Unique::Taken),
                Err(error) => return Err(error.into()),
            };
            sqlx::query("INSERT INTO user_sync_state (user_id) VALUES ($1)").bind(user).execute(&mut *db).await?;
            if let Some(key) = passkey
                && insert_passkey(db, user, key).await?.is_none()
            {
                return Ok(Unique::Taken);
            }
            sqlx::query("UPDATE invites SET used_by = $2 WHERE token_hash = $1")
                .bind(hash.to_vec())
                .bind(user)
                .execute(&mut *db)
                .await?;
            Ok(Unique::Done(user))
        }
    };
}

pub(in crate::store) use {decode_invite, invite_steps};
