//! An authenticated request to a sync route: who asks, how long there is, what was sent.

use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::body::{self, Payload, cover};
use super::codes;
use super::encode::{self, Answer};
use super::error::{ApiError, ApiResult};
use super::observe::{self, Phase, Trace};
use super::outgoing;
use super::sender::Account;
use super::state::AppState;
use crate::aside::{LARGE_BYTES, aside};
use crate::budget::{PoolPermit, SMALL_BYTES};
use crate::config::Environment;
use crate::protocol::UserId;
use crate::protocol::request::{Parsed, RequestError};
use crate::protocol::response::{Issue, OutgoingOp, Text};

/// Answers larger than this are put together aside: that only copies.
const ENCODE_ASIDE_ABOVE_BYTES: usize = 1024 * 1024;

/// An authenticated request. `T` is what it brings: a body, a query, or nothing.
pub struct Call<T = ()> {
    /// Who asks.
    pub user: UserId,
    /// Time and phases.
    pub trace: Trace,
    parts: Parts,
    body: Body,
    /// What the body holds of the budget, until the answer is made.
    held: Option<PoolPermit>,
    brings: PhantomData<fn() -> T>,
}

impl<T> FromRequest<AppState> for Call<T> {
    type Rejection = ApiError;

    /// Nothing of the body has been read then.
    async fn from_request(request: Request, state: &AppState) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let trace = observe::trace(&parts.extensions, state.config.timeouts.handler);
        let user = Account::of(&trace)?.user_id;
        Ok(Self { user, trace, parts, body, held: None, brings: PhantomData })
    }
}

impl<T> Call<T> {
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
    pub async fn parse(&mut self, state: &AppState, parse: fn(&Bytes) -> Result<T, RequestError>) -> ApiResult<T>
    where
        T: Parsed + Send,
    {
        self.trace.enter(Phase::Body);
        let body = std::mem::take(&mut self.body);
        let caps = self.trace.body_limit().caps(&state.config.limits);
        let idle = state.config.timeouts.socket;
        let held = state.bodies.acquire(self.user, 0)?;
        let received = body::sync_payload(&self.parts.headers, body, caps, idle, &state.codecs, held).await?;
        let (text, compressed, mut held) = match received {
            (Payload::Json { text, compressed }, held) => (text, compressed, held),
            (Payload::Absent, _) => return Err(refuse(state, not_an_object("undefined"), false)),
            (Payload::Text, _) => return Err(refuse(state, not_an_object("string"), false)),
        };
        self.trace.received(text.len());
        let bytes = text.len();
        let parse = move |text: Bytes| parse(&text).map(|parsed| (parsed.bytes_beside(&text), parsed));
        let is_large = bytes > LARGE_BYTES;
        if is_large {
            // Payloads with white space are copied without it.
            cover(&mut held, 2 * bytes)?;
        }
        let parsed = aside(is_large, || parse(text)).await;
        self.trace.enter(Phase::Engine);
        let (beside, parsed) = parsed.map_err(|error| refuse(state, error, compressed))?;
        cover(&mut held, bytes + beside)?;
        self.held = Some(held);
        Ok(parsed)
    }

    /// Whether an answer with these operations has a chance to be sent now.
    #[must_use]
    pub fn has_room_for(&self, state: &AppState, ops: &[OutgoingOp]) -> bool {
        let texts: usize = ops.iter().map(|op| 2 * op.json.len()).sum();
        let bytes = texts + outgoing::reading(ops.iter().any(|op| op.gap.is_some()));
        bytes <= SMALL_BYTES || state.answers.acquire(self.user, bytes).is_ok()
    }

    /// A 200 with the JSON text that `encode` puts together from about so many bytes in memory, packed when the client
    /// asked for it.
    ///
    /// # Errors
    /// 503 when too many answers wait to be read; 500 when packing failed.
    pub async fn answer_of<A>(
        self,
        state: &AppState,
        bytes: usize,
        encode: impl FnOnce() -> Text + Send,
    ) -> ApiResult<Answer<A>> {
        self.trace.enter(Phase::Encode);
        let mut held = state.answers.acquire(self.user, 0)?;
        // The operations, and the text that they become.
        cover(&mut held, 2 * bytes)?;
        let text = aside(bytes > ENCODE_ASIDE_ABOVE_BYTES, encode).await;
        self.send(state, held, text).await
    }

    /// A 200 with this JSON text, packed when the client asked for it.
    ///
    /// # Errors
    /// Like [`Call::answer_of`].
    pub async fn answer<A>(self, state: &AppState, text: Vec<u8>) -> ApiResult<Answer<A>> {
        self.trace.enter(Phase::Encode);
        let held = state.answers.acquire(self.user, 0)?;
        self.send(state, held, text.into()).await
    }

    /// The same for what becomes JSON.
    ///
    /// # Errors
    /// Like [`Call::answer_of`].
    pub async fn answer_json<A: Serialize>(self, state: &AppState, body: &A) -> ApiResult<Answer<A>> {
        self.answer(state, serde_json::to_vec(body).map_err(ApiError::internal)?).await
    }

    /// The same with a text in parts.
    ///
    /// # Errors
    /// Like [`Call::answer_of`].
    pub async fn answer_parts<A>(self, state: &AppState, parts: outgoing::Parts) -> ApiResult<Answer<A>> {
        self.trace.enter(Phase::Encode);
        let held = state.answers.acquire(self.user, 0)?;
        let gzip = encode::accepts_gzip(&self.parts.headers);
        outgoing::answer(state, held, parts, gzip).await.map(Answer::written)
    }

    async fn send<A>(self, state: &AppState, held: PoolPermit, text: Text) -> ApiResult<Answer<A>> {
        let gzip = encode::accepts_gzip(&self.parts.headers);
        if text.gaps.is_empty() && text.json.len() <= SMALL_BYTES {
            return encode::json_text(text.json, gzip).map(Answer::written);
        }
        outgoing::answer(state, held, outgoing::parts(text), gzip).await.map(Answer::written)
    }
}

/// A body that is no JSON object.
fn not_an_object(received: &str) -> RequestError {
    let message = format!("Invalid input: expected object, received {received}");
    let issue = [("code", "invalid_type".into()), ("path", Value::Array(Vec::new())), ("message", message.into())];
    RequestError::Invalid(vec![Issue(issue.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())])
}

/// What is wrong with a request's structure; the issues are shown outside production only.
pub fn refuse(state: &AppState, error: RequestError, compressed: bool) -> ApiError {
    codes::of_structure(error, compressed, state.config.environment != Environment::Production)
}
