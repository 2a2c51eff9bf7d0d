//! Invitations to register, and the claim link of a new server. An invitation is a one-time token in a link.

use secrecy::SecretString;

use super::{AccountError, Accounts, Address, link};
use crate::config::RegistrationMode;
use crate::language::Language;
use crate::mail::{Letter, LetterKind, Mail};
use crate::protocol::UserId;
use crate::store::{InviteRow, NewInvite, StoreError};

/// How long an invitation can be used: 7 days.
pub const INVITE_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// How many invitations are listed, the newest ones.
const MAX_LISTED_INVITES: usize = 500;

/// An invitation as given out.
pub struct Invitation {
    /// Its number.
    pub id: i64,
    /// The page to open. Not stored: it is shown once.
    pub link: SecretString,
    /// Until when it can be used, Unix milliseconds.
    pub expires_at: i64,
}

impl Accounts {
    /// Makes an invitation, and mails it if it is for an address and there is mail. `by`: the administrator; `None`:
    /// the command line.
    ///
    /// # Errors
    /// When registration is closed, or the database fails.
    pub async fn invite(
        &self,
        by: Option<UserId>,
        address: Option<&Address>,
        makes_admin: bool,
    ) -> Result<Invitation, AccountError> {
        if self.inner.registration == RegistrationMode::Closed {
            return Err(AccountError::RegistrationClosed);
        }
        let (token, new) = self.new_invite(by, address, makes_admin, false);
        let id = self.inner.store.put_invite(&new).await?.ok_or(AccountError::NoInvite)?;
        let link = link::url(&self.inner.public_url, "invite", &token);
        if let Some(address) = address
            && self.can_mail()
        {
            let letter = Letter::new(LetterKind::Invite, link.clone());
            let (user, to) = (by.unwrap_or_default(), address.as_str().to_owned());
            self.inner.mailer.send(Mail { user, to, letter, language: Language::default() });
        }
        tracing::info!(invite_id = id, by_user_id = by, "invitation made");
        Ok(Invitation { id, link, expires_at: new.expires_at })
    }

    /// The link that creates the administrator's account; `None`: there is a verified administrator. Links made before
    /// are void.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_link(&self) -> Result<Option<SecretString>, StoreError> {
        let (token, new) = self.new_invite(None, None, true, true);
        let stored = self.inner.store.put_invite(&new).await?;
        Ok(stored.map(|_| link::url(&self.inner.public_url, "claim", &token)))
    }

    fn new_invite(
        &self,
        by: Option<UserId>,
        address: Option<&Address>,
        makes_admin: bool,
        is_claim: bool,
    ) -> (SecretString, NewInvite) {
        let (token, token_hash) = link::new_token();
        let now_ms = self.inner.clock.now_ms();
        let new = NewInvite {
            token_hash,
            email: address.map(|address| address.as_str().to_owned()),
            makes_admin,
            is_claim,
            created_by: by,
            created_at: now_ms,
            expires_at: now_ms + INVITE_LIFETIME_MS,
        };
        (token, new)
    }

    /// Invitations, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn invites(&self) -> Result<Vec<InviteRow>, AccountError> {
        Ok(self.inner.store.invites(MAX_LISTED_INVITES).await?)
    }

    /// Takes an invitation back. An account made with it stays.
    ///
    /// # Errors
    /// When there is no such invitation or the database fails.
    pub async fn delete_invite(&self, id: i64) -> Result<(), AccountError> {
        if self.inner.store.delete_invite(id).await? { Ok(()) } else { Err(AccountError::NoInvite) }
    }
}
