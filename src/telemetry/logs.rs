//! Log lines, on standard error: standard output belongs to what a command prints as its result.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configured filter is none.
    #[error("LOG_LEVEL is no valid filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// It was set up before.
    #[error("logging can't be set up twice")]
    Twice,
}

/// Sends every log line of the process to standard error in the configured format. Once per process.
///
/// # Errors
/// See [`LogError`].
pub fn init_logs(config: &Config) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.log_filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    }
    .map_err(|_| LogError::Twice)
}
