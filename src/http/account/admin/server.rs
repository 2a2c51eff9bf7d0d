//! What runs here.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use crate::http::encode;
use crate::http::error::ApiResult;
use crate::http::state::AppState;
use crate::telemetry::resident_bytes;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Facts {
    version: &'static str,
    uptime_seconds: u64,
    database: Database,
    accounts: i64,
    /// Accounts whose state is in memory.
    live_accounts: usize,
    sockets: usize,
    /// Linux only.
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Database {
    kind: &'static str,
    bytes: i64,
}

/// `GET /api/admin/server`.
pub async fn facts(State(state): State<AppState>) -> ApiResult {
    let found = state.accounts.database_facts().await?;
    let facts = Facts {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs(),
        database: Database { kind: state.store.kind(), bytes: found.bytes },
        accounts: found.accounts,
        live_accounts: state.engine.live_actors(),
        sockets: state.engine.notifier().sockets(),
        memory_bytes: resident_bytes(),
    };
    encode::private(StatusCode::OK, &facts)
}
