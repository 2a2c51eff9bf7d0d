//! Signing in with address and password (accounts contract, section 8.2).

use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::password::{Hasher, Verdict};
use super::queue::Caller;
use super::{AccountError, Accounts, Address, Asker, HashError, Session, SessionOrigin, timing};
use crate::store::{SecurityKind, UserRow};

/// Concurrent look-ups of accounts' networks. They are short and cheap, so many can wait.
const LOOK_UPS_AT_ONCE: usize = 8;
const LOOK_UPS_WAITING: usize = 1024;

/// Look-ups while strangers have taken all places: owners sign in from a known network all the same.
pub(super) struct LookUps {
    waiting: Semaphore,
    running: Semaphore,
}

impl LookUps {
    pub(super) const fn new() -> Self {
        Self { waiting: Semaphore::const_new(LOOK_UPS_WAITING), running: Semaphore::const_new(LOOK_UPS_AT_ONCE) }
    }
}

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
        let hasher = self.admit_login(address, origin).await?;
        // One at a time per address, with a fresh read: the previous guess may have locked it.
        let _lock = inner.login_locks.lock(address.as_str()).await;
        let guess = self.guess(address.as_str(), origin.address_prefix()).await?;
        let user = guess.standing.user.as_ref();
        let verdict = hasher.check(password, user.and_then(|user| user.password_hash.as_deref())).await?;
        let checked = Instant::now();
        if guess.is_locked() {
            timing::pad(checked).await;
            return Err(AccountError::LoginLocked);
        }
        // What the operator has locked is refused as if the password were wrong, in every respect.
        let user = user.filter(|user| user.locked_at.is_none());
        let (Verdict::Match { outdated }, Some(user)) = (verdict, user) else {
            self.count_miss(&guess).await?;
            if let Some(user) = &guess.standing.user {
                self.note(user.id, SecurityKind::SignInFailed, &Asker::opening(origin)).await;
            }
            timing::pad(checked).await;
            return Err(AccountError::InvalidCredentials);
        };
        if !user.is_verified {
            return Err(AccountError::NotVerified);
        }
        self.forget_misses(&guess).await?;
        if outdated && let Err(error) = self.renew_hash(&hasher, user, password).await {
            // The password was right all the same; the next login tries again.
            tracing::warn!(user_id = user.id, %error, "password hash not renewed");
        }
        let opened = self.open_session(user, origin, false).await;
        opened.map_err(|error| error.without_account(AccountError::InvalidCredentials))
    }

    /// A place to check a password. When the strangers' places are taken, a caller from the network of one of the
    /// account's sessions, so probably its owner, gets an owner's place. The look-up happens only then: otherwise all
    /// callers are treated alike.
    async fn admit_login(&self, address: &Address, origin: &SessionOrigin) -> Result<Hasher<'_>, AccountError> {
        let inner = &*self.inner;
        let busy = match inner.passwords.admit(Caller::at(origin.address)) {
            Err(HashError::Busy) => HashError::Busy,
            admitted => return Ok(admitted?),
        };
        let (Some(prefix), Ok(_waiting)) = (origin.address_prefix(), inner.look_ups.waiting.try_acquire()) else {
            return Err(busy.into());
        };
        let _running = inner.look_ups.running.acquire().await;
        let Some(user) = inner.store.user_by_email(address.as_str()).await? else { return Err(busy.into()) };
        let sessions = inner.store.sessions(user.id, inner.clock.certain_ms()).await?;
        if !sessions.iter().any(|session| session.last_address.as_ref() == Some(&prefix)) {
            return Err(busy.into());
        }
        Ok(inner.passwords.admit(Caller::Owner(user.id))?)
    }

    /// Replaces an outdated hash by one of the current parameters.
    async fn renew_hash(
        &self,
        hasher: &Hasher<'_>,
        user: &UserRow,
        password: &SecretString,
    ) -> Result<(), AccountError> {
        let hash = hasher.hash(password).await?;
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
