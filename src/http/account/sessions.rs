//! Sessions: what an account is signed in with, and tickets for sockets.
//!
//! Tokens of the old server belong to no session. They are listed as one, once one has been seen. Whose session is meant is
//! the sender's: another account's is as unknown as one that never was.

use axum::extract::{Path, State};
use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::to_the_end;
use crate::accounts::{AccountError, SessionRef, SessionSummary, TICKET_LIFETIME_MS};
use crate::http::body::JsonBody;
use crate::http::encode::{self, Answer, Success};
use crate::http::error::ApiResult;
use crate::http::fields::{Ignored, members};
use crate::http::sender::{Account, Client};
use crate::http::state::AppState;
use crate::store::Credential;

members! {
    /// Gives a session or a passkey a name.
    Rename { name: String = name() }
}

/// The sessions of an account.
#[derive(Serialize, ToSchema)]
pub struct Sessions {
    sessions: Vec<SessionSummary>,
}

/// Other sessions were ended.
#[derive(Serialize, ToSchema)]
pub struct OthersRevoked {
    /// Always true.
    success: bool,
    /// Number of ended sessions.
    revoked: u64,
}

/// A ticket that opens one socket.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ticket {
    ticket: String,
    /// Seconds.
    expires_in: i64,
}

pub async fn list(State(state): State<AppState>, user: Account) -> ApiResult<Answer<Sessions>> {
    let list = state.accounts.sessions(user.user_id).await?;
    encode::private(&Sessions { sessions: list.summaries(Some(&user)) })
}

pub async fn rename(
    State(state): State<AppState>,
    Path(id): Path<String>,
    user: Account,
    JsonBody(request): JsonBody<Rename>,
) -> ApiResult<Answer<Success>> {
    // Older tokens have no name of their own.
    let Some(SessionRef::One(id)) = SessionRef::parse(&id) else { return Err(AccountError::NoSession.into()) };
    state.accounts.rename_session(user.user_id, id, &request.name).await?;
    encode::success()
}

/// Sockets of the session are closed with 4003.
pub async fn revoke(
    State(state): State<AppState>,
    Path(id): Path<String>,
    client: Client,
    Account(user): Account,
    _body: JsonBody<Ignored>,
) -> ApiResult<Answer<Success>> {
    let session = SessionRef::parse(&id).ok_or(AccountError::NoSession)?;
    to_the_end(async move {
        state.accounts.revoke_session(user.user_id, session, &client.asker()).await?;
        let is_void = |credential: &Credential| match session {
            SessionRef::One(id) => credential.session == Some(id),
            SessionRef::OlderTokens => credential.session.is_none(),
        };
        state.engine.notifier().close_revoked(user.user_id, is_void);
        Ok(())
    })
    .await?;
    encode::success()
}

pub async fn revoke_others(
    State(state): State<AppState>,
    client: Client,
    Account(user): Account,
    _body: JsonBody<Ignored>,
) -> ApiResult<Answer<OthersRevoked>> {
    let revoked = to_the_end(async move {
        let revoked = state.accounts.revoke_other_sessions(&user, &client.asker()).await?;
        state.engine.notifier().close_revoked(user.user_id, |credential| credential.session != user.session);
        Ok(revoked)
    });
    encode::ok(&OthersRevoked { success: true, revoked: revoked.await? })
}

pub async fn ticket(
    State(state): State<AppState>,
    user: Account,
    _body: JsonBody<Ignored>,
) -> ApiResult<Answer<Ticket>> {
    let ticket = state.accounts.issue_ticket(&user).await?.expose_secret().to_owned();
    encode::private(&Ticket { ticket, expires_in: TICKET_LIFETIME_MS / 1000 })
}
