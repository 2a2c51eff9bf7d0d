//! What runs here.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::json;

use super::sender;
use crate::http::account::no_store;
use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::state::AppState;
use crate::telemetry::resident_bytes;

/// `GET /api/admin/server`.
pub(super) async fn facts(State(state): State<AppState>, parts: Parts) -> ApiResult {
    sender(&state, &parts).await?;
    let database = state.accounts.database_facts().await?;
    let body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": state.started.elapsed().as_secs(),
        "database": { "kind": state.store.kind(), "bytes": database.bytes },
        "accounts": database.accounts,
        "liveAccounts": state.engine.live_actors(),
        "sockets": state.engine.notifier().sockets(),
        // Linux only.
        "memoryBytes": resident_bytes(),
    });
    Ok(no_store(encode::json(StatusCode::OK, &body)))
}
