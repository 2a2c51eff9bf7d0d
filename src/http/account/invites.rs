//! Invitations, for administrators.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use crate::accounts::AccountError;
use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::fields::{Email, Ignored, members};
use crate::http::sender::SteppedUp;
use crate::http::state::AppState;
use crate::protocol::UserId;
use crate::store::InviteRow;

members! {
    /// `POST /api/invites`.
    Invite as ObjectOrNothing {
        email: Option<Email> = optional_email(),
        makes_admin: bool = flag("admin"),
    }
}

/// An invitation that was made.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    id: String,
    email: Option<&'a str>,
    is_admin: bool,
    created_at: i64,
    expires_at: i64,
    used_at: Option<i64>,
    used_by: Option<UserId>,
}

impl<'a> Listed<'a> {
    fn of(row: &'a InviteRow) -> Self {
        Self {
            id: row.id.to_string(),
            email: row.email.as_deref(),
            is_admin: row.makes_admin,
            created_at: row.created_at,
            expires_at: row.expires_at,
            used_at: row.used_at,
            used_by: row.used_by,
        }
    }
}

/// `GET /api/invites`: the newest ones.
pub async fn list(State(state): State<AppState>) -> ApiResult {
    #[derive(Serialize)]
    struct Body<'a> {
        invites: Vec<Listed<'a>>,
    }
    let rows = state.accounts.invites().await?;
    encode::private(StatusCode::OK, &Body { invites: rows.iter().map(Listed::of).collect() })
}

/// `POST /api/invites`: the link is shown once, and mailed if there is an address.
pub async fn invite(State(state): State<AppState>, SteppedUp(user, request): SteppedUp<Invite>) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        id: String,
        link: &'a str,
        expires_at: i64,
    }
    let address = request.email.as_ref().map(|email| &email.address);
    let made = state.accounts.invite(Some(user.user_id), address, request.makes_admin).await?;
    let body = Body { id: made.id.to_string(), link: made.link.expose_secret(), expires_at: made.expires_at };
    encode::private(StatusCode::CREATED, &body)
}

/// `DELETE /api/invites/{id}`.
pub async fn take_back(
    State(state): State<AppState>,
    Path(id): Path<String>,
    SteppedUp(_, Ignored): SteppedUp<Ignored>,
) -> ApiResult {
    let id = id.parse().map_err(|_| AccountError::NoInvite)?;
    state.accounts.delete_invite(id).await?;
    encode::success()
}
