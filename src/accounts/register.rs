//! Registration: with a password (accounts contract, section 8.1), with a passkey (section 4.5), or with nothing but an
//! address (section 4.1).
//!
//! # Who may
//! Everybody, who is invited, or nobody ([`RegistrationMode`]). Where somebody vouches for an invited user (the invitation
//! names an address, or makes an administrator, or there is no mail to prove an address with), the account is verified at
//! once; otherwise the address is proven by mail as usual.
//!
//! # What the answer tells
//! Nothing about the address: known, unknown, verified or not, the same status, the same body, the same work, the same
//! time. The account's number is not in the answer for that reason: it would have to be made up for a known
//! address, and anybody could tell a made-up one by registering again. Only somebody with an invitation whose use needs no
//! mail learns whether the address has an account.
//!
//! # Whose password counts
//! Anybody can register anybody's address, and the owner of the mailbox may press the button in the mail. So the link
//! proves the address only: a password or a passkey is bound to the link that its registration mailed *and* to a secret
//! in the registering browser's cookie ([`Receipt`]). With both, the registered credentials count. With the link alone,
//! only a password sent with it counts. Everything else becomes void. The row of an unverified account carries the hash of
//! the latest registration only so that a login can answer "Email not verified" instead of "Invalid credentials";
//! verification overwrites it.

use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::link::{self, VERIFY_EMAIL_LIFETIME_MS};
use super::queue::Caller;
use super::{AccountError, Accounts, Address, HashError, address_prefix, timing};
use crate::config::RegistrationMode;
use crate::language::Language;
use crate::mail::Asked;
use crate::protocol::UserId;
use crate::store::{LinkPace, NewPasskey, NewUser, TokenPurpose, Unique, VerificationLink};

/// Further verification links of an unverified address from one network within [`VERIFY_EMAIL_LIFETIME_MS`].
pub const MAX_RESENDS_PER_DAY: i64 = 20;
/// Links from all networks together.
pub const MAX_LINKS_PER_DAY: i64 = 60;
/// Beyond these limits one link per hour is still sent, so that nobody can block an address.
pub const SPARSE_LINK_GAP_MS: i64 = 60 * 60 * 1000;

/// The network of registrations without a known address.
const NOWHERE: &str = "unknown";

/// Who wants an account.
#[derive(Debug)]
pub struct Applicant {
    /// The address to register.
    pub address: Address,
    /// Consent was required and given.
    pub terms_accepted: bool,
    /// The token of an invitation.
    pub invite: Option<SecretString>,
    /// Of the mail that proves the address.
    pub language: Language,
    /// The client's address.
    pub from: Option<IpAddr>,
}

/// The result of a registration. Looks the same for every address.
#[derive(Debug)]
pub struct Receipt {
    /// The outcome.
    pub registered: Registered,
    /// For the registering browser only: with this and the mailed link its credentials count.
    pub secret: SecretString,
}

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// If the address needed a link, one is on its way.
    CheckMail,
    /// The account can be used at once: the operator vouches for it, or this is test mode.
    Verified,
}

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

impl Accounts {
    /// Who may register.
    #[must_use]
    pub fn registration_mode(&self) -> RegistrationMode {
        self.inner.registration
    }

    /// Whether the applicant may register. Does not look at the account.
    pub(super) async fn admit(&self, who: &Applicant) -> Result<Admission, AccountError> {
        let inner = &*self.inner;
        if !who.address.is_allowed_by(&inner.allowed_emails) {
            return Err(AccountError::RegistrationNotAllowed);
        }
        let Some(token) = &who.invite else {
            return match inner.registration {
                RegistrationMode::Closed => Err(AccountError::RegistrationClosed),
                RegistrationMode::Invite => Err(AccountError::InviteNeeded),
                RegistrationMode::Open if inner.test_mode || self.can_mail() => Ok(Admission::Open),
                RegistrationMode::Open => Err(AccountError::RegistrationNeedsMail),
            };
        };
        let hash = link::hash(token.expose_secret());
        let found = inner.store.find_invite(&hash, inner.clock.now_ms()).await?;
        let found = found.filter(|found| found.email.as_ref().is_none_or(|email| email == who.address.as_str()));
        let found = found.ok_or(AccountError::InviteInvalid)?;
        if inner.registration == RegistrationMode::Closed && !found.is_claim {
            return Err(AccountError::RegistrationClosed);
        }
        if !found.makes_admin && found.email.is_none() && self.can_mail() {
            return Ok(Admission::Invited { invite: hash });
        }
        if found.used_at.is_some() {
            Err(AccountError::InviteInvalid)
        } else {
            Ok(Admission::Vouched { invite: hash, makes_admin: found.makes_admin })
        }
    }

    /// Registers an address, with a password or to be signed in to by mailed links; or sends a further link to one that
    /// was never verified. The password has passed [`super::check_new_password`].
    ///
    /// # Errors
    /// When the applicant may not register, hashing is refused, or the database fails.
    pub async fn register(&self, who: &Applicant, password: Option<&SecretString>) -> Result<Receipt, AccountError> {
        let register = async {
            let admission = self.admit(who).await?;
            let hash = match password {
                Some(password) => Some(self.inner.passwords.admit(Caller::at(who.from))?.hash(password).await?),
                None => None,
            };
            self.enrol(who, &admission, hash, None, None).await
        };
        counted(register.await)
    }

