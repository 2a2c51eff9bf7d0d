//! Proving an address by its mailed link (accounts contract, section 4.2).

use super::{Accounts, Asker, link};
use crate::store::{SecurityKind, SessionMethod, StoreError, TokenPurpose};

/// Why an address was not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Unknown, or used before.
    #[error("Invalid verification token")]
    Invalid,
    /// Too old.
    #[error("Verification token has expired")]
    Expired,
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Uses a verification link up: the account is verified, with the password that was given when this link was asked
    /// for; every other link of the account, and the password bound to it, is void.
    ///
    /// # Errors
    /// See [`VerifyError`].
    pub async fn verify_email(&self, token: &str) -> Result<(), VerifyError> {
        let inner = &*self.inner;
        let hash = link::hash(token);
        let found = inner.store.peek_token(&hash, TokenPurpose::VerifyEmail).await?.ok_or(VerifyError::Invalid)?;
        let now_ms = inner.clock.now_ms();
        if found.expires_at <= now_ms {
            return Err(VerifyError::Expired);
        }
        // An account that the operator has verified meanwhile keeps its password: a link that anybody could have asked
        // for must not replace it.
        if inner.store.user_by_id(found.user).await?.is_none_or(|user| user.is_verified) {
            return Err(VerifyError::Invalid);
        }
        let take = inner.store.take_token(&hash, TokenPurpose::VerifyEmail, now_ms);
        self.revoking(found.user, take).await?.ok_or(VerifyError::Invalid)?;
        metrics::counter!("supersync_verifications_total").increment(1);
        tracing::info!(user_id = found.user, "address verified");
        let by_link = Asker { by: Some(SessionMethod::MagicLink), ..Asker::default() };
        self.note(found.user, SecurityKind::AddressVerified, &by_link).await;
        Ok(())
    }
}
