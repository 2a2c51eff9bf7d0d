//! What somebody signed in changes about the own account: password and address. And the account's facts.

use secrecy::SecretString;

use super::link::{self, CHANGE_ADDRESS, RESET_PASSWORD};
use super::queue::Caller;
use super::{Accounts, Address, Asker, AuthUser, LinkError, ReauthError};
use crate::mail::{Letter, Mail, NoticeKind};
use crate::protocol::UserId;
use crate::store::{SecurityKind, SignOut, StoreError, TokenPurpose, UndoLink, Unique, UserRow};

/// How long the link that undoes a change of address works: 7 days.
pub const UNDO_ADDRESS_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Changes of address within that time. Each has an undo link, which is never evicted.
pub const MAX_ADDRESS_CHANGES: i64 = 5;

/// Why an address was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AddressChangeError {
    /// Unknown, expired, used; or somebody else has the address by now.
    #[error("Invalid or expired link")]
    Invalid,
    /// The address was changed [`MAX_ADDRESS_CHANGES`] times within that time.
    #[error("This account's address was changed too often. Please try again in a few days.")]
    TooOften,
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
    /// Sets a password, voids the account's mailed links, ends a lock after failed logins, and, if requested, voids all
    /// other sessions. The password has passed [`super::check_new_password`], the owner [`Accounts::reauthenticate`].
    /// The caller closes the other sessions' sockets.
    ///
    /// # Errors
    /// When the account is gone, hashing is refused, or the database fails.
    pub async fn change_password(
        &self,
        user: &AuthUser,
        password: &SecretString,
        sign_out_others: bool,
        asker: &Asker,
    ) -> Result<(), ReauthError> {
        let id = user.user_id;
        let hash = self.inner.passwords.admit(Caller::Owner(id))?.hash(password).await?;
        let others = sign_out_others.then(|| SignOut { keep: user.session, now_ms: self.inner.clock.now_ms() });
        if !self.revoking(id, self.inner.store.change_password(id, &hash, others)).await? {
            return Err(ReauthError::NoAccount);
        }
        metrics::counter!("supersync_credential_changes_total", "kind" => "password_changed").increment(1);
        tracing::info!(user_id = id, sign_out_others, "password changed by its owner");
        self.note_and_tell(id, SecurityKind::PasswordChanged, NoticeKind::PasswordChanged, asker).await;
        Ok(())
    }

    /// Mails a link to the address that the account is to have, unless somebody has it, and a notice to the address
    /// that it has: who got hold of a session must not move the account away unseen. The answer does not tell.
    ///
    /// # Errors
    /// See [`AddressChangeError`].
    pub async fn request_address_change(
        &self,
        user: UserId,
        address: &Address,
        asker: &Asker,
    ) -> Result<(), AddressChangeError> {
        if !address.is_allowed_by(&self.inner.allowed_emails) {
            return Err(AddressChangeError::NotAllowed);
        }
        let row = self.inner.store.user_by_id(user).await?.ok_or(AddressChangeError::NoAccount)?;
        self.neutrally(CHANGE_ADDRESS.purpose, async {
            let holder = self.inner.store.user_by_email(address.as_str()).await?;
            let is_free = holder.is_none_or(|holder| !holder.is_verified);
            if is_free && self.mail_link(&row, &CHANGE_ADDRESS, Some(address.as_str()), asker.language).await? {
                self.tell(user, row.email.clone(), NoticeKind::AddressChangeRequested, asker);
            }
            Ok(())
        })
        .await?;
        self.note(user, SecurityKind::AddressChangeRequested, asker).await;
        Ok(())
    }

    /// Gives an account the address that a link was mailed to; the link is used up, and the account's others, which
    /// went to the old address, are void. The old address gets a link that undoes it. Sessions stay.
    ///
    /// # Errors
    /// See [`AddressChangeError`].
    pub async fn change_address(&self, token: &str, asker: &Asker) -> Result<UserId, AddressChangeError> {
        let inner = &*self.inner;
        let now_ms = inner.clock.now_ms();
        let (undo_token, hash) = link::new_token();
        let undo = UndoLink { hash, expires_at: now_ms + UNDO_ADDRESS_LIFETIME_MS, most: MAX_ADDRESS_CHANGES };
        let change = match inner.store.take_address_link(&link::hash(token), now_ms, &undo).await? {
            Unique::Done(change) => change,
            Unique::TooMany => return Err(AddressChangeError::TooOften),
            Unique::Gone | Unique::Taken => return Err(AddressChangeError::Invalid),
        };
        let user = change.user;
        metrics::counter!("supersync_credential_changes_total", "kind" => "address_changed").increment(1);
        tracing::info!(user_id = user, "address changed by link");
        if self.can_mail() {
            let letter = Letter::UndoAddress { link: link::url(&inner.public_url, "undo-email", &undo_token) };
            inner.mailer.send(Mail { user, to: change.before, letter, language: asker.language });
        }
        self.tell(user, change.now, NoticeKind::AddressChanged, asker);
        self.note(user, SecurityKind::AddressChanged, asker).await;
        Ok(user)
    }

    /// Restores the replaced address by its undo link, which is used up. Every session, every other link and every
    /// passkey added since is void. A link to reset the password is mailed to the address, since the attacker may know
    /// the present one. The caller closes the account's sockets.
    ///
    /// # Errors
    /// See [`AddressChangeError`].
    pub async fn undo_address(&self, token: &str, asker: &Asker) -> Result<UserId, AddressChangeError> {
        let inner = &*self.inner;
        let hash = link::hash(token);
        let found = inner.store.peek_token(&hash, TokenPurpose::UndoAddress).await?;
        let found = found.ok_or(AddressChangeError::Invalid)?;
        let take = inner.store.take_undo_link(&hash, inner.clock.now_ms());
        let Unique::Done(change) = self.revoking(found.user, take).await? else {
            return Err(AddressChangeError::Invalid);
        };
        let user = change.user;
        metrics::counter!("supersync_credential_changes_total", "kind" => "address_restored").increment(1);
        tracing::info!(user_id = user, "address put back by link, sessions revoked");
        self.tell(user, change.before, NoticeKind::AddressChanged, asker);
        self.note(user, SecurityKind::AddressRestored, asker).await;
        if self.can_mail()
            && let Some(row) = inner.store.user_by_id(user).await?
        {
            self.mail_link(&row, &RESET_PASSWORD, None, asker.language).await?;
        }
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