    /// The same with a passkey that has been checked. `terms_accepted_at`: what the ceremony's first request said.
    pub(super) async fn register_passkey(
        &self,
        who: &Applicant,
        admission: &Admission,
        key: NewPasskey,
        terms_accepted_at: Option<i64>,
    ) -> Result<Receipt, AccountError> {
        counted(self.enrol(who, admission, None, Some(key), terms_accepted_at).await)
    }

    async fn enrol(
        &self,
        who: &Applicant,
        admission: &Admission,
        password_hash: Option<String>,
        passkey: Option<NewPasskey>,
        terms_accepted_at: Option<i64>,
    ) -> Result<Receipt, AccountError> {
        let inner = &*self.inner;
        let now_ms = inner.clock.now_ms();
        let new = NewUser {
            email: who.address.as_str().to_owned(),
            password_hash,
            is_verified: false,
            created_at: now_ms,
            terms_accepted_at: terms_accepted_at.or(who.terms_accepted.then_some(now_ms)),
            storage_quota_bytes: inner.default_quota_bytes,
        };
        let (secret, registrant) = link::new_token();
        if let Admission::Vouched { invite, .. } = admission {
            return match inner.store.register_invited(invite, &new, passkey.as_ref(), now_ms).await? {
                Unique::Done(user) => {
                    tracing::info!(user_id = user, "account registered by invitation");
                    Ok(Receipt { registered: Registered::Verified, secret })
                }
                Unique::Gone => Err(AccountError::InviteInvalid),
                Unique::Taken | Unique::TooMany => Err(AccountError::Registered),
            };
        }
        let began = Instant::now();
        let network = who.from.map(address_prefix);
        let place = network.as_deref().unwrap_or(NOWHERE);
        let stored = self.store_registration(&new, admission, passkey.as_ref(), &registrant, place).await?;
        if inner.test_mode {
            let Some((_, token)) = stored else { return Ok(Receipt { registered: Registered::CheckMail, secret }) };
            let hash = link::hash(token.expose_secret());
            inner.store.take_verification_link(&hash, now_ms, Some(&registrant), None).await?;
            return Ok(Receipt { registered: Registered::Verified, secret });
        }
        if let Some((user, token)) = stored {
            let asked = Some(Asked { at_ms: now_ms, network });
            self.send_link(user, new.email, TokenPurpose::VerifyEmail, &token, who.language, asked);
        }
        timing::pad(began).await;
        Ok(Receipt { registered: Registered::CheckMail, secret })
    }

    /// Stores the account, if it is new, and a link, unless there is nothing to verify or there were too many.
    async fn store_registration(
        &self,
        new: &NewUser,
        admission: &Admission,
        passkey: Option<&NewPasskey>,
        registrant: &[u8; 32],
        network: &str,
    ) -> Result<Option<(UserId, SecretString)>, AccountError> {
        let inner = &*self.inner;
        let now_ms = new.created_at;
        let user = if let Some(user) = inner.store.create_user(new).await? {
            tracing::info!(user_id = user, "account registered");
            user
        } else {
            let known = inner.store.user_by_email(&new.email).await?;
            let Some(user) = known.filter(|user| !user.is_verified) else { return Ok(None) };
            user.id
        };
        if let Admission::Invited { invite } = admission
            && !inner.store.use_invite(invite, user, now_ms).await?
        {
            return Err(AccountError::InviteInvalid);
        }
        let (token, mut link) = self.new_link(user, TokenPurpose::VerifyEmail);
        link.pending_password_hash.clone_from(&new.password_hash);
        let pace = LinkPace {
            since_ms: now_ms - VERIFY_EMAIL_LIFETIME_MS,
            // The first link of the day is no resend.
            most_of_network: 1 + MAX_RESENDS_PER_DAY,
            most: MAX_LINKS_PER_DAY,
            gap_ms: SPARSE_LINK_GAP_MS,
        };
        let terms_accepted_at = new.terms_accepted_at;
        let new = VerificationLink { link: &link, passkey, terms_accepted_at, registrant, network };
        if !inner.store.put_verification_link(&new, &pace).await? {
            metrics::counter!("supersync_registrations_capped_total").increment(1);
            return Ok(None);
        }
        Ok(Some((user, token)))
    }
}

fn counted(result: Result<Receipt, AccountError>) -> Result<Receipt, AccountError> {
    let outcome = match &result {
        Ok(_) => "ok",
        Err(AccountError::RegistrationNotAllowed) => "not_allowed",
        Err(AccountError::RegistrationNeedsMail) => "no_mail",
        Err(AccountError::RegistrationClosed | AccountError::InviteNeeded) => "closed",
        Err(AccountError::InviteInvalid) => "invalid_invite",
        Err(AccountError::Registered) => "exists",
        Err(AccountError::Hash(HashError::Busy)) => "busy",
        Err(_) => "error",
    };
    metrics::counter!("supersync_registrations_total", "outcome" => outcome).increment(1);
    result
}
