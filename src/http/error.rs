//! Answers that say "no": every status, error text and code that leaves through HTTP is made here.
//!
//! Two shapes (contract, section 2.3): *handler* errors `{"error", "errorCode"?, …}` and *framework* errors
//! `{"statusCode", "error": <reason phrase>, "message", "code"?}`. Clients read `error` (its first 80 characters) and,
//! with 429, `message`. They take certain words for "try again" (section 14.5), so texts of temporary failures hold one
//! of them and texts of permanent ones none. An answer of 500 or above never tells what went wrong; the log line of the
//! request does ([`Failure`]).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::accounts::AuthError;
use crate::budget::Refused;
use crate::engine::{EngineError, QuotaExceeded, RestoreError};
use crate::protocol::ErrorCode;
use crate::protocol::response::Issue;
use crate::store::StoreError;

/// What went wrong, for the log; travels from the error to the access log in the response's extensions.
#[derive(Clone, Debug)]
pub struct Failure(pub Arc<str>);

/// How long a client should wait when the server is short of something.
const RETRY_AFTER_SECONDS: u64 = 5;

/// An answer that says "no".
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Map<String, Value>,
    retry_after: Option<u64>,
    close: bool,
    detail: Option<String>,
}

/// The result of a handler.
pub type ApiResult<T = Response> = Result<T, ApiError>;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl ApiError {
    /// A handler error: `{"error": text}`.
    #[must_use]
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let body = object(json!({ "error": text.into() }));
        Self { status, body, retry_after: None, close: false, detail: None }
    }

    /// A handler error of 400.
    #[must_use]
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// A handler error with a code that clients read: `{"error": text, "errorCode": code}`.
    #[must_use]
    pub fn with_code(status: StatusCode, text: impl Into<String>, code: ErrorCode) -> Self {
        metrics::counter!("supersync_refusals_total", "code" => code.as_str()).increment(1);
        Self::new(status, text).extra("errorCode", code.as_str())
    }

    /// A framework error: `{"statusCode", "error": <reason phrase>, "message", "code"?}`.
    #[must_use]
    pub fn framework(status: StatusCode, message: impl Into<String>, code: Option<&str>) -> Self {
        let mut body = Map::new();
        body.insert("statusCode".into(), status.as_u16().into());
        if let Some(code) = code {
            body.insert("code".into(), code.into());
        }
        body.insert("error".into(), status.canonical_reason().unwrap_or("Error").into());
        body.insert("message".into(), message.into().into());
        Self { status, body, retry_after: None, close: false, detail: None }
    }

    /// 400: the request's structure is wrong. `issues` are shown when given (sync routes hide them in production,
    /// account routes never do).
    #[must_use]
    pub fn validation(issues: Option<Vec<Issue>>) -> Self {
        let error = Self::bad_request("Validation failed");
        match issues {
            Some(issues) => error.extra("details", issues.into_iter().map(|i| Value::Object(i.0)).collect::<Vec<_>>()),
            None => error,
        }
    }

    /// 404 for an unknown route or a method that a route does not have; there is no 405.
    #[must_use]
    pub fn not_found(method: &Method, path_and_query: &str) -> Self {
        Self::framework(StatusCode::NOT_FOUND, format!("Route {method}:{path_and_query} not found"), None)
    }

    /// 415, connection closed: the body's media type or encoding is none that the server reads.
    #[must_use]
    pub fn unsupported_media_type() -> Self {
        Self::framework(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported Media Type",
            Some("FST_ERR_CTP_INVALID_MEDIA_TYPE"),
        )
        .closing()
    }

    /// 413, connection closed: the body has more bytes on the wire than allowed.
    #[must_use]
    pub fn body_too_large() -> Self {
        Self::framework(StatusCode::PAYLOAD_TOO_LARGE, "Request body is too large", Some("FST_ERR_CTP_BODY_TOO_LARGE"))
            .closing()
    }

    /// 400: the body calls itself JSON and is none.
    #[must_use]
    pub fn malformed_json() -> Self {
        Self::framework(
            StatusCode::BAD_REQUEST,
            "Body is not valid JSON but content-type is set to 'application/json'",
            Some("FST_ERR_CTP_INVALID_JSON_BODY"),
        )
    }

    /// 500 `{"error":"Internal server error"}`; `detail` goes to the log only.
    #[must_use]
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error").detail(detail)
    }

    /// 503: nothing is wrong with the request, the server can't serve it now. `text` must hold a retry word; `detail`
    /// goes to the log only.
    #[must_use]
    pub fn unavailable(text: &str, detail: impl std::fmt::Display) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, text).detail(detail);
        error.retry_after = Some(RETRY_AFTER_SECONDS);
        error
    }

    /// 503: there is no room for new data. Soon is too soon: somebody has to make room.
    #[must_use]
    pub fn disk_full(detail: impl std::fmt::Display) -> Self {
        Self::unavailable("the server's disk is full, please retry later", detail).retry_after(60)
    }

    /// 503: the request's time was up.
    #[must_use]
    pub fn deadline() -> Self {
        Self::unavailable("Request timeout, please retry", "deadline exceeded")
    }

    /// 413: the account's quota is used up (contract, section 11.2).
    #[must_use]
    pub fn quota_exceeded(quota: &QuotaExceeded) -> Self {
        // Clients compare this text.
        let error =
            Self::with_code(StatusCode::PAYLOAD_TOO_LARGE, "Storage quota exceeded", ErrorCode::StorageQuotaExceeded)
                .extra("storageUsedBytes", quota.used_bytes)
                .extra("storageQuotaBytes", quota.quota_bytes)
                .extra("autoCleanupAttempted", quota.cleanup.is_some());
        match quota.cleanup {
            None => error,
            Some(stats) => error.extra(
                "cleanupStats",
                json!({
                    "freedBytes": stats.freed_bytes,
                    "deletedRestorePoints": stats.deleted_restore_points,
                    "deletedOps": stats.deleted_ops,
                }),
            ),
        }
    }

    /// Adds a member to the body.
    #[must_use]
    pub fn extra(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.body.insert(name.to_owned(), value.into());
        self
    }

    /// Tells the client when to come back.
    #[must_use]
    pub const fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Closes the connection after the answer.
    #[must_use]
    pub const fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// Says in the log what went wrong; never sent to the client.
    #[must_use]
    pub fn detail(mut self, detail: impl std::fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(Value::Object(self.body).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(super::encode::JSON));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(detail) = self.detail {
            response.extensions_mut().insert(Failure(detail.into()));
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match &error {
            EngineError::NoAccount => Self::new(StatusCode::UNAUTHORIZED, "Account unavailable"),
            EngineError::Busy => Self::unavailable("server busy, please retry", &error).retry_after(1),
            EngineError::Deadline => Self::deadline(),
            EngineError::DiskFull => Self::disk_full(&error),
            EngineError::Quarantined => Self::unavailable("account temporarily unavailable, please retry", &error),
            EngineError::Unavailable => Self::unavailable("database unavailable, please retry", &error),
            EngineError::Internal(_) => Self::internal(error),
        }
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        Self::unavailable("server busy, please retry", refused)
    }
}

