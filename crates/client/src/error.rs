//! What can go wrong, named by the layer that gave up.

use std::time::Duration;

use tokio_tungstenite::tungstenite;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address can't be used.
    #[error("invalid server address: {0}")]
    Address(String),
    /// The HTTP client could not be set up.
    #[error("HTTP client: {0}")]
    Setup(#[source] reqwest::Error),
    /// No connection within [`super::Ladder::connect`].
    #[error("connect timeout: no connection to the server within {0:?}")]
    ConnectTimeout(Duration),
    /// No connection at all.
    #[error("unable to connect: {0}")]
    Connect(#[source] reqwest::Error),
    /// No complete answer within [`super::Ladder::request`].
    #[error("request timeout: no answer from the server within {0:?}")]
    RequestTimeout(Duration),
    /// The sync took longer than [`super::Ladder::sync_wait`].
    #[error("sync wait timeout: the sync did not finish within {0:?}")]
    SyncWaitTimeout(Duration),
    /// The connection broke.
    #[error("network error: {0}")]
    Network(#[source] reqwest::Error),
    /// The server reported that its own time was up (503 with "timeout").
    #[error("server timeout: HTTP 503 — {0}")]
    ServerTimeout(String),
    /// The server is overloaded or its database does not answer (any other 503 of its own).
    #[error("server busy: HTTP 503 — {0}")]
    ServerBusy(String),
    /// 502, 503 or 504 that did not come from the server.
    #[error("proxy timeout: HTTP {0} from a proxy, the server did not answer it")]
    Proxy(u16),
    /// 409: an `initial` snapshot where a full state exists, whose op id this is.
    #[error("SYNC_IMPORT_EXISTS: {0}")]
    ImportExists(String),
    /// Any other status.
    #[error("HTTP {status} — {message}")]
    Status {
        /// The status.
        status: u16,
        /// The body's `message` or else its `error`, at most 80 characters of it, as the app shows it.
        message: String,
    },
    /// A success whose body breaks the contract (section 14.2).
    #[error("invalid answer to {route}: {reason}")]
    InvalidAnswer {
        /// What was asked.
        route: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The WebSocket failed.
    #[error("WebSocket: {0}")]
    Socket(#[source] Box<tungstenite::Error>),
}

impl ClientError {
    /// Whether the network failed, so that nothing is known about what the server did.
    #[must_use]
    pub const fn is_network(&self) -> bool {
        matches!(self, Self::ConnectTimeout(_) | Self::Connect(_) | Self::RequestTimeout(_) | Self::Network(_))
    }
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        Self::Socket(Box::new(error))
    }
}
