//! Step-up: changes of credentials require a recent proof of identity in addition to the token.
//!
//! A proof is a password, a passkey or a mailed link used *in that session*. Opening the session is not: a token that
//! replaced another, or that the operator made, proves nothing. A passkey counts with user verification. The table of
//! routes marks those that require it.

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::Verdict;
use super::queue::Caller;
use super::{Accounts, Asker, AuthUser, HashError, pace};
use crate::store::{Authentication, SecurityKind, SessionMethod, StoreError};

/// How long a proof counts: 15 minutes.
pub const RECENT_MS: i64 = 15 * 60 * 1000;
/// How far the clocks of servers on one database may differ here.
const MAX_AHEAD_MS: i64 = 60 * 1000;

/// Why a step-up failed or is missing.
#[derive(Debug, thiserror::Error)]
pub enum ReauthError {
    /// No recent proof in this session, and no password in the request.
    #[error("Please sign in again to do this")]
    Required,
    /// Wrong password.
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
    /// Requires the current password, or a proof in this session within [`RECENT_MS`]. A given password has to be
    /// right. Wrong ones count as failed logins.
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

    /// Checks the password and records the proof in the sender's session. Older tokens belong to no session: they need
    /// the password each time.
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

    /// Records a proof in the sender's session. The caller has checked it.
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

    /// Not cached: seldom needed, and another server may have changed it.
    async fn has_just_authenticated(&self, user: &AuthUser) -> Result<bool, StoreError> {
        let Some(session) = user.session else { return Ok(false) };
        let found = self.inner.store.authentication(user.user_id, session).await?;
        let now_ms = self.inner.clock.now_ms();
        Ok(found.is_some_and(|found| {
            // One from the future was made by a clock that was wrong; other servers' clocks may differ a little.
            let is_recent = (-MAX_AHEAD_MS..RECENT_MS).contains(&(now_ms - found.at_ms));
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
        let _lock = inner.login_locks.lock(&email).await;
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