impl From<RestoreError> for ApiError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::BeyondLatest => Self::bad_request("serverSeq is beyond the latest operation"),
            // The app looks for "encrypt" in the first 80 characters.
            RestoreError::Encrypted => Self::with_code(
                StatusCode::BAD_REQUEST,
                "Operations are end-to-end encrypted: the server can't rebuild this state",
                ErrorCode::EncryptedOpsNotSupported,
            ),
            // Not the server's fault, and nothing that trying again would change.
            RestoreError::Gone => Self::with_code(
                StatusCode::BAD_REQUEST,
                "The operations that this state was made of are gone",
                ErrorCode::RestorePointGone,
            ),
            RestoreError::TooLarge(_) => Self::with_code(
                StatusCode::BAD_REQUEST,
                "This state is too large to be rebuilt by the server",
                ErrorCode::StateTooLarge,
            )
            .detail(error),
            RestoreError::NotReplayable(_) => Self::with_code(
                StatusCode::BAD_REQUEST,
                "The server can't rebuild this state from its operations",
                ErrorCode::StateNotReplayable,
            )
            .detail(error),
            RestoreError::Engine(engine) => engine.into(),
        }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let text = match error {
            AuthError::MissingHeader => "Missing or invalid Authorization header",
            AuthError::Invalid => "Invalid token",
            AuthError::Expired => "Token expired. Please log in again to get a new token.",
            AuthError::Unavailable => "Account unavailable",
            AuthError::Revoked => "Token was revoked. Please log in again to get a new token.",
            // Never 401: three of them in a row make the app erase its token.
            AuthError::Database(error) => return error.into(),
        };
        Self::new(StatusCode::UNAUTHORIZED, text)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(_) => Self::disk_full(error),
            StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Unknown(_) => {
                Self::unavailable("database unavailable, please retry", error)
            }
            StoreError::Corrupt(_) | StoreError::Internal(_) | StoreError::Refused(_) => Self::internal(error),
        }
    }
}
