//! The statements of passkeys, and of the challenges that authenticators sign.

/// A passkey's columns, in the order in which [`decode_passkey`] reads them.
macro_rules! passkey_columns {
    () => {
        "id, user_id, credential_id, public_key, counter, transports, backup_eligible, name, created_at, last_used_at, \
         user_handle"
    };
}

/// Passkeys; a condition follows.
pub(in crate::store) const PASSKEY: (&str, &str) = (
    concat!("SELECT ", passkey_columns!(), " FROM passkeys WHERE credential_id = $1"),
    concat!("SELECT ", passkey_columns!(), " FROM passkeys WHERE user_id = $1 ORDER BY id"),
);

/// Reads a passkey's row.
macro_rules! decode_passkey {
    ($row:expr) => {{
        let row = $row;
        (|| -> $crate::store::Result<$crate::store::PasskeyRow> {
            Ok($crate::store::PasskeyRow {
                id: row.try_get(0)?,
                user: row.try_get(1)?,
                key: $crate::store::NewPasskey {
                    credential_id: row.try_get(2)?,
                    public_key: row.try_get(3)?,
                    counter: row.try_get(4)?,
                    transports: row.try_get(5)?,
                    backup_eligible: row.try_get(6)?,
                    name: row.try_get(7)?,
                    created_at: row.try_get(8)?,
                    user_handle: row.try_get(10)?,
                },
                last_used_at: row.try_get(9)?,
            })
        })()
    }};
}

/// The functions for a connection type, see [`super::steps`].
macro_rules! passkey_steps {
    ($Connection:ty) => {
        /// `None`: somebody has it already.
        async fn insert_passkey(db: &mut $Connection, user: UserId, key: &NewPasskey) -> Result<Option<i64>> {
            let inserted = sqlx::query_scalar::<_, i64>(
                "INSERT INTO passkeys (user_id, credential_id, public_key, counter, transports, backup_eligible, name, \
                 created_at, user_handle) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING \
                 RETURNING id",
            )
            .bind(user)
            .bind(key.credential_id.clone())
            .bind(key.public_key.clone())
            .bind(key.counter)
            .bind(key.transports.clone())
            .bind(key.backup_eligible)
            .bind(key.name.clone())
            .bind(key.created_at)
            .bind(key.user_handle.clone())
            .fetch_all(&mut *db)
            .await?;
            Ok(inserted.first().copied())
        }

        async fn put_challenge(db: &mut $Connection, challenge: &Challenge, most: i64) -> Result<()> {
            let id: i64 = sqlx::query_scalar(
                "INSERT INTO webauthn_challenges (challenge, ceremony, subject, terms_accepted_at, expires_at, state) \
                 VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
            )
            .bind(challenge.value.to_vec())
            .bind(challenge.ceremony.as_str())
            .bind(challenge.subject.to_vec())
            .bind(challenge.terms_accepted_at)
            .bind(challenge.expires_at)
            .bind(challenge.state.clone())
            .fetch_one(&mut *db)
            .await?;
            sqlx::query("DELETE FROM webauthn_challenges WHERE id <= $1")
                .bind(id.saturating_sub(most))
                .execute(&mut *db)
                .await?;
            Ok(())
        }

        async fn take_challenge(
            db: &mut $Connection,
            value: &[u8; 32],
            ceremony: Ceremony,
            subject: &[u8; 32],
            now_ms: i64,
        ) -> Result<Option<TakenChallenge>> {
            let rows = sqlx::query(
                "DELETE FROM webauthn_challenges WHERE challenge = $1 AND ceremony = $2 AND subject = $3 \
                 AND expires_at > $4 RETURNING terms_accepted_at, state",
            )
            .bind(value.to_vec())
            .bind(ceremony.as_str())
            .bind(subject.to_vec())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            rows.first()
                .map(|row| Ok(TakenChallenge { terms_accepted_at: row.try_get(0)?, state: row.try_get(1)? }))
                .transpose()
        }

        async fn find_passkey(db: &mut $Connection, credential_id: &[u8]) -> Result<Option<PasskeyRow>> {
            let row = sqlx::query(PASSKEY.0).bind(credential_id.to_vec()).fetch_optional(&mut *db).await?;
            row.map(|row| decode_passkey!(&row)).transpose()
        }

        async fn passkeys_of(db: &mut $Connection, user: UserId) -> Result<Vec<PasskeyRow>> {
            let rows = sqlx::query(PASSKEY.1).bind(user).fetch_all(&mut *db).await?;
            rows.iter().map(|row| decode_passkey!(row)).collect()
        }

        async fn add_passkey(db: &mut $Connection, user: UserId, key: &NewPasskey, most: i64) -> Result<Unique<i64>> {
            if lock_user(db, user).await?.is_none() {
                return Ok(Unique::Gone);
            }
            let count = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM passkeys WHERE user_id = $1").bind(user);
            if count.fetch_one(&mut *db).await? >= most {
                return Ok(Unique::TooMany);
            }
            Ok(insert_passkey(db, user, key).await?.map_or(Unique::Taken, Unique::Done))
        }

        async fn rename_passkey(db: &mut $Connection, user: UserId, id: i64, name: &str) -> Result<bool> {
            let done = sqlx::query("UPDATE passkeys SET name = $3 WHERE id = $1 AND user_id = $2")
                .bind(id)
                .bind(user)
                .bind(name.to_owned())
                .execute(&mut *db)
                .await?;
            Ok(done.rows_affected() > 0)
        }

        async fn remove_passkey(db: &mut $Connection, user: UserId, id: i64) -> Result<bool> {
            let done = sqlx::query("DELETE FROM passkeys WHERE id = $1 AND user_id = $2").bind(id).bind(user);
            Ok(done.execute(&mut *db).await?.rows_affected() > 0)
        }

        async fn use_passkey(db: &mut $Connection, id: i64, used: &PasskeyUse<'_>, now_ms: i64) -> Result<bool> {
            let done = sqlx::query(
                "UPDATE passkeys SET counter = $2, backup_eligible = $3, last_used_at = $4, \
                 user_handle = COALESCE(user_handle, $5) \
                 WHERE id = $1 AND (counter < $2 OR (counter = 0 AND $2 = 0))",
            )
            .bind(id)
            .bind(used.counter)
            .bind(used.backup_eligible)
            .bind(now_ms)
            .bind(used.user_handle.map(<[u8]>::to_vec))
            .execute(&mut *db)
            .await?;
            Ok(done.rows_affected() > 0)
        }
    };
}

pub(in crate::store) use {decode_passkey, passkey_steps};
