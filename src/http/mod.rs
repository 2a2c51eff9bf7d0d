//! The HTTP face: extracts, limits, authenticates, decodes, calls the engine, encodes. No rule about data lives here.
//!
//! Order of work on a request: request id, time-out and log ([`observe`]) → security headers → cross-origin rules →
//! rate limit per address → authentication, *before* the body is read → body under caps → handler.

pub mod account;
pub mod address;
pub mod body;
pub mod cors;
pub mod encode;
pub mod error;
pub mod headers;
pub mod inflate;
pub mod limits;
pub mod route;
pub mod state;

pub use error::{ApiError, ApiResult};
pub use state::AppState;
