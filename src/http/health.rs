//! Probes (operations, section 5). None is rate limited; none waits long.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::encode;
use super::error::ApiError;
use super::state::AppState;

/// Their paths.
pub(super) const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/readyz/reads"];
/// A store answers its probe within two seconds; this is for one that does not keep its word.
const MAX_PROBE_TIME: Duration = Duration::from_secs(3);

/// The routes.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/health", get(health))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .route("/readyz/reads", get(ready_for_reads))
}

/// What answers while the server waits for its database: the process lives, and nothing else works.
pub fn waiting_router() -> Router {
    let waiting = || async { ApiError::unavailable("database unavailable, please retry", "waiting for the database") };
    let not_ready = || async { not_ready("waiting for the database") };
    Router::new()
        .route("/livez", get(alive))
        .route("/health", get(|| async { unhealthy() }))
        .route("/readyz", get(not_ready))
        .route("/readyz/reads", get(not_ready))
        .fallback(waiting)
}

async fn database_answers(state: &AppState) -> bool {
    match tokio::time::timeout(MAX_PROBE_TIME, state.store.ping()).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the database does not answer the probe");
            false
        }
        Err(_) => {
            tracing::warn!(error = "timeout", "the database does not answer the probe");
            false
        }
    }
}

async fn health(State(state): State<AppState>) -> Response {
    if database_answers(&state).await {
        let sockets = state.engine.notifier().sockets();
        let mut body = json!({ "status": "ok", "db": "connected", "wsConnections": sockets });
        if state.config.test_mode {
            body["testMode"] = true.into();
        }
        encode::json(StatusCode::OK, &body)
    } else {
        unhealthy()
    }
}

fn unhealthy() -> Response {
    let body = json!({ "status": "error", "db": "disconnected", "message": "Database not responsive" });
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &body)
}

fn not_ready(reason: &str) -> Response {
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "error", "message": reason }))
}

/// The process runs. Says nothing about the database: restarting this process would not mend that.
async fn alive() -> Response {
    encode::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Every request is welcome: the database stores data and the server is not stopping.
async fn ready(State(state): State<AppState>) -> Response {
    if state.draining.is_cancelled() {
        return not_ready("shutting down");
    }
    if !database_answers(&state).await {
        return not_ready("database not responsive");
    }
    if state.engine.is_short_of_room() {
        return not_ready("the disk is full: new data is refused");
    }
    encode::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Requests that only read are welcome: they are answered from memory, even while the database can't be reached. For
/// balancers, which would otherwise turn away from every server at once.
async fn ready_for_reads(State(state): State<AppState>) -> Response {
    if state.draining.is_cancelled() {
        return not_ready("shutting down");
    }
    if state.engine.trusts_memory() || database_answers(&state).await {
        return encode::json(StatusCode::OK, &json!({ "status": "ok" }));
    }
    not_ready("database not responsive")
}
