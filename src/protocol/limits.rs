//! Bounds of the protocol (contract, section 15). Those an operator may change are configuration
//! (`crate::config::Limits`); the ones here are part of the wire contract.

/// Operations in one upload.
pub const MAX_OPS_PER_UPLOAD: usize = 100;
/// Declared entity ids of one operation.
pub const MAX_ENTITY_IDS: usize = 1000;
/// Entity ids that an invalid operation may still carry without failing the whole request.
pub const MAX_ENTITY_IDS_TRANSPORT: usize = 2000;
/// UTF-16 length of ids, action types, entity types and client ids.
pub const MAX_ID_LEN: usize = 255;
/// UTF-16 length that an invalid field may have without failing the whole request.
pub const MAX_TRANSPORT_LEN: usize = 4096;
/// UTF-16 length of a request id.
pub const MAX_REQUEST_ID_LEN: usize = 64;
/// Entries of a clock as stored.
pub const MAX_CLOCK_STORED: usize = 20;
/// Entries of a clock as accepted.
pub const MAX_CLOCK_ACCEPTED: usize = 50;
/// Largest counter of a clock; larger ones are stripped.
pub const MAX_CLOCK_COUNTER: u32 = 100_000_000;
/// Largest accepted schema version.
pub const MAX_SCHEMA_VERSION: u8 = 100;
/// Timestamps further ahead than this are clamped, in milliseconds.
pub const MAX_CLOCK_DRIFT_MS: i64 = 60_000;
/// Largest payload of one operation, in bytes of compact JSON.
pub const MAX_PAYLOAD_BYTES: usize = 20 * 1024 * 1024;
/// Depth and number of keys of a payload.
pub const MAX_PAYLOAD_DEPTH: usize = 20;
/// Keys plus array elements of a payload.
pub const MAX_PAYLOAD_KEYS: usize = 20_000;
/// Depth of a full state.
pub const MAX_FULL_STATE_DEPTH: usize = 50;
/// Keys plus array elements of a full state.
pub const MAX_FULL_STATE_KEYS: usize = 500_000;
/// Fewest decoded bytes of a ciphertext (12 nonce + 16 tag).
pub const MIN_CIPHERTEXT_BYTES: usize = 28;
/// Operations of others returned with an upload.
pub const PIGGYBACK_LIMIT: usize = 500;
/// Operations of a page when the client names no limit.
pub const DOWNLOAD_DEFAULT_LIMIT: usize = 500;
/// Most operations of a page.
pub const DOWNLOAD_MAX_LIMIT: usize = 1000;
/// Largest integer that JavaScript represents exactly.
pub const MAX_SAFE_INTEGER: i64 = (1 << 53) - 1;
/// Operations that the app takes in one download; with more it gives up (section 15).
pub const MAX_CLIENT_DOWNLOAD_OPS: usize = 50_000;
