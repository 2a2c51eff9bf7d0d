//! Step-up: who has held a token for a while proves once more who they are before changing what decides who can sign in.
//!
//! What counts is when a password, a passkey or a mailed link was last given *in that session*, and not when the session
//! was opened: a token that replaced another, or that the operator made, proves nothing. A passkey counts if the
//! authenticator made sure of its user. Which routes ask for it says the table of routes.

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::Verdict;
use super::queue::Caller;
use super::{Accounts, Asker, AuthUser, HashError, pace};
use crate::store::{Authentication, SecurityKind, SessionMethod, StoreError};

/// How long after signing in somebody counts as having just signed in: 15 minutes.
pub const RECENT_MS: i64 = 15 * 60 * 1000;

/// Why somebody signed in may not do something yet.
#[derive(Debug, thiserror::Error)]
pub enum ReauthError {
    /// Nothing was given in this session for a while, and no password now.
    #[error("Please sign in again to do this")]
    Required,
    /// The password that was given is wrong.
    #[error("The current password is wrong")]
    WrongPassword,
    /// Too many wrong passwords.
    #[error("Account temporarily locked due to too many failed login attempts. Please try again later.")]
    Locked,
    /// The account is gone.
    #[error("Account unavailable")]
    NoAccount,
    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Makes sure that it is the owner who asks: by the current password, or by what was given in this session within
    /// [`RECENT_MS`]. A password that is given has to be right. Wrong ones count as failed logins.
    ///
    /// # Errors
    /// See [`ReauthError`].
    pub async fn reauthenticate(
        &self,
        user: &AuthUser,
        password: Option<&SecretString>,
        asker: &Asker,
    ) -> Result<(), ReauthError> {
        if let Some(password) = password
            && self.check_current_password(user, password, asker).await?
        {
            return Ok(());
        }
        if self.has_just_authenticated(user).await? { Ok(()) } else { Err(ReauthError::Required) }
    }

    /// Notes in the sender's session that its owner has just given the password, so that nothing asks for it again for a
    /// while. Older tokens belong to no session: theirs has to be given each time.
    ///
    /// # Errors
    /// See [`ReauthError`].
    pub async fn step_up_by_password(
        &self,
        user: &AuthUser,
        password: &SecretString,
        asker: &Asker,
    ) -> Result<(), ReauthError> {
        if !self.check_current_password(user, password, asker).await? {
            return Err(ReauthError::Required);
        }
        self.step_up(user, SessionMethod::Password, false, asker).await
    }

    /// Notes in the sender's session that its owner has just proven who they are. The caller has made sure of it.
    pub(super) async fn step_up(
        &self,
        user: &AuthUser,
        how: SessionMethod,
        user_verified: bool,
        asker: &Asker,
    ) -> Result<(), ReauthError> {
        let session = user.session.ok_or(ReauthError::Required)?;
        let now = Authentication { at_ms: self.inner.clock.now_ms(), how, user_verified };
        if !self.inner.store.authenticate_session(user.user_id, session, &now).await? {
            return Err(ReauthError::Required);
        }
        self.note(user.user_id, SecurityKind::SteppedUp, &Asker { by: Some(how), ..asker.clone() }).await;
        Ok(())
    }

    /// Read anew each time: it is seldom asked, and another server may have changed it.
    async fn has_just_authenticated(&self, user: &AuthUser) -> Result<bool, StoreError> {
        let Some(session) = user.session else { return Ok(false) };
        let found = self.inner.store.authentication(user.user_id, session).await?;
        let now_ms = self.inner.clock.now_ms();
        Ok(found.is_some_and(|found| {
            let is_recent = now_ms - found.at_ms < RECENT_MS;
            is_recent && (found.how != SessionMethod::Passkey || found.user_verified)
        }))
    }

    /// `false`: the account has no password.
    async fn check_current_password(
        &self,
        user: &AuthUser,
        password: &SecretString,
        asker: &Asker,
    ) -> Result<bool, ReauthError> {
        let inner = &*self.inner;
        let admission = inner.passwords.admit(Caller::Owner(user.user_id))?;
        let row = inner.store.user_by_id(user.user_id).await?.ok_or(ReauthError::NoAccount)?;
        let Some(hash) = row.password_hash.as_deref() else { return Ok(false) };
        let email = row.email.to_ascii_lowercase();
        let _turn = inner.login_turns.take(&email).await;
        let guess = self.guess(&email, asker.address_prefix()).await?;
        let verdict = admission.check(password, Some(hash)).await?;
        if guess.is_locked() {
            return Err(ReauthError::Locked);
        }
        match verdict {
            Verdict::Match { .. } => Ok(true),
            Verdict::Mismatch => {
                let began = Instant::now();
                self.count_miss(&guess).await?;
                let asker = Asker { by: Some(SessionMethod::Password), ..asker.clone() };
                self.note(row.id, SecurityKind::SignInFailed, &asker).await;
                pace::level(began).await;
                Err(ReauthError::WrongPassword)
            }
        }
    }
}
