//! Signing in with address and password (accounts contract, section 8.2).

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::{Admission, Verdict};
use super::{Accounts, Address, Asker, HashError, ManageError, Session, SessionOrigin, pace};
use crate::store::{SecurityKind, StoreError, UserRow};

/// At this many wrong passwords in a row the account is locked, and again at each further one.
pub const LOCK_AFTER_FAILURES: i64 = 5;
/// How long a lock lasts: 15 minutes.
pub const LOCK_MS: i64 = 15 * 60 * 1000;

/// Why nobody was signed in. The first three are 401 with exactly this text.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No such account, no password, the wrong one, or the operator has locked the account.
    #[error("Invalid credentials")]
    InvalidCredentials,
    /// Too many wrong passwords; the right one is refused too.
    #[error("Account temporarily locked due to too many failed login attempts. Please try again later.")]
    Locked,
    /// The password was right, but the address was never proven.
    #[error("Email not verified")]
    NotVerified,
    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Signs in. A failure takes the same computation and about the same time whether the account exists or not.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn login(
        &self,
        address: &Address,
        password: &SecretString,
        origin: &SessionOrigin,
    ) -> Result<Session, LoginError> {
        let result = self.try_login(address, password, origin).await;
        metrics::counter!("supersync_logins_total", "method" => "password", "outcome" => outcome(result.as_ref().err())).increment(1);
        result
    }

    async fn try_login(
        &self,
        address: &Address,
        password: &SecretString,
        origin: &SessionOrigin,
    ) -> Result<Session, LoginError> {
        let inner = &*self.inner;
        let admission = self.admit_login(address, origin).await?;
        let Some(user) = inner.store.user_by_email(address.as_str()).await? else {
            admission.check(password, None).await?;
            pace::level(Instant::now()).await;
            return Err(LoginError::InvalidCredentials);
        };
        // One at a time per account, and the row is read again in turn: the guess before may have locked it.
        let _turn = inner.login_turns.take(user.id).await;
        let Some(user) = inner.store.user_by_id(user.id).await? else {
            admission.check(password, None).await?;
            pace::level(Instant::now()).await;
            return Err(LoginError::InvalidCredentials);
        };
        if user.locked_until.is_some_and(|until| until > inner.clock.now_ms()) {
            return Err(LoginError::Locked);
        }
        let verdict = admission.check(password, user.password_hash.as_deref()).await?;
        // What the operator has locked is refused as if the password were wrong, in every respect.
        let verdict = if user.locked_at.is_some() { Verdict::Mismatch } else { verdict };
        match verdict {
            Verdict::Mismatch => {
                let checked = Instant::now();
                let lock_until = inner.clock.now_ms() + LOCK_MS;
                inner.store.count_failed_login(user.id, LOCK_AFTER_FAILURES, lock_until).await?;
                if user.failed_login_attempts + 1 >= LOCK_AFTER_FAILURES {
                    metrics::counter!("supersync_lockouts_total").increment(1);
                }
                self.note(user.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
                pace::level(checked).await;
                Err(LoginError::InvalidCredentials)
            }
            Verdict::Match { .. } if !user.is_verified => Err(LoginError::NotVerified),
            Verdict::Match { outdated } => {
                if user.failed_login_attempts != 0 || user.locked_until.is_some() {
                    inner.store.clear_failed_logins(user.id).await?;
                }
                if outdated && let Err(error) = self.renew_hash(&admission, &user, password).await {
                    // The password was right all the same; the next login tries again.
                    tracing::warn!(user_id = user.id, %error, "password hash not renewed");
                }
                let opened = self.open_session(user.id, &user.email, user.token_version, origin).await;
                opened.map_err(|error| match error {
                    ManageError::Hash(error) => error.into(),
                    ManageError::Database(error) => error.into(),
                    // Deleted or locked at this moment.
                    ManageError::NoAccount | ManageError::Exists => LoginError::InvalidCredentials,
                })
            }
        }
    }

    /// Replaces an outdated hash by one of the current parameters.
    async fn renew_hash(
        &self,
        admission: &Admission<'_>,
        user: &UserRow,
        password: &SecretString,
    ) -> Result<(), LoginError> {
        let hash = admission.hash(password).await?;
        // A password that was changed meanwhile must not be undone.
        let now = self.inner.store.user_by_id(user.id).await?;
        if now.is_some_and(|now| now.password_hash == user.password_hash) {
            self.inner.store.set_password(user.id, &hash, false).await?;
            tracing::info!(user_id = user.id, "password hash renewed");
        }
        Ok(())
    }
}

fn outcome(error: Option<&LoginError>) -> &'static str {
    match error {
        None => "ok",
        Some(LoginError::InvalidCredentials) => "invalid_credentials",
        Some(LoginError::Locked) => "locked",
        Some(LoginError::NotVerified) => "not_verified",
        Some(LoginError::Hash(HashError::Busy)) => "busy",
        Some(LoginError::Hash(HashError::Internal(_)) | LoginError::Database(_)) => "error",
    }
}
