//! Changes to an account that its owner or the operator asks for.

use secrecy::SecretString;

use super::queue::Caller;
use super::{Accounts, Address, Asker, HashError};
use crate::mail::NoticeKind;
use crate::protocol::UserId;
use crate::store::{EventKind, NewUser, SecurityKind, StoreError, UserRow};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ManageError {
    /// There is no such account (any more).
    #[error("no such account")]
    NoAccount,
    /// The address belongs to an account already.
    #[error("there is an account with this address already")]
    Exists,
    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Voids every session and every mailed link of the account, for the operator. Returns the new token version. The
    /// caller closes the account's sockets.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn revoke(&self, user: UserId) -> Result<i64, ManageError> {
        let version = self.revoking(user, self.inner.store.bump_token_version(user)).await?;
        let version = version.ok_or(ManageError::NoAccount)?;
        tracing::info!(user_id = user, "sessions revoked");
        self.note(user, SecurityKind::AllSessionsRevoked, &Asker::operator()).await;
        Ok(version)
    }

    /// Deletes the account and everything that it holds (accounts contract, section 4.9). The caller closes its sockets
    /// and makes the engine forget it.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn delete(&self, user: UserId) -> Result<(), ManageError> {
        if !self.revoking(user, self.inner.store.delete_user(user)).await? {
            return Err(ManageError::NoAccount);
        }
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
    pub async fn create_verified(&self, address: &Address, password: &SecretString) -> Result<UserId, ManageError> {
        let inner = &*self.inner;
        let new = NewUser {
            email: address.as_str().to_owned(),
            password_hash: Some(inner.passwords.admit(Caller::Anybody)?.hash(password).await?),
            is_verified: true,
            created_at: inner.clock.now_ms(),
            terms_accepted_at: None,
            storage_quota_bytes: inner.default_quota_bytes,
        };
        let user = inner.store.create_user(&new).await?.ok_or(ManageError::Exists)?;
        tracing::info!(user_id = user, "account created");
        Ok(user)
    }

    /// The account with this address, whatever the case.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn find(&self, address: &str) -> Result<UserRow, ManageError> {
        self.inner.store.user_by_email(address).await?.ok_or(ManageError::NoAccount)
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
    pub async fn set_password(&self, user: UserId, password: &SecretString) -> Result<(), ManageError> {
        let hash = self.inner.passwords.admit(Caller::Anybody)?.hash(password).await?;
        let set = self.revoking(user, self.inner.store.set_password(user, &hash, true)).await?;
        set.ok_or(ManageError::NoAccount)?;
        self.forget_all_misses(user).await?;
        tracing::info!(user_id = user, "password set");
        let operator = Asker::operator();
        self.note_and_tell(user, SecurityKind::PasswordChanged, NoticeKind::PasswordChanged, &operator).await;
        Ok(())
    }

    /// Marks the account's address as proven.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_verified(&self, user: UserId) -> Result<(), ManageError> {
        if !self.revoking(user, self.inner.store.set_verified(user)).await? {
            return Err(ManageError::NoAccount);
        }
        tracing::info!(user_id = user, "address verified by the operator");
        self.note(user, SecurityKind::AddressVerified, &Asker::operator()).await;
        Ok(())
    }

    /// Sets how many bytes the account may hold.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_quota(&self, user: UserId, bytes: i64) -> Result<(), ManageError> {
        if self.inner.store.set_quota(user, bytes).await? { Ok(()) } else { Err(ManageError::NoAccount) }
    }

    /// Locks the account: its sessions and every attempt to sign in are refused until it is unlocked. Its mailed links
    /// are void. The caller closes its sockets.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_locked(&self, user: UserId, is_locked: bool) -> Result<(), ManageError> {
        let locked_at = is_locked.then(|| self.inner.clock.now_ms());
        if !self.revoking(user, self.inner.store.set_locked(user, locked_at)).await? {
            return Err(ManageError::NoAccount);
        }
        tracing::info!(user_id = user, is_locked, "lock changed by the operator");
        let kind = if is_locked { SecurityKind::Locked } else { SecurityKind::Unlocked };
        self.note(user, kind, &Asker::operator()).await;
        Ok(())
    }

    /// Makes the account an administrator's, or takes that away.
    ///
    /// # Errors
    /// When there is no such account or the database fails.
    pub async fn set_admin(&self, user: UserId, is_admin: bool) -> Result<(), ManageError> {
        if !self.inner.store.set_admin(user, is_admin).await? {
            return Err(ManageError::NoAccount);
        }
        tracing::info!(user_id = user, is_admin, audit = "ADMIN_CHANGED", "administrator's rights changed");
        let operator = Asker::operator();
        if is_admin {
            self.note_and_tell(user, SecurityKind::AdminGiven, NoticeKind::AdminGiven, &operator).await;
        } else {
            self.note(user, SecurityKind::AdminTaken, &operator).await;
        }
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
}
