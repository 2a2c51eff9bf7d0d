//! Rebuilding state from operations (contract, section 10): applying operations to a state, migrating old ones, and
//! checking that a range of the log is complete.
//!
//! Owns the meaning of an operation's payload, which nothing else in the server looks into. Promises that the result
//! depends on the operations alone, that nothing is applied in part without an error, and that the text of every value
//! it does not have to change stays as the client wrote it: numbers of any size, order of nested members; and that it
//! takes no more memory and work than its [`Limits`] say, whatever the operations hold. Does no I/O.
//!
//! Deltas write under upper-case entity types while full states use the app's own model names, so a rebuilt state is
//! only faithful where it was rebuilt at a full state; the app restores no other points.

mod migrate;
mod object;
mod replayer;
mod room;
mod spread;
mod state;
#[cfg(test)]
mod tests;
mod text;

use crate::protocol::Seq;

pub use replayer::{Limits, Rebuilt, Replayer};

/// The schema version that states are migrated to (contract, section 10.3).
pub const CURRENT_SCHEMA_VERSION: u8 = 4;

/// Why a state can't be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// An operation is end-to-end encrypted: only the user's devices can read it.
    #[error("operation {seq} is encrypted")]
    Encrypted {
        /// Its place in the log.
        seq: Seq,
    },
    /// An operation of a newer schema than this program knows: what it means is not known.
    #[error("operation {seq} is of schema {version}, newer than {CURRENT_SCHEMA_VERSION}")]
    NewerSchema {
        /// Its place in the log.
        seq: Seq,
        /// Its schema.
        version: u8,
    },
    /// A REPAIR that does not say which history it covers: what came before may have to be kept or dropped.
    #[error("operation {seq} is a repair without a base")]
    LegacyRepair {
        /// Its place in the log.
        seq: Seq,
    },
    /// The log misses operations.
    #[error("expected operation {expected}, found {}", .found.map_or_else(|| "the end".to_owned(), |seq| seq.to_string()))]
    Hole {
        /// The first missing sequence.
        expected: Seq,
        /// What came instead; `None` when the range ended early.
        found: Option<Seq>,
    },
    /// The operation lies beyond the replay's target.
    #[error("operation {found} lies beyond the target {target}")]
    BeyondTarget {
        /// Where the replay was to end.
        target: Seq,
        /// What came.
        found: Seq,
    },
    /// More operations than one replay may take.
    #[error("more than {max} operations")]
    TooManyOps {
        /// The bound.
        max: usize,
    },
    /// The state grew beyond its bound.
    #[error("state is larger than {max} bytes")]
    TooLarge {
        /// The bound, in bytes of compact JSON.
        max: usize,
    },
    /// A string that would have to be taken apart into more members than a state may have.
    #[error("operation {seq} would write too many members")]
    TooManyMembers {
        /// Its place in the log.
        seq: Seq,
    },
    /// A full state whose payload is no object. Applying it would wipe the state.
    #[error("full state {seq} is no object")]
    InvalidFullState {
        /// Its place in the log.
        seq: Seq,
    },
    /// A payload that is no JSON.
    #[error("payload of operation {seq} can't be read")]
    InvalidPayload {
        /// Its place in the log.
        seq: Seq,
    },
    /// The state has something other than an object where an operation writes its entities.
    #[error("state has no place for operation {seq}")]
    Misplaced {
        /// The operation's place in the log.
        seq: Seq,
    },
    /// A stored state that is no JSON object, or of a schema version this program does not know.
    #[error("stored state can't be read")]
    InvalidState,
    /// It would need more memory than one replay may take.
    #[error("it needs more memory than one replay may take")]
    OutOfMemory,
    /// It would be more work than one replay may be.
    #[error("it is more work than one replay may be")]
    TooMuchWork,
    /// It was told to give up.
    #[error("stopped")]
    Stopped,
}
