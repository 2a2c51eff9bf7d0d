//! One-time links in mails (accounts contract, sections 4.3, 4.4, 8.3, 8.4): what they are for, and two of them, to sign
//! in and to set a password.
//!
//! Their tokens are 32 random bytes as 64 hexadecimal digits; only the SHA-256 is stored. Each link works until one of its
//! purpose is used or it expires: a mail that arrives late is as good as a later one.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::queue::Caller;
use super::{AccountError, Accounts, Address, Asker, Session, SessionOrigin, timing};
use crate::language::Language;
use crate::mail::{Asked, Letter, LetterKind, Mail};
use crate::protocol::UserId;
use crate::store::{OneTimeToken, SecurityKind, SessionMethod, StoreError, TokenPurpose, UserRow};

/// How long a verification link works: 24 hours (accounts contract, section 3).
pub const VERIFY_EMAIL_LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a link that signs in works: 15 minutes (accounts contract, section 3).
pub const MAGIC_LOGIN_LIFETIME_MS: i64 = 15 * 60 * 1000;
/// How long a link that sets a password works: 1 hour (accounts contract, section 3).
pub const RESET_PASSWORD_LIFETIME_MS: i64 = 60 * 60 * 1000;
/// How long a link that replaces lost passkeys works: 1 hour (accounts contract, section 3).
pub const RECOVER_PASSKEY_LIFETIME_MS: i64 = 60 * 60 * 1000;
/// How long a link that changes the address works: 24 hours.
pub const CHANGE_ADDRESS_LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;
/// How long the link that undoes a change of address works: 7 days.
pub const UNDO_ADDRESS_LIFETIME_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// How long after a link an account gets no further one for the same purpose: a minute. After that it does, since the
/// first mail may be lost.
pub const LINK_GAP_MS: i64 = 60 * 1000;
/// How many unexpired links for one purpose an account has at most. They expire by themselves, so nobody can bar an
/// account from its mail for longer than a link lives.
pub const MAX_LINKS: i64 = 5;

/// The page behind a link, how long the link works, and the letter with it.
const fn link_for(purpose: TokenPurpose) -> (&'static str, i64, LetterKind) {
    match purpose {
        TokenPurpose::VerifyEmail => ("verify-email", VERIFY_EMAIL_LIFETIME_MS, LetterKind::VerifyAddress),
        TokenPurpose::MagicLogin => ("magic-login", MAGIC_LOGIN_LIFETIME_MS, LetterKind::MagicLogin),
        TokenPurpose::ResetPassword => ("reset-password", RESET_PASSWORD_LIFETIME_MS, LetterKind::ResetPassword),
        TokenPurpose::RecoverPasskey => ("recover-passkey", RECOVER_PASSKEY_LIFETIME_MS, LetterKind::RecoverPasskey),
        TokenPurpose::ChangeAddress => ("change-email", CHANGE_ADDRESS_LIFETIME_MS, LetterKind::ChangeAddress),
        TokenPurpose::UndoAddress => ("undo-email", UNDO_ADDRESS_LIFETIME_MS, LetterKind::UndoAddress),
    }
}

impl Accounts {
    /// Mails a link to sign in, to set a password or to replace passkeys to the address if a verified account has it; to
    /// replace passkeys only if it has some. The answer does not tell. An account without a password gets a link to set
    /// one too: anybody who reads its mail can sign in anyway.
    ///
    /// # Errors
    /// When this server has no mail or the database fails.
    pub async fn request_link(
        &self,
        purpose: TokenPurpose,
        address: &Address,
        language: Language,
    ) -> Result<(), AccountError> {
        self.neutrally(purpose, async {
            let store = &self.inner.store;
            let user = store.user_by_email(address.as_str()).await?;
            let Some(user) = user.filter(|user| user.is_verified && user.locked_at.is_none()) else { return Ok(()) };
            if purpose != TokenPurpose::RecoverPasskey || !store.passkeys_of(user.id).await?.is_empty() {
                self.mail_link(&user, purpose, None, language).await?;
            }
            Ok(())
        })
        .await
    }

    /// Signs in by a link, which is used up, and forgets failed logins.
    ///
    /// # Errors
    /// When the link is no good or the database fails.
    pub async fn login_by_link(&self, token: &str, origin: &SessionOrigin) -> Result<Session, AccountError> {
        let login = async {
            let found = self.inner.store.take_login_link(&hash(token), self.inner.clock.now_ms()).await?;
            let user = found.ok_or(AccountError::LoginLinkInvalid)?;
            let opened = self.open_session(&user, origin, false).await;
            opened.map_err(|error| error.without_account(AccountError::LoginLinkInvalid))
        };
        let result = login.await;
        let outcome = match &result {
            Ok(_) => "ok",
            Err(AccountError::LoginLinkInvalid) => "invalid_link",
            Err(_) => "error",
        };
        metrics::counter!("supersync_logins_total", "method" => "link", "outcome" => outcome).increment(1);
        result
    }

