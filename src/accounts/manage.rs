//! What administrators and the operator do: look at accounts and change them.

use secrecy::SecretString;

use super::queue::Caller;
use super::{AccountError, Accounts, Address, Asker, AuthUser};
use crate::protocol::UserId;
use crate::store::{
    AccountOverview, Authentication, DatabaseFacts, EventKind, NewUser, SecurityKind, SessionMethod, StoreError,
    UserRow,
};

/// How far back the growth of an account is looked at: 30 days.
const GROWTH_MS: i64 = 30 * 24 * 60 * 60 * 1000;

impl Accounts {
    /// Voids every session and every mailed link of the account, for the operator. Returns the new token version. The
    /// caller closes the account's sockets.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn revoke(&self, user: UserId) -> Result<i64, AccountError> {
        let version = self.revoking(user, self.inner.store.bump_token_version(user)).await?;
        let version = version.ok_or(AccountError::NoAccount)?;
        tracing::info!(user_id = user, "sessions revoked");
        self.note(user, SecurityKind::AllSessionsRevoked, &Asker::operator()).await;
        Ok(version)
    }

    /// Deletes the account and everything that it holds (accounts contract, section 4.9). The caller closes its sockets
    /// and makes the engine forget it.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn delete(&self, user: UserId) -> Result<(), AccountError> {
        found(self.revoking(user, self.inner.store.delete_user(user)).await?)?;
        tracing::info!(user_id = user, audit = "USER_ACCOUNT_DELETED", "account deleted");
        Ok(())
    }

    /// Deletes every account (test mode only). The caller makes the engine forget them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_all(&self) -> Result<(), StoreError> {
        self.inner.cache.invalidate_all();
        let result = self.inner.store.delete_all_users().await;
        self.inner.cache.invalidate_all();
        result
    }

    /// Creates a verified account. The password has passed [`super::check_new_password`] (test mode's own route asks
    /// for less).
    ///
    /// # Errors
    /// When the address is taken, hashing is refused, or the database fails.
    pub async fn create_verified(&self, address: &Address, password: &SecretString) -> Result<UserId, AccountError> {
        let inner = &*self.inner;
        let new = NewUser {
            email: address.as_str().to_owned(),
            password_hash: Some(inner.passwords.admit(Caller::Anybody)?.hash(password).await?),
            is_verified: true,
            created_at: inner.clock.now_ms(),
            terms_accepted_at: None,
            storage_quota_bytes: inner.default_quota_bytes,
        };
        let user = inner.store.create_user(&new).await?.ok_or(AccountError::Exists)?;
        tracing::info!(user_id = user, "account created");
        Ok(user)
    }

    /// The account with this address, whatever the case.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn find(&self, address: &str) -> Result<UserRow, AccountError> {
        self.inner.store.user_by_email(address).await?.ok_or(AccountError::NoAccount)
    }

    /// Accounts with numbers above `after`, ascending, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, after: UserId, limit: usize) -> Result<Vec<UserRow>, StoreError> {
        self.inner.store.list_users(after, limit).await
    }

    /// Sets a password, voids every session and every mailed link, and ends a lock, for the operator. The caller closes
    /// the account's sockets.
    ///
    /// # Errors
    /// When there is no such account, hashing is refused, or the database fails.
    pub async fn set_password(&self, user: UserId, password: &SecretString) -> Result<(), AccountError> {
        let hash = self.inner.passwords.admit(Caller::Anybody)?.hash(password).await?;
        let set = self.revoking(user, self.inner.store.set_password(user, &hash, true)).await?;
        set.ok_or(AccountError::NoAccount)?;
        self.forget_all_misses(user).await?;
        tracing::info!(user_id = user, "password set");
        self.note(user, SecurityKind::PasswordChanged, &Asker::operator()).await;
        Ok(())
    }

    /// Marks the account's address as proven.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_verified(&self, user: UserId) -> Result<(), AccountError> {
        found(self.revoking(user, self.inner.store.set_verified(user)).await?)?;
        tracing::info!(user_id = user, "address verified by the operator");
        self.note(user, SecurityKind::AddressVerified, &Asker::operator()).await;
        Ok(())
    }

    /// Sets how many bytes the account may hold.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_quota(&self, user: UserId, bytes: i64) -> Result<(), AccountError> {
        found(self.inner.store.set_quota(user, bytes).await?)
    }

    /// Locks the account: its sessions and every attempt to sign in are refused until it is unlocked. Its mailed links
    /// are void. The caller closes its sockets.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_locked(&self, user: UserId, is_locked: bool) -> Result<(), AccountError> {
        let locked_at = is_locked.then(|| self.inner.clock.now_ms());
        found(self.revoking(user, self.inner.store.set_locked(user, locked_at)).await?)?;
        tracing::info!(user_id = user, is_locked, "lock changed by the operator");
        let kind = if is_locked { SecurityKind::Locked } else { SecurityKind::Unlocked };
        self.note(user, kind, &Asker::operator()).await;
        Ok(())
    }

    /// Makes the account an administrator's, or takes that away.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<(), AccountError> {
        found(self.inner.store.set_admin(user, is_admin).await?)?;
        tracing::info!(user_id = user, is_admin, audit = "ADMIN_CHANGED", "administrator's rights changed");
        let kind = if is_admin { SecurityKind::AdminGiven } else { SecurityKind::AdminTaken };
        self.note(user, kind, &Asker::operator()).await;
        Ok(())
    }

    /// Tells other processes that the account's data was deleted. They would find out by themselves when they next
    /// write to its log; until then they would answer from memory.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn announce_cleared(&self, user: UserId) -> Result<(), StoreError> {
        self.inner.store.announce(user, EventKind::DataCleared).await
    }

    /// Goes on only for an administrator, by what the database says at this moment.
    ///
    /// # Errors
    /// When the sender is none, or the database fails.
    pub async fn require_admin(&self, user: &AuthUser) -> Result<(), AccountError> {
        let row = self.inner.store.user_by_id(user.user_id).await?;
        if row.is_none_or(|row| !row.is_admin) {
            return Err(AccountError::NotAdmin);
        }
        let Some(session) = user.session else { return Ok(()) };
        let found = self.inner.store.authentication(user.user_id, session).await?;
        let is_weak = |found: Authentication| found.how == SessionMethod::Passkey && !found.user_verified;
        if found.is_some_and(is_weak) { Err(AccountError::ProofRequired) } else { Ok(()) }
    }

    /// Accounts with numbers above `after`, ascending, at most `limit`; with `search` those whose address holds that
    /// text or whose number it is. Growth is that of the last 30 days.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn overviews(
        &self,
        search: Option<&str>,
        after: UserId,
        limit: usize,
    ) -> Result<Vec<AccountOverview>, StoreError> {
        self.inner.store.account_overviews(search, after, limit, self.growth_since()).await
    }

    /// One account with what it holds.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn overview(&self, user: UserId) -> Result<AccountOverview, AccountError> {
        self.inner.store.account_overview(user, self.growth_since()).await?.ok_or(AccountError::NoAccount)
    }

    fn growth_since(&self) -> i64 {
        self.inner.clock.now_ms() - GROWTH_MS
    }

    /// What there is to know of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn database_facts(&self) -> Result<DatabaseFacts, StoreError> {
        self.inner.store.database_facts().await
    }
}

/// Whether the account that was changed is there.
fn found(is_there: bool) -> Result<(), AccountError> {
    is_there.then_some(()).ok_or(AccountError::NoAccount)
}
