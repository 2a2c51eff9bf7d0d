//! Passkeys: registration, login, recovery (accounts contract, sections 4.5 to 4.7), and those of somebody signed in.
//!
//! | Route (bearer) | Answer |
//! | --- | --- |
//! | `GET /api/passkeys` | `{passkeys: [{id, name, createdAt, lastUsedAt, transports, synced}]}` |
//! | `POST /api/passkeys/options` `{currentPassword?}` | creation options |
//! | `POST /api/passkeys/verify` `{credential, name}` | 201 `{id}` |
//! | `PATCH /api/passkeys/{id}` `{name}` | `{success: true}` |
//! | `DELETE /api/passkeys/{id}` `{currentPassword?}` | `{success: true}` |

use axum::Router;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, patch, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{
    CLOSE_REVOKED, applicant, asker, confirmed_sender, encode, no_store, origin, registered, sender, session,
    to_the_end,
};
use crate::accounts::{Applicant, Creation, PasskeyError, ReauthError};
use crate::http::address;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::pages::preferred;
use crate::http::registrant;
use crate::http::state::AppState;
use crate::store::{PasskeyRow, SessionMethod};
use crate::webauthn::{ALGORITHMS, AssertionResponse, RegistrationResponse, RelyingParty, user_handle};

/// How long browsers wait for the authenticator, milliseconds (accounts contract, section 6.1).
pub(super) const TIMEOUT_MS: u32 = 60_000;

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/register/passkey/options", post(register_options))
        .route("/api/register/passkey/verify", post(register))
        .route("/api/login/passkey/options", post(login_options))
        .route("/api/login/passkey/verify", post(login))
        .route("/api/recover/passkey", post(request_recovery))
        .route("/api/recover/passkey/options", post(recovery_options))
        .route("/api/recover/passkey/complete", post(recover))
        .route("/api/passkeys", get(list))
        .route("/api/passkeys/options", post(add_options))
        .route("/api/passkeys/verify", post(add))
        .route("/api/passkeys/{id}", patch(rename).delete(remove))
}

async fn register_options(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let as_sent = fields.text("email").unwrap_or_default();
    let Some(who) = applicant(&state, &parts, &mut fields) else { return Err(fields.refuse()) };
    fields.check()?;
    let creation = state.accounts.begin_passkey_registration(&who, as_sent).await?;
    let options = creation_options(state.accounts.relying_party(), &creation, true);
    Ok(no_store(encode::json(StatusCode::OK, &options)))
}

async fn register(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let email = fields.address();
    let credential = fields.credential();
    let invite = fields.invite();
    let (Some(email), Some(credential)) = (email, credential) else { return Err(fields.refuse()) };
    fields.check()?;
    // Consent was given, or not, when the ceremony began.
    let (language, from) = (preferred(&parts.headers), address::of(&parts, &state));
    let who = Applicant { address: email, terms_accepted: false, invite, language, from };
    let response = registration_response(&credential).ok_or(PasskeyError::Verification)?;
    let receipt = state.accounts.register_with_passkey(&who, &response).await?;
    let body = json!({ "message": registered(receipt.registered) });
    Ok(registrant::hand_out(encode::json(StatusCode::CREATED, &body), &state, &receipt.secret))
}

async fn login_options(State(state): State<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(address) = fields.address() else { return Err(fields.refuse()) };
    let challenge = state.accounts.begin_passkey_login(&address).await?;
    let options = json!({
        "rpId": state.accounts.relying_party().id,
        "challenge": URL_SAFE_NO_PAD.encode(challenge),
        "timeout": TIMEOUT_MS,
        "userVerification": "preferred",
    });
    Ok(no_store(encode::json(StatusCode::OK, &options)))
}

async fn login(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let address = fields.address();
    let credential = fields.credential();
    let (Some(address), Some(credential)) = (address, credential) else { return Err(fields.refuse()) };
    let response = assertion_response(&credential).ok_or(PasskeyError::Authentication)?;
    let origin = origin(&state, &parts, SessionMethod::Passkey);
    let opened = state.accounts.login_with_passkey(&address, &response, &origin).await;
    opened.map(|opened| session(&opened)).map_err(|error| match error {
        PasskeyError::Challenge => ApiError::new(StatusCode::UNAUTHORIZED, error.to_string()),
        error => error.into(),
    })
}

async fn request_recovery(State(state): State<AppState>, headers: HeaderMap, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(address) = fields.address() else { return Err(fields.refuse()) };
    state.accounts.request_passkey_recovery(&address, preferred(&headers)).await?;
    let message = "If an account with that email exists, a recovery link has been sent.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn recovery_options(State(state): State<AppState>, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(token) = fields.token() else { return Err(fields.refuse()) };
    let creation = state.accounts.begin_passkey_recovery(token.expose_secret()).await?;
    let options = creation_options(state.accounts.relying_party(), &creation, false);
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "email": creation.email, "options": options }))))
}

