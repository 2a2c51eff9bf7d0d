//! Account routes: register, log in, verify, replace the token, delete the account (accounts contract, sections 1, 2,
//! 4, 8, 9).
//!
//! Bodies are judged first and the sender after that, as the contract's order of work has it. An answer that carries a
//! session is never cached.

use axum::Router;
use axum::extract::{MatchedPath, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::address;
use super::body::JsonBody;
use super::encode;
use super::error::{ApiError, ApiResult};
use super::observe;
use super::pages::preferred;
use super::registrant;
use super::route;
use super::state::AppState;
use crate::accounts::{
    Applicant, Asker, AuthUser, HashError, LoginError, ManageError, RegisterError, Registered, Session, SessionError,
    SessionOrigin, Verified, VerifyError,
};
use crate::protocol::UserId;
use crate::store::SessionMethod;

mod admin;
mod fields;
mod invites;
mod links;
mod own;
mod passkeys;
mod qr;
mod sessions;
mod step_up;

use fields::Fields;
pub(super) use own::events;

/// WebSocket close code for "your session is void" (contract, section 9).
const CLOSE_REVOKED: u16 = 4003;

/// The account routes. Mount at the root.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/api/register", post(register))
        .route("/api/login", post(login))
        .route("/api/verify-email", post(verify_email))
        .route("/api/replace-token", post(replace_token))
        .route("/api/account/qr", get(qr::token_as_qr))
        .merge(sessions::router())
        .merge(step_up::router())
        .merge(links::router())
        .merge(passkeys::router())
        .merge(own::router())
        .merge(invites::router())
        .merge(admin::router())
}

async fn register(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let as_sent = fields.text("email");
    let address = fields.address();
    let password = fields.new_password();
    let terms_accepted = fields.consent(state.config.legal.requires_consent());
    let invite = fields.invite();
    let (Some(address), Some(password)) = (address, password) else { return Err(fields.refuse()) };
    fields.check()?;
    let from = address::of(&parts, &state);
    let who = Applicant { address, terms_accepted, invite, language: preferred(&parts.headers), from };
    let receipt = state.accounts.register(&who, &password).await?;
    let body = json!({ "message": registered(receipt.registered), "email": as_sent });
    Ok(registrant::hand_out(encode::json(StatusCode::CREATED, &body), &state, &receipt.secret))
}

/// Who registers, in the requests that give no password.
fn applicant(state: &AppState, parts: &Parts, fields: &mut Fields) -> Option<Applicant> {
    let address = fields.address();
    let terms_accepted = fields.consent(state.config.legal.requires_consent());
    let invite = fields.invite();
    let from = address::of(parts, state);
    Some(Applicant { address: address?, terms_accepted, invite, language: preferred(&parts.headers), from })
}

/// The answer to a registration, the same for every address (accounts contract, section 4.1).
const fn registered(done: Registered) -> &'static str {
    match done {
        Registered::CheckMail => "Registration successful. Please check your email to verify your account.",
        Registered::Verified => "Registration successful. Your account has been automatically verified.",
    }
}

async fn login(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let address = fields.address();
    let password = fields.password();
    let (Some(address), Some(password)) = (address, password) else { return Err(fields.refuse()) };
    fields.check()?;
    let origin = origin(&state, &parts, SessionMethod::Password);
    Ok(session(&state.accounts.login(&address, &password, &origin).await?))
}

/// What was registered counts if the request shows the cookie that the registration's answer set; else `password` does, and
/// without one the account has none.
async fn verify_email(State(state): State<AppState>, headers: HeaderMap, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let token = fields.token();
    let password = if fields.has("password") { fields.new_password() } else { None };
    let Some(token) = token else { return Err(fields.refuse()) };
    fields.check()?;
    let secret = registrant::shown(&headers, &state);
    let verified = state.accounts.verify_email(token.expose_secret(), secret.as_ref(), password.as_ref()).await?;
    let mut body = json!({ "message": "Email verified successfully" });
    if verified == Verified::WithoutPassword {
        body["passwordNeeded"] = true.into();
    }
    Ok(encode::json(StatusCode::OK, &body))
}

/// Voids every session of the account, gives out a new one and closes every socket, the caller's too: which device a
/// socket belongs to is only its own word. The body says nothing that matters.
async fn replace_token(State(state): State<AppState>, parts: Parts, _body: JsonBody) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let origin = origin(&state, &parts, SessionMethod::Replaced);
    let session = to_the_end(async move {
        let replaced = state.accounts.replace_token(&user, &origin).await?;
        state.engine.notifier().close_user(user.user_id, CLOSE_REVOKED, "Token revoked");
        Ok(replaced)
    });
    Ok(self::session(&session.await?))
}

