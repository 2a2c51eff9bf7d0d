//! What somebody signed in changes about the own account: password and address. And the account's facts.

use secrecy::SecretString;

use super::link::{self, UNDO_ADDRESS_LIFETIME_MS};
use super::queue::Caller;
use super::{AccountError, Accounts, Address, Asker, AuthUser};
use crate::mail::LetterKind;
use crate::protocol::UserId;
use crate::store::{SecurityKind, SignOut, TokenPurpose, UndoLink, Unique, UserRow};

/// Changes of address within [`UNDO_ADDRESS_LIFETIME_MS`]. Each has an undo link, which is never evicted.
pub const MAX_ADDRESS_CHANGES: i64 = 5;

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
    ) -> Result<(), AccountError> {
        let id = user.user_id;
        let hash = self.inner.passwords.admit(Caller::Owner(id))?.hash(password).await?;
        let others = sign_out_others.then(|| SignOut { keep: user.session, now_ms: self.inner.clock.now_ms() });
        if !self.revoking(id, self.inner.store.change_password(id, &hash, others)).await? {
            return Err(AccountError::NoAccount);
        }
        metrics::counter!("supersync_credential_changes_total", "kind" => "password_changed").increment(1);
        tracing::info!(user_id = id, sign_out_others, "password changed by its owner");
        self.note(id, SecurityKind::PasswordChanged, asker).await;
        Ok(())
    }

    /// Mails a link to the address that the account is to have, unless somebody has it, and a notice to the address
    /// that it has: who got hold of a session must not move the account away unseen. The answer does not tell.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn request_address_change(
        &self,
        user: UserId,
        address: &Address,
        asker: &Asker,
    ) -> Result<(), AccountError> {
        if !address.is_allowed_by(&self.inner.allowed_emails) {
            return Err(AccountError::AddressNotAllowed);
        }
        let row = self.inner.store.user_by_id(user).await?.ok_or(AccountError::NoAccount)?;
        self.neutrally(TokenPurpose::ChangeAddress, async {
            let holder = self.inner.store.user_by_email(address.as_str()).await?;
            let is_free = holder.is_none_or(|holder| !holder.is_verified);
            let purpose = TokenPurpose::ChangeAddress;
            if is_free && self.mail_link(&row, purpose, Some(address.as_str()), asker.language).await? {
                self.tell(user, row.email.clone(), LetterKind::AddressNotice, asker);
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
    /// See [`AccountError`].
    pub async fn change_address(&self, token: &str, asker: &Asker) -> Result<UserId, AccountError> {
        let inner = &*self.inner;
        let now_ms = inner.clock.now_ms();
        let (undo_token, hash) = link::new_token();
        let undo = UndoLink { hash, expires_at: now_ms + UNDO_ADDRESS_LIFETIME_MS, most: MAX_ADDRESS_CHANGES };
        let change = match inner.store.take_address_link(&link::hash(token), now_ms, &undo).await? {
            Unique::Done(change) => change,
            Unique::TooMany => return Err(AccountError::AddressChangedTooOften),
            Unique::Gone | Unique::Taken => return Err(AccountError::AddressLinkInvalid),
        };
        let user = change.user;
        metrics::counter!("supersync_credential_changes_total", "kind" => "address_changed").increment(1);
        tracing::info!(user_id = user, "address changed by link");
        if self.can_mail() {
            self.send_link(user, change.before, TokenPurpose::UndoAddress, &undo_token, asker.language, None);
        }
        self.tell(user, change.now, LetterKind::AddressChanged, asker);
        self.note(user, SecurityKind::AddressChanged, asker).await;
        Ok(user)
    }

    /// Restores the replaced address by its undo link, which is used up. Every session, every other link and every
    /// passkey added since is void. A link to reset the password is mailed to the address, since the attacker may know
    /// the present one. The caller closes the account's sockets.
    ///
    /// # Errors
    /// See [`AccountError`].
    pub async fn undo_address(&self, token: &str, asker: &Asker) -> Result<UserId, AccountError> {
        let inner = &*self.inner;
        let hash = link::hash(token);
        let found = inner.store.peek_token(&hash, TokenPurpose::UndoAddress).await?;
        let found = found.ok_or(AccountError::AddressLinkInvalid)?;
        let take = inner.store.take_undo_link(&hash, inner.clock.now_ms());
        let Unique::Done(change) = self.revoking(found.user, take).await? else {
            return Err(AccountError::AddressLinkInvalid);
        };
        let user = change.user;
        metrics::counter!("supersync_credential_changes_total", "kind" => "address_restored").increment(1);
        tracing::info!(user_id = user, "address put back by link, sessions revoked");
        self.tell(user, change.before, LetterKind::AddressChanged, asker);
        self.note(user, SecurityKind::AddressRestored, asker).await;
        if self.can_mail()
            && let Some(row) = inner.store.user_by_id(user).await?
        {
            self.mail_link(&row, TokenPurpose::ResetPassword, None, asker.language).await?;
        }
        Ok(user)
    }

    /// What the account is like.
    ///
    /// # Errors
    /// When it is gone or the database fails.
    pub async fn facts(&self, user: UserId) -> Result<AccountFacts, AccountError> {
        let user = self.inner.store.user_by_id(user).await?.ok_or(AccountError::NoAccount)?;
        let passkeys = self.inner.store.passkeys_of(user.id).await?.len();
        Ok(AccountFacts { user, passkeys })
    }
}
