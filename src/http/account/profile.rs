//! The own account: facts, password, address, security log. Every route but those of links needs a bearer token, and a
//! change also proof of who asks.
//!
//! | Route | Answer |
//! | --- | --- |
//! | `GET /api/account` | `{id, email, createdAt, isAdmin, hasPassword, passkeys, storage: {usedBytes, quotaBytes, operations, archivedBytes, archiveLimitBytes}, mail, registration}` |
//! | `GET /api/account/security-log` | `{events: [{at, kind, method, address, device, times}]}` |
//! | `POST /api/account/password` `{currentPassword?, newPassword, signOutOthers?}` | `{message}` |
//! | `POST /api/account/email` `{email, currentPassword?}` | `{message}`; a link is mailed to the new address |
//! | `POST /api/account/email/verify` `{token}` (no bearer) | `{message}` |
//! | `POST /api/account/email/undo` `{token}` (no bearer) | `{message}`; every token is void, sockets are closed with 4003 |

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{CLOSE_REVOKED, asker, encode, no_store, proven_sender, sender, to_the_end};
use crate::accounts::{AddressChangeError, ReauthError};
use crate::engine::archive::bound::{archive_limit, kept_bytes};
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;
use crate::store::SecurityEvent;

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/account", get(facts).delete(super::delete_account))
        .route("/api/account/password", post(change_password))
        .route("/api/account/email", post(request_address_change))
        .route("/api/account/email/verify", post(change_address))
        .route("/api/account/email/undo", post(undo_address))
        .route("/api/account/security-log", get(security_log))
}

async fn facts(State(state): State<AppState>, parts: Parts) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let facts = state.accounts.facts(user.user_id).await?;
    let account = state.store.load_account(user.user_id).await?.ok_or(ReauthError::NoAccount)?;
    let archived = state.store.archived(user.user_id).await?;
    let row = facts.user;
    let body = json!({
        "id": row.id,
        "email": row.email,
        "createdAt": row.created_at,
        "isAdmin": row.is_admin,
        "hasPassword": row.password_hash.is_some(),
        "passkeys": facts.passkeys,
        "storage": {
            "usedBytes": account.sync.storage_used_bytes,
            "quotaBytes": row.storage_quota_bytes,
            // Sequences have no holes.
            "operations": account.sync.last_seq - account.sync.pruned_seq,
            "archivedBytes": kept_bytes(&archived),
            // Beyond it the oldest archived sets are deleted first.
            "archiveLimitBytes": archive_limit(row.storage_quota_bytes, state.config.retention.archive_percent),
        },
        "mail": state.accounts.can_mail(),
        "registration": state.accounts.registration_mode().as_str(),
    });
    Ok(no_store(encode::json(StatusCode::OK, &body)))
}

async fn change_password(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let current = fields.current_password();
    let Some(new) = fields.chosen_password("newPassword") else { return Err(fields.refuse()) };
    let signs_out = fields.bool_if_given("signOutOthers").unwrap_or(true);
    fields.check()?;
    let user = proven_sender(&state, &parts, current.as_ref()).await?;
    let asker = asker(&state, &parts);
    to_the_end(async move {
        state.accounts.change_password(&user, &new, signs_out, &asker).await?;
        if signs_out {
            state.engine.notifier().close_revoked(user.user_id, |credential| credential.session != user.session);
        }
        Ok(())
    })
    .await?;
    Ok(encode::json(StatusCode::OK, &json!({ "message": "Your password has been changed." })))
}

async fn request_address_change(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let current = fields.current_password();
    let Some(address) = fields.address() else { return Err(fields.refuse()) };
    fields.check()?;
    let user = proven_sender(&state, &parts, current.as_ref()).await?;
    state.accounts.request_address_change(user.user_id, &address, &asker(&state, &parts)).await?;
    let message = "If the address can be used, a link to confirm it has been sent there.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn change_address(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(token) = fields.token() else { return Err(fields.refuse()) };
    state.accounts.change_address(token.expose_secret(), &asker(&state, &parts)).await?;
    Ok(encode::json(StatusCode::OK, &json!({ "message": "Your email address has been changed." })))
}

async fn undo_address(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(token) = fields.token() else { return Err(fields.refuse()) };
    let asker = asker(&state, &parts);
    to_the_end(async move {
        let user = state.accounts.undo_address(token.expose_secret(), &asker).await?;
        state.engine.notifier().close_user(user, CLOSE_REVOKED, "Token revoked");
        Ok(())
    })
    .await?;
    let message = "Your former email address is back, and every device is signed out. Please set a new password.";
    Ok(encode::json(StatusCode::OK, &json!({ "message": message })))
}

async fn security_log(State(state): State<AppState>, parts: Parts) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let events = events(&state.accounts.security_log(user.user_id).await?);
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "events": events }))))
}

/// Entries of a security log as JSON.
pub(in crate::http) fn events(events: &[SecurityEvent]) -> Vec<Value> {
    let one = |event: &SecurityEvent| {
        json!({
            "at": event.at_ms,
            "kind": event.kind.as_str(),
            "method": event.method.map(crate::store::SessionMethod::as_str),
            "address": event.address,
            "device": event.device,
            "times": event.times,
        })
    };
    events.iter().map(one).collect()
}

impl From<ReauthError> for ApiError {
    fn from(error: ReauthError) -> Self {
        match error {
            ReauthError::Required => {
                Self::new(StatusCode::FORBIDDEN, error.to_string()).extra("code", "REAUTH_REQUIRED")
            }
            ReauthError::WrongPassword | ReauthError::Locked => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            ReauthError::NoAccount => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            ReauthError::Hash(error) => error.into(),
            ReauthError::Database(error) => error.into(),
        }
    }
}

impl From<AddressChangeError> for ApiError {
    fn from(error: AddressChangeError) -> Self {
        match error {
            AddressChangeError::Invalid => Self::bad_request(error.to_string()),
            AddressChangeError::TooOften => Self::new(StatusCode::CONFLICT, error.to_string()),
            AddressChangeError::NotAllowed => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            AddressChangeError::NoAccount => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            AddressChangeError::Link(error) => error.into(),
            AddressChangeError::Database(error) => error.into(),
        }
    }
}
