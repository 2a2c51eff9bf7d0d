//! The two ceremonies (`WebAuthn` level 3, sections 7.1 and 7.2): the only place that calls the library.

use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tracing::{Dispatch, dispatcher};
use url::Url;
use webauthn_rs_core::WebauthnCore;
use webauthn_rs_core::error::WebauthnError as LibraryError;
use webauthn_rs_core::proto::{
    AttestationFormat, AuthenticationExtensionsClientOutputs, AuthenticationState, AuthenticatorAssertionResponseRaw,
    AuthenticatorAttestationResponseRaw, COSEAlgorithm, COSEKey, COSEKeyType, Credential, ECDSACurve,
    ParsedAttestation, PublicKeyCredential, RegisterPublicKeyCredential, RegisteredExtensions,
    RegistrationExtensionsClientOutputs, RegistrationState, UserVerificationPolicy,
};

use super::adopted_ed25519::AdoptedEd25519;
use super::authenticator_data::{self, AuthenticatorData, split_item};
use super::client_data::ClientData;
use super::{AssertionResponse, RegistrationResponse, RelyingParty, WebauthnError, stored_transports, user_handle};

/// How long browsers wait for an authenticator (accounts contract, section 6.1).
const TIMEOUT: Duration = Duration::from_mins(1);
/// The longest user handle, in bytes (`WebAuthn` level 3, section 5.4.3).
const MAX_USER_HANDLE_BYTES: usize = 64;
/// A placeholder for the library, without influence on its result.
const UNUSED: &str = "-";

/// User verification by the authenticator: PIN, fingerprint, face.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// If possible.
    Preferred,
    /// Or the ceremony fails.
    Required,
}

impl Verification {
    /// The value for browsers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Preferred => "preferred",
            Self::Required => "required",
        }
    }
}

/// A ceremony awaiting its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begun {
    /// What the authenticator is to sign.
    pub challenge: [u8; 32],
    /// The library's state, stored with the challenge; confidential.
    pub state: String,
}

/// A new key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Registered {
    pub credential_id: Vec<u8>,
    /// COSE, as the authenticator gave it.
    pub public_key: Vec<u8>,
    pub counter: u32,
    pub backup_eligible: bool,
    /// The user handle that the key will present at sign-in.
    pub user_handle: [u8; 32],
    /// A JSON array of texts.
    pub transports: Option<String>,
}

/// A stored key.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct StoredKey<'a> {
    pub credential_id: &'a [u8],
    /// COSE.
    pub public_key: &'a [u8],
    pub counter: i64,
    /// `None`: not known.
    pub backup_eligible: Option<bool>,
    /// `None`: not known.
    pub user_handle: Option<&'a [u8]>,
}

/// The content of a valid assertion, to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Assertion {
    pub counter: u32,
    pub backup_eligible: bool,
    /// Whether the authenticator verified the user.
    pub user_verified: bool,
}

/// Registrations and sign-ins for one relying party.
pub struct Ceremonies {
    rp: RelyingParty,
    library: WebauthnCore,
}

impl Ceremonies {
    /// For this relying party. If its origin is no URL, all ceremonies fail.
    #[must_use]
    pub fn new(rp: RelyingParty) -> Self {
        let origins = Url::parse(&rp.origin).into_iter().collect();
        let library =
            WebauthnCore::new_unsafe_experts_only(&rp.name, &rp.id, origins, TIMEOUT, Some(false), Some(false));
        Self { rp, library }
    }

    /// The relying party.
    #[must_use]
    pub const fn relying_party(&self) -> &RelyingParty {
        &self.rp
    }

    /// Begins making a key that is none of `exclude`.
    ///
    /// # Errors
    /// When the library is not what it was.
    pub fn begin_registration(&self, exclude: &[Vec<u8>], verification: Verification) -> Result<Begun, WebauthnError> {
        quietly(|| {
            let builder = self.library.new_challenge_register_builder(UNUSED.as_bytes(), UNUSED, UNUSED)?;
            let builder = builder
                .user_verification_policy(policy(verification))
                .credential_algorithms(vec![COSEAlgorithm::ES256, COSEAlgorithm::RS256])
                .exclude_credentials(Some(exclude.to_vec()));
            self.library.generate_challenge_register(builder)
        })
        .map_err(WebauthnError::Library)
        .and_then(|(options, state)| begun(&options.public_key.challenge, &state))
    }

