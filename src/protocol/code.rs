//! Error codes that clients read (contract, section 16).

/// Why an operation or a request was refused, as the client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the documentation; section 16.2 of the contract explains each
pub enum ErrorCode {
    InvalidClientId,
    InvalidOpId,
    InvalidOpType,
    InvalidEntityType,
    InvalidEntityId,
    MissingEntityId,
    InvalidPayload,
    PayloadTooLarge,
    InvalidVectorClock,
    InvalidTimestamp,
    InvalidSchemaVersion,
    DuplicateOperation,
    ConflictConcurrent,
    /// The older word for [`ErrorCode::ConflictSuperseded`], for clients that send no request id.
    ConflictStale,
    ConflictSuperseded,
    RepairStale,
    InternalError,
    E2eeRequired,
    EncryptedOpsNotSupported,
    SyncImportExists,
    StorageQuotaExceeded,
    RateLimited,
    /// Ours: no such archived data set.
    ArchiveNotFound,
    /// Ours: the archived data set can't be brought back.
    ArchiveNotRestorable,
    /// Ours: another archived data set is being brought back.
    BringBackRunning,
    /// Ours: the data set was replaced while an archived one was being brought back.
    DataSetChanged,
    /// Ours: what a state was made of is not in the data set any more.
    RestorePointGone,
    /// Ours: a state, or what it takes to rebuild it, is beyond the server's bounds.
    StateTooLarge,
    /// Ours: the operations can't be replayed.
    StateNotReplayable,
    /// Ours: a state, or an operation after it, is of a newer schema than the server knows.
    StateSchemaTooNew,
}

impl ErrorCode {
    /// The code's text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidClientId => "INVALID_CLIENT_ID",
            Self::InvalidOpId => "INVALID_OP_ID",
            Self::InvalidOpType => "INVALID_OP_TYPE",
            Self::InvalidEntityType => "INVALID_ENTITY_TYPE",
            Self::InvalidEntityId => "INVALID_ENTITY_ID",
            Self::MissingEntityId => "MISSING_ENTITY_ID",
            Self::InvalidPayload => "INVALID_PAYLOAD",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::InvalidVectorClock => "INVALID_VECTOR_CLOCK",
            Self::InvalidTimestamp => "INVALID_TIMESTAMP",
            Self::InvalidSchemaVersion => "INVALID_SCHEMA_VERSION",
            Self::DuplicateOperation => "DUPLICATE_OPERATION",
            Self::ConflictConcurrent => "CONFLICT_CONCURRENT",
            Self::ConflictStale => "CONFLICT_STALE",
            Self::ConflictSuperseded => "CONFLICT_SUPERSEDED",
            Self::RepairStale => "REPAIR_STALE",
            Self::InternalError => "INTERNAL_ERROR",
            Self::E2eeRequired => "E2EE_REQUIRED",
            Self::EncryptedOpsNotSupported => "ENCRYPTED_OPS_NOT_SUPPORTED",
            Self::SyncImportExists => "SYNC_IMPORT_EXISTS",
            Self::StorageQuotaExceeded => "STORAGE_QUOTA_EXCEEDED",
            Self::RateLimited => "RATE_LIMITED",
            Self::ArchiveNotFound => "ARCHIVE_NOT_FOUND",
            Self::ArchiveNotRestorable => "ARCHIVE_NOT_RESTORABLE",
            Self::BringBackRunning => "BRING_BACK_RUNNING",
            Self::DataSetChanged => "DATA_SET_CHANGED",
            Self::RestorePointGone => "RESTORE_POINT_GONE",
            Self::StateTooLarge => "STATE_TOO_LARGE",
            Self::StateNotReplayable => "STATE_NOT_REPLAYABLE",
            Self::StateSchemaTooNew => "STATE_SCHEMA_TOO_NEW",
        }
    }
}
