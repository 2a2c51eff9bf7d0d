//! The two shapes of answers that say "no"; which there are is in `super::codes`.
//!
//! *Handler* errors are `{"error", "errorCode"?, …}`, *framework* errors `{"statusCode", "error": <reason phrase>,
//! "message", "code"?}` (contract, section 2.3). Clients read `error` (its first 80 characters) and, with 429, `message`.
//! They take certain words for "try again" (section 14.5), so texts of temporary failures hold one of them and texts of
//! permanent ones none. An answer of 500 or above never tells what went wrong; the log line of the request does
//! ([`Failure`]).

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

/// Where an answer has its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// Nowhere.
    None,
    /// `code`.
    Code,
    /// `errorCode`.
    ErrorCode,
}

/// A refusal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    /// Its name, for programs.
    pub name: &'static str,
    /// The status of the answer.
    pub status: StatusCode,
    /// The text of the answer, unless an error has its own.
    pub text: &'static str,
    /// Seconds until it is worth trying again.
    pub retry_after: Option<u64>,
    /// Where the answer has the name.
    pub member: Member,
}

/// What went wrong, for the log; travels from the error to the access log in the response's extensions.
#[derive(Clone, Debug)]
pub struct Failure(pub Arc<str>);

/// An answer that says "no".
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: Map<String, Value>,
    code: Option<&'static str>,
    retry_after: Option<u64>,
    close: bool,
    detail: Option<String>,
}

/// The result of a handler.
pub type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    /// A handler error: `{"error": text}`.
    #[must_use]
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        let body = Map::from_iter([("error".to_owned(), Value::String(text.into()))]);
        Self { status, body, code: None, retry_after: None, close: false, detail: None }
    }

    /// A handler error of 400.
    #[must_use]
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    /// A handler error with a code.
    #[must_use]
    pub(super) fn coded(code: Code, text: impl Into<String>) -> Self {
        let error = Self { code: Some(code.name), retry_after: code.retry_after, ..Self::new(code.status, text) };
        match code.member {
            Member::None => error,
            Member::Code => error.with_code(),
            Member::ErrorCode => {
                metrics::counter!("supersync_refusals_total", "code" => code.name).increment(1);
                error.extra("errorCode", code.name)
            }
        }
    }

    /// Shows the code, if there is one, as `code`.
    #[must_use]
    pub fn with_code(self) -> Self {
        match self.code {
            Some(name) => self.extra("code", name),
            None => self,
        }
    }

    /// Gives the answer the status of this code.
    #[must_use]
    pub(super) fn status_of(mut self, code: Code) -> Self {
        self.status = code.status;
        self
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
        Self { status, body, code: None, retry_after: None, close: false, detail: None }
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