    /// Sets a password by a link, which is used up; voids every session and every other link, and ends a lock after
    /// failed logins. The password has passed [`super::check_new_password`]. The caller closes the account's sockets.
    ///
    /// # Errors
    /// When the link is no good, hashing is refused, or the database fails.
    pub async fn reset_password(
        &self,
        token: &str,
        password: &SecretString,
        asker: &Asker,
    ) -> Result<UserId, AccountError> {
        let inner = &*self.inner;
        // A look first, so that made-up tokens cost no password hash.
        let found = self.peek_link(token, TokenPurpose::ResetPassword).await?.ok_or(AccountError::ResetLinkInvalid)?;
        let password_hash = inner.passwords.admit(Caller::Owner(found.user))?.hash(password).await?;
        let take = inner.store.take_reset_link(&found.hash, inner.clock.now_ms(), &password_hash);
        let user = self.revoking(found.user, take).await?.ok_or(AccountError::ResetLinkInvalid)?;
        metrics::counter!("supersync_credential_changes_total", "kind" => "password_reset").increment(1);
        tracing::info!(user_id = user, "password reset by link, sessions revoked");
        let asker = asker.by(SessionMethod::MagicLink);
        self.note(user, SecurityKind::PasswordChanged, &asker).await;
        Ok(user)
    }

    /// Does `work`, which asks for a link, in the same time whatever it comes to.
    pub(super) async fn neutrally(
        &self,
        purpose: TokenPurpose,
        work: impl Future<Output = Result<(), StoreError>> + Send,
    ) -> Result<(), AccountError> {
        if !self.can_mail() {
            return Err(AccountError::NoMail);
        }
        let began = tokio::time::Instant::now();
        let done = work.await;
        timing::pad(began).await;
        let outcome = if done.is_ok() { "ok" } else { "error" };
        metrics::counter!("supersync_link_requests_total", "purpose" => purpose.as_str(), "outcome" => outcome)
            .increment(1);
        Ok(done?)
    }

    /// Mails a link to a verified account, or, as `new_email`, to the address that it wants, in the language of who
    /// asks; unless it has just got one or has too many. Whether it did.
    pub(super) async fn mail_link(
        &self,
        user: &UserRow,
        purpose: TokenPurpose,
        new_email: Option<&str>,
        language: Language,
    ) -> Result<bool, StoreError> {
        let (token, link) = self.new_link(user.id, purpose);
        if !self.inner.store.put_link(&link, new_email, LINK_GAP_MS, MAX_LINKS).await? {
            return Ok(false);
        }
        let to = new_email.unwrap_or(&user.email).to_owned();
        self.send_link(user.id, to, purpose, &token, language, None);
        Ok(true)
    }

    /// A fresh link of an account: its token, and what is stored of it.
    pub(super) fn new_link(&self, user: UserId, purpose: TokenPurpose) -> (SecretString, OneTimeToken) {
        let (token, hash) = new_token();
        let (_, lifetime_ms, _) = link_for(purpose);
        let created_at = self.inner.clock.now_ms();
        let expires_at = created_at + lifetime_ms;
        (token, OneTimeToken { hash, purpose, user, pending_password_hash: None, created_at, expires_at })
    }

    /// Mails the link with this token.
    pub(super) fn send_link(
        &self,
        user: UserId,
        to: String,
        purpose: TokenPurpose,
        token: &SecretString,
        language: Language,
        asked: Option<Asked>,
    ) {
        let (page, _, kind) = link_for(purpose);
        let letter = Letter { kind, link: url(&self.inner.public_url, page, token), asked };
        self.inner.mailer.send(Mail { user, to, letter, language });
    }

    /// The link with this token, unless it has expired; it is not used up.
    pub(super) async fn peek_link(
        &self,
        token: &str,
        purpose: TokenPurpose,
    ) -> Result<Option<OneTimeToken>, StoreError> {
        let found = self.inner.store.peek_token(&hash(token), purpose).await?;
        Ok(found.filter(|found| found.expires_at > self.inner.clock.now_ms()))
    }
}

/// A fresh token and what is stored of it.
pub(super) fn new_token() -> (SecretString, [u8; 32]) {
    let token = SecretString::from(hex::encode(rand::random::<[u8; 32]>()));
    let hash = hash(token.expose_secret());
    (token, hash)
}

/// What is stored of a token.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// The address of a page with the token in it.
pub(super) fn url(public_url: &str, page: &str, token: &SecretString) -> SecretString {
    format!("{}/{page}?token={}", public_url.trim_end_matches('/'), token.expose_secret()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_64_hex_digits_and_never_the_same() {
        let (one, hash_of_one) = new_token();
        let (two, _) = new_token();
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(one.expose_secret().len(), 64);
        assert!(one.expose_secret().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert_eq!(hash(one.expose_secret()), hash_of_one);
    }
}
