//! Ways to sign in by mail: registering without a password, links that sign in, links that set a password (accounts
//! contract, sections 4.1, 4.3, 4.4, 8.3 and 8.4). The answers to requests for a link are the same for every address.

use axum::Router;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::fields::Fields;
use super::{CLOSE_REVOKED, applicant, asker, encode, origin, registered, session, to_the_end};
use crate::accounts::{LinkError, MagicLoginError, ResetError};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::pages::preferred;
use crate::http::state::AppState;
use crate::store::SessionMethod;

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/register/magic-link", post(register))
        .route("/api/login/magic-link", post(request_login))
        .route("/api/login/magic-link/verify", post(login))
        .route("/api/forgot-password", post(forgot_password))
        .route("/api/reset-password", post(reset_password))
}

async fn register(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(who) = applicant(&state, &parts, &mut fields) else { return Err(fields.refuse()) };
    fields.check()?;
    // There is nothing that could count in this browser only, so it gets no cookie.
    let receipt = state.accounts.register_without_password(&who).await?;
    Ok(encode::json(StatusCode::CREATED, &json!({ "message": registered(receipt.registered) })))
}

async fn request_login(State(state): State<AppState>, headers: HeaderMap, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(address) = fields.address() else { return Err(fields.refuse()) };
    state.accounts.request_login_link(&address, preferred(&headers)).await?;
    let message = "If an account with that email exists, a login link has been sent.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn login(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(token) = fields.token() else { return Err(fields.refuse()) };
    let origin = origin(&state, &parts, SessionMethod::MagicLink);
    Ok(session(&state.accounts.login_by_link(token.expose_secret(), &origin).await?))
}

async fn forgot_password(State(state): State<AppState>, headers: HeaderMap, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(address) = fields.address() else { return Err(fields.refuse()) };
    state.accounts.request_password_reset(&address, preferred(&headers)).await?;
    let message = "If an account with that email exists, a password reset link has been sent.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn reset_password(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let token = fields.token();
    let password = fields.new_password();
    let (Some(token), Some(password)) = (token, password) else { return Err(fields.refuse()) };
    let asker = asker(&state, &parts);
    to_the_end(async move {
        let user = state.accounts.reset_password(token.expose_secret(), &password, &asker).await?;
        state.engine.notifier().close_user(user, CLOSE_REVOKED, "Token revoked");
        Ok(())
    })
    .await?;
    let message = "Password has been reset successfully. Please log in with your new password.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

impl From<LinkError> for ApiError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::NoMail => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            LinkError::Database(error) => error.into(),
        }
    }
}

impl From<MagicLoginError> for ApiError {
    fn from(error: MagicLoginError) -> Self {
        match error {
            MagicLoginError::Invalid => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            MagicLoginError::Database(error) => error.into(),
        }
    }
}

impl From<ResetError> for ApiError {
    fn from(error: ResetError) -> Self {
        match error {
            ResetError::Invalid => Self::bad_request(error.to_string()),
            ResetError::Hash(error) => error.into(),
            ResetError::Database(error) => error.into(),
        }
    }
}
