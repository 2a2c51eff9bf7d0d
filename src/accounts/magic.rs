//! Signing in by a mailed link (accounts contract, sections 4.3 and 4.4).
//!
//! Each link works until one of them is used or it expires: a mail that arrives late is as good as a later one.

use super::link::{self, MAGIC_LOGIN};
use super::{Accounts, Address, LinkError, ManageError, Session, SessionOrigin};
use crate::language::Language;
use crate::store::StoreError;

/// Why a link did not sign anybody in.
#[derive(Debug, thiserror::Error)]
pub enum MagicLoginError {
    /// Unknown, expired, used; or the account may not sign in.
    #[error("Invalid or expired login link")]
    Invalid,
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Mails a link to the address if a verified account has it. The answer does not tell.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn request_login_link(&self, address: &Address, language: Language) -> Result<(), LinkError> {
        self.neutrally(MAGIC_LOGIN.purpose, async {
            let user = self.inner.store.user_by_email(address.as_str()).await?;
            match user.filter(|user| user.is_verified && user.locked_at.is_none()) {
                Some(user) => self.mail_link(&user, &MAGIC_LOGIN, None, language).await,
                None => Ok(false),
            }
        })
        .await
    }

    /// Signs in by a link, which is used up, and forgets failed logins.
    ///
    /// # Errors
    /// See [`MagicLoginError`].
    pub async fn login_by_link(&self, token: &str, origin: &SessionOrigin) -> Result<Session, MagicLoginError> {
        let result = self.try_login_by_link(token, origin).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(MagicLoginError::Invalid) => "invalid_link",
            Err(MagicLoginError::Database(_)) => "error",
        };
        metrics::counter!("supersync_logins_total", "method" => "link", "outcome" => outcome).increment(1);
        result
    }

    async fn try_login_by_link(&self, token: &str, origin: &SessionOrigin) -> Result<Session, MagicLoginError> {
        let inner = &*self.inner;
        let found = inner.store.take_login_link(&link::hash(token), inner.clock.now_ms()).await?;
        let user = found.ok_or(MagicLoginError::Invalid)?;
        match self.open_session(user.id, &user.email, user.token_version, origin).await {
            Ok(session) => Ok(session),
            Err(ManageError::Database(error)) => Err(error.into()),
            // Deleted or locked at this moment.
            Err(ManageError::NoAccount | ManageError::Exists | ManageError::Hash(_)) => Err(MagicLoginError::Invalid),
        }
    }
}
