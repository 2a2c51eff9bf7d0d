//! Routes that exist in test mode only (operations, section 7): the app's end-to-end suite drives them. They need no
//! login.

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::body::read_json;
use super::encode;
use super::error::{ApiError, ApiResult};
use super::state::AppState;
use super::sync::leading_integer;
use crate::accounts::{AccountError, Address};
use crate::engine::{EngineError, UploadReply};
use crate::protocol::request::UploadRequest;
use crate::protocol::{Seq, UserId};

const MIN_PASSWORD_CHARS: usize = 8;
const DEFAULT_OPS: usize = 10;
const MAX_OPS: usize = 1000;

fn invalid(message: &str) -> ApiError {
    ApiError::framework(StatusCode::BAD_REQUEST, message, Some("FST_ERR_VALIDATION"))
}

fn text<'a>(body: &'a Value, name: &str) -> ApiResult<&'a str> {
    match body.get(name) {
        None => Err(invalid(&format!("body must have required property '{name}'"))),
        Some(value) => value.as_str().ok_or_else(|| invalid(&format!("body/{name} must be string"))),
    }
}

fn failed(error: &AccountError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to create test user")
        .extra("message", "See the server's log")
        .detail(error)
}

pub async fn create_user(State(state): State<AppState>, request: Request) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        email: &'a str,
        token: &'a str,
        user_id: UserId,
    }
    let (_, body) = read_json(request, &state).await?;
    let body = body.filter(Value::is_object).ok_or_else(|| invalid("body must be object"))?;
    let (email, password) = (text(&body, "email")?, text(&body, "password")?);
    let address = Address::parse(email).map_err(|_| invalid("body/email must match format \"email\""))?;
    if password.chars().count() < MIN_PASSWORD_CHARS {
        return Err(invalid("body/password must NOT have fewer than 8 characters"));
    }
    let user = match state.accounts.create_verified(&address, &SecretString::from(password)).await {
        Ok(user) => user,
        Err(AccountError::Exists) => {
            let user = state.accounts.find(address.as_str()).await.map_err(|error| failed(&error))?.id;
            state.store.reset_log(user).await?;
            state.engine.changed_behind(user, Instant::now() + state.config.timeouts.handler).await?;
            state.limiters.uploads.forget(&user);
            user
        }
        Err(error) => return Err(failed(&error)),
    };
    let session = state.accounts.session_for(user).await.map_err(|error| failed(&error))?;
    let body = Body { email: &session.email, token: session.token.expose_secret(), user_id: session.user };
    encode::json(StatusCode::CREATED, &body)
}

pub async fn cleanup(State(state): State<AppState>) -> ApiResult {
    #[derive(Serialize)]
    struct Body {
        cleaned: bool,
    }
    state.accounts.delete_all().await?;
    state.engine.forget_all();
    state.limiters.uploads.clear();
    encode::json(StatusCode::OK, &Body { cleaned: true })
}

fn user_id(text: &str) -> Option<UserId> {
    leading_integer(text).filter(|id| *id >= 1)
}

pub async fn delete_user(State(state): State<AppState>, Path(user): Path<String>) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        deleted: bool,
        user_id: UserId,
    }
    let user = user_id(&user).ok_or_else(|| ApiError::bad_request("Invalid userId"))?;
    match state.accounts.delete(user).await {
        Ok(()) => {
            state.engine.forget(user);
            encode::json(StatusCode::OK, &Body { deleted: true, user_id: user })
        }
        Err(AccountError::NoAccount) => Err(ApiError::new(StatusCode::NOT_FOUND, "User not found or already deleted")
            .extra("message", "There is no such account")),
        Err(error) => Err(ApiError::internal(error)),
    }
}

pub async fn newest_ops(State(state): State<AppState>, Path(user): Path<String>, request: Request) -> ApiResult {
    #[derive(Serialize)]
    struct Body<'a> {
        ops: Vec<Newest<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Newest<'a> {
        client_id: &'a str,
        id: &'a str,
        op_type: &'static str,
        server_seq: Seq,
        vector_clock: Value,
    }
    let user = user_id(&user).ok_or_else(|| ApiError::bad_request("Invalid userId"))?;
    let query: Vec<(String, String)> =
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let limit = match value("limit") {
        None => DEFAULT_OPS,
        Some(text) => leading_integer(text)
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| ApiError::internal("unreadable limit"))?,
    };
    let ops = state.store.newest_ops(user, value("opType"), limit.min(MAX_OPS)).await?;
    let clock = |text: &str| serde_json::from_str::<Value>(text).map_err(ApiError::internal);
    let ops = ops
        .iter()
        .map(|op| {
            Ok(Newest {
                client_id: &op.client_id,
                id: &op.id,
                op_type: op.op_type.as_str(),
                server_seq: op.server_seq,
                vector_clock: clock(op.vector_clock.as_json())?,
            })
        })
        .collect::<ApiResult<Vec<_>>>()?;
    encode::json(StatusCode::OK, &Body { ops })
}

/// Stores a plaintext operation as old clients wrote it, whatever the server's encryption policy.
pub async fn seed_plaintext(State(state): State<AppState>, Path(user): Path<String>, request: Request) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body<'a> {
        id: &'a str,
        server_seq: Seq,
    }
    let (_, body) = read_json(request, &state).await?;
    let user = user_id(&user).ok_or_else(|| ApiError::bad_request("Invalid userId"))?;
    let wrong = || ApiError::bad_request("Invalid operation");
    let op = body.as_ref().and_then(|body| body.get("op")).filter(|op| op.is_object()).ok_or_else(wrong)?;
    if op["isPayloadEncrypted"] != Value::Bool(false) {
        return Err(ApiError::bad_request("Legacy plaintext seed requires isPayloadEncrypted=false"));
    }
    let request: Value =
        [("ops".to_owned(), Value::Array(vec![op.clone()])), ("clientId".to_owned(), op["clientId"].clone())]
            .into_iter()
            .collect();
    let request = UploadRequest::parse(&Bytes::from(request.to_string())).map_err(|_| wrong())?;
    let deadline = Instant::now() + state.config.timeouts.handler;
    let failed = |detail: &dyn std::fmt::Display| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "Failed to seed operation").detail(detail)
    };
    match state.engine.seed(user, request, deadline).await {
        Ok(UploadReply::Done(done)) => match done.results.first() {
            Some(result) => match &result.outcome {
                Ok(seq) => encode::json(StatusCode::CREATED, &Body { id: &result.op_id, server_seq: *seq }),
                Err(_) => Err(wrong()),
            },
            None => Err(failed(&"no result")),
        },
        Ok(UploadReply::QuotaExceeded(_)) => Err(failed(&"quota exceeded")),
        Ok(UploadReply::EncryptionRequired) => Err(failed(&"encryption required")),
        Err(EngineError::NoAccount) => Err(ApiError::new(StatusCode::NOT_FOUND, "User not found")),
        Err(error) => Err(failed(&error)),
    }
}

pub async fn delete_ops_after(State(state): State<AppState>, Path((user, seq)): Path<(String, String)>) -> ApiResult {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        deleted: u64,
        reverted_to_seq: Seq,
    }
    let seq = leading_integer(&seq).filter(|seq| *seq >= 0);
    let (Some(user), Some(seq)) = (user_id(&user), seq) else {
        return Err(ApiError::bad_request("Invalid userId or serverSeq"));
    };
    let deleted = state.store.truncate_log(user, seq).await?;
    state.engine.changed_behind(user, Instant::now() + state.config.timeouts.handler).await?;
    encode::json(StatusCode::OK, &Body { deleted, reverted_to_seq: seq })
}