    /// Begins a sign-in with any key. The caller checks [`Assertion::user_verified`] where required, since the library
    /// does not check all keys.
    ///
    /// # Errors
    /// When the library is not what it was.
    pub fn begin_sign_in(&self, verification: Verification) -> Result<Begun, WebauthnError> {
        quietly(|| {
            let policy = policy(verification);
            let builder = self.library.new_challenge_authenticate_builder(Vec::new(), Some(policy))?;
            self.library.generate_challenge_authenticate(builder)
        })
        .map_err(WebauthnError::Library)
        .and_then(|(options, state)| begun(&options.public_key.challenge, &state))
    }

    /// Checks the answer to a request for a new key.
    ///
    /// # Errors
    /// See [`WebauthnError`].
    pub fn register(&self, begun: &Begun, response: &RegistrationResponse) -> Result<Registered, WebauthnError> {
        ClientData::parse(&response.client_data)?.check("webauthn.create", &begun.challenge, &self.rp)?;
        let data = authenticator_data::of_attestation(&response.attestation_object)?;
        let data = AuthenticatorData::parse(&data)?;
        data.check(&self.rp)?;
        let key = data.key.as_ref().ok_or(WebauthnError::AuthenticatorData)?;
        if key.credential_id != response.raw_id {
            return Err(WebauthnError::CredentialId);
        }
        sound_key(key.public_key)?;
        let state: RegistrationState = serde_json::from_str(&begun.state).map_err(|_| WebauthnError::State)?;
        let given = RegisterPublicKeyCredential {
            id: UNUSED.to_owned(),
            raw_id: response.raw_id.clone(),
            response: AuthenticatorAttestationResponseRaw {
                attestation_object: response.attestation_object.clone(),
                client_data_json: response.client_data.clone(),
                transports: None,
            },
            type_: "public-key".to_owned(),
            extensions: RegistrationExtensionsClientOutputs::default(),
        };
        let made = quietly(|| self.library.register_credential(&given, &state, None));
        let made = made.map_err(WebauthnError::Library)?;
        Ok(Registered {
            credential_id: made.cred_id,
            public_key: key.public_key.to_vec(),
            counter: made.counter,
            backup_eligible: made.backup_eligible,
            user_handle: user_handle(&begun.challenge),
            transports: stored_transports(response.transports.as_deref()),
        })
    }

    /// Checks the answer to a request to sign in with a key.
    ///
    /// # Errors
    /// See [`WebauthnError`].
    pub fn sign_in(
        &self,
        begun: &Begun,
        stored: &StoredKey<'_>,
        response: &AssertionResponse,
    ) -> Result<Assertion, WebauthnError> {
        if stored.credential_id != response.raw_id {
            return Err(WebauthnError::CredentialId);
        }
        ClientData::parse(&response.client_data)?.check("webauthn.get", &begun.challenge, &self.rp)?;
        if let Some(given) = response.user_handle.as_deref()
            && (given.is_empty()
                || given.len() > MAX_USER_HANDLE_BYTES
                || stored.user_handle.is_some_and(|known| known != given))
        {
            return Err(WebauthnError::UserHandle);
        }
        let data = AuthenticatorData::parse(&response.authenticator_data)?;
        data.check(&self.rp)?;
        if data.key.is_some() {
            return Err(WebauthnError::AuthenticatorData);
        }
        // Backup eligibility of a key can't change.
        if stored.backup_eligible.is_some_and(|known| known != data.backup_eligible()) {
            return Err(WebauthnError::BackupFlags);
        }
        let counter = i64::from(data.counter);
        if (counter > 0 || stored.counter > 0) && counter <= stored.counter {
            return Err(WebauthnError::Counter);
        }
        if let Some(key) = AdoptedEd25519::of(stored.public_key) {
            let signed = [&response.authenticator_data[..], &Sha256::digest(&response.client_data)].concat();
            key.verify(&signed, &response.signature)?;
        } else {
            self.ask_library(begun, stored, &data, response)?;
        }
        Ok(Assertion {
            counter: data.counter,
            backup_eligible: data.backup_eligible(),
            user_verified: data.user_verified(),
        })
    }

