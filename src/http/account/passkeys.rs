//! Passkeys: registration, login, recovery (accounts contract, sections 4.5 to 4.7), and those of somebody signed in.

use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::links::{Applying, ByLink, ToAddress};
use super::sessions::Rename;
use super::{NewSession, RegistrationTaken, close_sockets, registered, session, to_the_end};
use crate::accounts::{AccountError, Creation};
use crate::http::body::JsonBody;
use crate::http::codes;
use crate::http::encode::{self, Answer, Message, Success};
use crate::http::error::ApiResult;
use crate::http::fields::{Email, Ignored, Registration, members};
use crate::http::registrant;
use crate::http::sender::{Account, Client, SteppedUp};
use crate::http::state::AppState;
use crate::store::{PasskeyRow, SessionMethod, TokenPurpose};
use crate::webauthn::{ALGORITHMS, AssertionResponse, RegistrationResponse, RelyingParty, user_handle};

/// How long browsers wait for the authenticator, milliseconds (accounts contract, section 6.1).
const TIMEOUT_MS: u32 = 60_000;

members! {
    /// `POST /api/register/passkey/verify`. Consent was given, or not, when the ceremony began.
    Register {
        email: Email = email(),
        credential: Map<String, Value> = credential(),
        invite: Option<SecretString> = invite(),
    }
    /// `POST /api/login/passkey/verify`.
    Login {
        email: Email = email(),
        credential: Map<String, Value> = credential(),
    }
    /// `POST /api/recover/passkey/complete`.
    Recover {
        token: SecretString = token(),
        credential: Map<String, Value> = credential(),
    }
    /// `POST /api/passkeys/verify`.
    Add {
        credential: Map<String, Value> = credential(),
        name: String = name(),
    }
}

pub async fn register_options(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Applying>,
) -> ApiResult<Answer<CreationOptions>> {
    let as_sent = request.registration.email.as_sent.clone();
    let applicant = client.applicant(request.registration);
    let creation = state.accounts.begin_passkey_registration(&applicant, as_sent).await?;
    encode::private(&CreationOptions::new(state.accounts.relying_party(), &creation, true))
}

pub async fn register(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Register>,
) -> ApiResult<Answer<RegistrationTaken, 201>> {
    let Register { email, credential, invite } = request;
    let applicant = client.applicant(Registration { email, terms_accepted: false, invite });
    let response = registration_response(&credential).ok_or(AccountError::PasskeyRejected)?;
    let receipt = state.accounts.register_with_passkey(&applicant, &response).await?;
    let answer = registered(receipt.registered, None)?;
    Ok(answer.map(|response| registrant::hand_out(response, &state, &receipt.secret)))
}

pub async fn login_options(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<ToAddress>,
) -> ApiResult<Answer<RequestOptions>> {
    let challenge = state.accounts.begin_passkey_login(&request.email.address).await?;
    encode::private(&RequestOptions::new(state.accounts.relying_party(), &challenge, "preferred"))
}

pub async fn login(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Login>,
) -> ApiResult<Answer<NewSession>> {
    let response = assertion_response(&request.credential).ok_or(AccountError::AuthenticationFailed)?;
    let origin = client.origin(SessionMethod::Passkey);
    let opened = state.accounts.login_with_passkey(&request.email.address, &response, &origin).await;
    session(opened.map_err(codes::of_sign_in)?)
}

pub async fn request_recovery(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<ToAddress>,
) -> ApiResult<Answer<Message>> {
    state.accounts.request_link(TokenPurpose::RecoverPasskey, &request.email.address, client.language).await?;
    encode::ok(&Message { message: "If an account with that email exists, a recovery link has been sent." })
}

/// Options to make a passkey, and for which account.
#[derive(Serialize, ToSchema)]
pub struct Recovery {
    email: String,
    options: CreationOptions,
}

pub async fn recovery_options(
    State(state): State<AppState>,
    JsonBody(request): JsonBody<ByLink>,
) -> ApiResult<Answer<Recovery>> {
    let creation = state.accounts.begin_passkey_recovery(request.token.expose_secret()).await?;
    let options = CreationOptions::new(state.accounts.relying_party(), &creation, false);
    encode::private(&Recovery { email: creation.email, options })
}

