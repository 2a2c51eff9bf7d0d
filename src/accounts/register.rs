//! Registration with address and password (accounts contract, section 8.1).
//!
//! # What the answer tells
//! Nothing about the address: known, unknown, verified or not, the same status, the same body, one password hash, the
//! same time. The account's number is not in the answer for that reason: it would have to be made up for a known
//! address, and anybody could tell a made-up one by registering again.
//!
//! # Whose password counts
//! Anybody can register anybody's address. So a password is bound to the link that its registration mailed: what the
//! owner of the mailbox clicks decides which password takes effect, and every other one is void. The row of an
//! unverified account carries the hash of the latest registration only so that a login can answer "Email not verified"
//! instead of "Invalid credentials"; verification overwrites it.

use secrecy::SecretString;
use tokio::time::Instant;

use super::link::{self, VERIFY_EMAIL_LIFETIME_MS};
use super::{Accounts, Address, HashError, pace};
use crate::language::Language;
use crate::mail::{Letter, Mail};
use crate::protocol::UserId;
use crate::store::{NewUser, OneTimeToken, StoreError, TokenPurpose};

/// How many verification links an unverified address gets within [`VERIFY_EMAIL_LIFETIME_MS`] after the first one. Old
/// ones fall out of the count by themselves, so nobody can bar an address for ever.
pub const MAX_RESENDS_PER_DAY: i64 = 20;

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// If the address needed a link, one is on its way.
    CheckMail,
    /// Test mode: the account can be used at once.
    Verified,
}

/// Why nobody was registered. None of these depends on whether the address is known.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The allow-list does not have the address.
    #[error("Registration is not allowed for this email address.")]
    NotAllowed,
    /// This server can't send the link.
    #[error(
        "Registration by e-mail is not available: this server has no mail configured. Ask its operator to create your account (supersync user add)."
    )]
    NoMail,
    /// No hash was computed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

impl Accounts {
    /// Registers an address, or sends a further link to one that was never verified. `terms_accepted`: consent was
    /// required and given. The password has passed [`super::check_new_password`].
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub async fn register(
        &self,
        address: &Address,
        password: &SecretString,
        terms_accepted: bool,
    ) -> Result<Registered, RegisterError> {
        let result = self.try_register(address, password, terms_accepted).await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(RegisterError::NotAllowed) => "not_allowed",
            Err(RegisterError::NoMail) => "no_mail",
            Err(RegisterError::Hash(HashError::Busy)) => "busy",
            Err(_) => "error",
        };
        metrics::counter!("supersync_registrations_total", "outcome" => outcome).increment(1);
        result
    }

    async fn try_register(
        &self,
        address: &Address,
        password: &SecretString,
        terms_accepted: bool,
    ) -> Result<Registered, RegisterError> {
        let inner = &*self.inner;
        if !address.is_allowed_by(&inner.allowed_emails) {
            return Err(RegisterError::NotAllowed);
        }
        if !inner.test_mode && !inner.mailer.can_deliver() {
            return Err(RegisterError::NoMail);
        }
        let hash = inner.passwords.admit()?.hash(password).await?;
        let now_ms = inner.clock.now_ms();
        let new = NewUser {
            email: address.as_str().to_owned(),
            password_hash: Some(hash.clone()),
            is_verified: inner.test_mode,
            created_at: now_ms,
            terms_accepted_at: terms_accepted.then_some(now_ms),
            storage_quota_bytes: inner.default_quota_bytes,
        };
        if inner.test_mode {
            return self.register_verified(&new, &hash).await;
        }
        let hashed = Instant::now();
        if let Some((user, letter)) = self.store_registration(&new, hash, now_ms).await? {
            inner.mailer.send(Mail { user, to: new.email, letter, language: Language::default() });
        }
        pace::level(hashed).await;
        Ok(Registered::CheckMail)
    }

    /// Stores the account, if it is new, and a link, unless there is nothing to verify or there were too many.
    async fn store_registration(
        &self,
        new: &NewUser,
        hash: String,
        now_ms: i64,
    ) -> Result<Option<(UserId, Letter)>, StoreError> {
        let inner = &*self.inner;
        // Counting links and adding one are two statements: without turns, parallel registrations would overrun the
        // cap.
        let _turn = inner.registration_turn.lock().await;
        let user = if let Some(user) = inner.store.create_user(new).await? {
            tracing::info!(user_id = user, "account registered");
            user
        } else {
            let Some(user) = inner.store.user_by_email(&new.email).await?.filter(|user| !user.is_verified) else {
                return Ok(None);
            };
            let since_ms = now_ms - VERIFY_EMAIL_LIFETIME_MS;
            // The first link of the day is no resend.
            if inner.store.count_tokens(user.id, TokenPurpose::VerifyEmail, since_ms).await? > MAX_RESENDS_PER_DAY {
                metrics::counter!("supersync_registrations_capped_total").increment(1);
                return Ok(None);
            }
            if let Some(hash) = &new.password_hash {
                inner.store.set_password(user.id, hash, false).await?;
            }
            user.id
        };
        let (token, token_hash) = link::new_token();
        inner
            .store
            .put_token(&OneTimeToken {
                hash: token_hash,
                purpose: TokenPurpose::VerifyEmail,
                user,
                pending_password_hash: Some(hash),
                created_at: now_ms,
                expires_at: now_ms + VERIFY_EMAIL_LIFETIME_MS,
            })
            .await?;
        let link = link::url(&inner.public_url, "verify-email", &token);
        Ok(Some((user, Letter::VerifyAddress { link })))
    }

    /// Test mode: no mail, verified at once.
    async fn register_verified(&self, new: &NewUser, hash: &str) -> Result<Registered, RegisterError> {
        let store = &self.inner.store;
        if store.create_user(new).await?.is_some() {
            return Ok(Registered::Verified);
        }
        match store.user_by_email(&new.email).await?.filter(|user| !user.is_verified) {
            None => Ok(Registered::CheckMail),
            Some(user) => {
                store.set_password(user.id, hash, false).await?;
                self.revoking(user.id, store.set_verified(user.id)).await?;
                Ok(Registered::Verified)
            }
        }
    }
}
