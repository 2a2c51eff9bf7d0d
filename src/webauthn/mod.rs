//! `WebAuthn` as far as this server uses it: whether what an authenticator sent proves what it should.
//!
//! Pure: no database, no clock, no HTTP. Challenges, who owns which key and what follows are the accounts' part. Checks
//! what the accounts contract, section 6.3, asks for: ceremony, challenge, origin, relying party, user present (user
//! *verified* is not asked for), algorithm, signature, backup flags, and the counter's rule. No certificate chain is judged: the
//! server asks for no attestation and derives nothing from one.
//!
//! ES256, RS256 and `EdDSA` (Ed25519); signatures are checked by ring.

mod authenticator_data;
mod client_data;
mod key;
mod verify;

pub use verify::{Assertion, Registered, StoredKey, verify_assertion, verify_registration};

/// COSE numbers of the accepted algorithms, the preferred one first: `EdDSA`, ES256, RS256.
pub const ALGORITHMS: [i64; 3] = [-8, -7, -257];
/// The longest credential id, in bytes (`WebAuthn` level 3, section 5.8.3).
pub const MAX_CREDENTIAL_ID_BYTES: usize = 1023;
/// The largest public key that is kept, in bytes: RSA with 8192 bits fits.
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
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RegistrationResponse {
    pub raw_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub attestation_object: Vec<u8>,
    pub transports: Option<Vec<String>>,
}

impl RegistrationResponse {
    /// One that proves nothing, in the place of one that could not be read.
    #[must_use]
    pub const fn unreadable() -> Self {
        Self { raw_id: Vec::new(), client_data: Vec::new(), attestation_object: Vec::new(), transports: None }
    }
}

/// What `navigator.credentials.get()` gave.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct AssertionResponse {
    pub raw_id: Vec<u8>,
    pub client_data: Vec<u8>,
    pub authenticator_data: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Why something proves nothing. For the log; users are told no more than that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
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
}

/// The challenge that client data names: what it is looked up by. Says nothing about whether it is the right one.
#[must_use]
pub fn challenge_of(client_data: &[u8]) -> Option<[u8; 32]> {
    client_data::ClientData::parse(client_data).ok()?.challenge()?.try_into().ok()
}

/// Transports as stored: a JSON array of those that could be some, or nothing.
fn stored_transports(given: Option<&[String]>) -> Option<String> {
    let plain = |name: &&String| {
        name.len() <= MAX_TRANSPORT_CHARS && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let kept: Vec<&String> = given?.iter().filter(plain).take(MAX_TRANSPORTS).collect();
    serde_json::to_string(&kept).ok()
}
