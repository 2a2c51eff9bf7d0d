//! The two ceremonies (`WebAuthn` level 3, sections 7.1 and 7.2).

use minicbor::Decoder;
use sha2::{Digest as _, Sha256};

use super::authenticator_data::AuthenticatorData;
use super::client_data::ClientData;
use super::key::PublicKey;
use super::{AssertionResponse, RegistrationResponse, RelyingParty, WebauthnError, stored_transports};

/// The largest attestation object, in bytes.
const MAX_ATTESTATION_BYTES: usize = 64 * 1024;
/// Formats whose statements vouch for the model of an authenticator. Nothing here depends on the model, so they are not
/// read; anybody could have sent `none` instead.
const UNREAD_FORMATS: [&str; 5] = ["tpm", "android-key", "android-safetynet", "fido-u2f", "apple"];

/// A new key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Registered {
    pub credential_id: Vec<u8>,
    /// COSE, as the authenticator gave it.
    pub public_key: Vec<u8>,
    pub counter: u32,
    pub backup_eligible: bool,
    /// A JSON array of texts.
    pub transports: Option<String>,
}

/// What is known about a key.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct StoredKey<'a> {
    pub credential_id: &'a [u8],
    /// COSE.
    pub public_key: &'a [u8],
    pub counter: i64,
    /// `None`: not known.
    pub backup_eligible: Option<bool>,
}

/// What a good assertion says; to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Assertion {
    pub counter: u32,
    /// Whether the authenticator made sure of its user, by a PIN or a finger.
    pub user_verified: bool,
    pub backup_eligible: bool,
}

/// Checks the answer to a request for a new key.
///
/// # Errors
/// See [`WebauthnError`].
pub fn verify_registration(
    rp: &RelyingParty,
    challenge: &[u8],
    response: &RegistrationResponse,
) -> Result<Registered, WebauthnError> {
    ClientData::parse(&response.client_data)?.check("webauthn.create", challenge, rp)?;
    let attestation = Attestation::parse(&response.attestation_object).ok_or(WebauthnError::Attestation)?;
    let data = AuthenticatorData::parse(attestation.authenticator_data)?;
    data.check(rp)?;
    let key = data.key.as_ref().ok_or(WebauthnError::AuthenticatorData)?;
    if key.credential_id != response.raw_id {
        return Err(WebauthnError::CredentialId);
    }
    let public_key = PublicKey::parse(key.public_key)?;
    attestation.check(&public_key, &response.client_data)?;
    Ok(Registered {
        credential_id: key.credential_id.to_vec(),
        public_key: key.public_key.to_vec(),
        counter: data.counter,
        backup_eligible: data.backup_eligible(),
        transports: stored_transports(response.transports.as_deref()),
    })
}

/// Checks the answer to a request to sign in with a key.
///
/// # Errors
/// See [`WebauthnError`].
pub fn verify_assertion(
    rp: &RelyingParty,
    challenge: &[u8],
    stored: &StoredKey<'_>,
    response: &AssertionResponse,
) -> Result<Assertion, WebauthnError> {
    if stored.credential_id != response.raw_id {
        return Err(WebauthnError::CredentialId);
    }
    ClientData::parse(&response.client_data)?.check("webauthn.get", challenge, rp)?;
    let data = AuthenticatorData::parse(&response.authenticator_data)?;
    data.check(rp)?;
    let signed = [&response.authenticator_data[..], &Sha256::digest(&response.client_data)].concat();
    PublicKey::parse(stored.public_key)?.verify(&signed, &response.signature)?;
    // A key can't become one that may leave its device, nor the other way round.
    if stored.backup_eligible.is_some_and(|known| known != data.backup_eligible()) {
        return Err(WebauthnError::BackupFlags);
    }
    let counter = i64::from(data.counter);
    if (counter > 0 || stored.counter > 0) && counter <= stored.counter {
        return Err(WebauthnError::Counter);
    }
    Ok(Assertion {
        counter: data.counter,
        user_verified: data.user_verified(),
        backup_eligible: data.backup_eligible(),
    })
}

/// The parts of an attestation object.
struct Attestation<'a> {
    format: &'a str,
    authenticator_data: &'a [u8],
    statement: Statement<'a>,
}

/// The members of a statement that self attestation has.
#[derive(Default)]
struct Statement<'a> {
    algorithm: Option<i64>,
    signature: Option<&'a [u8]>,
    has_certificates: bool,
}

impl<'a> Attestation<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() > MAX_ATTESTATION_BYTES {
            return None;
        }
        let mut decoder = Decoder::new(bytes);
        let (mut format, mut authenticator_data, mut statement) = (None, None, None);
        for _ in 0..decoder.map().ok()?? {
            match decoder.str().ok()? {
                "fmt" => format = Some(decoder.str().ok()?),
                "authData" => authenticator_data = Some(decoder.bytes().ok()?),
                "attStmt" => statement = Some(Statement::read(&mut decoder)?),
                _ => decoder.skip().ok()?,
            }
        }
        (decoder.position() == bytes.len()).then_some(())?;
        Some(Self { format: format?, authenticator_data: authenticator_data?, statement: statement? })
    }

    /// A key that attests itself must have signed; other statements vouch for what nobody asks.
    fn check(&self, key: &PublicKey<'_>, client_data: &[u8]) -> Result<(), WebauthnError> {
        match self.format {
            "none" => Ok(()),
            "packed" if self.statement.has_certificates => Ok(()),
            "packed" => {
                let signature = self.statement.signature.ok_or(WebauthnError::Attestation)?;
                if self.statement.algorithm != Some(key.algorithm()) {
                    return Err(WebauthnError::Attestation);
                }
                key.verify(&[self.authenticator_data, &Sha256::digest(client_data)].concat(), signature)
            }
            format if UNREAD_FORMATS.contains(&format) => Ok(()),
            _ => Err(WebauthnError::Attestation),
        }
    }
}

impl<'a> Statement<'a> {
    fn read(decoder: &mut Decoder<'a>) -> Option<Self> {
        let mut statement = Self::default();
        for _ in 0..decoder.map().ok()?? {
            match decoder.str().ok()? {
                "alg" => statement.algorithm = Some(decoder.i64().ok()?),
                "sig" => statement.signature = Some(decoder.bytes().ok()?),
                "x5c" => {
                    statement.has_certificates = true;
                    decoder.skip().ok()?;
                }
                _ => decoder.skip().ok()?,
            }
        }
        Some(statement)
    }
}