    /// The library's check of a sign-in, with the stored key.
    fn ask_library(
        &self,
        begun: &Begun,
        stored: &StoredKey<'_>,
        data: &AuthenticatorData<'_>,
        response: &AssertionResponse,
    ) -> Result<(), WebauthnError> {
        let state: AuthenticationState = serde_json::from_str(&begun.state).map_err(|_| WebauthnError::State)?;
        let key = Credential {
            cred_id: stored.credential_id.to_vec(),
            cred: sound_key(stored.public_key)?,
            counter: u32::try_from(stored.counter).map_err(|_| WebauthnError::Counter)?,
            transports: None,
            // User verification is required by each ceremony's policy, not by the key's registration.
            user_verified: false,
            registration_policy: policy(Verification::Preferred),
            // Unknown for keys of the old server: taken from their first answer.
            backup_eligible: stored.backup_eligible.unwrap_or(data.backup_eligible()),
            backup_state: data.backed_up(),
            extensions: RegisteredExtensions::none(),
            attestation: ParsedAttestation::default(),
            attestation_format: AttestationFormat::None,
        };
        let given = PublicKeyCredential {
            id: UNUSED.to_owned(),
            raw_id: response.raw_id.clone(),
            response: AuthenticatorAssertionResponseRaw {
                authenticator_data: response.authenticator_data.clone(),
                client_data_json: response.client_data.clone(),
                signature: response.signature.clone(),
                user_handle: response.user_handle.clone(),
            },
            extensions: AuthenticationExtensionsClientOutputs::default(),
            type_: "public-key".to_owned(),
        };
        match quietly(|| self.library.authenticate_single_credential(&given, &state, &key)) {
            Ok(_) => Ok(()),
            Err(LibraryError::AuthenticationFailure | LibraryError::SignatureInvalid) => Err(WebauthnError::Signature),
            Err(error) => Err(WebauthnError::Library(error)),
        }
    }
}

/// Runs the library without a log subscriber: it logs credentials, at every level. (A new subscriber would
/// invalidate the cached filters of all other log lines.)
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    dispatcher::with_default(&Dispatch::none(), work)
}

const fn policy(verification: Verification) -> UserVerificationPolicy {
    match verification {
        Verification::Preferred => UserVerificationPolicy::Preferred,
        Verification::Required => UserVerificationPolicy::Required,
    }
}

fn begun(challenge: &[u8], state: &impl Serialize) -> Result<Begun, WebauthnError> {
    let challenge = challenge.try_into().map_err(|_| WebauthnError::Challenge)?;
    Ok(Begun { challenge, state: serde_json::to_string(state).map_err(|_| WebauthnError::State)? })
}

/// A key for the library, unless its signatures could be forged. The library has checked that a point
/// is on its curve, and that an RSA modulus and exponent are odd.
fn sound_key(cose: &[u8]) -> Result<COSEKey, WebauthnError> {
    let Some((item, _, [])) = split_item(cose) else { return Err(WebauthnError::PublicKey) };
    let key = quietly(|| COSEKey::try_from(&item)).map_err(|_| WebauthnError::PublicKey)?;
    let is_sound = match (&key.type_, &key.key) {
        (COSEAlgorithm::ES256, COSEKeyType::EC_EC2(point)) => point.curve == ECDSACurve::SECP256R1,
        // 2048 significant bits, and no exponent below 2^16.
        (COSEAlgorithm::RS256, COSEKeyType::RSA(rsa)) => rsa.n.first().is_some_and(|top| *top >= 0x80) && rsa.e[0] != 0,
        _ => false,
    };
    if is_sound { Ok(key) } else { Err(WebauthnError::PublicKey) }
}