pub async fn recover(
    State(state): State<AppState>,
    client: Client,
    JsonBody(request): JsonBody<Recover>,
) -> ApiResult<Answer<Message>> {
    to_the_end(async move {
        // The link is judged first: somebody without one learns nothing about the rest.
        let response = registration_response(&request.credential).unwrap_or_default();
        let asker = client.asker();
        let user = state.accounts.recover_passkey(request.token.expose_secret(), &response, &asker).await?;
        close_sockets(&state, user);
        Ok(())
    })
    .await?;
    encode::ok(&Message { message: "Passkey has been reset successfully. You can now log in with your new passkey." })
}

/// The passkeys of an account.
#[derive(Serialize, ToSchema)]
pub struct Passkeys {
    passkeys: Vec<PasskeySummary>,
}

/// A passkey. Times are Unix milliseconds.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PasskeySummary {
    id: String,
    name: String,
    created_at: i64,
    last_used_at: Option<i64>,
    /// As the browser reported them.
    transports: Vec<String>,
    /// Whether it can be on several devices; `null`: not known.
    synced: Option<bool>,
}

impl From<PasskeyRow> for PasskeySummary {
    fn from(row: PasskeyRow) -> Self {
        // A text that is no list counts as none.
        let transports = row.key.transports.and_then(|text| serde_json::from_str(&text).ok());
        Self {
            id: row.id.to_string(),
            name: row.key.name,
            created_at: row.key.created_at,
            last_used_at: row.last_used_at,
            transports: transports.unwrap_or_default(),
            synced: row.key.backup_eligible,
        }
    }
}

pub async fn list(State(state): State<AppState>, user: Account) -> ApiResult<Answer<Passkeys>> {
    let keys = state.accounts.passkeys(user.user_id).await?;
    encode::private(&Passkeys { passkeys: keys.into_iter().map(PasskeySummary::from).collect() })
}

/// A passkey was added.
#[derive(Serialize, ToSchema)]
pub struct PasskeyAdded {
    id: String,
}

