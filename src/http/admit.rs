//! The check of a request's token, as the table of routes wants it: before its body is read and its handler runs.

use axum::extract::Request;
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse as _, Response};

use super::address;
use super::body;
use super::error::ApiResult;
use super::observe::{self, Phase, Trace};
use super::route::Access;
use super::state::AppState;

/// Lets the request through if its sender may use the route; refuses it otherwise.
pub(super) async fn admitted(
    state: &AppState,
    request: Request,
    next: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let trace = observe::trace(request.extensions(), state.config.timeouts.handler);
    let route = match trace.route() {
        Some(route) if route.access.wants_token() && !route.access.is_after_body() => route,
        _ => {
            trace.enter(Phase::Engine);
            return next(request).await;
        }
    };
    let (parts, body) = request.into_parts();
    match authenticate(state, &parts, &trace, route.access).await {
        Ok(()) => {
            trace.enter(Phase::Engine);
            next(Request::from_parts(parts, body)).await
        }
        Err(error) => {
            body::discard(&parts.headers, body).await;
            // Answers of the app's routes are what they have always been.
            let error = if route.path.starts_with("/api/sync/") { error } else { error.with_code() };
            error.into_response()
        }
    }
}

/// Finds out the sender, whom the trace then knows, and whether the right to use the route is theirs. A proof is not asked
/// for here.
///
/// # Errors
/// 401 with the reason, 403 for what only administrators may, 503 when the database does not answer.
pub(super) async fn authenticate(state: &AppState, parts: &Parts, trace: &Trace, access: Access) -> ApiResult<()> {
    // A header that is not text can't start with `Bearer `.
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = state.accounts.authenticate(header, || address::of(parts, &state.config.trusted_proxies)).await?;
    let user = trace.set_sender(user);
    if access.wants_admin() {
        state.accounts.require_admin(user).await?;
    }
    Ok(())
}
