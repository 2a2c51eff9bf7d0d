//! Log lines, on standard error: standard output belongs to what a command prints as its result.

use std::io::{self, IsTerminal};

use opentelemetry_otlp::ExporterBuildError;
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use super::traces::Traces;
use crate::config::{Config, LogFormat, OPERATOR};

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configured filter is none.
    #[error("LOG_LEVEL is no valid filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Spans can't be sent there.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT can't be used: {0}")]
    Traces(#[from] ExporterBuildError),
    /// It was set up before.
    #[error("logging can't be set up twice")]
    Twice,
}

/// Sends every log line of the process to standard error in the configured format. Once per process.
///
/// # Errors
/// See [`LogError`].
pub fn init_logs(config: &Config) -> Result<(), LogError> {
    let filter = filter(config)?;
    // The filter stands before everything: what nobody wants costs nothing.
    tracing_subscriber::registry().with(filter).with(lines(config)).try_init().map_err(|_| LogError::Twice)
}

/// The same, and spans to the collector if there is one. Within a tokio runtime.
///
/// # Errors
/// See [`LogError`].
pub fn init_logs_and_traces(config: &Config) -> Result<Option<Traces>, LogError> {
    let Some(export) = &config.traces else {
        return init_logs(config).map(|()| None);
    };
    let filter = filter(config)?;
    let traces = Traces::new(export)?;
    let subscriber = tracing_subscriber::registry().with(traces.layer()).with(lines(config).with_filter(filter));
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(Some(traces))
}

fn filter(config: &Config) -> Result<EnvFilter, LogError> {
    Ok(EnvFilter::try_new(format!("{},{OPERATOR}=info", config.log_filter))?)
}

fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(config: &Config) -> Box<dyn Layer<S> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match config.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}
