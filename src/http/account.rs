//! Account routes; filled in by the accounts work.

use axum::Router;

use super::state::AppState;

/// The account routes.
pub fn router(_state: AppState) -> Router<AppState> {
    Router::new()
}
