//! Shim of the accounts service: only what `http` calls, until the real module lands.

use crate::protocol::UserId;
use crate::store::StoreError;

/// Who a valid token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AuthUser {
    pub user_id: UserId,
    pub email: String,
    pub token_version: i64,
}

/// Why a token was not accepted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AuthError {
    #[error("missing or malformed header")]
    MissingHeader,
    #[error("invalid token")]
    Invalid,
    #[error("expired token")]
    Expired,
    #[error("account unavailable")]
    Unavailable,
    #[error("revoked token")]
    Revoked,
    #[error("database: {0}")]
    Database(#[from] StoreError),
}

/// The accounts service.
#[derive(Clone)]
pub struct Accounts {}

#[allow(missing_docs, clippy::unused_async, clippy::missing_errors_doc)]
impl Accounts {
    pub async fn authenticate(&self, _header: Option<&str>) -> Result<AuthUser, AuthError> {
        Err(AuthError::Invalid)
    }
    pub async fn authenticate_token(&self, _token: &str) -> Result<AuthUser, AuthError> {
        Err(AuthError::Invalid)
    }
}
