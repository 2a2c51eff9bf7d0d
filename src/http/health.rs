//! Probes (operations, section 5). None is rate limited; none waits long. Members are in alphabetical order.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Serialize;
use utoipa::ToSchema;

use super::codes;
use super::encode::{self, Answer};
use super::error::{ApiError, ApiResult};
use super::state::AppState;

/// Their paths.
pub(super) const PROBES: [&str; 4] = ["/health", "/livez", "/readyz", "/readyz/reads"];
/// A store answers its probe within two seconds; this is for one that does not keep its word.
const MAX_PROBE_TIME: Duration = Duration::from_secs(3);

/// What a probe says.
#[derive(Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    #[serde(skip_serializing_if = "Option::is_none")]
    db: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    status: &'static str,
    #[schema(required = false)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test_mode: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ws_connections: Option<usize>,
}

/// What answers while the server waits for its database: the process lives, and nothing else works.
pub fn waiting_router() -> Router {
    let waiting = || async { ApiError::from(codes::DATABASE_UNAVAILABLE).detail("waiting for the database") };
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

pub async fn health(State(state): State<AppState>) -> ApiResult<Answer<Health>> {
    if database_answers(&state).await {
        let sockets = state.engine.notifier().sockets();
        encode::ok(&Health {
            db: Some("connected"),
            test_mode: state.config.test_mode,
            ws_connections: Some(sockets),
            ..ok()
        })
    } else {
        unhealthy()
    }
}

fn ok() -> Health {
    Health { status: "ok", ..Health::default() }
}

fn unhealthy() -> ApiResult<Answer<Health>> {
    let message = Some("Database not responsive");
    let body = Health { db: Some("disconnected"), message, status: "error", ..Health::default() };
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &body).map(Answer::written)
}

fn not_ready(reason: &'static str) -> ApiResult<Answer<Health>> {
    let body = Health { message: Some(reason), status: "error", ..Health::default() };
    encode::json(StatusCode::SERVICE_UNAVAILABLE, &body).map(Answer::written)
}

/// The process runs. Says nothing about the database: restarting this process would not mend that.
pub async fn alive() -> ApiResult<Answer<Health>> {
    encode::ok(&ok())
}

/// Every request is welcome: the database stores data and the server is not stopping.
pub async fn ready(State(state): State<AppState>) -> ApiResult<Answer<Health>> {
    if state.draining.is_cancelled() {
        return not_ready("shutting down");
    }
    if !database_answers(&state).await {
        return not_ready("database not responsive");
    }
    if state.engine.is_short_of_room() {
        return not_ready("the disk is full: new data is refused");
    }
    encode::ok(&ok())
}

/// Requests that only read are welcome: they are answered from memory, even while the database can't be reached. For
/// balancers, which would otherwise turn away from every server at once.
pub async fn ready_for_reads(State(state): State<AppState>) -> ApiResult<Answer<Health>> {
    if state.draining.is_cancelled() {
        return not_ready("shutting down");
    }
    if state.engine.trusts_memory() || database_answers(&state).await {
        return encode::ok(&ok());
    }
    not_ready("database not responsive")
}
