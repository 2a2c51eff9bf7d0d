//! Routes of administrators: every account, and the server itself.
//!
//! Administrators can't lock or delete themselves nor give up their own rights: somebody must be left who can undo it.

use axum::extract::{Path, State};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{CLOSE_REVOKED, close_sockets, delete_for_good, to_the_end};
use crate::accounts::{AccountError, AccountReport, AuthUser, generate_password};
use crate::http::codes;
use crate::http::encode::{self, Answer, Success};
use crate::http::error::{ApiError, ApiResult};
use crate::http::fields::{Ignored, members};
use crate::http::query::TypedQuery;
use crate::http::sender::SteppedUp;
use crate::http::state::AppState;
use crate::protocol::UserId;

pub mod diagnostics;
pub mod server;

/// Accounts of a page when the client names no limit, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 200;
/// What is searched for is part of an address.
const MAX_SEARCH_CHARS: usize = 254;

members! {
    /// `PATCH /api/admin/users/{id}`.
    Changes {
        quota_bytes: Option<i64> = optional_count("quotaBytes"),
        is_locked: Option<bool> = optional_bool("locked"),
        is_admin: Option<bool> = optional_bool("isAdmin"),
        is_verified: bool = switch_on("verified"),
    }
}

impl Changes {
    /// Whether it would take from administrators what they need to undo it.
    fn disarms(&self) -> bool {
        self.is_locked == Some(true) || self.is_admin == Some(false)
    }
}

/// The query of `GET /api/admin/users`.
#[derive(Debug, Deserialize, IntoParams)]
pub struct ListQuery {
    /// Part of an address, or a number.
    #[param(max_length = 254)]
    search: Option<String>,
    /// The `next` of the page before.
    #[param(value_type = Option<i64>)]
    after: Option<UserId>,
    /// Accounts of the page; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
}

fn number(id: &str) -> ApiResult<UserId> {
    id.parse().map_err(|_| codes::NO_SUCH_ACCOUNT.into())
}

/// A page of accounts.
#[derive(Serialize, ToSchema)]
pub struct AccountPage {
    users: Vec<AccountReport>,
    /// `after` of the next page; `null`: there is none.
    #[schema(value_type = Option<i64>)]
    next: Option<UserId>,
}

/// An account after a change.
#[derive(Serialize, ToSchema)]
pub struct ChangedAccount {
    #[serde(flatten)]
    account: AccountReport,
    /// The new password, if one was generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<String>,
}

pub async fn list(
    State(state): State<AppState>,
    TypedQuery(query): TypedQuery<ListQuery>,
) -> ApiResult<Answer<AccountPage>> {
    if query.search.as_ref().is_some_and(|search| search.chars().count() > MAX_SEARCH_CHARS) {
        return Err(ApiError::coded(codes::INVALID_QUERY, "Invalid search: at most 254 characters"));
    }
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::coded(codes::INVALID_QUERY, "Invalid limit: an integer from 1 to 200 is needed"));
    }
    let page = state.accounts.overviews(query.search.as_deref(), query.after.unwrap_or(0), limit).await?;
    let next = page.last().filter(|_| page.len() == limit).map(|last| last.user.id);
    encode::private(&AccountPage { users: page.into_iter().map(AccountReport::from).collect(), next })
}

pub async fn show(State(state): State<AppState>, Path(id): Path<String>) -> ApiResult<Answer<AccountReport>> {
    let found = state.accounts.overview(number(&id)?).await.map_err(codes::of_another)?;
    encode::private(&AccountReport::from(found))
}

fn not_oneself(user: &AuthUser, target: UserId) -> ApiResult<()> {
    if user.user_id == target { Err(codes::OWN_ACCOUNT.into()) } else { Ok(()) }
}

pub async fn change(
    State(state): State<AppState>,
    Path(id): Path<String>,
    SteppedUp(user, changes): SteppedUp<Changes>,
) -> ApiResult<Answer<ChangedAccount>> {
    let target = number(&id)?;
    if changes.disarms() {
        not_oneself(&user, target)?;
    }
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_CHANGE", "account changed by an administrator");
    let body = to_the_end(async move {
        let password = make(&state, target, &changes).await.map_err(codes::of_another)?;
        let account = state.accounts.overview(target).await.map_err(codes::of_another)?.into();
        Ok(ChangedAccount { account, password })
    });
    encode::private(&body.await?)
}

/// Makes the changes. Returns the password that was made up, if one was.
async fn make(state: &AppState, target: UserId, changes: &Changes) -> Result<Option<String>, AccountError> {
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
    let mut generated = None;
    if changes.is_verified && !before.is_verified {
        // Anybody can have registered the address, so a password that came with the registration must not count; first
        // the password: an account must never be verified with one that is not trusted.
        if before.password_hash.is_some() {
            let password = generate_password();
            accounts.set_password(target, &password).await?;
            generated = Some(password.expose_secret().to_owned());
        }
        accounts.set_verified(target).await?;
    }
    Ok(generated)
}

pub async fn revoke(
    State(state): State<AppState>,
    Path(id): Path<String>,
    SteppedUp(user, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<Success>> {
    let target = number(&id)?;
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_REVOKE", "tokens voided by an administrator");
    to_the_end(async move {
        state.accounts.revoke(target).await.map_err(codes::of_another)?;
        close_sockets(&state, target);
        Ok(())
    })
    .await?;
    encode::success()
}

pub async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    SteppedUp(user, Ignored): SteppedUp<Ignored>,
) -> ApiResult<Answer<Success>> {
    let target = number(&id)?;
    not_oneself(&user, target)?;
    tracing::info!(user_id = target, by = user.user_id, audit = "ADMIN_DELETE", "account deleted by an administrator");
    to_the_end(async move { delete_for_good(&state, target).await.map_err(codes::of_another) }).await?;
    encode::success()
}
