//! The statements of [`super::SignInStore`], which both databases understand, for a connection within a transaction.
//!
//! sqlx has no type for "a connection of either database" that is checked as one, so the functions are made for each by a
//! macro. `$lock` is what makes a `SELECT` lock its rows.

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

/// The functions for a connection type.
macro_rules! sign_in_steps {
    ($Connection:ty, $lock:literal) => {
        use $crate::store::error::is_unique_violation;
        use $crate::store::signin::{PASSKEY, decode_invite, decode_passkey, failure_subject};
        use $crate::store::row::{decode_user, user_columns};
        use $crate::store::{
            AddressChange, Ceremony, Challenge, FailureRule, InviteRow, LinkPace, LoginStanding, NewInvite, NewPasskey,
            NewUser, OneTimeToken, PasskeyRow, PasskeyUse, PeekedVerification, SignOut, TakenChallenge, TokenPurpose,
            UndoLink, Unique, UserRow, VerificationLink,
        };

        const INVITES: &str = "SELECT id, email, makes_admin, is_claim, created_by, created_at, expires_at, used_at, \
                               used_by FROM invites ORDER BY id DESC LIMIT $1";
        const FIND_INVITE: &str = "SELECT id, email, makes_admin, is_claim, created_by, created_at, expires_at, \
                                   used_at, used_by FROM invites WHERE token_hash = $1 AND expires_at > $2";

        /// Whether the account exists and is verified; its row stays locked.
        pub(super) async fn lock_user(db: &mut $Connection, user: UserId) -> Result<Option<bool>> {
            let query = concat!("SELECT is_verified FROM users WHERE id = $1", $lock);
            Ok(sqlx::query_scalar(query).bind(user).fetch_optional(&mut *db).await?)
        }

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
                 RETURNING user_id, new_email, created_at",
            )
            .bind(hash.to_vec())
            .bind(purpose.as_str())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            rows.first().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).transpose()
        }

        /// After a revocation, and after a change of how one signs in, whatever is in the mail is void, but for what undoes
        /// a change of address. (What grows the token version need not say so: see the schema.)
        pub(super) async fn void_links(db: &mut $Connection, user: UserId) -> Result<()> {
            sqlx::query("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose <> $2")
                .bind(user)
                .bind(TokenPurpose::UndoAddress.as_str())
                .execute(&mut *db)
                .await?;
            sqlx::query("DELETE FROM pending_passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            Ok(())
        }

        /// After a new proof of who somebody is, wrong passwords count for nothing.
        async fn end_locks(db: &mut $Connection, user: UserId) -> Result<()> {
            let email = sqlx::query_scalar::<_, String>("SELECT email FROM users WHERE id = $1").bind(user);
            if let Some(email) = email.fetch_optional(&mut *db).await? {
                forget_failed_logins(db, &email, None).await?;
            }
            Ok(())
        }

        /// The passkey bound to a verification link becomes the account's only one. One that somebody else has already
        /// is left out.
        async fn adopt_pending_passkey(
            db: &mut $Connection,
            hash: &[u8; 32],
            user: UserId,
        ) -> Result<()> {
            sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            sqlx::query(
                "INSERT INTO passkeys (user_id, credential_id, public_key, counter, transports, backup_eligible, name, \
                 created_at, user_handle) SELECT user_id, credential_id, public_key, counter, transports, \
                 backup_eligible, name, created_at, user_handle FROM pending_passkeys WHERE token_hash = $1 AND user_id = $2 ON CONFLICT DO NOTHING",
            )
            .bind(hash.to_vec())
            .bind(user)
            .execute(&mut *db)
            .await?;
            sqlx::query("DELETE FROM pending_passkeys WHERE user_id = $1").bind(user).execute(&mut *db).await?;
            Ok(())
        }

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

        async fn insert_pending_passkey(
            db: &mut $Connection,
            link: &OneTimeToken,
            key: &NewPasskey,
        ) -> Result<()> {
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
            let (all, of_network, newest): (i64, i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
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
                 WHERE user_id = $1 AND purpose = $2 AND expires_at > $3",
            )
            .bind(link.user)
            .bind(link.purpose.as_str())
            .bind(link.created_at)
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

        async fn take_address_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
            undo: &UndoLink,
        ) -> Result<Unique<AddressChange>> {
            let link = delete_link(db, hash, TokenPurpose::ChangeAddress, now_ms).await?;
            let Some((user, Some(email), _)) = link else { return Ok(Unique::Gone) };
            let undo_links: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND expires_at > $3",
            )
            .bind(user)
            .bind(TokenPurpose::UndoAddress.as_str())
            .bind(now_ms)
            .fetch_one(&mut *db)
            .await?;
            if undo_links >= undo.most {
                return Ok(Unique::TooMany);
            }
            let done = set_address(db, user, email).await?;
            if let Unique::Done(change) = &done {
                void_links(db, user).await?;
                let link = OneTimeToken {
                    hash: undo.hash,
                    purpose: TokenPurpose::UndoAddress,
                    user,
                    pending_password_hash: None,
                    created_at: now_ms,
                    expires_at: undo.expires_at,
                };
                insert_link(db, &link, Some(&change.before)).await?;
            }
            Ok(done)
        }

        async fn take_undo_link(
            db: &mut $Connection,
            hash: &[u8; 32],
            now_ms: i64,
        ) -> Result<Unique<AddressChange>> {
            let link = delete_link(db, hash, TokenPurpose::UndoAddress, now_ms).await?;
            let Some((user, Some(email), created_at)) = link else { return Ok(Unique::Gone) };
            let done = set_address(db, user, email).await?;
            if let Unique::Done(_) = done {
                sqlx::query("DELETE FROM passkeys WHERE user_id = $1 AND created_at >= $2")
                    .bind(user)
                    .bind(created_at)
                    .execute(&mut *db)
                    .await?;
                sqlx::query("DELETE FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 AND created_at >= $3")
                    .bind(user)
                    .bind(TokenPurpose::UndoAddress.as_str())
                    .bind(created_at)
                    .execute(&mut *db)
                    .await?;
                // Ends every session and voids every other link: see the schema.
                sqlx::query(
                    "UPDATE users SET token_version = token_version + 1, failed_login_attempts = 0, \
                     locked_until = NULL WHERE id = $1",
                )
                .bind(user)
                .execute(&mut *db)
                .await?;
            }
            Ok(done)
        }

        /// Gives a verified account an address, unless another verified one has it.
        async fn set_address(db: &mut $Connection, user: UserId, email: String) -> Result<Unique<AddressChange>> {
            let before = sqlx::query_scalar("SELECT email FROM users WHERE id = $1 AND is_verified = TRUE");
            let Some(before) = before.bind(user).fetch_optional(&mut *db).await? else { return Ok(Unique::Gone) };
            sqlx::query("DELETE FROM users WHERE lower(email) = $1 AND is_verified = FALSE AND id <> $2")
                .bind(email.to_ascii_lowercase())
                .bind(user)
                .execute(&mut *db)
                .await?;
            let set = sqlx::query("UPDATE users SET email = $2 WHERE id = $1").bind(user).bind(email.clone());
            match set.execute(&mut *db).await {
                Ok(_) => Ok(Unique::Done(AddressChange { user, before, now: email })),
                Err(error) if is_unique_violation(&error) => Ok(Unique::Taken),
                Err(error) => Err(error.into()),
            }
        }

        async fn change_password(
            db: &mut $Connection,
            user: UserId,
            password_hash: &str,
            others: Option<SignOut>,
        ) -> Result<bool> {
            let set = sqlx::query(
                "UPDATE users SET password_hash = $2, failed_login_attempts = 0, locked_until = NULL WHERE id = $1",
            )
            .bind(user)
            .bind(password_hash.to_owned())
            .execute(&mut *db)
            .await?;
            if let Some(others) = others {
                super::sessions::revoke_others(db, user, others).await?;
            } else {
                void_links(db, user).await?;
            }
            end_locks(db, user).await?;
            Ok(set.rows_affected() > 0)
        }

        async fn login_standing(
            db: &mut $Connection,
            email: &str,
            places: [&str; 2],
            now_ms: i64,
        ) -> Result<LoginStanding> {
            let query = concat!("SELECT ", user_columns!(), " FROM users WHERE lower(email) = $1");
            let user = sqlx::query(query).bind(email.to_ascii_lowercase()).fetch_optional(&mut *db).await?;
            let user = user.map(|row| decode_user!(&row)).transpose()?;
            let rows = sqlx::query(
                "SELECT network, failures FROM failed_logins WHERE subject = $1 AND network IN ($2, $3) \
                 AND expires_at > $4",
            )
            .bind(failure_subject(email))
            .bind(places[0].to_owned())
            .bind(places[1].to_owned())
            .bind(now_ms)
            .fetch_all(&mut *db)
            .await?;
            let mut failures = [0; 2];
            for row in rows {
                let (place, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
                failures[usize::from(place != places[0])] = count;
            }
            // Asked for nobody as well: the work must not tell.
            let known = sqlx::query(
                "SELECT 1 FROM sessions WHERE user_id = $1 AND last_address = $2 AND expires_at > $3 LIMIT 1",
            )
            .bind(user.as_ref().map_or(0, |user| user.id))
            .bind(places[0].to_owned())
            .bind(now_ms)
            .fetch_optional(&mut *db)
            .await?;
            Ok(LoginStanding { user, failures, knows_network: known.is_some() })
        }

        async fn count_failed_login(
            db: &mut $Connection,
            email: &str,
            place: &str,
            rule: &FailureRule,
            now_ms: i64,
        ) -> Result<()> {
            let subject = failure_subject(email);
            let counted = sqlx::query(
                "UPDATE failed_logins SET failures = CASE WHEN expires_at <= $3 THEN 1 ELSE failures + 1 END, \
                 expires_at = CASE WHEN expires_at <= $3 THEN $4 WHEN failures + 1 = $5 THEN $6 ELSE expires_at END \
                 WHERE subject = $1 AND network = $2",
            )
            .bind(subject.clone())
            .bind(place.to_owned())
            .bind(now_ms)
            .bind(now_ms + rule.remembered_ms)
            .bind(rule.lock_at)
            .bind(now_ms + rule.lock_ms)
            .execute(&mut *db)
            .await?;
            if counted.rows_affected() > 0 {
                return Ok(());
            }
            let id: i64 = sqlx::query_scalar(
                "INSERT INTO failed_logins (subject, network, failures, expires_at) VALUES ($1, $2, 1, $3) \
                 ON CONFLICT (subject, network) DO UPDATE SET failures = failed_logins.failures + 1 RETURNING id",
            )
            .bind(subject)
            .bind(place.to_owned())
            .bind(now_ms + rule.remembered_ms)
            .fetch_one(&mut *db)
            .await?;
            sqlx::query("DELETE FROM failed_logins WHERE id <= $1").bind(id.saturating_sub(rule.most)).execute(&mut *db).await?;
            Ok(())
        }

        async fn forget_failed_logins(db: &mut $Connection, email: &str, place: Option<&str>) -> Result<()> {
            sqlx::query("DELETE FROM failed_logins WHERE subject = $1 AND network = COALESCE($2, network)")
                .bind(failure_subject(email))
                .bind(place.map(str::to_owned))
                .execute(&mut *db)
                .await?;
            Ok(())
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

        async fn use_passkey(
            db: &mut $Connection,
            id: i64,
            used: &PasskeyUse<'_>,
            now_ms: i64,
        ) -> Result<bool> {
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

        async fn put_invite(db: &mut $Connection, invite: &NewInvite) -> Result<Option<i64>> {
            if invite.is_claim {
                if has_users(db).await? {
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

        async fn has_users(db: &mut $Connection) -> Result<bool> {
            Ok(sqlx::query("SELECT 1 FROM users LIMIT 1").fetch_optional(&mut *db).await?.is_some())
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
            // First: whoever uses the same invitation at the same time waits here.
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
            if is_claim && has_users(db).await? {
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

        async fn delete_expired_sign_in(db: &mut $Connection, now_ms: i64, long_ago_ms: i64) -> Result<u64> {
            let mut rows = 0;
            for query in [
                "DELETE FROM webauthn_challenges WHERE expires_at <= $1",
                "DELETE FROM pending_passkeys WHERE expires_at <= $1",
                "DELETE FROM failed_logins WHERE expires_at <= $1",
            ] {
                rows += sqlx::query(query).bind(now_ms).execute(&mut *db).await?.rows_affected();
            }
            let invites = sqlx::query("DELETE FROM invites WHERE expires_at <= $1").bind(long_ago_ms);
            rows += invites.execute(&mut *db).await?.rows_affected();
            let users = sqlx::query(
                "DELETE FROM users WHERE is_verified = FALSE AND created_at <= $1 AND NOT EXISTS \
                 (SELECT 1 FROM one_time_tokens t WHERE t.user_id = users.id AND t.expires_at > $2)",
            )
            .bind(long_ago_ms)
            .bind(now_ms);
            rows += users.execute(&mut *db).await?.rows_affected();
            Ok(rows)
        }
    };
}

pub(in crate::store) use {decode_invite, decode_passkey, sign_in_steps};
