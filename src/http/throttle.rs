//! Rate limits per address, ahead of any expensive work (contract, section 2.4).

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse as _, Response};

use super::address::{self, Peer};
use super::body;
use super::class::Class;
use super::error::ApiError;
use super::limits::Verdict;
use super::observe;
use super::state::{AppState, Others};
use super::ws;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// What the request is counted under, and whose it is; `None`: it is not counted.
fn counted(state: &AppState, request: &Request) -> Option<(Class, IpAddr, Option<String>)> {
    let route = observe::trace(request.extensions(), state.config.timeouts.handler).route();
    let class = route.map_or(Some(Class::Other), |route| route.class)?;
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
pub async fn throttled(state: &AppState, request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let Some((class, client, client_id)) = counted(state, &request) else { return next(request).await };
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
    let Some(verdict) = verdict else { return next(request).await };
    let mut response = if verdict.allowed {
        next(request).await
    } else {
        let (parts, body) = request.into_parts();
        body::discard(&parts.headers, body).await;
        ApiError::too_many("Rate limit exceeded", &verdict.reset_text(), verdict.reset_seconds()).into_response()
    };
    describe(response.headers_mut(), &verdict);
    response
}
