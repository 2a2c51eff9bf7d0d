//! Who sends a request: from a bearer token to an account.

use std::net::IpAddr;

use super::Accounts;
use super::cache::{Known, outlived};
use super::origin::address_prefix;
use crate::protocol::UserId;
use crate::store::{Credential, SessionId, SessionSeen, StoreError};

/// The sender of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthUser {
    /// The account.
    pub user_id: UserId,
    /// The address that the token names, which need not be the account's spelling of it.
    pub email: String,
    /// The token version that the token was issued for.
    pub token_version: i64,
    /// The session that the token belongs to; `None`: an older token.
    pub session: Option<SessionId>,
    /// When the token was issued, Unix milliseconds, if it says so.
    pub token_issued_at: Option<i64>,
}

impl AuthUser {
    /// What decides whether the token still counts.
    #[must_use]
    pub const fn credential(&self) -> Credential {
        Credential { session: self.session, token_version: self.token_version, issued_at: self.token_issued_at }
    }
}

/// Shows the number only: addresses stay out of logs.
impl std::fmt::Debug for AuthUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthUser").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// Why a request has no known sender. All but [`AuthError::Database`] are 401 with exactly this text (accounts
/// contract, section 5.2).
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No header, or not `Bearer …`.
    #[error("Missing or invalid Authorization header")]
    MissingHeader,
    /// Malformed, wrong signature, not valid yet, or empty.
    #[error("Invalid token")]
    Invalid,
    /// Past its `exp`.
    #[error("Token expired. Please log in again to get a new token.")]
    Expired,
    /// The account is gone, was never verified, or is locked by the operator.
    #[error("Account unavailable")]
    Unavailable,
    /// The account's token version has grown since, or the session was revoked.
    #[error("Token was revoked. Please log in again to get a new token.")]
    Revoked,
    /// The database did not answer: nothing is known about the token. Must be a 5xx, never a 401, because the app
    /// erases its token after the third 401.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// The sender by the `Authorization` header: `Bearer `, case-sensitive, then the token up to the next space.
    /// `address` finds out the client's address, should anybody want to know.
    ///
    /// # Errors
    /// When there is no valid session, or the database fails.
    pub async fn authenticate(
        &self,
        header: Option<&str>,
        address: impl FnOnce() -> Option<IpAddr> + Send,
    ) -> Result<AuthUser, AuthError> {
        let header = header.filter(|header| header.starts_with("Bearer ")).ok_or(AuthError::MissingHeader)?;
        self.authenticate_token(header.split(' ').nth(1).unwrap_or_default(), address).await
    }

    /// The same by the bare token: signature, expiry, account, verification, token version, session, in this order.
    ///
    /// # Errors
    /// When there is no valid session, or the database fails.
    pub async fn authenticate_token(
        &self,
        token: &str,
        address: impl FnOnce() -> Option<IpAddr> + Send,
    ) -> Result<AuthUser, AuthError> {
        let inner = &*self.inner;
        let now_ms = inner.clock.now_ms();
        // A clock that is far ahead must end no session.
        let claims = inner.sessions.verify(token, inner.clock.certain_ms())?;
        let (user, credential) = (claims.user, claims.credential());
        let known = self.known(user, &credential).await?;
        if known.is_seen_due {
            let address = address().map(address_prefix);
            inner.seen.record(SessionSeen { user, credential, at_ms: now_ms, address });
        }
        let Credential { session, token_version, issued_at } = credential;
        Ok(AuthUser { user_id: user, email: claims.email, token_version, session, token_issued_at: issued_at })
    }

    /// Whether a token that was accepted before still counts.
    ///
    /// # Errors
    /// When it does not, or the database fails.
    pub async fn recheck(&self, user: UserId, credential: &Credential) -> Result<(), AuthError> {
        self.known(user, credential).await.map(|_| ())
    }

    async fn known(&self, user: UserId, credential: &Credential) -> Result<Known, AuthError> {
        let inner = &*self.inner;
        if let Some(known) = inner.cache.look_up(user, credential, inner.clock.now_ms()) {
            inner.checked_by_cache.increment(1);
            return Ok(known);
        }
        metrics::counter!("supersync_session_checks_total", "source" => "database").increment(1);
        // An entry's age counts from before the read, so that the read's own time can't lengthen its life.
        let read_at_ms = inner.clock.now_ms();
        let ticket = inner.cache.begin_fill(user);
        let standing = inner.store.standing(user, credential.session).await?;
        let standing = standing.filter(|found| found.is_verified && !found.is_locked).ok_or(AuthError::Unavailable)?;
        let counts = standing.token_version == credential.token_version
            && match credential.session {
                Some(_) => standing.session.is_some(),
                None => outlived(credential, standing.older_tokens_revoked_at),
            };
        if !counts {
            return Err(AuthError::Revoked);
        }
        Ok(inner.cache.fill(&ticket, credential, &standing, read_at_ms))
    }
}
