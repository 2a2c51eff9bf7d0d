//! One-time tokens in mailed links: 32 random bytes as 64 hexadecimal digits. Only their SHA-256 is stored.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// How long a verification link works: 24 hours (accounts contract, section 3).
pub const VERIFY_EMAIL_LIFETIME_MS: i64 = 24 * 60 * 60 * 1000;

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
