//! Passkeys as far as this server uses them: checks of authenticators' answers.
//!
//! `webauthn-rs-core` checks registrations and sign-ins with ES256 and RS256 keys. Only [`Ceremonies`] calls it, and
//! makes up for its gaps:
//!
//! - Strict parsers run before its lenient ones: client data (exact origin, no embedding page: `client_data.rs`) and
//!   CBOR (no duplicates, no trailing bytes: `authenticator_data.rs`).
//! - RSA keys have 2048 significant bits and an exponent of at least 2^16, ES256 keys are on P-256.
//! - A key's user handle, once known, must not change.
//! - The library is not told of user verification at registration, so that a key made with a PIN works
//!   without one where verification is only preferred; an unknown backup flag is taken from the key's first use.
//! - The library logs credentials. It runs without a subscriber, so no setting can make those lines appear.
//!
//! Ed25519 keys, which the library can't read, were made for the old server and by early versions of this one. They
//! still sign in, through `adopted_ed25519.rs`, which has no other use; no new ones are made.
//!
//! Pure: no database, no clock, no HTTP. Challenges, ownership of keys, and policy are the accounts' part. Certificate
//! chains are not checked: the server requests no attestation and does not use it.

mod adopted_ed25519;
mod authenticator_data;
mod ceremonies;
mod client_data;

pub use ceremonies::{Assertion, Begun, Ceremonies, Registered, StoredKey, Verification};

use sha2::{Digest as _, Sha256};

/// COSE numbers of the algorithms that new keys may have, the preferred one first: ES256, RS256.
pub const ALGORITHMS: [i64; 2] = [-7, -257];
/// The longest credential id, in bytes (`WebAuthn` level 3, section 5.8.3).
pub const MAX_CREDENTIAL_ID_BYTES: usize = 1023;
/// The largest public key that is kept, in bytes.
const MAX_PUBLIC_KEY_BYTES: usize = 2048;
/// Most transports of a key, and the longest of their names, in characters.
const MAX_TRANSPORTS: usize = 8;
const MAX_TRANSPORT_CHARS: usize = 32;

/// Whom authenticators make keys for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelyingParty {
    /// A domain; keys are bound to it for ever.
    pub id: String,
    /// What people read.
    pub name: String,
    /// The one origin that pages may have, as browsers write it.
    pub origin: String,
}

/// What `navigator.credentials.create()` gave.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct RegistrationResponse {
    pub raw_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub attestation_object: Vec<u8>,
    pub transports: Option<Vec<String>>,
}

/// What `navigator.credentials.get()` gave.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct AssertionResponse {
    pub raw_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub signature: Vec<u8>,
    /// `None`: the authenticator sent none.
    pub user_handle: Option<Vec<u8>>,
}

/// Why something proves nothing. For the log; users are told no more than that it failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WebauthnError {
    #[error("unreadable client data")]
    ClientData,
    #[error("made by another ceremony")]
    Ceremony,
    #[error("another challenge")]
    Challenge,
    #[error("another origin")]
    Origin,
    #[error("made within a page of another origin")]
    CrossOrigin,
    #[error("unreadable authenticator data")]
    AuthenticatorData,
    #[error("another relying party")]
    RelyingParty,
    #[error("nobody was present")]
    UserNotPresent,
    #[error("credential id does not match")]
    CredentialId,
    #[error("another user handle")]
    UserHandle,
    #[error("unreadable or unsupported public key")]
    PublicKey,
    #[error("unreadable or unsupported attestation")]
    Attestation,
    #[error("wrong signature")]
    Signature,
    #[error("backup flags contradict each other or what was known")]
    BackupFlags,
    #[error("counter did not grow")]
    Counter,
    #[error("unreadable state of the ceremony")]
    State,
    /// The library's error; its text names a kind of fault and never any input.
    #[error("refused by the library: {0}")]
    Library(webauthn_rs_core::error::WebauthnError),
}

/// The challenge that client data names: what it is looked up by. Says nothing about whether it is the right one.
#[must_use]
pub fn challenge_of(client_data: &[u8]) -> Option<[u8; 32]> {
    client_data::ClientData::parse(client_data).ok()?.challenge()?.try_into().ok()
}

/// The user handle of a key made with this challenge. It is as random as the challenge, so that it does not identify
/// the account to authenticators, and any server can compute it to complete the ceremony.
#[must_use]
pub fn user_handle(challenge: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new_with_prefix(b"user handle ");
    hash.update(challenge);
    hash.finalize().into()
}

/// Transports as stored: a JSON array of those that could be some, or nothing.
fn stored_transports(given: Option<&[String]>) -> Option<String> {
    let plain = |name: &&String| {
        name.len() <= MAX_TRANSPORT_CHARS && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let kept: Vec<&String> = given?.iter().filter(plain).take(MAX_TRANSPORTS).collect();
    serde_json::to_string(&kept).ok()
}
