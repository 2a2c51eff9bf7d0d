//! An authenticated request to a sync route: who asks, how long there is, what was sent.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::http::request::Parts;
use bytes::Bytes;

use super::address;
use super::body::{self, Caps, Payload};
use super::budget::Held;
use super::encode;
use super::error::{ApiError, ApiResult};
use super::observe::{self, Phase, Trace};
use super::state::AppState;
use crate::config::Environment;
use crate::protocol::UserId;
use crate::protocol::request::RequestError;
use crate::protocol::response::Issue;
use axum::response::Response;

/// Texts larger than this are parsed off the threads that serve requests.
const PARSE_ELSEWHERE_ABOVE_BYTES: usize = 256 * 1024;

/// Answers larger than this are put together there too.
const ENCODE_ELSEWHERE_ABOVE_BYTES: usize = 1024 * 1024;

/// An authenticated request.
pub struct Call {
    /// Who asks.
    pub user: UserId,
    /// Time and phases.
    pub trace: Trace,
    parts: Parts,
    body: Body,
    /// What the body holds of the budget, until the answer is made.
    held: Option<Held>,
}

impl Call {
    /// Authenticates. The body has not been read then.
    ///
    /// # Errors
    /// 401 with the reason, 503 when the database does not answer.
    pub async fn authenticate(state: &AppState, request: Request) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let trace = observe::trace(&parts.extensions, state.config.timeouts.handler);
        trace.enter(Phase::Auth);
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match state.accounts.authenticate_from(header, || address::of(&parts, state)).await {
            Ok(user) => {
                trace.set_user(user.user_id);
                trace.enter(Phase::Engine);
                Ok(Self { user: user.user_id, trace, parts, body, held: None })
            }
            Err(error) => {
                body::discard(&parts.headers, body).await;
                Err(error.into())
            }
        }
    }

    /// What was asked, without the body.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The query's members, decoded, in order.
    #[must_use]
    pub fn query(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(self.parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
    }

    /// Reads the body and parses it with `parse`.
    ///
    /// # Errors
    /// Everything that can be wrong with a body (contract, section 2.2), and its structure (5.2, 7.1).
    pub async fn parse<T: Send + 'static>(
        &mut self,
        state: &AppState,
        caps: Caps,
        parse: fn(&Bytes) -> Result<T, RequestError>,
    ) -> ApiResult<T> {
        self.trace.enter(Phase::Body);
        let body = std::mem::take(&mut self.body);
        let idle = state.config.timeouts.socket;
        // Without an announced length as much as may come.
        let most = caps.wire_base64();
        let announced = body::content_length(&self.parts.headers).and_then(|length| usize::try_from(length).ok());
        let mut held = match state.bodies.hold(announced.unwrap_or(most).min(most)) {
            Ok(held) => held,
            Err(error) => {
                body::discard(&self.parts.headers, body).await;
                return Err(error);
            }
        };
        let (text, compressed) = match body::sync_payload(&self.parts.headers, body, caps, idle, &state.codecs).await? {
            Payload::Json { text, compressed } => (text, compressed),
            Payload::Absent => return Err(invalid(state, vec![not_an_object("undefined")])),
            Payload::Text => return Err(invalid(state, vec![not_an_object("string")])),
        };
        self.trace.received(text.len());
        state.bodies.grow(&mut held, text.len())?;
        self.held = Some(held);
        let parsed = if text.len() > PARSE_ELSEWHERE_ABOVE_BYTES {
            tokio::task::spawn_blocking(move || parse(&text)).await.map_err(ApiError::internal)?
        } else {
            parse(&text)
        };
        self.trace.enter(Phase::Engine);
        parsed.map_err(|error| refuse(state, error, compressed))
    }

    /// A 200 with the JSON text that `encode` puts together from about so many bytes, packed when the client asked for
    /// it. Large texts are put together off the threads that serve requests.
    ///
    /// # Errors
    /// 500 when packing failed.
    pub async fn answer_of(
        self,
        state: &AppState,
        bytes: usize,
        encode: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> ApiResult<Response> {
        self.trace.enter(Phase::Encode);
        let text = if bytes > ENCODE_ELSEWHERE_ABOVE_BYTES {
            tokio::task::spawn_blocking(encode).await.map_err(ApiError::internal)?
        } else {
            encode()
        };
        self.answer(state, text).await
    }

    /// A 200 with this JSON text, packed when the client asked for it.
    ///
    /// # Errors
    /// 500 when packing failed.
    pub async fn answer(self, state: &AppState, text: Vec<u8>) -> ApiResult<Response> {
        self.trace.enter(Phase::Encode);
        encode::json_text(text, encode::accepts_gzip(&self.parts.headers), &state.codecs).await
    }
}

/// A body that is no JSON object.
fn not_an_object(received: &str) -> Issue {
    let message = format!("Invalid input: expected object, received {received}");
    let issue = [("code", "invalid_type".into()), ("path", serde_json::json!([])), ("message", message.into())];
    Issue(issue.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// 400; the issues are shown outside production only.
#[must_use]
pub fn invalid(state: &AppState, issues: Vec<Issue>) -> ApiError {
    ApiError::validation((state.config.environment != Environment::Production).then_some(issues))
}

/// What is wrong with a request's structure.
#[must_use]
pub fn refuse(state: &AppState, error: RequestError, compressed: bool) -> ApiError {
    use crate::protocol::ErrorCode;
    use crate::protocol::limits::MAX_OPS_PER_UPLOAD;
    match error {
        RequestError::Malformed if compressed => ApiError::bad_request("Compressed request body is not valid JSON"),
        RequestError::Malformed => ApiError::malformed_json(),
        RequestError::TooManyOps(_) => ApiError::with_code(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "Too many operations in one request",
            ErrorCode::PayloadTooLarge,
        )
        .extra("maxOpsPerBatch", MAX_OPS_PER_UPLOAD),
        RequestError::Invalid(issues) => invalid(state, issues),
    }
}
