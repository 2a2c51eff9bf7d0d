//! The HTTP face: extracts, limits, authenticates, decodes, calls the engine, encodes. No rule about data lives here.
//!
//! Order of work on a request: request id, time-out and log (`observe`) → security headers → cross-origin rules,
//! preflights included → rate limit per address → authentication, *before* the body is read (`admit`) → body under
//! caps → handler. Cross-origin rules stand before the rate limit so that the web app can read a refusal. What each step
//! needs to know of a route is in the table of routes ([`routes`]).

mod account;
pub mod address;
mod address_limit;
mod admit;
mod allowance;
mod answer;
mod archives;
mod base;
mod body;
mod call;
mod class;
mod codecs;
mod codes;
mod connection_limits;
mod cors;
mod counted;
mod encode;
mod error;
mod export;
mod fields;
mod headers;
mod health;
mod idle;
pub mod inflate;
mod limits;
mod meter;
mod observe;
mod openapi;
mod outgoing;
mod pace;
mod pages;
mod query;
mod registrant;
pub mod route;
pub mod routes;
mod sender;
mod serve;
mod state;
mod sync;
mod test_mode;
mod throttle;
mod ws;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

pub use health::waiting_router;
pub use serve::{serve, serve_few};
pub use state::AppState;

/// The whole server: every route, and what surrounds all of them.
pub fn router(state: AppState) -> Router {
    routes::router(state.config.test_mode)
        .fallback(body::not_found)
        .method_not_allowed_fallback(body::not_found)
        .layer(from_fn_with_state(state.clone(), surround))
        .with_state(state)
}

/// What surrounds every route, outermost first. One layer for all: each layer of the router costs a boxed service, a
/// boxed future and a move of request and answer.
async fn surround(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let state = &state;
    observe::observed(state, request, async |request| {
        let handled = async |request| next.run(request).await;
        let admitted = async |request| admit::admitted(state, request, handled).await;
        let inner = async |request| throttle::throttled(state, request, admitted).await;
        let shared = async |request| cors::shared(&state.cors, request, inner).await;
        headers::protected(&state.security, request, shared).await
    })
    .await
}
