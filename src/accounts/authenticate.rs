//! Who sends a request: from a bearer token to an account.

use super::Accounts;
use crate::protocol::UserId;
use crate::store::StoreError;

/// The sender of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthUser {
    /// The account.
    pub user_id: UserId,
    /// The address that the token names, which need not be the account's spelling of it.
    pub email: String,
    /// The token version that the token was issued for.
    pub token_version: i64,
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
    /// The account is gone or was never verified.
    #[error("Account unavailable")]
    Unavailable,
    /// The account's token version has grown since.
    #[error("Token was revoked. Please log in again to get a new token.")]
    Revoked,
    /// The database did not answer: nothing is known about the token. Must be a 5xx, never a 401, because the app
    /// erases its token after the third 401.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// The sender by the `Authorization` header: `Bearer `, case-sensitive, then the token up to the next space.
    ///
    /// # Errors
    /// When there is no valid session, or the database fails.
    pub async fn authenticate(&self, header: Option<&str>) -> Result<AuthUser, AuthError> {
        let header = header.filter(|header| header.starts_with("Bearer ")).ok_or(AuthError::MissingHeader)?;
        let token = header.split(' ').nth(1).unwrap_or_default();
        self.authenticate_token(token).await
    }

    /// The sender by the bare token: signature, expiry, account, verification, token version, in this order.
    ///
    /// # Errors
    /// When there is no valid session, or the database fails.
    pub async fn authenticate_token(&self, token: &str) -> Result<AuthUser, AuthError> {
        let inner = &*self.inner;
        let claims = inner.sessions.verify(token, inner.clock.now_ms())?;
        let user = AuthUser { user_id: claims.user, email: claims.email, token_version: claims.token_version };
        if inner.cache.knows(user.user_id, user.token_version, inner.clock.now_ms()) {
            inner.checked_by_cache.increment(1);
            return Ok(user);
        }
        metrics::counter!("supersync_session_checks_total", "source" => "database").increment(1);
        // An entry's age counts from before the read, so that the read's own time can't lengthen its life.
        let read_at_ms = inner.clock.now_ms();
        let ticket = inner.cache.begin_fill(user.user_id);
        let row = inner.store.user_by_id(user.user_id).await?;
        let row = row.filter(|row| row.is_verified).ok_or(AuthError::Unavailable)?;
        if row.token_version != user.token_version {
            return Err(AuthError::Revoked);
        }
        inner.cache.fill(&ticket, row.token_version, read_at_ms);
        Ok(user)
    }
}
