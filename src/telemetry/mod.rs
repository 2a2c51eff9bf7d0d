//! What the server tells its operator: log lines, metrics and traces. Owns where they go and how they look; what is told is
//! decided where it happens, with the macros of `tracing` and `metrics`.
//!
//! Never in a log line or a label: tokens, e-mail addresses, payloads, query strings. Fields and metrics are listed in
//! `docs/observability.md`.

pub mod catalogue;
mod logs;
pub mod metrics;
mod process;
pub mod recent;
mod traces;
pub mod view;

pub use logs::{LogError, init_logs, init_logs_and_traces};
pub use process::resident_bytes;
pub use traces::Traces;
