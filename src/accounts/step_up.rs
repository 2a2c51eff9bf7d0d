//! Step-up: changes of credentials require a recent proof of identity in addition to the token.
//!
//! A proof is a password, a passkey or a mailed link used *in that session*. Opening the session is not: a token that
//! replaced another, or that the operator made, proves nothing. A passkey counts with user verification. The table of
//! routes marks those that require it.

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::Verdict;
use super::queue::Caller;
use super::{AccountError, Accounts, Asker, AuthUser, timing};
use crate::store::{Authentication, SecurityKind, SessionMethod, StoreError};

/// How long a proof counts: 15 minutes.
pub const RECENT_MS: i64 = 15 * 60 * 1000;
/// How far the clocks of servers on one database may differ here.
const MAX_AHEAD_MS: i64 = 60 * 1000;

impl Accounts {
    /// Requires the current password, or a proof in this session within [`RECENT_MS`]. A given password has to be
    /// right. Wrong ones count as failed logins.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn reauthenticate(
        &self,
        user: &AuthUser,
        password: Option<&SecretString>,
        asker: &Asker,
    ) -> Result<(), AccountError> {
        if let Some(password) = password
            && self.check_current_password(user, password, asker).await?
        {
            return Ok(());
        }
        if self.has_just_authenticated(user).await? { Ok(()) } else { Err(AccountError::ProofRequired) }
    }

    /// Checks the password and records the proof in the sender's session. Older tokens belong to no session: they need
    /// the password each time.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn step_up_by_password(
        &self,
        user: &AuthUser,
        password: &SecretString,
        asker: &Asker,
    ) -> Result<(), AccountError> {
        if !self.check_current_password(user, password, asker).await? {
            return Err(AccountError::ProofRequired);
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
    ) -> Result<(), AccountError> {
        let session = user.session.ok_or(AccountError::ProofRequired)?;
        let now = Authentication { at_ms: self.inner.clock.now_ms(), how, user_verified };
        if !self.inner.store.authenticate_session(user.user_id, session, &now).await? {
            return Err(AccountError::ProofRequired);
        }
        self.note(user.user_id, SecurityKind::SteppedUp, &asker.by(how)).await;
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
    ) -> Result<bool, AccountError> {
        let inner = &*self.inner;
        let hasher = inner.passwords.admit(Caller::Owner(user.user_id))?;
        let row = inner.store.user_by_id(user.user_id).await?.ok_or(AccountError::NoAccount)?;
        let Some(hash) = row.password_hash.as_deref() else { return Ok(false) };
        let email = row.email.to_ascii_lowercase();
        let _lock = inner.login_locks.lock(&email).await;
        let guess = self.guess(&email, asker.address_prefix()).await?;
        let verdict = hasher.check(password, Some(hash)).await?;
        if guess.is_locked() {
            return Err(AccountError::ProofLocked);
        }
        match verdict {
            Verdict::Match { .. } => Ok(true),
            Verdict::Mismatch => {
                let began = Instant::now();
                self.count_miss(&guess).await?;
                let asker = asker.by(SessionMethod::Password);
                self.note(row.id, SecurityKind::SignInFailed, &asker).await;
                timing::pad(began).await;
                Err(AccountError::WrongPassword)
            }
        }
    }
}
