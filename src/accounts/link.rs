//! One-time tokens in mailed links: 32 random bytes as 64 hexadecimal digits. Only their SHA-256 is stored.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{Accounts, pace};
use crate::language::Language;
use crate::mail::{Letter, Mail};
use crate::store::{OneTimeToken, StoreError, TokenPurpose, UserRow};

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
/// How long after a link an account gets no further one for the same purpose: a minute. After that it does, since the first mail
/// may be lost.
pub const LINK_GAP_MS: i64 = 60 * 1000;
/// How many unexpired links for one purpose an account has at most. They expire by themselves, so nobody can bar an
/// account from its mail for longer than a link lives.
pub const MAX_LINKS: i64 = 5;

/// Why no link was asked for. Does not depend on whether the address is known.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// This server can't send any.
    #[error("Links by e-mail are not available: this server has no mail configured. Ask its operator for help.")]
    NoMail,
    /// The database failed.
    #[error("database unavailable, please retry")]
    Database(#[from] StoreError),
}

/// What a link is for and how it is sent.
pub(super) struct LinkKind {
    pub(super) purpose: TokenPurpose,
    /// The page behind it.
    page: &'static str,
    lifetime_ms: i64,
    letter: fn(SecretString) -> Letter,
}

pub(super) const MAGIC_LOGIN: LinkKind = LinkKind {
    purpose: TokenPurpose::MagicLogin,
    page: "magic-login",
    lifetime_ms: MAGIC_LOGIN_LIFETIME_MS,
    letter: |link| Letter::MagicLogin { link },
};
pub(super) const RESET_PASSWORD: LinkKind = LinkKind {
    purpose: TokenPurpose::ResetPassword,
    page: "reset-password",
    lifetime_ms: RESET_PASSWORD_LIFETIME_MS,
    letter: |link| Letter::ResetPassword { link },
};
pub(super) const RECOVER_PASSKEY: LinkKind = LinkKind {
    purpose: TokenPurpose::RecoverPasskey,
    page: "recover-passkey",
    lifetime_ms: RECOVER_PASSKEY_LIFETIME_MS,
    letter: |link| Letter::RecoverPasskey { link },
};
pub(super) const CHANGE_ADDRESS: LinkKind = LinkKind {
    purpose: TokenPurpose::ChangeAddress,
    page: "change-email",
    lifetime_ms: CHANGE_ADDRESS_LIFETIME_MS,
    letter: |link| Letter::ChangeAddress { link },
};

impl Accounts {
    /// Does `work`, which asks for a link, in the same time whatever it comes to.
    pub(super) async fn neutrally<T>(
        &self,
        purpose: TokenPurpose,
        work: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<(), LinkError> {
        if !self.can_mail() {
            return Err(LinkError::NoMail);
        }
        let began = tokio::time::Instant::now();
        let done = work.await;
        pace::level(began).await;
        let outcome = if done.is_ok() { "ok" } else { "error" };
        metrics::counter!("supersync_link_requests_total", "purpose" => purpose.as_str(), "outcome" => outcome)
            .increment(1);
        done?;
        Ok(())
    }

    /// Mails a link to a verified account, or, as `new_email`, to the address that it wants, in the language of who asks;
    /// unless it has just got one or has too many. Whether it did.
    pub(super) async fn mail_link(
        &self,
        user: &UserRow,
        kind: &LinkKind,
        new_email: Option<&str>,
        language: Language,
    ) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        let (token, hash) = new_token();
        let now_ms = inner.clock.now_ms();
        let link = OneTimeToken {
            hash,
            purpose: kind.purpose,
            user: user.id,
            pending_password_hash: None,
            created_at: now_ms,
            expires_at: now_ms + kind.lifetime_ms,
        };
        if !inner.store.put_link(&link, new_email, LINK_GAP_MS, MAX_LINKS).await? {
            return Ok(false);
        }
        let letter = (kind.letter)(url(&inner.public_url, kind.page, &token));
        let to = new_email.unwrap_or(&user.email).to_owned();
        inner.mailer.send(Mail { user: user.id, to, letter, language });
        Ok(true)
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