async fn delete_account(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let user = confirmed_sender(&state, &parts, body).await?;
    to_the_end(async move { Ok(delete_for_good(&state, user.user_id).await?) }).await?;
    Ok(encode::success())
}

/// Deletes an account with all that this server holds of it: its rows, open sockets and what is cached.
async fn delete_for_good(state: &AppState, user: UserId) -> Result<(), ManageError> {
    state.accounts.delete(user).await?;
    state.engine.notifier().close_user(user, CLOSE_REVOKED, "Account deleted");
    state.engine.forget(user);
    Ok(())
}

/// Runs `work` to its end even if the client goes away meanwhile: a revocation without closed sockets would be half of
/// one.
async fn to_the_end<T: Send + 'static>(work: impl Future<Output = ApiResult<T>> + Send + 'static) -> ApiResult<T> {
    tokio::spawn(work).await.map_err(ApiError::internal)?
}

/// The sender, if the table of routes lets them use this one.
async fn sender(state: &AppState, parts: &Parts) -> ApiResult<AuthUser> {
    proven_sender(state, parts, None).await
}

/// The same with the current password, if it was given: where the table wants it proven who asks, that does.
async fn proven_sender(state: &AppState, parts: &Parts, password: Option<&SecretString>) -> ApiResult<AuthUser> {
    // A header that is not text can't start with `Bearer `.
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = state.accounts.authenticate_from(header, || address::of(parts, state)).await?;
    observe::trace(&parts.extensions, state.config.timeouts.handler).set_user(user.user_id);
    let access = route::access(&parts.method, parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str));
    if access.wants_admin() {
        state.accounts.require_admin(&user).await?;
    }
    if access.wants_proof() {
        state.accounts.reauthenticate(&user, password, &asker(state, parts)).await?;
    }
    Ok(user)
}

/// The same with `currentPassword` in the body of a request that needs no body and may have any.
async fn confirmed_sender(state: &AppState, parts: &Parts, body: Option<Value>) -> ApiResult<AuthUser> {
    let Some(body @ Value::Object(_)) = body else { return sender(state, parts).await };
    let mut fields = Fields::of(Some(body))?;
    let password = fields.current_password();
    fields.check()?;
    proven_sender(state, parts, password.as_ref()).await
}

/// Who asks, as far as the security log and mails tell.
pub(super) fn asker(state: &AppState, parts: &Parts) -> Asker {
    Asker {
        by: None,
        user_agent: user_agent(parts),
        address: address::of(parts, state),
        language: preferred(&parts.headers),
    }
}

fn user_agent(parts: &Parts) -> Option<String> {
    parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Where a session that a request opens comes from.
fn origin(state: &AppState, parts: &Parts, method: SessionMethod) -> SessionOrigin {
    SessionOrigin { method, user_agent: user_agent(parts), address: address::of(parts, state) }
}

fn session(session: &Session) -> Response {
    let body = json!({
        "token": session.token.expose_secret(),
        "user": { "id": session.user, "email": session.email },
    });
    no_store(encode::json(StatusCode::OK, &body))
}

fn no_store(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::NotAllowed
            | RegisterError::NoMail
            | RegisterError::Closed
            | RegisterError::InviteNeeded
            | RegisterError::InviteInvalid => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            RegisterError::Exists => Self::new(StatusCode::CONFLICT, error.to_string()),
            RegisterError::Hash(error) => error.into(),
            RegisterError::Database(error) => error.into(),
        }
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::InvalidCredentials | LoginError::Locked | LoginError::NotVerified => {
                Self::new(StatusCode::UNAUTHORIZED, error.to_string())
            }
            LoginError::Hash(error) => error.into(),
            LoginError::Database(error) => error.into(),
        }
    }
}

impl From<VerifyError> for ApiError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Invalid | VerifyError::Expired => Self::bad_request(error.to_string()),
            VerifyError::Hash(error) => error.into(),
            VerifyError::Database(error) => error.into(),
        }
    }
}

impl From<ManageError> for ApiError {
    fn from(error: ManageError) -> Self {
        match error {
            // The account went away between the check of the session and the change.
            ManageError::NoAccount => Self::new(StatusCode::UNAUTHORIZED, "Account unavailable"),
            ManageError::Exists => Self::new(StatusCode::CONFLICT, error.to_string()),
            ManageError::Hash(error) => error.into(),
            ManageError::Database(error) => error.into(),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::NoSession => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            SessionError::Database(error) => error.into(),
        }
    }
}

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        match &error {
            HashError::Busy => Self::unavailable("server busy, please retry", &error).retry_after(1),
            HashError::Internal(_) => Self::internal(error),
        }
    }
}
