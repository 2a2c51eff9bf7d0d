//! The security log of an account: who signed in, or tried to, and what was changed that decides who can.
//!
//! Holds the first part of an address only, never a token. Bounded: an account has so many entries of what was done and, apart
//! from those, so many of failures, so that nobody can push the former out by guessing. What happens again and again
//! becomes one entry with a count.

use async_trait::async_trait;

use super::{Result, SessionMethod, StoreError};
use crate::protocol::UserId;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SecurityKind {
    SignedIn,
    SignInFailed,
    /// Somebody signed in proved once more who they are.
    SteppedUp,
    PasswordChanged,
    AddressChangeRequested,
    AddressChanged,
    AddressRestored,
    AddressVerified,
    PasskeyAdded,
    PasskeyRemoved,
    /// All were replaced by one, by a mailed link.
    PasskeysReplaced,
    /// One session, or the older tokens.
    SessionRevoked,
    OtherSessionsRevoked,
    AllSessionsRevoked,
    /// All were revoked for a new one.
    TokenReplaced,
    Locked,
    Unlocked,
    AdminGiven,
    AdminTaken,
    Exported,
}

impl SecurityKind {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::SignedIn,
        Self::SignInFailed,
        Self::SteppedUp,
        Self::PasswordChanged,
        Self::AddressChangeRequested,
        Self::AddressChanged,
        Self::AddressRestored,
        Self::AddressVerified,
        Self::PasskeyAdded,
        Self::PasskeyRemoved,
        Self::PasskeysReplaced,
        Self::SessionRevoked,
        Self::OtherSessionsRevoked,
        Self::AllSessionsRevoked,
        Self::TokenReplaced,
        Self::Locked,
        Self::Unlocked,
        Self::AdminGiven,
        Self::AdminTaken,
        Self::Exported,
    ];

    /// The kind's text, as stored and as clients get it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignedIn => "signed_in",
            Self::SignInFailed => "sign_in_failed",
            Self::SteppedUp => "stepped_up",
            Self::PasswordChanged => "password_changed",
            Self::AddressChangeRequested => "address_change_requested",
            Self::AddressChanged => "address_changed",
            Self::AddressRestored => "address_restored",
            Self::AddressVerified => "address_verified",
            Self::PasskeyAdded => "passkey_added",
            Self::PasskeyRemoved => "passkey_removed",
            Self::PasskeysReplaced => "passkeys_replaced",
            Self::SessionRevoked => "session_revoked",
            Self::OtherSessionsRevoked => "other_sessions_revoked",
            Self::AllSessionsRevoked => "all_sessions_revoked",
            Self::TokenReplaced => "token_replaced",
            Self::Locked => "locked",
            Self::Unlocked => "unlocked",
            Self::AdminGiven => "admin_given",
            Self::AdminTaken => "admin_taken",
            Self::Exported => "exported",
        }
    }

    pub(super) fn stored(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| StoreError::Corrupt("unreadable kind of a security event".to_owned()))
    }

    /// Whether it tells of something that did not succeed. These are bounded apart from the others.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::SignInFailed)
    }
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityEvent {
    /// When, Unix milliseconds; of several that are one entry the last time.
    pub at_ms: i64,
    /// What happened.
    pub kind: SecurityKind,
    /// How whoever did it had proven, or tried to prove, who they are.
    pub method: Option<SessionMethod>,
    /// The first part of the address, if it is known.
    pub address: Option<String>,
    /// What the program calls itself, in short.
    pub device: Option<String>,
    /// How often.
    pub times: i64,
}

/// Security logs.
#[async_trait]
pub trait SecurityStore: Send + Sync + 'static {
    /// Adds an entry; or counts it with the account's newest one that is the same but for its time, if that is younger
    /// than `joins_since_ms`. Of its sort (failures, or others) the newest `keep` stay. Nothing if there is no such
    /// account.
    async fn record_security_event(
        &self,
        user: UserId,
        event: &SecurityEvent,
        joins_since_ms: Option<i64>,
        keep: usize,
    ) -> Result<()>;
    /// The account's entries, newest first, at most `limit`.
    async fn security_events(&self, user: UserId, limit: usize) -> Result<Vec<SecurityEvent>>;
    /// Deletes entries from before `before_ms`, at most `limit`. Returns how many.
    async fn delete_old_security_events(&self, before_ms: i64, limit: usize) -> Result<u64>;
}

