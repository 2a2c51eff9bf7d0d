//! Why a run of the benchmark ends early.

use std::io;

use thiserror::Error;

use crate::accounts::ManageError;
use crate::client::ClientError;
use crate::config::ConfigErrors;
use crate::store::StoreError;

/// Why a run ends early. A failed check is no such reason: it is part of the report.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The options contradict each other or this place can't do what they ask for.
    #[error("{0}")]
    Options(String),
    /// A file, a process or a socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What happened.
        source: io::Error,
    },
    /// The server under load gave an answer that the load did not expect.
    #[error("unexpected answer: {0}")]
    Answer(String),
    /// The reference client failed.
    #[error("reference client: {0}")]
    Client(#[from] ClientError),
    /// The scratch database could not be prepared.
    #[error("scratch database: {0}")]
    Store(#[from] StoreError),
    /// The scratch database could not be created, measured or dropped.
    #[error("scratch database: {0}")]
    Database(#[from] sqlx::Error),
    /// A raw load on the embedded database failed.
    #[error("embedded database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The capacity plan could not be made.
    #[error(transparent)]
    Plan(#[from] super::plan::PlanError),
    /// The settings of the server under load are not valid.
    #[error("settings of the server under load: {0}")]
    Config(#[from] ConfigErrors),
    /// An account could not be prepared.
    #[error("account: {0}")]
    Account(#[from] ManageError),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// The run is complete, and some of its checks failed.
    #[error("failed: {}", .0.join("; "))]
    Checks(Vec<String>),
}

impl BenchError {
    /// Says what was being done when a file, a process or a socket failed.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// An answer that the load did not expect. At most the first 300 bytes of it are shown.
    #[must_use]
    pub fn answer(what: &str, body: &[u8]) -> Self {
        let shown = &body[..body.len().min(300)];
        Self::Answer(format!("{what}: {}", String::from_utf8_lossy(shown)))
    }
}

/// The result of anything that may end a run.
pub type Result<T, E = BenchError> = std::result::Result<T, E>;
