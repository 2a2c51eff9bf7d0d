//! Setting a new password by a mailed link (accounts contract, sections 8.3 and 8.4).

use secrecy::SecretString;

use super::link::{self, RESET_PASSWORD};
use super::queue::Caller;
use super::{Accounts, Address, Asker, HashError, LinkError};
use crate::language::Language;
use crate::mail::NoticeKind;
use crate::protocol::UserId;
use crate::store::{SecurityKind, SessionMethod, StoreError, TokenPurpose};

/// Why no password was set.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// Unknown, expired, used.
    #[error("Invalid or expired reset token")]
    Invalid,
    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Mails a link to the address if a verified account has it. The answer does not tell. An account without a
    /// password gets one too: anybody who reads its mail can sign in anyway.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn request_password_reset(&self, address: &Address, language: Language) -> Result<(), LinkError> {
        self.neutrally(RESET_PASSWORD.purpose, async {
            let user = self.inner.store.user_by_email(address.as_str()).await?;
            match user.filter(|user| user.is_verified && user.locked_at.is_none()) {
                Some(user) => self.mail_link(&user, &RESET_PASSWORD, None, language).await,
                None => Ok(false),
            }
        })
        .await
    }

    /// Sets a password by a link, which is used up; voids every session and every other link, and ends a lock after
    /// failed logins. The password has passed [`super::check_new_password`]. The caller closes the account's sockets.
    ///
    /// # Errors
    /// See [`ResetError`].
    pub async fn reset_password(
        &self,
        token: &str,
        password: &SecretString,
        asker: &Asker,
    ) -> Result<UserId, ResetError> {
        let inner = &*self.inner;
        let token_hash = link::hash(token);
        // A look first, so that made-up tokens cost no password hash.
        let found = inner.store.peek_token(&token_hash, TokenPurpose::ResetPassword).await?;
        let found = found.filter(|found| found.expires_at > inner.clock.now_ms()).ok_or(ResetError::Invalid)?;
        let hash = inner.passwords.admit(Caller::Owner(found.user))?.hash(password).await?;
        let take = inner.store.take_reset_link(&token_hash, inner.clock.now_ms(), &hash);
        let user = self.revoking(found.user, take).await?.ok_or(ResetError::Invalid)?;
        metrics::counter!("supersync_credential_changes_total", "kind" => "password_reset").increment(1);
        tracing::info!(user_id = user, "password reset by link, sessions revoked");
        let asker = Asker { by: Some(SessionMethod::MagicLink), ..asker.clone() };
        self.note_and_tell(user, SecurityKind::PasswordChanged, NoticeKind::PasswordChanged, &asker).await;
        Ok(user)
    }
}
