//! All statements of [`super::SignInStore`], which both databases understand, for a connection within a transaction.
//!
//! sqlx has no type for "a connection of either database" that is checked as one, so the functions are made for each by
//! macros, one for each theme. They stand in one module together and call each other; the names that they need are
//! imported here. `$lock` is what makes a `SELECT` lock its rows.

/// The functions for a connection type.
macro_rules! sign_in_steps {
    ($Connection:ty, $lock:literal) => {
        use $crate::store::error::is_unique_violation;
        use $crate::store::row::{decode_user, user_columns};
        use $crate::store::signin::{
            FAILURES_END_WITHIN_MS, MAX_AHEAD_MS, PASSKEY, decode_invite, decode_passkey, failure_subject,
        };
        use $crate::store::{
            AddressChange, Ceremony, Challenge, FailureRule, InviteRow, LinkPace, LoginStanding, NewInvite, NewPasskey,
            NewUser, OneTimeToken, PasskeyRow, PasskeyUse, PeekedVerification, SignOut, TakenChallenge, TokenPurpose,
            UndoLink, Unique, UserRow, VerificationLink,
        };

        $crate::store::signin::link_steps!($Connection);
        $crate::store::signin::verification_steps!($Connection);
        $crate::store::signin::address_steps!($Connection);
        $crate::store::signin::guess_steps!($Connection);
        $crate::store::signin::passkey_steps!($Connection);
        $crate::store::signin::invite_steps!($Connection);

        /// Whether the account exists and is verified; its row stays locked.
        pub(super) async fn lock_user(db: &mut $Connection, user: UserId) -> Result<Option<bool>> {
            let query = concat!("SELECT is_verified FROM users WHERE id = $1", $lock);
            Ok(sqlx::query_scalar(query).bind(user).fetch_optional(&mut *db).await?)
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

pub(in crate::store) use sign_in_steps;
