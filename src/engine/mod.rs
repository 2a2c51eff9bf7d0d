//! The sync engine: one supervised actor per active account owns that account's writes. Everything else in the process
//! sees only [`Handle`]; actor references and channels never leave this module.

mod admission;
pub mod archive;
mod committer;
mod devices;
mod download;
pub mod forecast;
mod handle;
pub mod invariants;
pub mod notifier;
mod options;
mod peers;
mod reclaimer;
pub mod recount;
mod registry;
mod replays;
mod restore;
pub mod retention;
pub mod sealer;
mod single_flight;
pub mod sweeper;
mod tidier;
mod touches;
mod user;
mod view;

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::protocol::response::{OpResult, OutgoingOp, Rejection};
use crate::protocol::{Seq, VectorClock};
use crate::store::StoreError;

pub use handle::Handle;
pub use options::Options;

/// Why the engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such account (any more).
    #[error("no such account")]
    NoAccount,
    /// Too much is waiting already; not applied. Retry after the given time.
    #[error("server busy, please retry")]
    Busy,
    /// The request's time was up; if it was an upload it may have been applied.
    #[error("request timeout, please retry")]
    Deadline,
    /// There is too little room on the database's disk for new data; not applied.
    #[error("the server's disk is full, please retry later")]
    DiskFull,
    /// The account's actor keeps failing and is kept stopped for a while; not applied.
    #[error("account temporarily unavailable, please retry")]
    Quarantined,
    /// The database does not answer; not applied.
    #[error("database unavailable, please retry")]
    Unavailable,
    /// Something that should not happen; not applied, or not known to be.
    #[error("internal error: {0}")]
    Internal(String),
}

/// The work's result, or [`EngineError::Deadline`].
async fn within<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, EngineError> {
    timeout_at(deadline, work).await.map_err(|_| EngineError::Deadline)
}

/// The quota is used up (contract, section 11.2).
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct QuotaExceeded {
    pub used_bytes: i64,
    pub quota_bytes: i64,
    /// `Some` when room was made, in vain.
    pub cleanup: Option<CleanupStats>,
}

/// What making room freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct CleanupStats {
    pub freed_bytes: i64,
    pub deleted_restore_points: i64,
    pub deleted_ops: i64,
}

/// The answer to an upload.
#[derive(Clone, Debug)]
pub enum UploadReply {
    /// One result per operation.
    Done(UploadDone),
    /// Nothing was stored.
    QuotaExceeded(QuotaExceeded),
    /// Nothing was stored: an operation is not encrypted, and here every one has to be (contract, sections 5.3, 17.18).
    EncryptionRequired,
}

/// What became of an upload (contract, section 5.11).
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct UploadDone {
    pub results: Vec<OpResult>,
    /// Answered from the request cache.
    pub deduplicated: bool,
    /// Operations of others since the client's cursor; empty without a cursor.
    pub new_ops: Vec<OutgoingOp>,
    pub has_more_piggyback: bool,
    pub latest_seq: Seq,
}

/// The answer to a snapshot upload (contract, section 7.2).
#[derive(Clone, Debug)]
pub enum SnapshotReply {
    /// Stored, now or before.
    Accepted {
        /// Its place in the log.
        seq: Seq,
        /// Whether this request started a new data set: per-user counters outside the engine start over.
        clean_slate: bool,
    },
    /// Refused.
    Rejected(Rejection),
    /// An `initial` upload where a full state exists already: 409.
    ImportExists {
        /// The newest full state's op id.
        existing_import_id: String,
    },
    /// Nothing was stored.
    QuotaExceeded(QuotaExceeded),
    /// Nothing was stored: see [`UploadReply::EncryptionRequired`].
    EncryptionRequired,
}

/// A page of operations (contract, section 6).
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct DownloadReply {
    pub ops: Vec<OutgoingOp>,
    pub has_more: bool,
    pub latest_seq: Seq,
    pub gap_detected: bool,
    pub snapshot_vector_clock: Option<VectorClock>,
    /// The newest causal full state, for older clients.
    pub latest_snapshot_seq: Option<Seq>,
}

/// `GET /api/sync/status`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Status {
    pub latest_seq: Seq,
    pub devices_online: usize,
    /// When the cached state was made, Unix milliseconds.
    pub snapshot_at: Option<i64>,
    pub storage_used_bytes: i64,
    pub storage_quota_bytes: i64,
}

/// A rebuilt state.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Restored {
    /// Compact JSON, in pieces that follow each other.
    pub state: Arc<[Bytes]>,
    pub server_seq: Seq,
    /// Unix milliseconds.
    pub generated_at: i64,
    pub schema_version: u8,
}

impl Restored {
    /// The state's length.
    #[must_use]
    pub fn state_len(&self) -> usize {
        self.state.iter().map(Bytes::len).sum()
    }
}

/// Why a state could not be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The sequence is beyond the data set's end: 400.
    #[error("sequence is beyond the latest operation")]
    BeyondLatest,
    /// Encrypted operations stand in the way: 400.
    #[error("operations are end-to-end encrypted")]
    Encrypted,
    /// Operations of a newer schema than the server knows stand in the way: 400.
    #[error("operations are of a newer schema")]
    NewerSchema,
    /// What the state was made of is not in the data set any more: 400.
    #[error("the operations before it are gone")]
    Gone,
    /// The state, or what it takes to rebuild it, is beyond the bounds of a replay: 400.
    #[error("too large to rebuild: {0}")]
    TooLarge(String),
    /// The operations can't be replayed: a legacy REPAIR, a full state that is none: 400.
    #[error("not replayable: {0}")]
    NotReplayable(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The store's trouble as the engine's callers see it.
#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn store_trouble(error: StoreError) -> EngineError {
    match error {
        StoreError::Full(_) => {
            tracing::warn!(%error, "database disk full");
            EngineError::DiskFull
        }
        StoreError::Unavailable(_) | StoreError::Timeout(_) | StoreError::Unknown(_) | StoreError::Refused(_) => {
            tracing::warn!(%error, "database unavailable");
            EngineError::Unavailable
        }
        StoreError::Corrupt(_) | StoreError::Internal(_) => {
            tracing::error!(%error, "database error");
            EngineError::Internal(error.to_string())
        }
    }
}
