//! Probes (operations, section 5). None is rate limited; none waits long.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use super::encode;
use super::state::AppState;

/// Their paths.
pub(super) const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];
/// A store answers its probe within two seconds; this is for one that does not keep its word.
const MAX_PROBE_TIME: Duration = Duration::from_secs(3);

/// The routes.
pub fn router() -> Router<AppState> {
    Router::new().route("/health", get(health)).route("/livez", get(alive)).route("/readyz", get(ready))
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
        let body = json!({ "status": "error", "db": "disconnected", "message": "Database not responsive" });
        encode::json(StatusCode::SERVICE_UNAVAILABLE, &body)
    }
}

/// The process runs. Says nothing about the database: restarting this process would not mend that.
async fn alive() -> Response {
    encode::json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// Requests are welcome: the database answers and stores data, and the server is not stopping.
async fn ready(State(state): State<AppState>) -> Response {
    let reason = if state.draining.is_cancelled() {
        "shutting down"
    } else if !database_answers(&state).await {
        "database not responsive"
    } else if state.engine.is_short_of_room() {
        "the disk is full: new data is refused"
    } else {
        return encode::json(StatusCode::OK, &json!({ "status": "ok" }));
    };
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "error", "message": reason }))
}
