//! Rate limits per address, ahead of any expensive work (contract, section 2.4).

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::address::{self, Peer};
use super::body;
use super::error::ApiError;
use super::limits::Verdict;
use super::route::{self, Class};
use super::state::{AppState, Others};
use super::ws;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What the request is counted under, and whose it is; `None`: it is not counted.
fn counted(state: &AppState, request: &Request) -> Option<(Class, IpAddr, Option<String>)> {
    let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let class = route::class(request.method(), template)?;
    // A request that came through no socket comes from this process.
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0);
    let client = address::client(request.headers(), peer, &state.config.trusted_proxies);
    let client_id = (class == Class::Socket).then(|| ws::client_id(request.uri().query())).flatten();
    Some((class, client, client_id))
}

fn describe(headers: &mut HeaderMap, verdict: &Verdict) {
    headers.insert(LIMIT, verdict.limit.into());
    headers.insert(REMAINING, verdict.remaining.into());
    headers.insert(RESET, verdict.reset_seconds().into());
}

/// Counts the request, and refuses it beyond the limit.
pub async fn throttled(state: &AppState, request: Request, next: Next) -> Response {
    let Some((class, client, client_id)) = counted(state, &request) else { return next.run(request).await };
    // Pages need no database.
    if request.uri().path().starts_with("/api/")
        && let Err(error) = state.engine.check_reachable()
    {
        let (parts, body) = request.into_parts();
        body::discard(&parts.headers, body).await;
        return ApiError::from(error).into_response();
    }
    let others = Others { store: state.store.as_ref(), processes: state.engine.processes() };
    let verdict = state.limiters.count(class, client, client_id, state.clock.now_ms(), others).await;
    let Some(verdict) = verdict else { return next.run(request).await };
    let mut response = if verdict.allowed {
        next.run(request).await
    } else {
        let (parts, body) = request.into_parts();
        body::discard(&parts.headers, body).await;
        // Clients parse this text, not the header.
        let message = format!("Rate limit exceeded, retry in {}", verdict.reset_text());
        ApiError::framework(StatusCode::TOO_MANY_REQUESTS, message, None)
            .retry_after(verdict.reset_seconds())
            .into_response()
    };
    describe(response.headers_mut(), &verdict);
    response
}