/// The statements, which both databases understand, for a connection within a transaction.
macro_rules! security_steps {
    ($Connection:ty) => {
        async fn record(
            db: &mut $Connection,
            user: UserId,
            event: &SecurityEvent,
            joins_since_ms: Option<i64>,
            keep: usize,
        ) -> Result<()> {
            // One at a time for an account: numbers follow each other.
            if lock_user(db, user).await?.is_none() {
                return Ok(());
            }
            let (kind, method) = (event.kind.as_str(), event.method.map(SessionMethod::as_str));
            if let Some(since_ms) = joins_since_ms {
                let joined = sqlx::query(
                    "UPDATE security_events SET at = $2, times = times + $3 WHERE user_id = $1 AND number = (SELECT number \
                     FROM security_events WHERE user_id = $1 AND kind = $4 AND method IS NOT DISTINCT FROM $5 \
                     AND address IS NOT DISTINCT FROM $6 AND device IS NOT DISTINCT FROM $7 AND at > $8 \
                     ORDER BY number DESC LIMIT 1)",
                )
                .bind(user)
                .bind(event.at_ms)
                .bind(event.times)
                .bind(kind)
                .bind(method)
                .bind(event.address.clone())
                .bind(event.device.clone())
                .bind(since_ms)
                .execute(&mut *db)
                .await?;
                if joined.rows_affected() > 0 {
                    return Ok(());
                }
            }
            let is_failure = event.kind.is_failure();
            sqlx::query(
                "INSERT INTO security_events (user_id, number, at, kind, is_failure, method, address, device, times) \
                 SELECT $1, COALESCE(MAX(number), 0) + 1, $2, $3, $4, $5, $6, $7, $8 FROM security_events \
                 WHERE user_id = $1",
            )
            .bind(user)
            .bind(event.at_ms)
            .bind(kind)
            .bind(is_failure)
            .bind(method)
            .bind(event.address.clone())
            .bind(event.device.clone())
            .bind(event.times)
            .execute(&mut *db)
            .await?;
            sqlx::query(
                "DELETE FROM security_events WHERE user_id = $1 AND is_failure = $2 AND number <= (SELECT number \
                 FROM security_events WHERE user_id = $1 AND is_failure = $2 ORDER BY number DESC LIMIT 1 OFFSET $3)",
            )
            .bind(user)
            .bind(is_failure)
            .bind(bound(keep))
            .execute(&mut *db)
            .await?;
            Ok(())
        }

        async fn list(db: &mut $Connection, user: UserId, limit: usize) -> Result<Vec<SecurityEvent>> {
            let rows = sqlx::query(
                "SELECT at, kind, method, address, device, times FROM security_events WHERE user_id = $1 \
                 ORDER BY at DESC, number DESC LIMIT $2",
            )
            .bind(user)
            .bind(bound(limit))
            .fetch_all(&mut *db)
            .await?;
            rows.iter().map(|row| decode_security_event!(row)).collect()
        }

        async fn delete_old(db: &mut $Connection, before_ms: i64, limit: usize) -> Result<u64> {
            let done = sqlx::query(
                "DELETE FROM security_events WHERE (user_id, number) IN (SELECT user_id, number FROM security_events \
                 WHERE at < $1 ORDER BY at LIMIT $2)",
            )
            .bind(before_ms)
            .bind(bound(limit));
            Ok(done.execute(&mut *db).await?.rows_affected())
        }
    };
}

pub(super) use security_steps;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_back() {
        for kind in SecurityKind::ALL {
            assert_eq!(SecurityKind::stored(kind.as_str()).ok(), Some(kind));
        }
        assert!(matches!(SecurityKind::stored("x"), Err(StoreError::Corrupt(_))));
    }
}
