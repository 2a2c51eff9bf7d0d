//! What runs here.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::encode::{self, Answer};
use crate::http::error::ApiResult;
use crate::http::state::AppState;
use crate::telemetry::resident_bytes;

/// The running server.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerFacts {
    version: &'static str,
    uptime_seconds: u64,
    database: DatabaseFacts,
    accounts: i64,
    /// Accounts whose state is in memory.
    live_accounts: usize,
    sockets: usize,
    /// Linux only.
    memory_bytes: Option<u64>,
}

/// The database of a server.
#[derive(Serialize, ToSchema)]
struct DatabaseFacts {
    kind: &'static str,
    bytes: i64,
}

pub async fn facts(State(state): State<AppState>) -> ApiResult<Answer<ServerFacts>> {
    let found = state.accounts.database_facts().await?;
    let facts = ServerFacts {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: state.started.elapsed().as_secs(),
        database: DatabaseFacts { kind: state.store.kind(), bytes: found.bytes },
        accounts: found.accounts,
        live_accounts: state.engine.live_actors(),
        sockets: state.engine.notifier().sockets(),
        memory_bytes: resident_bytes(),
    };
    encode::private(&facts)
}