async fn recover(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let token = fields.token();
    let credential = fields.credential();
    let (Some(token), Some(credential)) = (token, credential) else { return Err(fields.refuse()) };
    let asker = asker(&state, &parts);
    to_the_end(async move {
        // The link is judged first: somebody without one learns nothing about the rest.
        let response = registration_response(&credential).unwrap_or_else(RegistrationResponse::unreadable);
        let user = state.accounts.recover_passkey(token.expose_secret(), &response, &asker).await?;
        state.engine.notifier().close_user(user, CLOSE_REVOKED, "Token revoked");
        Ok(())
    })
    .await?;
    let message = "Passkey has been reset successfully. You can now log in with your new passkey.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn list(State(state): State<AppState>, parts: Parts) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let keys = state.accounts.passkeys(user.user_id).await?;
    let keys: Vec<Value> = keys.iter().map(one).collect();
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "passkeys": keys }))))
}

fn one(row: &PasskeyRow) -> Value {
    // What browsers reported; a text that is no list counts as none.
    let transports = row.key.transports.as_deref().and_then(|text| serde_json::from_str::<Vec<String>>(text).ok());
    json!({
        "id": row.id.to_string(),
        "name": row.key.name,
        "createdAt": row.key.created_at,
        "lastUsedAt": row.last_used_at,
        "transports": transports.unwrap_or_default(),
        "synced": row.key.backup_eligible,
    })
}

async fn add_options(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let user = confirmed_sender(&state, &parts, body).await?;
    let creation = state.accounts.begin_adding_passkey(&user).await?;
    let options = creation_options(state.accounts.relying_party(), &creation, true);
    Ok(no_store(encode::json(StatusCode::OK, &options)))
}

/// Needs no further proof of who asks: the challenge was given to somebody who had just proven it.
async fn add(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let credential = fields.credential();
    let name = fields.name();
    let (Some(credential), Some(name)) = (credential, name) else { return Err(fields.refuse()) };
    let user = sender(&state, &parts).await?;
    let response = registration_response(&credential).ok_or(PasskeyError::Verification)?;
    let id = state.accounts.add_passkey(&user, &response, &name, &asker(&state, &parts)).await?;
    Ok(encode::json(StatusCode::CREATED, &json!({ "id": id.to_string() })))
}

async fn rename(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(name) = fields.name() else { return Err(fields.refuse()) };
    let user = sender(&state, &parts).await?;
    state.accounts.rename_passkey(user.user_id, number(&id)?, &name).await?;
    Ok(encode::success())
}

async fn remove(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let user = confirmed_sender(&state, &parts, body).await?;
    state.accounts.remove_passkey(user.user_id, number(&id)?, &asker(&state, &parts)).await?;
    Ok(encode::success())
}

/// A passkey's number. What is none names none.
fn number(id: &str) -> Result<i64, PasskeyError> {
    id.parse().map_err(|_| PasskeyError::NoPasskey)
}

/// Creation options, bare (accounts contract, section 6.1). `discoverable`: the key must be found without being named;
/// a recovery would rather have a key than none.
fn creation_options(rp: &RelyingParty, creation: &Creation, discoverable: bool) -> Value {
    let algorithms: Vec<Value> = ALGORITHMS.iter().map(|alg| json!({ "alg": alg, "type": "public-key" })).collect();
    let exclude: Vec<Value> =
        creation.exclude.iter().map(|id| json!({ "id": URL_SAFE_NO_PAD.encode(id), "type": "public-key" })).collect();
    json!({
        "challenge": URL_SAFE_NO_PAD.encode(creation.challenge),
        "rp": { "name": rp.name, "id": rp.id },
        "user": {
            "id": URL_SAFE_NO_PAD.encode(user_handle(&creation.challenge)),
            "name": creation.email,
            "displayName": creation.email,
        },
        "pubKeyCredParams": algorithms,
        "timeout": TIMEOUT_MS,
        "attestation": "none",
        "excludeCredentials": exclude,
        "authenticatorSelection": {
            "residentKey": if discoverable { "required" } else { "preferred" },
            "userVerification": creation.verification.as_str(),
            "requireResidentKey": discoverable,
        },
        "extensions": { "credProps": true },
        "hints": [],
    })
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

impl From<PasskeyError> for ApiError {
    fn from(error: PasskeyError) -> Self {
        let status = match error {
            PasskeyError::Challenge | PasskeyError::Verification | PasskeyError::Link => StatusCode::BAD_REQUEST,
            PasskeyError::Authentication
            | PasskeyError::Unverified
            | PasskeyError::NotVerified
            | PasskeyError::NoAccount => StatusCode::UNAUTHORIZED,
            PasskeyError::NoSession => return ReauthError::Required.into(),
            PasskeyError::TooMany | PasskeyError::LastWayIn => StatusCode::CONFLICT,
            PasskeyError::NoPasskey => StatusCode::NOT_FOUND,
            PasskeyError::Broken(_) => StatusCode::INTERNAL_SERVER_ERROR,
            PasskeyError::Register(error) => return error.into(),
            PasskeyError::Database(error) => return error.into(),
        };
        Self::new(status, error.to_string())
    }
}
