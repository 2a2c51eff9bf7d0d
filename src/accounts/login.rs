//! Signing in with address and password (accounts contract, section 8.2).

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::{Admission, Verdict};
use super::{Accounts, Address, Asker, HashError, ManageError, Session, SessionOrigin, pace};
use crate::store::{SecurityKind, StoreError, UserRow};

/// Why nobody was signed in. The first three are 401 with exactly this text.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// No such account, no password, the wrong one, or the operator has locked the account.
    #[error("Invalid credentials")]
    InvalidCredentials,
    /// Too many wrong passwords for the address, registered or not; the right one is refused too.
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
    /// Signs in. A failure has the same answer, the same computation and about the same time whether or not the account
    /// exists or is locked.
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
        // One at a time per address, with a fresh read: the previous guess may have locked it.
        let _lock = inner.login_locks.lock(address.as_str()).await;
        let guess = self.guess(address.as_str(), origin.address_prefix()).await?;
        let user = guess.standing.user.as_ref();
        let verdict = admission.check(password, user.and_then(|user| user.password_hash.as_deref())).await?;
        let checked = Instant::now();
        if guess.is_locked() {
            pace::level(checked).await;
            return Err(LoginError::Locked);
        }
        // What the operator has locked is refused as if the password were wrong, in every respect.
        let user = user.filter(|user| user.locked_at.is_none());
        let (Verdict::Match { outdated }, Some(user)) = (verdict, user) else {
            self.count_miss(&guess).await?;
            if let Some(user) = &guess.standing.user {
                self.note(user.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            }
            pace::level(checked).await;
            return Err(LoginError::InvalidCredentials);
        };
        if !user.is_verified {
            return Err(LoginError::NotVerified);
        }
        self.forget_misses(&guess).await?;
        if outdated && let Err(error) = self.renew_hash(&admission, user, password).await {
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
