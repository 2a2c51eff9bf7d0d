//! Spans for traces: request → account → commit. Made only while something takes them (`OTEL_EXPORTER_OTLP_ENDPOINT`);
//! otherwise each costs one look at a static variable.
//!
//! A span never holds a token, an address, a payload or a query string.

use tracing::field::Empty;
use tracing::{Level, Span};

use crate::protocol::UserId;

/// By this target whatever exports spans finds them, and logs leave them out.
pub const TARGET: &str = "supersync::spans";

/// A request, from its head to its answer.
#[must_use]
pub fn request(method: &'static str, route: &str, request_id: &str) -> Span {
    tracing::trace_span!(
        target: TARGET,
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        request_id,
        user_id = Empty,
    )
}

/// The request has been answered.
pub fn answered(request: &Span, status: u16, user: Option<UserId>) {
    if request.is_disabled() {
        return;
    }
    request.record("http.response.status_code", status);
    if status >= 500 {
        request.record("otel.status_code", "ERROR");
    }
    if let Some(user) = user {
        request.record("user_id", user);
    }
}

/// What a request asks of its account's actor, from being sent to being answered. Of the current span.
#[must_use]
pub fn account(work: &'static str, user: UserId) -> Span {
    tracing::trace_span!(target: TARGET, "account", otel.name = work, user_id = user)
}

/// One commit as each of the requests in it sees it; none where nobody looks.
#[must_use]
pub fn commits<'a>(accounts: impl ExactSizeIterator<Item = &'a Span>, operations: usize, attempt: u32) -> Vec<Span> {
    if !tracing::span_enabled!(target: TARGET, Level::TRACE, "commit") {
        return Vec::new();
    }
    let requests = accounts.len();
    accounts
        .map(|parent| tracing::trace_span!(target: TARGET, parent: parent, "commit", operations, requests, attempt))
        .collect()
}