pub async fn add_options(
    State(state): State<AppState>,
    SteppedUp(user, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<CreationOptions>> {
    let creation = state.accounts.begin_adding_passkey(&user).await?;
    encode::private(&CreationOptions::new(state.accounts.relying_party(), &creation, true))
}

/// Needs no further proof of who asks: the challenge was given to somebody who had just proven it.
pub async fn add(
    State(state): State<AppState>,
    client: Client,
    user: Account,
    JsonBody(request): JsonBody<Add>,
) -> ApiResult<Answer<PasskeyAdded, 201>> {
    let response = registration_response(&request.credential).ok_or(AccountError::PasskeyRejected)?;
    let id = state.accounts.add_passkey(&user, &response, &request.name, &client.asker()).await?;
    encode::created(&PasskeyAdded { id: id.to_string() })
}

pub async fn rename(
    State(state): State<AppState>,
    Path(id): Path<String>,
    user: Account,
    JsonBody(request): JsonBody<Rename>,
) -> ApiResult<Answer<Success>> {
    state.accounts.rename_passkey(user.user_id, number(&id)?, &request.name).await?;
    encode::success()
}

pub async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    client: Client,
    SteppedUp(user, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<Success>> {
    state.accounts.remove_passkey(user.user_id, number(&id)?, &client.asker()).await?;
    encode::success()
}

/// A passkey's number. What is none names none.
fn number(id: &str) -> Result<i64, AccountError> {
    id.parse().map_err(|_| AccountError::NoPasskey)
}

/// Options to sign in with a passkey (accounts contract, section 6.2). These and those to make one have their members in
/// alphabetical order.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_credentials: Option<Vec<Descriptor>>,
    challenge: String,
    rp_id: String,
    timeout: u32,
    user_verification: &'static str,
}

impl RequestOptions {
    /// Options for any key that this party knows.
    pub(super) fn new(rp: &RelyingParty, challenge: &[u8], user_verification: &'static str) -> Self {
        let challenge = URL_SAFE_NO_PAD.encode(challenge);
        Self { allow_credentials: None, challenge, rp_id: rp.id.clone(), timeout: TIMEOUT_MS, user_verification }
    }

    /// The same for one of these keys.
    pub(super) fn among(self, keys: &[Vec<u8>]) -> Self {
        Self { allow_credentials: Some(Descriptor::all(keys)), ..self }
    }
}

/// A key, as browsers want it named.
#[derive(Serialize, ToSchema)]
struct Descriptor {
    id: String,
    r#type: &'static str,
}

const PUBLIC_KEY: &str = "public-key";

impl Descriptor {
    fn all(keys: &[Vec<u8>]) -> Vec<Self> {
        keys.iter().map(|id| Self { id: URL_SAFE_NO_PAD.encode(id), r#type: PUBLIC_KEY }).collect()
    }
}

/// Options to make a passkey, bare (accounts contract, section 6.1).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreationOptions {
    attestation: &'static str,
    authenticator_selection: AuthenticatorSelection,
    challenge: String,
    exclude_credentials: Vec<Descriptor>,
    extensions: Extensions,
    #[schema(value_type = Vec<String>)]
    hints: [&'static str; 0],
    pub_key_cred_params: Vec<Algorithm>,
    rp: Party,
    timeout: u32,
    user: User,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AuthenticatorSelection {
    require_resident_key: bool,
    resident_key: &'static str,
    user_verification: &'static str,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Extensions {
    cred_props: bool,
}

#[derive(Serialize, ToSchema)]
struct Algorithm {
    alg: i64,
    r#type: &'static str,
}

#[derive(Serialize, ToSchema)]
struct Party {
    id: String,
    name: String,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct User {
    display_name: String,
    id: String,
    name: String,
}

impl CreationOptions {
    /// `discoverable`: the key must be found without being named; a recovery would rather have a key than none.
    fn new(rp: &RelyingParty, creation: &Creation, discoverable: bool) -> Self {
        let algorithms = ALGORITHMS.iter().map(|alg| Algorithm { alg: *alg, r#type: PUBLIC_KEY });
        let id = URL_SAFE_NO_PAD.encode(user_handle(&creation.challenge));
        Self {
            attestation: "none",
            authenticator_selection: AuthenticatorSelection {
                require_resident_key: discoverable,
                resident_key: if discoverable { "required" } else { "preferred" },
                user_verification: creation.verification.as_str(),
            },
            challenge: URL_SAFE_NO_PAD.encode(creation.challenge),
            exclude_credentials: Descriptor::all(&creation.exclude),
            extensions: Extensions { cred_props: true },
            hints: [],
            pub_key_cred_params: algorithms.collect(),
            rp: Party { id: rp.id.clone(), name: rp.name.clone() },
            timeout: TIMEOUT_MS,
            user: User { display_name: creation.email.clone(), id, name: creation.email.clone() },
        }
    }
}

/// What both kinds of credential have: the raw id (the id says the same), and the response's members.
fn parts_of(credential: &Map<String, Value>) -> Option<(Vec<u8>, &Map<String, Value>)> {
    let raw_id = credential.get("rawId")?.as_str()?;
    let is_right = credential.get("id")?.as_str()? == raw_id && credential.get("type")?.as_str()? == "public-key";
    is_right.then_some(())?;
    Some((URL_SAFE_NO_PAD.decode(raw_id).ok()?, credential.get("response")?.as_object()?))
}

fn bytes(members: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(members.get(name)?.as_str()?).ok()
}

fn registration_response(credential: &Map<String, Value>) -> Option<RegistrationResponse> {
    let (raw_id, members) = parts_of(credential)?;
    let transports = members.get("transports").and_then(Value::as_array);
    Some(RegistrationResponse {
        raw_id,
        client_data: bytes(members, "clientDataJSON")?,
        attestation_object: bytes(members, "attestationObject")?,
        transports: transports.map(|list| list.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
    })
}

pub(super) fn assertion_response(credential: &Map<String, Value>) -> Option<AssertionResponse> {
    let (raw_id, members) = parts_of(credential)?;
    let user_handle = match members.get("userHandle") {
        None | Some(Value::Null) => None,
        Some(_) => Some(bytes(members, "userHandle")?),
    };
    Some(AssertionResponse {
        raw_id,
        client_data: bytes(members, "clientDataJSON")?,
        authenticator_data: bytes(members, "authenticatorData")?,
        signature: bytes(members, "signature")?,
        user_handle,
    })
}
