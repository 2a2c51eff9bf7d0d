//! Sessions: what an account is signed in with, and tickets for sockets.
//!
//! Tokens of the old server belong to no session. They are listed as one, once one has been seen. Whose session is meant is
//! the sender's: another account's is as unknown as one that never was.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use secrecy::ExposeSecret as _;
use serde::Serialize;

use super::to_the_end;
use crate::accounts::{AccountError, SessionRef, SessionSummary, TICKET_LIFETIME_MS};
use crate::http::body::JsonBody;
use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::fields::{Ignored, members};
use crate::http::sender::{Account, Client};
use crate::http::state::AppState;
use crate::store::Credential;

members! {
    /// Gives a session or a passkey a name.
    Rename { name: String = name() }
}

pub async fn list(State(state): State<AppState>, user: Account) -> ApiResult {
    #[derive(Serialize)]
    struct Body<'a> {
        sessions: Vec<SessionSummary<'a>>,
    }
    let list = state.accounts.sessions(user.user_id).await?;
    encode::private(StatusCode::OK, &Body { sessions: list.summaries(Some(&user)) })
}

pub async fn rename(
    State(state): State<AppState>,
    Path(id): Path<String>,
    user: Account,
    JsonBody(request): JsonBody<Rename>,
) -> ApiResult {
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
) -> ApiResult {
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
) -> ApiResult {
    #[derive(Serialize)]
    struct Body {
        success: bool,
        revoked: u64,
    }
    let revoked = to_the_end(async move {
        let revoked = state.accounts.revoke_other_sessions(&user, &client.asker()).await?;
        state.engine.notifier().close_revoked(user.user_id, |credential| credential.session != user.session);
        Ok(revoked)
    });
    encode::ok(&Body { success: true, revoked: revoked.await? })
}

/// `POST /api/sync/ws-ticket`.
pub async fn ticket(State(state): State<AppState>, user: Account, _body: JsonBody<Ignored>) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        ticket: &'a str,
        /// Seconds.
        expires_in: i64,
    }
    let ticket = state.accounts.issue_ticket(&user).await?;
    let body = Body { ticket: ticket.expose_secret(), expires_in: TICKET_LIFETIME_MS / 1000 };
    encode::private(StatusCode::OK, &body)
}
