//! Sessions: what an account is signed in with, and tickets for sockets. Every route needs a bearer token.
//!
//! | Route | Answer |
//! | --- | --- |
//! | `GET /api/sessions` | `{sessions: [{id, name, userAgent, method, createdAt, lastSeenAt, lastAddress, current, olderToken}]}` |
//! | `PATCH /api/sessions/{id}` `{name}` | `{success: true}` |
//! | `DELETE /api/sessions/{id}` | `{success: true}`; sockets of that session are closed with 4003 |
//! | `POST /api/sessions/revoke-others` | `{success: true, revoked}` |
//! | `POST /api/sync/ws-ticket` | `{ticket, expiresIn}` |
//!
//! Tokens of the old server belong to no session. They are listed as one, once one has been seen.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, patch, post};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{asker, no_store, sender, to_the_end};
use crate::accounts::{AuthUser, SessionError, SessionRef, TICKET_LIFETIME_MS};
use crate::http::body::JsonBody;
use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::state::AppState;
use crate::store::{Credential, OlderTokens, SessionId, SessionRow};

/// Stands for an account's older tokens where a session's id is expected.
const OLDER_TOKENS: &str = "older-tokens";

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/sessions", get(list))
        .route("/api/sessions/revoke-others", post(revoke_others))
        .route("/api/sessions/{id}", patch(rename).delete(revoke))
        .route("/api/sync/ws-ticket", post(ticket))
}

/// Whose session is meant is the sender's: another account's is as unknown as one that never was.
fn named(id: &str) -> Result<SessionRef, SessionError> {
    match id {
        OLDER_TOKENS => Ok(SessionRef::OlderTokens),
        id => SessionId::parse(id).map(SessionRef::One).ok_or(SessionError::NoSession),
    }
}

async fn list(State(state): State<AppState>, parts: Parts) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let list = state.accounts.sessions(user.user_id).await?;
    let mut sessions: Vec<Value> = list.sessions.iter().map(|row| session(row, &user)).collect();
    sessions.extend(list.older_tokens.map(|tokens| older_tokens(&tokens, &user)));
    Ok(no_store(encode::json(StatusCode::OK, &json!({ "sessions": sessions }))))
}

fn session(row: &SessionRow, user: &AuthUser) -> Value {
    json!({
        "id": row.id.to_string(),
        "name": row.name,
        "userAgent": row.user_agent,
        "method": row.method.as_str(),
        "createdAt": row.created_at,
        "lastSeenAt": row.last_seen_at,
        "lastAddress": row.last_address,
        "current": user.session == Some(row.id),
        "olderToken": false,
    })
}

fn older_tokens(tokens: &OlderTokens, user: &AuthUser) -> Value {
    json!({
        "id": OLDER_TOKENS,
        "name": "Older tokens",
        "userAgent": "",
        "method": null,
        "createdAt": null,
        "lastSeenAt": tokens.last_seen_at,
        "lastAddress": tokens.last_address,
        "current": user.session.is_none(),
        "olderToken": true,
    })
}

async fn rename(
    State(state): State<AppState>,
    Path(id): Path<String>,
    parts: Parts,
    JsonBody(body): JsonBody,
) -> ApiResult {
    let mut fields = Fields::of(body)?;
    let Some(name) = fields.name() else { return Err(fields.refuse()) };
    let user = sender(&state, &parts).await?;
    // Older tokens have no name of their own.
    let SessionRef::One(id) = named(&id)? else { return Err(SessionError::NoSession.into()) };
    state.accounts.rename_session(user.user_id, id, &name).await?;
    Ok(encode::success())
}

async fn revoke(State(state): State<AppState>, Path(id): Path<String>, parts: Parts, _body: JsonBody) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let (session, asker) = (named(&id)?, asker(&state, &parts));
    to_the_end(async move {
        state.accounts.revoke_session(user.user_id, session, &asker).await?;
        let is_void = |credential: &Credential| match session {
            SessionRef::One(id) => credential.session == Some(id),
            SessionRef::OlderTokens => credential.session.is_none(),
        };
        state.engine.notifier().close_revoked(user.user_id, is_void);
        Ok(())
    })
    .await?;
    Ok(encode::success())
}

async fn revoke_others(State(state): State<AppState>, parts: Parts, _body: JsonBody) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let asker = asker(&state, &parts);
    let revoked = to_the_end(async move {
        let revoked = state.accounts.revoke_other_sessions(&user, &asker).await?;
        state.engine.notifier().close_revoked(user.user_id, |credential| credential.session != user.session);
        Ok(revoked)
    });
    Ok(encode::json(StatusCode::OK, &json!({ "success": true, "revoked": revoked.await? })))
}

async fn ticket(State(state): State<AppState>, parts: Parts, _body: JsonBody) -> ApiResult {
    let user = sender(&state, &parts).await?;
    let ticket = state.accounts.issue_ticket(&user).await?;
    let body = json!({ "ticket": ticket.expose_secret(), "expiresIn": TICKET_LIFETIME_MS / 1000 });
    Ok(no_store(encode::json(StatusCode::OK, &body)))
}
