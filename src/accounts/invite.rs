//! Who may register: everybody, who is invited, or nobody; invitations; and the claim link of a new server.
//!
//! An invitation is a one-time token in a link. Where somebody vouches for its user (it names an address, or makes an
//! administrator, or there is no mail to prove an address with), the account is verified at once; otherwise the address
//! is proven by mail as usual.

use secrecy::{ExposeSecret, SecretString};

use super::{Accounts, Address, Applicant, RegisterError, link};
use crate::config::RegistrationMode;
use crate::language::Language;
use crate::mail::{Letter, Mail};
use crate::protocol::UserId;
use crate::store::{InviteRow, NewInvite, StoreError};

/// How long an invitation can be used: 7 days.
pub const INVITE_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// How many invitations are listed, the newest ones.
pub const MAX_LISTED_INVITES: usize = 500;

/// On what ground somebody may register.
pub(super) enum Admission {
    /// Like everybody.
    Open,
    /// By an invitation (its token's hash), but the address has to be proven.
    Invited { invite: [u8; 32] },
    /// By an invitation that vouches for the address.
    Vouched { invite: [u8; 32], makes_admin: bool },
}

impl Admission {
    /// Whether the account will be an administrator's.
    pub(super) const fn makes_admin(&self) -> bool {
        matches!(self, Self::Vouched { makes_admin: true, .. })
    }
}

/// An invitation as given out.
pub struct Invitation {
    /// Its number.
    pub id: i64,
    /// The page to open. Not stored: it is shown once.
    pub link: SecretString,
    /// Until when it can be used, Unix milliseconds.
    pub expires_at: i64,
}

/// Why there is no invitation.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// Nobody may register, so there is nothing to invite to.
    #[error("Registration is closed on this server.")]
    Closed,
    /// There is no such invitation.
    #[error("No such invitation")]
    NoInvite,
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Who may register.
    #[must_use]
    pub fn registration_mode(&self) -> RegistrationMode {
        self.inner.registration
    }

    /// Whether the applicant may register. Does not look at the account.
    pub(super) async fn admit(&self, who: &Applicant) -> Result<Admission, RegisterError> {
        let inner = &*self.inner;
        if !who.address.is_allowed_by(&inner.allowed_emails) {
            return Err(RegisterError::NotAllowed);
        }
        let Some(token) = &who.invite else {
            return match inner.registration {
                RegistrationMode::Closed => Err(RegisterError::Closed),
                RegistrationMode::Invite => Err(RegisterError::InviteNeeded),
                RegistrationMode::Open if inner.test_mode || self.can_mail() => Ok(Admission::Open),
                RegistrationMode::Open => Err(RegisterError::NoMail),
            };
        };
        let hash = link::hash(token.expose_secret());
        let found = inner.store.find_invite(&hash, inner.clock.now_ms()).await?;
        let found = found.filter(|found| found.email.as_ref().is_none_or(|email| email == who.address.as_str()));
        let found = found.ok_or(RegisterError::InviteInvalid)?;
        if inner.registration == RegistrationMode::Closed && !found.is_claim {
            return Err(RegisterError::Closed);
        }
        if !found.makes_admin && found.email.is_none() && self.can_mail() {
            return Ok(Admission::Invited { invite: hash });
        }
        if found.used_at.is_some() {
            Err(RegisterError::InviteInvalid)
        } else {
            Ok(Admission::Vouched { invite: hash, makes_admin: found.makes_admin })
        }
    }

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
    ) -> Result<Invitation, InviteError> {
        if self.inner.registration == RegistrationMode::Closed {
            return Err(InviteError::Closed);
        }
        let (token, new) = self.new_invite(by, address, makes_admin, false);
        let id = self.inner.store.put_invite(&new).await?.ok_or(InviteError::NoInvite)?;
        let link = link::url(&self.inner.public_url, "invite", &token);
        if let Some(address) = address
            && self.can_mail()
        {
            let letter = Letter::Invite { link: link.clone() };
            let (user, to) = (by.unwrap_or_default(), address.as_str().to_owned());
            self.inner.mailer.send(Mail { user, to, letter, language: Language::default() });
        }
        tracing::info!(invite_id = id, by_user_id = by, "invitation made");
        Ok(Invitation { id, link, expires_at: new.expires_at })
    }

    /// The link that makes the first account, the administrator's; `None`: there is an account. Links made before are
    /// void.
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
    pub async fn invites(&self) -> Result<Vec<InviteRow>, InviteError> {
        Ok(self.inner.store.invites(MAX_LISTED_INVITES).await?)
    }

    /// Takes an invitation back. An account made with it stays.
    ///
    /// # Errors
    /// When there is no such invitation or the database fails.
    pub async fn delete_invite(&self, id: i64) -> Result<(), InviteError> {
        if self.inner.store.delete_invite(id).await? { Ok(()) } else { Err(InviteError::NoInvite) }
    }
}
