//! Routes of administrators: every account, and the server itself. Who is none gets 403 "Administrators only"; a change
//! needs proof of who asks as well.
//!
//! | Route | Answer |
//! | --- | --- |
//! | `GET /api/admin/users?search=&after=&limit=` | `{users: […], next}`; `next` goes into `after` for the next page |
//! | `GET /api/admin/users/{id}` | one account |
//! | `PATCH /api/admin/users/{id}` `{quotaBytes?, locked?, isAdmin?, verified?}` | the account, and a new `password` if one was made up |
//! | `POST /api/admin/users/{id}/revoke` | `{success: true}`; every token is void, every socket closed |
//! | `DELETE /api/admin/users/{id}` | `{success: true}` |
//! | `GET /api/admin/server` | what runs here |
//! | `GET /api/admin/diagnostics` | what is wrong with the set-up, and how to mend it |
//!
//! Administrators can't lock or delete themselves nor give up their own rights: somebody must be left who can undo it.

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::fields::Fields;
use super::{CLOSE_REVOKED, confirmed_sender, delete_for_good, no_store, proven_sender, sender, to_the_end};
use crate::accounts::{AdminRefusal, AuthUser, ManageError, ReauthError, make_up_password};
use crate::http::body::JsonBody;
use crate::http::encode;
use crate::http::error::{ApiError, ApiResult};
use crate::http::state::AppState;
use crate::http::sync::leading_integer;
use crate::protocol::UserId;
use crate::store::AccountOverview;

mod diagnostics;
mod server;

/// Accounts of a page when the client names no limit, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 200;
/// What is searched for is part of an address.
const MAX_SEARCH_CHARS: usize = 254;

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/admin/users", get(list))
        .route("/api/admin/users/{id}", get(show).patch(change).delete(delete))
        .route("/api/admin/users/{id}/revoke", post(revoke))
        .route("/api/admin/server", get(server::facts))
        .route("/api/admin/diagnostics", get(diagnostics::all))
}

impl From<AdminRefusal> for ApiError {
    fn from(error: AdminRefusal) -> Self {
        match error {
            AdminRefusal::NotAdmin => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            AdminRefusal::NotVerified => ReauthError::Required.into(),
            AdminRefusal::Database(error) => error.into(),
        }
    }
}

fn no_account() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "No such account")
}

/// Elsewhere a missing account is the sender's own; here it is the one that is asked for.
fn missing(error: ManageError) -> ApiError {
    match error {
        ManageError::NoAccount => no_account(),
        other => other.into(),
    }
}

fn number(id: &str) -> ApiResult<UserId> {
    id.parse().map_err(|_| no_account())
}

async fn list(State(state): State<AppState>, RawQuery(query): RawQuery, parts: Parts) -> ApiResult {
    sender(&state, &parts).await?;
    let query = query.unwrap_or_default();
    let value = |wanted: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value.into_owned())
    };
    let search = value("search");
    if search.as_ref().is_some_and(|search| search.chars().count() > MAX_SEARCH_CHARS) {
        return Err(ApiError::bad_request("Invalid search: at most 254 characters"));
    }
    let wrong = |name: &str| ApiError::bad_request(format!("Invalid {name}"));
    let after = value("after").map_or(Some(0), |text| leading_integer(&text)).ok_or_else(|| wrong("after"))?;
    let limit = match value("limit") {
        None => PAGE,
        Some(text) => leading_integer(&text)
            .and_then(|limit| usize::try_from(limit).ok())
            .filter(|limit| (1..=MAX_PAGE).contains(limit))
            .ok_or_else(|| wrong("limit: an integer from 1 to 200 is needed"))?,
    };
    let page = state.accounts.overviews(search.as_deref(), after, limit).await?;
    let next = page.last().filter(|_| page.len() == limit).map(|last| last.user.id);
    let users: Vec<Value> = page.iter().map(account).collect();
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "users": users, "next": next }))))
}

fn account(account: &AccountOverview) -> Value {
    let user = &account.user;
    let state = match (user.locked_at, user.is_verified) {
        (Some(_), _) => "locked",
        (None, true) => "verified",
        (None, false) => "unverified",
    };
    json!({
        "id": user.id,
        "email": user.email,
        "state": state,
        "isAdmin": user.is_admin,
        "hasPassword": user.password_hash.is_some(),
        "createdAt": user.created_at,
        "lastSeenAt": account.last_seen_at,
        "storage": {
            "usedBytes": account.storage_used_bytes,
            "quotaBytes": user.storage_quota_bytes,
            "grownBytes": account.grown_bytes,
        },
        "operations": account.operations,
        "devices": account.devices,
        "sessions": account.sessions,
    })
}

