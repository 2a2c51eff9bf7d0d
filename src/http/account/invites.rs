//! Invitations. Every route needs a bearer token of an administrator, and a change also proof of who asks.
//!
//! | Route | Answer |
//! | --- | --- |
//! | `GET /api/invites` | `{invites: [{id, email, isAdmin, createdAt, expiresAt, usedAt, usedBy}]}` |
//! | `POST /api/invites` `{email?, admin?}` | 201 `{id, link, expiresAt}`; the link is shown once, and mailed if there is an address |
//! | `DELETE /api/invites/{id}` | `{success: true}` |

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{delete, get};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{confirmed_sender, encode, no_store, proven_sender, sender};
use crate::accounts::InviteError;
use crate::http::body::JsonBody;
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;
use crate::store::InviteRow;

pub(super) fn router() -> Router<AppState> {
    Router::new().route("/api/invites", get(list).post(invite)).route("/api/invites/{id}", delete(take_back))
}

async fn list(State(state): State<AppState>, parts: Parts) -> ApiResult {
    sender(&state, &parts).await?;
    let invites: Vec<Value> = state.accounts.invites().await?.iter().map(one).collect();
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "invites": invites }))))
}

fn one(row: &InviteRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "email": row.email,
        "isAdmin": row.makes_admin,
        "createdAt": row.created_at,
        "expiresAt": row.expires_at,
        "usedAt": row.used_at,
        "usedBy": row.used_by,
    })
}

async fn invite(State(state): State<AppState>, parts: Parts, JsonBody(body): JsonBody) -> ApiResult {
    let mut fields = Fields::of(Some(body.unwrap_or_else(|| json!({}))))?;
    let address = if fields.has("email") { fields.address() } else { None };
    let makes_admin = fields.flag("admin");
    let password = fields.current_password();
    fields.check()?;
    let user = proven_sender(&state, &parts, password.as_ref()).await?;
    let made = state.accounts.invite(Some(user.user_id), address.as_ref(), makes_admin).await?;
    let body = json!({ "id": made.id.to_string(), "link": made.link.expose_secret(), "expiresAt": made.expires_at });
    Ok(no_store(encode::json(StatusCode::CREATED, &body)))
}

async fn take_back(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    confirmed_sender(&state, &parts, body).await?;
    let id = id.parse().map_err(|_| InviteError::NoInvite)?;
    state.accounts.delete_invite(id).await?;
    Ok(encode::success())
}

impl From<InviteError> for ApiError {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::Closed => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            InviteError::NoInvite => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            InviteError::Database(error) => error.into(),
        }
    }
}
