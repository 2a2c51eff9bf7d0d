//! Signing in with address and password (accounts contract, section 8.2).

use secrecy::SecretString;
use tokio::time::Instant;

use super::password::{Admission, Verdict};
use super::{AccountError, Accounts, Address, Asker, HashError, Session, SessionOrigin, pace};
use crate::store::{SecurityKind, UserRow};

impl Accounts {
    /// Signs in. A failure has the same answer, the same computation and about the same time whether or not the account
    /// exists or is locked.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn login(
        &self,
        address: &Address,
        password: &SecretString,
        origin: &SessionOrigin,
    ) -> Result<Session, AccountError> {
        let result = self.try_login(address, password, origin).await;
        metrics::counter!("supersync_logins_total", "method" => "password", "outcome" => outcome(result.as_ref().err())).increment(1);
        result
    }

    async fn try_login(
        &self,
        address: &Address,
        password: &SecretString,
        origin: &SessionOrigin,
    ) -> Result<Session, AccountError> {
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
            return Err(AccountError::LoginLocked);
        }
        // What the operator has locked is refused as if the password were wrong, in every respect.
        let user = user.filter(|user| user.locked_at.is_none());
        let (Verdict::Match { outdated }, Some(user)) = (verdict, user) else {
            self.count_miss(&guess).await?;
            if let Some(user) = &guess.standing.user {
                self.note(user.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            }
            pace::level(checked).await;
            return Err(AccountError::InvalidCredentials);
        };
        if !user.is_verified {
            return Err(AccountError::NotVerified);
        }
        self.forget_misses(&guess).await?;
        if outdated && let Err(error) = self.renew_hash(&admission, user, password).await {
            // The password was right all the same; the next login tries again.
            tracing::warn!(user_id = user.id, %error, "password hash not renewed");
        }
        let opened = self.open_session(user.id, &user.email, user.token_version, origin).await;
        opened.map_err(|error| error.without_account(AccountError::InvalidCredentials))
    }

    /// Replaces an outdated hash by one of the current parameters.
    async fn renew_hash(
        &self,
        admission: &Admission<'_>,
        user: &UserRow,
        password: &SecretString,
    ) -> Result<(), AccountError> {
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

fn outcome(error: Option<&AccountError>) -> &'static str {
    match error {
        None => "ok",
        Some(AccountError::InvalidCredentials) => "invalid_credentials",
        Some(AccountError::LoginLocked) => "locked",
        Some(AccountError::NotVerified) => "not_verified",
        Some(AccountError::Hash(HashError::Busy)) => "busy",
        Some(_) => "error",
    }
}