async fn show(State(state): State<AppState>, Path(id): Path<String>, parts: Parts) -> ApiResult {
    sender(&state, &parts).await?;
    let found = state.accounts.overview(number(&id)?).await.map_err(missing)?;
    Ok(no_store(encode::json(StatusCode::OK, &account(&found))))
}

/// What an administrator asks for, judged as a whole before anything is done.
struct Changes {
    quota_bytes: Option<i64>,
    is_locked: Option<bool>,
    is_admin: Option<bool>,
    is_verified: bool,
}

impl Changes {
    /// And the current password, if it was given.
    fn of(body: Option<Value>) -> ApiResult<(Self, Option<SecretString>)> {
        let mut fields = Fields::of(body)?;
        let changes = Self {
            quota_bytes: fields.optional_count("quotaBytes"),
            is_locked: fields.bool_if_given("locked"),
            is_admin: fields.bool_if_given("isAdmin"),
            is_verified: fields.true_if_given("verified"),
        };
        let password = fields.current_password();
        fields.check()?;
        Ok((changes, password))
    }

    /// Whether it would take from administrators what they need to undo it.
    fn disarms(&self) -> bool {
        self.is_locked == Some(true) || self.is_admin == Some(false)
    }
}

fn not_oneself(user: &AuthUser, target: UserId) -> ApiResult<()> {
    if user.user_id == target {
        return Err(ApiError::new(StatusCode::CONFLICT, "You can't do this to your own account"));
    }
    Ok(())
}

async fn change(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let (changes, password) = Changes::of(body)?;
    let user = proven_sender(&state, &parts, password.as_ref()).await?;
    let target = number(&id)?;
    if changes.disarms() {
        not_oneself(&user, target)?;
    }
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_CHANGE", "account changed by an administrator");
    let body = to_the_end(async move {
        let password = make(&state, target, &changes).await.map_err(missing)?;
        let mut body = account(&state.accounts.overview(target).await.map_err(missing)?);
        if let Some(password) = password {
            body["password"] = password.into();
        }
        Ok(body)
    });
    Ok(no_store(encode::json(StatusCode::OK, &body.await?)))
}

/// Makes the changes. Returns the password that was made up, if one was.
async fn make(state: &AppState, target: UserId, changes: &Changes) -> Result<Option<String>, ManageError> {
    let accounts = &state.accounts;
    let before = accounts.overview(target).await?.user;
    if let Some(bytes) = changes.quota_bytes {
        accounts.set_quota(target, bytes).await?;
        state.engine.catch_up(target).await;
    }
    if let Some(is_locked) = changes.is_locked {
        accounts.set_locked(target, is_locked).await?;
        if is_locked {
            state.engine.notifier().close_user(target, CLOSE_REVOKED, "Account locked");
        }
    }
    if let Some(is_admin) = changes.is_admin {
        accounts.set_admin(target, is_admin).await?;
    }
    let mut made_up = None;
    if changes.is_verified && !before.is_verified {
        // Anybody can have registered the address, so a password that came with the registration must not count; first
        // the password: an account must never be verified with one that is not trusted.
        if before.password_hash.is_some() {
            let password = make_up_password();
            accounts.set_password(target, &password).await?;
            made_up = Some(password.expose_secret().to_owned());
        }
        accounts.set_verified(target).await?;
    }
    Ok(made_up)
}

async fn revoke(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let user = confirmed_sender(&state, &parts, body).await?;
    let target = number(&id)?;
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_REVOKE", "tokens voided by an administrator");
    to_the_end(async move {
        state.accounts.revoke(target).await.map_err(missing)?;
        state.engine.notifier().close_user(target, CLOSE_REVOKED, "Token revoked");
        Ok(())
    })
    .await?;
    Ok(encode::success())
}

async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let user = confirmed_sender(&state, &parts, body).await?;
    let target = number(&id)?;
    not_oneself(&user, target)?;
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_DELETE", "account deleted by an administrator");
    to_the_end(async move { delete_for_good(&state, target).await.map_err(missing) }).await?;
    Ok(encode::success())
}
