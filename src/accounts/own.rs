//! What somebody signed in changes about the own account: password and address. And the account's facts.

use secrecy::SecretString;
use tokio::time::Instant;

use super::link::{self, CHANGE_ADDRESS};
use super::login::LOCK_AFTER_FAILURES;
use super::password::Verdict;
use super::{Accounts, Address, AuthUser, HashError, LOCK_MS, LinkError, pace};
use crate::language::Language;
use crate::mail::{Letter, Mail};
use crate::protocol::UserId;
use crate::store::{StoreError, Unique, UserRow};

/// Why somebody signed in may not do something yet.
#[derive(Debug, thiserror::Error)]
pub enum ReauthError {
    /// The session is too old, and no password was given.
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

/// Why an address was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AddressChangeError {
    /// Unknown, expired, used; or somebody else has the address by now.
    #[error("Invalid or expired link")]
    Invalid,
    /// The allow-list does not have the address.
    #[error("This email address is not allowed on this server.")]
    NotAllowed,
    /// The account is gone.
    #[error("Account unavailable")]
    NoAccount,
    /// No link was sent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

/// What an account is like.
pub struct AccountFacts {
    /// Its row.
    pub user: UserRow,
    /// How many passkeys it has.
    pub passkeys: usize,
}

impl Accounts {
    /// Makes sure that it is the owner who asks: by the current password, or by a session opened a short while ago
    /// ([`super::RECENT_MS`]). A password that is given has to be right. Wrong ones count as failed logins.
    ///
    /// # Errors
    /// See [`ReauthError`].
    pub async fn reauthenticate(&self, user: &AuthUser, password: Option<&SecretString>) -> Result<(), ReauthError> {
        let inner = &*self.inner;
        let is_recent = self.recently_signed_in(user);
        let Some(password) = password else {
            return if is_recent { Ok(()) } else { Err(ReauthError::Required) };
        };
        let admission = inner.passwords.admit()?;
        let _turn = inner.login_turns.take(user.user_id).await;
        let row = inner.store.user_by_id(user.user_id).await?.ok_or(ReauthError::NoAccount)?;
        if row.locked_until.is_some_and(|until| until > inner.clock.now_ms()) {
            return Err(ReauthError::Locked);
        }
        let Some(hash) = row.password_hash.as_deref() else {
            return if is_recent { Ok(()) } else { Err(ReauthError::Required) };
        };
        match admission.check(password, Some(hash)).await? {
            Verdict::Match { .. } => Ok(()),
            Verdict::Mismatch => {
                let began = Instant::now();
                let lock_until = inner.clock.now_ms() + LOCK_MS;
                inner.store.count_failed_login(row.id, LOCK_AFTER_FAILURES, lock_until).await?;
                pace::level(began).await;
                Err(ReauthError::WrongPassword)
            }
        }
    }

    /// Sets a password, voids the account's mailed links, and ends a lock after failed logins. Sessions stay: revoking those
    /// of other devices is a wish of its own. The password has passed [`super::check_new_password`], the owner
    /// [`Accounts::reauthenticate`].
    ///
    /// # Errors
    /// When the account is gone, hashing is refused, or the database fails.
    pub async fn change_password(&self, user: UserId, password: &SecretString) -> Result<(), ReauthError> {
        let hash = self.inner.passwords.admit()?.hash(password).await?;
        if !self.inner.store.change_password(user, &hash).await? {
            return Err(ReauthError::NoAccount);
        }
        metrics::counter!("supersync_credential_changes_total", "kind" => "password_changed").increment(1);
        tracing::info!(user_id = user, "password changed by its owner");
        Ok(())
    }

    /// Mails a link to the address that the account is to have, unless somebody has it, and a notice to the address that
    /// it has: who got hold of a session must not move the account away unseen. The answer does not tell.
    ///
    /// # Errors
    /// See [`AddressChangeError`].
    pub async fn request_address_change(
        &self,
        user: UserId,
        address: &Address,
        language: Language,
    ) -> Result<(), AddressChangeError> {
        if !address.is_allowed_by(&self.inner.allowed_emails) {
            return Err(AddressChangeError::NotAllowed);
        }
        let row = self.inner.store.user_by_id(user).await?.ok_or(AddressChangeError::NoAccount)?;
        self.neutrally(CHANGE_ADDRESS.purpose, async {
            let holder = self.inner.store.user_by_email(address.as_str()).await?;
            let is_free = holder.is_none_or(|holder| !holder.is_verified);
            if is_free && self.mail_link(&row, &CHANGE_ADDRESS, Some(address.as_str()), language).await? {
                let letter = Letter::AddressNotice { link: self.inner.public_url.clone().into() };
                self.inner.mailer.send(Mail { user, to: row.email.clone(), letter, language });
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Gives an account the address that a link was mailed to; the link is used up, and the account's others, which went
    /// to the old address, are void. Sessions stay.
    ///
    /// # Errors
    /// See [`AddressChangeError`].
    pub async fn change_address(&self, token: &str) -> Result<UserId, AddressChangeError> {
        let done = self.inner.store.take_address_link(&link::hash(token), self.inner.clock.now_ms()).await?;
        let Unique::Done(user) = done else { return Err(AddressChangeError::Invalid) };
        metrics::counter!("supersync_credential_changes_total", "kind" => "address_changed").increment(1);
        tracing::info!(user_id = user, "address changed by link");
        Ok(user)
    }

    /// What the account is like.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn facts(&self, user: UserId) -> Result<AccountFacts, ReauthError> {
        let user = self.inner.store.user_by_id(user).await?.ok_or(ReauthError::NoAccount)?;
        let passkeys = self.inner.store.passkeys_of(user.id).await?.len();
        Ok(AccountFacts { user, passkeys })
    }
}
