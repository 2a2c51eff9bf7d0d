//! What can go wrong, named by the layer that gave up.

use std::time::Duration;

/// Who ran out of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// No connection came about.
    Connect,
    /// One request got no complete answer in time.
    Request,
    /// The sync as a whole took too long, although each request may have been in time.
    SyncWait,
    /// The server gave up and said so.
    Server,
    /// A proxy gave up waiting for the server.
    Proxy,
}

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
    /// 401 or 403: the app erases its token at the third one in a row.
    #[error("authentication failed: HTTP {status} — {message}")]
    Auth {
        /// 401 or 403.
        status: u16,
        /// The server's text.
        message: String,
    },
    /// 429.
    #[error("rate limited: {message}")]
    RateLimited {
        /// The server's text.
        message: String,
        /// What the text says about when to try again; the app reads nothing else.
        retry_in: Option<Duration>,
    },
    /// 413 because the account is full.
    #[error("storage quota exceeded: {used_bytes} of {quota_bytes} bytes")]
    QuotaExceeded {
        /// Bytes in use.
        used_bytes: i64,
        /// Bytes allowed.
        quota_bytes: i64,
    },
    /// 409: an `initial` snapshot where a full state exists.
    #[error("SYNC_IMPORT_EXISTS: {existing_import_id}")]
    ImportExists {
        /// The newest full state's op id.
        existing_import_id: String,
    },
    /// Any other status.
    #[error("HTTP {status} — {message}")]
    Status {
        /// The status.
        status: u16,
        /// The body's `error`, at most 80 characters of it, as the app shows it.
        message: String,
        /// The body's `errorCode`.
        code: Option<String>,
    },
    /// A success whose body breaks the contract (section 14.2).
    #[error("invalid answer to {route}: {reason}")]
    InvalidAnswer {
        /// What was asked.
        route: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The WebSocket failed.
    #[error("WebSocket: {0}")]
    Socket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
}

impl ClientError {
    /// Which layer of the ladder gave up, if it was a matter of time.
    #[must_use]
    pub const fn layer(&self) -> Option<Layer> {
        match self {
            Self::ConnectTimeout(_) => Some(Layer::Connect),
            Self::RequestTimeout(_) => Some(Layer::Request),
            Self::SyncWaitTimeout(_) => Some(Layer::SyncWait),
            Self::ServerTimeout(_) => Some(Layer::Server),
            Self::Proxy(_) => Some(Layer::Proxy),
            _ => None,
        }
    }

    /// Whether the network failed, so that nothing is known about what the server did.
    #[must_use]
    pub const fn is_network(&self) -> bool {
        matches!(self, Self::ConnectTimeout(_) | Self::Connect(_) | Self::RequestTimeout(_) | Self::Network(_))
    }
}

/// What `retry in N second(s)|minute(s)` in a text says. Hours are not understood by the app either.
#[must_use]
pub(super) fn retry_in(text: &str) -> Option<Duration> {
    let lower = text.to_lowercase();
    let mut words = lower.split_once("retry in ")?.1.split_whitespace();
    let count: u64 = words.next()?.parse().ok()?;
    match words.next()?.trim_end_matches(|c: char| !c.is_alphabetic()) {
        "second" | "seconds" => Some(Duration::from_secs(count)),
        "minute" | "minutes" => Some(Duration::from_secs(count.checked_mul(60)?)),
        _ => None,
    }
}
