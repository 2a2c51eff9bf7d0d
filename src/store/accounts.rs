//! Accounts, their passwords and mailed links.

use async_trait::async_trait;

use super::Result;
use crate::protocol::UserId;

/// An account's row.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct UserRow {
    pub id: UserId,
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    pub token_version: i64,
    pub failed_login_attempts: i64,
    pub locked_until: Option<i64>,
    pub created_at: i64,
    pub storage_quota_bytes: i64,
    /// May use the pages and routes of the administrator.
    pub is_admin: bool,
    /// When the operator locked the account, Unix milliseconds.
    pub locked_at: Option<i64>,
}

/// A new account.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct NewUser {
    pub email: String,
    pub password_hash: Option<String>,
    pub is_verified: bool,
    pub created_at: i64,
    pub terms_accepted_at: Option<i64>,
    pub storage_quota_bytes: i64,
}

/// What a one-time token may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPurpose {
    /// Proves the address given at registration; carries the password hash that takes effect with it.
    VerifyEmail,
    /// Signs in.
    MagicLogin,
    /// Sets a new password.
    ResetPassword,
    /// Replaces a lost passkey.
    RecoverPasskey,
    /// Gives the account another address.
    ChangeAddress,
    /// Puts back the address that the account had before. The one link that no revocation voids: it is for an owner
    /// whose account was taken.
    UndoAddress,
}

impl TokenPurpose {
    /// The purpose's text as stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VerifyEmail => "verify_email",
            Self::MagicLogin => "magic_login",
            Self::ResetPassword => "reset_password",
            Self::RecoverPasskey => "recover_passkey",
            Self::ChangeAddress => "change_address",
            Self::UndoAddress => "undo_address",
        }
    }
}

/// A one-time token: only its hash is stored.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct OneTimeToken {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    pub purpose: TokenPurpose,
    pub user: UserId,
    /// The password hash that takes effect when the token is used.
    pub pending_password_hash: Option<String>,
    pub created_at: i64,
    pub expires_at: i64,
}

/// Accounts.
#[async_trait]
pub trait AccountStore: Send + Sync + 'static {
    /// Creates an account with an empty log. `Ok(None)`: the address (in lower case) is taken.
    async fn create_user(&self, user: &NewUser) -> Result<Option<UserId>>;
    /// By address, whatever its case.
    async fn user_by_email(&self, email: &str) -> Result<Option<UserRow>>;
    /// By number.
    async fn user_by_id(&self, id: UserId) -> Result<Option<UserRow>>;
    /// Accounts with ids above `after`, ascending.
    async fn list_users(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>>;
    /// Deletes the account and everything that hangs on it. `false`: there was none.
    async fn delete_user(&self, id: UserId) -> Result<bool>;
    /// Deletes every account (test mode).
    async fn delete_all_users(&self) -> Result<()>;
    /// Sets the password hash; with `revoke` the token version grows too. Returns the token version.
    async fn set_password(&self, id: UserId, hash: &str, revoke: bool) -> Result<Option<i64>>;
    /// Marks the address as proven.
    async fn set_verified(&self, id: UserId) -> Result<bool>;
    /// Token version + 1: every token given out before is void. Returns the new one.
    async fn bump_token_version(&self, id: UserId) -> Result<Option<i64>>;
    /// Sets the quota.
    async fn set_quota(&self, id: UserId, bytes: i64) -> Result<bool>;
    /// Stores a one-time token.
    async fn put_token(&self, token: &OneTimeToken) -> Result<()>;
    /// How many tokens of that purpose were given out for the account since `since_ms` and have been neither used nor
    /// removed after their expiry.
    async fn count_tokens(&self, user: UserId, purpose: TokenPurpose, since_ms: i64) -> Result<i64>;
    /// Looks at a token without using it.
    async fn peek_token(&self, hash: &[u8; 32], purpose: TokenPurpose) -> Result<Option<OneTimeToken>>;
    /// Deletes tokens that expired before `now_ms`. Returns how many.
    async fn delete_expired_tokens(&self, now_ms: i64) -> Result<u64>;
}
