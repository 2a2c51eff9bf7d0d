//! Invitations, for administrators.

use axum::extract::{Path, State};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;

use crate::accounts::AccountError;
use crate::http::encode::{self, Answer, Success};
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

/// An invitation. Times are Unix milliseconds.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InviteSummary {
    id: String,
    /// The only address that may use it; `null`: any.
    email: Option<String>,
    /// Whether it makes an administrator.
    is_admin: bool,
    created_at: i64,
    expires_at: i64,
    used_at: Option<i64>,
    /// The account that it became.
    #[schema(value_type = Option<i64>)]
    used_by: Option<UserId>,
}

impl From<InviteRow> for InviteSummary {
    fn from(row: InviteRow) -> Self {
        let InviteRow { id, email, makes_admin: is_admin, created_at, expires_at, used_at, used_by, .. } = row;
        Self { id: id.to_string(), email, is_admin, created_at, expires_at, used_at, used_by }
    }
}

/// The newest invitations.
#[derive(Serialize, ToSchema)]
pub struct Invites {
    invites: Vec<InviteSummary>,
}

/// An invitation that was made.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NewInvite {
    id: String,
    /// Shown once, and mailed if there is an address.
    link: String,
    expires_at: i64,
}

pub async fn list(State(state): State<AppState>) -> ApiResult<Answer<Invites>> {
    let rows = state.accounts.invites().await?;
    encode::private(&Invites { invites: rows.into_iter().map(InviteSummary::from).collect() })
}

pub async fn invite(
    State(state): State<AppState>,
    SteppedUp(user, request): SteppedUp<Invite>,
) -> ApiResult<Answer<NewInvite, 201>> {
    let address = request.email.as_ref().map(|email| &email.address);
    let made = state.accounts.invite(Some(user.user_id), address, request.makes_admin).await?;
    let (id, link) = (made.id.to_string(), made.link.expose_secret().to_owned());
    Ok(encode::created(&NewInvite { id, link, expires_at: made.expires_at })?.map(encode::no_store))
}

pub async fn take_back(
    State(state): State<AppState>,
    Path(id): Path<String>,
    SteppedUp(_, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<Success>> {
    let id = id.parse().map_err(|_| AccountError::NoInvite)?;
    state.accounts.delete_invite(id).await?;
    encode::success()
}
